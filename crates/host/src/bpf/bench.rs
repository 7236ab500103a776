//! `xdp/bench.c`: the two ends of the packet benchmarks.

use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, DevMap, MapError};
use aya::programs::Xdp;

use super::{
    Attachment, BpfError, TestRunMode, attach, load, map_error, map_mut, object, test_run, verify,
};

/// Frames the kernel makes at once.
const BATCH: u32 = 64;
/// Bytes of Ethernet, IPv4 (without options) and UDP headers.
const HEADERS: usize = 42;
/// Where the settings keep what, as `struct bench_config` lays it out.
const LOST: std::ops::Range<usize> = 8..16;
const SETTINGS: usize = 64;
const SENT: u32 = 0;
const COUNTED: u32 = 1;

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
    ebpf: Ebpf,
    frame: Vec<u8>,
    settings: [u8; SETTINGS],
    sink: Option<Attachment>,
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
        let mut ebpf = load("bench", object!("bench"))?;
        map_mut!(ebpf, "bench_out", DevMap<_>)?
            .set(0, ifindex, None, 0)
            .map_err(map_error("bench_out"))?;
        verify(&mut ebpf, "bench_generate")?;
        let mut range = Self {
            ebpf,
            frame,
            settings,
            sink: None,
        };
        range.configure()?;
        Ok(range)
    }

    /// Attaches the sink; call it where `interface` lives.
    pub fn attach_sink(&mut self, interface: &str) -> Result<(), BpfError> {
        self.sink = Some(attach(verify(&mut self.ebpf, "bench_count")?, interface)?);
        Ok(())
    }

    /// Runs the generator `runs` times on the calling thread's processor. Runs that find
    /// the window full send nothing. How long it took, without the kernel's preparations.
    pub fn run(&self, runs: u32) -> Result<Duration, BpfError> {
        let failed = |source| BpfError::Load {
            program: "bench_generate",
            source,
        };
        let program = self
            .ebpf
            .program("bench_generate")
            .expect("the object has the program");
        let xdp: &Xdp = program.try_into().map_err(|e| failed(Box::from(e)))?;
        let mode = TestRunMode::Live { batch: BATCH };
        let outcome = test_run(xdp, &self.frame, runs, mode).map_err(|e| failed(e.into()))?;
        Ok(outcome.duration * runs)
    }

    /// Frames sent so far.
    pub fn sent(&self) -> Result<u64, BpfError> {
        self.count(SENT)
    }

    /// Frames that arrived at the sink so far.
    pub fn counted(&self) -> Result<u64, BpfError> {
        self.count(COUNTED)
    }

    /// Frames under way are given up: the window is empty again.
    pub fn give_up(&mut self) -> Result<u64, BpfError> {
        let lost = self.sent()?.saturating_sub(self.counted()?);
        self.settings[LOST].copy_from_slice(&lost.to_ne_bytes());
        self.configure()?;
        Ok(lost)
    }

    fn configure(&mut self) -> Result<(), BpfError> {
        map_mut!(self.ebpf, "bench_settings", Array<_, [u8; SETTINGS]>)?
            .set(0, self.settings, 0)
            .map_err(map_error::<MapError>("bench_settings"))
    }

    fn count(&self, index: u32) -> Result<u64, BpfError> {
        let failed = map_error::<MapError>;
        let map = self
            .ebpf
            .map("bench_frames")
            .expect("the object has the map");
        let frames: Array<_, [u64; 8]> = Array::try_from(map).map_err(failed("bench_frames"))?;
        let count = frames.get(&index, 0).map_err(failed("bench_frames"))?;
        Ok(count[0])
    }
}
