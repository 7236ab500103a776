//! Gap agreement.
//!
//! A follower that misses a slot asks its leader. A leader that misses one asks
//! everybody: a value found is used; a slot nobody has becomes a no-op, which
//! the leader passes only when f followers have it in their logs (GapCommit,
//! GapAck). Slots are treated in runs. Fetches are answered at all times, also
//! during a gap commit, or laggards and leader would wait for each other.

use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Body, Entries, Entry, MAX_REPLICAS, Slot, View, leader_of};

use super::{Replica, Status};
use crate::{Mark, Mutation, Peer};

/// A run of slots the leader misses.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct LeaderGap {
    from: Slot,
    tries: u32,
    /// Per replica: the last slot of the run's start that it lacks too.
    lacking: [Option<Slot>; MAX_REPLICAS],
    /// Once decided: the run's end and who has acknowledged it.
    commit: Option<(Slot, u16)>,
}

impl LeaderGap {
    /// Its first slot: the one after the log's end.
    pub(super) const fn from(&self) -> Slot {
        self.from
    }

    /// Whether it is decided that `slot` is a no-op.
    pub(super) fn commits(&self, slot: Slot) -> bool {
        self.commit
            .is_some_and(|(to, _)| slot >= self.from && slot <= to)
    }
}

impl<A: Application> Replica<A> {
    /// The first run of missing slots.
    fn missing(&self) -> Option<(Slot, Slot)> {
        self.inbox.window().missing(self.config.limits.fetch)
    }

    pub(super) fn on_gap_timer(&mut self, now: Time) {
        if self.status != Status::Normal {
            return;
        }
        let Some((from, to)) = self.missing() else {
            // There is no room for what came.
            self.timers.gap = Some(self.pace.again(now, &self.config.timing));
            return self.drain(now);
        };
        self.timers.gap = Some(self.pace.ask(now, to, &self.config.timing));
        if !self.is_leader() {
            self.marks.hit(Mark::GapFollower);
            let view = self.view;
            return self.send(
                self.leader(),
                Body::Fetch {
                    view,
                    basis: view,
                    from,
                    to,
                },
            );
        }
        self.ask_for_gap(now, from, to);
    }

    /// Leader: opens a gap, or repeats the step it is in.
    fn ask_for_gap(&mut self, now: Time, from: Slot, to: Slot) {
        let view = self.view;
        let gap = self.gap.get_or_insert_with(|| {
            self.marks.hit(Mark::GapLeader);
            LeaderGap {
                from,
                tries: 0,
                lacking: [None; MAX_REPLICAS],
                commit: None,
            }
        });
        if let Some((to, _)) = gap.commit {
            let from = gap.from;
            return self.send(Peer::Replicas, Body::GapCommit { view, from, to });
        }
        gap.tries += 1;
        let (tries, lacking) = (gap.tries, gap.lacking);
        let answered = self.with_us(|j| lacking[j].is_some());
        if tries > 2 && self.members.decides(answered) {
            return self.commit_gap(now);
        }
        self.send(
            Peer::Replicas,
            Body::Fetch {
                view,
                basis: view,
                from,
                to,
            },
        );
    }

    /// Leader: what all who answered lack becomes a no-op.
    fn commit_gap(&mut self, now: Time) {
        let Some((from, to)) = self.missing() else {
            return;
        };
        let room = self.room();
        let Some(gap) = self.gap.as_mut() else { return };
        let to = gap.lacking.iter().flatten().fold(to, |a, b| a.min(*b));
        // Without room the gap is asked about again, until the sync point has moved.
        if gap.commit.is_some() || to < from || !room {
            return;
        }
        gap.commit = Some((to, 0));
        self.marks.hit(Mark::GapNoop);
        let view = self.view;
        self.send(Peer::Replicas, Body::GapCommit { view, from, to });
        self.timers.gap = Some(self.pace.again(now, &self.config.timing));
        self.finish_gap(now);
    }

    /// Leader: f followers have the no-ops; go on.
    fn finish_gap(&mut self, now: Time) {
        let Some(LeaderGap {
            commit: Some((to, acks)),
            ..
        }) = self.gap
        else {
            return;
        };
        let short = self.config.short(Mutation::GapWithoutQuorum);
        if !self.members.decides_with(acks | 1 << self.me, short) {
            return;
        }
        self.gap = None;
        self.timers.gap = None;
        while self.log.len() < to {
            self.append(self.log.len() + 1, Entry::Noop);
        }
        self.drain(now);
        if self.missing().is_some() {
            // The next run of a long gap is asked for at once.
            self.timers.gap = Some(now);
        }
    }

    pub(super) fn on_gap_ack(&mut self, now: Time, from: u8, view: View, first: Slot, to: Slot) {
        if !self.is_leader() || view != self.view {
            return;
        }
        let Some(gap) = self.gap.as_mut() else { return };
        match &mut gap.commit {
            Some((end, acks)) if *end == to && gap.from == first => *acks |= 1 << from,
            _ => return,
        }
        self.finish_gap(now);
    }

    /// Follower: a no-op wins over a value we may have received.
    pub(super) fn on_gap_commit(&mut self, now: Time, from: u8, view: View, first: Slot, to: Slot) {
        let foreign = leader_of(view) != from || view != self.view;
        let foreign = foreign || self.config.leader_orders();
        let absurd = to < first || to - first >= self.config.limits.fetch;
        if self.status != Status::Normal || foreign || absurd || first <= self.commit {
            return;
        }
        for slot in first..=to {
            if slot > self.log.len() {
                self.inbox.window_mut().settle(slot, Entry::Noop);
            } else if self.must_yield(slot) {
                assert!(slot > self.verified, "the leader has not passed this slot");
                self.marks.hit(Mark::GapOverwrite);
                self.log.replace(slot, Entry::Noop);
            }
        }
        self.drain(now);
        if self.log.len() >= to {
            self.send(
                self.leader(),
                Body::GapAck {
                    view,
                    from: first,
                    to,
                },
            );
        } else {
            // Acknowledged when the leader repeats it and we have caught up.
            self.marks.hit(Mark::GapAhead);
        }
    }

    /// Anybody: answers with what the log holds, in datagrams of bounded size.
    pub(super) fn on_fetch(
        &mut self,
        now: Time,
        from: u8,
        view: View,
        basis: View,
        first: Slot,
        to: Slot,
    ) {
        let serves = match self.status {
            Status::Normal => basis == view,
            Status::ViewChange => basis == self.last_normal && self.last_normal != self.view,
            Status::Booting => false,
        };
        if !serves || view != self.view || first == 0 || to < first {
            return;
        }
        let mut last = to.min(first.saturating_add(self.config.limits.fetch - 1));
        if self.is_leader() {
            let len = self.log.len();
            if to > len && !self.config.leader_orders() {
                // A follower knows of slots that we have not seen.
                self.notice(now, last);
            }
            if let Some(LeaderGap {
                from: begin,
                commit: Some((end, _)),
                ..
            }) = self.gap
            {
                if self.config.broken(Mutation::LookupRefused) {
                    return;
                }
                self.marks.hit(Mark::LookupDuringCommit);
                self.send_to(
                    from,
                    Body::GapCommit {
                        view,
                        from: begin,
                        to: end,
                    },
                );
            }
            last = last.min(len);
        }
        self.send_entries(from, view, basis, first, last);
    }

    fn send_entries(&mut self, to: u8, view: View, basis: View, first: Slot, last: Slot) {
        let base = self.log.base();
        let answer = |from, items| {
            Body::Entries(Entries {
                view,
                basis,
                base,
                from,
                items,
            })
        };
        if first <= base {
            return self.send_to(to, answer(first, Vec::new()));
        }
        let (mut begin, mut items, mut bytes) = (first, Vec::new(), 0);
        for slot in first..=last {
            let normal = self.status == Status::Normal;
            let ahead = normal.then(|| self.inbox.window().get(slot)).flatten();
            let item = self.log.get(slot).or(ahead).cloned();
            let size = item.as_ref().map_or(1, Entry::size);
            if bytes + size > self.config.limits.chunk && !items.is_empty() {
                let full = core::mem::take(&mut items);
                self.send_to(to, answer(begin, full));
                (begin, bytes) = (slot, 0);
            }
            items.push(item);
            bytes += size;
        }
        if !items.is_empty() {
            self.send_to(to, answer(begin, items));
        }
    }

    pub(super) fn on_entries(&mut self, now: Time, from: u8, m: Entries) {
        if m.view != self.view {
            return;
        }
        if self.staging.is_some() {
            return self.stage_entries(now, from, m);
        }
        if self.status != Status::Normal || m.basis != self.view {
            return;
        }
        self.pace.answer(now);
        if self.is_leader() && self.config.leader_orders() {
            // Nobody has what its leader lacks.
        } else if self.is_leader() {
            self.on_entries_as_leader(now, from, m);
        } else if leader_of(self.view) == from {
            self.on_entries_as_follower(now, m);
            self.ordering.owes = true;
        }
    }

    fn on_entries_as_leader(&mut self, now: Time, from: u8, m: Entries) {
        let asking = self.gap.is_some();
        let mut lacking = None;
        let start = self.log.len() + 1;
        for (slot, item) in (m.from..).zip(m.items) {
            match item {
                Some(entry @ Entry::Value { .. }) if slot > self.log.len() => {
                    self.marks.hit(Mark::GapRecovered);
                    self.place(now, slot, entry);
                }
                None if slot == start || lacking == Some(slot - 1) => lacking = Some(slot),
                _ => {}
            }
        }
        let Some(gap) = self.gap.as_mut().filter(|gap| gap.commit.is_none()) else {
            if asking && self.gap.is_none() {
                // Some of it was found. The rest is another gap, asked for at once.
                self.timers.gap = self.missing().map(|_| now).or(self.timers.gap);
            }
            return;
        };
        if lacking.is_some() {
            gap.lacking[usize::from(from)] = lacking;
        }
        if self.all_lack(now) {
            self.commit_gap(now);
        }
    }

    /// Leader: enough followers lack the gap's first slot, and all that were heard
    /// lately do; nobody waits for the dead.
    fn all_lack(&self, now: Time) -> bool {
        let Some(gap) = self.gap.as_ref() else {
            return false;
        };
        let lately = self.config.timing.silence;
        let answered = |j: usize| gap.lacking[j].is_some();
        let alive = |j: usize| now.since(self.followers[j].heard) < lately;
        let all = || (0..self.config.seats).filter(|j| self.members.life(*j) != 0 && *j != self.me);
        self.members.decides(self.with_us(answered))
            && all().map(usize::from).all(|j| answered(j) || !alive(j))
    }

    /// What the leader's log holds is the truth of this view.
    fn on_entries_as_follower(&mut self, now: Time, m: Entries) {
        if m.from <= m.base {
            if m.base > self.verified {
                self.marks.hit(Mark::BehindTruncation);
                self.start_download(now, m.base);
            }
            return;
        }
        for (slot, item) in (m.from..).zip(m.items) {
            let Some(entry) = item else { break };
            let len = self.log.len();
            if slot <= self.commit {
                continue;
            }
            if slot <= len {
                if self
                    .log
                    .get(slot)
                    .is_some_and(|own| own.is_noop() != entry.is_noop())
                {
                    self.log.replace(slot, entry);
                }
            } else {
                self.inbox.window_mut().settle(slot, entry);
                self.drain(now);
            }
            if self.verified + 1 == slot && self.log.len() >= slot {
                self.verified = slot;
            }
        }
        if let Some((from, _)) = self.missing() {
            // A long gap is fetched run by run, without waiting for a retry.
            let asks = self.pace.passed(from);
            let again = self.pace.again(now, &self.config.timing);
            self.timers.gap = Some(if asks { now } else { again });
        }
    }
}
