//! `stateplane check`: is the file right?

use std::path::PathBuf;
use std::process::ExitCode;

use crate::say::say;
use clap::Args;
use serde_json::{Value, json};
use stateplane_node::config::{Config, LoadError, Problem};

const HELP: &str = "\
Examples:
  stateplane check edge.toml
  stateplane check edge.toml --json | jq .problems

All problems are reported in one run, each with its place and its remedy. Exit codes:
0 right (there may be warnings), 2 wrong.";

/// `stateplane check …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct CheckArgs {
    /// The configuration
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    match (Config::load(&args.file), args.json) {
        (Ok((config, warnings)), true) => {
            print_json(args, "pass", problems(&warnings), Some(&config));
            ExitCode::SUCCESS
        }
        (Ok((config, warnings)), false) => {
            super::print_problems(warnings);
            say!("{}: ok, {}", args.file.display(), summary(&config));
            ExitCode::SUCCESS
        }
        (Err(error), true) => {
            let list = match &error {
                LoadError::Read { .. } => vec![json!({ "message": error.to_string() })],
                LoadError::Wrong(wrong) => problems(&wrong.list),
            };
            print_json(args, "fail", list, None);
            ExitCode::from(2)
        }
        (Err(error), false) => super::report_load(error),
    }
}

fn problems(list: &[Problem]) -> Vec<Value> {
    list.iter().map(|p| json!(p.view())).collect()
}

fn print_json(args: &CheckArgs, verdict: &str, problems: Vec<Value>, config: Option<&Config>) {
    let nodes: Option<Vec<Value>> = config.map(|config| {
        let nodes = config.nodes.values();
        nodes
            .map(|node| json!({ "node": node.name, "roles": node.roles }))
            .collect()
    });
    let object = json!({
        "file": args.file.display().to_string(),
        "verdict": verdict,
        "problems": problems,
        "nodes": nodes,
    });
    say!("{object:#}");
}

/// What the file describes, in one line.
fn summary(config: &Config) -> String {
    let nodes = config.nodes.len();
    let plural = if nodes == 1 { "" } else { "s" };
    let names: Vec<&str> = config.nodes.keys().map(String::as_str).collect();
    format!(
        "cluster \"{}\", {nodes} node{plural}: {}",
        config.cluster.name,
        names.join(", ")
    )
}
