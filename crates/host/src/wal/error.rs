//! Why a log cannot be used, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// The log cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The kernel refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// It is the log of somebody else.
    #[error("{} belongs to \"{found}\", not to \"{expected}\"", path.display())]
    Foreign {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// An earlier write failed.
    #[error("an earlier write failed: what is on disk is not known")]
    Closed,
}

impl WalError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// How to mend it.
    pub fn help(&self) -> &'static str {
        let Self::Io { source, .. } = self else {
            return match self {
                Self::InUse { .. } => {
                    "stop the other process, or give each replica a directory of its own"
                }
                Self::Foreign { .. } => {
                    "give each replica of each cluster a directory of its own (`dir` under `[state]`)"
                }
                _ => "start the replica again: it goes on from what is on disk",
            };
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "the disk is full: make room and start the replica again"
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "make the directory writable for the user the node runs as, or change `dir` under `[state]`"
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "change `dir` under `[state]` to a directory"
            }
            _ => {
                "look at the disk (`dmesg`); the group goes on without this replica, and takes \
                 it back when it starts again"
            }
        }
    }
}
