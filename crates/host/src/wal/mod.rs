//! A write-ahead log on disk: append-only segments and checkpoints in one directory.
//!
//! The bytes are those of `stateplane_wire::wal`; what the records say is the caller's
//! business. This is the part that knows files:
//!
//! ```text
//! DIR/lock                        held while a process uses the directory
//! DIR/00000000000000000042.wal    records from number 42 on
//! DIR/00000000000000000041.ckpt   everything up to record 41
//! DIR/*.aside                     a checkpoint being written
//! DIR/damaged-N/                  files that turned out damaged, kept
//! ```
//!
//! * [`Wal::append`] is one write and one `fdatasync`: callers gather what belongs
//!   together into one record (group commit). Space is allocated ahead, so that a sync
//!   seldom has a file's size to write.
//! * [`Wal::checkpoint`] begins a new segment, writes the checkpoint aside, syncs it,
//!   renames it into place, syncs the directory, and only then removes what is no longer
//!   needed. One that is not urgent is written by another thread while records go on.
//! * After a failed write or sync nothing is known of what is on disk (the kernel may
//!   have dropped the dirty pages and will say the next sync is fine), so the log is
//!   closed for good: [`WalError::Closed`] ever after.
//! * [`open`](Wal::open) finds what a crash left: a torn tail is cut, damage is set aside.

mod checkpoint;
mod error;
mod recover;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use stateplane_wire::wal::{FileHead, Kind, encode_frame};

use checkpoint::Writing;
pub use error::WalError;
pub use recover::{Damage, Found, Torn};

/// A segment is given up for a new one when it is longer.
const SEGMENT: u64 = 64 << 20;
/// Space allocated ahead at once.
const AHEAD: u64 = 4 << 20;

/// What a log did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes of records since the last checkpoint.
    pub bytes: u64,
    /// Records appended by this process.
    pub records: u64,
    /// Syncs of records by this process.
    pub syncs: u64,
    /// Checkpoints by this process.
    pub checkpoints: u64,
    /// The number of the last record.
    pub last: u64,
    /// The last record of the newest checkpoint.
    pub checkpoint: u64,
    /// Size of the newest checkpoint.
    pub checkpoint_bytes: u64,
}

/// An open log.
#[derive(Debug)]
pub struct Wal {
    dir: PathBuf,
    name: Vec<u8>,
    segment: Option<Segment>,
    writing: Option<Writing>,
    buffer: Vec<u8>,
    closed: bool,
    stats: Stats,
    /// Released when the process ends, however it ends.
    _lock: File,
}

/// The file that records go to.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    end: u64,
    allocated: u64,
}

impl Segment {
    /// Creates the segment whose first record will be `sequence`. Its head and its name
    /// are on disk before it is used.
    fn create(dir: &Path, name: &[u8], sequence: u64) -> Result<Self, WalError> {
        let path = dir.join(format!("{sequence:020}.wal"));
        let mut head = Vec::new();
        FileHead {
            kind: Kind::Segment,
            sequence,
            name,
        }
        .encode(&mut head);
        let made = || -> io::Result<File> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            file.write_all(&head)?;
            file.sync_all()?;
            sync_dir(dir)?;
            Ok(file)
        };
        let file = made().map_err(|error| WalError::io("create", &path, error))?;
        let end = head.len() as u64;
        Ok(Self {
            path,
            file,
            end,
            allocated: end,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let end = self.end + bytes.len() as u64;
        let failed = |what, path: &Path, error| Err(WalError::io(what, path, error));
        if end > self.allocated {
            let room = end - self.allocated + AHEAD;
            match fallocate(&self.file, FallocateFlags::empty(), self.allocated, room) {
                Ok(()) => self.allocated += room,
                // Some file systems cannot; then files grow as they are written.
                Err(rustix::io::Errno::OPNOTSUPP) => self.allocated = u64::MAX,
                // There may be room for this record, if not for so many more.
                Err(rustix::io::Errno::NOSPC) => {}
                Err(error) => return failed("allocate space for", &self.path, error.into()),
            }
        }
        if let Err(error) = self.file.write_all_at(bytes, self.end) {
            return failed("write", &self.path, error);
        }
        if let Err(error) = self.file.sync_data() {
            return failed("sync", &self.path, error);
        }
        self.end = end;
        Ok(())
    }
}

impl Wal {
    /// Opens the log in `dir`, which is created if need be, and reads what is there.
    /// `name` says whose log it is; that of somebody else is refused.
    pub fn open(dir: &Path, name: &str) -> Result<(Self, Found), WalError> {
        std::fs::create_dir_all(dir).map_err(|error| WalError::io("create", dir, error))?;
        let lock = lock(dir)?;
        let (found, place) = recover::recover(dir, name.as_bytes())?;
        let wal = Self {
            dir: dir.to_owned(),
            name: name.as_bytes().to_vec(),
            segment: None,
            writing: None,
            buffer: Vec::new(),
            closed: false,
            stats: place,
            _lock: lock,
        };
        Ok((wal, found))
    }

    /// Makes a record durable. It follows a checkpoint: on a blank or lost log, that is
    /// what has to be written first.
    ///
    /// # Panics
    /// Without any checkpoint, now or earlier.
    pub fn append(&mut self, record: &[u8]) -> Result<(), WalError> {
        assert!(self.stats.checkpoints > 0 || self.stats.checkpoint_bytes > 0);
        self.guard(|wal| {
            wal.finish_writing(false)?;
            if wal.segment.as_ref().is_none_or(|s| s.end > SEGMENT) {
                wal.rotate()?;
            }
            wal.buffer.clear();
            encode_frame(wal.stats.last + 1, record, &mut wal.buffer);
            let segment = wal.segment.as_mut().expect("just made");
            segment.append(&wal.buffer)?;
            wal.stats.last += 1;
            wal.stats.records += 1;
            wal.stats.syncs += 1;
            wal.stats.bytes += wal.buffer.len() as u64;
            Ok(())
        })
    }

    /// Replaces all records so far by `body`. If it is urgent, it is durable when this
    /// returns; else some time later, and until then the records stay.
    pub fn checkpoint(&mut self, body: Vec<u8>, urgent: bool) -> Result<(), WalError> {
        self.guard(|wal| {
            wal.finish_writing(true)?;
            wal.rotate()?;
            let at = wal.stats.last;
            wal.stats.bytes = 0;
            wal.stats.checkpoints += 1;
            wal.stats.checkpoint_bytes = body.len() as u64;
            wal.writing = Some(Writing::start(&wal.dir, &wal.name, at, body)?);
            if urgent {
                wal.finish_writing(true)?;
            }
            Ok(())
        })
    }

    /// What it did so far.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// After an error nothing more is written.
    fn guard(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), WalError>,
    ) -> Result<(), WalError> {
        if self.closed {
            return Err(WalError::Closed);
        }
        let result = act(self);
        self.closed = result.is_err();
        result
    }

    /// Goes on in a new segment.
    fn rotate(&mut self) -> Result<(), WalError> {
        if let Some(old) = self.segment.take() {
            // What was allocated ahead is not needed any more. If this fails it stays.
            let _ = old.file.set_len(old.end);
        }
        self.segment = Some(Segment::create(&self.dir, &self.name, self.stats.last + 1)?);
        Ok(())
    }

    /// Looks whether a checkpoint has been written, or waits for it.
    fn finish_writing(&mut self, wait: bool) -> Result<(), WalError> {
        let Some(writing) = self.writing.take_if(|w| wait || w.is_done()) else {
            return Ok(());
        };
        self.stats.checkpoint = writing.finish()?;
        Ok(())
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if !self.closed {
            let _ = self.finish_writing(true);
        }
    }
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn lock(dir: &Path) -> Result<File, WalError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| WalError::io("open", &path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(WalError::InUse {
            dir: dir.to_owned(),
        }),
        Err(error) => Err(WalError::io("lock", &path, error.into())),
    }
}
