//! The directory of a write-ahead log: whatever becomes of its files, opening it finds a
//! beginning of what was written, or says what is damaged; and what it then writes is found.
//!
//! The input is a list of parts, see `parts.rs`: the first byte says whether the rest is
//! appended, becomes a checkpoint, or happens to a file (its end is cut off, a bit flips, or it
//! is replaced by other bytes), after which the log is opened again.
#![no_main]

#[path = "../parts.rs"]
mod parts;

use std::fs;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use stateplane_host::wal::{Found, Wal};

/// Where files need no disk.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a directory for one run")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).expect("our own directory").flatten();
    let mut all: Vec<PathBuf> = all.map(|entry| entry.path()).collect();
    all.retain(|path| path.is_file());
    all.sort_unstable();
    all
}

/// Something happens to a file: 0 cuts it, 1 flips a bit, else its contents are replaced.
fn hurt(dir: &Path, how: u8, bytes: &[u8]) {
    let files = files(dir);
    let (Some(&[which, a, b]), false) = (bytes.first_chunk::<3>(), files.is_empty()) else {
        return;
    };
    let path = &files[usize::from(which) % files.len()];
    let mut content = fs::read(path).expect("our own file");
    // Space allocated ahead is zeros: it is not what interests.
    let used = content.iter().rposition(|byte| *byte != 0);
    content.truncate(used.map_or(0, |last| last + 1));
    let at = usize::from(u16::from_be_bytes([a, b])) % content.len().max(1);
    match how {
        0 => content.truncate(at),
        1 if !content.is_empty() => content[at] ^= 1 << (which % 8),
        _ => content = bytes[3..].to_vec(),
    }
    fs::write(path, content).expect("our own file");
}

/// What a log was found to hold: its checkpoint, then its records; nothing if it has none.
fn read(found: Found) -> Vec<Vec<u8>> {
    match found {
        Found::Memory {
            checkpoint,
            records,
            ..
        } => [vec![checkpoint], records].concat(),
        Found::Blank | Found::Lost(_) => Vec::new(),
    }
}

fuzz_target!(|data: &[u8]| {
    let dir = folder();
    let open = || Wal::open(dir.path(), "fuzz");
    let mut known: Vec<Vec<u8>> = Vec::new();
    let mut wal = open().expect("a new directory").0;
    for part in parts::split(data).take(12) {
        let Some((&what, bytes)) = part.split_first() else {
            continue;
        };
        match what % 8 {
            0..3 if !known.is_empty() => {
                wal.append(bytes).expect("there is room");
                known.push(bytes.to_vec());
            }
            0..4 => {
                // No replica's checkpoint is empty.
                wal.checkpoint(part.to_vec(), true).expect("there is room");
                known = vec![part.to_vec()];
            }
            how => {
                drop(wal);
                hurt(dir.path(), how % 3, bytes);
                let Ok((again, found)) = open() else {
                    return; // why is said, and nothing is changed
                };
                let found = read(found);
                assert!(known.starts_with(&found), "nothing is invented");
                (wal, known) = (again, found);
            }
        }
    }
    drop(wal);
    let (_, found) = open().expect("what was opened and written to is opened again");
    assert_eq!(read(found), known);
});
