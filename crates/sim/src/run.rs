//! Runs many seeds, on as many threads as wanted, and gathers one report.
use crate::dice::mix;
use crate::guard::{caught, guarded};
use crate::plan::{Fault, Faults, Profile};
use crate::report::{Failure, Report, Run};
use crate::shrink::shrink;
use crate::tape::Choices;
use crate::world::{self, Setup};
use stateplane_group::{GroupConfig, Mutation};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many seeds.
    pub seeds: u64,
    /// The first of them.
    pub from: u64,
    /// Which mix of faults.
    pub profile: Profile,
    /// Fault classes to leave out.
    pub off: Faults,
    /// Threads to use; 0 means as many as there are processors.
    pub threads: usize,
    /// Stop after this many failures.
    pub max_failures: usize,
    /// Look for a smaller set of faults that still breaks the rule.
    pub shrink: bool,
    /// A rule of the protocol to break on purpose. Only builds with the feature
    /// `mutations` of `stateplane-group` can, which this crate's tests are.
    pub mutation: Option<Mutation>,
    /// The choices that take effect, if not all: a shrunk failure.
    pub keep: Option<Arc<Choices>>,
    /// The simulator lies to itself about one answer in every seed: each must fail.
    pub canary: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seeds: 1_000,
            from: 0,
            profile: Profile::Mixed,
            off: Faults::default(),
            threads: 0,
            max_failures: 20,
            shrink: true,
            mutation: None,
            keep: None,
            canary: false,
        }
    }
}

/// The longest that shrinking the first failure may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Seeds finished.
    pub done: u64,
    /// Seeds asked for.
    pub seeds: u64,
    /// Seeds failed.
    pub failed: u64,
}

/// Runs the seeds and tells `progress` after each of them.
///
/// # Panics
/// If a rule is to be broken and this build cannot break any.
pub fn run(options: &Options, mut progress: impl FnMut(Progress)) -> Report {
    if let Some(mutation) = options.mutation {
        let able = GroupConfig::new(3).breaking(mutation).is_some();
        assert!(able, "built without the feature `mutations`");
    }
    let started = Instant::now();
    let mut report = Report::default();
    let mut broken: BTreeMap<u64, String> = BTreeMap::new();
    each(options, |seed, (run, repeated)| {
        report.add(seed, &run);
        report.repeated += u64::from(repeated);
        if let Some(what) = run.broken {
            broken.insert(seed, what);
        }
        progress(Progress {
            done: report.seeds,
            seeds: options.seeds,
            failed: broken.len() as u64,
        });
        broken.len() < options.max_failures
    });
    // The first gets most of the time: others are often the same bug.
    let patience = |i| if i == 0 { PATIENCE } else { PATIENCE / 30 };
    let describe = |(i, (seed, what))| failure(options, seed, what, patience(i));
    report.failed = broken.into_iter().enumerate().map(describe).collect();
    report.wall_s = started.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let seeds = report.seeds as f64;
    report.seeds_per_s = seeds / report.wall_s.max(1e-9);
    report
}

/// Runs each seed, and hands over what came of it, until that answers that it is enough.
fn each(options: &Options, mut take: impl FnMut(u64, (Run, bool)) -> bool) {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let turn = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let seed = options.from.wrapping_add(index);
        let more = index < options.seeds && !stop.load(Ordering::Relaxed);
        more.then(|| (seed, one(options, seed)))
    };
    let threads = threads(options);
    if threads == 1 {
        // Nobody to talk to: no processor goes from one thread to another for each seed.
        while turn().is_some_and(|(seed, ran)| take(seed, ran)) {}
        return;
    }
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, turn) = (sender.clone(), &turn);
            scope.spawn(move || while turn().is_some_and(|ran| sender.send(ran).is_ok()) {});
        }
        drop(sender);
        for (seed, ran) in results {
            stop.fetch_or(!take(seed, ran), Ordering::Relaxed);
        }
    });
}

fn threads(options: &Options) -> usize {
    let wanted = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    };
    wanted.min(usize::try_from(options.seeds).unwrap_or(usize::MAX))
}

/// Runs one seed, and every twentieth a second time: both runs must be equal
/// to the last delivered byte, or no failure could be replayed.
fn one(options: &Options, seed: u64) -> (Run, bool) {
    let mut run = guarded(&setup(options, seed, options.off));
    let repeat = mix(seed).is_multiple_of(20);
    if repeat && run.broken.is_none() {
        let again = guarded(&setup(options, seed, options.off));
        if again != run {
            run.broken = Some("determinism: the same seed ran differently twice".to_owned());
        }
    }
    (run, repeat)
}

fn setup(options: &Options, seed: u64, off: Faults) -> Setup {
    Setup {
        seed,
        profile: options.profile,
        off,
        mutation: options.mutation,
        keep: options.keep.clone(),
        canary: options.canary,
    }
}

/// Shows one seed's run, line by line.
pub fn trace(seed: u64, profile: Profile) -> Vec<String> {
    let setup = Setup::plain(seed, profile);
    trace_of(&setup)
}

/// The same with fault classes left out or a rule broken on purpose.
pub fn trace_with(options: &Options, seed: u64) -> Vec<String> {
    trace_of(&setup(options, seed, options.off))
}

fn trace_of(setup: &Setup) -> Vec<String> {
    let lines = RefCell::new(Vec::new());
    let run = caught(|| world::run(setup, Some(&lines)));
    let mut lines = lines.into_inner();
    lines.push(match run.broken {
        Some(what) => format!("BROKEN {what}"),
        None => "passed".to_owned(),
    });
    lines
}

/// Describes a failure, with what it needs.
fn failure(options: &Options, seed: u64, what: String, patience: Duration) -> Failure {
    let whole = setup(options, seed, options.off);
    let small = match options.shrink {
        true => shrink(&whole, &what, patience),
        false => whole,
    };
    let mut replay = format!(
        "stateplane sim --seeds 1 --from {seed} --profile {} --trace",
        options.profile
    );
    if small.off != Faults::default() {
        let names: Vec<_> = small.off.iter().map(Fault::name).collect();
        replay += &format!(" --off {}", names.join(","));
    }
    if let Some(keep) = &small.keep {
        replay += &format!(" --keep {keep}");
    }
    let needs = world::plan(&small).faults;
    Failure {
        seed,
        profile: options.profile.to_string(),
        what,
        needs: needs.iter().map(|f| f.name().to_owned()).collect(),
        choices: small.keep.as_ref().map(|keep| keep.len()),
        replay,
    }
}
