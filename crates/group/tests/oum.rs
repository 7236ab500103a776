//! The ordered multicast's receiver under any arrival: each number comes out once and in its
//! turn, as its message or as a drop.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::Time;
use stateplane_group::oum::{Delivery, Receiver, SessionId, Stamped};

/// Numbers a session has at most.
const NUMBERS: u64 = 40;
const SESSIONS: u64 = 3;
const PATIENCE: Duration = Duration::from_millis(5);

/// What happens to a receiver.
#[derive(Clone, Debug)]
enum Event {
    /// A message of a session arrives; the network repeats and reorders as it likes.
    Hear(u64, u64),
    Tail(u64, u64),
    /// The next session was agreed upon.
    Begin(u64),
    /// So many milliseconds pass, and what is ready is taken.
    Poll(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let number = 1..=NUMBERS;
    let event = prop_oneof![
        12 => (1..=SESSIONS, number.clone()).prop_map(|(s, n)| Event::Hear(s, n)),
        1 => (1..=SESSIONS, number).prop_map(|(s, n)| Event::Tail(s, n)),
        1 => (1..=SESSIONS).prop_map(Event::Begin),
        4 => (0..8_u64).prop_map(Event::Poll),
    ];
    prop::collection::vec(event, 0..300)
}

const fn id(session: u64) -> SessionId {
    SessionId {
        formation: 9,
        session,
    }
}

/// Numbers of later sessions begin higher, so that none is taken for another's.
const fn before(session: u64) -> u64 {
    session * 1000
}

/// What a message says: nobody else's number gives the same.
const fn content(session: u64, number: u64) -> u64 {
    session * 1_000_000 + number
}

/// A receiver and what is demanded of it.
struct Judged {
    receiver: Receiver<u64>,
    now: Time,
    /// The session whose deliveries come out (0: none yet), and the number that comes next.
    session: u64,
    next: u64,
    /// What arrived and could be kept: the limits are out of reach.
    arrived: BTreeSet<(u64, u64)>,
    /// Each session's highest number known.
    known: [u64; SESSIONS as usize + 2],
    /// What came out for each number, in order.
    out: Vec<(u64, u64, bool)>,
    begun: u64,
}

impl Judged {
    fn new() -> Self {
        Self {
            receiver: Receiver::new(PATIENCE, 2000),
            now: Time::ZERO,
            session: 0,
            next: 0,
            arrived: BTreeSet::new(),
            known: [0; SESSIONS as usize + 2],
            out: Vec::new(),
            begun: 0,
        }
    }

    fn feed(&mut self, event: &Event) {
        match *event {
            Event::Hear(session, number) => {
                let number = before(session) + number;
                let message = content(session, number);
                let in_time = session >= self.begun;
                let stamped = Stamped {
                    session: id(session),
                    number,
                    message,
                };
                self.receiver.hear(self.now, stamped);
                if in_time {
                    self.arrived.insert((session, number));
                    self.know(session, number);
                }
            }
            Event::Tail(session, number) => {
                let number = before(session) + number;
                self.receiver.tail(self.now, id(session), number);
                if session == self.session && session == self.begun {
                    self.know(session, number);
                }
            }
            Event::Begin(session) => {
                self.receiver.begin(id(session), before(session));
                self.begun = self.begun.max(session);
            }
            Event::Poll(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                self.take();
            }
        }
    }

    fn know(&mut self, session: u64, number: u64) {
        let known = &mut self.known[session as usize];
        *known = (*known).max(number);
    }

    fn take(&mut self) {
        if self.session == 0 && self.begun != 0 {
            self.enter(self.begun);
        }
        while let Some(delivery) = self.receiver.poll(self.now) {
            match delivery {
                Delivery::Message { number, message } => {
                    assert_eq!(number, self.next, "in order, and once");
                    assert_eq!(message, content(self.session, number));
                    self.out.push((self.session, number, true));
                    self.next += 1;
                }
                Delivery::Dropped { from, to } => {
                    assert!(from == self.next && to >= from, "in order, and once");
                    for number in from..=to {
                        let arrived = self.arrived.contains(&(self.session, number));
                        assert!(!arrived, "{number} was there");
                        self.out.push((self.session, number, false));
                    }
                    self.next = to + 1;
                }
                Delivery::SessionEnd(ended) => {
                    assert_eq!(ended, id(self.session));
                    let known = self.known[self.session as usize].max(before(self.session));
                    assert_eq!(self.next, known + 1, "it ends with all that is known");
                    self.enter(self.begun);
                }
            }
        }
        let waits = self.session != 0 && self.next <= self.known[self.session as usize];
        assert_eq!(self.receiver.next_timer().is_some(), waits);
    }

    fn enter(&mut self, session: u64) {
        (self.session, self.next) = (session, before(session) + 1);
    }

    /// Everything that is to come has come.
    fn end(mut self) -> Vec<(u64, u64, bool)> {
        self.feed(&Event::Begin(SESSIONS + 1));
        self.feed(&Event::Poll(0));
        assert_eq!(self.receiver.next_timer(), None);
        self.out
    }
}

proptest! {
    #[test]
    fn each_number_comes_out_once_and_in_its_turn(events in events()) {
        let mut judged = Judged::new();
        events.iter().for_each(|event| judged.feed(event));
        judged.end();
    }

    #[test]
    fn two_receivers_differ_only_in_what_they_lack(
        one in events(),
        two in events(),
    ) {
        let heard = |events: &[Event]| {
            let mut judged = Judged::new();
            judged.feed(&Event::Begin(1));
            let first = |e: &&Event| matches!(e, Event::Hear(1, _) | Event::Tail(1, _) | Event::Poll(_));
            events.iter().filter(first).for_each(|event| judged.feed(event));
            judged.end()
        };
        let (one, two) = (heard(&one), heard(&two));
        for (a, b) in one.iter().zip(&two) {
            prop_assert_eq!((a.0, a.1), (b.0, b.1));
        }
    }

    #[test]
    fn nothing_grows_beyond_the_limit(numbers in prop::collection::vec(0..5_000_u64, 0..200)) {
        let limit = 16;
        let mut receiver = Receiver::new(PATIENCE, limit);
        receiver.begin(id(1), 0);
        receiver.poll(Time::ZERO);
        let mut next = 1_u64;
        for (number, ms) in numbers.into_iter().zip(0..) {
            let now = Time::from_millis(ms);
            // The last possible one, in the end.
            let number = if ms == 199 { u64::MAX } else { number };
            for number in [number, next.saturating_add(number % 32)] {
                let message = number;
                let session = id(1);
                receiver.hear(now, Stamped { session, number, message });
            }
            receiver.tail(now, id(1), number);
            let mut messages = 0;
            while let Some(delivery) = receiver.poll(now) {
                next = match delivery {
                    Delivery::Message { number, message } => {
                        prop_assert_eq!((number, number), (next, message));
                        messages += 1;
                        number.saturating_add(1)
                    }
                    Delivery::Dropped { from, to } => {
                        prop_assert!(from == next && to >= from);
                        to.saturating_add(1)
                    }
                    Delivery::SessionEnd(_) => return Err(TestCaseError::fail("none ended")),
                };
            }
            prop_assert!(messages <= limit + 3);
        }
    }
}
