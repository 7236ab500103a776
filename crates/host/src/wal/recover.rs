//! What a crash left of a log.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use stateplane_wire::wal::{Ending, FileHead, Kind, scan};

use super::{Stats, WalError, checkpoint, sync_dir};

/// What was in a log's directory.
#[derive(Debug)]
pub enum Found {
    /// Nothing: it is new.
    Blank,
    /// The newest checkpoint and what followed.
    Memory {
        /// The checkpoint.
        checkpoint: Vec<u8>,
        /// The records after it.
        records: Vec<Vec<u8>>,
        /// What a crash had left unfinished.
        torn: Option<Torn>,
    },
    /// Its memory was damaged: now, or earlier and not replaced since.
    Lost(Option<Damage>),
}

/// A record that was being written, and was cut off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    /// In which file.
    pub path: PathBuf,
    /// Where it began.
    pub at: u64,
    /// Bytes that were there of it.
    pub bytes: u64,
}

/// A damaged file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Which file.
    pub path: PathBuf,
    /// Where in it.
    pub at: u64,
    /// What was found.
    pub what: &'static str,
    /// Where all files are kept now.
    pub kept: PathBuf,
}

/// Files called `NUMBER.EXTENSION`, by number.
pub(super) fn numbered(dir: &Path, extension: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str());
        let number = number.and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == extension)) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Why no memory can be made of the files.
enum Trouble {
    Damage {
        path: PathBuf,
        at: usize,
        what: &'static str,
    },
    Wal(WalError),
}

impl From<WalError> for Trouble {
    fn from(error: WalError) -> Self {
        Self::Wal(error)
    }
}

struct Memory {
    checkpoint: (u64, Vec<u8>),
    records: Vec<Vec<u8>>,
    torn: Option<Torn>,
}

/// Reads the directory; also answers where the log goes on.
pub(super) fn recover(dir: &Path, name: &[u8]) -> Result<(Found, Stats), WalError> {
    let failed = |error| WalError::io("read", dir, error);
    for (_, aside) in numbered(dir, "aside").map_err(failed)? {
        fs::remove_file(&aside).map_err(|error| WalError::io("remove", &aside, error))?;
    }
    let checkpoints = numbered(dir, "ckpt").map_err(failed)?;
    let segments = numbered(dir, "wal").map_err(failed)?;
    let lost = || -> io::Result<bool> {
        let mut names = fs::read_dir(dir)?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        Ok(names.any(|name| name.starts_with("damaged-")))
    };
    let lost = lost().map_err(failed)?;
    match remember(name, &checkpoints, &segments) {
        Ok(None) if lost => Ok((Found::Lost(None), Stats::default())),
        Ok(None) => Ok((Found::Blank, Stats::default())),
        Ok(Some(memory)) => {
            tidy(dir, &memory).map_err(|error| WalError::io("tidy", dir, error))?;
            let (at, checkpoint) = memory.checkpoint;
            let stats = Stats {
                last: at + memory.records.len() as u64,
                checkpoint: at,
                checkpoint_bytes: checkpoint.len() as u64,
                bytes: memory.records.iter().map(|r| r.len() as u64).sum(),
                ..Stats::default()
            };
            let (records, torn) = (memory.records, memory.torn);
            let found = Found::Memory {
                checkpoint,
                records,
                torn,
            };
            Ok((found, stats))
        }
        Err(Trouble::Wal(error)) => Err(error),
        Err(Trouble::Damage { path, at, what }) => {
            let files = checkpoints
                .into_iter()
                .chain(segments)
                .map(|(_, path)| path);
            let kept =
                set_aside(dir, files).map_err(|e| WalError::io("set aside files of", dir, e))?;
            let at = at as u64;
            let damage = Damage {
                path,
                at,
                what,
                kept,
            };
            Ok((Found::Lost(Some(damage)), Stats::default()))
        }
    }
}

/// The memory that the files hold; `None` if there are none.
fn remember(
    name: &[u8],
    checkpoints: &[(u64, PathBuf)],
    segments: &[(u64, PathBuf)],
) -> Result<Option<Memory>, Trouble> {
    let damage = |path: &Path, at, what| Trouble::Damage {
        path: path.to_owned(),
        at,
        what,
    };
    let Some((at, path)) = checkpoints.last() else {
        // The first checkpoint was not in place yet: nothing had been promised, and no
        // record written.
        for (_, path) in segments {
            let bytes = read(path)?;
            if check_head(&bytes, path, name, Kind::Segment)
                .is_ok_and(|start| bytes[start..].iter().any(|byte| *byte != 0))
            {
                return Err(damage(
                    path,
                    0,
                    "records without the checkpoint before them",
                ));
            }
        }
        return Ok(None);
    };
    let bytes = read(path)?;
    let start = check_head(&bytes, path, name, Kind::Checkpoint)?;
    let mut found = scan(&bytes, start, *at);
    let (Some(body), true) = (found.records.pop(), found.ending == Ending::Clean) else {
        return Err(damage(path, start, "the checkpoint fails its check"));
    };
    let mut memory = Memory {
        checkpoint: (*at, body),
        records: Vec::new(),
        torn: None,
    };
    let head = head_len(name);
    // The last segment that begins at or before the next record has it.
    let next = *at + 1;
    let first = segments.iter().rposition(|(first, _)| *first <= next);
    let mut torn: Option<Torn> = None;
    for (first, path) in &segments[first.unwrap_or(0)..] {
        let expected = next + memory.records.len() as u64;
        let bytes = read(path)?;
        let start = match check_head(&bytes, path, name, Kind::Segment) {
            Ok(start) => start,
            // It was being created: nothing can be in it.
            Err(Trouble::Damage { .. }) if bytes.len() <= head && *first == expected => continue,
            Err(trouble) => return Err(trouble),
        };
        let mut found = scan(&bytes, start, *first);
        let gap = *first > expected || torn.is_some() && !found.records.is_empty();
        if gap {
            let (path, at) = torn.map_or((path.clone(), 0), |t| (t.path, t.at));
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            return Err(damage(&path, at, "records are missing before later ones"));
        }
        match found.ending {
            Ending::Damaged => {
                return Err(damage(
                    path,
                    found.end,
                    "a record that was synced fails its check",
                ));
            }
            Ending::Torn => {
                let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
                torn = Some(Torn {
                    path: path.clone(),
                    at: found.end as u64,
                    bytes: (end - found.end) as u64,
                });
            }
            Ending::Clean => {}
        }
        // Records that the checkpoint has already are left out.
        let known = usize::try_from(expected - *first).unwrap_or(usize::MAX);
        found.records.drain(..known.min(found.records.len()));
        memory.records.append(&mut found.records);
    }
    memory.torn = torn;
    Ok(Some(memory))
}

fn head_len(name: &[u8]) -> usize {
    let mut bytes = Vec::new();
    FileHead {
        kind: Kind::Segment,
        sequence: 0,
        name,
    }
    .encode(&mut bytes);
    bytes.len()
}

fn read(path: &Path) -> Result<Vec<u8>, WalError> {
    fs::read(path).map_err(|error| WalError::io("read", path, error))
}

/// Checks a file's head and answers where it ends.
fn check_head(bytes: &[u8], path: &Path, name: &[u8], kind: Kind) -> Result<usize, Trouble> {
    let (head, end) = FileHead::decode(bytes).map_err(|malformed| Trouble::Damage {
        path: path.to_owned(),
        at: 0,
        what: malformed.0,
    })?;
    if head.name != name {
        return Err(Trouble::Wal(WalError::Foreign {
            path: path.to_owned(),
            found: String::from_utf8_lossy(head.name).into_owned(),
            expected: String::from_utf8_lossy(name).into_owned(),
        }));
    }
    let number = path
        .file_stem()
        .and_then(|s| s.to_str()?.parse::<u64>().ok());
    if head.kind != kind || number != Some(head.sequence) {
        return Err(Trouble::Damage {
            path: path.to_owned(),
            at: 0,
            what: "the file was renamed",
        });
    }
    Ok(end)
}

/// Cuts a torn tail off and removes what a crash kept from being removed.
fn tidy(dir: &Path, memory: &Memory) -> io::Result<()> {
    if let Some(torn) = &memory.torn {
        let file = OpenOptions::new().write(true).open(&torn.path)?;
        file.set_len(torn.at)?;
        file.sync_all()?;
    }
    checkpoint::remove_older(dir, memory.checkpoint.0)?;
    // A segment that holds nothing yet has the name of the one to come.
    let next = memory.checkpoint.0 + memory.records.len() as u64 + 1;
    for (first, path) in numbered(dir, "wal")? {
        if first >= next {
            fs::remove_file(path)?;
        }
    }
    sync_dir(dir)
}

/// Moves files into a directory of their own.
fn set_aside(dir: &Path, files: impl Iterator<Item = PathBuf>) -> io::Result<PathBuf> {
    let free = (1..).map(|n| dir.join(format!("damaged-{n}")));
    let kept = free
        .into_iter()
        .find(|path| !path.exists())
        .expect("numbers do not end");
    fs::create_dir(&kept)?;
    for file in files {
        let name = file.file_name().expect("files have names");
        fs::rename(&file, kept.join(name))?;
    }
    sync_dir(&kept)?;
    sync_dir(dir)?;
    Ok(kept)
}
