//! What is written is found again, or it is said what happened to it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::recover::numbered;
use super::{Found, Wal, WalError};

fn open(dir: &Path) -> (Wal, Found) {
    Wal::open(dir, "edge/r1").expect("the directory is fine")
}

fn record(n: usize) -> Vec<u8> {
    vec![n as u8; n * 37 % 900]
}

/// A directory with a checkpoint and these many records after it.
fn written(records: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut wal, found) = open(dir.path());
    assert!(matches!(found, Found::Blank));
    wal.checkpoint(b"begin".to_vec(), true).expect("checkpoint");
    for n in 0..records {
        wal.append(&record(n)).expect("append");
    }
    let stats = wal.stats();
    assert_eq!((stats.last, stats.syncs), (records as u64, records as u64));
    dir
}

fn memory(found: Found) -> (Vec<u8>, Vec<Vec<u8>>, bool) {
    match found {
        Found::Memory {
            checkpoint,
            records,
            torn,
        } => (checkpoint, records, torn.is_some()),
        other => panic!("a memory was expected: {other:?}"),
    }
}

fn segment(dir: &Path) -> PathBuf {
    let segments = numbered(dir, "wal").expect("list");
    segments.last().expect("a segment").1.clone()
}

/// The segment's length without what was allocated ahead.
fn used(path: &Path) -> usize {
    let bytes = fs::read(path).expect("read");
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}

#[test]
fn records_and_checkpoints_are_found_again() {
    let dir = written(20);
    let all: Vec<_> = (0..20).map(record).collect();
    let (mut wal, found) = open(dir.path());
    assert_eq!(memory(found), (b"begin".to_vec(), all.clone(), false));
    wal.append(b"more").expect("append");
    drop(wal);
    let (mut wal, found) = open(dir.path());
    let (_, records, _) = memory(found);
    assert_eq!(records[..20], all);
    assert_eq!(records[20], b"more");

    wal.checkpoint(b"middle".to_vec(), false)
        .expect("checkpoint");
    wal.append(b"after").expect("append");
    drop(wal);
    let (mut wal, found) = open(dir.path());
    assert_eq!(
        memory(found),
        (b"middle".to_vec(), vec![b"after".to_vec()], false)
    );
    assert_eq!(numbered(dir.path(), "ckpt").expect("list").len(), 1);
    wal.checkpoint(b"end".to_vec(), true).expect("checkpoint");
    drop(wal);
    let (_, found) = open(dir.path());
    assert_eq!(memory(found), (b"end".to_vec(), vec![], false));
    assert!(numbered(dir.path(), "wal").expect("list").len() <= 1);
}

#[test]
fn until_a_checkpoint_is_in_place_the_records_before_it_count() {
    let dir = written(5);
    let (mut wal, _) = open(dir.path());
    let saved: Vec<_> = ["wal", "ckpt"]
        .into_iter()
        .flat_map(|ext| numbered(dir.path(), ext).expect("list"))
        .map(|(_, path)| (path.clone(), fs::read(path).expect("read")))
        .collect();
    wal.checkpoint(b"late".to_vec(), false).expect("checkpoint");
    wal.append(b"after").expect("append");
    drop(wal);
    // As if the process had died before the rename.
    for (_, path) in numbered(dir.path(), "ckpt").expect("list") {
        fs::rename(&path, path.with_extension("aside")).expect("rename");
    }
    for (path, bytes) in saved {
        fs::write(path, bytes).expect("write");
    }
    let (_, found) = open(dir.path());
    let (checkpoint, records, _) = memory(found);
    assert_eq!((checkpoint, records.len()), (b"begin".to_vec(), 6));
    assert_eq!(records[5], b"after");
    assert!(numbered(dir.path(), "aside").expect("list").is_empty());
}

#[test]
fn a_torn_tail_is_cut_and_said() {
    let dir = written(6);
    let path = segment(dir.path());
    let end = used(&path);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open");
    file.set_len(end as u64 - 10).expect("cut");
    let (mut wal, found) = open(dir.path());
    let Found::Memory { records, torn, .. } = found else {
        panic!("{found:?}");
    };
    let torn = torn.expect("torn");
    assert_eq!((records.len(), &torn.path), (5, &path));
    assert_eq!(torn.at + torn.bytes, end as u64 - 10);
    wal.append(b"again").expect("append");
    drop(wal);
    let (_, found) = open(dir.path());
    let (_, records, torn) = memory(found);
    assert_eq!((records.len(), torn), (6, false));
    assert_eq!(records[5], b"again");
}

#[test]
fn damage_is_told_and_set_aside_and_not_forgotten() {
    let dir = written(6);
    let path = segment(dir.path());
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("open");
    file.write_all_at(b"rot", used(&path) as u64 / 2)
        .expect("write");
    let (wal, found) = open(dir.path());
    let Found::Lost(Some(damage)) = found else {
        panic!("{found:?}");
    };
    assert_eq!(damage.path, path);
    assert!(damage.kept.join(path.file_name().expect("name")).exists());
    drop(wal);
    let (mut wal, found) = open(dir.path());
    assert!(matches!(found, Found::Lost(None)), "{found:?}");
    wal.checkpoint(b"new life".to_vec(), true)
        .expect("checkpoint");
    drop(wal);
    assert_eq!(memory(open(dir.path()).1).0, b"new life");
}

#[test]
fn a_missing_segment_is_damage() {
    let dir = written(3);
    let (mut wal, _) = open(dir.path());
    wal.append(b"in a segment of its own").expect("append");
    drop(wal);
    let segments = numbered(dir.path(), "wal").expect("list");
    assert_eq!(segments.len(), 2);
    fs::remove_file(&segments[0].1).expect("remove");
    assert!(matches!(open(dir.path()).1, Found::Lost(Some(_))));
}

#[test]
fn what_is_wrong_with_a_directory_is_said() {
    let dir = written(1);
    let other = Wal::open(dir.path(), "edge/r2").expect_err("another's");
    assert!(matches!(&other, WalError::Foreign { found, .. } if found == "edge/r1"));
    assert!(!other.help().is_empty());
    let (first, _) = open(dir.path());
    let second = Wal::open(dir.path(), "edge/r1").expect_err("in use");
    assert!(matches!(second, WalError::InUse { .. }), "{second}");
    drop(first);
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("write");
    let error = Wal::open(&file.join("wal"), "edge/r1").expect_err("not a directory");
    assert!(error.to_string().contains("cannot create"), "{error}");
    assert!(error.help().contains("`dir`"), "{}", error.help());
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let dir = written(2);
    let (mut wal, _) = open(dir.path());
    wal.append(b"good").expect("append");
    let segment = wal.segment.as_mut().expect("in use");
    segment.file = fs::File::open(&segment.path).expect("read-only");
    let error = wal.append(b"bad").expect_err("not writable");
    assert!(matches!(error, WalError::Io { .. }), "{error}");
    assert!(matches!(wal.append(b"good"), Err(WalError::Closed)));
    assert!(matches!(
        wal.checkpoint(vec![], true),
        Err(WalError::Closed)
    ));
    drop(wal);
    assert_eq!(memory(open(dir.path()).1).1.len(), 3);
}

/// A small file system of its own; `None` where the test may not mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("none", dir.path(), "tmpfs", flags, c"size=512k") {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                println!("skipped: a small file system cannot be mounted here: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_said_and_what_was_written_stays() {
    let Some(disk) = Small::mount() else { return };
    let (mut wal, _) = open(disk.0.path());
    wal.checkpoint(b"begin".to_vec(), true).expect("checkpoint");
    let big = vec![7; 40_000];
    let mut written = 0;
    let error = loop {
        match wal.append(&big) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the disk is small");
    };
    assert!(error.help().contains("full"), "{error}: {}", error.help());
    assert!(written > 5 && matches!(wal.append(b"x"), Err(WalError::Closed)));
    drop(wal);
    let (_, records, _) = memory(open(disk.0.path()).1);
    assert_eq!(records.len(), written);
}

/// Copies the files of a log into a fresh directory.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copy");
    }
    to
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_segment_cut_anywhere_gives_a_prefix(cut in any::<prop::sample::Index>()) {
        let origin = written(12);
        let dir = copy(origin.path());
        let path = segment(dir.path());
        let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
        file.set_len(cut.index(used(&path) + 1) as u64).expect("cut");
        let (checkpoint, records, _) = memory(open(dir.path()).1);
        prop_assert_eq!(checkpoint, b"begin");
        prop_assert!(records.len() <= 12);
        for (n, found) in records.iter().enumerate() {
            prop_assert_eq!(found, &record(n));
        }
        // Once cut, it is as if nothing had been there.
        let again = memory(open(dir.path()).1);
        prop_assert_eq!((again.1.len(), again.2), (records.len(), false));
    }

    #[test]
    fn a_changed_byte_anywhere_is_damage(
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
        extension in prop_oneof![Just("wal"), Just("ckpt")],
    ) {
        let origin = written(12);
        let dir = copy(origin.path());
        let path = numbered(dir.path(), extension).expect("list")[0].1.clone();
        let at = at.index(used(&path));
        let mut bytes = fs::read(&path).expect("read");
        bytes[at] ^= flip;
        fs::write(&path, bytes).expect("write");
        let lost = match Wal::open(dir.path(), "edge/r1") {
            Ok((_, Found::Lost(Some(damage)))) => damage.kept.exists(),
            other => panic!("{other:?}"),
        };
        prop_assert!(lost);
    }
}
