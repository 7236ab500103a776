//! What was measured, as rows, parts and ratios.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Serialize;
use stateplane_host::bpf::sequencer::Mode;

use super::bed::REPLICAS;
use super::measure::Measured;
use super::{Case, Device, TINY};
use crate::bench::{Machine, Place, machine};
use crate::say::say;

/// Below this share of waiting the generator has no time to spare.
const HARDLY: f64 = 0.02;

/// One case: medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    sequencer: &'static str,
    frame_bytes: usize,
    /// `inline`: on the processor of the generator and the replicas; `own-core`: not on the
    /// generator's.
    placement: &'static str,
    messages_per_s: f64,
    ns_per_message: f64,
    lost: u64,
    /// From the client's sending to a replica's receiving; 0: not measured.
    latency_p50_ns: u64,
    /// Who cannot do more: `generator` or `sequencer`. On one processor they share it, so
    /// neither: the parts say who uses how much.
    limited_by: &'static str,
}

/// The measurement.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: &'static str,
    machine: Machine,
    rows: Vec<Row>,
    /// Where the time of one authenticated message goes, inline, at the first size.
    ns_by_part: BTreeMap<&'static str, f64>,
    /// The largest of the parts.
    bottleneck: &'static str,
    ratios: BTreeMap<String, f64>,
    /// What stamping adds to the median latency of plain multicast.
    added_latency_p50_ns: i64,
}

impl Report {
    pub(super) fn new(
        found: &BTreeMap<Case, Vec<Measured>>,
        size: usize,
        place: Place,
    ) -> Result<Self> {
        let rows = found.iter().map(|(case, all)| row(*case, all)).collect();
        let inline = |device, size| Case {
            size,
            own_core: false,
            device,
        };
        let own = |device| Case {
            own_core: true,
            ..inline(device, size)
        };
        let (xdp, bare) = (Device::Xdp(Mode::Authentic), Device::Xdp(Mode::Bare));
        let (addressed, limit) = (Device::Xdp(Mode::Forward), Device::Xdp(Mode::Limit));
        let rate = |case: Case| {
            let all = found.get(&case).context("every case was measured")?;
            Ok::<f64, anyhow::Error>(median(all, |m| m.rate))
        };
        let ns = |device| rate(inline(device, size)).map(|rate| 1e9 / rate);
        let steps = [
            ("generator and its link", Device::Generator),
            ("multicast by the kernel", limit),
            ("addressing", addressed),
            ("stamping", bare),
            ("authentication", xdp),
        ];
        let (mut ns_by_part, mut before) = (BTreeMap::new(), 0.0);
        for (part, device) in steps {
            let now = ns(device)?;
            ns_by_part.insert(part, (now - before).round());
            before = now;
        }
        let largest = ns_by_part.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let bottleneck = *largest.context("there are parts")?.0;
        let mut ratios = BTreeMap::new();
        for (name, mine, peer) in [
            ("xdp_vs_limit", inline(xdp, size), inline(limit, size)),
            (
                "xdp_vs_limit_64_bytes",
                inline(xdp, size),
                inline(limit, TINY),
            ),
            (
                "xdp_vs_addressed",
                inline(xdp, size),
                inline(addressed, size),
            ),
            ("xdp_vs_bare", inline(xdp, size), inline(bare, size)),
            ("xdp_vs_limit_own_core", own(xdp), own(limit)),
            (
                "xdp_vs_user_space_own_core",
                own(xdp),
                own(Device::UserSpace),
            ),
        ] {
            let ratio = rate(mine)? / rate(peer)?;
            ratios.insert(name.to_owned(), (ratio * 1000.0).round() / 1000.0);
        }
        let latency = |device| {
            let all = found
                .get(&inline(device, size))
                .context("it was measured")?;
            Ok::<i64, anyhow::Error>(median(all, |m| m.latency).as_nanos() as i64)
        };
        Ok(Self {
            bench: "sequencer",
            machine: machine(place, size as u32)?,
            rows,
            ns_by_part,
            bottleneck,
            ratios,
            added_latency_p50_ns: latency(xdp)? - latency(addressed)?,
        })
    }

    /// Prints it for people.
    pub(super) fn print(&self) {
        say!("Ordered multicast to {REPLICAS} replicas\n");
        let mut table = Table::new();
        table.set_header([
            "sequencer",
            "frame bytes",
            "placement",
            "messages/s",
            "ns each",
            "lost",
            "latency p50 ns",
            "limited by",
        ]);
        for row in &self.rows {
            table.add_row([
                row.sequencer.to_owned(),
                row.frame_bytes.to_string(),
                row.placement.to_owned(),
                row.messages_per_s.to_string(),
                row.ns_per_message.to_string(),
                row.lost.to_string(),
                row.latency_p50_ns.to_string(),
                row.limited_by.to_owned(),
            ]);
        }
        say!("{table}\n");
        say!("Where the time of one stamped message goes, all on one processor:");
        for (part, ns) in &self.ns_by_part {
            say!("{part:<45} {ns} ns");
        }
        say!("{:<45} {}\n", "most of it", self.bottleneck);
        for (name, ratio) in &self.ratios {
            say!("{name:<45} {ratio}");
        }
        let added = self.added_latency_p50_ns;
        say!("{:<45} {added}", "added latency, ns (median)");
    }
}

fn row(case: Case, all: &[Measured]) -> Row {
    let rate = median(all, |m| m.rate);
    let limited_by = match (case.device, case.own_core) {
        (Device::Generator, _) => "generator",
        (_, false) => "shared processor",
        (_, true) if median(all, |m| m.waited) < HARDLY => "generator",
        (_, true) => "sequencer",
    };
    Row {
        sequencer: case.device.name(),
        frame_bytes: case.size,
        placement: if case.own_core { "own-core" } else { "inline" },
        messages_per_s: rate.round(),
        ns_per_message: (1e9 / rate).round(),
        lost: median(all, |m| m.lost),
        latency_p50_ns: median(all, |m| m.latency).as_nanos() as u64,
        limited_by,
    }
}

fn median<T: Copy + PartialOrd>(values: &[Measured], by: impl Fn(&Measured) -> T) -> T {
    let mut all: Vec<T> = values.iter().map(by).collect();
    all.sort_by(|a, b| a.partial_cmp(b).expect("measured"));
    all[all.len() / 2]
}
