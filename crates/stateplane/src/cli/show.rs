//! `stateplane show`: what running nodes say.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use stateplane_node::config::Config;
use stateplane_region::Host;

use super::Where;
use super::admin::{self, Answer};
use crate::say::say;

mod config;
mod function;
mod leases;
mod meter;
mod nodes;
mod regions;
mod steering;
mod store;
mod telemetry;

const HELP: &str = "\
Examples:
  stateplane show nodes --config edge.toml
  stateplane show sessions --limit 20 | grep 10.0.3.7
  stateplane show meter --config edge.toml        packets, bytes and what is left, by subscriber
  stateplane show store --json | jq '.nodes[].replica.tables'
  stateplane show regions                 what is shared and copied, lag, loss, age
  stateplane show steering --config edge.toml
  stateplane show workers                 queues, packets and flows of each worker
  stateplane show config --config edge.toml      who runs another file than this
  stateplane show telemetry --watch --config edge.toml

What nodes write about themselves in regions (steering, config, telemetry) is read there, that of other
machines too. For the rest nodes are asked over the unix sockets in the configuration's `admin-dir` (or
--admin-dir), so only those of this machine answer. Exit codes: 0 somebody answered,
1 nobody did, 2 the configuration or the directory cannot be read.";

/// `stateplane show …`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub(crate) struct ShowArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Every node: its roles, whether it is ready, what it does
    Nodes(Common),
    /// The sessions of function instances
    Sessions {
        #[command(flatten)]
        common: Common,
        /// At most so many of each instance
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: usize,
    },
    /// What the instances own, under which epoch and for how long; and what the store has lent
    Leases(Common),
    /// What each subscriber of a meter sent and received, what is left of its allowance, who owns it
    Meter {
        #[command(flatten)]
        common: Common,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: usize,
    },
    /// The replicas of the store: views, logs, tables
    Store(Common),
    /// Regions in use: tables read in place, copies between machines
    Regions(Common),
    /// Who gets which share of the flows, as the switches tell in their regions
    Steering(Common),
    /// Which configuration each node runs, and where it differs from this file
    Config(Common),
    /// What all nodes count, as they tell in their regions
    Telemetry(telemetry::TelemetryArgs),
    /// What passes in the kernel: packets, flows, and why others did not
    FastPath(Common),
    /// The workers of function instances: their queues, packets, flows
    Workers(Common),
}

#[derive(Args, Clone, Debug)]
struct Common {
    #[command(flatten)]
    place: Where,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What every node answered.
type Answers = BTreeMap<String, Answer>;

pub(super) fn run(args: &ShowArgs) -> ExitCode {
    let (common, path) = match &args.what {
        What::Steering(common) => return steering::run(common),
        What::Config(common) => return config::run(common),
        What::Telemetry(args) => return telemetry::run(args),
        What::Nodes(common)
        | What::Regions(common)
        | What::FastPath(common)
        | What::Workers(common) => (common, "/v1/status".to_owned()),
        What::Sessions { common, limit } => (common, format!("/v1/sessions?limit={limit}")),
        What::Meter { common, limit } => (common, format!("/v1/meter?limit={limit}")),
        What::Leases(common) => (common, "/v1/leases".to_owned()),
        What::Store(common) => (common, "/v1/store".to_owned()),
    };
    let targets = match admin::targets(&common.place) {
        Ok(targets) => targets,
        Err(error) => return super::report_load(error),
    };
    if targets.is_empty() {
        eprintln!("stateplane: no node runs here; `stateplane run` starts one");
        return ExitCode::FAILURE;
    }
    let status = admin::ask_all(&targets, "/v1/status");
    let (status, answers) = match (status, &args.what) {
        (Ok(status), What::Nodes(_) | What::Regions(_)) => (Answers::new(), status),
        (Ok(status), _) => match ask_role(&targets, status, &path, &args.what) {
            Ok(pair) => pair,
            Err(error) => return failed(&error),
        },
        (Err(error), _) => return failed(&error),
    };
    if common.json {
        say!("{:#}", as_json(&answers, &status));
    } else {
        let table = match &args.what {
            What::Nodes(_) => nodes::show(&answers),
            What::Sessions { .. } => function::sessions(&answers),
            What::Leases(_) => leases::show(&answers),
            What::Meter { .. } => meter::show(&answers),
            What::Store(_) => store::show(&answers),
            What::Regions(_) => regions::show(&answers),
            What::FastPath(_) => function::fast_path(&answers),
            What::Workers(_) => function::workers(&answers),
            What::Steering(_) | What::Config(_) | What::Telemetry(_) => String::new(),
        };
        say!("{}", table.to_string().trim_end());
        say_silent(&answers, &status);
    }
    ExitCode::from(u8::from(answers.values().all(Result::is_err)))
}

/// The configuration, which what is read from regions needs.
fn config_of(common: &Common) -> Result<Config, ExitCode> {
    let Some(file) = &common.place.config else {
        eprintln!("stateplane: error: say which regions with `--config FILE`");
        return Err(ExitCode::from(2));
    };
    let loaded = Config::load(file);
    loaded.map(|(config, _)| config).map_err(super::report_load)
}

/// The regions of this machine, or why there are none.
fn regions_host(config: &Config) -> Result<Host, String> {
    match &config.regions {
        Some(regions) => Host::connect(&regions.dir).map_err(|error| error.to_string()),
        None => Err("the file has no `[regions]`".to_owned()),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("stateplane: error: {error:#}");
    ExitCode::FAILURE
}

/// Asks only the nodes that have the role in question. Returns those that did
/// not say who they are, and the answers of the others.
fn ask_role(
    targets: &admin::Targets,
    status: Answers,
    path: &str,
    what: &What,
) -> Result<(Answers, Answers)> {
    let role = if matches!(what, What::Store(_)) {
        "replica"
    } else {
        "function"
    };
    let (known, unknown): (Answers, Answers) = status.into_iter().partition(|(_, a)| a.is_ok());
    let has = |name: &String| {
        let roles = known
            .get(name)
            .and_then(|a| a.as_ref().ok())
            .map(|s| &s["roles"]);
        let roles = roles.and_then(Value::as_array);
        roles.is_some_and(|roles| roles.iter().any(|r| r == role))
    };
    let asked = targets.iter().filter(|(name, _)| has(name));
    let asked = asked
        .map(|(name, path)| (name.clone(), path.clone()))
        .collect();
    Ok((unknown, admin::ask_all(&asked, path)?))
}

fn as_json(answers: &Answers, silent: &Answers) -> Value {
    let one = |(name, answer): (&String, &Answer)| match answer {
        Ok(value) => {
            let mut value = value.clone();
            value["node"] = json!(name);
            value["answers"] = json!(true);
            value
        }
        Err(error) => json!({ "node": name, "answers": false, "error": format!("{error:#}") }),
    };
    let all: Vec<Value> = answers.iter().chain(silent).map(one).collect();
    json!({ "nodes": all })
}

/// Says who did not answer, and why, after the table of those who did.
fn say_silent(answers: &Answers, silent: &Answers) {
    for (name, answer) in answers.iter().chain(silent) {
        if let Err(error) = answer {
            say!("{name}: no answer: {error:#}");
        }
    }
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n") + "\n"
}

fn good(answers: &Answers) -> impl Iterator<Item = (&String, &Value)> {
    answers
        .iter()
        .filter_map(|(name, answer)| Some((name, answer.as_ref().ok()?)))
}

/// A value without quotes; nothing for what is absent.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn words(list: &Value) -> String {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(text).collect::<Vec<_>>().join(", ")
}
