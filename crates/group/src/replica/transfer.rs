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

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Body, Slot, SnapshotChunk, leader_of};

use super::picture::{Arriving, Picture, Snapshot, Unusable};
use super::staging::Staging;
use super::{Replica, Status};
use crate::{Alarm, Mark};

/// A snapshot nobody asked for so long is dropped.
const IDLE: Duration = Duration::from_secs(1);
/// Fruitless requests after which another peer is asked.
const PATIENCE: u32 = 2;
/// Pieces sent per request, whatever is asked for.
const MAX_CHUNKS: u16 = 256;

/// A snapshot on its way in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Download<I> {
    floor: Slot,
    source: u8,
    /// Known from the first piece on.
    found: Option<(Slot, u64)>,
    /// What came so far,
    arriving: Arriving<I>,
    /// and how many bytes that is.
    have: u64,
    ahead: BTreeMap<u64, Vec<u8>>,
    /// End of what was asked for.
    asked: u64,
    fruitless: u32,
    /// A snapshot was of no use: this view may never start, so receiving
    /// another one no longer earns it patience.
    refused: bool,
}

impl<I> Download<I> {
    fn new(floor: Slot, source: u8, arriving: Arriving<I>) -> Self {
        Self {
            floor,
            source,
            found: None,
            arriving,
            have: 0,
            ahead: BTreeMap::new(),
            asked: 0,
            fruitless: 0,
            refused: false,
        }
    }
}

impl<A: Application> Replica<A> {
    /// What a peer's snapshot is taken into. With a disk it is kept as it comes, too.
    fn arriving(&self) -> Arriving<A::Incoming> {
        Arriving::new(self.app.incoming(), self.journal.is_some())
    }

    /// The slot of the snapshot that a peer is receiving from us.
    pub(super) fn serving_at(&mut self, now: Time) -> Option<Slot> {
        let idle = self
            .serving
            .as_ref()
            .is_some_and(|s| now.since(s.used) > IDLE);
        if idle {
            self.drop_picture();
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
        let usable = |s: &&mut Picture| {
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
        (serving.used, serving.shared) = (now, true);
        let (at, total) = (serving.at, serving.total);
        let size = self.config.limits.chunk;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|o| serving.bytes.get(o..))
            .unwrap_or_default();
        // Only the last piece is a short one. An empty one says that there will be more.
        let ready = if rest.len() as u64 + offset < total {
            rest.len() / size * size
        } else {
            rest.len()
        };
        let mut pieces: Vec<Vec<u8>> = rest[..ready]
            .chunks(size)
            .take(chunks.min(MAX_CHUNKS).into())
            .map(<[u8]>::to_vec)
            .collect();
        if pieces.is_empty() && offset < total {
            pieces.push(Vec::new());
        }
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

    /// Wants a snapshot of slot `floor` or later.
    pub(super) fn start_download(&mut self, now: Time, floor: Slot) {
        let source = match &mut self.download {
            // Less is enough now: who truncated up to there may have died, and nobody else may
            // ever have that much without us.
            Some(download) if download.floor >= floor => return download.floor = floor,
            Some(download) => {
                self.marks.hit(Mark::SnapshotRestarted);
                Some(download.source)
            }
            None => {
                // Who voted with the log wanted has it; else anybody, the busy leader last.
                let voter = self.staging.as_ref().and_then(Staging::voter);
                voter.or_else(|| self.peer_after(leader_of(self.view)))
            }
        };
        let Some(source) = source else { return };
        self.download = Some(Download::new(floor, source, self.arriving()));
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
        let offset = download.have;
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
                ..Download::new(floor, next, self.arriving())
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
        if m.offset < download.have || m.offset >= download.asked {
            return;
        }
        download.fruitless = 0;
        if !m.bytes.is_empty() {
            download.ahead.insert(m.offset, m.bytes);
        }
        let mut usable = Ok(());
        while let Some(bytes) = download.ahead.remove(&download.have) {
            download.have += bytes.len() as u64;
            usable = usable.and_then(|()| download.arriving.take::<A>(&bytes, limits));
        }
        let have = download.have;
        let hopeful = !download.refused;
        if hopeful && self.status == Status::ViewChange && self.timers.patience.is_some() {
            self.timers.patience = Some(now + self.config.timing.view_patience);
        }
        if have == total || usable.is_err() {
            self.finish_download(now, at, usable);
        } else if have >= download.asked.min(total) {
            self.request_pieces(now);
        }
    }

    fn finish_download(&mut self, now: Time, at: Slot, usable: Result<(), Unusable>) {
        let Some(download) = self.download.take() else {
            return;
        };
        self.timers.transfer = None;
        let Download {
            floor,
            source,
            arriving,
            ..
        } = download;
        let taken = match usable.and_then(|()| arriving.finish()) {
            Ok(snapshot) if snapshot.at == at && at >= self.log.base() => {
                self.take_in(now, snapshot)
            }
            _ => {
                self.alarm(Alarm::SnapshotRefused);
                false
            }
        };
        if !taken {
            let next = self.peer_after(source).unwrap_or(source);
            let floor = floor.max(self.log.base());
            self.download = Some(Download {
                refused: true,
                ..Download::new(floor, next, self.arriving())
            });
            self.timers.transfer = Some(now + self.config.timing.resend);
            return;
        }
        if self.staging.is_some() {
            self.stage_step(now, true);
        } else if self.status == Status::Normal {
            self.verified = self.verified.max(at);
            self.inbox.window_mut().skip(self.log.len());
            self.drain(now);
        }
    }

    /// Installs a snapshot, or keeps it for the view being entered; false if it
    /// is of no use.
    fn take_in(&mut self, now: Time, snapshot: Snapshot<A::Incoming>) -> bool {
        let settled = snapshot.commit >= snapshot.at;
        if let Some(staging) = self.staging.as_mut().filter(|_| !settled) {
            // Not even one of the view of our own log: that may be what must be rolled back.
            return staging.keep(snapshot);
        }
        let same_view = snapshot.view == self.last_normal && self.status != Status::Booting;
        if !settled && !same_view {
            return false;
        }
        let installed = self.install(now, snapshot);
        if !installed {
            self.alarm(Alarm::SnapshotRefused);
        } else if let Some(staging) = self.staging.as_mut() {
            staging.drop_snapshot();
        }
        installed
    }

    /// The state becomes the snapshot's. Slots of our log after it stay.
    pub(super) fn install(&mut self, now: Time, snapshot: Snapshot<A::Incoming>) -> bool {
        self.drop_picture();
        if self.app.install(snapshot.app).is_err() {
            return false;
        }
        self.timers.snapshot = Some(now);
        self.marks.hit(Mark::SnapshotInstalled);
        self.jumped();
        if let Some((journal, raw)) = self.journal.as_mut().zip(snapshot.raw) {
            journal.takes_over(snapshot.at, raw);
        }
        self.table = snapshot.table;
        self.log_time = snapshot.log_time;
        self.executed = snapshot.at;
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
        // While it came we may have got further than it reaches. What is final beyond it is in
        // our log, and nothing else would execute it again: the sync point may never move.
        self.execute_to(self.commit);
        true
    }
}
