//! `stateplane run`: be one node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use stateplane_node::config::Config;
use stateplane_node::run::stop_at_signals;
use stateplane_node::{Failure, Stop};

const HELP: &str = "\
Examples:
  stateplane run --config edge.toml --node gw1
  STATEPLANE_LOG=debug stateplane run --config edge.toml --node sw

The node answers `stateplane show` on NODE.sock in `cluster.admin-dir`. SIGTERM or
SIGINT ends it: a function drains first, everything it changed on its interfaces is
restored. Exit codes: 0 asked to stop, 1 failed while running, 2 wrong usage or
configuration, 3 something is missing (root, XDP, an interface, a free port).";

/// `stateplane run …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct RunArgs {
    /// The configuration, the same file on all nodes
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which of its nodes to be
    #[arg(long, value_name = "NAME")]
    node: String,
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok((config, warnings)) => {
            super::print_problems(warnings);
            config
        }
        Err(error) => return super::report_load(error),
    };
    match serve(&config, &args.node) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => super::report(&failure),
    }
}

fn serve(config: &Config, node: &str) -> Result<(), Failure> {
    let stop = Stop::default();
    stop_at_signals(&stop)?;
    stateplane_node::run(config, node, &stop)
}
