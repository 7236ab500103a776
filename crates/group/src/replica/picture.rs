//! Our state as a snapshot that is written while we go on, and a peer's as it comes in.
//!
//! ```text
//! snapshot = [ version 2 | view 8 | at 8 | commit 8 | log time 8 | n*Entry ] | clients 8 | n*[ client ] | state
//! ```
//!
//! `n` entries are those of the slots after `commit` up to `at`. Neither side handles more than a
//! few rows at a time: what a turn may cost is [`Limits::snapshot_rows`]. The client table's rows
//! are shared with the picture until they change; the application keeps what its rows were.

use alloc::vec::Vec;

use stateplane_base::{LogTime, Time};
use stateplane_state::{Application, SnapshotError};
use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::{Entry, Slot, View, decode_entry, encode_entry};

use super::Replica;
use super::table::ClientTable;
use crate::{Alarm, Limits, Mark};

const VERSION: u8 = 2;

/// A snapshot of ours, for peers; perhaps still being written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Picture {
    pub(super) at: Slot,
    /// All of it was final already.
    pub(super) settled: bool,
    /// How long it will be.
    pub(super) total: u64,
    /// What is written of it.
    pub(super) bytes: Vec<u8>,
    /// Clients not written yet.
    clients: ClientTable,
    pub(super) complete: bool,
    /// When a peer last asked for a piece.
    pub(super) used: Time,
    /// A peer ever did.
    pub(super) shared: bool,
}

impl<A: Application> Replica<A> {
    /// Begins a snapshot of the executed state, if that is recent enough. A state in which nothing
    /// was executed is one, too: it is what a peer needs that executed what nobody else has.
    pub(super) fn take_snapshot(&mut self, now: Time, floor: Slot) {
        // Who wants more than we have must not take away what another peer is receiving.
        if self.executed < floor {
            return;
        }
        self.drop_picture();
        let mut bytes = self.encode_head();
        let head = bytes.len() as u64 + self.clients_size();
        let total = head + self.app.begin_snapshot();
        if total > self.config.limits.snapshot_bytes {
            self.app.abandon_snapshot();
            return self.alarm(Alarm::SnapshotTooLarge);
        }
        // All at once: a large vector that grows is copied.
        bytes.reserve_exact(usize::try_from(total).unwrap_or(usize::MAX) - bytes.len());
        Writer::new(&mut bytes).u64(self.table.len() as u64);
        self.marks.hit(Mark::SnapshotTaken);
        self.serving = Some(Picture {
            at: self.executed,
            settled: self.executed <= self.commit,
            total,
            bytes,
            clients: self.table.clone(),
            complete: false,
            used: now,
            shared: false,
        });
        self.on_snapshot_timer(now);
    }

    /// Goes on with the snapshot, and with freeing what the last one replaced, as far as one
    /// turn may take.
    pub(super) fn on_snapshot_timer(&mut self, now: Time) {
        self.picture_for_checkpoint(now);
        let rows = self.config.limits.snapshot_rows;
        let unfinished = self.serving.as_mut().filter(|picture| !picture.complete);
        let goes_on = match unfinished {
            None => !self.app.tidy(rows),
            Some(picture) => {
                self.marks.hit(Mark::SnapshotPiece);
                picture.paint(&mut self.app, rows);
                #[cfg(feature = "mutations")]
                if self.config.broken(crate::Mutation::SnapshotLate) && self.executed <= self.commit
                {
                    picture.claim(self.executed);
                }
                true
            }
        };
        self.timers.snapshot = goes_on.then(|| now + self.config.timing.snapshot);
    }

    pub(super) fn drop_picture(&mut self) {
        if self.serving.take().is_some_and(|picture| !picture.complete) {
            self.marks.hit(Mark::SnapshotAbandoned);
            self.app.abandon_snapshot();
        }
        if self.awaits_picture() {
            self.timers.snapshot = Some(Time::ZERO);
        }
    }

    /// What is not final belongs to the view it was taken in.
    pub(super) fn drop_unsettled_snapshot(&mut self) {
        if self
            .serving
            .as_ref()
            .is_some_and(|picture| !picture.settled)
        {
            self.drop_picture();
        }
    }

    /// The executed state at once.
    pub(super) fn encode_state(&self) -> Vec<u8> {
        let mut bytes = self.encode_head();
        let mut w = Writer::new(&mut bytes);
        w.u64(self.table.len() as u64);
        let mut clients = self.table.clone();
        while clients.encode_first(&mut w).is_some() {}
        w.bytes(&self.app.snapshot());
        bytes
    }

    /// Where the state is in the log, with those of its slots that are not final.
    fn encode_head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        let mut w = Writer::new(&mut head);
        w.u8(VERSION);
        let commit = self.commit.min(self.executed);
        let log_time = self.log_time.as_nanos();
        for word in [self.last_normal, self.executed, commit, log_time] {
            w.u64(word);
        }
        (commit + 1..=self.executed).for_each(|slot| encode_entry(self.log.get(slot), &mut w));
        let mut bytes = Vec::with_capacity(head.len() + 4);
        Writer::new(&mut bytes).string(&head);
        bytes
    }

    fn clients_size(&self) -> u64 {
        8 + self.table.encoded_size() as u64
    }
}

impl Picture {
    /// Whether all of it is there, and a log that was truncated up to `base` goes on from it.
    pub(super) const fn serves(&self, base: Slot) -> bool {
        self.complete && self.at >= base
    }

    /// Writes about `rows` rows.
    fn paint<A: Application>(&mut self, app: &mut A, rows: usize) {
        let (mut left, mut w) = (rows, Writer::new(&mut self.bytes));
        while left > 0 {
            match self.clients.encode_first(&mut w) {
                Some(results) => left = left.saturating_sub(results + 1),
                None => break,
            }
        }
        if left > 0 && app.continue_snapshot(left, &mut self.bytes) {
            self.complete = true;
            assert_eq!(
                self.bytes.len() as u64,
                self.total,
                "its length was foretold"
            );
        }
    }
}

/// Why a snapshot is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Layout(#[from] Malformed),
    #[error("{0}")]
    State(#[from] SnapshotError),
}

/// What comes next in a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    Head,
    Count,
    Clients { left: u64 },
    State,
}

/// A peer's snapshot as far as it came.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Arriving<I> {
    stage: Stage,
    /// The beginning of what did not come whole yet.
    rest: Vec<u8>,
    snapshot: Snapshot<I>,
}

/// A received snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Snapshot<I> {
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
    pub(super) app: I,
    /// As it came, if that is kept: it serves as a checkpoint.
    pub(super) raw: Option<Vec<u8>>,
}

impl<I> Arriving<I> {
    /// Nothing of it yet; `app` is what takes the application's part. What comes is also kept
    /// as it is, if `keeps`.
    pub(super) fn new(app: I, keeps: bool) -> Self {
        let snapshot = Snapshot {
            view: 0,
            at: 0,
            commit: 0,
            entries: Vec::new(),
            log_time: LogTime::ZERO,
            table: ClientTable::default(),
            app,
            raw: keeps.then(Vec::new),
        };
        Self {
            stage: Stage::Head,
            rest: Vec::new(),
            snapshot,
        }
    }

    /// Takes the next bytes in. After an error it is of no use.
    pub(super) fn take<A: Application<Incoming = I>>(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<(), Unusable> {
        if let Some(raw) = self.snapshot.raw.as_mut() {
            raw.extend_from_slice(bytes);
        }
        if self.stage == Stage::State {
            return Ok(A::take(&mut self.snapshot.app, bytes)?);
        }
        let mut all = core::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut r = Reader::new(&all);
        while self.stage != Stage::State && self.item(&mut r, limits)? {}
        let done = all.len() - r.remaining();
        if self.stage == Stage::State {
            return Ok(A::take(&mut self.snapshot.app, &all[done..])?);
        }
        all.drain(..done);
        self.rest = all;
        Ok(())
    }

    /// Reads the next item; false if it has not come whole.
    fn item(&mut self, r: &mut Reader<'_>, limits: &Limits) -> Result<bool, Malformed> {
        match self.stage {
            Stage::Head => {
                let Some(mut head) = whole(r, limits.log_bytes)? else {
                    return Ok(false);
                };
                self.snapshot.head(&mut head, limits)?;
                self.stage = Stage::Count;
            }
            Stage::Count => {
                if r.remaining() < 8 {
                    return Ok(false);
                }
                let left = r.u64()?;
                if left > limits.clients as u64 {
                    return Err(Malformed("client table too large"));
                }
                self.stage = Stage::Clients { left };
            }
            Stage::Clients { left: 0 } => self.stage = Stage::State,
            Stage::Clients { left } => {
                let Some(mut row) = whole(r, limits.client_row())? else {
                    return Ok(false);
                };
                self.snapshot.table.decode_next(&mut row, limits)?;
                row.finish()?;
                self.stage = Stage::Clients { left: left - 1 };
            }
            Stage::State => return Ok(false),
        }
        Ok(true)
    }

    /// The snapshot, whose last byte was taken in.
    pub(super) fn finish(self) -> Result<Snapshot<I>, Unusable> {
        match self.stage {
            Stage::State => Ok(self.snapshot),
            _ => Err(Malformed("snapshot ends early").into()),
        }
    }
}

/// A string that came whole; the reader stays before it if it did not.
fn whole<'a>(r: &mut Reader<'a>, max: usize) -> Result<Option<Reader<'a>>, Malformed> {
    let mut ahead = r.clone();
    if ahead.remaining() < 4 {
        return Ok(None);
    }
    let len = ahead.u32()? as usize;
    if len > max {
        return Err(Malformed("snapshot item too large"));
    }
    if ahead.remaining() < len {
        return Ok(None);
    }
    let bytes = ahead.bytes(len)?;
    *r = ahead;
    Ok(Some(Reader::new(bytes)))
}

impl<I> Snapshot<I> {
    /// Reads one that is all there.
    pub(super) fn parse<A: Application<Incoming = I>>(
        app: &A,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Self, Unusable> {
        let mut arriving = Arriving::new(app.incoming(), false);
        arriving.take::<A>(bytes, limits)?;
        arriving.finish()
    }

    fn head(&mut self, r: &mut Reader<'_>, limits: &Limits) -> Result<(), Malformed> {
        if r.u8()? != VERSION {
            return Err(Malformed("snapshot version"));
        }
        (self.view, self.at, self.commit) = (r.u64()?, r.u64()?, r.u64()?);
        let (at, commit) = (self.at, self.commit);
        if commit > at || at - commit > limits.unsynced + limits.fetch {
            return Err(Malformed("snapshot header"));
        }
        self.log_time = LogTime::from_nanos(r.u64()?);
        for _ in commit..at {
            let entry = decode_entry(r)?.ok_or(Malformed("snapshot entry"))?;
            self.entries.push(entry);
        }
        r.clone().finish()
    }
}
