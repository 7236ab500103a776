//! `stateplane sim`: the store group in a simulated world.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use crate::say::say;
use clap::Args;
use stateplane_sim::{Choices, Fault, Options, Profile, Progress, Report, hunts};

const HELP: &str = "\
Examples:
  stateplane sim --seeds 1000                        a thousand worlds, all kinds of faults
  stateplane sim --seeds 200 --profile gaps --json
  stateplane sim --seeds 1 --from 4711 --trace       one world, message by message

Profiles: mixed, swarm, stray, failover-storm, gaps, restart, sequencer, pause, vr,
calm. A seed decides everything, so a failed one fails again. Exit codes: 0 every check
held in every seed, 1 one did not.";

/// `stateplane sim …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct SimArgs {
    /// How many seeds
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Which mix of faults
    #[arg(long, default_value_t = Profile::Mixed)]
    profile: Profile,
    /// Classes of faults to leave out
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    off: Vec<Fault>,
    /// The only choices that take effect, as a shrunk failure lists them
    #[arg(long, value_name = "CHOICES")]
    keep: Option<Choices>,
    /// Threads (default: one per processor)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Lie about one answer in every seed: a check of the checkers, in which all must fail
    #[arg(long)]
    canary: bool,
    /// List the rules that can be broken on purpose, and hunt for each breach if this build can
    /// (it needs the feature "mutations")
    #[arg(long)]
    mutations: bool,
    /// Show the first seed message by message instead
    #[arg(long)]
    trace: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SimArgs) -> ExitCode {
    let options = Options {
        seeds: args.seeds,
        from: args.from,
        profile: args.profile,
        off: args.off.iter().copied().collect(),
        threads: args.threads,
        keep: args.keep.clone().map(Arc::new),
        canary: args.canary,
        shrink: !args.canary,
        ..Options::default()
    };
    if args.mutations {
        return mutations(args);
    }
    if args.trace {
        return trace(&options);
    }
    let live = std::io::stderr().is_terminal() && !args.json;
    let report = stateplane_sim::run(&options, |progress| {
        if live {
            draw(progress);
        }
    });
    if live {
        eprintln!();
    }
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => say!("{text}"),
            Err(error) => eprintln!("stateplane: error: {error}"),
        }
    } else {
        print(&report);
    }
    ExitCode::from(u8::from(!report.pass()))
}

/// Breaks each rule in turn and says how that was noticed.
fn mutations(args: &SimArgs) -> ExitCode {
    if !hunts::able() {
        eprintln!(
            "stateplane: this build breaks no rules; build one that can with\n  \
             cargo run --release --features mutations --bin stateplane -- sim --mutations"
        );
    }
    let caught = hunts::all(args.threads);
    if args.json {
        match serde_json::to_string_pretty(&caught) {
            Ok(text) => say!("{text}"),
            Err(error) => eprintln!("stateplane: error: {error}"),
        }
    } else {
        for one in &caught {
            let how = match (&one.what, hunts::able()) {
                (Some(what), _) => format!("seed {:?}: {what}", one.seed.unwrap_or_default()),
                (None, true) => format!("SURVIVED {} seeds", one.seeds),
                (None, false) => "not hunted".to_owned(),
            };
            say!("{:<24} {:<15} {how}", one.mutation, one.profile);
        }
    }
    let survived = hunts::able() && caught.iter().any(|one| !one.caught);
    ExitCode::from(u8::from(survived))
}

/// Prints a run and its last line, which says how it ended.
fn trace(options: &Options) -> ExitCode {
    let lines = stateplane_sim::trace_with(options, options.from);
    let mut out = std::io::stdout().lock();
    for line in &lines {
        if writeln!(out, "{line}").is_err() {
            break; // the reader, a pager perhaps, went away
        }
    }
    let broken = lines.last().is_some_and(|line| line.starts_with("BROKEN"));
    ExitCode::from(u8::from(broken))
}

fn draw(progress: Progress) {
    if progress.done.is_multiple_of(50) || progress.done == progress.seeds {
        eprint!(
            "\r{}/{} seeds, {} failed ",
            progress.done, progress.seeds, progress.failed
        );
    }
}

fn print(report: &Report) {
    say!(
        "{} seeds: {} passed, {} failed; {} events, {} operations, {:.0} virtual s in {:.1} s \
         ({:.0} seeds/s)",
        report.seeds,
        report.passed,
        report.failed.len(),
        report.events,
        report.operations,
        report.virtual_s,
        report.wall_s,
        report.seeds_per_s,
    );
    for failure in &report.failed {
        say!("seed {}: {}", failure.seed, failure.what);
        say!(
            "  needs {}; replay: {}",
            failure.needs.join(", "),
            failure.replay
        );
    }
}
