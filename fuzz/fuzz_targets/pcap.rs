//! A capture file of any bytes: frames, then its end or an error.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::pcap::PcapPort;
use stateplane_host::port::Port;

fuzz_target!(|data: &[u8]| {
    let memory = std::path::Path::new("/dev/shm");
    let file = if memory.is_dir() {
        tempfile::NamedTempFile::new_in(memory)
    } else {
        tempfile::NamedTempFile::new()
    };
    let mut file = file.expect("a file for one run");
    file.write_all(data).expect("a file of our own");
    let Ok(mut port) = PcapPort::open(Some(file.path()), None) else {
        return;
    };
    let config = PoolConfig {
        frames: 8,
        frame_size: 2048,
    };
    let mut pool = FramePool::new(config).expect("little memory");
    let mut batch = Vec::new();
    while !port.is_exhausted() {
        port.receive(&mut pool, 4, &mut batch);
        for frame in batch.drain(..) {
            assert!(pool.bytes(&frame).len() <= 2048);
            pool.give(frame);
        }
    }
    let _ = port.close();
    assert_eq!(pool.census().free, 8, "no frame is lost");
});
