//! `stateplane steering`: what share of the flows each instance gets.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use stateplane_node::admin::socket_path;
use stateplane_node::config::Config;
use stateplane_node::regions::steering::switches;

use super::admin;
use crate::say::say;

const HELP: &str = "\
Examples:
  stateplane steering weight gw2 50 --config edge.toml    half of what a usual instance gets
  stateplane steering weight gw2 0 --config edge.toml     nothing: before it is taken away
  stateplane show steering --config edge.toml             what each gets

Flows that move to another instance go on there: their state is in the store. Only the share
that changes moves. Any switch that runs on this machine takes the word, keeps it on its disk
(`regions.state-dir`) and tells the others. It counts until another is said, or `weight` in the
file changes.";

/// `stateplane steering …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct SteeringArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Give an instance another weight: its share is as that among those of all
    Weight {
        /// The instance's node
        instance: String,
        /// 0 to 1000; 100 is usual
        weight: u32,
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The directory with NODE.sock files [default: that of the configuration]
        #[arg(long, value_name = "DIR")]
        admin_dir: Option<PathBuf>,
    },
}

pub(super) fn run(args: &SteeringArgs) -> ExitCode {
    let What::Weight {
        instance,
        weight,
        config,
        admin_dir,
    } = &args.what;
    let config = match Config::load(config) {
        Ok((config, _)) => config,
        Err(error) => return super::report_load(error),
    };
    let known = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    if !known(instance) {
        eprintln!("stateplane: error: \"{instance}\" is not a node's name");
        return ExitCode::from(2);
    }
    let dir = admin_dir.as_ref().unwrap_or(&config.cluster.admin_dir);
    let names: Vec<&str> = switches(&config.nodes).map(|n| n.name.as_str()).collect();
    let runs = |name: &&&str| UnixStream::connect(socket_path(dir, name)).is_ok();
    let Some(switch) = names.iter().find(runs) else {
        let (error, help) = match &names[..] {
            [] => ("the file has no switch", "nobody has a weight".to_owned()),
            some => (
                "no switch runs here",
                format!(
                    "ask on a machine where one of these runs: {}",
                    some.join(", ")
                ),
            ),
        };
        eprintln!("stateplane: error: {error}\n  help: {help}");
        return ExitCode::FAILURE;
    };
    let path = format!("/v1/weights?instance={instance}&weight={weight}");
    match admin::post(&socket_path(dir, switch), &path) {
        Ok(_) => {
            say!("{instance} has weight {weight}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("stateplane: error: {switch}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
