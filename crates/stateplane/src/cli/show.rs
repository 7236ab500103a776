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
mod meter;
mod regions;
mod steering;
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
            What::Nodes(_) => nodes(&answers),
            What::Sessions { .. } => sessions(&answers),
            What::Leases(_) => leases(&answers),
            What::Meter { .. } => meter::show(&answers),
            What::Store(_) => store(&answers),
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

fn nodes(answers: &Answers) -> String {
    let rows = good(answers).map(|(name, status)| {
        let state = if status["ready"] == true {
            "ready"
        } else {
            "not ready"
        };
        let detail = match words(&status["waiting_for"]) {
            waiting if waiting.is_empty() => detail(status),
            waiting => format!("waits: {waiting}"),
        };
        let uptime = format!("{:.0}s", status["uptime_s"].as_f64().unwrap_or(0.0));
        let roles = words(&status["roles"]);
        vec![
            name.clone(),
            roles,
            state.to_owned(),
            text(&status["pid"]),
            uptime,
            detail,
        ]
    });
    table(
        &["NODE", "ROLES", "STATE", "PID", "UP", "DETAIL"],
        rows.collect(),
    )
}

/// What a node's roles do, in a few words.
fn detail(status: &Value) -> String {
    let mut parts = Vec::new();
    let replica = &status["replica"];
    if replica.is_object() {
        parts.push(format!(
            "{} of view {}, log {}, commit {}",
            text(&replica["role"]),
            replica["view"],
            replica["log"],
            replica["commit"]
        ));
        let disk = &replica["disk"];
        if disk.is_object() {
            parts.push(format!(
                "journal {} bytes, {} syncs, checkpoint at record {}",
                disk["bytes"], disk["syncs"], disk["checkpoint"]
            ));
        }
    }
    let sequencer = &status["sequencer"];
    if sequencer.is_object() {
        parts.push(format!(
            "session {}, number {}, stamped {}",
            sequencer["session"],
            sequencer["sequence"],
            text(&sequencer["stamping"])
        ));
    }
    let function = &status["function"];
    if function.is_object() {
        parts.push(format!(
            "{} flows, {} parked",
            function["flows"], function["parked"]
        ));
        let fast = &function["fast_path"];
        if let Some(share) = fast["share"].as_f64() {
            parts.push(format!(
                "fast path {share:.1} % of packets, {} of {} slots",
                fast["flows"], fast["slots"]
            ));
        }
    }
    if let Some(instances) = status["switch"]["instances"].as_array() {
        let each = instances
            .iter()
            .map(|i| format!("{} {}", text(&i["node"]), text(&i["health"])));
        parts.push(each.collect::<Vec<_>>().join(", "));
    }
    if let Some(others) = status["uses"]["other_configurations"].as_object() {
        let others = others
            .iter()
            .map(|(node, keys)| format!("{node} runs another configuration: {}", text(keys)));
        parts.extend(others);
    }
    parts.join("; ")
}

fn sessions(answers: &Answers) -> String {
    let mut rows = Vec::new();
    for (name, answer) in good(answers) {
        for session in answer["sessions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let field = |key: &str| text(&session[key]);
            let valid = session["valid_ms"]
                .as_u64()
                .map(|ms| format!("{:.1}s", ms as f64 / 1e3));
            rows.push(vec![
                name.clone(),
                field("protocol"),
                field("inside"),
                field("outside"),
                field("remote"),
                field("state"),
                valid.unwrap_or_default(),
            ]);
        }
    }
    table(
        &[
            "NODE", "PROTO", "INSIDE", "OUTSIDE", "REMOTE", "STATE", "VALID",
        ],
        rows,
    )
}

fn leases(answers: &Answers) -> String {
    let mut rows = Vec::new();
    for (name, answer) in good(answers) {
        let list = answer["leases"].as_array().map(Vec::as_slice);
        rows.extend(list.unwrap_or_default().iter().map(|lease| {
            let left = lease["left_ms"].as_u64().unwrap_or(0) as f64 / 1e3;
            vec![
                name.clone(),
                text(&lease["covers"]),
                text(&lease["state"]),
                text(&lease["epoch"]),
                format!("{left:.1}s"),
            ]
        }));
    }
    let own = table(&["NODE", "COVERS", "STATE", "EPOCH", "LEFT"], rows);
    format!(
        "{}\n\n{}",
        own.trim_end(),
        stores_leases(answers).trim_end()
    )
}

/// The list of the store, as the first that got it has it: all have the same store.
fn stores_leases(answers: &Answers) -> String {
    let Some(list) = good(answers).find_map(|(_, answer)| answer["store"].as_array()) else {
        let why = good(answers)
            .map(|(_, answer)| text(&answer["store_error"]))
            .next();
        return format!("the store's own list: {}", why.unwrap_or_default());
    };
    if list.is_empty() {
        return "the store has lent no partition".to_owned();
    }
    let rows = list.iter().map(|lease| {
        let left = lease["left_ms"].as_u64().unwrap_or(0) as f64 / 1e3;
        vec![
            text(&lease["partition"]),
            text(&lease["owner"]),
            text(&lease["state"]),
            text(&lease["epoch"]),
            format!("{left:.1}s"),
            text(&lease["heir"]),
        ]
    });
    table(
        &["PARTITION", "OWNER", "STATE", "EPOCH", "LEFT", "HEIR"],
        rows.collect(),
    )
}

fn store(answers: &Answers) -> String {
    let mut rows = Vec::new();
    let mut tables = Vec::new();
    for (name, answer) in good(answers) {
        let replica = &answer["replica"];
        let field = |key: &str| text(&replica[key]);
        let keys = [
            "role", "view", "session", "log", "commit", "executed", "clients",
        ];
        let mut row = vec![name.clone()];
        row.extend(keys.map(field));
        let disk = &replica["disk"];
        row.push(match disk.is_object() {
            true => format!("{} bytes", text(&disk["bytes"])),
            false => "in memory".to_owned(),
        });
        rows.push(row);
        // Followers execute a little later: the leader's tables are the newest.
        if replica["leader"] == true || tables.is_empty() {
            let list = replica["tables"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let row = |t: &Value| {
                ["name", "rows", "max_rows"]
                    .map(|key| text(&t[key]))
                    .to_vec()
            };
            tables = list.iter().map(row).collect();
        }
    }
    let header = [
        "NODE", "ROLE", "VIEW", "SESSION", "LOG", "COMMIT", "EXECUTED", "CLIENTS", "JOURNAL",
    ];
    let replicas = table(&header, rows);
    let tables = table(&["TABLE", "ROWS", "MAX"], tables);
    format!("{replicas}\n{tables}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaders_tables_are_shown_once() {
        let replica = |leader: bool, rows: u64| {
            let tables = json!([{ "name": "kv", "rows": rows, "max_rows": 10 }]);
            let role = if leader { "leader" } else { "follower" };
            Ok(
                json!({ "replica": { "role": role, "leader": leader, "view": 3, "tables": tables } }),
            )
        };
        let answers = Answers::from([
            ("r1".to_owned(), replica(false, 1)),
            ("r2".to_owned(), replica(true, 2)),
            ("r3".to_owned(), replica(false, 1)),
        ]);
        let shown = store(&answers);
        assert!(
            shown.contains("kv") && shown.contains(" 2 ") && !shown.contains(" 1 "),
            "{shown}"
        );
        assert_eq!(shown.matches("kv").count(), 1);
    }

    #[test]
    fn leases_say_who_holds_what_and_for_how_long() {
        let lease =
            json!({ "covers": "2 port blocks", "state": "held", "epoch": 7, "left_ms": 9_250 });
        let lent = json!({ "partition": "0x2a", "owner": "gw2", "state": "asked back", "epoch": 3,
            "left_ms": 1_000, "heir": "gw1" });
        let answers = Answers::from([
            (
                "gw1".to_owned(),
                Ok(json!({ "leases": [lease], "store": [lent] })),
            ),
            ("gw2".to_owned(), Ok(json!({ "leases": [] }))),
        ]);
        let shown = leases(&answers);
        let line = shown.lines().nth(1).expect("one lease");
        for word in ["gw1", "2 port blocks", "held", " 7 ", "9.2s"] {
            assert!(line.contains(word), "{word} in {shown}");
        }
        let last = shown.lines().last().expect("the store's list");
        for word in ["0x2a", "gw2", "asked back", " 3 ", "1.0s", "gw1"] {
            assert!(last.contains(word), "{word} in {shown}");
        }
        assert_eq!(
            shown.lines().count(),
            5,
            "two tables and a line between: {shown}"
        );
    }

    #[test]
    fn nodes_are_one_greppable_line_each() {
        let ready = json!({
            "roles": ["switch"], "ready": true, "pid": 7, "uptime_s": 3.2, "waiting_for": [],
            "switch": { "instances": [{ "node": "gw1", "health": "live" }] },
            "uses": { "other_configurations": { "gw1": "nat.ports" } },
        });
        let waiting = json!({ "roles": ["replica"], "ready": false, "waiting_for": ["replica: it is booting"] });
        let silent = Err(anyhow::anyhow!("not running here"));
        let answers = Answers::from([
            ("sw".to_owned(), Ok(ready)),
            ("r1".to_owned(), Ok(waiting)),
            ("r2".to_owned(), silent),
        ]);
        let shown = nodes(&answers);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(lines[1].contains("r1") && lines[1].contains("waits: replica: it is booting"));
        assert!(lines[2].contains("gw1 live") && lines[2].contains("ready"));
        let other = "gw1 runs another configuration: nat.ports";
        assert!(lines[2].contains(other), "{shown}");
    }
}
