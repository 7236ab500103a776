//! A state: the nodes, what is in flight, what is left of the bounds, and what
//! must be remembered to judge it.
use crate::app::Ledger;
use crate::history::History;
use foldhash::fast::FixedState;
use stateplane_group::{Client, Message, Replica, Sequencer};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// A hash that is the same in every thread and run.
pub(crate) fn fingerprint<T: Hash + ?Sized>(value: &T) -> u64 {
    FixedState::with_seed(7).hash_one(value)
}

/// The core that runs on a node.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Core {
    Replica(Box<Replica<Ledger>>),
    Sequencer(Box<Sequencer>),
    Client(Box<Client>),
}

/// Something with its hash, computed once: most of a state is that of its predecessor.
pub(crate) struct Hashed<T> {
    pub(crate) value: T,
    hash: u64,
}

impl<T: Hash> Hashed<T> {
    pub(crate) fn new(value: T) -> Arc<Self> {
        let hash = fingerprint(&value);
        Arc::new(Self { value, hash })
    }
}

impl<T> Hashed<T> {
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }
}

impl<T> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<T> Hash for Hashed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A message on its way.
#[derive(Clone, PartialEq, Hash)]
pub(crate) struct Envelope {
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) message: Arc<Hashed<Message>>,
}

/// What may still happen.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Operations asked so far.
    pub(crate) asked: u8,
    pub(crate) repeats: u8,
    pub(crate) drops: u8,
    pub(crate) timers: Vec<u8>,
    pub(crate) crashes: u8,
    pub(crate) restarts: u8,
}

/// A state of the whole world.
#[derive(Clone, PartialEq, Hash)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Arc<Hashed<Core>>>,
    /// Sorted; with [`crate::bounds::Order::Fifo`] by link only.
    pub(crate) net: Vec<Envelope>,
    pub(crate) budget: Budget,
    pub(crate) history: Arc<Hashed<History>>,
}
