//! Authenticated datagrams between nodes.
//!
//! Everything a node hears passes [`Channel::receive`]: the envelope's tag is
//! verified and the replay window consulted; what fails is counted and nothing
//! else. Nothing here blocks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use serde::Serialize;
use stateplane_base::{ClientId, Incarnation};
use stateplane_wire::envelope::{
    self, HEADER_LEN, Header, Kind, OpenError, ReplayGuard, cluster_id,
};

use crate::config::{Config, Role, sender_id};

/// Kernel buffer asked for; a burst of this many bytes survives a busy moment.
const BUFFER_BYTES: usize = 4 << 20;
/// Bad datagrams skipped in one [`Channel::receive`] before the caller gets a
/// chance to do something else.
const SKIP_AT_MOST: usize = 64;
/// No UDP datagram over IPv4 is longer.
const MAX_DATAGRAM: usize = 65_507;

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
}

/// A socket that speaks and hears envelopes.
#[derive(Debug)]
pub struct Channel {
    socket: UdpSocket,
    me: Identity,
    counter: u64,
    guard: ReplayGuard,
    counters: Counters,
    sealed: Vec<u8>,
    buffer: Vec<u8>,
}

impl Channel {
    /// Hears at `address`.
    pub fn bind(address: SocketAddrV4, me: Identity) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // Best effort: without privileges the kernel caps the size silently.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES)?;
        Ok(Self {
            socket,
            me,
            counter: 0,
            guard: ReplayGuard::default(),
            counters: Counters::default(),
            sealed: Vec::new(),
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    /// Only sends, from any port of `address`.
    pub fn sending_from(address: Ipv4Addr, me: Identity) -> io::Result<Self> {
        Self::bind(SocketAddrV4::new(address, 0), me)
    }

    /// Seals and sends `body`. Loss is the protocols' business: a datagram the
    /// kernel refuses is counted.
    pub fn send(&mut self, to: SocketAddrV4, kind: Kind, body: &[u8]) {
        self.counter += 1;
        let header = Header {
            kind,
            cluster: self.me.cluster,
            sender: self.me.sender,
            incarnation: self.me.incarnation.0,
            counter: self.counter,
        };
        envelope::seal(&self.me.key, header, body, &mut self.sealed);
        match self.socket.send_to(&self.sealed, SocketAddr::V4(to)) {
            Ok(_) => self.counters.sent += 1,
            Err(_) => self.counters.send_failed += 1,
        }
    }

    /// The next good datagram, if one waits.
    pub fn receive(&mut self) -> io::Result<Option<(Header, &[u8])>> {
        for _ in 0..SKIP_AT_MOST {
            let len = match self.socket.recv_from(&mut self.buffer) {
                Ok((len, _)) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // A signal, or an ICMP error about something sent earlier.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let datagram = &self.buffer[..len];
            match envelope::open(&self.me.key, self.me.cluster, datagram) {
                Ok((header, body)) if self.guard.accept(&header) => {
                    self.counters.received += 1;
                    let body = HEADER_LEN..HEADER_LEN + body.len();
                    return Ok(Some((header, &self.buffer[body])));
                }
                Ok(_) => self.counters.replayed += 1,
                Err(OpenError::Tag | OpenError::Cluster) => self.counters.unauthentic += 1,
                Err(_) => self.counters.malformed += 1,
            }
        }
        Ok(None)
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
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn next(channel: &mut Channel) -> Option<(u16, Vec<u8>)> {
        for _ in 0..200 {
            if let Some((header, body)) = channel.receive().unwrap() {
                return Some((header.sender, body.to_vec()));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        None
    }

    #[test]
    fn good_datagrams_arrive_and_others_are_counted() {
        let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
        let to = address(&hears);
        let mut friend = Channel::bind(HERE, identity(1, 2, 1)).unwrap();
        let mut stranger = Channel::bind(HERE, identity(9, 3, 1)).unwrap();
        stranger.send(to, Kind::Heartbeat, b"let me in");
        UdpSocket::bind(HERE)
            .unwrap()
            .send_to(b"noise", to)
            .unwrap();
        friend.send(to, Kind::Heartbeat, b"hello");
        assert_eq!(next(&mut hears), Some((2, b"hello".to_vec())));
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
        friend.send(to, Kind::Heartbeat, b"once");
        friend.socket.send_to(&friend.sealed, to).unwrap();
        friend.send(to, Kind::Heartbeat, b"end");
        assert_eq!(next(&mut hears), Some((2, b"once".to_vec())));
        assert_eq!(next(&mut hears), Some((2, b"end".to_vec())));
        assert_eq!(hears.counters().replayed, 1);
    }

    #[test]
    fn a_client_id_names_its_sender_and_its_life() {
        let now = new_incarnation();
        let id = client_id(0xabcd, now);
        assert_eq!(sender_of(id), 0xabcd);
        assert_ne!(id, client_id(0xabcd, Incarnation(now.0 + 1)));
    }
}
