//! Results longer than a datagram: asked for part by part.
//!
//! # Whose parts are put together
//! The leader's reply names, in place of the result, the slot `e` it was executed in, its
//! length and its digest. That counts when f+1 replicas have put the request into the same
//! slot of the same view, as for any reply: what was executed up to there is then in the log
//! of every later view, so *the* result of this operation is the one that was named. Whoever
//! executes that log, in this view or a later one, comes to the same result in the same slot
//! `e`, for execution is deterministic and the client table is part of the state.
//!
//! Hence parts may come from any replica, in any view, at any time: a part counts if it says
//! that it is one of a result of slot `e` with that length and digest. Another execution, by a
//! leader whose log did not survive, is another result and has another digest (but for a
//! chance of 2^-64), or it is the same and then so are its parts. What was put together is
//! compared with the digest once more.
//!
//! The result stays in the client table until its client says that it has it, which it does
//! only when all parts are there.
//!
//! For a *read without a slot* the same holds of the leader's answer from the state after
//! slot `e`, once f+1 replicas have answered as [`super::read`] wants. Only that leader has it,
//! and not for long. If its parts do not come, the read takes a slot.

use alloc::vec;
use alloc::vec::Vec;

use stateplane_base::{ReplicaId, Time};
use stateplane_wire::group::{Body, Message, ResultPart, ResultRequest, Slot, Whole, leader_of};

use super::read::TRIES;
use super::{Client, Committed, Place};
use crate::{Effect, Mark, Mutation, Peer};

/// Runs of missing parts that are asked for at once.
const RUNS: usize = 16;
/// After so many fruitless requests the operation is repeated: the group may have moved on.
const FRUITLESS: u32 = 4;

/// A result that is on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pull {
    place: Place,
    /// The slot it was executed in or the state was read after.
    slot: Slot,
    whole: Whole,
    /// Whom we ask.
    source: u8,
    /// What came of it; nothing before its turn.
    bytes: Vec<u8>,
    have: Vec<bool>,
    count: usize,
    /// Parts before this one were asked for.
    asked: usize,
}

impl Pull {
    const fn begun(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Runs of parts that were asked for and did not come.
    fn missing(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let asked = &self.have[..self.asked];
            let from = at + asked.get(at..)?.iter().position(|have| !have)?;
            let len = asked[from..].iter().take_while(|have| !**have).count();
            at = from + len;
            Some((from, len))
        })
    }
}

impl Client {
    /// A majority stands behind a long result.
    pub(super) fn pull(&mut self, now: Time, id: u64, place: Place, slot: Slot, whole: Whole) {
        let source = leader_of(place.view);
        let limits = &self.config.limits;
        if !self.pending.contains_key(&id)
            || whole.len as usize > limits.operation
            || whole.len == 0
        {
            return;
        }
        match self.pulls.get_mut(&id) {
            Some(same) if (same.slot, same.whole) == (slot, whole) => {
                same.source = source;
                return;
            }
            // A read that was asked for twice: its leader has kept the later answer.
            Some(later) if place.read && later.slot > slot => return,
            _ => {}
        }
        let parts = (whole.len as usize).div_ceil(limits.piece);
        let pull = Pull {
            place,
            slot,
            whole,
            source,
            bytes: Vec::new(),
            have: vec![false; parts],
            count: 0,
            asked: 0,
        };
        self.pulls.insert(id, pull);
        self.end_upload(now, id);
        self.next_pulls(now);
    }

    /// Begins those for which there is memory.
    fn next_pulls(&mut self, now: Time) {
        let mut taken: usize = self.pulls.values().map(|pull| pull.bytes.len()).sum();
        let waiting = self.pulls.iter().filter(|(_, p)| !p.begun());
        let waiting: Vec<_> = waiting.map(|(id, p)| (*id, p.whole.len as usize)).collect();
        for (id, len) in waiting {
            if taken > 0 && taken + len > self.config.limits.client_bytes {
                break;
            }
            taken += len;
            if let Some(pull) = self.pulls.get_mut(&id) {
                pull.bytes = vec![0; len];
            }
            self.advance(now, id);
            self.ask_parts(id);
        }
    }

    /// It has ended.
    pub(super) fn end_pull(&mut self, now: Time, id: u64) {
        if self.pulls.remove(&id).is_some() {
            self.next_pulls(now);
        }
    }

    /// Asks for the next parts when half of the window is free.
    fn ask_parts(&mut self, id: u64) {
        let window = self.config.limits.pieces;
        let Some(pull) = self.pulls.get_mut(&id) else {
            return;
        };
        let free = window.saturating_sub(pull.asked - pull.count);
        let parts = free.min(pull.have.len() - pull.asked);
        if parts == 0 || free < window.div_ceil(2) {
            return;
        }
        let (from, source) = (pull.asked, pull.source);
        pull.asked += parts;
        self.request_parts(id, source, (from, parts));
    }

    fn request_parts(&mut self, id: u64, source: u8, (from, parts): (usize, usize)) {
        let offset = from * self.config.limits.piece;
        let request = ResultRequest {
            client: self.id,
            id,
            offset: u32::try_from(offset).expect("a result is within its limit"),
            parts: u16::try_from(parts).unwrap_or(u16::MAX),
        };
        let msg = Message {
            formation: 0,
            body: Body::ResultRequest(request),
        };
        let to = Peer::Replica(ReplicaId(source));
        self.effects.push_back(Effect::Send { to, msg });
    }

    pub(super) fn on_part(&mut self, now: Time, m: ResultPart) {
        let any = self.config.broken(Mutation::AnyPart);
        let size = self.config.limits.piece;
        let first = self.pulls.iter().find(|(_, pull)| pull.begun());
        let id = match first.filter(|_| any) {
            Some((first, _)) => *first,
            None => m.id,
        };
        let Some(pull) = self.pulls.get_mut(&id).filter(|pull| pull.begun()) else {
            return;
        };
        if (m.slot, m.whole) != (pull.slot, pull.whole) && !any {
            return self.marks.hit(Mark::PartForeign);
        }
        let (offset, part) = (m.offset as usize, m.offset as usize / size);
        let rest = pull.bytes.len().saturating_sub(offset);
        let fits = offset.is_multiple_of(size) && m.bytes.len() == rest.min(size);
        if !fits || part >= pull.asked || pull.have.get(part).is_none_or(|have| *have) {
            return;
        }
        pull.bytes[offset..offset + m.bytes.len()].copy_from_slice(&m.bytes);
        pull.have[part] = true;
        pull.count += 1;
        if pull.count < pull.have.len() {
            self.advance(now, id);
            return self.ask_parts(id);
        }
        if Whole::of(&pull.bytes) != pull.whole && !any {
            // Not what it said it was: all of it again.
            pull.have.fill(false);
            pull.count = 0;
            return;
        }
        let place = pull.place;
        let reply = core::mem::take(&mut pull.bytes);
        if !place.read {
            self.release = Some(now + self.config.timing.retry);
        }
        self.finish(now, id, Committed { reply, place });
    }

    /// Parts did not come: another replica is asked; true if the operation is to be repeated
    /// as well.
    pub(super) fn pull_again(&mut self, now: Time, id: u64) -> bool {
        let seats = self.config.seats;
        let Some((pull, pending)) = self.pulls.get_mut(&id).zip(self.pending.get(&id)) else {
            return false;
        };
        if !pull.begun() {
            return false;
        }
        self.marks.hit(Mark::PartsAskedAgain);
        if pull.place.read {
            if pending.tries > TRIES {
                self.marks.hit(Mark::ReadPartsLost);
                self.takes_slot(id);
                self.next_pulls(now);
                return true;
            }
        } else {
            pull.source = (pull.source + 1) % seats;
        }
        let repeat = !pull.place.read && pending.tries.is_multiple_of(FRUITLESS);
        let source = pull.source;
        let runs: Vec<_> = pull.missing().take(RUNS).collect();
        for run in runs {
            self.request_parts(id, source, run);
        }
        repeat
    }

    /// Nothing was asked since a long result came: the group need not keep it any longer.
    pub(super) fn release(&mut self, now: Time) {
        if self.release.take_if(|at| *at <= now).is_some() {
            self.marks.hit(Mark::WindowReleased);
            let done_below = self.done_below();
            self.request(done_below, stateplane_wire::group::Batch::default());
        }
    }

    /// Asserts what must always hold.
    pub(super) fn check_pulls(&self) {
        for (id, pull) in &self.pulls {
            assert!(self.pending.contains_key(id), "nobody waits for a result");
            assert!(pull.asked <= pull.have.len(), "no more than there is");
        }
    }
}
