//! The worker's store: in its own process, or a group over the network.
//!
//! Nothing here blocks. The worker owns the client and turns it with its loop:
//! `submit` any number of operations, `flush` once, wait on [`StateClient::fd`]
//! until [`StateClient::next_timer`], `poll` what is answered.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::BorrowedFd;

use stateplane_base::Time;
use stateplane_functions::{StateError, Ticket};
use stateplane_state::{Application, Limits, Store};

use crate::channel::Counters;
use crate::logclock::LogClock;

mod group;

pub use group::GroupClient;

/// An operation's end: the store's reply, or why there is none.
pub type Done = (Ticket, Result<Vec<u8>, Missed>);

/// Why an operation has no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missed {
    /// The store was not asked: too many operations are under way, or this one is too large.
    NotAsked,
    /// It was asked and did not answer in time: the operation may have been executed, or may be yet.
    Unknown,
}

impl From<Missed> for StateError {
    fn from(_: Missed) -> Self {
        Self::Unavailable
    }
}

/// Bytes of operations that an own store takes together.
const USUAL: usize = 8 << 10;

/// How much a client takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes of an operation.
    pub operation: usize,
    /// Bytes of an operation that goes in one datagram with others.
    pub datagram: usize,
}

/// A client of the store.
#[derive(Debug)]
pub enum StateClient {
    /// State in this process.
    Embedded(Embedded),
    /// State in a replicated group.
    Group(Box<GroupClient>),
}

impl StateClient {
    /// Hands over an operation; its end is told by [`Self::poll`].
    pub fn submit(&mut self, now: Time, ticket: Ticket, op: Vec<u8>) {
        match self {
            Self::Embedded(store) => store.submit(ticket, &op),
            Self::Group(client) => client.submit(now, ticket, op),
        }
    }

    /// The same for an operation that only reads; a group answers it without a slot.
    pub fn read(&mut self, now: Time, ticket: Ticket, op: Vec<u8>) {
        match self {
            Self::Embedded(store) => store.submit(ticket, &op),
            Self::Group(client) => client.read(now, ticket, op),
        }
    }

    /// Sends what was submitted, in as few datagrams as possible.
    pub fn flush(&mut self, now: Time) {
        match self {
            Self::Embedded(_) => {}
            Self::Group(client) => client.flush(now),
        }
    }

    /// Moves everything that has ended into `done`; receives and fires timers.
    pub fn poll(&mut self, now: Time, done: &mut Vec<Done>) {
        match self {
            Self::Embedded(store) => done.extend(store.done.drain(..)),
            Self::Group(client) => client.poll(now, done),
        }
    }

    /// Readable when [`Self::poll`] has something to do.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Embedded(_) => None,
            Self::Group(client) => Some(client.fd()),
        }
    }

    /// When [`Self::poll`] is next due, if nothing arrives before.
    pub fn next_timer(&self) -> Option<Time> {
        match self {
            Self::Embedded(store) if store.done.is_empty() => None,
            Self::Embedded(_) => Some(Time::ZERO),
            Self::Group(client) => client.next_timer(),
        }
    }

    /// How much it takes.
    pub fn bounds(&self) -> Bounds {
        match self {
            Self::Embedded(_) => {
                let operation = Limits::default().op_bytes;
                Bounds {
                    operation,
                    datagram: operation.min(USUAL),
                }
            }
            Self::Group(client) => client.bounds(),
        }
    }

    /// How many more operations it takes now.
    pub fn room(&self) -> u64 {
        match self {
            Self::Embedded(_) => u64::MAX,
            Self::Group(client) => client.room(),
        }
    }

    /// The newest view that it heard of, and the number of the replica that leads it.
    pub fn view(&self) -> (u64, usize) {
        match self {
            Self::Embedded(_) => (0, 0),
            Self::Group(client) => client.view(),
        }
    }

    /// Datagrams, of a store elsewhere.
    pub fn counters(&self) -> Option<Counters> {
        match self {
            Self::Embedded(_) => None,
            Self::Group(client) => Some(client.counters()),
        }
    }

    /// Operations whose end is not told yet.
    pub fn pending(&self) -> usize {
        match self {
            Self::Embedded(store) => store.done.len(),
            Self::Group(client) => client.pending(),
        }
    }
}

/// The store inside the function's own process.
pub struct Embedded {
    store: Box<Store>,
    clock: LogClock,
    done: VecDeque<Done>,
}

impl Embedded {
    /// An own store; nobody else sees it, and it ends with the process.
    pub fn new(store: Store) -> Self {
        Self {
            store: Box::new(store),
            clock: LogClock::default(),
            done: VecDeque::new(),
        }
    }

    fn submit(&mut self, ticket: Ticket, op: &[u8]) {
        let mut reply = Vec::new();
        self.store.execute(self.clock.now(), op, &mut reply);
        self.done.push_back((ticket, Ok(reply)));
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("done", &self.done.len())
            .finish_non_exhaustive()
    }
}
