//! `show config`: which configuration each node runs, and where it differs from this file.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use stateplane_node::config::Config;
use stateplane_node::regions::own::{Follower, Kind};
use stateplane_node::regions::running::{SILENT, Told, few};
use stateplane_region::Host;

use super::{Common, table, text};
use crate::say::say;

pub(super) fn run(common: &Common) -> ExitCode {
    let config = match super::config_of(common) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let host = match super::regions_host(&config) {
        Ok(host) => host,
        Err(why) => {
            eprintln!("stateplane: error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let file = Told::of(&config);
    let nodes: Vec<Value> = config
        .nodes
        .keys()
        .map(|node| told(&config, node, &file, &host))
        .collect();
    let differs = nodes.iter().any(|node| node["same"] == false);
    if common.json {
        say!(
            "{:#}",
            json!({ "file": file.fingerprint, "nodes": nodes, "same": !differs })
        );
    } else {
        say!("this file: {}", file.fingerprint);
        say!("{}", shown(&nodes).trim_end());
    }
    ExitCode::from(u8::from(differs))
}

fn told(config: &Config, node: &str, file: &Told, host: &Host) -> Value {
    let mut follower = Follower::new(config, node, Kind::Config);
    match follower.read::<Told>(host) {
        Ok((told, edition)) => json!({
            "node": node,
            "fingerprint": told.fingerprint,
            "since_day_ns": told.since_day_ns,
            "release": told.version,
            "age_ms": edition.age().as_secs_f64() * 1e3,
            "silent": edition.age() > SILENT,
            "same": told.fingerprint == file.fingerprint,
            "differs": file.differences(&told),
        }),
        Err(why) => json!({ "node": node, "why": why }),
    }
}

fn shown(nodes: &[Value]) -> String {
    let row = |node: &Value| {
        let state = match (&node["why"], node["same"] == true) {
            (Value::String(why), _) => why.clone(),
            (_, true) => "same".to_owned(),
            (_, false) => {
                let list = node["differs"].as_array().into_iter().flatten();
                format!("differs: {}", few(&list.map(text).collect()))
            }
        };
        let age = node["age_ms"].as_f64().unwrap_or_default() / 1e3;
        let silent = match node["silent"] == true {
            true => format!(" (silent for {age:.0} s)"),
            false => String::new(),
        };
        vec![
            text(&node["node"]),
            text(&node["fingerprint"]),
            node["since_day_ns"].as_u64().map(ago).unwrap_or_default(),
            text(&node["release"]),
            state + &silent,
        ]
    };
    let header = ["NODE", "FINGERPRINT", "SINCE", "RELEASE", "CONFIGURATION"];
    table(&header, nodes.iter().map(row).collect())
}

/// How long ago a time of day was.
fn ago(day_ns: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_nanos(day_ns);
    let span = SystemTime::now().duration_since(then).unwrap_or_default();
    match span.as_secs() {
        s if s < 120 => format!("{s}s ago"),
        s if s < 7200 => format!("{}m ago", s / 60),
        s if s < 172_800 => format!("{}h ago", s / 3600),
        s => format!("{}d ago", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_differs_is_told_with_the_keys() {
        let nodes = [
            json!({ "node": "gw1", "fingerprint": "aa", "since_day_ns": 0, "same": true }),
            json!({ "node": "gw2", "fingerprint": "bb", "since_day_ns": 0, "same": false,
                    "differs": ["nat.ports"], "silent": true, "age_ms": 9000.0 }),
            json!({ "node": "gw3", "why": "there is no such region" }),
        ];
        let shown = shown(&nodes);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].ends_with("same"), "{shown}");
        assert!(
            lines[2].ends_with("differs: nat.ports (silent for 9 s)"),
            "{shown}"
        );
        assert!(lines[3].ends_with("there is no such region"), "{shown}");
    }
}
