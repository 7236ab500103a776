//! Ordered messages in; a missing number is the *drop notification* that starts
//! gap agreement.

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Body, Entry, Formation, GroupId, Ordered, Session, Slot};

use super::{Replica, Status};
use crate::{Mark, Peer};

impl<A: Application> Replica<A> {
    pub(super) fn on_ordered(&mut self, now: Time, from: u8, formation: Formation, m: Ordered) {
        if self.status != Status::Normal {
            return self.keep_early(from, formation, m);
        }
        if formation != self.formation || m.session < self.session {
            self.marks.hit(Mark::OldSession);
            return self.tell_session(now, from);
        }
        if m.session > self.session {
            // Granted by a view that we have not entered yet, or by none:
            // it counts only once a view has said so.
            self.marks.hit(Mark::FutureSession);
            #[cfg(feature = "mutations")]
            if self.config.broken(crate::Mutation::FutureSession) {
                self.trust_session(m.session);
                return self.on_ordered(now, from, formation, m);
            }
            return self.keep_early(from, formation, m);
        }
        let sequence = m.stamps.sequence(self.config.group);
        let Some(slot) = sequence.and_then(|s| self.session_base.checked_add(s)) else {
            return;
        };
        self.clock.stamped(now, m.time);
        self.sequencers.hear(now);
        self.place(
            now,
            slot,
            Entry::Value {
                time: m.time,
                request: m.request,
            },
        );
    }

    fn keep_early(&mut self, from: u8, formation: Formation, m: Ordered) {
        if self.early.len() < self.config.limits.stash / 4 {
            self.early.push_back((from, formation, m));
        }
    }

    /// Tries again what came too early. What is still too early is kept, once.
    pub(super) fn replay_early(&mut self, now: Time) {
        for _ in 0..self.early.len() {
            let Some((from, formation, m)) = self.early.pop_front() else {
                break;
            };
            if formation == self.formation && m.session >= self.session {
                self.on_ordered(now, from, formation, m);
            }
        }
    }

    /// Tells a sequencer whose stamps are of no use which session is in force.
    fn tell_session(&mut self, now: Time, sequencer: u8) {
        let pause = self.config.timing.heartbeat;
        if self.told_session.is_some_and(|at| now.since(at) < pause) {
            return;
        }
        self.told_session = Some(now);
        let (session, nonce) = (self.session, self.nonce);
        self.send(
            Peer::Sequencer(sequencer),
            Body::SessionInfo { session, nonce },
        );
    }

    pub(super) fn on_tail(
        &mut self,
        now: Time,
        from: u8,
        formation: Formation,
        session: Session,
        group: GroupId,
        sequence: u64,
    ) {
        if self.status != Status::Normal || group != self.config.group {
            return;
        }
        if formation != self.formation || session < self.session {
            return self.tell_session(now, from);
        }
        if session == self.session {
            self.sequencers.hear(now);
        }
        let tail = self.session_base.saturating_add(sequence);
        if session == self.session && tail > self.known_tail.max(self.log.len()) {
            self.marks.hit(Mark::TailGap);
            self.notice(now, tail);
        }
    }

    /// Slots up to `tail` exist: those missing are a gap.
    pub(super) fn notice(&mut self, now: Time, tail: Slot) {
        self.known_tail = self.known_tail.max(tail);
        self.watch_gap(now);
    }

    /// Keeps the gap timer set exactly while something is missing.
    pub(super) fn watch_gap(&mut self, now: Time) {
        let len = self.log.len();
        if self.gap.as_ref().is_some_and(|gap| gap.from() != len + 1) {
            // Its first slot arrived after all: what is still missing is another gap.
            self.gap = None;
        }
        if self.known_tail <= len {
            self.timers.gap = None;
        } else if self.timers.gap.is_none() {
            self.timers.gap = Some(now + self.config.timing.reorder);
        }
    }

    /// A value for a slot of this view.
    pub(super) fn place(&mut self, now: Time, slot: Slot, entry: Entry) {
        let len = self.log.len();
        if let Entry::Value { time, .. } = &entry {
            self.clock.told(now, *time);
        }
        if slot <= len {
            self.marks.hit(Mark::Duplicate);
            return;
        }
        self.known_tail = self.known_tail.max(slot);
        if self.gap.as_ref().is_some_and(|gap| gap.commits(slot)) {
            // Followers were told that it is a no-op: too late for a value.
            return self.watch_gap(now);
        }
        if slot == len + 1 && !self.stash.contains_key(&slot) && self.room() {
            self.append(slot, entry);
        } else if slot - len <= self.config.limits.stash as u64 {
            self.stash.entry(slot).or_insert(entry);
        } else {
            self.marks.hit(Mark::WindowFull);
        }
        self.drain(now);
    }

    pub(super) fn room(&self) -> bool {
        self.log.len() - self.commit < self.config.limits.unsynced
    }

    /// Appends what the stash holds next.
    pub(super) fn drain(&mut self, now: Time) {
        while self
            .stash
            .first_key_value()
            .is_some_and(|(slot, _)| *slot <= self.log.len() + 1)
        {
            if !self.room() {
                self.marks.hit(Mark::WindowFull);
                break;
            }
            let (slot, entry) = self.stash.pop_first().expect("just seen");
            if slot == self.log.len() + 1 {
                self.append(slot, entry);
            }
        }
        self.watch_gap(now);
    }
}
