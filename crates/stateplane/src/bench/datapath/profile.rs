//! What new flows cost, process by process: processor time as the kernel counts it, and what the
//! processes say that they did. And that every replica has them.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::node::{GATEWAY, Node, REPLICAS, SEQUENCER};
use super::report::Figures;
use crate::bench::process::Used;
use crate::lab::nodes::http_get;

/// By process, what one flow took of it.
pub(super) type Profile = BTreeMap<&'static str, Figures>;

/// Nodes publish what they count more often than this.
const PUBLISHED: Duration = Duration::from_millis(120);
/// Followers execute at synchronisation points, some milliseconds apart.
const EXECUTED: Duration = Duration::from_secs(2);
/// Parts that are not the leader, in the order of their seats.
const FOLLOWERS: [&str; 2] = ["follower-1", "follower-2"];

/// What the processes of a replicated node have done so far.
pub(super) struct Tally {
    parts: BTreeMap<&'static str, Done>,
    operations: u64,
    bindings: u64,
}

struct Done {
    used: Used,
    sent: u64,
    received: u64,
    calls: u64,
}

impl Tally {
    /// Before the work: who is asked what it counts works for the answer, so that comes first.
    pub(super) fn before(node: &Node, dir: &Path) -> Result<Self> {
        thread::sleep(PUBLISHED);
        let status = Status::of(dir)?;
        Self::new(&status, &node.used()?)
    }

    /// After it.
    pub(super) fn after(node: &Node, dir: &Path) -> Result<Self> {
        let used = node.used()?;
        thread::sleep(PUBLISHED);
        Self::new(&Status::of(dir)?, &used)
    }

    fn new(status: &Status, used: &BTreeMap<String, Used>) -> Result<Self> {
        let part = |(name, used): (&String, &Used)| {
            let at = |of: &str| match name.as_str() {
                GATEWAY => format!("/function/counters/store-{of}"),
                SEQUENCER => format!("/sequencer/datagrams/{of}"),
                _ => format!("/replica/datagrams/{of}"),
            };
            let done = Done {
                used: *used,
                sent: status.number(name, &at("sent"))?,
                received: status.number(name, &at("received"))?,
                calls: status.number(name, &at("calls"))?,
            };
            Ok((status.part(name)?, done))
        };
        Ok(Self {
            parts: used.iter().map(part).collect::<Result<_>>()?,
            operations: status.number(GATEWAY, "/function/counters/shared-operations")?,
            bindings: status.number(GATEWAY, "/function/counters/shared-items")?,
        })
    }

    /// What was done since, for each of `flows`.
    pub(super) fn since(&self, before: &Self, flows: u64) -> Profile {
        let each = |(part, after): (&&'static str, &Done)| {
            let before = before.parts.get(part)?;
            Some((*part, after.since(before, flows)))
        };
        self.parts.iter().filter_map(each).collect()
    }

    /// How many bindings an operation of the store had since.
    pub(super) fn bindings_per_operation(&self, before: &Self) -> f64 {
        let operations = self.operations - before.operations;
        (self.bindings - before.bindings) as f64 / operations.max(1) as f64
    }
}

impl Done {
    fn since(&self, before: &Self, flows: u64) -> Figures {
        let flows = flows.max(1) as f64;
        let (now, then) = (&self.used, &before.used);
        let time = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64();
        let counts = [
            ("sent_per_flow", self.sent, before.sent),
            ("received_per_flow", self.received, before.received),
            ("calls_per_flow", self.calls, before.calls),
            ("switches_per_flow", now.switches, then.switches),
            ("faults_per_flow", now.faults, then.faults),
        ];
        let counts =
            counts.map(|(name, now, then)| (name, now.saturating_sub(then) as f64 / flows));
        let (kernel, user) = (time(now.kernel, then.kernel), time(now.user, then.user));
        let mut figures = Figures::from(counts);
        figures.insert(
            "us_per_flow",
            time(now.run_time, then.run_time) * 1e6 / flows,
        );
        figures.insert(
            "kernel_share",
            kernel / (kernel + user).max(f64::MIN_POSITIVE),
        );
        figures
    }
}

/// Waits until every replica has executed the mappings of so many flows; how many the one has that
/// has fewest.
pub(super) fn executed_everywhere(dir: &Path, flows: u64) -> Result<u64> {
    let until = Instant::now() + EXECUTED;
    loop {
        let status = Status::of(dir)?;
        let each = REPLICAS.map(|name| Ok((status.mappings(name)?, name)));
        let each = each.into_iter().collect::<Result<Vec<_>>>()?;
        let (fewest, who) = each.into_iter().min().context("there are replicas")?;
        if fewest >= flows {
            return Ok(fewest);
        }
        if Instant::now() > until {
            bail!("{flows} flows passed, but {who} has the mappings of {fewest} only");
        }
        thread::sleep(PUBLISHED);
    }
}

/// What each process of a node publishes.
struct Status(BTreeMap<&'static str, Value>);

impl Status {
    fn of(dir: &Path) -> Result<Self> {
        let names = [GATEWAY, SEQUENCER].into_iter().chain(REPLICAS);
        let of = |name: &'static str| {
            let answer = http_get(&dir.join(format!("{name}.sock")), "/v1/status")
                .with_context(|| format!("asking {name} what it counts"))?;
            Ok((name, serde_json::from_slice(&answer)?))
        };
        names.map(of).collect::<Result<_>>().map(Self)
    }

    fn at(&self, name: &str, path: &str) -> Result<&Value> {
        let value = self.0.get(name).and_then(|status| status.pointer(path));
        value.with_context(|| format!("{name} does not say {path}"))
    }

    fn number(&self, name: &str, path: &str) -> Result<u64> {
        let number = self.at(name, path)?.as_u64();
        number.with_context(|| format!("{name} says no number as {path}"))
    }

    /// What a process is called in a profile.
    fn part(&self, name: &str) -> Result<&'static str> {
        match name {
            GATEWAY => return Ok("gateway"),
            SEQUENCER => return Ok("sequencer"),
            _ => {}
        }
        let mut followers = FOLLOWERS.into_iter();
        for replica in REPLICAS {
            let part = match self.at(replica, "/replica/leader")?.as_bool() {
                Some(true) => "leader",
                _ => followers.next().context("nobody leads the group")?,
            };
            if replica == name {
                return Ok(part);
            }
        }
        bail!("{name} is no part of the node")
    }

    /// Mappings that a replica has executed.
    fn mappings(&self, replica: &str) -> Result<u64> {
        let tables = self.at(replica, "/replica/tables")?.as_array();
        let mut tables = tables.into_iter().flatten();
        let mappings = tables.find(|table| table["name"] == "nat.mappings");
        let rows = mappings.and_then(|table| table["rows"].as_u64());
        rows.with_context(|| format!("{replica} does not say how many mappings it has"))
    }
}
