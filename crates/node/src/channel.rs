//! Authenticated datagrams between nodes: envelopes, and the packets of the ordered
//! multicast.
//!
//! Everything a node hears passes [`Channel::receive`]: the tags are verified and the
//! replay window consulted; what fails is counted and nothing else. Nothing here blocks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use stateplane_base::{ClientId, Incarnation};
use stateplane_host::udp::BatchSocket;
use stateplane_wire::envelope::{self, Header, Kind, cluster_id};
use stateplane_wire::group::{GroupId, Request};
use stateplane_wire::oum::{self, Groups, Keys, client_id, life_of};
use stateplane_wire::refusal::Refusal;
use tracing::info;

use crate::config::{Config, Role, sender_id};
use crate::heard::Ear;
pub use crate::heard::{Asked, Counters, Heard};
use crate::sequencer::random;

/// Who a channel speaks as.
#[derive(Clone, Debug)]
pub struct Identity {
    pub(crate) key: envelope::Key,
    pub(crate) keys: Keys,
    pub(crate) cluster: u32,
    sender: u16,
    incarnation: Incarnation,
}

impl Identity {
    /// The identity of one role of a node in this life.
    pub fn new(config: &Config, node: &str, role: Role, incarnation: Incarnation) -> Self {
        Self::from_parts(
            envelope::Key::new(config.cluster.key.0),
            cluster_id(&config.cluster.name),
            sender_id(node, role),
            incarnation,
        )
    }

    fn from_parts(key: envelope::Key, cluster: u32, sender: u16, incarnation: Incarnation) -> Self {
        Self {
            keys: Keys::derive(&key, cluster),
            key,
            cluster,
            sender,
            incarnation,
        }
    }

    /// Which life this is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The role's number on the wire.
    pub fn sender(&self) -> u16 {
        self.sender
    }

    /// This life as a client of the store.
    pub fn client_id(&self) -> ClientId {
        client_id(self.sender, self.incarnation)
    }

    /// The present life as others name it: requests bear only a part of it.
    fn names(&self) -> [u64; 2] {
        [self.incarnation.0, life_of(self.client_id())]
    }

    /// Whether the present life is the one that was refused.
    pub(crate) fn is_meant(&self, refusal: &Refusal) -> bool {
        refusal.sender == self.sender && self.names().contains(&refusal.refused)
    }

    /// Begins a life above the one that was known; see [`stateplane_wire::refusal`].
    fn outlive(&mut self, refusal: &Refusal, chance: u64) {
        let [whole, part] = self.names();
        let above = match refusal.refused == whole {
            true => 0,
            false => whole - part,
        };
        let next = refusal.known.saturating_add(1 + (chance & SCATTER));
        let next = above.saturating_add(next);
        let part = life_of(client_id(self.sender, Incarnation(next)));
        // At the end of its range a part has no name above; then time must help.
        if refusal.refused == whole || part > refusal.known {
            self.incarnation = Incarnation(next);
        }
    }
}

/// Lives above a known one, from which the next is drawn: 16 s of microseconds.
const SCATTER: u64 = 0xff_ffff;

/// The life of a process that starts now: microseconds since 1970, so that a
/// restarted process has a higher one than its former self.
pub fn new_incarnation() -> Incarnation {
    Incarnation(stateplane_host::clock::wall().as_nanos() / 1_000)
}

/// A socket that speaks and hears envelopes and ordered multicast.
#[derive(Debug)]
pub struct Channel {
    socket: BatchSocket,
    me: Identity,
    counter: u64,
    ear: Ear,
    loss: Loss,
}

/// Datagrams lost on purpose, to see what loss costs: one in so many (0: none), at random.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    one_in: u32,
    draw: u64,
    lost: u64,
}

impl Loss {
    fn strikes(&mut self) -> bool {
        if self.one_in == 0 {
            return false;
        }
        // splitmix64
        self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.draw ^ self.draw >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let hit = ((mixed ^ mixed >> 31) >> 32).is_multiple_of(u64::from(self.one_in));
        self.lost += u64::from(hit);
        hit
    }
}

impl Channel {
    /// Hears at `address`.
    pub fn bind(address: SocketAddrV4, me: Identity) -> io::Result<Self> {
        Ok(Self {
            socket: BatchSocket::bind(SocketAddr::V4(address))?,
            me,
            counter: 0,
            ear: Ear::default(),
            loss: Loss::default(),
        })
    }

    /// Only sends, from any port of `address`.
    pub fn sending_from(address: Ipv4Addr, me: Identity) -> io::Result<Self> {
        Self::bind(SocketAddrV4::new(address, 0), me)
    }

    /// Loses one in `one_in` of the datagrams that arrive (0: none), and counts them.
    pub fn lose(&mut self, one_in: u32) {
        self.loss.one_in = one_in;
        self.loss.draw = self.me.incarnation.0;
    }

    /// Every datagram takes a system call of its own from now on.
    pub fn one_by_one(&mut self) {
        self.socket.one_by_one();
    }

    /// Seals `body` and queues it for [`Self::flush`]. Loss is the protocols'
    /// business: a datagram the kernel refuses is counted.
    pub fn send(&mut self, to: SocketAddrV4, kind: Kind, body: &[u8]) {
        self.multicast(&[to.into()], kind, |out| out.extend_from_slice(body));
    }

    /// Seals the body that `write` appends, once for all destinations: each of them hears
    /// the counter once. A datagram taken from the way to one could be played to another
    /// that has not got it, but that is what the sender meant it to have.
    pub fn multicast(&mut self, to: &[SocketAddr], kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
        self.counter += 1;
        let header = Header {
            kind,
            cluster: self.me.cluster,
            sender: self.me.sender,
            incarnation: self.me.incarnation.0,
            counter: self.counter,
        };
        let key = &self.me.key;
        self.socket
            .compose(to, |out| envelope::append(key, header, out, write));
    }

    /// Seals a request for one group to its sequencer or leader, and queues it.
    pub fn request(&mut self, to: SocketAddr, group: GroupId, request: &Request) {
        self.counter += 1;
        let (keys, counter) = (&self.me.keys, self.counter);
        self.socket.compose(&[to], |out| {
            oum::seal_request(keys, counter, Groups::one(group), request, out);
        });
    }

    /// Queues an ordered message, as [`Asked::stamp`] made it, for all its replicas.
    pub fn relay(&mut self, to: &[SocketAddr], packet: &[u8]) {
        self.socket.compose(to, |out| out.extend_from_slice(packet));
    }

    /// Sends what is queued.
    pub fn flush(&mut self) {
        self.socket.flush();
    }

    /// Takes waiting datagrams, about `enough` of them, and hands the good ones to `each`;
    /// how many it took, good or not. Never waits.
    pub fn receive(&mut self, enough: usize, mut each: impl FnMut(Heard<'_>)) -> io::Result<usize> {
        let Self {
            socket,
            me,
            ear,
            loss,
            ..
        } = self;
        let count = socket.receive(enough, |from, datagram| {
            if loss.strikes() {
                return;
            }
            if let Some(heard) = ear.open(me, from, datagram) {
                each(heard);
            }
        })?;
        self.settle_lives();
        Ok(count)
    }

    /// Tells whose life is over, and takes a new one if it is ours.
    fn settle_lives(&mut self) {
        if let Some(refusal) = self.ear.take_refused() {
            self.me.outlive(&refusal, random());
            let life = self.me.incarnation.0;
            info!(
                known = refusal.known,
                life, "the clock is behind that of our former life: going on above it"
            );
        }
        if let Some((to, refusal)) = self.ear.take_refusal()
            && let SocketAddr::V4(to) = to
        {
            self.send(to, Kind::Refusal, &refusal.encode());
            self.flush();
        }
    }

    /// Who this channel speaks as now. It may take a later life: see
    /// [`stateplane_wire::refusal`].
    pub fn client_id(&self) -> ClientId {
        self.me.client_id()
    }

    /// The keys of the ordered multicast.
    pub fn keys(&self) -> &Keys {
        &self.me.keys
    }

    /// For waiting.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Where it hears.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What became of datagrams so far.
    pub fn counters(&self) -> Counters {
        let socket = self.socket.stats();
        Counters {
            sent: socket.sent,
            send_failed: socket.refused,
            lost_on_purpose: self.loss.lost,
            calls: socket.calls,
            ..self.ear.counters
        }
    }
}

#[cfg(test)]
mod tests;
