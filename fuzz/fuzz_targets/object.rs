//! The memory of a region as somebody else may have made it: the input is its head, then what its
//! images hold. A reader refuses it, or reads within it, whatever structure it takes it for.
#![no_main]

use std::fs::File;
use std::io::Write;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use stateplane_region::{Counters, Map, Reader, Ring, Text};

/// Room for the head, two images of a page, and one page more.
const BYTES: u64 = 4 * PAGE as u64;
const PAGE: usize = 4096;
/// Bytes of the head that say anything.
const HEAD: usize = 1280;

fuzz_target!(|data: &[u8]| {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("fuzz", flags).expect("a memory file");
    let mut file = File::from(fd);
    file.set_len(BYTES).expect("its length");
    let (head, image) = data.split_at(data.len().min(HEAD));
    for part in [head, image, image] {
        let room = &part[..part.len().min(PAGE)];
        file.write_all(room).expect("its bytes");
        file.write_all(&[0; PAGE][room.len()..])
            .expect("the rest of a page");
    }
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE;
    fcntl_add_seals(&file, seals).expect("seals");
    let Ok(reader) = Reader::<[u8]>::open(file.into(), "") else {
        return;
    };
    assert!(reader.len() as u64 <= BYTES && reader.name().len() <= 256);
    let Ok(mut snapshot) = reader.snapshot() else {
        return;
    };
    assert_eq!(snapshot.len(), reader.len());
    assert_eq!(reader.refresh(&mut snapshot), Ok(false), "nobody writes");
    let (map, ring) = (Map::<u16, u32>::new(0, 20), Ring::<u64>::new(64, 8));
    let (mut entries, mut values) = (0, 0);
    map.for_each(&snapshot, |_, _| entries += 1);
    ring.since(&snapshot, 0, |_, _| values += 1);
    assert!(entries <= 64 && values <= 8);
    let text = Text::new(0, 100).get(&snapshot);
    assert!(text.is_none_or(|text| text.len() <= 100));
    let counted = Counters::new(0, 6).read(&snapshot);
    assert!(counted.values.len() <= 6);
    let mut twice = counted.clone();
    twice.merge(&counted);
    assert_eq!(twice.values.len(), counted.values.len());
    for key in 0..40 {
        let placed = reader
            .read_with(|view| map.get(view, &key))
            .expect("nobody writes");
        assert_eq!(placed.0, map.get(&snapshot, &key), "in place and copied");
    }
});
