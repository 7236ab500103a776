//! Where packets go next: the kernel's routes and neighbours, followed through
//! rtnetlink and handed to the data path without locks.
//!
//! A control thread keeps a copy of the kernel's tables. A [`Reader`] on a worker's
//! thread looks at one counter per batch and takes a new copy only when it has moved.
//! The kernel does the resolving (ARP): the worker asks for it with
//! [`Reader::request`] and finds the answer in a later copy.
//!
//! Followed are IPv4 and the main routing table; policy rules and multipath weights
//! are not (the first path of several is used).

mod follow;
mod tables;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stateplane_base::Time;
use tokio::sync::mpsc;

use crate::port::Mac;
use tables::Tables;

/// Where a packet to some address goes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// Out of this interface, to this hardware address, from that one.
    Neighbour {
        /// Number of the interface.
        ifindex: u32,
        /// Hardware address of the next hop.
        mac: Mac,
        /// The interface's own.
        source: Mac,
        /// The next hop: a gateway, or the destination itself.
        gateway: Ipv4Addr,
    },
    /// Out of this interface, but the hardware address of the next hop is not known:
    /// see [`Reader::request`].
    Unresolved {
        /// Number of the interface.
        ifindex: u32,
        /// The next hop: a gateway, or the destination itself.
        gateway: Ipv4Addr,
    },
    /// To this machine.
    Local,
    /// Nowhere.
    NoRoute,
}

/// Resolve this address on that interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Request {
    ifindex: u32,
    gateway: Ipv4Addr,
}

/// Requests that may wait for the control thread.
const MAX_REQUESTS: usize = 256;

/// A request is not repeated sooner: the kernel itself asks once a second.
const REQUEST_INTERVAL: Duration = Duration::from_millis(100);

/// Destinations whose next hop a reader remembers.
const CACHE: usize = 1024;

/// Requests a reader remembers having made.
const RECENT: usize = 16;

/// What the control thread publishes.
#[derive(Debug, Default)]
struct Published {
    /// Moves with each new copy.
    generation: AtomicU64,
    tables: Mutex<Arc<Tables>>,
}

impl Published {
    fn publish(&self, tables: &Tables) {
        let mut current = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if **current != *tables {
            *current = Arc::new(tables.clone());
            // SYNC POINT with `Reader::refresh`: who sees the number sees the tables, by
            // the lock; the number only says that it is worth taking.
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    fn take(&self) -> (u64, Arc<Tables>) {
        let current = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        (
            self.generation.load(Ordering::Acquire),
            Arc::clone(&current),
        )
    }
}

/// Follows the tables of the network namespace it was started in.
#[derive(Clone, Debug)]
pub struct Neighbours {
    published: Arc<Published>,
    requests: mpsc::Sender<Request>,
}

impl Neighbours {
    /// Starts the control thread, which ends with the last [`Neighbours`] and
    /// [`Reader`]. Returns once the tables are complete.
    pub fn follow() -> io::Result<Self> {
        let published = Arc::new(Published::default());
        let (requests, incoming) = mpsc::channel(MAX_REQUESTS);
        follow::start(Arc::clone(&published), incoming)?;
        Ok(Self {
            published,
            requests,
        })
    }

    /// A reader for one worker.
    pub fn reader(&self) -> Reader {
        let (generation, tables) = self.published.take();
        Reader {
            source: self.clone(),
            generation,
            tables,
            cache: vec![None; CACHE].into_boxed_slice(),
            recent: [None; RECENT],
            next_recent: 0,
        }
    }

    /// Addresses of this machine, at present.
    pub fn local_addresses(&self) -> Vec<Ipv4Addr> {
        self.published.take().1.locals.clone()
    }
}

/// One worker's view of the tables.
pub struct Reader {
    source: Neighbours,
    generation: u64,
    tables: Arc<Tables>,
    cache: Box<[Option<(Ipv4Addr, NextHop)>]>,
    recent: [Option<(Request, Time)>; RECENT],
    next_recent: usize,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// Takes the newest tables if they have changed; whether they have. One load when
    /// not: call it once per batch.
    pub fn refresh(&mut self) -> bool {
        if self.source.published.generation.load(Ordering::Acquire) == self.generation {
            return false;
        }
        (self.generation, self.tables) = self.source.published.take();
        self.cache.fill(None);
        true
    }

    /// Where a packet to `destination` goes, by the tables last taken.
    pub fn next_hop(&mut self, destination: Ipv4Addr) -> NextHop {
        // Neighbouring addresses get neighbouring slots.
        let slot = &mut self.cache[u32::from(destination) as usize % CACHE];
        match slot {
            Some((cached, hop)) if *cached == destination => *hop,
            _ => {
                let hop = self.tables.next_hop(destination);
                *slot = Some((destination, hop));
                hop
            }
        }
    }

    /// Has the kernel resolve an [`NextHop::Unresolved`] address. Cheap to repeat.
    pub fn request(&mut self, now: Time, ifindex: u32, gateway: Ipv4Addr) {
        let request = Request { ifindex, gateway };
        let is_recent = |entry: &Option<(Request, Time)>| {
            entry.is_some_and(|(made, at)| made == request && now.since(at) < REQUEST_INTERVAL)
        };
        if self.recent.iter().any(is_recent) {
            return;
        }
        // When the queue is full the next packet's request will do.
        if self.source.requests.try_send(request).is_ok() {
            self.recent[self.next_recent] = Some((request, now));
            self.next_recent = (self.next_recent + 1) % RECENT;
        }
    }
}
