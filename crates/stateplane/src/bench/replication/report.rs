//! Medians of what was measured, their ratios, and how people see them.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use super::Place;
use super::measure::Sample;
use super::ratios::RATIOS;
use super::systems::System;
use crate::bench::goals::{self, Goal, rounded};
use crate::say::say;

/// Where the processes ran while a row was measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Placement {
    /// The leader alone on a processor, all others and the load on another.
    LeaderAlone,
    /// The same, and the leader gets an eighth of its processor: it is the bottleneck.
    LeaderBounded,
    /// Everything on one processor.
    OneCore,
}

impl Placement {
    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::LeaderAlone => "leader alone",
            Self::LeaderBounded => "leader bounded",
            Self::OneCore => "one core",
        }
    }
}

/// What a row is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Case {
    pub(super) placement: Placement,
    pub(super) outstanding: usize,
    pub(super) system: System,
    /// Loss at the replicas, one in so many.
    pub(super) lose_one_in: Option<u32>,
}

/// Every measurement, and what could not be measured.
#[derive(Default)]
pub(super) struct Results {
    pub(super) samples: BTreeMap<Case, Vec<(String, Sample)>>,
    pub(super) missing: BTreeMap<System, String>,
    /// Measurements without a leader that stayed.
    pub(super) unsteady: BTreeMap<System, u32>,
    /// Why no leader could be made the bottleneck.
    pub(super) unbounded: Option<String>,
}

/// One system under one load: medians over the rounds.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) system: &'static str,
    pub(super) placement: Placement,
    pub(super) outstanding: usize,
    pub(super) loss_percent: f64,
    pub(super) ops_per_s: f64,
    /// Half the distance from the slowest to the fastest round, in percent of the median.
    spread_percent: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    failed: u64,
    pub(super) leader_cpu_us_per_op: f64,
    /// Operations a second a processor of the leader's own would do.
    pub(super) leader_capacity_ops_per_s: f64,
    /// Processor time per operation of each process.
    pub(super) cpu_us_per_op: BTreeMap<String, f64>,
}

/// The machine-readable result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    machine: Machine,
    how: [&'static str; 7],
    pub(super) rows: Vec<Row>,
    missing: BTreeMap<&'static str, String>,
    /// Measurements that did not count because the leader changed every time.
    leader_changed: BTreeMap<&'static str, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_not_bounded: Option<String>,
    ratios: BTreeMap<&'static str, f64>,
    goals: BTreeMap<&'static str, Goal>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    kernel: String,
}

const HOW: [&str; 7] = [
    "closed loop of puts (8-byte key, 8-byte value) with the stated number outstanding, on the loopback; \
     one client process for ours, one connection an operation for Redis (SET and WAIT 2 sent together) \
     and etcd (puts to its leader through its JSON gateway; data on tmpfs)",
    "leader-alone: the leader has a processor, all others and the load share another; where there are only \
     two, those others and not the leader are what limits a system that spares its leader",
    "leader-bounded: so too, but the kernel gives the leader (or the one replica) 1 of every 8 ms: now it is \
     the bottleneck, and here the protocols are compared",
    "one-core: every process and the load on one processor",
    "in the systems named single every datagram takes a system call of its own at all nodes and the client, \
     as in the papers' systems: VR without batching is that one; in all others what a turn of a node \
     sends to one place enters the kernel at once",
    "nopaxos sends each operation in a datagram of its own, nopaxos-shared lets those submitted together \
     share one, as the store's clients do; loss is counted in the replicas' own driver",
    "nopaxos-veth and nopaxos-xdp run in namespaces joined by veth, the one with the sequencer in user space, \
     the other with an XDP program, whose work is done at the cost and on the processor of whoever sends",
];

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn row(case: &Case, samples: &[(String, Sample)]) -> Row {
    let of = |f: fn(&Sample) -> f64| median(samples.iter().map(|(_, s)| f(s)).collect());
    let rates = samples.iter().map(|(_, s)| s.ops_per_s);
    let (low, high) = rates.fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(r), h.max(r)));
    let ops_per_s = of(|s| s.ops_per_s);
    let leads = samples.iter().filter_map(|(leader, s)| s.cpu_of(leader));
    let leader = median(leads.collect());
    let mut cpu: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (leader, sample) in samples {
        for (name, us) in &sample.cpu_us {
            let name = if name == leader { "leader" } else { name };
            cpu.entry(name.to_owned()).or_default().push(*us);
        }
    }
    Row {
        system: case.system.name(),
        placement: case.placement,
        outstanding: case.outstanding,
        loss_percent: case.lose_one_in.map_or(0.0, |n| 100.0 / f64::from(n)),
        ops_per_s: ops_per_s.round(),
        spread_percent: rounded((high - low) / 2.0 / ops_per_s * 100.0),
        p50_us: rounded(of(|s| s.p50_us)),
        p99_us: rounded(of(|s| s.p99_us)),
        failed: samples.iter().map(|(_, s)| s.failed).sum(),
        leader_cpu_us_per_op: rounded(leader),
        leader_capacity_ops_per_s: (1e6 / leader).round(),
        cpu_us_per_op: cpu
            .into_iter()
            .map(|(name, us)| (name, rounded(median(us))))
            .collect(),
    }
}

impl Report {
    pub(super) fn new(results: &Results, place: Place) -> std::io::Result<Self> {
        let rows = results
            .samples
            .iter()
            .map(|(case, s)| row(case, s))
            .collect();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let machine = Machine {
            cpus: place.cpus,
            kernel: kernel.trim().to_owned(),
        };
        let missing = results.missing.iter();
        let unsteady = results.unsteady.iter();
        let mut report = Self {
            bench: "replication",
            machine,
            how: HOW,
            rows,
            missing: missing.map(|(s, why)| (s.name(), why.clone())).collect(),
            leader_changed: unsteady.map(|(s, n)| (s.name(), *n)).collect(),
            leader_not_bounded: results.unbounded.clone(),
            ratios: BTreeMap::new(),
            goals: BTreeMap::new(),
        };
        for ratio in RATIOS {
            if let Some(value) = ratio.of(&report.rows) {
                report.ratios.insert(ratio.name, value);
                if let Some(goal) = ratio.judge(value) {
                    report.goals.insert(ratio.name, goal);
                }
            }
        }
        Ok(report)
    }

    /// What the picture shows of a system.
    pub(super) fn lossless_alone(&self, system: System) -> impl Iterator<Item = &Row> {
        let rows = self.rows.iter().filter(move |r| r.system == system.name());
        rows.filter(|r| r.placement == Placement::LeaderAlone && r.loss_percent == 0.0)
    }

    /// For people.
    pub(super) fn print(&self) {
        let Machine { cpus, kernel } = &self.machine;
        say!("Replication, three replicas of each; {cpus} CPUs, kernel {kernel}\n");
        let mut table = Table::new();
        table.set_header([
            "system",
            "placement",
            "outstanding",
            "loss %",
            "ops/s",
            "± %",
            "p50 µs",
            "p99 µs",
            "leader µs/op",
            "leader ops/s of CPU",
        ]);
        for row in &self.rows {
            table.add_row([
                row.system.to_owned(),
                row.placement.name().to_owned(),
                row.outstanding.to_string(),
                row.loss_percent.to_string(),
                format!("{:.0}", row.ops_per_s),
                format!("{:.1}", row.spread_percent),
                format!("{:.1}", row.p50_us),
                format!("{:.1}", row.p99_us),
                format!("{:.2}", row.leader_cpu_us_per_op),
                format!("{:.0}", row.leader_capacity_ops_per_s),
            ]);
        }
        say!("{table}\n");
        goals::print(&self.ratios, &self.goals);
        for (system, why) in &self.missing {
            say!("{system}: not measured: {why}");
        }
        for (system, count) in &self.leader_changed {
            say!("{system}: {count} measurements do not count: the leader changed");
        }
        if let Some(why) = &self.leader_not_bounded {
            say!("leader bounded: not measured: {why}");
        }
        say!("");
        for how in self.how {
            say!("- {how}");
        }
    }
}
