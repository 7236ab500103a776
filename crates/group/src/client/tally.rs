//! Operations with a slot: who answered for which, and when that is a majority.

use stateplane_base::Time;
use stateplane_wire::group::{
    Formation, OpResult, Outcome, Reply, Results, Session, Slot, View, leader_of,
};

use super::{Client, Committed, Place};
use crate::{Mutation, Protocol};

/// Replies that agree are those with the same key.
pub(super) type Key = (Formation, View, Session, Slot);

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Tally {
    /// Who replied, one bit each.
    pub(super) replicas: u16,
    /// The leader's results, until there is a majority.
    results: Results,
}

impl Client {
    /// Adds a reply to those it agrees with.
    pub(super) fn count(&mut self, now: Time, formation: Formation, reply: Reply) {
        let mut key = (formation, reply.view, reply.session, reply.slot);
        if self.config.broken(Mutation::QuorumAcrossViews) {
            (key.1, key.2) = (0, 0);
        }
        if self.config.broken(Mutation::QuorumAcrossSlots) {
            key.3 = 0;
        }
        let leader = leader_of(reply.view);
        // Slots long past get no more replies.
        let most = self.config.limits.window as usize * 2;
        let tally = self.tallies.of(key, most);
        tally.replicas |= 1 << (reply.replica & 15);
        if reply.replica == leader && tally.results.len() < self.config.limits.window as usize {
            if tally.results.is_empty() {
                tally.results = reply.results;
            } else {
                tally.results.extend(reply.results);
            }
        }
        let quorum = match self.config.protocol {
            Protocol::Nopaxos => usize::from(reply.quorum),
            // The leader answers what a majority has acknowledged.
            Protocol::Vr { .. } => 1,
        };
        let counted =
            tally.replicas.count_ones() as usize + self.config.short(Mutation::ClientQuorum);
        let majority = counted >= quorum;
        if majority && tally.replicas & (1 << leader) != 0 {
            let (view, slot) = (reply.view, reply.slot);
            for OpResult { id, outcome } in core::mem::take(&mut tally.results) {
                let place = |earlier: Option<Slot>| Place {
                    formation,
                    view,
                    slot: earlier.unwrap_or(slot),
                    read: false,
                };
                match outcome {
                    Outcome::Done { earlier, result } => {
                        let (reply, place) = (result.into(), place(earlier));
                        self.finish(now, id, Committed { reply, place });
                    }
                    Outcome::Long { earlier, whole } => {
                        let place = place(earlier);
                        self.pull(now, id, place, place.slot, whole);
                    }
                    Outcome::Kept { offset, missing } => {
                        self.on_kept(now, (formation, view, slot), id, [offset, missing]);
                    }
                    Outcome::Refused => {}
                }
            }
        }
    }
}
