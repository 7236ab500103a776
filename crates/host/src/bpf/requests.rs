//! `xdp/bench.c`: requests for a sequencer, and the sinks of their copies.

use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, DevMap, MapError};
use aya::programs::Xdp;

use super::{
    Attachment, BpfError, TestRunMode, attach, load, map_error, map_mut, object, test_run, verify,
};

/// Bytes of a request's frame.
pub const FRAME: usize = 216;
/// Requests of a volley at most.
pub const MOST: usize = 8192;

/// Frames the kernel makes at once.
const BATCH: u32 = 64;
const BUCKETS: u32 = 8192;
const BUCKET_NS: u64 = 8;
const VOLLEY: usize = 32;
const SENT: u32 = 0;
const COUNTED: u32 = 1;

/// What a volley is made of.
#[derive(Clone, Debug)]
pub struct Volleys {
    /// Whole frames, each of [`FRAME`] bytes.
    pub frames: Vec<[u8; FRAME]>,
    /// Copies of each that arrive.
    pub copies: u32,
    /// Copies under way at most.
    pub window: u32,
    /// The interface to send by, in the network namespace of the calling thread.
    pub ifindex: u32,
}

/// A generator of requests, and the sinks that count and drop their copies.
#[derive(Debug)]
pub struct Requests {
    ebpf: Ebpf,
    template: [u8; FRAME],
    volley: Volleys,
    sinks: Vec<Attachment>,
}

impl Requests {
    /// Prepares the generator; call it where `volley.ifindex` lives.
    pub fn new(volley: Volleys) -> Result<Self, BpfError> {
        let (Some(template), 1..=MOST) = (volley.frames.first().copied(), volley.frames.len())
        else {
            let text = format!("a volley has 1 to {MOST} requests");
            return Err(BpfError::TooMany(text));
        };
        let mut ebpf = load("bench", object!("bench"))?;
        map_mut!(ebpf, "bench_out", DevMap<_>)?
            .set(0, volley.ifindex, None, 0)
            .map_err(map_error("bench_out"))?;
        let mut requests = map_mut!(ebpf, "bench_requests", Array<_, [u8; FRAME]>)?;
        for (place, frame) in (0..).zip(&volley.frames) {
            requests
                .set(place, *frame, 0)
                .map_err(map_error::<MapError>("bench_requests"))?;
        }
        verify(&mut ebpf, "bench_request")?;
        verify(&mut ebpf, "bench_collect")?;
        Ok(Self {
            ebpf,
            template,
            volley,
            sinks: Vec::new(),
        })
    }

    /// Attaches a sink; call it where `interface` lives.
    pub fn attach_sink(&mut self, interface: &str) -> Result<(), BpfError> {
        let program = self
            .ebpf
            .program_mut("bench_collect")
            .expect("the object has the program");
        let program: &mut Xdp = program.try_into().map_err(map_error("bench_collect"))?;
        self.sinks.push(attach(program, interface)?);
        Ok(())
    }

    /// Begins the next volley: every request may be sent once.
    pub fn begin(&mut self, timed: bool) -> Result<(), BpfError> {
        let mut bytes = [0; VOLLEY];
        bytes[..8].copy_from_slice(&self.count(SENT)?.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.count(COUNTED)?.to_ne_bytes());
        let count = self.volley.frames.len() as u32;
        let words = [
            count,
            self.volley.copies,
            self.volley.window,
            u32::from(timed),
        ];
        for (bytes, word) in bytes[16..].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        map_mut!(self.ebpf, "bench_volleys", Array<_, [u8; VOLLEY]>)?
            .set(0, bytes, 0)
            .map_err(map_error::<MapError>("bench_volleys"))
    }

    /// Runs the generator `runs` times on the calling thread's processor, `batch` frames at
    /// a time. Runs that find the window full, or the volley over, send nothing. How long it
    /// took, without the kernel's preparations.
    pub fn run(&self, runs: u32, batch: u32) -> Result<Duration, BpfError> {
        let failed = |source| BpfError::Load {
            program: "bench_request",
            source,
        };
        let program = self
            .ebpf
            .program("bench_request")
            .expect("the object has the program");
        let xdp: &Xdp = program.try_into().map_err(|e| failed(Box::from(e)))?;
        let mode = TestRunMode::Live {
            batch: batch.min(BATCH),
        };
        let outcome = test_run(xdp, &self.template, runs, mode).map_err(|e| failed(e.into()))?;
        Ok(outcome.duration * runs)
    }

    /// Requests sent so far.
    pub fn sent(&self) -> Result<u64, BpfError> {
        self.count(SENT)
    }

    /// Copies that arrived so far.
    pub fn counted(&self) -> Result<u64, BpfError> {
        self.count(COUNTED)
    }

    /// The median time of the copies of timed volleys.
    pub fn median(&self) -> Result<Duration, BpfError> {
        let failed = map_error::<MapError>;
        let map = self
            .ebpf
            .map("bench_times")
            .expect("the object has the map");
        let times: Array<_, u64> = Array::try_from(map).map_err(failed("bench_times"))?;
        let counts: Result<Vec<u64>, _> = (0..BUCKETS).map(|i| times.get(&i, 0)).collect();
        let counts = counts.map_err(failed("bench_times"))?;
        let half = counts.iter().sum::<u64>() / 2;
        let mut below = 0;
        let bucket = counts.iter().take_while(|count| {
            below += **count;
            below <= half
        });
        Ok(Duration::from_nanos(bucket.count() as u64 * BUCKET_NS))
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
