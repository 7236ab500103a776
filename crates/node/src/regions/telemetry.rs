//! What the roles of a node count, told in a region: names, units and how the counts of several
//! nodes merge lie in it, so that whoever reads it need not know this release.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_host::clock;
use stateplane_region::{Counters, Host, How, Tally, Writer};

use super::keeper::Duty;
use super::own::{Kind, Own};
use crate::config::Config;
use crate::heard;
use crate::status::Board;

/// Counters of one node that there is room for.
pub const COUNTERS: Counters = Counters::new(0, 768);

/// What roles count, as they enter it.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    role: &'static str,
    rows: Vec<(String, &'static str, How, u64)>,
}

impl Sheet {
    /// What follows is of this role.
    pub fn of(&mut self, role: &'static str) {
        self.role = role;
    }

    fn enter(&mut self, name: &str, unit: &'static str, how: How, value: u64) {
        let name = format!("{}.{name}", self.role);
        self.rows.push((name, unit, how, value));
    }

    /// Something that only grows; of all nodes the sum counts.
    pub fn count(&mut self, name: &str, unit: &'static str, value: u64) {
        self.enter(name, unit, How::Count, value);
    }

    /// Something that comes and goes; of all nodes the sum counts.
    pub fn level(&mut self, name: &str, unit: &'static str, value: u64) {
        self.enter(name, unit, How::Level, value);
    }

    /// Something of which all nodes have the same, or less; the largest counts.
    pub fn largest(&mut self, name: &str, unit: &'static str, value: u64) {
        self.enter(name, unit, How::Largest, value);
    }

    /// Counts by name.
    pub fn counts<K: AsRef<str>>(
        &mut self,
        group: &str,
        unit: &'static str,
        all: &BTreeMap<K, u64>,
    ) {
        for (name, value) in all {
            self.count(&format!("{group}.{}", name.as_ref()), unit, *value);
        }
    }

    /// What a channel counts.
    pub fn datagrams(&mut self, counted: &heard::Counters) {
        for (name, value) in [
            ("sent", counted.sent),
            ("send-failed", counted.send_failed),
            ("received", counted.received),
            ("malformed", counted.malformed),
            ("unauthentic", counted.unauthentic),
            ("damaged", counted.damaged),
            ("replayed", counted.replayed),
            ("former", counted.former),
        ] {
            self.count(&format!("datagrams.{name}"), "datagrams", value);
        }
    }

    /// The rows: name, unit, how they merge, value.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str, How, u64)> {
        let rows = self.rows.iter();
        rows.map(|(name, unit, how, value)| (name.as_str(), *unit, *how, *value))
    }
}

/// Tells what this node counts, once an interval.
pub(crate) struct Telling {
    own: Own,
    board: Arc<Board>,
    interval: Duration,
    next: Time,
    region: Option<(Writer<[u8]>, Tally)>,
}

impl Telling {
    pub(crate) fn new(config: &Config, node: &str, board: Arc<Board>) -> Self {
        Self {
            own: Own::new(config, node, Kind::Telemetry),
            board,
            interval: config.telemetry,
            next: Time::ZERO,
            region: None,
        }
    }
}

impl Duty for Telling {
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        if self.region.is_none() {
            let claimed = host.and_then(|host| self.own.claim(host, now));
            self.region = claimed.map(|mut writer| {
                let since = clock::wall().as_nanos();
                let tally = Tally::new(COUNTERS, &mut writer, since);
                (writer, tally)
            });
        }
        let Some((writer, tally)) = self.region.as_mut().filter(|_| now >= self.next) else {
            return;
        };
        self.next = now + self.interval;
        tally.set(writer, self.board.sheet().rows());
        if let Err(fenced) = writer.check_in() {
            self.region = None;
            self.own.lost(fenced);
        }
    }
}
