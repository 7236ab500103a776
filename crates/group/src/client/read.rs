//! Reads without a slot.
//!
//! The client asks all replicas. The leader answers from its state, and says where its
//! log ends; each follower says where its own log ends. The answer is taken when f+1
//! replicas, the leader among them, are in one view and the followers' logs reach the
//! leader's end. Nothing is written, stamped or remembered.
//!
//! # Why that is linearizable
//! Let the leader of view v have answered from the state after slot s. All answers
//! were given after the read was invoked: the serial is new.
//!
//! *It is not too old.* An operation answered before the read was invoked has f+1 replies
//! of one view w. If w < v it is in the log v began with; if w = v the leader has replied
//! for it, so it lies at or before s. And w > v cannot be: w began with the votes of f+1
//! replicas, one of which has answered our read in v *after* the invocation, so it voted
//! for w still later. (Its vote counts for one life. One that it cast in a later life is
//! later still; and a former life's vote is refused by any quorum that knows the life
//! which answered us, see `replica`.)
//!
//! *It does not vanish.* The f+1 logs of view v hold everything up to s, as they would
//! after s had been answered to its client: the argument for that reply is the argument
//! here. A later view's log thus continues the state that was read.
//!
//! What ends with the log's time ends with the next slot, as long as nobody asks: the
//! leader has such a read take a slot if, by its clock, something is due.
//!
//! A read that finds its followers behind, or replicas between views, is repeated; after
//! [`TRIES`] it takes a slot like any other operation.

use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_wire::group::{
    Batch, Body, Formation, MAX_REPLICAS, Message, OpResult, Outcome, Read, ReadReply, Results,
    Session, Slot, View, leader_of,
};

use super::{Busy, Client, Committed, Place, RequestId, Way};
use crate::{Effect, Mark, Mutation, Peer};

/// How often a read is asked for before it takes a slot.
pub(super) const TRIES: u32 = 3;

/// What makes answers agree.
type Key = (Formation, View, Session);

/// Reads that were asked for together.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Asking {
    ids: Vec<u64>,
    /// Each replica's newest answer: its view and the end of its log.
    ends: [Option<(Key, Slot)>; MAX_REPLICAS],
    /// The leader who gave the results, and where its log ended.
    leader: Option<(u8, Key, Slot)>,
    /// Its results, until there is a majority.
    results: Results,
}

impl Asking {
    /// Replicas that were in the leader's view and had all of its log.
    fn agreeing(&self, across_views: bool) -> usize {
        let Some((_, key, end)) = self.leader else {
            return 0;
        };
        let agrees = |(k, e): &&(Key, Slot)| (*k == key || across_views) && *e >= end;
        self.ends.iter().flatten().filter(agrees).count()
    }
}

impl Client {
    /// Takes an operation that only reads. One that turns out to write is refused by the
    /// store and has no effect.
    pub fn submit_read(&mut self, now: Time, op: Vec<u8>) -> Result<RequestId, Busy> {
        if op.len() + Batch::OVERHEAD > self.config.limits.batch_bytes {
            return self.submit(now, op);
        }
        let id = self.take(now, op, Way::Read)?;
        self.fresh_reads.push(id.0);
        Ok(id)
    }

    /// Whether a read that is due is to be asked for again; else it takes a slot.
    pub(super) fn reads_on(&mut self, id: u64) -> bool {
        let Some(pending) = self.pending.get_mut(&id) else {
            return false;
        };
        if pending.way == Way::Slot {
            return false;
        }
        if pending.tries < TRIES {
            self.marks.hit(Mark::ReadRepeated);
            return true;
        }
        self.takes_slot(id);
        false
    }

    /// From now on the log answers it, and nothing else.
    pub(super) fn takes_slot(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.way = Way::Slot;
            self.pulls.remove(&id);
            self.marks.hit(Mark::ReadTookSlot);
        }
    }

    /// Asks all replicas, as many reads per datagram as fit.
    pub(super) fn ask(&mut self, ids: &[u64]) {
        let (mut batch, mut asking) = (Batch::default(), Asking::default());
        for id in ids {
            let Some(pending) = self.pending.get(id) else {
                continue;
            };
            let size = batch.size() + pending.op.len() + Batch::OVERHEAD;
            let full = !batch.is_empty() && size > self.config.limits.batch_bytes;
            if full || !batch.push(*id, &pending.op) {
                let sent = core::mem::take(&mut batch);
                let fits = batch.push(*id, &pending.op);
                assert!(fits, "a read fits an empty batch");
                self.ask_together(sent, core::mem::take(&mut asking));
            }
            asking.ids.push(*id);
        }
        if !batch.is_empty() {
            self.ask_together(batch, asking);
        }
    }

    fn ask_together(&mut self, batch: Batch, asking: Asking) {
        self.asked += 1;
        if self.askings.len() as u64 >= self.config.limits.window {
            // Its reads are asked for again when they are due.
            self.askings.pop_first();
        }
        self.askings.insert(self.asked, asking);
        let read = Read {
            client: self.id,
            serial: self.asked,
            batch,
        };
        let msg = Message {
            formation: 0,
            body: Body::Read(read),
        };
        self.effects.push_back(Effect::Send {
            to: Peer::Replicas,
            msg,
        });
    }

    pub(super) fn on_read_reply(&mut self, now: Time, formation: Formation, m: ReadReply) {
        let leads = leader_of(m.view) == m.replica;
        let Some(asking) = self.askings.get_mut(&m.serial) else {
            return;
        };
        let key = (formation, m.view, m.session);
        let Some(end) = asking.ends.get_mut(usize::from(m.replica)) else {
            return;
        };
        *end = Some((key, m.slot));
        if leads {
            let leader = (m.replica, key, m.slot);
            if asking.leader != Some(leader) {
                asking.leader = Some(leader);
                asking.results.clear();
            }
            if asking.results.len() + m.results.len() <= asking.ids.len() {
                asking.results.extend(m.results);
            }
        }
        let across = self.config.broken(Mutation::ReadAcrossViews);
        let alone = self.config.broken(Mutation::ReadWithoutFollowers);
        let quorum = if alone { 1 } else { usize::from(m.quorum) };
        let all = asking.ends.iter().flatten().count() + 1 >= usize::from(m.quorum) * 2;
        if asking.agreeing(across) >= quorum {
            self.finish_reads(now, m.serial);
        } else if all {
            // Nobody is left who could still agree.
            self.marks.hit(Mark::ReadDisagreed);
            self.ask_again(now, m.serial);
        }
    }

    /// A majority agrees: what the leader has answered so far is the outcome.
    fn finish_reads(&mut self, now: Time, serial: u64) {
        let Some(asking) = self.askings.get_mut(&serial) else {
            return;
        };
        let Some((_, (formation, view, _), slot)) = asking.leader else {
            return;
        };
        let results = core::mem::take(&mut asking.results);
        asking.ids.retain(|id| results.iter().all(|r| r.id != *id));
        if asking.ids.is_empty() {
            self.askings.remove(&serial);
        }
        let place = Place {
            formation,
            view,
            slot,
            read: true,
        };
        let mut refused = Vec::new();
        for OpResult { id, outcome } in results {
            if self.pending.get(&id).is_none_or(|p| p.way == Way::Slot) {
                continue; // it ended, or the log answers it
            }
            match outcome {
                Outcome::Done { result, .. } => {
                    let reply = result.into();
                    self.marks.hit(Mark::ReadAnswered);
                    self.finish(now, id, Committed { reply, place });
                }
                Outcome::Long { whole, .. } => self.pull(now, id, place, slot, whole),
                // Too long to be kept, or something is due.
                Outcome::Refused | Outcome::Kept { .. } => refused.push(id),
            }
        }
        self.take_slots(&refused);
    }

    /// Not all were of one view, or followers were behind.
    fn ask_again(&mut self, now: Time, serial: u64) {
        let Some(asking) = self.askings.remove(&serial) else {
            return;
        };
        let (mut again, mut slots) = (Vec::new(), Vec::new());
        for id in asking.ids {
            let patience = self.patience(0);
            let answered = self.pulls.contains_key(&id);
            let Some(pending) = self.pending.get_mut(&id).filter(|_| !answered) else {
                continue; // it ended, or its answer is on its way
            };
            pending.tries = pending.tries.saturating_add(1);
            self.due.remove(&(pending.due, id));
            pending.due = (now + patience).min(pending.submitted + self.config.timing.deadline);
            self.due.insert((pending.due, id));
            if self.reads_on(id) {
                again.push(id);
            } else {
                slots.push(id);
            }
        }
        self.ask(&again);
        self.send(&slots);
    }

    fn take_slots(&mut self, ids: &[u64]) {
        ids.iter().for_each(|id| self.takes_slot(*id));
        self.send(ids);
    }
}
