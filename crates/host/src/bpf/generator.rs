//! What the generators of the packet benchmarks share. The kernel makes the frames (live test
//! run), one a run of the generating program; others count them where they arrive.

use std::time::Duration;

use aya::maps::{Array, DevMap, MapError};
use aya::{Ebpf, EbpfLoader};

use super::{
    Attachment, BpfError, TestRunMode, attach, load_error, loaded, map_error, test_run, verify,
};

/// Frames the kernel makes at once.
const BATCH: u32 = 64;

/// Programs that belong together.
pub(super) struct Range {
    /// The object's name and bytes.
    pub(super) object: (&'static str, &'static [u8]),
    /// The generating program.
    pub(super) program: &'static str,
    /// The map of the interface it sends by.
    pub(super) out: &'static str,
    /// Maps that are to have another number of entries than the object says.
    pub(super) entries: Vec<(&'static str, u32)>,
}

/// A generating program, and the sinks of its frames.
#[derive(Debug)]
pub(super) struct Generator {
    pub(super) ebpf: Ebpf,
    program: &'static str,
    frame: Vec<u8>,
    sinks: Vec<Attachment>,
}

impl Generator {
    /// Loads the program, which sends what it makes of `frame` by the interface `ifindex` of
    /// the calling thread's network namespace.
    pub(super) fn new(range: &Range, frame: Vec<u8>, ifindex: u32) -> Result<Self, BpfError> {
        let Range {
            object: (name, bytes),
            program,
            out,
            ref entries,
        } = *range;
        let mut loader = EbpfLoader::new();
        for (map, entries) in entries {
            loader.map_max_entries(map, *entries);
        }
        let mut ebpf = loader.load(bytes).map_err(|error| BpfError::Load {
            program: name,
            source: error.into(),
        })?;
        let map = ebpf.map_mut(out).expect("the object has the map");
        DevMap::try_from(map)
            .map_err(map_error::<MapError>(out))?
            .set(0, ifindex, None, 0)
            .map_err(map_error(out))?;
        verify(&mut ebpf, program)?;
        Ok(Self {
            ebpf,
            program,
            frame,
            sinks: Vec::new(),
        })
    }

    /// Attaches `program` to `interface` of the calling thread's network namespace.
    pub(super) fn attach_sink(
        &mut self,
        program: &'static str,
        interface: &str,
    ) -> Result<(), BpfError> {
        let sink = attach(verify(&mut self.ebpf, program)?, interface)?;
        self.sinks.push(sink);
        Ok(())
    }

    /// Runs the program `runs` times on the calling thread's processor, at most `batch` frames
    /// at a time. How long it took, without the kernel's preparations.
    pub(super) fn run(&self, runs: u32, batch: u32) -> Result<Duration, BpfError> {
        let program = loaded(&self.ebpf, self.program)?;
        let batch = batch.min(BATCH);
        let outcome = test_run(program, &self.frame, runs, TestRunMode::Live { batch })
            .map_err(load_error(self.program))?;
        Ok(outcome.duration * runs)
    }

    /// A map of the object, to be read.
    pub(super) fn array<V: aya::Pod>(
        &self,
        name: &'static str,
    ) -> Result<Array<&aya::maps::MapData, V>, BpfError> {
        let map = self.ebpf.map(name).expect("the object has the map");
        Array::try_from(map).map_err(map_error::<MapError>(name))
    }
}
