//! `xdp/bench.c`: the two ends of the packet benchmarks.

use aya::Ebpf;
use aya::maps::{Array, DevMap, MapError, PerCpuArray};
use aya::programs::Xdp;

use super::{
    Attachment, BpfError, TestRunMode, attach, load, map_error, map_mut, object, test_run, verify,
};

/// Frames the kernel makes and sends at once.
const BATCH: u32 = 64;

/// Sends copies of one UDP frame, each from the next of a number of source ports.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
}

impl Generator {
    /// Sends into `ifindex` of the calling thread's network namespace, from `flows`
    /// source ports in turn, beginning with port 10000.
    pub fn new(ifindex: u32, flows: u32) -> Result<Self, BpfError> {
        let mut ebpf = load("bench", object!("bench"))?;
        let settings = u64::from(flows).to_ne_bytes();
        map_mut!(ebpf, "bench_settings", Array<_, [u8; 8]>)?
            .set(0, settings, 0)
            .map_err(map_error::<MapError>("bench_settings"))?;
        map_mut!(ebpf, "bench_out", DevMap<_>)?
            .set(0, ifindex, None, 0)
            .map_err(map_error("bench_out"))?;
        verify(&mut ebpf, "bench_generate")?;
        Ok(Self { ebpf })
    }

    /// Sends `count` frames on the calling thread's processor. The frame is Ethernet,
    /// IPv4 without options, UDP with checksum 0.
    pub fn send(&self, frame: &[u8], count: u32) -> Result<(), BpfError> {
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
        test_run(xdp, frame, count, mode).map_err(|e| failed(e.into()))?;
        Ok(())
    }
}

/// Counts and drops UDP to the discard port on one interface; passes the rest.
#[derive(Debug)]
pub struct Sink {
    ebpf: Ebpf,
    attachment: Attachment,
}

impl Sink {
    /// Attaches it to `interface`.
    pub fn attach(interface: &str) -> Result<Self, BpfError> {
        let mut ebpf = load("bench", object!("bench"))?;
        let attachment = attach(verify(&mut ebpf, "bench_count")?, interface)?;
        Ok(Self { ebpf, attachment })
    }

    /// Frames counted so far.
    pub fn counted(&self) -> Result<u64, BpfError> {
        let failed = map_error::<MapError>;
        let map = self
            .ebpf
            .map("bench_frames")
            .expect("the object has the map");
        let frames: PerCpuArray<_, u64> =
            PerCpuArray::try_from(map).map_err(failed("bench_frames"))?;
        let counted = frames.get(&1, 0).map_err(failed("bench_frames"))?;
        Ok(counted.iter().sum())
    }

    /// Where it is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }
}
