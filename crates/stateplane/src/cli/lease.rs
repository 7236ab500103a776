//! `stateplane lease`: planned moves of what one instance owns to another.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Where;
use super::admin::{self, Targets};
use crate::say::say;

const HELP: &str = "\
Examples:
  stateplane show leases --config edge.toml             who owns what
  stateplane lease move 0x2a gw2 --config edge.toml     gw2 is to own partition 0x2a next

The present owner is told with its next answer from the store: it stops, finishes its writes and
gives the partition up, so no packet waits for a time-out; if it is dead, its lease lapses. Then the
new owner has one lease's length to take it. There it stays for a minute (`--for`) although packets for it
come elsewhere, and wait or are dropped: lead them to the new owner meanwhile. Afterwards it follows the
packets, as ever. Any function that runs on this machine passes the order on. Exit codes: 0 the store has noted it, 1 it refused or did not answer, 2 the configuration or the
directory cannot be read.";

/// `stateplane lease …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct LeaseArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Ask a partition back from its owner, for another instance
    Move {
        /// The partition's number, as `show leases` has it
        partition: String,
        /// The node whose function is to own it
        heir: String,
        /// How long it stays there although packets for it come elsewhere
        #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
        stays: u32,
        #[command(flatten)]
        place: Where,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &LeaseArgs) -> ExitCode {
    let What::Move {
        partition,
        heir,
        stays,
        place,
        json: as_json,
    } = &args.what;
    let targets = match admin::targets(place) {
        Ok(targets) => targets,
        Err(error) => return super::report_load(error),
    };
    match ask(&targets, partition, heir, *stays) {
        Ok(answer) if *as_json => say!("{answer:#}"),
        Ok(answer) => {
            let left = answer["free_within_ms"].as_u64().unwrap_or(0) as f64 / 1e3;
            say!(
                "partition {} goes to {heir}, in {left:.1} s at the latest, and stays for {stays} s",
                text(&answer["partition"])
            );
        }
        Err(error) => {
            if *as_json {
                say!("{:#}", json!({ "error": format!("{error:#}") }));
            }
            eprintln!("stateplane: error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Through the first function that runs here.
fn ask(targets: &Targets, partition: &str, heir: &str, stays: u32) -> Result<Value> {
    let status = admin::ask_all(targets, "/v1/status")?;
    let is_function = |status: &Value| {
        let roles = status["roles"].as_array().into_iter().flatten();
        roles.into_iter().any(|role| role == "function")
    };
    let mut functions = status
        .iter()
        .filter(|(_, status)| status.as_ref().is_ok_and(is_function));
    let Some((name, _)) = functions.next() else {
        bail!("no function runs on this machine: its store is asked through one");
    };
    let odd = |word: &str| {
        !word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    for word in [partition, heir] {
        if word.is_empty() || odd(word) {
            bail!("\"{word}\" is neither a partition's number nor a node's name");
        }
    }
    let path = format!("/v1/leases?partition={partition}&heir={heir}&stays_s={stays}");
    admin::post(&targets[name], &path).with_context(|| format!("asked through {name}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
