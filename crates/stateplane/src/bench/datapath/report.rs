//! Medians of what was measured, and how people see them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use super::device::Device;
use super::placement::Placement;
use super::profile::Profile;
use super::ratios;
use super::{Part, SMALL};
use crate::bench::goals::{self, Goal, rounded};
use crate::bench::{Machine, Place, machine, median};
use crate::say::say;

/// What one measurement found, by name.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// What a row is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Case {
    pub(super) part: Part,
    pub(super) placement: Placement,
    /// Of a frame; 0 where programs of others choose.
    pub(super) bytes: u32,
    pub(super) flows: u32,
    pub(super) device: Device,
}

/// Every measurement, and what could not be measured.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: BTreeMap<Case, Vec<Figures>>,
    profiles: BTreeMap<Case, Vec<Profile>>,
    /// A device or a tool, and why.
    pub(super) skipped: BTreeMap<&'static str, String>,
    /// How long all of it took.
    pub(super) seconds: f64,
    /// What should have been measured, and what went wrong.
    pub(super) failed: BTreeMap<String, String>,
}

impl Results {
    pub(super) fn add(&mut self, case: Case, figures: Figures) {
        self.samples.entry(case).or_default().push(figures);
    }

    pub(super) fn add_profile(&mut self, case: Case, profile: Profile) {
        self.profiles.entry(case).or_default().push(profile);
    }
}

/// One case: medians over the rounds.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) part: Part,
    pub(super) device: &'static str,
    pub(super) placement: Placement,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) frame_bytes: Option<u32>,
    pub(super) flows: u32,
    /// Half the way between the lowest and the highest round, of the first figure.
    spread_percent: f64,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// Of new flows: what each process did for one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    profile: Profile,
}

/// The measurement.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    /// The figures mean nothing.
    quick: bool,
    /// How long the measurement took.
    seconds: f64,
    machine: Machine,
    how: [&'static str; 6],
    pub(super) rows: Vec<Row>,
    skipped: BTreeMap<&'static str, String>,
    failed: BTreeMap<String, String>,
    pub(super) ratios: BTreeMap<&'static str, f64>,
    goals: BTreeMap<&'static str, Goal>,
}

const HOW: [&str; 6] = [
    "frames are made by the kernel's XDP live-frame test run, one UDP flow after the other (over addresses \
     and ports, with checksums); the sink counts those that have the expected addresses, station and checksums",
    "inline: generator, device and sink share a processor; packets a second of its time, that of processes \
     and of ksoftirqd included. cross: the device (its receiving thread, its process, the sink) has a \
     processor of its own; packets a second that arrive with at most 192 under way",
    "xdp-redirect, xdp-lookup (one BPF hash lookup) and xdp-nat (and rewrite, checksums, new hardware \
     addresses), afxdp-l2fwd (new hardware addresses): what programs of our kind can reach at most. wire: \
     no device, the sink is where it would be",
    "latency: single packets of one flow, from the generator's program to the sink's; added: more than the \
     wire's median. Each packet finds the device idle",
    "new-flows: every packet the first of its flow; the kernel's connection tracking remembers it locally, \
     Stateplane lets it go when a majority of three replicas (processes on the generator's processor) has \
     it in its log, and the run fails unless all three have executed it afterwards. inline: a second of the \
     processor time of all of them together; cross: a second, at most 192 under way, and the generator runs \
     when nobody else wants its processor (SCHED_IDLE). The profile is each process' processor time and what \
     it counts, divided by the flows that passed",
    "tcp: goodput of one iperf3 stream; http: wrk, 32 connections, pages of 1 KiB from nginx",
];

/// The figure that a part is about.
const fn first(part: Part) -> &'static str {
    match part {
        Part::Inline | Part::Cross => "pps",
        Part::Latency => "p50_ns",
        Part::NewFlows => "flows_per_s",
        Part::Tcp => "gbit_per_s",
        Part::Http => "requests_per_s",
    }
}

/// The medians of all that was found under each name.
fn medians<'a>(samples: impl Iterator<Item = &'a Figures>) -> Figures {
    let mut all: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (name, value) in samples.flatten() {
        all.entry(name).or_default().push(*value);
    }
    let medians = all.into_iter();
    medians
        .map(|(name, all)| (name, rounded(median(all))))
        .collect()
}

fn row(case: &Case, samples: &[Figures], profiles: &[Profile]) -> Row {
    let all = samples.iter().filter_map(|s| s.get(first(case.part)));
    let all: Vec<f64> = all.copied().collect();
    let (low, high) = all.iter().fold((f64::MAX, 0.0_f64), |(low, high), v| {
        (low.min(*v), high.max(*v))
    });
    let parts: BTreeSet<&'static str> = profiles.iter().flat_map(|p| p.keys().copied()).collect();
    let of = |part| medians(profiles.iter().filter_map(|profile| profile.get(part)));
    Row {
        part: case.part,
        device: case.device.name(),
        placement: case.placement,
        frame_bytes: (case.bytes > 0).then_some(case.bytes),
        flows: case.flows,
        spread_percent: rounded((high - low) / 2.0 / median(all) * 100.0),
        figures: medians(samples.iter()),
        profile: parts.into_iter().map(|part| (part, of(part))).collect(),
    }
}

/// What the device adds to the way of a packet.
fn add_added_latency(rows: &mut [Row]) {
    for placement in [Placement::Inline, Placement::Cross] {
        let is_latency = |row: &&Row| row.part == Part::Latency && row.placement == placement;
        let mut wire = rows.iter().filter(is_latency);
        let wire = wire.find(|row| row.device == Device::Wire.name());
        let Some(wire) = wire.and_then(|row| row.figures.get("p50_ns").copied()) else {
            continue;
        };
        for row in rows.iter_mut().filter(|row| is_latency(&&**row)) {
            for (name, of) in [("added_p50_ns", "p50_ns"), ("added_p99_ns", "p99_ns")] {
                if let Some(value) = row.figures.get(of).copied() {
                    row.figures.insert(name, rounded(value - wire));
                }
            }
        }
    }
}

impl Report {
    /// `flows` are few, some and many.
    pub(super) fn new(results: &Results, place: Place, flows: &[u32], quick: bool) -> Result<Self> {
        let samples = results.samples.iter();
        let of = |(case, samples): (&Case, &Vec<Figures>)| {
            let profiles = results.profiles.get(case);
            row(case, samples, profiles.map_or(&[], Vec::as_slice))
        };
        let mut rows: Vec<Row> = samples.map(of).collect();
        add_added_latency(&mut rows);
        let (ratios, goals) = ratios::of(&rows, flows, quick);
        Ok(Self {
            bench: "datapath",
            quick,
            seconds: rounded(results.seconds),
            machine: machine(place, SMALL)?,
            how: HOW,
            rows,
            skipped: results.skipped.clone(),
            failed: results.failed.clone(),
            ratios,
            goals,
        })
    }

    /// For people.
    pub(super) fn print(&self) {
        let Machine { cpus, kernel, .. } = &self.machine;
        let minutes = self.seconds / 60.0;
        say!("Data path; {cpus} CPUs, kernel {kernel}; measured in {minutes:.1} min\n");
        if self.quick {
            say!("A quick run: the figures mean nothing.\n");
        }
        self.print_rates();
        for (part, title) in [
            (Part::Latency, "Latency of single packets, ns"),
            (Part::NewFlows, "New flows"),
            (Part::Tcp, "TCP goodput, Gbit/s"),
            (Part::Http, "HTTP requests a second"),
        ] {
            self.print_part(part, title);
        }
        self.print_profile();
        goals::print(&self.ratios, &self.goals);
        for (what, why) in &self.skipped {
            say!("{what}: not measured: {why}");
        }
        for (what, why) in &self.failed {
            say!("{what}: failed: {why}");
        }
        say!("");
        for how in self.how {
            say!("- {how}");
        }
    }

    fn rows(&self, part: Part) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.part == part)
    }

    fn print_rates(&self) {
        let rates = || self.rows(Part::Inline).chain(self.rows(Part::Cross));
        if rates().next().is_none() {
            return;
        }
        let mut table = Table::new();
        table.set_header([
            "placement",
            "bytes",
            "flows",
            "device",
            "packets/s",
            "ns/packet",
            "± %",
            "lost",
            "wrong",
        ]);
        for row in rates() {
            let figure = |name| row.figures.get(name).copied().unwrap_or(f64::NAN);
            table.add_row([
                row.placement.name().to_owned(),
                row.frame_bytes.unwrap_or_default().to_string(),
                row.flows.to_string(),
                row.device.to_owned(),
                format!("{:.0}", figure("pps")),
                format!("{:.0}", figure("ns_per_packet")),
                format!("{:.1}", row.spread_percent),
                format!("{:.0}", figure("lost")),
                format!("{:.0}", figure("wrong")),
            ]);
        }
        say!("{table}\n");
    }

    /// All figures that a part has.
    fn print_part(&self, part: Part, title: &str) {
        let mut names: Vec<&str> = Vec::new();
        for name in self.rows(part).flat_map(|row| row.figures.keys()) {
            if !names.contains(name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            return;
        }
        say!("{title}");
        let mut table = Table::new();
        table.set_header(
            ["placement", "device"]
                .into_iter()
                .chain(names.iter().copied()),
        );
        for row in self.rows(part) {
            let figures = names.iter().map(|name| match row.figures.get(name) {
                Some(value) if *value >= 1000.0 => format!("{value:.0}"),
                Some(value) => format!("{value:.2}"),
                None => String::new(),
            });
            let head = [row.placement.name().to_owned(), row.device.to_owned()];
            table.add_row(head.into_iter().chain(figures));
        }
        say!("{table}\n");
    }

    /// What each process did for a new flow.
    fn print_profile(&self) {
        if self.rows.iter().all(|row| row.profile.is_empty()) {
            return;
        }
        say!("New flows: what each process does for one");
        let columns = [
            ("µs", "us_per_flow"),
            ("in the kernel", "kernel_share"),
            ("datagrams sent", "sent_per_flow"),
            ("received", "received_per_flow"),
            ("calls for them", "calls_per_flow"),
            ("switches", "switches_per_flow"),
            ("page faults", "faults_per_flow"),
        ];
        let mut table = Table::new();
        let heads = columns.map(|(head, _)| head);
        table.set_header(["placement", "device", "process"].into_iter().chain(heads));
        for row in &self.rows {
            for (process, figures) in &row.profile {
                let head = [row.placement.name(), row.device, process].map(str::to_owned);
                let of = |(_, name): &(_, &str)| match figures.get(name) {
                    Some(value) => format!("{value:.3}"),
                    None => String::new(),
                };
                table.add_row(head.into_iter().chain(columns.iter().map(of)));
            }
        }
        say!("{table}\n");
    }
}
