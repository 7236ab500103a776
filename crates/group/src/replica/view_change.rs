//! View changes: for a silent leader, for a new session, for a joining replica.
//!
//! All three are one procedure. A replica votes by sending the summary of its
//! log to everybody; a vote for a higher view than one's own is joined. The new
//! leader merges f+1 votes: only logs of the highest last normal view among them
//! count; the longest wins; a no-op wins over a value. A view that does not start
//! in time is given up for the next, whose leader may be alive.

use alloc::boxed::Box;
use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{
    Body, Membership, NoopSet, Slot, StartView, Summary, View, ViewChange, leader_of,
};

use super::log::SUMMARY_SPAN;
use super::staging::Staging;
use super::{Replica, Status};
use crate::{Mark, Mutation, Peer};

impl<A: Application> Replica<A> {
    /// The next view that we lead.
    pub(super) fn next_own_view(&self) -> View {
        let view = self.view.max(self.config.origin.view);
        let (round, seat) = (view >> 4, leader_of(view));
        (round + u64::from(self.me <= seat)) << 4 | u64::from(self.me)
    }

    pub(super) fn start_view_change(&mut self, now: Time, view: View) {
        if self.status == Status::Booting || view <= self.view {
            return;
        }
        self.marks.hit(Mark::ViewChangeStarted);
        self.leave_normal(view);
        self.vote_again(now);
    }

    /// Votes for `view`, and gives it time to start.
    pub(super) fn vote_again(&mut self, now: Time) {
        let timing = &self.config.timing;
        self.timers.resend = Some(now + timing.resend);
        self.timers.patience = Some(now + timing.view_patience * (1 + self.attempts.min(7)));
        self.send(Peer::Replicas, Body::ViewChange(Box::new(self.vote())));
        self.try_merge(now);
    }

    /// Stops taking part in the present view. The log stays what it was in
    /// `last_normal`, untouched, until another view's log is complete here.
    pub(super) fn leave_normal(&mut self, view: View) {
        self.view = view;
        if self.status != Status::Booting {
            self.status = Status::ViewChange;
        }
        self.votes.iter_mut().for_each(|v| *v = None);
        self.staging = None;
        self.gap = None;
        self.start = None;
        self.timers.heartbeat = None;
        self.timers.silence = None;
        self.timers.gap = None;
        self.timers.patience = None;
        self.timers.prepare = None;
    }

    fn vote(&self) -> ViewChange {
        ViewChange {
            view: self.view,
            last_normal: self.last_normal,
            incarnation: self.incarnation,
            session: self.session,
            nonce: self.nonce,
            session_base: self.session_base,
            members: self.members,
            joining: self.joining,
            summary: self.log.summary(self.commit),
        }
    }

    pub(super) fn on_resend_timer(&mut self, now: Time) {
        if self.status == Status::Normal {
            return;
        }
        self.timers.resend = Some(now + self.config.timing.resend);
        if self.staging.is_some() {
            self.stage_step(now, true);
        } else if self.status == Status::ViewChange {
            self.send(Peer::Replicas, Body::ViewChange(Box::new(self.vote())));
        }
    }

    pub(super) fn on_patience_timer(&mut self, now: Time) {
        if self.status == Status::ViewChange {
            self.marks.hit(Mark::ViewChangeEscalated);
            self.attempts = self.attempts.saturating_add(1);
            self.start_view_change(now, self.members.next_view(self.view));
        }
    }

    pub(super) fn on_view_change(&mut self, now: Time, from: u8, m: ViewChange) {
        let j = usize::from(from);
        if self.status == Status::Booting {
            return;
        }
        let trusts = self.config.broken(Mutation::FormerLifeVotes);
        if m.incarnation < self.members.life(from) && !trusts {
            self.marks.hit(Mark::StaleIncarnation);
            return self.hint(from);
        }
        if !self.has_say(from, m.incarnation) && m.last_normal <= self.last_normal {
            self.marks.hit(Mark::OutsiderRefused);
            return self.hint(from);
        }
        if m.view < self.view || (m.view == self.view && self.status == Status::Normal) {
            // It has missed the start of this view.
            if self.is_leader() {
                self.followers[j].acked = None;
                self.repeat_start();
            }
            return;
        }
        for (seat, life) in (0..).zip(m.joining) {
            if seat != self.me && life > self.members.life(seat) {
                let known = &mut self.joining[usize::from(seat)];
                *known = life.max(*known);
            }
        }
        if m.view > self.view {
            self.start_view_change(now, m.view);
        }
        self.votes[j] = Some(m);
        self.try_merge(now);
    }

    /// Whether this life has a say as far as we know: in our view, or in a newer one that a
    /// vote shows us. A newcomer votes before it has entered the view that admits it, so its
    /// own vote does not show that view. If we have missed it, too, and refused the vote, we
    /// could not lead, although the merge, under the newest members, would count it.
    fn has_say(&self, seat: u8, life: u64) -> bool {
        let newest = self.votes.iter().flatten();
        let newest = newest.max_by_key(|v| (v.last_normal, v.members));
        let newest = newest.filter(|v| v.last_normal > self.last_normal);
        self.members.admits(seat, life) || newest.is_some_and(|v| v.members.admits(seat, life))
    }

    /// Leader of the view voted for: merges as soon as a quorum's votes count.
    fn try_merge(&mut self, now: Time) {
        if self.status != Status::ViewChange || !self.leads() || self.staging.is_some() {
            return;
        }
        self.votes[usize::from(self.me)] = Some(self.vote());
        let Some(target) = self.merge() else { return };
        let basis = target.basis;
        let sources = self.votes.iter().enumerate().filter_map(|(j, v)| {
            let vote = v
                .as_ref()
                .filter(|v| v.last_normal == basis && j != usize::from(self.me))?;
            Some((u8::try_from(j).ok()?, vote.summary.clone()))
        });
        let staging = Staging::new(target, true, sources.collect());
        self.begin_staging(now, staging);
    }

    /// The votes that count: of the lives that the newest log's view knows, and
    /// not of lives about to be replaced.
    fn merge(&mut self) -> Option<StartView> {
        for (vote, joining) in self.votes.iter_mut().zip(&self.joining) {
            let trusts = self.config.broken(Mutation::FormerLifeVotes);
            if vote.as_ref().is_some_and(|v| v.incarnation < *joining) && !trusts {
                *vote = None;
                self.marks.hit(Mark::VoteRefused);
            }
        }
        let votes = || self.votes.iter().flatten();
        let mut newest =
            votes().max_by(|a, b| (a.last_normal, a.members).cmp(&(b.last_normal, b.members)))?;
        if self.config.broken(Mutation::OwnLogWins) {
            newest = self.votes[usize::from(self.me)].as_ref()?;
        }
        let (basis, members) = (newest.last_normal, newest.members);
        for (j, vote) in (0..).zip(self.votes.iter_mut()) {
            let trusts = self.config.broken(Mutation::FormerLifeVotes);
            if vote
                .as_ref()
                .is_some_and(|v| !members.admits(j, v.incarnation) && !trusts)
            {
                *vote = None;
                self.marks.hit(Mark::VoteRefused);
            }
        }
        let short = self.config.short(Mutation::ViewChangeQuorum);
        let voters = self.seats(|j| self.votes[j].is_some());
        let deciders = self.deciders(members);
        // If we leave, or only another life of ours is a member, somebody else leads.
        let ours = members.has(self.me) && members.admits(self.me, self.incarnation);
        if !deciders.decides_with(voters, short) || !ours {
            return None;
        }
        let votes = || self.votes.iter().flatten();
        let any = self.config.broken(Mutation::MergeAnyView);
        let own = self.config.broken(Mutation::OwnLogWins);
        let logs: Vec<&ViewChange> = votes()
            .filter(|v| any || v.last_normal == basis && v.members == members)
            .filter(|v| !own || v.incarnation == self.incarnation)
            .collect();
        let entered = self.seats(|j| {
            let vote = self.votes[j].as_ref();
            vote.is_some_and(|v| v.last_normal == basis)
        });
        let first = *logs.first()?;
        let (summary, noop_won) = merge_summaries(&logs, self.config.broken(Mutation::ValueWins));
        let mut start = StartView {
            view: self.view,
            basis,
            session: first.session,
            nonce: first.nonce,
            session_base: first.session_base,
            members,
            summary,
        };
        if noop_won {
            self.marks.hit(Mark::MergeNoopWins);
        }
        for (seat, life) in (0..).zip(self.joining) {
            if self.is_vouched_for(deciders, seat, life) {
                start.members.renew(seat, life);
            } else {
                self.marks.hit(Mark::JoinDeferred);
            }
        }
        self.apply_change(&mut start, entered, voters);
        if let Some(nonce) = self
            .wanted_session
            .filter(|n| start.session == 0 || *n != start.nonce)
        {
            // Named after the view: no other session ever has this number.
            (start.session, start.nonce, start.session_base) = (
                self.view,
                nonce,
                start.summary.len - self.config.origin.slot,
            );
        }
        Some(start)
    }

    /// Whether a majority voted for this view when they knew of a member's later life already.
    /// A vote that is older than the loss of that memory says nothing: its voter may have gone on
    /// since, to a later view, which it decided in together with the former life.
    fn is_vouched_for(&self, deciders: Membership, seat: u8, life: u64) -> bool {
        let knows = |vote: &ViewChange| vote.joining[usize::from(seat)] >= life;
        let knowing = self.seats(|j| self.votes[j].as_ref().is_some_and(knows));
        life == 0 || deciders.decides(knowing) || self.config.broken(Mutation::JoinUnvouched)
    }

    /// The start of a view, at a member.
    pub(super) fn on_start_view(&mut self, now: Time, from: u8, m: StartView) {
        let old = m.view < self.view && !self.config.broken(Mutation::OldStartView);
        if leader_of(m.view) != from || old {
            return;
        }
        if !m.members.admits(self.me, self.incarnation) {
            // Perhaps we are out; its leader knows.
            self.marks.hit(Mark::NotAMember);
            let (view, upto) = (self.last_normal, self.verified);
            return self.send_to(from, Body::SyncAck { view, upto });
        }
        if m.view == self.view {
            if self.status == Status::Normal {
                let (view, upto) = (self.view, self.verified);
                return self.send(self.leader(), Body::SyncAck { view, upto });
            }
            if self.staging.is_some() {
                return;
            }
        }
        #[cfg(feature = "mutations")]
        if self.config.broken(Mutation::NewcomerWithoutState) && self.knows_nothing() {
            return self.enter_blindly(now, self.formation, &m);
        }
        self.leave_normal(m.view);
        let timing = &self.config.timing;
        self.timers.patience = Some(now + timing.silence * 2);
        self.timers.resend = Some(now + timing.resend);
        let sources = [(from, m.summary.clone())];
        self.begin_staging(now, Staging::new(m, false, sources.into()));
    }
}

/// The merged log's summary, and whether a no-op beat a value. All votes are of
/// the same last normal view, so they differ in length and no-ops alone.
fn merge_summaries(logs: &[&ViewChange], value_wins: bool) -> (Summary, bool) {
    let synced = logs
        .iter()
        .map(|v| &v.summary)
        .max_by_key(|s| s.commit)
        .expect("a quorum is not empty");
    let len = logs.iter().map(|v| v.summary.len).max().unwrap_or(0);
    // The merged log may be longer than the voter's whose sync point counts, and a set of
    // no-ops spans only so much: one left out would pass for a value.
    let known_from = synced.known_from.max(len.saturating_sub(SUMMARY_SPAN));
    let (commit, known_from) = (synced.commit, known_from.min(synced.commit));
    let says_noop = |slot: Slot| {
        if slot <= commit {
            synced.noops.contains(slot)
        } else {
            let mut holders = logs.iter().filter(|v| v.summary.len >= slot);
            let says = |v: &&ViewChange| v.summary.noops.contains(slot);
            if value_wins {
                holders.all(says)
            } else {
                holders.any(says)
            }
        }
    };
    let noops = if logs.iter().all(|v| v.summary.noops.is_empty()) {
        NoopSet::default()
    } else {
        NoopSet::from_rising((known_from + 1..=len).filter(|s| says_noop(*s)))
    };
    let beaten = |slot: Slot| {
        noops.contains(slot)
            && logs
                .iter()
                .any(|v| v.summary.len >= slot && !v.summary.noops.contains(slot))
    };
    let noop_won = !noops.is_empty() && (commit + 1..=len).any(beaten);
    (
        Summary {
            commit,
            len,
            known_from,
            noops,
        },
        noop_won,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_wire::group::Lives;

    fn vote(commit: Slot, len: Slot, noops: &[Slot]) -> ViewChange {
        let noops = NoopSet::from_rising(noops.iter().copied());
        ViewChange {
            view: 4,
            last_normal: 3,
            incarnation: 1,
            session: 3,
            nonce: 9,
            session_base: 0,
            members: Membership::of([1, 1, 1, 0, 0, 0, 0, 0, 0]),
            joining: Lives::default(),
            summary: Summary {
                commit,
                len,
                known_from: 0,
                noops,
            },
        }
    }

    #[test]
    fn the_longest_log_and_every_noop_survive_a_merge() {
        let (short, long) = (vote(2, 5, &[4]), vote(3, 8, &[7]));
        let (merged, noop_won) = merge_summaries(&[&short, &long], false);
        assert_eq!((merged.commit, merged.len), (3, 8));
        let noops: Vec<Slot> = (1..=8).filter(|s| merged.noops.contains(*s)).collect();
        assert_eq!(noops, [4, 7]);
        assert!(noop_won, "slot 4 held a value in the longer log");
    }

    #[test]
    fn no_noop_of_a_long_log_is_left_out() {
        // The longest log a voter may have: what is retained, and what is not synced yet.
        let (synced, longest) = (
            vote(10_000, 10_000, &[1, 9_000]),
            vote(9_900, 18_000, &[17_990]),
        );
        let (merged, _) = merge_summaries(&[&synced, &longest], false);
        for slot in [9_000, 17_990] {
            assert!(merged.knows(slot) && merged.noops.contains(slot), "{slot}");
        }
        assert!(
            !merged.knows(1),
            "too far back to be told apart from a value"
        );
    }

    #[test]
    fn below_the_sync_point_only_those_count_that_reached_it() {
        // The first voter may have missed a gap commit, or hold a no-op nobody agreed to.
        let (behind, synced) = (vote(0, 6, &[2]), vote(6, 6, &[5]));
        let (merged, noop_won) = merge_summaries(&[&behind, &synced], false);
        let noops: Vec<Slot> = (1..=6).filter(|s| merged.noops.contains(*s)).collect();
        assert_eq!(noops, [5]);
        assert!(!noop_won);
    }
}
