//! The order of one session, and what is kept for the next.

use alloc::collections::VecDeque;
use core::cmp::Ordering;

use stateplane_wire::group::{Formation, Session};

use super::window::{Put, Window};

/// A session of a sequencer: who may stamp, and since which life of the group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SessionId {
    /// The life of the group of receivers.
    pub formation: Formation,
    /// Its session; 0 = none yet.
    pub session: Session,
}

/// A message with its stamp.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Stamped<T> {
    /// Whose stamp it is.
    pub session: SessionId,
    /// Its number in that session, for this group.
    pub number: u64,
    /// What was stamped.
    pub message: T,
}

/// Of which session something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    /// Of one that is over, or of another life of the group.
    Former,
    /// Of the one in force.
    Current,
    /// Of one that has not begun here.
    Later,
}

/// Puts the numbers of a session into places, and these into order; what is stamped in a
/// session that has not begun is kept, up to a limit, until it does.
///
/// It knows no time and decides nothing: whether a missing number is waited for, asked
/// for or given up is its user's business. So the replica uses it, for which a missing number
/// is the beginning of an agreement; [`super::Receiver`] is for those who just want
/// to be told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Inbox<T> {
    session: SessionId,
    /// The place of the session's (missing) number 0.
    base: u64,
    window: Window<T>,
    early: VecDeque<Stamped<T>>,
    most_early: usize,
}

impl<T> Inbox<T> {
    /// An inbox without a session, whose next place is the one after `taken`. It keeps
    /// nothing that is more than `limit` places ahead, and a quarter as many messages of later
    /// sessions.
    pub const fn after(taken: u64, limit: usize) -> Self {
        Self {
            session: SessionId {
                formation: 0,
                session: 0,
            },
            base: 0,
            window: Window::after(taken, limit),
            early: VecDeque::new(),
            most_early: limit / 4,
        }
    }

    /// The session in force.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The place of the session's number 0.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The places.
    pub const fn window(&self) -> &Window<T> {
        &self.window
    }

    /// The same, to fill, take or skip some.
    pub const fn window_mut(&mut self) -> &mut Window<T> {
        &mut self.window
    }

    /// How many messages of later sessions are kept.
    pub fn early(&self) -> usize {
        self.early.len()
    }

    /// Judges a stamp. Later sessions of one life have higher numbers; lives have no order.
    pub fn age(&self, id: SessionId) -> Age {
        if id.formation != self.session.formation {
            return Age::Former;
        }
        match id.session.cmp(&self.session.session) {
            Ordering::Less => Age::Former,
            Ordering::Equal => Age::Current,
            Ordering::Greater => Age::Later,
        }
    }

    /// The place of a number of the session in force.
    pub const fn place(&self, number: u64) -> Option<u64> {
        self.base.checked_add(number)
    }

    /// Something with a number of the session in force.
    pub fn put(&mut self, number: u64, message: T) -> Put {
        match self.place(number) {
            Some(place) => self.window.put(place, message),
            None => Put::TooFar,
        }
    }

    /// Keeps what cannot be judged yet, while there is room.
    pub fn keep(&mut self, message: Stamped<T>) {
        if self.early.len() < self.most_early {
            self.early.push_back(message);
        }
    }

    /// Takes one of the messages that were kept and are of the session in force. Those of
    /// sessions that are over are dropped, those of later ones stay.
    pub fn recall(&mut self) -> Option<Stamped<T>> {
        let mut at = 0;
        while let Some(id) = self.early.get(at).map(|m| m.session) {
            match self.age(id) {
                Age::Former => drop(self.early.remove(at)),
                Age::Current => return self.early.remove(at),
                Age::Later => at += 1,
            }
        }
        None
    }

    /// Drops what was kept for later sessions.
    pub fn forget_early(&mut self) {
        self.early.clear();
    }

    /// A session begins, or goes on elsewhere: its number 0 has the place `base`, and the next
    /// place is the one after `taken`. What is held stays if `keep` says so.
    pub fn start(&mut self, id: SessionId, base: u64, taken: u64, keep: impl Fn(&T) -> bool) {
        (self.session, self.base) = (id, base);
        self.window.restart(taken, keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(formation: Formation, session: Session) -> SessionId {
        SessionId { formation, session }
    }

    fn stamped(session: SessionId, number: u64) -> Stamped<u64> {
        let message = number;
        Stamped {
            session,
            number,
            message,
        }
    }

    #[test]
    fn what_comes_before_its_session_is_kept_for_it() {
        let mut inbox = Inbox::after(0, 16);
        inbox.start(id(1, 2), 0, 0, |_| false);
        let ages = [id(1, 1), id(1, 2), id(1, 3), id(2, 2)].map(|id| inbox.age(id));
        let expected = [Age::Former, Age::Current, Age::Later, Age::Former];
        assert_eq!(ages, expected);
        for kept in [id(1, 1), id(1, 4), id(1, 3), id(2, 3), id(1, 3)] {
            inbox.keep(stamped(kept, 7));
        }
        assert_eq!(inbox.early(), 4, "a quarter of the limit");
        inbox.start(id(1, 3), 100, 100, |_| true);
        let message = inbox.recall().expect("of the session that began");
        assert_eq!((message.session, inbox.recall()), (id(1, 3), None));
        assert_eq!(inbox.early(), 1, "of a later one");
        assert_eq!(inbox.put(message.number, 7), Put::Kept);
        assert_eq!(inbox.window().missing(99), Some((101, 106)));
        assert_eq!(inbox.put(u64::MAX, 7), Put::TooFar, "of no possible place");
    }
}
