//! `xdp/bench.c`: requests for a sequencer, and the sinks of their copies.

use std::time::Duration;

use aya::maps::{Array, MapError};

use super::generator::{Generator, Range};
use super::{BpfError, map_error, map_mut, object};

/// Requests of a volley at most.
pub const MOST: usize = 8192;
/// The shortest frame that is a request, with room for the time it was sent at.
pub const SHORTEST: usize = SENT_AT + 8;

/// What all requests have alike, and where those parts are that they do not: outer tag, inner
/// tag, counter. As in the C file.
const ALIKE: usize = 160;
const SENT_AT: usize = ALIKE;
const OWN: [usize; 3] = [50, 114, 130];
const OWN_BYTES: usize = 32;
const BUCKETS: u32 = 8192;
const BUCKET_NS: u64 = 8;
const VOLLEY: usize = 40;
const SENT: u32 = 0;
const COUNTED: u32 = 1;
const FULL: std::ops::Range<usize> = 32..40;

/// What a volley is made of.
#[derive(Clone, Debug)]
pub struct Volleys {
    /// Whole frames of one length. Those of [`SHORTEST`] or more differ in their tags and
    /// counters alone; shorter ones are all like the first.
    pub frames: Vec<Vec<u8>>,
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
    generator: Generator,
    requests: u32,
    copies: u32,
    window: u32,
    full: u64,
}

impl Requests {
    /// Prepares the generator; call it where `volley.ifindex` lives.
    pub fn new(volley: Volleys) -> Result<Self, BpfError> {
        let (Some(first), 1..=MOST) = (volley.frames.first(), volley.frames.len()) else {
            let text = format!("a volley has 1 to {MOST} requests");
            return Err(BpfError::TooMany(text));
        };
        let range = Range {
            object: ("bench", object!("bench")),
            program: "bench_request",
            out: "bench_out",
            entries: Vec::new(),
        };
        let mut generator = Generator::new(&range, first.clone(), volley.ifindex)?;
        if let Some(alike) = first.first_chunk::<ALIKE>() {
            map_mut!(generator.ebpf, "bench_template", Array<_, [u8; ALIKE]>)?
                .set(0, *alike, 0)
                .map_err(map_error::<MapError>("bench_template"))?;
            set_requests(&mut generator, &volley.frames)?;
        }
        Ok(Self {
            generator,
            requests: volley.frames.len() as u32,
            copies: volley.copies,
            window: volley.window,
            full: 0,
        })
    }

    /// Attaches a sink; call it where `interface` lives.
    pub fn attach_sink(&mut self, interface: &str) -> Result<(), BpfError> {
        self.generator.attach_sink("bench_collect", interface)
    }

    /// Attaches a sink in the place of a sequencer: every request arrives there, once.
    pub fn attach_instead(&mut self, interface: &str) -> Result<(), BpfError> {
        self.window /= self.copies.max(1);
        self.copies = 1;
        self.generator.attach_sink("bench_drop", interface)
    }

    /// Begins the next volley: every request may be sent once.
    pub fn begin(&mut self, timed: bool) -> Result<(), BpfError> {
        self.full = self.full()?;
        let mut bytes = [0; VOLLEY];
        bytes[..8].copy_from_slice(&self.sent()?.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.counted()?.to_ne_bytes());
        let words = [self.requests, self.copies, self.window, u32::from(timed)];
        for (bytes, word) in bytes[16..].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[FULL].copy_from_slice(&self.full.to_ne_bytes());
        map_mut!(self.generator.ebpf, "bench_volleys", Array<_, [u8; VOLLEY]>)?
            .set(0, bytes, 0)
            .map_err(map_error::<MapError>("bench_volleys"))
    }

    /// Runs the generator `runs` times on the calling thread's processor, `batch` frames at
    /// a time. Runs that find the window full, or the volley over, send nothing. How long it
    /// took, without the kernel's preparations.
    pub fn run(&self, runs: u32, batch: u32) -> Result<Duration, BpfError> {
        self.generator.run(runs, batch)
    }

    /// Requests sent so far.
    pub fn sent(&self) -> Result<u64, BpfError> {
        self.count(SENT)
    }

    /// Copies that arrived so far.
    pub fn counted(&self) -> Result<u64, BpfError> {
        self.count(COUNTED)
    }

    fn count(&self, index: u32) -> Result<u64, BpfError> {
        let name = "bench_frames";
        let count: [u64; 8] = self
            .generator
            .array(name)?
            .get(&index, 0)
            .map_err(map_error(name))?;
        Ok(count[0])
    }

    /// Runs so far that found the window full.
    pub fn full(&self) -> Result<u64, BpfError> {
        let name = "bench_volleys";
        let volley: [u8; VOLLEY] = self
            .generator
            .array(name)?
            .get(&0, 0)
            .map_err(map_error(name))?;
        let full = volley[FULL].try_into().expect("eight bytes");
        Ok(u64::from_ne_bytes(full))
    }

    /// The median time of the copies of timed volleys.
    pub fn median(&self) -> Result<Duration, BpfError> {
        let times: Array<_, u64> = self.generator.array("bench_times")?;
        let counts: Result<Vec<u64>, _> = (0..BUCKETS).map(|i| times.get(&i, 0)).collect();
        let counts = counts.map_err(map_error("bench_times"))?;
        let half = counts.iter().sum::<u64>() / 2;
        let mut below = 0;
        let bucket = counts.iter().take_while(|count| {
            below += **count;
            below <= half
        });
        Ok(Duration::from_nanos(bucket.count() as u64 * BUCKET_NS))
    }
}

/// Enters what each request has of its own.
fn set_requests(generator: &mut Generator, frames: &[Vec<u8>]) -> Result<(), BpfError> {
    let mut requests = map_mut!(generator.ebpf, "bench_requests", Array<_, [u8; OWN_BYTES]>)?;
    for (place, frame) in (0..).zip(frames) {
        let mut own = [0; OWN_BYTES];
        for (word, at) in own.chunks_exact_mut(8).zip(OWN) {
            word.copy_from_slice(&frame[at..at + 8]);
        }
        requests
            .set(place, own, 0)
            .map_err(map_error::<MapError>("bench_requests"))?;
    }
    Ok(())
}
