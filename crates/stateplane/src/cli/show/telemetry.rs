//! `show telemetry`: what the nodes count, as they tell in their regions, and all together.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use stateplane_node::config::Config;
use stateplane_node::regions::own::{Follower, Kind};
use stateplane_node::regions::running::SILENT;
use stateplane_node::regions::telemetry::COUNTERS;
use stateplane_region::{Counted, Counter, Edition, Host, How};

use super::{Common, table};
use crate::say::say;

/// `stateplane show telemetry …`
#[derive(Args, Clone, Debug)]
pub(super) struct TelemetryArgs {
    #[command(flatten)]
    common: Common,
    /// Only what this node counts; else the sum of all
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Again every so many seconds, with what was counted a second; only what moved
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
}

pub(super) fn run(args: &TelemetryArgs) -> ExitCode {
    let config = match super::config_of(&args.common) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Some(node) = &args.node
        && config.node(node).is_none()
    {
        eprintln!("stateplane: error: the file declares no node \"{node}\"");
        return ExitCode::from(2);
    }
    let host = match super::regions_host(&config) {
        Ok(host) => host,
        Err(why) => {
            eprintln!("stateplane: error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut readers = Readers::new(&config, args.node.as_deref());
    let mut last: Option<(Instant, Counted)> = None;
    loop {
        let (nodes, silent) = readers.read(&host);
        let (now, all) = (Instant::now(), together(&nodes));
        if args.common.json {
            say!("{:#}", as_json(&nodes, &silent, &all));
        } else {
            let before = last.as_ref().map(|(at, all)| (now - *at, all));
            say!("{}", shown(&nodes, &silent, &all, before).trim_end());
        }
        let Some(seconds) = args.watch else {
            return ExitCode::from(u8::from(nodes.is_empty()));
        };
        last = Some((now, all));
        thread::sleep(Duration::from_secs_f64(seconds.clamp(0.1, 3600.0)));
    }
}

/// The regions of the nodes asked for.
struct Readers(Vec<(String, Follower)>);

/// What one node told, and how old that is.
struct Told {
    counted: Counted,
    edition: Edition,
}

impl Told {
    fn is_silent(&self) -> bool {
        self.edition.age() > SILENT
    }
}

type Nodes = BTreeMap<String, Told>;

impl Readers {
    fn new(config: &Config, only: Option<&str>) -> Self {
        let names = config
            .nodes
            .keys()
            .filter(|n| only.is_none_or(|only| only == *n));
        let follower = |name: &String| Follower::new(config, name, Kind::Telemetry);
        Self(names.map(|name| (name.clone(), follower(name))).collect())
    }

    /// What they tell; of the others why not.
    fn read(&mut self, host: &Host) -> (Nodes, BTreeMap<String, String>) {
        let (mut nodes, mut silent) = (Nodes::new(), BTreeMap::new());
        for (name, follower) in &mut self.0 {
            match follower.look(host) {
                Ok((snapshot, _)) => {
                    let counted = COUNTERS.read(snapshot);
                    let edition = *snapshot.edition();
                    nodes.insert(name.clone(), Told { counted, edition });
                }
                Err(why) => drop(silent.insert(name.clone(), why)),
            }
        }
        (nodes, silent)
    }
}

/// The counts of all nodes as one. Of a node that is silent what it counted counts on; what it
/// had has gone with it.
fn together(nodes: &Nodes) -> Counted {
    let mut all = Counted::default();
    for told in nodes.values() {
        let mut counted = told.counted.clone();
        if told.is_silent() {
            counted
                .values
                .retain(|counter, _| counter.how == How::Count);
        }
        all.merge(&counted);
    }
    all
}

fn number(counter: &Counter, value: u64) -> Value {
    match counter.how {
        How::Level => json!(value as i64),
        How::Count | How::Largest => json!(value),
    }
}

fn as_json(nodes: &Nodes, silent: &BTreeMap<String, String>, all: &Counted) -> Value {
    let values = |counted: &Counted| -> Value {
        let one = |(counter, value): (&Counter, &u64)| {
            let value = json!({
                "value": number(counter, *value), "unit": counter.unit, "is": counter.how.word(),
            });
            (counter.name.clone(), value)
        };
        Value::Object(counted.values.iter().map(one).collect())
    };
    let node = |(name, told): (&String, &Told)| {
        json!({
            "node": name, "epoch": told.edition.epoch, "version": told.edition.version,
            "age_ms": told.edition.age().as_secs_f64() * 1e3, "silent": told.is_silent(),
            "since_day_ns": told.counted.since_day_ns, "left_out": told.counted.left_out,
            "counters": values(&told.counted),
        })
    };
    json!({
        "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
        "not_read": silent,
        "all": values(all),
    })
}

fn shown(
    nodes: &Nodes,
    silent: &BTreeMap<String, String>,
    all: &Counted,
    before: Option<(Duration, &Counted)>,
) -> String {
    let mut rows = Vec::new();
    for (counter, value) in &all.values {
        let mut row = vec![
            counter.name.clone(),
            number(counter, *value).to_string(),
            counter.unit.clone(),
        ];
        if let Some((span, before)) = before {
            let had = before.values.get(counter).copied().unwrap_or(0);
            if had == *value {
                continue;
            }
            row.push(match counter.how {
                How::Count => {
                    let more = value.wrapping_sub(had) as i64;
                    format!("{:.0}/s", more as f64 / span.as_secs_f64())
                }
                How::Level | How::Largest => String::new(),
            });
        }
        rows.push(row);
    }
    let header: &[&str] = match before {
        Some(_) => &["COUNTER", "VALUE", "UNIT", "RATE"],
        None => &["COUNTER", "VALUE", "UNIT"],
    };
    let mut text = table(header, rows);
    let ages = nodes.iter().map(|(name, told)| match told.is_silent() {
        true => format!(
            "{name} silent for {:.0} s",
            told.edition.age().as_secs_f64()
        ),
        false => format!("{name} {:.0} ms", told.edition.age().as_secs_f64() * 1e3),
    });
    let ages: Vec<String> = ages.collect();
    if !ages.is_empty() {
        text += &format!("age: {}\n", ages.join(", "));
    }
    for (name, told) in nodes {
        if told.counted.left_out > 0 {
            text += &format!("{name}: {} counters had no room\n", told.counted.left_out);
        }
    }
    for (name, why) in silent {
        text += &format!("{name}: {why}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_base::Time;

    fn told(values: &[(&str, How, u64)], current: Time) -> Told {
        let counter = |name: &str, how| Counter {
            name: name.to_owned(),
            unit: "packets".to_owned(),
            how,
        };
        let values = values
            .iter()
            .map(|(name, how, v)| (counter(name, *how), *v));
        Told {
            counted: Counted {
                values: values.collect(),
                ..Counted::default()
            },
            edition: Edition {
                current,
                ..Edition::default()
            },
        }
    }

    #[test]
    fn a_silent_node_counts_on_and_holds_nothing() {
        let values = [("hits", How::Count, 5), ("flows", How::Level, 3)];
        // The clock counts from the machine's start: that is long ago, or not yet.
        let far = Time::from_nanos(u64::MAX / 2);
        let nodes = Nodes::from([
            ("gw1".to_owned(), told(&values, far)),
            ("gw2".to_owned(), told(&values, Time::ZERO)),
        ]);
        let all = together(&nodes);
        let by_name: BTreeMap<&str, u64> = all
            .values
            .iter()
            .map(|(c, v)| (c.name.as_str(), *v))
            .collect();
        assert_eq!(by_name, BTreeMap::from([("flows", 3), ("hits", 10)]));
        let text = shown(&nodes, &BTreeMap::new(), &all, None);
        assert!(
            text.contains("gw2 silent for") && text.contains("gw1 0 ms"),
            "{text}"
        );
        let before = together(&Nodes::from([("gw1".to_owned(), told(&values, far))]));
        let text = shown(
            &nodes,
            &BTreeMap::new(),
            &all,
            Some((Duration::from_secs(2), &before)),
        );
        assert!(text.contains("2/s") || text.contains("3/s"), "{text}");
        assert!(
            !text.contains("flows "),
            "what did not move is left out: {text}"
        );
        let value = as_json(&nodes, &BTreeMap::new(), &all);
        assert_eq!(value["all"]["hits"]["value"], 10);
        assert_eq!(value["nodes"][1]["silent"], true);
    }
}
