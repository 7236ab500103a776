//! Authenticated datagrams between nodes.
//!
//! Everything a node hears passes [`Channel::receive`]: the envelope's tag is
//! verified and the replay window consulted; what fails is counted and nothing
//! else. Nothing here blocks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use serde::Serialize;
use stateplane_base::{ClientId, Incarnation};
use stateplane_host::udp::BatchSocket;
use stateplane_wire::envelope::{self, Header, Kind, OpenError, ReplayGuard, cluster_id};
use tracing::warn;

use crate::config::{Config, Role, sender_id};

/// Who a channel speaks as.
#[derive(Clone, Debug)]
pub struct Identity {
    key: envelope::Key,
    cluster: u32,
    sender: u16,
    incarnation: Incarnation,
}

impl Identity {
    /// The identity of one role of a node in this life.
    pub fn new(config: &Config, node: &str, role: Role, incarnation: Incarnation) -> Self {
        Self {
            key: envelope::Key::new(config.cluster.key.0),
            cluster: cluster_id(&config.cluster.name),
            sender: sender_id(node, role),
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
}

/// The life of a process that starts now: microseconds since 1970, so that a
/// restarted process has a higher one than its former self.
pub fn new_incarnation() -> Incarnation {
    Incarnation(stateplane_host::clock::wall().as_nanos() / 1_000)
}

/// A store client is one life of one sender. Both ends derive its id from the
/// authenticated header, so nobody can speak for another; and from the id a
/// replica finds the sender's address although it has never heard from it.
/// (48 bits of microseconds repeat after nine years.)
pub fn client_id(sender: u16, life: Incarnation) -> ClientId {
    ClientId(life.0 << 16 | u64::from(sender))
}

/// The sender whose life `client` is.
pub fn sender_of(client: ClientId) -> u16 {
    client.0 as u16
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams the kernel refused to send.
    pub send_failed: u64,
    /// Good datagrams received.
    pub received: u64,
    /// Not an envelope, or of an unknown version or kind.
    pub malformed: u64,
    /// Failed authentication, or of another cluster.
    pub unauthentic: u64,
    /// Seen before, too old, or of a former life.
    pub replayed: u64,
    /// Of these, those of a former life. When they go on, the sender was restarted
    /// with its clock behind: nobody hears it until the clock is right.
    pub former: u64,
}

/// More datagrams of a former life than can have been late.
const STILL_COMING: u32 = 100;

/// The former life that was heard last, and how often.
#[derive(Clone, Copy, Debug, Default)]
struct Former {
    sender: u16,
    incarnation: u64,
    heard: u32,
}

impl Former {
    /// Counts a datagram; true once, when they are too many to have been late.
    fn persists(&mut self, header: &Header) -> bool {
        if (self.sender, self.incarnation) != (header.sender, header.incarnation) {
            *self = Self {
                sender: header.sender,
                incarnation: header.incarnation,
                heard: 0,
            };
        }
        self.heard = self.heard.saturating_add(1);
        self.heard == STILL_COMING
    }
}

/// A socket that speaks and hears envelopes.
#[derive(Debug)]
pub struct Channel {
    socket: BatchSocket,
    me: Identity,
    counter: u64,
    guard: ReplayGuard,
    former: Former,
    counters: Counters,
}

impl Channel {
    /// Hears at `address`.
    pub fn bind(address: SocketAddrV4, me: Identity) -> io::Result<Self> {
        Ok(Self {
            socket: BatchSocket::bind(SocketAddr::V4(address))?,
            me,
            counter: 0,
            guard: ReplayGuard::default(),
            former: Former::default(),
            counters: Counters::default(),
        })
    }

    /// Only sends, from any port of `address`.
    pub fn sending_from(address: Ipv4Addr, me: Identity) -> io::Result<Self> {
        Self::bind(SocketAddrV4::new(address, 0), me)
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

    /// Sends what is queued.
    pub fn flush(&mut self) {
        self.socket.flush();
    }

    /// Takes waiting datagrams, about `enough` of them, and hands the good ones to `each`;
    /// how many it took, good or not. Never waits.
    pub fn receive(
        &mut self,
        enough: usize,
        mut each: impl FnMut(&Header, &[u8]),
    ) -> io::Result<usize> {
        let Self {
            socket,
            me,
            guard,
            former,
            counters,
            ..
        } = self;
        socket.receive(enough, |from, datagram| {
            match envelope::open(&me.key, me.cluster, datagram) {
                Ok((header, body)) if guard.accept(&header) => {
                    counters.received += 1;
                    each(&header, body);
                }
                Ok((header, _)) => {
                    counters.replayed += 1;
                    counters.former += u64::from(guard.is_former(&header));
                    if guard.is_former(&header) && former.persists(&header) {
                        warn!(%from, "a node started with its clock behind that of its former \
                               life, so nobody hears it: set its clock and restart it");
                    }
                }
                Err(OpenError::Tag | OpenError::Cluster) => counters.unauthentic += 1,
                Err(_) => counters.malformed += 1,
            }
        })
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
            ..self.counters
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

    fn identity(key: u8, sender: u16, life: u64) -> Identity {
        Identity {
            key: envelope::Key::new([key; 16]),
            cluster: cluster_id("test"),
            sender,
            incarnation: Incarnation(life),
        }
    }

    fn address(channel: &Channel) -> SocketAddrV4 {
        match channel.local_address().unwrap() {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => unreachable!("bound to IPv4"),
        }
    }

    fn say(channel: &mut Channel, to: SocketAddrV4, word: &[u8]) {
        channel.send(to, Kind::Heartbeat, word);
        channel.flush();
    }

    /// Everything heard until `until`.
    fn hear(channel: &mut Channel, until: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut heard = Vec::new();
        for _ in 0..500 {
            channel
                .receive(8, |header, body| heard.push((header.sender, body.to_vec())))
                .unwrap();
            if heard.last().is_some_and(|(_, body)| body == until) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        heard
    }

    #[test]
    fn good_datagrams_arrive_and_others_are_counted() {
        let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
        let to = address(&hears);
        let mut friend = Channel::bind(HERE, identity(1, 2, 1)).unwrap();
        let mut stranger = Channel::bind(HERE, identity(9, 3, 1)).unwrap();
        say(&mut stranger, to, b"let me in");
        UdpSocket::bind(HERE)
            .unwrap()
            .send_to(b"noise", to)
            .unwrap();
        say(&mut friend, to, b"hello");
        assert_eq!(hear(&mut hears, b"hello"), [(2, b"hello".to_vec())]);
        let counters = hears.counters();
        assert_eq!(
            (counters.unauthentic, counters.malformed, counters.received),
            (1, 1, 1)
        );
        assert_eq!(friend.counters().sent, 1);
    }

    #[test]
    fn a_replayed_datagram_is_refused() {
        let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
        let to = address(&hears);
        let mut friend = Channel::bind(HERE, identity(1, 2, 1)).unwrap();
        let spy = UdpSocket::bind(HERE).unwrap();
        let mut heard = [0; 100];
        let both = [to.into(), spy.local_addr().unwrap()];
        friend.multicast(&both, Kind::Heartbeat, |out| out.extend_from_slice(b"once"));
        friend.flush();
        let len = spy.recv(&mut heard).unwrap();
        spy.send_to(&heard[..len], to).unwrap();
        say(&mut friend, to, b"end");
        assert_eq!(
            hear(&mut hears, b"end"),
            [(2, b"once".to_vec()), (2, b"end".to_vec())]
        );
        assert_eq!(hears.counters().replayed, 1);
    }

    #[test]
    fn a_sender_whose_clock_went_back_is_noticed() {
        let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
        let to = address(&hears);
        let mut before = Channel::bind(HERE, identity(1, 2, 7)).unwrap();
        let mut after = Channel::bind(HERE, identity(1, 2, 6)).unwrap();
        say(&mut before, to, b"hello");
        say(&mut after, to, b"back again");
        say(&mut before, to, b"end");
        assert_eq!(hear(&mut hears, b"end").len(), 2);
        let counters = hears.counters();
        assert_eq!((counters.replayed, counters.former), (1, 1));

        let header = |incarnation| Header {
            kind: Kind::Group,
            cluster: 0,
            sender: 2,
            incarnation,
            counter: 1,
        };
        let mut former = Former::default();
        let warnings = (0..1_000).filter(|_| former.persists(&header(6))).count();
        assert_eq!(warnings, 1, "said once, and not for what was only late");
        assert!(!former.persists(&header(5)));
    }

    #[test]
    fn a_client_id_names_its_sender_and_its_life() {
        let now = new_incarnation();
        let id = client_id(0xabcd, now);
        assert_eq!(sender_of(id), 0xabcd);
        assert_ne!(id, client_id(0xabcd, Incarnation(now.0 + 1)));
    }
}
