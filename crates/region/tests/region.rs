//! A region as its users meet it: in one process, through the sealed memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use stateplane_region::{
    LINE, OpenError, ReadError, Reader, Spec, Writer, publish_together, read_together,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Rule {
    port: u32,
    hits: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Acl {
    count: u64,
    rules: [Rule; 100],
}

fn reader<T: ?Sized + stateplane_region::Content>(writer: &Writer<T>) -> Reader<T> {
    let fd = writer.fd().try_clone_to_owned().unwrap();
    Reader::open(fd, "").unwrap()
}

#[test]
fn readers_see_what_was_published_and_nothing_else() {
    let mut writer = Writer::<Acl>::create(&Spec::of::<Acl>()).unwrap();
    let reader = reader(&writer);
    assert_eq!(reader.snapshot().unwrap_err(), ReadError::Empty);
    writer.set(|acl| &acl.rules[70], Rule { port: 80, hits: 1 });
    assert_eq!(
        (writer.publish(), writer.publish()),
        (Ok(1), Ok(1)),
        "no change, no version"
    );

    let mut snapshot = reader.snapshot().unwrap();
    assert_eq!(
        (snapshot.rules[70].port, snapshot.edition().version),
        (80, 1)
    );
    writer.edit(|acl| &acl.rules[70]).hits += 1;
    writer.set(|acl| &acl.count, 7);
    assert_eq!(writer.dirty_lines(), 2);
    assert!(!reader.refresh(&mut snapshot).unwrap());
    writer.publish().unwrap();
    assert!(reader.refresh(&mut snapshot).unwrap());
    assert_eq!((snapshot.rules[70].hits, snapshot.count), (2, 7));
    assert_eq!(snapshot.edition().version, reader.version());

    let at = std::mem::offset_of!(Acl, rules) + 70 * size_of::<Rule>();
    let (rule, edition) = reader.read_at::<Rule>(at).unwrap();
    assert_eq!((rule.port, rule.hits, edition.version), (80, 2, 2));
    let end = size_of::<Acl>();
    assert!(matches!(
        reader.read_at::<u64>(end - 4),
        Err(ReadError::Outside { .. })
    ));
    let (sum, _) = reader
        .read_with(|view| {
            (0..100)
                .filter_map(|n| view.get::<u32>(8 + 8 * n))
                .sum::<u32>()
        })
        .unwrap();
    assert_eq!(sum, 80);
}

#[test]
fn the_last_changes_are_those_of_the_last_publish() {
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(300)).unwrap();
    writer.publish().unwrap();
    writer.bytes_mut(60, 10).fill(1);
    writer.bytes_mut(299, 1).fill(1);
    writer.publish().unwrap();
    let mut changes = vec![];
    writer.last_changes(|start, end| changes.push((start, end)));
    assert_eq!(changes, [(0, 64), (64, 128), (256, 300)]);
}

#[test]
fn a_rollback_goes_back_to_the_published_version() {
    let mut writer = Writer::<[u32]>::create(&Spec::array::<u32>(5000)).unwrap();
    writer.set(|w| &w[17], 1);
    writer.rollback();
    assert_eq!(writer.get()[17], 1, "there was nothing to go back to");
    writer.publish().unwrap();
    writer.set(|w| &w[17], 2);
    writer.edit_all().fill(9);
    writer.rollback();
    let expected = |n: usize| u32::from(n == 17);
    assert!(writer.get().iter().copied().eq((0..5000).map(expected)));
    assert_eq!((writer.publish(), writer.dirty_lines()), (Ok(1), 0));
}

#[test]
fn age_tells_a_silent_writer_from_one_with_nothing_new() {
    let spec = Spec::of::<u64>().interval(Duration::from_micros(100));
    let mut writer = Writer::<u64>::create(&spec).unwrap();
    let reader = reader(&writer);
    writer.publish().unwrap();
    let published = reader.read_at::<u64>(0).unwrap().1;
    std::thread::sleep(Duration::from_millis(5));
    let silent = reader.read_at::<u64>(0).unwrap().1;
    assert_eq!(silent, published);
    assert!(silent.age() >= Duration::from_millis(5));
    assert_eq!(writer.check_in(), Ok(None), "nothing has changed");
    let checked = reader.read_at::<u64>(0).unwrap().1;
    assert_eq!(
        (checked.version, checked.published),
        (1, published.published)
    );
    assert!(checked.current > published.current);
    let day = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_nanos();
    let apart = day.abs_diff(u128::from(checked.published_day_ns));
    assert!(apart < 60_000_000_000, "{apart} ns");
}

#[test]
fn check_ins_publish_once_an_interval() {
    let every = Duration::from_millis(2);
    let mut writer = Writer::<u64>::create(&Spec::of::<u64>().interval(every)).unwrap();
    let start = Instant::now();
    let mut versions = vec![];
    while versions.len() < 10 {
        *writer.edit_all() += 1;
        versions.extend(writer.check_in().unwrap());
    }
    assert_eq!(versions, (1..=10).collect::<Vec<u64>>());
    assert!(start.elapsed() >= every * 9);
}

/// Whatever a reader copies is of one version, with every number of images.
#[test]
fn snapshots_are_never_torn() {
    for images in [2, 3, 8] {
        let spec = Spec::array::<u64>(600).images(images);
        let mut writer = Writer::<[u64]>::create(&spec).unwrap();
        let reader = reader(&writer);
        writer.publish().unwrap();
        let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                for round in 1u64.. {
                    // The machine may be busy: until the reader has seen enough.
                    let enough = round > 10_000 && seen.load(Ordering::Relaxed) > 300;
                    if enough || start.elapsed() > Duration::from_secs(30) {
                        break;
                    }
                    if round % 3 == 0 {
                        writer.edit_all().fill(round);
                    } else {
                        // Sparse changes, of which both halves must be seen or none.
                        writer.set(|w| &w[5], round);
                        writer.set(|w| &w[590], round);
                    }
                    writer.publish().unwrap();
                }
                done.store(true, Ordering::Release);
            });
            let mut snapshot = reader.snapshot().unwrap();
            while !done.load(Ordering::Acquire) {
                let before = *snapshot.edition();
                match reader.refresh(&mut snapshot) {
                    Ok(newer) => seen.fetch_add(newer.into(), Ordering::Relaxed),
                    Err(ReadError::Overrun) => continue,
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(snapshot[5], snapshot[590], "torn");
                let others = || {
                    snapshot
                        .iter()
                        .enumerate()
                        .filter(|(n, _)| ![5, 590].contains(n))
                };
                assert!(others().all(|(_, word)| *word == snapshot[0]), "torn");
                assert!(snapshot.edition().version >= before.version);
                assert_eq!(snapshot.edition().version, snapshot[5] + 1);
            }
            let seen = seen.load(Ordering::Relaxed);
            assert!(seen > 10, "{seen} versions seen");
        });
    }
}

#[test]
fn regions_published_together_are_read_together() {
    let mut acl = Writer::<[u64]>::create(&Spec::array::<u64>(64)).unwrap();
    let mut routes = Writer::<u64>::create(&Spec::of::<u64>()).unwrap();
    let (acl_reader, routes_reader) = (reader(&acl), reader(&routes));
    routes.publish().unwrap();
    let publish = |acl: &mut Writer<[u64]>, routes: &mut Writer<u64>, value| {
        acl.edit_all().fill(value);
        *routes.edit_all() = value;
        publish_together(&mut [acl.publisher(), routes.publisher()]).unwrap()
    };
    assert_eq!(publish(&mut acl, &mut routes, 0), 2, "newer than either");
    let (mut a, mut r) = (
        acl_reader.snapshot().unwrap(),
        routes_reader.snapshot().unwrap(),
    );
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..30_000).for_each(|value| {
                publish(&mut acl, &mut routes, value);
            });
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            match read_together(&mut [acl_reader.part(&mut a), routes_reader.part(&mut r)]) {
                Ok(version) => {
                    assert!(a.iter().all(|word| *word == *r), "parts of two versions");
                    assert_eq!(version, *r + 2);
                }
                Err(error) => assert_eq!(error, ReadError::Overrun),
            }
        }
    });
    // What is published alone is not together, even where versions happen to agree.
    *acl.edit_all().first_mut().unwrap() = 1;
    *routes.edit_all() += 1;
    assert_eq!(acl.publish(), routes.publish());
    let mut parts = [acl_reader.part(&mut a), routes_reader.part(&mut r)];
    assert_eq!(
        read_together(&mut parts).unwrap_err(),
        ReadError::NotTogether
    );
}

#[test]
fn a_reader_cannot_write() {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
    let mut writer = Writer::<u64>::create(&Spec::of::<u64>()).unwrap();
    writer.publish().unwrap();
    let fd = writer.fd();
    assert!(rustix::io::write(fd, &[1]).is_err());
    assert!(rustix::fs::ftruncate(fd, 0).is_err());
    assert!(rustix::fs::ftruncate(fd, 1 << 20).is_err());
    let map = |access| {
        // SAFETY: no existing mapping is replaced; nothing is read or written through it.
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, access, MapFlags::SHARED, fd, 0) }
    };
    assert!(map(ProtFlags::READ | ProtFlags::WRITE).is_err());
    let read_only = map(ProtFlags::READ).unwrap();
    // SAFETY: the mapping was just made and is used by nothing else.
    let opened = unsafe {
        rustix::mm::mprotect(read_only, 4096, MprotectFlags::READ | MprotectFlags::WRITE)
    };
    assert!(opened.is_err(), "nor after the fact");
    // SAFETY: as above.
    unsafe { rustix::mm::munmap(read_only, 4096) }.unwrap();
}

#[test]
fn what_is_not_a_region_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let error = Reader::<u64>::open(file.into(), "").unwrap_err();
    assert!(matches!(error, OpenError::NotARegion(_)), "{error}");

    let plain = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&plain, 1 << 16).unwrap();
    let error = Reader::<u64>::open(plain, "").unwrap_err();
    assert!(error.to_string().contains("could shrink"), "{error}");

    let writer = Writer::<u64>::create(&Spec::of::<u64>().schema("one")).unwrap();
    let fd = || writer.fd().try_clone_to_owned().unwrap();
    let error = Reader::<u64>::open(fd(), "two").unwrap_err();
    assert!(matches!(error, OpenError::Schema { .. }), "{error}");
    let error = Reader::<[u64; 2]>::open(fd(), "one").unwrap_err();
    assert_eq!(error, OpenError::Type { found: 8 });
    assert!(Reader::<[u8]>::open(fd(), "one").is_ok(), "bytes are bytes");

    for (spec, text) in [
        (Spec::bytes(0), "1 to 4294967296 bytes"),
        (Spec::bytes(8).images(1), "2 to 8 images"),
        (Spec::bytes(7), "cannot be a value of u64"),
    ] {
        let error = Writer::<u64>::create(&spec).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_closed_region_stays_readable() {
    let mut writer = Writer::<u64>::create(&Spec::of::<u64>()).unwrap();
    let reader = reader(&writer);
    *writer.edit_all() = 5;
    writer.publish().unwrap();
    assert!(!reader.is_closed());
    drop(writer);
    assert!(reader.is_closed());
    assert_eq!(*reader.snapshot().unwrap(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a plain vector: readers have what it was at the last publish, the writer
    /// what it is, and a publish changes no more lines than were touched.
    #[test]
    fn a_region_is_a_versioned_vector(
        len in 1usize..20_000,
        images in 2usize..=8,
        steps in proptest::collection::vec((0u8..8, any::<u16>(), 1usize..5000, any::<u8>()), 1..60),
    ) {
        let mut writer = Writer::<[u8]>::create(&Spec::bytes(len).images(images)).unwrap();
        let reader = reader(&writer);
        let (mut working, mut published) = (vec![0; len], None);
        for (kind, at, count, byte) in steps {
            match kind {
                0..5 => {
                    let at = usize::from(at) % len;
                    let count = if kind < 3 { count % 9 } else { count }.min(len - at);
                    let clean = writer.dirty_lines() == 0;
                    writer.bytes_mut(at, count).fill(byte);
                    working[at..at + count].fill(byte);
                    if clean {
                        let last = (at + count).saturating_sub(1).max(at);
                        let touched = if count == 0 { 0 } else { last / LINE - at / LINE + 1 };
                        prop_assert_eq!(writer.dirty_lines(), touched);
                    }
                }
                5 if published.is_some() => {
                    writer.rollback();
                    working = published.clone().unwrap_or_default();
                }
                _ => {
                    writer.publish().unwrap();
                    published = Some(working.clone());
                }
            }
            prop_assert_eq!(writer.bytes(), &working);
            match &published {
                Some(published) => prop_assert_eq!(&reader.snapshot().unwrap()[..], &published[..]),
                None => prop_assert_eq!(reader.snapshot().unwrap_err(), ReadError::Empty),
            }
        }
    }
}

/// Reserved huge pages, where the machine has any; else an error, not a signal later. A
/// region of many of their size works either way, in whatever pages there are.
#[test]
fn huge_pages_are_taken_or_done_without() {
    const LEN: usize = (5 << 20) + 100;
    for reserved in [false, true] {
        let created = Writer::<[u8]>::create(&Spec::bytes(LEN).huge_pages(reserved));
        let mut writer = match created {
            Ok(writer) => writer,
            Err(error) if reserved => {
                println!("skipped: no huge pages are reserved here: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        writer.publish().unwrap();
        let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned().unwrap(), "").unwrap();
        let mut snapshot = reader.snapshot().unwrap();
        for round in 1..5u8 {
            // Few lines far apart, as a list; then so many that only the bits tell.
            let step = if round < 3 { 1 << 20 } else { 64 };
            let mut expected = snapshot.to_vec();
            for at in (usize::from(round)..LEN).step_by(step) {
                writer.bytes_mut(at, 1)[0] = round;
                expected[at] = round;
            }
            writer.publish().unwrap();
            assert!(reader.refresh(&mut snapshot).unwrap());
            assert!(
                snapshot.bytes() == expected,
                "round {round}, reserved: {reserved}"
            );
        }
    }
}

/// Somebody else's memory may be sealed and yet wrong: what its control word names is read
/// only if it can be there.
#[test]
fn a_version_that_cannot_be_is_none() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    let mut writer = Writer::<[u64]>::create(&Spec::array::<u64>(10)).unwrap();
    writer.publish().unwrap();
    let file = File::from(writer.fd().try_clone_to_owned().unwrap());
    let mut bytes = vec![0; 3 * 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let forged = |control: u64| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let forged = File::from(memfd_create("forged", flags).unwrap());
        forged.write_all_at(&bytes, 0).unwrap();
        forged.write_all_at(&control.to_ne_bytes(), 64).unwrap();
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE;
        fcntl_add_seals(&forged, seals).unwrap();
        Reader::<[u64]>::open(forged.into(), "").unwrap()
    };
    assert_eq!(forged(1 << 3).snapshot().unwrap().edition().version, 1);
    // Images 3 and 7 of two; version 0; a version beyond the last.
    for control in [3, 1 << 3 | 7, 1, u64::MAX, u64::MAX << 3] {
        let reader = forged(control);
        assert_eq!(
            reader.snapshot().unwrap_err(),
            ReadError::Empty,
            "{control:x}"
        );
        assert_eq!(reader.version(), 0);
    }
}
