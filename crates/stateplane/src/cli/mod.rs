//! Words and options, logging, exit codes.
//!
//! Exit codes: 0 done, 1 failed while running (or a verdict is *fail*), 2 wrong
//! usage or configuration, 3 the machine lacks something (root, XDP, a port).

mod admin;
mod check;
mod group;
mod lease;
mod region;
mod run;
mod show;
mod sim;
mod steering;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use stateplane_node::Failure;
use stateplane_node::config::{LoadError, Problem, Problems};
use tracing_subscriber::EnvFilter;

use crate::{bench, demo, lab};

const EXAMPLES: &str = "\
Examples:
  stateplane demo                                   kill instances under load, in a lab of its own
  stateplane check edge.toml                        is the file right?
  stateplane run --config edge.toml --node gw1      be node gw1
  stateplane show nodes --config edge.toml          who runs, who is ready
  stateplane group replace r2 r4 --config edge.toml another replica for a dead one
  stateplane lab run failover --connections 400     more of the same, with your numbers

Logs go to stderr; STATEPLANE_LOG sets their level (error, warn, info, debug, trace),
also by part: STATEPLANE_LOG=info,stateplane_node::switch=debug";

/// The state plane for networks: network functions that survive kill -9.
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Say more in the log; twice: say everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Be one node of a configuration, until SIGTERM or SIGINT
    Run(run::RunArgs),
    /// Check a configuration file and say everything that is wrong with it
    Check(check::CheckArgs),
    /// Show what running nodes on this machine say
    Show(show::ShowArgs),
    /// The members of the store group, and changes of them
    Group(group::GroupArgs),
    /// What share of the flows each instance gets
    Steering(steering::SteeringArgs),
    /// Planned moves of what one instance owns to another
    Lease(lease::LeaseArgs),
    /// Regions of this machine: their broker, and a look at them
    Region(region::RegionArgs),
    /// Real traffic through real nodes in network namespaces (needs root)
    Lab(lab::LabArgs),
    /// The failover lab with a live view: 0 broken connections, or it exits with 1
    Demo(demo::DemoArgs),
    /// Measure beside the kernel's own NAT (needs root)
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run the store group in a simulated world with faults, from seeds
    Sim(sim::SimArgs),
}

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(&cli);
    match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Show(args) => show::run(&args),
        Verb::Group(args) => group::run(&args),
        Verb::Steering(args) => steering::run(&args),
        Verb::Lease(args) => lease::run(&args),
        Verb::Region(args) => region::run(&args),
        Verb::Lab(args) => lab::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => match bench::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("stateplane: error: {error:#}");
                ExitCode::FAILURE
            }
        },
        Verb::Sim(args) => sim::run(&args),
    }
}

fn log_to_stderr(cli: &Cli) {
    let usual = match (cli.verbose, &cli.verb) {
        (0, Verb::Run(_)) => "info",
        (0, _) => "warn",
        (1, _) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("STATEPLANE_LOG");
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Where running nodes answer.
#[derive(clap::Args, Clone, Debug)]
struct Where {
    /// The configuration: names the nodes, and where they answer
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory with NODE.sock files [default: that of the configuration, or /run/stateplane]
    #[arg(long, value_name = "DIR")]
    admin_dir: Option<PathBuf>,
}

/// Prints why a node does not run (any more), and how to mend it.
fn report(failure: &Failure) -> ExitCode {
    eprintln!("stateplane: error: {failure}");
    if let Some(help) = failure.help() {
        eprintln!("  help: {help}");
    }
    ExitCode::from(failure.exit_code())
}

/// Prints why a file cannot be used: with its source lines on a terminal, one
/// line per problem elsewhere.
fn report_load(error: LoadError) -> ExitCode {
    match error {
        LoadError::Read { .. } => eprintln!("stateplane: error: {error}"),
        LoadError::Wrong(Problems { list, .. }) => print_problems(list),
    }
    ExitCode::from(2)
}

fn print_problems(problems: Vec<Problem>) {
    if std::io::stderr().is_terminal() {
        for problem in problems {
            eprintln!("{:?}", miette::Report::new(problem));
        }
    } else if !problems.is_empty() {
        eprintln!("{}", stateplane_node::config::Plain(&problems));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory};

    /// Every word some command knows: names, flags and values.
    fn words(command: &Command, into: &mut Vec<String>) {
        into.push(command.get_name().to_owned());
        for argument in command.get_arguments() {
            into.extend(argument.get_long().map(|long| format!("--{long}")));
            into.extend(argument.get_short().map(|short| format!("-{short}")));
            let values = argument.get_possible_values();
            into.extend(values.iter().map(|value| value.get_name().to_owned()));
        }
        command.get_subcommands().for_each(|sub| words(sub, into));
    }

    /// Any arguments are a command, or a refusal that says what is wrong.
    #[test]
    fn any_arguments_are_understood_or_refused() {
        Cli::command().debug_assert();
        let mut known = vec![String::new()];
        words(&Cli::command(), &mut known);
        let odd = [
            "0",
            "-1",
            "18446744073709551616",
            "nf,leader",
            "a\u{0}b",
            "--",
            "=",
            "0.3:1-4/s:2",
            "ü",
        ];
        known.extend(odd.map(str::to_owned));
        let mut dice = fastrand::Rng::with_seed(7);
        let (mut understood, mut refused) = (0, 0);
        for _ in 0..5_000 {
            let count = dice.usize(1..8);
            let word = |_| known[dice.usize(..known.len())].clone();
            let line: Vec<String> = (0..count).map(word).collect();
            match Cli::try_parse_from(&line) {
                Ok(_) => understood += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty(), "{line:?}");
                    refused += 1;
                }
            }
        }
        assert!(understood > 0 && refused > 0, "{understood} {refused}");
    }
}
