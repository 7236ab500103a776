//! What is compared with what, and what we want of it.

use std::collections::BTreeMap;

use super::device::Device;
use super::placement::Placement;
use super::report::Row;
use super::{Part, SMALL};
use crate::bench::goals::{Bound, Goal, rounded};

/// Over how many flows packets were spread.
#[derive(Clone, Copy)]
enum Flows {
    Few,
    Some,
    Many,
}

impl Flows {
    /// Whether names may speak of so many.
    const fn are(self, count: u32) -> bool {
        match self {
            Flows::Few => true,
            Flows::Some => 10_000 <= count && count < 1_000_000,
            Flows::Many => 1_000_000 <= count,
        }
    }
}

/// Ours over theirs.
struct Ratio {
    name: &'static str,
    part: Part,
    placement: Placement,
    flows: Flows,
    figure: &'static str,
    ours: Device,
    theirs: Device,
    bound: Bound,
}

const fn rate(
    name: &'static str,
    placement: Placement,
    flows: Flows,
    ours: Device,
    theirs: Device,
) -> Ratio {
    Ratio {
        name,
        part: match placement {
            Placement::Inline => Part::Inline,
            Placement::Cross => Part::Cross,
        },
        placement,
        flows,
        figure: "pps",
        ours,
        theirs,
        bound: Bound::None,
    }
}

impl Ratio {
    const fn at_least(self, wanted: f64) -> Self {
        Self {
            bound: Bound::AtLeast(wanted),
            ..self
        }
    }

    const fn figure(self, part: Part, figure: &'static str) -> Self {
        Self {
            part,
            figure,
            ..self
        }
    }

    /// Nothing if the flows are not those that the name speaks of; a quick run names what a
    /// whole one would.
    fn of(&self, rows: &[Row], flows: &[u32], quick: bool) -> Option<f64> {
        let (few, some, many) = (flows.first()?, flows.get(flows.len() / 2)?, flows.last()?);
        let flows = match self.flows {
            Flows::Few => few,
            Flows::Some => some,
            Flows::Many => many,
        };
        if !quick && !self.flows.are(*flows) {
            return None;
        }
        let of = |device: Device| {
            let row = rows.iter().find(|row| {
                row.part == self.part
                    && row.device == device.name()
                    && row.placement == self.placement
                    && row.flows == *flows
                    && row.frame_bytes == Some(SMALL)
            });
            row?.figures.get(self.figure).copied()
        };
        let ratio = of(self.ours)? / of(self.theirs)?;
        Some(rounded(ratio)).filter(|ratio| ratio.is_finite())
    }
}

use Device::{
    AfxdpL2fwd, KernelForwarding, NftablesFirewall, NftablesSnat, StateplaneFast, StateplaneSlow,
    XdpLookup, XdpNat,
};
use Flows::{Few, Many, Some as Middle};
use Placement::{Cross, Inline};

/// All that are reported. "xdp_lookup" is the whole limit program: one lookup and the rewrite.
const RATIOS: &[Ratio] = &[
    rate(
        "fast_vs_nftables_snat",
        Inline,
        Middle,
        StateplaneFast,
        NftablesSnat,
    )
    .at_least(4.0),
    rate(
        "fast_vs_nftables_snat_cross",
        Cross,
        Middle,
        StateplaneFast,
        NftablesSnat,
    )
    .at_least(2.2),
    rate(
        "fast_vs_nftables_snat_1m",
        Inline,
        Many,
        StateplaneFast,
        NftablesSnat,
    )
    .at_least(3.0),
    rate(
        "fast_vs_xdp_lookup_10k",
        Inline,
        Middle,
        StateplaneFast,
        XdpNat,
    )
    .at_least(0.85),
    rate(
        "fast_vs_xdp_lookup_1m",
        Inline,
        Many,
        StateplaneFast,
        XdpNat,
    )
    .at_least(0.85),
    rate(
        "fast_vs_xdp_lookup_10k_cross",
        Cross,
        Middle,
        StateplaneFast,
        XdpNat,
    ),
    rate(
        "fast_vs_bare_lookup_10k",
        Inline,
        Middle,
        StateplaneFast,
        XdpLookup,
    ),
    rate(
        "fast_vs_nftables_firewall",
        Inline,
        Middle,
        StateplaneFast,
        NftablesFirewall,
    ),
    rate(
        "fast_vs_kernel_forwarding",
        Inline,
        Middle,
        StateplaneFast,
        KernelForwarding,
    ),
    rate(
        "slow_vs_afxdp_l2fwd",
        Inline,
        Middle,
        StateplaneSlow,
        AfxdpL2fwd,
    )
    .at_least(0.8),
    rate(
        "slow_vs_afxdp_l2fwd_cross",
        Cross,
        Middle,
        StateplaneSlow,
        AfxdpL2fwd,
    ),
    rate(
        "slow_vs_nftables_snat",
        Inline,
        Middle,
        StateplaneSlow,
        NftablesSnat,
    ),
    rate(
        "new_flows_vs_nftables",
        Cross,
        Many,
        StateplaneFast,
        NftablesSnat,
    )
    .figure(Part::NewFlows, "flows_per_s")
    .at_least(1.0),
    rate(
        "new_flows_vs_nftables_one_core",
        Inline,
        Many,
        StateplaneFast,
        NftablesSnat,
    )
    .figure(Part::NewFlows, "flows_per_s"),
    Ratio {
        bound: Bound::AtMost(1.0),
        ..rate(
            "latency_vs_nftables",
            Inline,
            Few,
            StateplaneFast,
            NftablesSnat,
        )
        .figure(Part::Latency, "added_p50_ns")
    },
    rate(
        "latency_p99_vs_nftables",
        Inline,
        Few,
        StateplaneFast,
        NftablesSnat,
    )
    .figure(Part::Latency, "added_p99_ns"),
];

/// Those whose figures were measured, and whether they are as wanted. `flows` are few, some and
/// many.
pub(super) fn of(
    rows: &[Row],
    flows: &[u32],
    quick: bool,
) -> (BTreeMap<&'static str, f64>, BTreeMap<&'static str, Goal>) {
    let (mut ratios, mut goals) = (BTreeMap::new(), BTreeMap::new());
    for ratio in RATIOS {
        let Some(value) = ratio.of(rows, flows, quick) else {
            continue;
        };
        ratios.insert(ratio.name, value);
        if let Some(goal) = ratio.bound.judge(value) {
            goals.insert(ratio.name, goal);
        }
    }
    (ratios, goals)
}
