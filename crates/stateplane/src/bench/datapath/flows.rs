//! First packets: every frame is of a flow that nobody has seen yet. The kernel remembers
//! it in its own table; Stateplane lets it go when three replicas have it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::device::{Device, Running};
use super::drive::Drive;
use super::node::Node;
use super::placement::Placement;
use super::profile::{Profile, Tally, executed_everywhere};
use super::report::{Case, Figures};
use super::{Part, SMALL, Scale};
use crate::bench::Place;
use crate::bench::testbed::Testbed;

/// How long new flows come, unless they run out.
const SPAN: Duration = Duration::from_secs(1);

/// What was found about a case.
pub(super) type Found = (Case, Figures, Profile);

/// Both placements of a device.
pub(super) fn measure(device: Device, scale: &Scale, place: Place) -> Result<Vec<Found>> {
    let flows = scale.flows.iter().copied().max().unwrap_or(1);
    let both = [Placement::Inline, Placement::Cross];
    let measured = both.map(|placement| {
        let case = Case {
            part: Part::NewFlows,
            device,
            placement,
            bytes: SMALL,
            flows,
        };
        let dir = tempfile::tempdir()?;
        let bed = Testbed::build()?;
        let running = start(device, &bed, dir.path(), flows, place)?;
        placement.arrange(&bed, &running, place)?;
        let mut drive = Drive::new(&bed, &running, &case, place)?;
        let (figures, profile) = pass(&mut drive, &running, dir.path(), flows)?;
        running.stop(dir.path())?;
        Ok((case, figures, profile))
    });
    measured.into_iter().collect()
}

/// New flows through a device, and what that cost.
fn pass(
    drive: &mut Drive<'_>,
    running: &Running,
    dir: &Path,
    flows: u32,
) -> Result<(Figures, Profile)> {
    let first = drive.first_packets(flows / 8, Duration::from_millis(50))?;
    let Running::Node(node) = running else {
        return Ok((drive.first_packets(flows, SPAN)?.figures(), Profile::new()));
    };
    let before = Tally::before(node, dir)?;
    let passed = drive.first_packets(flows, SPAN)?;
    let after = Tally::after(node, dir)?;
    let (mut figures, profile) = (passed.figures(), after.since(&before, passed.right));
    let of = |part: &str, name: &str| profile.get(part).and_then(|of| of.get(name)).copied();
    let mean = |name| {
        let parts = ["leader", "follower-1", "follower-2"];
        let all: Vec<f64> = parts.iter().filter_map(|part| of(part, name)).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    let sent = profile.keys().filter_map(|part| of(part, "sent_per_flow"));
    figures.extend([
        (
            "gateway_us_per_flow",
            of("gateway", "us_per_flow").unwrap_or(f64::NAN),
        ),
        (
            "sequencer_us_per_flow",
            of("sequencer", "us_per_flow").unwrap_or(f64::NAN),
        ),
        ("replica_us_per_flow", mean("us_per_flow")),
        (
            "bindings_per_operation",
            after.bindings_per_operation(&before),
        ),
        ("datagrams_per_flow", sent.sum()),
    ]);
    // Each packet that passed was its flow's first, so each has a mapping.
    let all = first.right + passed.right;
    let fewest = executed_everywhere(dir, all)?;
    figures.insert("flows_in_every_replica", fewest as f64);
    Ok((figures, profile))
}

fn start(device: Device, bed: &Testbed, dir: &Path, flows: u32, place: Place) -> Result<Running> {
    let fast = match device {
        Device::StateplaneSlow => false,
        Device::StateplaneFast => true,
        _ => return device.start(bed, dir, flows),
    };
    Node::replicated(bed, dir, fast, flows, place).map(Running::Node)
}
