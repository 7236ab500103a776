//! `xdp/bench.c`: the two ends of the packet benchmarks.

use std::time::Duration;

use aya::maps::{Array, MapError};

use super::generator::Generator;
use super::{BpfError, map_error, map_mut};

/// Frames the kernel makes at once.
const BATCH: u32 = 64;
/// Bytes of Ethernet, IPv4 (without options) and UDP headers.
const HEADERS: usize = 42;
/// Where the settings keep what, as `struct bench_config` lays it out.
const LOST: std::ops::Range<usize> = 8..16;
const SETTINGS: usize = 64;

/// What the generator sends.
#[derive(Clone, Debug)]
pub struct Load {
    /// Ethernet, IPv4 without options, UDP with checksum 0; at least 42 bytes.
    pub frame: Vec<u8>,
    /// Source ports in turn, beginning with port 10000.
    pub flows: u32,
    /// Frames under way at most.
    pub window: u32,
    /// The interface to send by, in the network namespace of the calling thread.
    pub ifindex: u32,
}

/// A generator of UDP frames, and the sink that counts and drops those that arrive at
/// the discard port of another interface.
#[derive(Debug)]
pub struct Range {
    generator: Generator,
    settings: [u8; SETTINGS],
}

impl Range {
    /// Prepares the generator; call it where `load.ifindex` lives.
    pub fn new(load_: Load) -> Result<Self, BpfError> {
        let Load {
            frame,
            flows,
            window,
            ifindex,
        } = load_;
        let headers = frame.get(..HEADERS).ok_or_else(|| {
            BpfError::TooMany(format!(
                "a frame of {} bytes has no room for UDP",
                frame.len()
            ))
        })?;
        let mut settings = [0; SETTINGS];
        settings[0..4].copy_from_slice(&flows.to_ne_bytes());
        settings[4..8].copy_from_slice(&window.to_ne_bytes());
        settings[16..16 + HEADERS].copy_from_slice(headers);
        let generator = Generator::new("bench_generate", frame, ifindex)?;
        let mut range = Self {
            generator,
            settings,
        };
        range.configure()?;
        Ok(range)
    }

    /// Attaches the sink; call it where `interface` lives.
    pub fn attach_sink(&mut self, interface: &str) -> Result<(), BpfError> {
        self.generator.attach_sink("bench_count", interface)
    }

    /// Runs the generator `runs` times on the calling thread's processor. Runs that find
    /// the window full send nothing. How long it took, without the kernel's preparations.
    pub fn run(&self, runs: u32) -> Result<Duration, BpfError> {
        self.generator.run(runs, BATCH)
    }

    /// Frames sent so far.
    pub fn sent(&self) -> Result<u64, BpfError> {
        self.generator.sent()
    }

    /// Frames that arrived at the sink so far.
    pub fn counted(&self) -> Result<u64, BpfError> {
        self.generator.counted()
    }

    /// Frames under way are given up: the window is empty again.
    pub fn give_up(&mut self) -> Result<u64, BpfError> {
        let lost = self.sent()?.saturating_sub(self.counted()?);
        self.settings[LOST].copy_from_slice(&lost.to_ne_bytes());
        self.configure()?;
        Ok(lost)
    }

    fn configure(&mut self) -> Result<(), BpfError> {
        map_mut!(self.generator.ebpf, "bench_settings", Array<_, [u8; SETTINGS]>)?
            .set(0, self.settings, 0)
            .map_err(map_error::<MapError>("bench_settings"))
    }
}
