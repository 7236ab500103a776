//! First packets: every frame is of a flow that nobody has seen yet. The kernel remembers
//! it in its own table; Stateplane lets it go when three replicas have it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::device::{Device, Running};
use super::drive::Drive;
use super::node::{Node, RunTimes};
use super::placement::Placement;
use super::report::{Case, Figures};
use super::{Part, SMALL, Scale};
use crate::bench::Place;
use crate::bench::testbed::Testbed;

/// How long new flows come, unless they run out.
const SPAN: Duration = Duration::from_secs(1);

/// Both placements of a device.
pub(super) fn measure(
    part: Part,
    device: Device,
    scale: &Scale,
    place: Place,
) -> Result<Vec<(Case, Figures)>> {
    let flows = scale.flows.iter().copied().max().unwrap_or(1);
    let both = [Placement::Inline, Placement::Cross];
    let measured = both.map(|placement| {
        let case = Case {
            part,
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
        drive.first_packets(Duration::from_millis(50))?;
        let before = times(&running)?;
        let passed = drive.first_packets(SPAN)?;
        let rate = passed.right as f64 / passed.time.as_secs_f64();
        let mut figures = Figures::from([("flows_per_s", rate), ("lost", passed.lost as f64)]);
        if let (Some(before), Some(after)) = (before, times(&running)?) {
            let mut each = |name, before: Duration, after: Duration| {
                let time = after.saturating_sub(before).as_secs_f64();
                figures.insert(name, time * 1e6 / passed.right.max(1) as f64);
            };
            each("gateway_us_per_flow", before.gateway, after.gateway);
            each("sequencer_us_per_flow", before.sequencer, after.sequencer);
            each("replica_us_per_flow", before.replica, after.replica);
        }
        running.stop(dir.path())?;
        Ok((case, figures))
    });
    measured.into_iter().collect()
}

fn start(device: Device, bed: &Testbed, dir: &Path, flows: u32, place: Place) -> Result<Running> {
    let fast = match device {
        Device::StateplaneSlow => false,
        Device::StateplaneFast => true,
        _ => return device.start(bed, dir, flows),
    };
    Node::replicated(bed, dir, fast, flows, place).map(Running::Node)
}

fn times(running: &Running) -> Result<Option<RunTimes>> {
    match running {
        Running::Node(node) => node.run_times().map(Some),
        _ => Ok(None),
    }
}
