//! The board: which writer of each region counts, for all to see without asking.
//!
//! A file that the broker alone writes, mapped by every process that uses regions. For
//! each region it has two epochs: *claimed*, the newest that a writer was promised, and
//! *current*, the one whose object readers should have. A writer is fenced as soon as a
//! later epoch is claimed; readers turn away from its object when the next one is there.
//! Between the two, its last version stays readable.
//!
//! Being a file, it outlives the broker: a broker that starts again never promises an
//! epoch twice, and those who have the file mapped notice nothing. It lies in memory, as the
//! regions do, and copies on other machines outlive it: so the epochs of a new board begin with
//! the time of day, and what comes after a restart of the machine is never taken for what was
//! before.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rustix::fs::FlockOperation;
use zerocopy::IntoBytes;

use crate::clock;
use crate::layout::NAME_MAX;
use crate::memory::{LINE, Line, Mapping};
use crate::name::Name;

/// Regions one board has room for.
pub const MAX_REGIONS: usize = 4096;
const MAGIC: u64 = u64::from_ne_bytes(*b"SPboard1");
const SLOT: usize = LINE + NAME_MAX;
const BYTES: usize = LINE + MAX_REGIONS * SLOT;
/// The file's name in the broker's directory.
const FILE: &str = "board";

/// The word of the head that says where epochs begin.
const FIRST: usize = 8;

/// Words of a slot.
const CLAIMED: usize = 0;
const CURRENT: usize = 8;
const OWNER: usize = 16;
const ACCESS: usize = 24;
const NAME_LEN: usize = 32;

/// What the board keeps about a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// None: the slot is free for another region.
    pub(crate) name: Option<Name>,
    pub(crate) claimed: u64,
    pub(crate) current: u64,
    pub(crate) owner: u32,
    pub(crate) access: u8,
}

#[derive(Debug)]
pub(crate) struct Board {
    map: Mapping,
    /// Holds the lock, if this is the broker's.
    _file: File,
}

impl Board {
    /// The broker's: made if it is not there, and locked.
    pub(crate) fn serve(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o644);
        let file = options.open(&path)?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|_| {
            let text = format!("another broker serves {}", dir.display());
            io::Error::new(io::ErrorKind::AddrInUse, text)
        })?;
        if file.metadata()?.len() < BYTES as u64 {
            file.set_len(BYTES as u64)?;
        }
        let map = Mapping::new(file.as_fd(), BYTES, true)?;
        match map.load_word(0, Acquire) {
            MAGIC => {}
            0 => {
                // More than one promise a millisecond nobody asks for.
                map.store_word(FIRST, clock::day() / 1_000_000, Relaxed);
                map.store_word(0, MAGIC, Release);
            }
            _ => {
                let text = format!(
                    "{} is not a board of this release; remove it",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(Self { map, _file: file })
    }

    /// Everybody else's.
    pub(crate) fn look(dir: &Path) -> io::Result<Self> {
        let file = File::open(dir.join(FILE))?;
        let short = file.metadata()?.len() < BYTES as u64;
        let map = if short {
            None
        } else {
            Some(Mapping::new(file.as_fd(), BYTES, false)?)
        };
        match map.filter(|map| map.load_word(0, Acquire) == MAGIC) {
            Some(map) => Ok(Self { map, _file: file }),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a board of this release",
            )),
        }
    }

    #[inline]
    fn at(slot: usize, word: usize) -> usize {
        assert!(slot < MAX_REGIONS, "a slot that the broker named");
        LINE + slot * SLOT + word
    }

    /// The newest epoch that a writer was promised.
    #[inline]
    pub(crate) fn claimed(&self, slot: usize) -> u64 {
        self.map.load_word(Self::at(slot, CLAIMED), Acquire)
    }

    /// The epoch that readers should have.
    #[inline]
    pub(crate) fn current(&self, slot: usize) -> u64 {
        self.map.load_word(Self::at(slot, CURRENT), Acquire)
    }

    pub(crate) fn row(&self, slot: usize) -> Row {
        let word = |word| self.map.load_word(Self::at(slot, word), Relaxed);
        let first = self.map.load_word(FIRST, Relaxed);
        let len = usize::try_from(word(NAME_LEN)).unwrap_or(0).min(NAME_MAX);
        let mut name = vec![0; len];
        self.map.load(Self::at(slot, LINE), &mut name);
        Row {
            name: String::from_utf8(name).ok().and_then(|n| n.parse().ok()),
            claimed: word(CLAIMED).max(first),
            current: word(CURRENT).max(first),
            owner: word(OWNER) as u32,
            access: word(ACCESS) as u8,
        }
    }

    /// Writes a row, by the broker. A writer's and a reader's epoch are each one word, so
    /// nobody sees half of what matters to him; a broker that dies amid this leaves an
    /// epoch promised that nobody has, which does no harm.
    pub(crate) fn write(&self, slot: usize, row: &Row) {
        let store = |word, value| self.map.store_word(Self::at(slot, word), value, Release);
        store(CLAIMED, row.claimed);
        let mut lines = [Line::ZERO; NAME_MAX / LINE];
        let name = row.name.as_ref().map_or("", Name::as_str);
        lines.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        self.map.store(Self::at(slot, LINE), &lines);
        store(NAME_LEN, name.len() as u64);
        store(OWNER, row.owner.into());
        store(ACCESS, row.access.into());
        store(CURRENT, row.current);
    }
}
