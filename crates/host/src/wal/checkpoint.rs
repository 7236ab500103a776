//! Writing a checkpoint: aside, synced, renamed, and then the old files go.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use stateplane_wire::wal::{FileHead, Kind, encode_frame};

use super::recover::numbered;
use super::{WalError, sync_dir};

/// A checkpoint on its way to the disk.
#[derive(Debug)]
pub(super) struct Writing {
    at: u64,
    thread: JoinHandle<Result<(), WalError>>,
}

impl Writing {
    pub(super) fn start(dir: &Path, name: &[u8], at: u64, body: Vec<u8>) -> Result<Self, WalError> {
        let (dir, name) = (dir.to_owned(), name.to_vec());
        let work = {
            let dir = dir.clone();
            move || write(&dir, &name, at, &body)
        };
        let builder = std::thread::Builder::new().name("checkpoint".to_owned());
        let thread = builder
            .spawn(work)
            .map_err(|error| WalError::io("start a thread for", &dir, error))?;
        Ok(Self { at, thread })
    }

    pub(super) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for it; answers the last record in it.
    pub(super) fn finish(self) -> Result<u64, WalError> {
        self.thread.join().unwrap_or(Err(WalError::Closed))?;
        Ok(self.at)
    }
}

fn write(dir: &Path, name: &[u8], at: u64, body: &[u8]) -> Result<(), WalError> {
    let path = dir.join(format!("{at:020}.ckpt"));
    let aside = dir.join(format!("{at:020}.aside"));
    let mut bytes = Vec::with_capacity(body.len() + name.len() + 128);
    FileHead {
        kind: Kind::Checkpoint,
        sequence: at,
        name,
    }
    .encode(&mut bytes);
    encode_frame(at, body, &mut bytes);
    let written = || -> io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        sync_dir(dir)
    };
    written().map_err(|error| WalError::io("write", &path, error))?;
    remove_older(dir, at).map_err(|error| WalError::io("tidy", dir, error))
}

/// Removes what the checkpoint `at` made superfluous: older ones, and segments that
/// hold no later record.
pub(super) fn remove_older(dir: &Path, at: u64) -> io::Result<()> {
    for (sequence, path) in numbered(dir, "ckpt")? {
        if sequence < at {
            fs::remove_file(path)?;
        }
    }
    let segments: Vec<(u64, PathBuf)> = numbered(dir, "wal")?;
    for pair in segments.windows(2) {
        if pair[1].0 <= at + 1 {
            fs::remove_file(&pair[0].1)?;
        }
    }
    Ok(())
}
