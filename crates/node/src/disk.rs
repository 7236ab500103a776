//! A replica's journal: what its core asks to keep, in a write-ahead log of the node.

use std::io;
use std::path::Path;

use serde::Serialize;
use stateplane_base::{Incarnation, ReplicaId};
use stateplane_group::{self as group, GroupConfig, Memory, Persist, Replica};
use stateplane_host::clock;
use stateplane_host::wal::{Found, Wal, WalError};
use stateplane_state::Store;
use tracing::{error, info, warn};

use crate::config::{Config, State};
use crate::failure::Failure;
use crate::store;

/// What a replica publishes about its journal.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DiskStatus {
    /// Where it is.
    pub dir: String,
    /// What was there at the start: `blank`, `memory` or `lost`.
    pub found: &'static str,
    /// A record was cut off at the start that had not been written to its end.
    pub torn: bool,
    /// Bytes of records since the last checkpoint.
    pub bytes: u64,
    /// Records written since the start.
    pub records: u64,
    /// Syncs of records since the start.
    pub syncs: u64,
    /// Checkpoints since the start.
    pub checkpoints: u64,
    /// The number of the last record.
    pub last: u64,
    /// The last record that the newest checkpoint holds.
    pub checkpoint: u64,
    /// Size of the newest checkpoint.
    pub checkpoint_bytes: u64,
}

/// The journal of a running replica.
pub(crate) struct Disk {
    wal: Wal,
    first: DiskStatus,
}

impl Disk {
    /// Puts on disk what the core asks for.
    pub(crate) fn persist(&mut self, what: Persist) -> io::Result<()> {
        let done = match what {
            Persist::Record(bytes) => self.wal.append(&bytes),
            Persist::Checkpoint { bytes, urgent } => self.wal.checkpoint(bytes, urgent),
        };
        done.map_err(|error| io::Error::other(format!("{error}; {}", error.help())))
    }

    pub(crate) fn status(&self) -> DiskStatus {
        let stats = self.wal.stats();
        DiskStatus {
            bytes: stats.bytes,
            records: stats.records,
            syncs: stats.syncs,
            checkpoints: stats.checkpoints,
            last: stats.last,
            checkpoint: stats.checkpoint,
            checkpoint_bytes: stats.checkpoint_bytes,
            ..self.first.clone()
        }
    }
}

/// The core of replica `me`: if the group is durable, with the memory on its disk.
pub(crate) fn replica(
    config: &Config,
    node: &str,
    group: GroupConfig,
    me: ReplicaId,
    life: Incarnation,
) -> Result<(Replica<Store>, Option<Disk>), Failure> {
    let store = store::new(config)?;
    let State::Group {
        disk: Some(dir), ..
    } = &config.state
    else {
        return Ok((Replica::new(group, me, life, store), None));
    };
    let dir = dir.join(node);
    let name = format!("{}/{node}", config.cluster.name);
    let missing = |error: WalError| Failure::missing(format!("the journal: {error}"), error.help());
    let (wal, found) = Wal::open(&dir, &name).map_err(missing)?;
    let mut first = DiskStatus {
        dir: dir.display().to_string(),
        ..DiskStatus::default()
    };
    let core = match found {
        Found::Blank => {
            first.found = "blank";
            Replica::with_disk(group, me, life, group::Disk::Blank, store)
        }
        Found::Lost(damage) => {
            first.found = "lost";
            if let Some(d) = damage {
                error!(
                    file = %d.path.display(), at = d.at, what = d.what, kept = %d.kept.display(),
                    "the journal is damaged: promises that this replica made are lost, so it begins \
                     a new life, without a vote until the others have taken it in"
                );
            }
            Replica::with_disk(group, me, life, group::Disk::Lost, store)
        }
        Found::Memory {
            checkpoint,
            records,
            torn,
        } => {
            (first.found, first.torn) = ("memory", torn.is_some());
            if let Some(t) = torn {
                warn!(
                    file = %t.path.display(), at = t.at, bytes = t.bytes,
                    "a record was being written when the process ended: it was cut off, and \
                     nobody had been told of it"
                );
            }
            let memory = Memory {
                checkpoint,
                records,
            };
            let core = Replica::recover(group, me, &memory, store, clock::now());
            core.map_err(|error| refused(&dir, error))?
        }
    };
    let seen = core.inspect();
    info!(dir = %dir.display(), found = first.found, log = seen.log_len, view = seen.view, "journal");
    Ok((core, Some(Disk { wal, first })))
}

fn refused(dir: &Path, error: group::Unreadable) -> Failure {
    Failure::missing(
        format!("the journal in {} is of no use: {error}", dir.display()),
        "start the replica with the configuration and the version that wrote it; if the other \
         replicas have the state, its directory may be removed instead",
    )
}
