//! Which processor does what.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use stateplane_host::napi;

use super::device::Running;
use crate::bench::Place;
use crate::bench::testbed::Testbed;
use crate::scheduled::Scheduled;

/// Where the device works.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Placement {
    /// On the generator's processor, and the sink too: a rate is the inverse of the
    /// processor time that a packet takes.
    Inline,
    /// On a processor of its own, with a thread that receives for it, and the sink's work.
    Cross,
}

impl Placement {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Cross => "cross",
        }
    }

    /// Has a device work there.
    pub(super) fn arrange(self, bed: &Testbed, running: &Running, place: Place) -> Result<()> {
        match self {
            Self::Inline => running.pin(place.generator),
            Self::Cross => {
                running.pin(place.device)?;
                bed.device
                    .run(|| napi::receive_on("lan0", place.device))
                    .context("a receiving thread for the device")
            }
        }
    }
}

/// The kernel's thread that does packet work which is left over on a processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftOver {
    number: u32,
}

impl LeftOver {
    pub(super) fn on(cpu: usize) -> Result<Self> {
        let name = format!("ksoftirqd/{cpu}");
        let is_it = |number: &u32| {
            let command = fs::read_to_string(format!("/proc/{number}/comm"));
            command.is_ok_and(|command| command.trim() == name)
        };
        let numbers = fs::read_dir("/proc")?.flatten();
        let number = numbers
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(is_it)
            .with_context(|| format!("there is no thread {name}"))?;
        Ok(Self { number })
    }

    /// Processor time it has used.
    pub(super) fn run_time(self) -> Result<Duration> {
        let line = fs::read_to_string(format!("/proc/{}/schedstat", self.number))?;
        let times = Scheduled::read(&line).context("the kernel keeps no time of threads")?;
        Ok(times.ran)
    }
}
