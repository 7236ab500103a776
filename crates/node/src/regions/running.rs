//! Which configuration each node runs, told in a region, and who runs another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stateplane_base::Time;
use stateplane_host::clock;
use stateplane_region::{Host, Writer};
use tracing::{info, warn};

use super::keeper::{Duty, UseStatus};
use super::own::{Follower, Kind, Own, put};
use crate::config::Config;
use crate::status::Publisher;

/// A node that has said nothing for so long does not run, or cannot be heard.
pub const SILENT: Duration = Duration::from_secs(3);
/// How often a node compares.
const COMPARE: Duration = Duration::from_secs(1);
/// How often a node says that it still runs.
const CHECK_IN: Duration = Duration::from_millis(200);
/// Keys named in one message.
const NAMED: usize = 8;

/// What a node tells about its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The same of files that say the same.
    pub fingerprint: String,
    /// Since when it has run this, in nanoseconds since 1970.
    pub since_day_ns: u64,
    /// The release.
    pub version: String,
    /// Every value of the file; empty if there are too many to tell.
    pub values: BTreeMap<String, String>,
}

impl Told {
    /// What this file says, from now on.
    pub fn of(config: &Config) -> Self {
        Self {
            fingerprint: config.running.fingerprint.clone(),
            since_day_ns: clock::wall().as_nanos(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            values: config.running.values.clone(),
        }
    }

    /// The paths to values that differ, or that only one of both has.
    pub fn differences(&self, other: &Self) -> BTreeSet<String> {
        if self.values.is_empty() || other.values.is_empty() {
            return BTreeSet::new();
        }
        let paths = self.values.keys().chain(other.values.keys());
        let differs = |path: &&String| self.values.get(*path) != other.values.get(*path);
        paths.filter(differs).cloned().collect()
    }
}

/// The first few of many.
pub fn few(paths: &BTreeSet<String>) -> String {
    let named: Vec<&str> = paths.iter().take(NAMED).map(String::as_str).collect();
    match paths.len() {
        0 => "too much to tell where".to_owned(),
        n if n > NAMED => format!("{} and {} more", named.join(", "), n - NAMED),
        _ => named.join(", "),
    }
}

/// Tells which configuration this node runs.
pub(super) struct Telling {
    own: Own,
    told: Told,
    region: Option<Writer<[u8]>>,
    next: Time,
}

impl Telling {
    pub(super) fn new(config: &Config, node: &str) -> Self {
        Self {
            own: Own::new(config, node, Kind::Config),
            told: Told::of(config),
            region: None,
            next: Time::ZERO,
        }
    }

    fn begin(&mut self, mut region: Writer<[u8]>) {
        let last = Kind::Config.text().get(region.bytes());
        let last = last.and_then(|text| serde_json::from_str::<Told>(&text).ok());
        if let Some(last) = last.filter(|last| last.fingerprint == self.told.fingerprint) {
            // A restart changes nothing.
            self.told.since_day_ns = last.since_day_ns;
        }
        if serde_json::to_string(&self.told).is_ok_and(|text| text.len() > Kind::Config.room()) {
            self.told.values.clear();
        }
        match put(Kind::Config, &mut region, &self.told) {
            Ok(()) => self.region = Some(region),
            Err(fenced) => self.own.lost(fenced),
        }
    }
}

impl Duty for Telling {
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        let Some(region) = &mut self.region else {
            if let Some(region) = host.and_then(|host| self.own.claim(host, now)) {
                self.begin(region);
            }
            return;
        };
        if now < self.next {
            return;
        }
        self.next = now + CHECK_IN;
        if let Err(fenced) = region.check_in() {
            self.region = None;
            self.own.lost(fenced);
        }
    }
}

/// Compares with what others run, and says who runs something else.
pub(super) struct Comparing {
    mine: Told,
    others: Vec<(String, Follower)>,
    /// Who was found to differ, and in what.
    found: BTreeMap<String, String>,
    next: Time,
    status: Publisher<UseStatus>,
}

impl Comparing {
    pub(super) fn new(config: &Config, node: &str, status: Publisher<UseStatus>) -> Self {
        let others = config.nodes.keys().filter(|name| *name != node);
        let others = others.map(|name| (name.clone(), Follower::new(config, name, Kind::Config)));
        Self {
            mine: Told::of(config),
            others: others.collect(),
            found: BTreeMap::new(),
            next: Time::ZERO,
            status,
        }
    }

    fn compare(&mut self, host: &Host) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (name, follower) in &mut self.others {
            // Who does not run is asked when it does.
            let Ok((told, edition)) = follower.read::<Told>(host) else {
                continue;
            };
            if edition.age() <= SILENT && told.fingerprint != self.mine.fingerprint {
                found.insert(name.clone(), few(&self.mine.differences(&told)));
            }
        }
        found
    }
}

impl Duty for Comparing {
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        let Some(host) = host.filter(|_| now >= self.next) else {
            return;
        };
        self.next = now + COMPARE;
        let found = self.compare(host);
        for (node, keys) in &found {
            if self.found.get(node) != Some(keys) {
                warn!(
                    node,
                    keys, "runs another configuration: give all nodes the same file"
                );
            }
        }
        for node in self.found.keys().filter(|node| !found.contains_key(*node)) {
            info!(node, "runs the same configuration, or not any more");
        }
        if found != self.found {
            self.found.clone_from(&found);
            self.status
                .amend(|status| status.other_configurations = found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let told = |values: &[(&str, &str)]| Told {
            values: values
                .iter()
                .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
                .collect(),
            ..Told::default()
        };
        let one = told(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let other = told(&[("a", "1"), ("b", "5"), ("d", "3")]);
        assert_eq!(few(&one.differences(&other)), "b, c, d");
        assert_eq!(few(&one.differences(&told(&[]))), "too much to tell where");
        let many: Vec<(String, String)> =
            (0..10).map(|n| (format!("k{n}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert!(few(&one.differences(&told(&many))).ends_with("and 5 more"));
    }
}
