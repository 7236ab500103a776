//! `show steering`: who gets which share of the flows, as each switch tells in its region, or
//! else as the file has it.

use std::process::ExitCode;

use serde_json::{Value, json};
use stateplane_node::config::{Config, Node};
use stateplane_node::regions::own::{Follower, Kind};
use stateplane_node::regions::steering::{Posted, TOO_OLD, switches};
use stateplane_region::Host;

use super::{Common, table};
use crate::say::say;

pub(super) fn run(common: &Common) -> ExitCode {
    let config = match super::config_of(common) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let host = super::regions_host(&config);
    let all: Vec<Value> = switches(&config.nodes)
        .map(|switch| told(&config, switch, &host))
        .collect();
    if common.json {
        say!("{:#}", json!({ "switches": all }));
        return ExitCode::SUCCESS;
    }
    if all.is_empty() {
        say!("the file has no switch");
    }
    for switch in &all {
        say!("{}", shown(switch).trim_end());
    }
    ExitCode::SUCCESS
}

/// What a switch tells, and how that is known.
fn told(config: &Config, switch: &Node, host: &Result<Host, String>) -> Value {
    let mut follower = Follower::new(config, &switch.name, Kind::Steering);
    let region = follower.name().to_string();
    let read = host
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|host| follower.read::<Posted>(host));
    let (posted, source) = match read {
        Ok((posted, edition)) if edition.age() <= TOO_OLD => {
            let source = json!({
                "source": "region", "region": region,
                "epoch": edition.epoch, "version": edition.version,
                "age_ms": edition.age().as_secs_f64() * 1e3,
            });
            (posted, source)
        }
        other => {
            let why = match other {
                Ok((_, edition)) => format!(
                    "{region}: its writer has said nothing for {:.0} s",
                    edition.age().as_secs_f64()
                ),
                Err(why) => why,
            };
            let posted = Posted::of_config(switch).unwrap_or_default();
            (posted, json!({ "source": "configuration", "why": why }))
        }
    };
    let shares = posted.shares();
    let mut value = json!(posted);
    if let (Some(value), Value::Object(source)) = (value.as_object_mut(), source) {
        value.extend(source);
    }
    for (n, share) in shares.iter().enumerate() {
        value["instances"][n]["share"] = json!(share);
    }
    value
}

fn shown(switch: &Value) -> String {
    let text = super::text;
    let from = if switch["source"] == "region" {
        let age = switch["age_ms"].as_f64().unwrap_or_default();
        format!(
            "{} epoch {} version {}, {age:.0} ms old; weights from {}",
            text(&switch["region"]),
            switch["epoch"],
            switch["version"],
            text(&switch["weights_from"]),
        )
    } else {
        format!("from the configuration: {}", text(&switch["why"]))
    };
    let instances = switch["instances"].as_array().into_iter().flatten();
    let rows = instances.map(|instance| {
        let packets = match (instance["serving"] == true, instance["weight"] == 0) {
            (true, _) => "gets packets",
            (false, true) => "parked: its weight is 0",
            (false, false) => "gets none",
        };
        let share = instance["share"].as_f64().unwrap_or_default();
        vec![
            text(&switch["switch"]),
            text(&instance["node"]),
            text(&instance["weight"]),
            format!("{:.1}%", share * 100.0),
            text(&instance["health"]),
            packets.to_owned(),
        ]
    });
    let header = ["SWITCH", "INSTANCE", "WEIGHT", "SHARE", "HEALTH", "STATE"];
    let name = text(&switch["switch"]);
    format!("{name}: {from}\n{}", table(&header, rows.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_it_knows_from() {
        let instance = |node: &str, weight, share, serving| {
            json!({ "node": node, "weight": weight, "share": share, "serving": serving,
                    "health": "live" })
        };
        let mut switch = json!({
            "switch": "sw", "source": "region", "region": "/t/sw/steering", "epoch": 2,
            "version": 9, "age_ms": 3.4, "weights_from": "the configuration",
            "instances": [instance("gw1", 100, 1.0, true), instance("gw2", 0, 0.0, false)],
        });
        let shown_now = shown(&switch);
        for part in ["/t/sw/steering epoch 2 version 9, 3 ms", "100.0%", "parked"] {
            assert!(shown_now.contains(part), "{part}: {shown_now}");
        }
        switch["source"] = json!("configuration");
        switch["why"] = json!("no broker answers");
        assert!(shown(&switch).contains("from the configuration: no broker answers"));
    }
}
