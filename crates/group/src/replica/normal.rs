//! The normal case: append, execute, reply; and synchronisation, which rides on
//! the leader's heartbeats.

use alloc::boxed::Box;

use stateplane_base::{ClientId, LogTime, Time};
use stateplane_state::Application;
use stateplane_wire::group::{
    Address, Body, Entry, MAX_REPLICAS, OpResult, Reply, Request, Results, Seats, Slot, Summary,
    View, leader_of, sequencer_of,
};

use super::{Replica, Status};
use crate::{Mark, Mutation, Peer};

/// Heartbeats that a follower answers though they find nothing new.
const REPEATS: u8 = 3;
/// After these it answers one of so many.
const REST: u8 = 4;

impl<A: Application> Replica<A> {
    /// Fills the next slot and replies to its client: the leader with results,
    /// a follower with the fact alone.
    pub(super) fn append(&mut self, slot: Slot, entry: Entry) {
        assert_eq!(slot, self.log.len() + 1, "slots are filled in order");
        let client = match &entry {
            Entry::Noop => None,
            Entry::Value { request, .. } => Some((request.client, request.reply_to)),
        };
        self.log.push(entry);
        self.inbox.window_mut().skip(slot);
        if self.config.leader_orders() {
            // Executed and answered when a majority has it; the log is the leader's.
            self.verified = slot;
            return;
        }
        let results = if self.is_leader() {
            self.execute_for_reply()
        } else {
            Results::new()
        };
        if let Some((client, at)) = client {
            self.reply(slot, client, at, results);
        }
    }

    /// Sends results in as many datagrams as they need; at least one.
    pub(super) fn reply(&mut self, slot: Slot, client: ClientId, at: Address, results: Results) {
        let most = self.config.limits.reply_bytes;
        if results.iter().map(OpResult::size).sum::<usize>() <= most {
            return self.send_reply(slot, client, at, results);
        }
        let mut part = Results::new();
        let mut bytes = 0;
        for result in results {
            let size = result.size();
            if bytes + size > most && !part.is_empty() {
                let full = core::mem::take(&mut part);
                self.send_reply(slot, client, at, full);
                bytes = 0;
            }
            bytes += size;
            part.push(result);
        }
        self.send_reply(slot, client, at, part);
    }

    fn send_reply(&mut self, slot: Slot, client: ClientId, at: Address, results: Results) {
        if !self.decides() {
            return;
        }
        let reply = Reply {
            view: self.view,
            session: self.session,
            slot,
            replica: self.me,
            sequencer: sequencer_of(self.nonce),
            quorum: u8::try_from(self.members.quorum()).expect("a group is small"),
            client,
            results,
        };
        self.send(Peer::Client(client, at), Body::Reply(reply));
    }

    /// Replies again, in this view, for slots of earlier ones whose clients may
    /// lack a majority.
    pub(super) fn announce(&mut self, from: Slot) {
        for slot in from..=self.log.len() {
            let Some(Entry::Value { request, .. }) = self.log.get(slot) else {
                continue;
            };
            let (client, at) = (request.client, request.reply_to);
            let results = if self.is_leader() {
                self.cached_results(slot, request)
            } else {
                Results::new()
            };
            self.reply(slot, client, at, results);
        }
    }

    fn cached_results(&self, slot: Slot, request: &Request) -> Results {
        let results = request.batch.iter().filter_map(|(id, _)| {
            let known = self.table.cached(request.client, id)?;
            Some(known.told(id, slot))
        });
        results.collect()
    }

    pub(super) fn on_heartbeat_timer(&mut self, now: Time) {
        if !self.is_leader() {
            return;
        }
        self.timers.heartbeat = Some(now + self.config.timing.heartbeat);
        let patience = self.config.timing.silence * 4;
        let heard = |j: usize| now.since(self.followers[j].heard) < patience;
        if !self.members.decides(self.with_us(heard)) {
            self.marks.hit(Mark::Abdicated);
            return self.start_view_change(now, self.members.next_view(self.view));
        }
        self.advance_commit(now);
        self.pursue_change(now);
        if !self.is_leader() {
            return;
        }
        self.watch_sequencer(now);
        self.beats += 1;
        self.send_heartbeat(now);
        if self.beats.is_multiple_of(2) {
            self.repeat_start();
        }
    }

    /// Leader, whose log went on from `before`: under load followers are told more often.
    /// What they execute at once delays everything that comes after it.
    pub(super) fn sync_often(&mut self, now: Time, before: Slot) {
        let every = self.config.limits.sync_every;
        if before / every != self.log.len() / every && self.is_leader() {
            self.send_heartbeat(now);
        }
    }

    fn send_heartbeat(&mut self, now: Time) {
        let known = self.clock.read(now);
        let body = Body::Heartbeat {
            view: self.view,
            // A leader that has only its own time of day to tell does not.
            clock: known.map_or(LogTime::ZERO, |time| time.max(self.log_time)),
            summary: self.log.summary(self.commit),
        };
        self.send(Peer::Replicas, body);
    }

    /// Sends the view's start to those that have not entered it.
    pub(super) fn repeat_start(&mut self) {
        let Some(start) = self.start.clone() else {
            return;
        };
        for j in 0..self.config.seats {
            if j != self.me
                && self.members.life(j) != 0
                && self.followers[usize::from(j)].acked.is_none()
            {
                self.send_to(j, Body::StartView(Box::new(start.clone())));
            }
        }
    }

    pub(super) fn on_heartbeat(
        &mut self,
        now: Time,
        from: u8,
        view: View,
        clock: LogTime,
        summary: &Summary,
    ) {
        if self.status != Status::Normal || view < self.view || leader_of(view) != from {
            return;
        }
        // Also the life sign of a view whose start is on its way to us.
        self.timers.silence = Some(now + self.config.timing.silence);
        if view > self.view {
            let (view, upto) = (self.view, self.verified);
            return self.send_to(from, Body::SyncAck { view, upto });
        }
        if self.is_leader() {
            return;
        }
        self.attempts = 0;
        if clock > LogTime::ZERO {
            self.clock.told(now, clock);
        }
        self.take_noops(summary);
        self.inbox.window_mut().note(summary.len);
        self.drain(now);
        if self.verified >= summary.known_from {
            self.verified = self.verified.max(self.log.len().min(summary.len));
        } else {
            self.marks.hit(Mark::SyncBlind);
            let (basis, from, to) = (view, self.verified + 1, summary.known_from);
            self.send(
                self.leader(),
                Body::Fetch {
                    view,
                    basis,
                    from,
                    to,
                },
            );
        }
        self.follow_commit(now, summary.commit);
        if self.owes_ack(summary.commit) {
            let upto = self.verified;
            self.send(self.leader(), Body::SyncAck { view, upto });
        }
    }

    /// Whether the leader is to hear how far we are. What it was told some times is repeated with every
    /// few heartbeats only, as a sign of life, unless its sync point shows that it may not have heard it.
    fn owes_ack(&mut self, commit: Slot) -> bool {
        let acked = (self.view, self.verified);
        if core::mem::replace(&mut self.acked, acked) != acked {
            self.repeats = 0;
            return true;
        }
        self.repeats += 1;
        if self.repeats == REPEATS + REST {
            self.repeats = REPEATS;
        }
        commit < self.verified || self.repeats <= REPEATS
    }

    /// Whether the leader's no-op replaces what we have in `slot`.
    pub(super) fn must_yield(&self, slot: Slot) -> bool {
        self.log.get(slot).is_some_and(|e| !e.is_noop())
            && !self.config.broken(Mutation::GapKeepsValue)
    }

    /// Applies the leader's no-ops, whose gap commits may have been lost.
    fn take_noops(&mut self, summary: &Summary) {
        if summary.noops.is_empty() {
            return;
        }
        for slot in self.commit.max(summary.known_from) + 1..=summary.len {
            if !summary.noops.contains(slot) {
                continue;
            }
            if slot > self.log.len() {
                self.inbox.window_mut().settle(slot, Entry::Noop);
            } else if self.must_yield(slot) {
                self.marks.hit(Mark::SyncOverwrite);
                self.log.replace(slot, Entry::Noop);
            }
        }
    }

    /// Follower: the sync point moves as far as our log is verified; now, and
    /// only now, it is executed.
    pub(super) fn follow_commit(&mut self, now: Time, commit: Slot) {
        let commit = commit.min(self.verified);
        if commit > self.commit {
            self.commit = commit;
            self.execute_to(commit);
            self.truncate(now);
            self.drain(now);
        }
    }

    pub(super) fn on_sync_ack(&mut self, now: Time, from: u8, view: View, upto: Slot) {
        if self.status == Status::Booting || !self.is_leader() {
            return;
        }
        if view != self.view || self.members.life(from) == 0 {
            // It is in a view that is over: perhaps it is out, and does not know.
            return self.hint(from);
        }
        let len = self.log.len();
        let follower = &mut self.followers[usize::from(from)];
        follower.heard = now;
        follower.acked = Some(follower.acked.unwrap_or(0).max(upto.min(len)));
        self.advance_commit(now);
        self.grant_session(now);
        if self.members.joint() {
            self.pursue_change(now);
        }
    }

    /// We, and the seats of which `holds` is true.
    pub(super) fn with_us(&self, holds: impl Fn(usize) -> bool) -> Seats {
        self.seats(|j| j == usize::from(self.me) || holds(j))
    }

    /// Leader: the replicas that entered this view.
    pub(super) fn present(&self) -> Seats {
        self.with_us(|j| self.followers[j].acked.is_some())
    }

    /// Leader: whether those that decide have entered this view.
    pub(super) fn in_office(&self) -> bool {
        self.members.decides(self.present())
    }

    /// Leader: the sync point is what a majority has.
    pub(super) fn advance_commit(&mut self, now: Time) {
        let short = self.config.short(Mutation::CommitWithoutQuorum);
        let acked = |j: usize| self.followers[j].acked.unwrap_or(0);
        let has = |slot: Slot| self.with_us(|j| acked(j) >= slot);
        let decided = |slot: &Slot| self.members.decides_with(has(*slot), short);
        let ours = core::iter::once(self.log.len());
        let known = ours.chain((0..MAX_REPLICAS).map(acked));
        // What it could move to: mostly nothing, and asking who has what costs more.
        let further = known.filter(|slot| *slot > self.commit).filter(decided);
        if let Some(commit) = further.max().filter(|_| self.decides()) {
            self.commit = commit;
            if self.config.leader_orders() {
                self.prepared_is_final(now);
                self.execute_committed();
            }
            self.truncate(now);
            self.drain(now);
        }
    }

    /// Forgets final slots beyond what laggards may ask for.
    fn truncate(&mut self, now: Time) {
        let done = self.commit.min(self.executed);
        let mut keep = done.saturating_sub(self.config.limits.retain);
        if let Some(at) = self.serving_at(now) {
            // Whoever receives that snapshot goes on from there.
            keep = keep.min(at);
        }
        let unwritten = self.log.first_unwritten();
        let done = done.min(unwritten.map_or(done, |first| first - 1));
        self.log.truncate_to(keep.min(done).max(self.log.base()));
        while self.log.bytes() > self.config.limits.log_bytes && self.log.base() < done {
            self.log.truncate_to(self.log.base() + 1);
        }
    }
}
