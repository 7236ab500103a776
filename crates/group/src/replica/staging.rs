//! From a view's merged log to our own: what is missing is fetched and *staged*;
//! only when everything is there does the log change, at once. Until then our log
//! remains that of the last normal view, so that a vote never understates it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Body, Entries, Entry, Slot, StartView, Summary};

use super::picture::Snapshot;
use super::{Follower, Replica, Status};
use crate::{Alarm, Mark, Mutation, Peer};

/// Slots for which clients get replies again when a view starts.
const ANNOUNCE: u64 = 2048;

/// A view on its way in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Staging<I> {
    pub(super) target: StartView,
    /// We lead it: slots come from the voters, not from a leader.
    lead: bool,
    sources: Vec<(u8, Summary)>,
    entries: BTreeMap<Slot, Entry>,
    /// Everything below is there.
    next: Slot,
    /// The last slot asked for.
    asked: Slot,
    attempt: usize,
    /// Our source has truncated its log up to here.
    floor: Option<Slot>,
    /// The state after some slot of the target, to be installed with it.
    snapshot: Option<Snapshot<I>>,
}

impl<I> Staging<I> {
    pub(super) const fn new(target: StartView, lead: bool, sources: Vec<(u8, Summary)>) -> Self {
        Self {
            target,
            lead,
            sources,
            entries: BTreeMap::new(),
            next: 0,
            asked: 0,
            attempt: 0,
            floor: None,
            snapshot: None,
        }
    }

    /// If we lead: a voter with the longest log.
    pub(super) fn voter(&self) -> Option<u8> {
        let longest = self
            .sources
            .iter()
            .filter(|_| self.lead)
            .max_by_key(|(_, s)| s.len)?;
        Some(longest.0)
    }

    /// A final snapshot was installed instead.
    pub(super) fn drop_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Keeps a snapshot that is not final but part of the target.
    pub(super) fn keep(&mut self, mut snapshot: Snapshot<I>) -> bool {
        let (start, summary) = (&self.target, &self.target.summary);
        let of_target = snapshot.view == start.view || snapshot.view == start.basis;
        let mut slots = (snapshot.commit + 1..).zip(&snapshot.entries);
        let fits = slots.all(|(slot, entry)| {
            !summary.knows(slot) || summary.noops.contains(slot) == entry.is_noop()
        });
        let beyond = snapshot.at > summary.len && snapshot.view != start.view;
        if !of_target || beyond || !fits {
            return false;
        }
        // The view may have gone on since it started.
        self.target.summary.len = summary.len.max(snapshot.at);
        let entries = core::mem::take(&mut snapshot.entries);
        self.entries.extend((snapshot.commit + 1..).zip(entries));
        self.snapshot = Some(snapshot);
        true
    }

    /// Whether replica `j` can supply `slot` truly.
    fn supplies(&self, j: u8, slot: Slot) -> bool {
        self.sources.iter().any(|(id, summary)| {
            let has = if slot <= self.target.summary.commit {
                slot <= summary.commit
            } else {
                slot <= summary.len
            };
            *id == j
                && (!self.lead || has && !summary.noops.contains(slot) || slot <= summary.commit)
        })
    }

    /// One of those that can supply `slot`; another one with each attempt.
    fn source(&self, slot: Slot) -> Option<u8> {
        let able: Vec<u8> = self
            .sources
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| self.supplies(*id, slot))
            .collect();
        able.get(self.attempt % able.len().max(1)).copied()
    }
}

/// Where a slot of the new log comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Origin {
    Own,
    Staged,
    Noop,
    Missing,
}

impl<A: Application> Replica<A> {
    pub(super) fn begin_staging(&mut self, now: Time, staging: Staging<A::Incoming>) {
        self.staging = Some(staging);
        self.stage_step(now, true);
    }

    fn origin(&self, staging: &Staging<A::Incoming>, slot: Slot) -> Origin {
        if slot <= self.commit || staging.snapshot.as_ref().is_some_and(|s| slot <= s.commit) {
            return Origin::Own; // final in every view
        }
        if staging.entries.contains_key(&slot) {
            return Origin::Staged;
        }
        let summary = &staging.target.summary;
        if !summary.knows(slot) {
            return Origin::Missing;
        }
        if summary.noops.contains(slot) {
            return Origin::Noop;
        }
        let same_view = self.last_normal == staging.target.basis && self.status != Status::Booting;
        let own = self.log.get(slot).is_some_and(|e| !e.is_noop());
        if same_view && own {
            Origin::Own
        } else {
            Origin::Missing
        }
    }

    /// We executed something that is not in the new log, or might not be.
    fn must_roll_back(&self, staging: &Staging<A::Incoming>) -> bool {
        if self.config.broken(Mutation::NoRollback) {
            return false;
        }
        let survives = |slot: Slot| {
            let noop = self.log.get(slot).is_some_and(Entry::is_noop);
            let origin = self.origin(staging, slot);
            let same_noop = noop && origin == Origin::Noop;
            slot <= staging.target.summary.len && (origin == Origin::Own || same_noop)
        };
        staging.snapshot.is_none() && (self.commit + 1..=self.executed).any(|slot| !survives(slot))
    }

    /// Takes the next step towards the target; `ask` sends requests.
    pub(super) fn stage_step(&mut self, now: Time, ask: bool) {
        let Some(mut staging) = self.staging.take() else {
            return;
        };
        if self.must_roll_back(&staging) {
            if self.download.is_none() {
                self.marks.hit(Mark::DeposedRollback);
            }
            self.staging = Some(staging);
            return self.start_download(now, self.log.base());
        }
        let len = staging.target.summary.len;
        let mut next = staging.next.max(self.commit + 1);
        while next <= len && self.origin(&staging, next) != Origin::Missing {
            next += 1;
        }
        staging.next = next;
        if next > len {
            return self.adopt(now, staging);
        }
        match staging.floor.filter(|floor| *floor >= next) {
            Some(floor) => {
                self.staging = Some(staging);
                self.start_download(now, floor);
            }
            None => {
                if ask {
                    self.fetch_missing(&mut staging);
                }
                self.staging = Some(staging);
            }
        }
    }

    /// Asks for the first missing slots, in runs.
    fn fetch_missing(&mut self, staging: &mut Staging<A::Incoming>) {
        self.marks.hit(Mark::MergeFetched);
        let len = staging.target.summary.len;
        let view = staging.target.view;
        let basis = if staging.lead {
            staging.target.basis
        } else {
            view
        };
        let mut budget = self.config.limits.fetch;
        let mut slot = staging.next;
        while slot <= len && budget > 0 {
            if self.origin(staging, slot) != Origin::Missing {
                slot += 1;
                continue;
            }
            let source = staging.source(slot);
            let from = slot;
            while slot <= len
                && budget > 0
                && self.origin(staging, slot) == Origin::Missing
                && staging.source(slot) == source
            {
                slot += 1;
                budget -= 1;
            }
            if let Some(source) = source {
                self.send_to(
                    source,
                    Body::Fetch {
                        view,
                        basis,
                        from,
                        to: slot - 1,
                    },
                );
            }
        }
        staging.asked = slot - 1;
        staging.attempt += 1;
    }

    pub(super) fn stage_entries(&mut self, now: Time, from: u8, m: Entries) {
        let Some(staging) = self.staging.as_mut() else {
            return;
        };
        let basis = if staging.lead {
            staging.target.basis
        } else {
            staging.target.view
        };
        if m.basis != basis || !staging.sources.iter().any(|(id, _)| *id == from) {
            return;
        }
        if m.from <= m.base {
            self.marks.hit(Mark::BehindTruncation);
            staging.floor = Some(staging.floor.unwrap_or(0).max(m.base));
            return self.stage_step(now, false);
        }
        let mut complete = false;
        for (slot, item) in (m.from..).zip(m.items) {
            let summary = &staging.target.summary;
            let Some(entry) = item.filter(|_| slot <= summary.len && staging.supplies(from, slot))
            else {
                continue;
            };
            if summary.knows(slot) && summary.noops.contains(slot) != entry.is_noop() {
                continue;
            }
            staging.entries.insert(slot, entry);
            complete |= slot == staging.asked;
        }
        if self.status == Status::ViewChange && self.timers.patience.is_some() {
            self.timers.patience = Some(now + self.config.timing.view_patience);
        }
        self.stage_step(now, complete);
    }

    /// The log becomes the view's, and the view ours.
    fn adopt(&mut self, now: Time, mut staging: Staging<A::Incoming>) {
        if let Some(snapshot) = staging.snapshot.take()
            && !self.install(now, snapshot)
        {
            self.alarm(Alarm::SnapshotRefused);
            self.staging = Some(staging);
            return;
        }
        let target = staging.target;
        let mut old = BTreeMap::new();
        while let Some((slot, entry)) = self.log.pop_above(self.commit) {
            old.insert(slot, entry);
        }
        for slot in self.log.len() + 1..=target.summary.len {
            let noop = target.summary.knows(slot) && target.summary.noops.contains(slot);
            let own = old.remove(&slot);
            let entry = match staging.entries.remove(&slot) {
                Some(entry) => entry,
                None if noop => Entry::Noop,
                None => own.expect("a slot that is neither staged nor a no-op is ours"),
            };
            self.log.push(entry);
        }
        let cut = old.split_off(&(target.summary.len + 1));
        if !cut.is_empty() {
            self.marks.hit(Mark::StartViewTruncates);
        }
        if self.status == Status::Booting {
            self.marks.hit(Mark::Joined);
            self.leave_boot();
        }
        if target.session != self.session {
            self.marks.hit(Mark::SessionStarted);
        }
        self.granted = target.session == self.session;
        (self.session, self.nonce, self.session_base) =
            (target.session, target.nonce, target.session_base);
        if self.start_inbox() {
            // What the session stamped beyond the new log's end is as good as received again.
            for (slot, entry) in cut.into_iter().filter(|(_, entry)| !entry.is_noop()) {
                self.inbox.window_mut().put(slot, entry);
            }
        }
        let of_basis = self.last_normal == target.basis;
        (self.view, self.last_normal) = (target.view, target.view);
        self.members = target.members;
        self.set_clock(now, of_basis);
        self.enter_normal(now, target);
    }

    /// Common to every way into a view.
    pub(super) fn enter_normal(&mut self, now: Time, start: StartView) {
        self.status = Status::Normal;
        self.votes.iter_mut().for_each(|v| *v = None);
        for (seat, life) in (0..).zip(&mut self.joining) {
            *life = if *life > self.members.life(seat) {
                *life
            } else {
                0
            };
        }
        self.wanted_session = None;
        self.sequencers.hear(now);
        self.changing = None;
        self.staging = None;
        self.download = None;
        self.drop_unsettled_snapshot();
        self.gap = None;
        self.timers.patience = None;
        self.timers.resend = None;
        self.timers.transfer = None;
        let from = (self.commit + 1).max((self.log.len() + 1).saturating_sub(ANNOUNCE));
        let commit = start.summary.commit;
        if self.leads() {
            self.marks.hit(Mark::ViewStarted);
            self.followers.fill(Follower {
                acked: None,
                heard: now,
            });
            self.commit = self.commit.max(commit);
            self.verified = self.log.len();
            if self.config.leader_orders() {
                self.execute_committed();
            } else {
                self.execute_to(self.log.len());
            }
            self.send(Peer::Replicas, Body::StartView(Box::new(start.clone())));
            self.start = Some(start);
            self.timers.heartbeat = Some(now + self.config.timing.heartbeat);
            self.clock.received(now, self.last_stamp());
            self.grant_session(now);
        } else {
            self.marks.hit(Mark::ViewEntered);
            self.clock.forget();
            self.start = None;
            self.verified = self.log.len();
            self.timers.silence = Some(now + self.config.timing.silence);
            self.follow_commit(now, commit);
            let (view, upto) = (self.view, self.verified);
            self.send(self.leader(), Body::SyncAck { view, upto });
        }
        self.start_ordering();
        if !self.config.leader_orders() {
            self.announce(from);
        }
        self.drain(now);
        self.replay_early(now);
    }
}
