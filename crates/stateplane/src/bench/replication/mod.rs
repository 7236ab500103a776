//! `stateplane bench replication`: what it costs to keep three copies, by the network's
//! order, by the leader's, and by the peers.
//!
//! * `systems`: what is compared; `group`, `redis`, `etcd`: how each is run and loaded;
//!   `network`: the group's namespaces where the sequencer may be a program on an interface
//! * `measure`, `peer`: children and what they use; what a closed loop yields
//! * `ratios`, `report`, `plot`: what is wanted; medians, table, picture

mod etcd;
mod group;
mod measure;
mod network;
mod peer;
mod plot;
mod ratios;
mod redis;
mod report;
mod systems;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use stateplane_host::priority;

use super::{Place, goals};
use measure::{Sample, Spans};
use report::{Case, Placement, Report, Results};
use systems::{Running, System};

/// Options of `bench replication`.
#[derive(Debug, Args)]
pub(crate) struct ReplicationArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Operations outstanding.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128])]
    outstanding: Vec<usize>,
    /// Only these systems.
    #[arg(long, value_delimiter = ',', value_parser = System::named)]
    only: Vec<System>,
    /// One short round, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Draw throughput over concurrency into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// How often a measurement is taken until the leader stays.
const ATTEMPTS: u32 = 3;
/// The loss whose cost is measured.
const LOSE_ONE_IN: u32 = 100;
/// Outstanding operations where the leader is the bottleneck: enough that it never waits, and
/// few enough that none is repeated because it waits too long.
const BOUNDED_OUTSTANDING: usize = 512;
const BOUNDED_SINGLE_OUTSTANDING: usize = 128;
/// Outstanding operations where everything shares a processor.
const ONE_CORE_OUTSTANDING: usize = 32;

/// Measures and prints.
pub(super) fn run(args: &ReplicationArgs) -> Result<()> {
    let place = Place::choose()?;
    let spans = if args.quick {
        Spans {
            warm: Duration::from_millis(100),
            counted: Duration::from_millis(200),
        }
    } else {
        let counted = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
        let warm = counted / 4;
        Spans { warm, counted }
    };
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let outstanding = match args.quick {
        true => vec![8],
        false => args
            .outstanding
            .iter()
            .map(|n| (*n).clamp(1, 512))
            .collect(),
    };
    let mut bench = Bench {
        place,
        spans,
        outstanding,
        results: Results::default(),
    };
    for round in 1..=rounds {
        let wanted = |s: &System| args.only.is_empty() || args.only.contains(s);
        for system in System::ALL.into_iter().filter(wanted) {
            eprintln!("round {round}/{rounds}: {}", system.name());
            bench.measure(system, None)?;
        }
        if wanted(&System::Nopaxos) {
            eprintln!("round {round}/{rounds}: nopaxos, 1 % of datagrams lost");
            bench.measure(System::Nopaxos, Some(LOSE_ONE_IN))?;
        }
    }
    let report = Report::new(&bench.results, place)?;
    if let Some(path) = &args.plot {
        plot::draw(&report, path)?;
    }
    goals::show(&report, args.json, Report::print)
}

struct Bench {
    place: Place,
    spans: Spans,
    outstanding: Vec<usize>,
    results: Results,
}

impl Bench {
    /// One system, one round. One that needs more than this machine has is left out, with its
    /// reason.
    fn measure(&mut self, system: System, lose_one_in: Option<u32>) -> Result<()> {
        let dir = tempfile::tempdir()?;
        // The load and everything it starts work with the others.
        priority::pin_to(self.place.generator).context("cannot choose a processor")?;
        let mut running = match system.start(lose_one_in, dir.path()) {
            Ok(running) => running,
            Err(error) if system.is_optional() => {
                self.results.missing.insert(system, format!("{error:#}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let most = self.outstanding.iter().copied().max().unwrap_or(1);
        let case = |placement, outstanding| Case {
            placement,
            outstanding,
            system,
            lose_one_in,
        };
        let lossless = lose_one_in.is_none();
        if lossless && system.is_bounded_too() {
            let n = match system.is_single() {
                true => BOUNDED_SINGLE_OUTSTANDING,
                false => BOUNDED_OUTSTANDING,
            };
            self.sample(&mut running, case(Placement::LeaderBounded, n))?;
        }
        for n in self.outstanding.clone() {
            if lossless && !system.is_single() || n == most {
                self.sample(&mut running, case(Placement::LeaderAlone, n))?;
            }
        }
        if lossless {
            let n = most.min(ONE_CORE_OUTSTANDING);
            self.sample(&mut running, case(Placement::OneCore, n))?;
        }
        running.stop()
    }

    /// One measurement under one leader: where it changed meanwhile, once more.
    fn sample(&mut self, running: &mut Running, case: Case) -> Result<()> {
        for _ in 0..ATTEMPTS {
            running.find_leader()?;
            self.pin(running, case.placement)?;
            let bounded = case.placement == Placement::LeaderBounded;
            let quota = match bounded.then(|| running.bound_leader()).transpose() {
                Ok(quota) => quota,
                Err(error) => {
                    self.results.unbounded = Some(format!("{error:#}"));
                    return Ok(());
                }
            };
            let view = running.view();
            let sample = running
                .load(case.outstanding, self.spans)
                .with_context(|| format!("measuring {}", case.system.name()))?;
            drop(quota);
            let kept = view.is_some() && running.view() == view;
            progress(&case, &sample, kept);
            if kept {
                let leader = running.leader().to_owned();
                let samples = self.results.samples.entry(case).or_default();
                samples.push((leader, sample));
                return Ok(());
            }
        }
        *self.results.unsteady.entry(case.system).or_default() += 1;
        Ok(())
    }

    fn pin(&self, running: &Running, placement: Placement) -> Result<()> {
        let (leader, others) = (self.place.device, self.place.generator);
        match placement {
            Placement::OneCore => running.pin(others, others),
            Placement::LeaderAlone | Placement::LeaderBounded => running.pin(leader, others),
        }
    }
}

fn progress(case: &Case, sample: &Sample, kept: bool) {
    eprintln!(
        "    {:>4} outstanding, {}: {:>9.0} ops/s, p50 {:.0} µs, p99 {:.0} µs{}",
        case.outstanding,
        case.placement.name(),
        sample.ops_per_s,
        sample.p50_us,
        sample.p99_us,
        if kept { "" } else { ": the leader changed" },
    );
}
