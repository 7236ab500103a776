//! `bench sequencer`: messages stamped a second, each multicast to three replicas, and the
//! latency that stamping adds.
//!
//! ```text
//!   client c0 ──── lan0 [ sequencer ] d1 ──── r1 replicas
//!                                     d2 ──── r2
//!                                     d3 ──── r3
//! ```
//! Compared are, step by step, what the work consists of: the generator alone (its frames
//! are dropped where the sequencer would be), the kernel's multicast by a device map and
//! nothing else, the same with every copy addressed, stamped without tags, and stamped and
//! authenticated. What lies between two steps is the cost of the second. The peer is the
//! sequencer's core in user space with the sockets of a node.

mod bed;
mod measure;
mod report;
mod user_space;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use stateplane_host::bpf::requests::SHORTEST;
use stateplane_host::bpf::sequencer::Mode;

use self::measure::{Measured, measure};
use super::{Place, goals};

/// Frames of 64 bytes on a wire, four of them its checksum: no requests, but what the kernel
/// can do at best.
const TINY: usize = 60;
const LARGEST: usize = 1514;

/// Options of `bench sequencer`.
#[derive(Debug, Args)]
pub(crate) struct SequencerArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// Sizes of the frames that requests come in, in bytes; everything is measured at the
    /// first of them.
    #[arg(long, value_delimiter = ',', default_values_t = [172, 512, 1400])]
    sizes: Vec<usize>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What stands in the sequencer's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Device {
    Generator,
    Xdp(Mode),
    UserSpace,
}

impl Device {
    const fn name(self) -> &'static str {
        match self {
            Self::Generator => "generator-alone",
            Self::Xdp(Mode::Limit) => "multicast-limit",
            Self::Xdp(Mode::Forward) => "multicast-addressed",
            Self::Xdp(Mode::Bare) => "xdp-bare",
            Self::Xdp(Mode::Authentic) => "xdp",
            Self::UserSpace => "user-space",
        }
    }
}

/// One thing to be measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Case {
    size: usize,
    /// The device does not share the generator's processor.
    own_core: bool,
    device: Device,
}

impl Case {
    /// All cases, those of the first size in full.
    fn all(sizes: &[usize]) -> Vec<Self> {
        let first = sizes[0];
        let inline = |device, size| Self {
            size,
            own_core: false,
            device,
        };
        let limit = Device::Xdp(Mode::Limit);
        let (addressed, bare) = (Device::Xdp(Mode::Forward), Device::Xdp(Mode::Bare));
        let xdp = Device::Xdp(Mode::Authentic);
        let steps = [Device::Generator, limit, addressed, bare, xdp];
        let mut all = vec![inline(limit, TINY)];
        all.extend(steps.map(|device| inline(device, first)));
        for size in &sizes[1..] {
            all.extend([limit, xdp].map(|device| inline(device, *size)));
        }
        // In user space a thread gets no turn while the generator runs beside it.
        let apart = [limit, xdp, Device::UserSpace];
        all.extend(apart.map(|device| Self {
            own_core: true,
            ..inline(device, first)
        }));
        all
    }

    /// Whether the time of single messages is measured, too.
    fn is_timed(&self) -> bool {
        let devices = [Device::Xdp(Mode::Forward), Device::Xdp(Mode::Authentic)];
        !self.own_core && devices.contains(&self.device)
    }
}

/// Measures and prints.
pub(super) fn run(args: &SequencerArgs) -> Result<()> {
    let sizes = SHORTEST..=LARGEST;
    if args.sizes.is_empty() || args.sizes.iter().any(|size| !sizes.contains(size)) {
        bail!("--sizes: frames of requests have {SHORTEST} to {LARGEST} bytes");
    }
    let span = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let place = Place::choose()?;
    let mut found: BTreeMap<Case, Vec<Measured>> = BTreeMap::new();
    for round in 1..=args.rounds.max(1) {
        for case in Case::all(&args.sizes) {
            let (name, size) = (case.device.name(), case.size);
            eprintln!("round {round}/{}: {name}, {size} bytes", args.rounds.max(1));
            let measured = measure(case, span, place)
                .with_context(|| format!("measuring {name} with frames of {size} bytes"))?;
            found.entry(case).or_default().push(measured);
        }
    }
    let report = report::Report::new(&found, args.sizes[0], place)?;
    goals::show(&report, args.json, report::Report::print)
}
