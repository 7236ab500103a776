//! Snapshots to and from peers: the one mechanism for a replica that has executed
//! what did not survive, that lags behind truncation, or that has no memory.
//!
//! A snapshot is the state after slot `at` of the log of one view, of which the
//! slots up to `commit` are final; the entries between come with it. Of a follower
//! all of it is final, and it may be installed in any view. A leader has executed
//! more than is final, and may be the only one that still has the state: that of
//! its last normal view can be installed by a replica of the same view, and as part
//! of entering a view whose log continues it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::{LogTime, Time};
use stateplane_state::Application;
use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::{
    Body, Entry, Slot, SnapshotChunk, View, decode_entry, encode_entry, leader_of,
};

use super::staging::Staging;
use super::table::ClientTable;
use super::{Replica, Status};
use crate::{Alarm, Limits, Mark};

const VERSION: u8 = 1;
/// A snapshot nobody asked for so long is dropped.
const IDLE: Duration = Duration::from_secs(1);
/// Fruitless requests after which another peer is asked.
const PATIENCE: u32 = 2;
/// Pieces sent per request, whatever is asked for.
const MAX_CHUNKS: u16 = 256;

/// A snapshot taken for peers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Serving {
    at: Slot,
    /// All of it was final already.
    settled: bool,
    bytes: Vec<u8>,
    used: Time,
}

/// A snapshot on its way in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Download {
    floor: Slot,
    source: u8,
    /// Known from the first piece on.
    found: Option<(Slot, u64)>,
    bytes: Vec<u8>,
    ahead: BTreeMap<u64, Vec<u8>>,
    /// End of what was asked for.
    asked: u64,
    fruitless: u32,
    /// A snapshot was of no use: this view may never start, so receiving
    /// another one no longer earns it patience.
    refused: bool,
}

impl Download {
    const fn new(floor: Slot, source: u8) -> Self {
        Self {
            floor,
            source,
            found: None,
            bytes: Vec::new(),
            ahead: BTreeMap::new(),
            asked: 0,
            fruitless: 0,
            refused: false,
        }
    }
}

impl<A: Application> Replica<A> {
    /// The slot of the snapshot that a peer is receiving from us.
    pub(super) fn serving_at(&mut self, now: Time) -> Option<Slot> {
        let idle = self
            .serving
            .as_ref()
            .is_some_and(|s| now.since(s.used) > IDLE);
        if idle {
            self.serving = None;
        }
        self.serving.as_ref().map(|s| s.at)
    }

    pub(super) fn on_snapshot_request(
        &mut self,
        now: Time,
        to: u8,
        floor: Slot,
        at: Slot,
        offset: u64,
        chunks: u16,
    ) {
        if self.status == Status::Booting {
            return;
        }
        let base = self.log.base();
        let usable = |s: &&mut Serving| {
            if at == 0 {
                s.at >= floor && s.at >= base
            } else {
                s.at == at
            }
        };
        let mut offset = offset;
        if self.serving.as_mut().filter(usable).is_none() {
            // It asks for the first time, or for what we no longer have.
            self.take_snapshot(now, floor);
            offset = 0;
        }
        let Some(serving) = self.serving.as_mut().filter(|s| s.at >= floor) else {
            return;
        };
        serving.used = now;
        let (at, total) = (serving.at, serving.bytes.len() as u64);
        let size = self.config.limits.chunk;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|o| serving.bytes.get(o..))
            .unwrap_or_default();
        let pieces: Vec<Vec<u8>> = rest
            .chunks(size)
            .take(chunks.min(MAX_CHUNKS).into())
            .map(<[u8]>::to_vec)
            .collect();
        for bytes in pieces {
            let next = offset + bytes.len() as u64;
            self.send_to(
                to,
                Body::SnapshotChunk(SnapshotChunk {
                    at,
                    total,
                    offset,
                    bytes,
                }),
            );
            offset = next;
        }
    }

    /// Takes a snapshot of the executed state, if it is recent enough.
    fn take_snapshot(&mut self, now: Time, floor: Slot) {
        self.serving = None;
        if self.executed < floor || self.executed == 0 {
            return;
        }
        let bytes = self.encode_state();
        if bytes.len() as u64 > self.config.limits.snapshot_bytes {
            return self.alarm(Alarm::SnapshotTooLarge);
        }
        self.marks.hit(Mark::SnapshotTaken);
        self.serving = Some(Serving {
            at: self.executed,
            settled: self.executed <= self.commit,
            bytes,
            used: now,
        });
    }

    /// The executed state, with those of its slots that are not final.
    pub(super) fn encode_state(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut w = Writer::new(&mut bytes);
        w.u8(VERSION);
        let commit = self.commit.min(self.executed);
        for word in [
            self.last_normal,
            self.executed,
            commit,
            self.log_time.as_nanos(),
        ] {
            w.u64(word);
        }
        (commit + 1..=self.executed).for_each(|slot| encode_entry(self.log.get(slot), &mut w));
        self.table.encode(&mut w);
        w.string(&self.app.snapshot());
        bytes
    }

    /// What is not final belongs to the view it was taken in.
    pub(super) fn drop_unsettled_snapshot(&mut self) {
        self.serving.take_if(|serving| !serving.settled);
    }

    /// Wants a snapshot of slot `floor` or later.
    pub(super) fn start_download(&mut self, now: Time, floor: Slot) {
        match &mut self.download {
            Some(download) if download.floor >= floor => return,
            Some(download) => {
                self.marks.hit(Mark::SnapshotRestarted);
                *download = Download::new(floor, download.source);
            }
            None => {
                // Who voted with the log wanted has it; else anybody, the busy leader last.
                let voter = self.staging.as_ref().and_then(Staging::voter);
                let first = voter.or_else(|| self.peer_after(leader_of(self.view)));
                let Some(first) = first else { return };
                self.download = Some(Download::new(floor, first));
            }
        }
        self.request_pieces(now);
    }

    fn peer_after(&self, j: u8) -> Option<u8> {
        let n = self.config.seats;
        let mut others = (1..=n).map(|step| (j + step) % n);
        let members = self
            .staging
            .as_ref()
            .map_or(self.members, |s| s.target.members);
        others.find(|k| *k != self.me && members.life(*k) != 0)
    }

    fn request_pieces(&mut self, now: Time) {
        let chunks = self.config.limits.chunks;
        let Some(download) = self.download.as_mut() else {
            return;
        };
        let offset = download.bytes.len() as u64;
        download.asked = offset + u64::from(chunks) * self.config.limits.chunk as u64;
        let (floor, source) = (download.floor, download.source);
        let at = download.found.map_or(0, |(at, _)| at);
        self.timers.transfer = Some(now + self.config.timing.resend);
        self.send_to(
            source,
            Body::SnapshotRequest {
                floor,
                at,
                offset,
                chunks,
            },
        );
    }

    pub(super) fn on_transfer_timer(&mut self, now: Time) {
        let Some(download) = self.download.as_mut() else {
            return;
        };
        download.fruitless += 1;
        if download.fruitless > PATIENCE {
            let (floor, source, refused) = (download.floor, download.source, download.refused);
            self.marks.hit(Mark::SnapshotRestarted);
            let next = self.peer_after(source).unwrap_or(source);
            self.download = Some(Download {
                refused,
                ..Download::new(floor, next)
            });
        }
        self.request_pieces(now);
    }

    pub(super) fn on_snapshot_chunk(&mut self, now: Time, from: u8, m: SnapshotChunk) {
        let limits = &self.config.limits;
        let Some(download) = self.download.as_mut().filter(|d| d.source == from) else {
            return;
        };
        let (at, total) = *download.found.get_or_insert((m.at, m.total));
        let foreign =
            (at, total) != (m.at, m.total) || at < download.floor || total > limits.snapshot_bytes;
        if foreign {
            if at < download.floor || total > limits.snapshot_bytes {
                download.found = None;
            }
            return;
        }
        let have = download.bytes.len() as u64;
        if m.offset < have || m.offset >= download.asked || m.bytes.is_empty() {
            return;
        }
        download.fruitless = 0;
        download.ahead.insert(m.offset, m.bytes);
        while let Some(bytes) = download.ahead.remove(&(download.bytes.len() as u64)) {
            download.bytes.extend_from_slice(&bytes);
        }
        let have = download.bytes.len() as u64;
        let hopeful = !download.refused;
        if hopeful && self.status == Status::ViewChange && self.timers.patience.is_some() {
            self.timers.patience = Some(now + self.config.timing.view_patience);
        }
        if have == total {
            self.finish_download(now, at);
        } else if have >= download.asked.min(total) {
            self.request_pieces(now);
        }
    }

    fn finish_download(&mut self, now: Time, at: Slot) {
        let Some(download) = self.download.take() else {
            return;
        };
        self.timers.transfer = None;
        let snapshot = Snapshot::parse(Some(at), &download.bytes, &self.config.limits);
        let taken = match snapshot {
            Ok(snapshot) if at >= self.log.base() => self.take_in(snapshot),
            _ => {
                self.alarm(Alarm::SnapshotRefused);
                false
            }
        };
        if !taken {
            let next = self.peer_after(download.source).unwrap_or(download.source);
            let floor = download.floor.max(self.log.base());
            self.download = Some(Download {
                refused: true,
                ..Download::new(floor, next)
            });
            self.timers.transfer = Some(now + self.config.timing.resend);
            return;
        }
        if self.staging.is_some() {
            self.stage_step(now, true);
        } else if self.status == Status::Normal {
            self.verified = self.verified.max(at);
            let len = self.log.len();
            self.stash.retain(|slot, _| *slot > len);
            self.known_tail = self.known_tail.max(len);
            self.drain(now);
        }
    }

    /// Installs a snapshot, or keeps it for the view being entered; false if it
    /// is of no use.
    fn take_in(&mut self, snapshot: Snapshot) -> bool {
        let same_view = snapshot.view == self.last_normal && self.status != Status::Booting;
        if snapshot.commit >= snapshot.at || same_view {
            let installed = self.install(snapshot);
            if !installed {
                self.alarm(Alarm::SnapshotRefused);
            } else if let Some(staging) = self.staging.as_mut() {
                staging.drop_snapshot();
            }
            return installed;
        }
        self.staging
            .as_mut()
            .is_some_and(|staging| staging.keep(snapshot))
    }

    /// The state becomes the snapshot's. Slots of our log after it stay.
    pub(super) fn install(&mut self, snapshot: Snapshot) -> bool {
        if self.app.restore(&snapshot.app).is_err() {
            return false;
        }
        self.marks.hit(Mark::SnapshotInstalled);
        self.jumped();
        self.table = snapshot.table;
        self.log_time = snapshot.log_time;
        self.executed = snapshot.at;
        self.serving = None;
        if snapshot.commit > self.commit {
            self.commit = snapshot.commit;
            self.log.truncate_to(snapshot.commit);
        }
        for (slot, entry) in (snapshot.commit + 1..).zip(snapshot.entries) {
            if slot == self.log.len() + 1 {
                self.log.push(entry);
            } else if slot > self.commit {
                self.log.replace(slot, entry);
            }
        }
        true
    }
}

/// A received snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Snapshot {
    /// In whose log ...
    pub(super) view: View,
    /// ... it is the state after this slot,
    pub(super) at: Slot,
    /// of which these slots are final
    pub(super) commit: Slot,
    /// and these follow.
    pub(super) entries: Vec<Entry>,
    pub(super) log_time: LogTime,
    pub(super) table: ClientTable,
    pub(super) app: Vec<u8>,
}

impl Snapshot {
    pub(super) fn parse(
        at: Option<Slot>,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err(Malformed("snapshot version"));
        }
        let (view, executed, commit) = (r.u64()?, r.u64()?, r.u64()?);
        let at = at.unwrap_or(executed);
        if executed != at || commit > at || at - commit > limits.unsynced + limits.fetch {
            return Err(Malformed("snapshot header"));
        }
        let log_time = LogTime::from_nanos(r.u64()?);
        let mut entries = Vec::new();
        for _ in commit..at {
            entries.push(decode_entry(&mut r)?.ok_or(Malformed("snapshot entry"))?);
        }
        let table = ClientTable::decode(&mut r, limits)?;
        let app = r.string()?.to_vec();
        r.finish()?;
        Ok(Self {
            view,
            at,
            commit,
            entries,
            log_time,
            table,
            app,
        })
    }
}
