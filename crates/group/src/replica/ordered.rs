//! Ordered messages in; a missing number is the *drop notification* that starts
//! gap agreement. The order itself is made by [`crate::oum::Inbox`], whose places are slots.

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Entry, Formation, GroupId, Ordered, Session, Slot};

use super::{Replica, Status};
use crate::Mark;
use crate::oum::{Age, Put, SessionId, Stamped};

impl<A: Application> Replica<A> {
    pub(super) fn on_ordered(&mut self, now: Time, from: u8, formation: Formation, m: Ordered) {
        let Some(number) = m.stamps.sequence(self.config.group) else {
            return;
        };
        let (time, request) = (m.time, m.request);
        let stamped = Stamped {
            session: SessionId {
                formation,
                session: m.session,
            },
            number,
            message: Entry::Value { time, request },
        };
        if self.status != Status::Normal {
            return self.inbox.keep(stamped);
        }
        match self.inbox.age(stamped.session) {
            Age::Former => {
                self.marks.hit(Mark::OldSession);
                self.tell_session(now, from);
            }
            // Granted by a view that we have not entered yet, or by none:
            // it counts only once a view has said so.
            Age::Later => {
                self.marks.hit(Mark::FutureSession);
                #[cfg(feature = "mutations")]
                if self.config.broken(crate::Mutation::FutureSession) {
                    self.trust_session(m.session);
                    return self.take_in_order(now, stamped);
                }
                self.inbox.keep(stamped);
            }
            Age::Current => self.take_in_order(now, stamped),
        }
    }

    /// A message of the session in force.
    fn take_in_order(&mut self, now: Time, m: Stamped<Entry>) {
        let Some(slot) = self.inbox.place(m.number) else {
            return;
        };
        if let Entry::Value { time, .. } = &m.message {
            self.clock.stamped(now, *time);
        }
        self.sequencers.stamped(now);
        if self.inbox.window().get(slot).is_none() {
            self.pace.arrived(now, slot, &self.config.timing);
        }
        self.place(now, slot, m.message);
    }

    /// Tries again what came too early. What is still too early is kept.
    pub(super) fn replay_early(&mut self, now: Time) {
        while let Some(m) = self.inbox.recall() {
            self.take_in_order(now, m);
        }
    }

    /// Tells a sequencer whose stamps are of no use which session is in force.
    fn tell_session(&mut self, now: Time, sequencer: u8) {
        let pause = self.config.timing.heartbeat;
        if self.told_session.is_some_and(|at| now.since(at) < pause) {
            return;
        }
        self.told_session = Some(now);
        self.send_session(sequencer);
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
        match self.inbox.age(SessionId { formation, session }) {
            Age::Former => return self.tell_session(now, from),
            Age::Later => return,
            Age::Current => self.sequencers.hear(now),
        }
        let tail = self.inbox.place(sequence).unwrap_or(Slot::MAX);
        if tail > self.inbox.window().tail() {
            self.marks.hit(Mark::TailGap);
            self.notice(now, tail);
        }
    }

    /// Slots up to `tail` exist: those missing are a gap.
    pub(super) fn notice(&mut self, now: Time, tail: Slot) {
        self.inbox.window_mut().note(tail);
        self.watch_gap(now);
    }

    /// Keeps the gap timer set exactly while something is missing.
    pub(super) fn watch_gap(&mut self, now: Time) {
        let len = self.log.len();
        if self.gap.as_ref().is_some_and(|gap| gap.from() != len + 1) {
            // Its first slot arrived after all: what is still missing is another gap.
            self.gap = None;
        }
        if self.inbox.window().is_complete() {
            self.timers.gap = None;
        } else if self.timers.gap.is_none() {
            let tail = self.inbox.window().tail();
            self.timers.gap = Some(now + self.pace.notice(now, len + 1, tail));
        }
    }

    /// A value for a slot of this view.
    pub(super) fn place(&mut self, now: Time, slot: Slot, entry: Entry) {
        if let Entry::Value { time, .. } = &entry {
            self.clock.told(now, *time);
        }
        if slot <= self.log.len() {
            self.marks.hit(Mark::Duplicate);
            return;
        }
        if self.gap.as_ref().is_some_and(|gap| gap.commits(slot)) {
            // Followers were told that it is a no-op: too late for a value.
            return self.notice(now, slot);
        }
        if self.inbox.window_mut().put(slot, entry) == Put::TooFar {
            self.marks.hit(Mark::WindowFull);
        }
        self.drain(now);
    }

    pub(super) fn room(&self) -> bool {
        self.log.len() - self.commit < self.config.limits.unsynced
    }

    /// Appends what comes next, as far as it is there.
    pub(super) fn drain(&mut self, now: Time) {
        let before = self.log.len();
        while self.inbox.window().is_ready() {
            if !self.room() {
                self.marks.hit(Mark::WindowFull);
                break;
            }
            if let Some(entry) = self.inbox.window_mut().take() {
                self.append(self.inbox.window().taken(), entry);
            }
        }
        self.sync_often(now, before);
        self.watch_gap(now);
    }

    /// The log is that of the view, and the session is the view's; whether it goes on. Then
    /// values that are held stay; no-ops were decisions of another view.
    pub(super) fn start_inbox(&mut self) -> bool {
        let id = SessionId {
            formation: self.formation,
            session: self.session,
        };
        let goes_on = self.inbox.session() == id && id.session != 0;
        let keep = |entry: &Entry| goes_on && !entry.is_noop();
        self.inbox
            .start(id, self.session_base, self.log.len(), keep);
        goes_on
    }
}
