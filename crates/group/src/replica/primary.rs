//! VR's normal case (Liskov and Cowling, 2012, section 4.1): the leader gives each
//! request its slot and its time, followers append and acknowledge, and what a
//! majority has is executed and answered.
//!
//! Everything else (views, staging, snapshots, joining) is NOPaxos' code: to it this is
//! a log in which nobody ever misses what the leader does not have. So there are no
//! gaps to agree on and no no-ops, and the log a follower got from its leader in this
//! view is the leader's. Heartbeats serve as Commit, `SyncAck` as PrepareOk.
//!
//! *Batching* is adaptive: while no Prepare is unacknowledged, a request goes out at
//! once; what arrives meanwhile forms the next Prepare. A full one does not wait, so
//! that several are under way. Nothing is delayed by a timer.

use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::{LogTime, ReplicaId, Time};
use stateplane_state::Application;
use stateplane_wire::group::{Address, Body, Entry, Prepare, Request, Slot, leader_of};

use super::{Replica, Status};
use crate::round_trip::RoundTrip;
use crate::{Mark, Mutation, Peer, Protocol, Timing};

/// What ordering by the leader needs besides the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Ordering {
    /// Leader: the last slot that was sent.
    prepared: Slot,
    /// What was final when the leader last looked after its Prepares.
    seen: Slot,
    patience: Patience,
    /// Follower: Prepares arrived that are not acknowledged.
    pub(super) owes: bool,
    /// The time of day at some reading of our clock.
    day: (Time, LogTime),
}

/// How long the leader waits until it repeats Prepares, as RFC 6298 has it: some of the times
/// that slots take to become final, doubled by each repetition until one is measured anew. A
/// fixed time that is shorter than the queue at a busy leader repeats all of the queue, again
/// and again, until nothing else is done.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Patience {
    /// A slot that is measured, and when it was appended.
    timed: Option<(Slot, Time)>,
    round_trip: RoundTrip,
    repeated: u32,
}

impl Patience {
    fn appended(&mut self, now: Time, slot: Slot) {
        self.timed.get_or_insert((slot, now));
    }

    fn repeats(&mut self) {
        // What becomes final now may answer either (Karn).
        self.timed = None;
        self.repeated += 1;
    }

    /// Everything up to `commit` is final.
    fn finished(&mut self, now: Time, commit: Slot) {
        if let Some((_, since)) = self.timed.take_if(|(slot, _)| *slot <= commit) {
            self.round_trip.measured(now.since(since));
            self.repeated = 0;
        }
    }

    fn length(&self, timing: &Timing) -> Duration {
        let (least, most) = (timing.gap_retry, timing.silence / 2);
        let usual = self.round_trip.late().unwrap_or(least);
        let doubled = 1 << self.repeated.min(8);
        (usual.max(least) * doubled).min(most)
    }
}

impl<A: Application> Replica<A> {
    /// The same replica, which has learned the time of day: the operations it orders
    /// are stamped with it, and from here on with what its own clock counts.
    #[must_use]
    pub fn with_day(mut self, now: Time, wall: LogTime) -> Self {
        self.ordering.day = (now, wall);
        self
    }

    /// The time of day.
    pub(super) fn day(&self, now: Time) -> LogTime {
        let (then, wall) = self.ordering.day;
        wall + now.since(then)
    }

    /// A client's request, to be ordered by us.
    pub(super) fn on_request(&mut self, now: Time, from: Address, mut request: Request) {
        if !self.config.leader_orders() || !self.is_leader() {
            return self.marks.hit(Mark::NotTheLeader);
        }
        if !self.room() {
            return self.marks.hit(Mark::WindowFull);
        }
        request.reply_to = from;
        let time = self.clock(now).unwrap_or_else(|| self.day(now));
        self.clock.stamped(now, time);
        self.append(self.log.len() + 1, Entry::Value { time, request });
        self.ordering.patience.appended(now, self.log.len());
        if self.timers.prepare.is_none() {
            self.look_after_prepares(now);
        }
        self.advance_commit(now);
    }

    fn look_after_prepares(&mut self, now: Time) {
        let patience = self.ordering.patience.length(&self.config.timing);
        self.timers.prepare = Some(now + patience);
    }

    /// Leader: more is final.
    pub(super) fn prepared_is_final(&mut self, now: Time) {
        self.ordering.patience.finished(now, self.commit);
    }

    /// What was taken in since the last time is sent: Prepares that are due, and the
    /// acknowledgement of those that came.
    pub(super) fn flush_ordering(&mut self) {
        let Protocol::Vr { batch } = self.config.protocol else {
            return;
        };
        if core::mem::take(&mut self.ordering.owes) && self.status == Status::Normal {
            let view = self.view;
            let upto = match self.config.broken(Mutation::PrepareOkAhead) {
                true => self.inbox.window().tail(),
                false => self.verified,
            };
            self.send(self.leader(), Body::SyncAck { view, upto });
        }
        if !self.is_leader() || self.config.seats == 1 {
            return;
        }
        let batch = u64::from(batch.max(1));
        self.ordering.prepared = self.ordering.prepared.max(self.commit);
        while self.ordering.prepared < self.log.len() {
            let from = self.ordering.prepared + 1;
            let idle = self.ordering.prepared <= self.commit;
            if !idle && self.log.len() - self.ordering.prepared < batch {
                break;
            }
            let to = self.log.len().min(self.ordering.prepared + batch);
            self.ordering.prepared = to;
            self.send_prepares(Peer::Replicas, from, to);
        }
    }

    /// Sends slots in as many datagrams as they need.
    fn send_prepares(&mut self, to: Peer, first: Slot, last: Slot) {
        let (view, commit) = (self.view, self.commit);
        let (mut from, mut entries, mut bytes) = (first, Vec::new(), 0);
        for slot in first..=last {
            let Some(entry) = self.log.get(slot).cloned() else {
                break;
            };
            let full = bytes + entry.size() > self.config.limits.chunk;
            if full && !entries.is_empty() {
                let entries = core::mem::take(&mut entries);
                let prepare = Prepare {
                    view,
                    commit,
                    from,
                    entries,
                };
                self.send(to, Body::Prepare(prepare));
                (from, bytes) = (slot, 0);
            }
            bytes += entry.size();
            entries.push(entry);
        }
        if !entries.is_empty() {
            let prepare = Prepare {
                view,
                commit,
                from,
                entries,
            };
            self.send(to, Body::Prepare(prepare));
        }
    }

    /// Leader: no majority has acknowledged anything for a while; those that lag get what they
    /// lack again. (One that lags behind a majority asks for itself.)
    pub(super) fn on_prepare_timer(&mut self, now: Time) {
        if !self.is_leader() || self.commit >= self.log.len() {
            return;
        }
        if core::mem::replace(&mut self.ordering.seen, self.commit) < self.commit {
            return self.look_after_prepares(now);
        }
        self.ordering.patience.repeats();
        self.look_after_prepares(now);
        for j in 0..self.config.seats {
            let Some(acked) = self.followers[usize::from(j)].acked else {
                continue;
            };
            let last = self.ordering.prepared.min(acked + self.config.limits.fetch);
            if j != self.me && acked < last && acked >= self.log.base() {
                self.marks.hit(Mark::PrepareRepeated);
                self.send_prepares(Peer::Replica(ReplicaId(j)), acked + 1, last);
            }
        }
    }

    /// Follower: what the leader of this view has put into the log.
    pub(super) fn on_prepare(&mut self, now: Time, from: u8, m: Prepare) {
        let any = self.config.broken(Mutation::PrepareAcrossViews);
        let foreign = leader_of(m.view) != from || (m.view != self.view && !any);
        if !self.config.leader_orders() || self.status != Status::Normal || foreign {
            return self.marks.hit(Mark::PrepareStale);
        }
        // As good a life sign as a heartbeat.
        self.timers.silence = Some(now + self.config.timing.silence);
        if m.from > self.log.len() + 1 {
            self.marks.hit(Mark::PrepareAhead);
        }
        for (slot, entry) in (m.from..).zip(m.entries) {
            self.place(now, slot, entry);
        }
        self.follow_commit(now, m.commit);
        self.ordering.owes = true;
        if self.config.protocol == (Protocol::Vr { batch: 1 }) {
            // Without batching, each Prepare has its acknowledgement.
            self.flush_ordering();
        }
    }

    /// We are about to enter a view, whose log is in place. Its clock is that of the view
    /// it continues: its leader has that one if it was there itself, and tells it to its
    /// followers. What else we have heard is the time of a leader whose stamps, perhaps,
    /// came to nothing.
    pub(super) fn set_clock(&mut self, now: Time, of_basis: bool) {
        let keeps = of_basis && (self.leads() || !self.config.leader_orders());
        if !keeps {
            self.clock.forget();
            self.clock.received(now, self.last_stamp());
        }
    }

    /// A view starts: whoever enters it has its whole log.
    pub(super) fn start_ordering(&mut self) {
        self.ordering.prepared = self.log.len();
        self.ordering.owes = false;
        self.ordering.patience.timed = None;
    }

    /// Leader: executes what became final and answers, in this view.
    pub(super) fn execute_committed(&mut self) {
        while self.executed < self.commit {
            let slot = self.executed + 1;
            let results = self.execute_for_reply();
            if let Some(Entry::Value { request, .. }) = self.log.get(slot) {
                let (client, at) = (request.client, request.reply_to);
                self.reply(slot, client, at, results);
            }
        }
    }
}
