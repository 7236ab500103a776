//! Messages, drop notifications and ends of sessions, in order.

use core::time::Duration;

use stateplane_base::Time;

use super::inbox::{Age, Inbox, SessionId, Stamped};
use super::window::Put;

/// What comes out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Delivery<T> {
    /// The message with the next number.
    Message {
        /// Its number.
        number: u64,
        /// What was stamped.
        message: T,
    },
    /// The drop notification: these numbers were given to messages that did not arrive here.
    /// If one does now, it is ignored.
    Dropped {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The session is over, and nothing of it will follow.
    SessionEnd(SessionId),
}

/// The end of patience with what is missing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Patience {
    ends: Time,
    /// What was known to exist when it began.
    upto: u64,
}

/// The receiver of one group. See the [module](super).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Receiver<T> {
    inbox: Inbox<T>,
    span: Duration,
    /// Set exactly while something is missing.
    patience: Option<Patience>,
    /// The session that begins when all of the present one is delivered, and the number
    /// before its first.
    next: Option<(SessionId, u64)>,
}

impl<T> Receiver<T> {
    /// A receiver without a session. A missing number is waited for as long as `patience`;
    /// messages more than `limit` numbers ahead of a missing one are not kept, and count as lost
    /// unless they come again.
    pub const fn new(patience: Duration, limit: usize) -> Self {
        Self {
            inbox: Inbox::after(0, limit),
            span: patience,
            patience: None,
            next: None,
        }
    }

    /// The session in force: its messages are delivered.
    pub const fn session(&self) -> SessionId {
        self.inbox.session()
    }

    /// The last number that was delivered.
    pub const fn delivered(&self) -> u64 {
        self.inbox.window().taken()
    }

    /// A session was agreed upon whose first number comes after `before`. What is there of the
    /// former one is delivered first, what is missing of it is lost. One that is not later than
    /// what is in force or about to be changes nothing, unless the group's life is another.
    pub fn begin(&mut self, id: SessionId, before: u64) {
        let present = self.next.map_or(self.session(), |(next, _)| next);
        if id.formation != present.formation || id.session > present.session {
            self.next = Some((id, before));
        }
    }

    /// A stamped message has arrived. `None`: it is of a session that is over, or has to wait
    /// for its own.
    pub fn hear(&mut self, now: Time, m: Stamped<T>) -> Option<Put> {
        let none_yet = self.session().session == 0;
        let awaited = none_yet || self.next.is_some_and(|(next, _)| next == m.session);
        match self.inbox.age(m.session) {
            Age::Current if self.next.is_none() => {
                let put = self.inbox.put(m.number, m.message);
                self.watch(now);
                Some(put)
            }
            Age::Later => {
                self.inbox.keep(m);
                None
            }
            _ if awaited => {
                self.inbox.keep(m);
                None
            }
            Age::Current | Age::Former => None,
        }
    }

    /// The sequencer says how far it has numbered: a loss at the end is noticed without
    /// further messages.
    pub fn tail(&mut self, now: Time, id: SessionId, last: u64) {
        if self.inbox.age(id) == Age::Current && self.next.is_none() {
            self.inbox.window_mut().note(last);
            self.watch(now);
        }
    }

    /// Keeps patience running while something is missing.
    fn watch(&mut self, now: Time) {
        let window = self.inbox.window();
        if !window.has_hole() {
            self.patience = None;
        } else if self.patience.is_none_or(|p| p.upto <= window.taken()) {
            self.patience = Some(Patience {
                ends: now + self.span,
                upto: window.tail(),
            });
        }
    }

    /// When [`Self::poll`] has something to say even if nothing arrives.
    pub fn next_timer(&self) -> Option<Time> {
        self.patience.map(|p| p.ends)
    }

    /// What comes next, if it is known by now.
    pub fn poll(&mut self, now: Time) -> Option<Delivery<T>> {
        loop {
            if let Some(message) = self.inbox.window_mut().take() {
                self.watch(now);
                let number = self.delivered();
                return Some(Delivery::Message { number, message });
            }
            let over = match self.patience {
                _ if self.next.is_some() => u64::MAX,
                Some(p) if p.ends <= now => p.upto,
                _ => 0,
            };
            let missing = self.inbox.window().missing(u64::MAX);
            if let Some((from, to)) = missing.filter(|(from, _)| *from <= over) {
                let to = to.min(over);
                self.inbox.window_mut().skip(to);
                self.watch(now);
                return Some(Delivery::Dropped { from, to });
            }
            let ended = self.session();
            self.turn(now)?;
            if ended.session != 0 {
                return Some(Delivery::SessionEnd(ended));
            }
        }
    }

    /// The next session begins, if there is one.
    fn turn(&mut self, now: Time) -> Option<()> {
        let (id, before) = self.next.take()?;
        self.inbox.start(id, 0, before, |_| false);
        self.patience = None;
        while let Some(m) = self.inbox.recall() {
            self.hear(now, m);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const FIRST: SessionId = SessionId {
        formation: 1,
        session: 16,
    };
    const SECOND: SessionId = SessionId {
        session: 32,
        ..FIRST
    };

    const fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn receiver() -> Receiver<u64> {
        let mut receiver = Receiver::new(Duration::from_millis(10), 64);
        receiver.begin(FIRST, 0);
        assert_eq!(receiver.poll(at(0)), None);
        receiver
    }

    fn hear(receiver: &mut Receiver<u64>, ms: u64, session: SessionId, number: u64) {
        let message = number * 10;
        let stamped = Stamped {
            session,
            number,
            message,
        };
        receiver.hear(at(ms), stamped);
    }

    fn all(receiver: &mut Receiver<u64>, ms: u64) -> Vec<Delivery<u64>> {
        core::iter::from_fn(|| receiver.poll(at(ms))).collect()
    }

    const fn message(number: u64) -> Delivery<u64> {
        let message = number * 10;
        Delivery::Message { number, message }
    }

    #[test]
    fn a_hole_is_waited_for_and_then_told() {
        let mut receiver = receiver();
        for number in [1, 4, 3, 4] {
            hear(&mut receiver, 0, FIRST, number);
        }
        assert_eq!(all(&mut receiver, 9), [message(1)]);
        assert_eq!(receiver.next_timer(), Some(at(10)));
        let lost = Delivery::Dropped { from: 2, to: 2 };
        assert_eq!(all(&mut receiver, 10), [lost, message(3), message(4)]);
        hear(&mut receiver, 11, FIRST, 2);
        assert_eq!(all(&mut receiver, 99), []);
        assert_eq!(receiver.next_timer(), None);
    }

    #[test]
    fn holes_seen_together_end_together_and_later_ones_have_their_own_time() {
        let mut receiver = receiver();
        hear(&mut receiver, 0, FIRST, 5);
        hear(&mut receiver, 0, FIRST, 3);
        hear(&mut receiver, 8, FIRST, 7);
        let lost = |from, to| Delivery::Dropped { from, to };
        let expected = [lost(1, 2), message(3), lost(4, 4), message(5)];
        // Patience began when 5 was the last known.
        assert_eq!(all(&mut receiver, 10), expected);
        assert_eq!(receiver.next_timer(), Some(at(20)));
        assert_eq!(all(&mut receiver, 20), [lost(6, 6), message(7)]);
    }

    #[test]
    fn a_tail_tells_of_losses_at_the_end() {
        let mut receiver = receiver();
        receiver.tail(at(0), FIRST, 2);
        receiver.tail(at(0), SECOND, 9);
        let lost = Delivery::Dropped { from: 1, to: 2 };
        assert_eq!(
            (all(&mut receiver, 9), all(&mut receiver, 10)),
            (vec![], vec![lost])
        );
    }

    #[test]
    fn a_session_ends_with_all_that_is_known_of_it() {
        let mut receiver = receiver();
        hear(&mut receiver, 0, FIRST, 2);
        hear(&mut receiver, 0, SECOND, 101);
        assert_eq!(all(&mut receiver, 0), [], "nobody has announced the second");
        receiver.begin(SECOND, 100);
        receiver.begin(FIRST, 0);
        hear(&mut receiver, 0, SECOND, 102);
        hear(&mut receiver, 0, FIRST, 1);
        let lost = Delivery::Dropped { from: 1, to: 1 };
        let end = Delivery::SessionEnd(FIRST);
        let expected = [lost, message(2), end, message(101), message(102)];
        assert_eq!(all(&mut receiver, 0), expected);
        hear(&mut receiver, 1, FIRST, 3);
        assert_eq!(all(&mut receiver, 99), []);
    }

    #[test]
    fn another_life_of_the_group_begins_anew() {
        let mut receiver = receiver();
        let reborn = SessionId {
            formation: 2,
            session: 16,
        };
        receiver.begin(reborn, 0);
        hear(&mut receiver, 0, reborn, 1);
        let expected = [Delivery::SessionEnd(FIRST), message(1)];
        assert_eq!(all(&mut receiver, 0), expected);
    }
}
