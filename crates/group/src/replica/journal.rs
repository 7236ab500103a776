//! What a replica with a disk writes, so that it survives its process.
//!
//! Between two turns of its driver a replica changes in two ways that others may
//! depend on: its log, and what it has promised ([`Meta`]: views, membership,
//! session). [`Replica::poll_effect`] puts both into one *record*, ahead of all that
//! is sent, so that the messages of a turn are the output of what is on disk (output
//! commit, as for packets). One record per turn is one sync per turn (group commit),
//! and a record is whole or absent: a log that is being exchanged for another view's
//! is never found half exchanged.
//!
//! The log is not copied when it changes: it is noted which slots are *unwritten*, and
//! they are read when the record is made. A *checkpoint* is everything at once. It
//! begins a journal, shortens it, and stands in where the log jumped (a snapshot from
//! a peer). A replica without a disk has no [`Unwritten`] and pays one test for it.
//!
//! ```text
//! record     = version 1 | commit 8 | 0 or 1 Meta | count 4 | n*(slot 8 | Entry) | first 8 | count 4 | n*Entry
//!              slots replaced one by one, then: the log ends before `first` and goes on so
//! checkpoint = snapshot n | version 1 | commit 8 | 1 Meta | first 8 | count 4 | n*Entry | n 8
//! Meta       = formation 8 | incarnation 8 | normal 1 | view 8 | last normal 8
//!              | session 8 | nonce 8 | session base 8 | Members
//! ```

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::{
    Entry, Formation, Membership, Session, Slot, View, decode_entry, encode_entry,
};

use super::log::Log;
use super::{Replica, Status};
use crate::{Effect, Mark, Mutation, Persist};

const VERSION: u8 = 1;

/// Which slots of the log are not on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Unwritten {
    /// How long the log on disk is.
    written: Slot,
    /// Everything from here on.
    from: Slot,
    /// Single slots below.
    replaced: BTreeSet<Slot>,
}

impl Unwritten {
    /// Everything above `slot`.
    pub(super) const fn above(slot: Slot) -> Self {
        Self {
            written: slot,
            from: slot + 1,
            replaced: BTreeSet::new(),
        }
    }

    /// `slot`, and all above it, changed or went away.
    pub(super) fn cut(&mut self, slot: Slot) {
        self.from = self.from.min(slot);
    }

    /// `slot` alone changed.
    pub(super) fn replace(&mut self, slot: Slot) {
        if slot < self.from {
            self.replaced.insert(slot);
        }
    }

    /// Whether the log on disk is the log, which ends at `len`.
    pub(super) fn is_empty(&self, len: Slot) -> bool {
        self.from > self.written && len <= self.written && self.replaced.is_empty()
    }

    /// The first slot that is not on disk.
    pub(super) fn first(&self) -> Slot {
        self.replaced
            .first()
            .map_or(self.from, |slot| self.from.min(*slot))
    }
}

/// Most records are no longer.
const RECORD: usize = 256;

/// The state of a replica's journal.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Journal {
    /// The promises on disk; `None` until something is.
    meta: Option<Meta>,
    /// The records on disk do not lead to our state.
    astray: bool,
    /// Bytes written since the last checkpoint, and that one's size.
    written: usize,
    checkpoint: usize,
    /// How the next checkpoint comes about, once the records are long.
    next: Next,
    /// A peer's snapshot that became our state, and its slot: all that the next checkpoint
    /// needs besides the log. Encoding the state anew would halt us for as long.
    taken: Option<(Slot, Vec<u8>)>,
}

/// How a checkpoint that is not urgent comes about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Next {
    /// Not yet.
    #[default]
    Later,
    /// From a picture, which is written piece by piece.
    Picture,
    /// At once: a picture is not possible.
    AtOnce,
}

impl Journal {
    /// A journal from which a replica was just recovered.
    pub(super) const fn of(meta: Meta, written: usize, checkpoint: usize) -> Self {
        Self {
            meta: Some(meta),
            astray: false,
            written,
            checkpoint,
            next: Next::Later,
            taken: None,
        }
    }

    /// The state is that of a peer's snapshot.
    pub(super) fn takes_over(&mut self, at: Slot, snapshot: Vec<u8>) {
        self.taken = Some((at, snapshot));
    }
}

/// What a replica has promised or is bound by, the log apart.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Meta {
    pub(super) formation: Formation,
    pub(super) incarnation: u64,
    /// It was in `view`; else it voted for it.
    pub(super) normal: bool,
    pub(super) view: View,
    pub(super) last_normal: View,
    pub(super) session: Session,
    pub(super) nonce: u64,
    pub(super) session_base: Slot,
    pub(super) members: Membership,
    /// The view that admitted it, if it voted before it was in any.
    pub(super) admitted: View,
}

impl Meta {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.formation);
        w.u64(self.incarnation);
        w.u8(self.normal.into());
        for word in [
            self.view,
            self.last_normal,
            self.session,
            self.nonce,
            self.session_base,
        ] {
            w.u64(word);
        }
        self.members.encode(w);
        w.u64(self.admitted);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            formation: r.u64()?,
            incarnation: r.u64()?,
            normal: r.u8()? == 1,
            view: r.u64()?,
            last_normal: r.u64()?,
            session: r.u64()?,
            nonce: r.u64()?,
            session_base: r.u64()?,
            members: Membership::decode(r)?,
            admitted: r.u64()?,
        })
    }
}

/// A record or a checkpoint, read back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Change {
    pub(super) commit: Slot,
    pub(super) meta: Option<Meta>,
    /// Of a checkpoint: the state at some slot.
    pub(super) snapshot: Option<Vec<u8>>,
    /// Slots that hold something else now.
    pub(super) replaced: Vec<(Slot, Entry)>,
    /// The log ends before this slot ...
    pub(super) first: Slot,
    /// ... and goes on with these.
    pub(super) entries: Vec<Entry>,
}

impl Change {
    /// A record; with `lenient`, what is there of one that ends too early.
    pub(super) fn record(bytes: &[u8], lenient: bool) -> Result<Self, Malformed> {
        Self::decode(bytes, false, lenient)
    }

    pub(super) fn checkpoint(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::decode(bytes, true, false)
    }

    fn decode(bytes: &[u8], whole: bool, lenient: bool) -> Result<Self, Malformed> {
        let (snapshot, rest) = match whole {
            true => split(bytes)?,
            false => (None, bytes),
        };
        let mut r = Reader::new(rest);
        if r.u8()? != VERSION {
            return Err(Malformed("journal version"));
        }
        let commit = r.u64()?;
        let meta = match r.u8()? {
            0 => None,
            1 => Some(Meta::decode(&mut r)?),
            _ => return Err(Malformed("journal promises")),
        };
        let mut replaced = Vec::new();
        if !whole {
            for _ in 0..r.u32()? {
                replaced.push((r.u64()?, entry(&mut r)?));
            }
        }
        let first = r.u64()?;
        let mut entries = Vec::new();
        for _ in 0..r.u32()? {
            match entry(&mut r) {
                Ok(entry) => entries.push(entry),
                Err(_) if lenient => break,
                Err(error) => return Err(error),
            }
        }
        if !lenient {
            r.finish()?;
        }
        Ok(Self {
            commit,
            meta,
            snapshot,
            replaced,
            first,
            entries,
        })
    }
}

/// A checkpoint's snapshot, which is written first as it is the long part, and the rest.
fn split(bytes: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), Malformed> {
    let (rest, len) = bytes.split_last_chunk().ok_or(Malformed("checkpoint"))?;
    let len = usize::try_from(u64::from_be_bytes(*len));
    let parts = len.ok().and_then(|len| rest.split_at_checked(len));
    let (snapshot, rest) = parts.ok_or(Malformed("checkpoint's snapshot"))?;
    Ok((Some(snapshot.to_vec()), rest))
}

fn entry(r: &mut Reader<'_>) -> Result<Entry, Malformed> {
    decode_entry(r)?.ok_or(Malformed("journal entry"))
}

/// The log from `first` on.
fn encode_rest(log: &Log, first: Slot, w: &mut Writer<'_>) {
    w.u64(first);
    let count = u32::try_from((log.len() + 1).saturating_sub(first));
    w.u32(count.expect("a log is bounded"));
    (first..=log.len()).for_each(|slot| encode_entry(log.get(slot), w));
}

impl<A: Application> Replica<A> {
    /// The records on disk no longer lead to our state.
    pub(super) fn jumped(&mut self) {
        if let Some(journal) = self.journal.as_mut() {
            // The next checkpoint is urgent.
            (journal.astray, journal.next) = (true, Next::Later);
            journal.taken = None;
        }
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            formation: self.formation,
            incarnation: self.incarnation,
            normal: self.status == Status::Normal,
            view: self.view,
            last_normal: self.last_normal,
            session: self.session,
            nonce: self.nonce,
            session_base: self.session_base,
            members: self.members,
            admitted: self.admitted,
        }
    }

    /// What must be on disk before the next effect is carried out.
    pub(super) fn unpersisted(&mut self) -> Option<Effect> {
        let journal = self.journal.as_ref()?;
        let nothing_leaves = self.effects.is_empty();
        // Without memory there is nothing to lose: formation and joining count on none.
        if nothing_leaves != self.config.broken(Mutation::SendBeforeSync)
            || self.status == Status::Booting
        {
            return None;
        }
        if journal.meta.is_none() || journal.astray {
            self.marks.hit(Mark::CheckpointUrgent);
            return self.checkpoint(true);
        }
        let enough = self.config.limits.journal_bytes.max(journal.checkpoint);
        let long = journal.written > enough;
        match self.record() {
            Some(record) => Some(Effect::Persist(Persist::Record(record))),
            None if long => self.checkpoint_behind(),
            None => None,
        }
    }

    /// A checkpoint that only shortens the journal: of a picture, once there is one from
    /// which the log goes on.
    fn checkpoint_behind(&mut self) -> Option<Effect> {
        if self.journal.as_ref()?.next == Next::AtOnce {
            return self.checkpoint(false);
        }
        let Some((at, snapshot)) = self.finished_picture() else {
            self.journal.as_mut()?.next = Next::Picture;
            if self.serving.as_ref().is_none_or(|p| p.complete) {
                self.timers.snapshot = Some(Time::ZERO);
            }
            return None;
        };
        self.marks.hit(Mark::Checkpointed);
        self.write_checkpoint(at, snapshot, false)
    }

    /// A picture from which the log goes on, and its slot. It stays for peers that take it.
    fn finished_picture(&mut self) -> Option<(Slot, Vec<u8>)> {
        let base = self.log.base();
        if let Some(kept) = self.serving.as_ref().filter(|p| p.shared && p.serves(base)) {
            return Some((kept.at, kept.bytes.clone()));
        }
        let picture = self.serving.take_if(|p| p.serves(base))?;
        Some((picture.at, picture.bytes))
    }

    /// Whether the next checkpoint waits for a picture.
    pub(super) fn awaits_picture(&self) -> bool {
        let wanted = |j: &Journal| j.next == Next::Picture;
        self.journal.as_ref().is_some_and(wanted)
    }

    /// The picture that the next checkpoint waits for is taken, unless there is one.
    pub(super) fn picture_for_checkpoint(&mut self, now: Time) {
        let base = self.log.base();
        if !self.awaits_picture() || self.serving.as_ref().is_some_and(|p| p.at >= base) {
            return;
        }
        // Nothing that was never executed is worth a checkpoint.
        self.take_snapshot(now, 1);
        if let Some(journal) = self.journal.as_mut().filter(|_| self.serving.is_none()) {
            journal.next = Next::AtOnce;
        }
    }

    /// Whether we are bound by more, or by something else, than the disk says.
    fn promised(&self) -> bool {
        let known = self.journal.as_ref().and_then(|j| j.meta.as_ref());
        let normal = self.status == Status::Normal;
        if !normal && self.config.broken(Mutation::VoteNotPersisted) {
            return false;
        }
        known.is_none_or(|m| {
            let present = (self.formation, self.incarnation, self.view, normal);
            let session = (self.session, self.nonce, self.session_base);
            present != (m.formation, m.incarnation, m.view, m.normal)
                || self.last_normal != m.last_normal
                || session != (m.session, m.nonce, m.session_base)
                || self.members != m.members
        })
    }

    /// All that changed since the last record.
    fn record(&mut self) -> Option<Vec<u8>> {
        let promised = self.promised();
        if !promised && self.log.is_written() {
            return None;
        }
        let unwritten = self.log.take_unwritten()?;
        let mut bytes = Vec::with_capacity(RECORD);
        let mut w = Writer::new(&mut bytes);
        w.u8(VERSION);
        w.u64(self.commit);
        w.u8(promised.into());
        let meta = promised.then(|| self.meta());
        if let Some(meta) = &meta {
            meta.encode(&mut w);
        }
        let replaced = || unwritten.replaced.range(..unwritten.from);
        w.u32(u32::try_from(replaced().count()).expect("a log is bounded"));
        for slot in replaced() {
            w.u64(*slot);
            encode_entry(self.log.get(*slot), &mut w);
        }
        encode_rest(&self.log, unwritten.from, &mut w);
        let journal = self.journal.as_mut()?;
        journal.written += bytes.len();
        journal.meta = meta.or(journal.meta.take());
        Some(bytes)
    }

    /// Everything, at once.
    fn checkpoint(&mut self, urgent: bool) -> Option<Effect> {
        let base = self.log.base();
        let taken = self.journal.as_mut()?.taken.take();
        if let Some((at, snapshot)) = taken.filter(|(at, _)| *at >= base) {
            self.marks.hit(Mark::CheckpointTakenOver);
            return self.write_checkpoint(at, snapshot, urgent);
        }
        self.write_checkpoint(self.executed, self.encode_state(), urgent)
    }

    /// A checkpoint of the state after slot `at`, and what the log has after it.
    fn write_checkpoint(&mut self, at: Slot, snapshot: Vec<u8>, urgent: bool) -> Option<Effect> {
        let meta = self.meta();
        let (len, mut bytes) = (snapshot.len(), snapshot);
        let mut w = Writer::new(&mut bytes);
        w.u8(VERSION);
        w.u64(self.commit);
        w.u8(1);
        meta.encode(&mut w);
        encode_rest(&self.log, at + 1, &mut w);
        w.u64(len as u64);
        self.log.take_unwritten()?;
        self.journal = Some(Journal::of(meta, 0, bytes.len()));
        Some(Effect::Persist(Persist::Checkpoint { bytes, urgent }))
    }
}
