//! Datagrams between nodes: a nonblocking socket that receives and sends in batches,
//! reuses its buffers and allocates nothing for a datagram.
//!
//! Datagrams of one size for one destination enter and leave the kernel as one buffer
//! (GSO and GRO) where it can; where it refuses they go one by one, in one system call.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

mod outbox;
mod sys;

use outbox::Outbox;
use sys::Inbox;

/// The largest datagram UDP can carry.
const MAX_DATAGRAM: usize = 65_507;

/// Bytes the kernel may hold in each direction while this process does not run.
const KERNEL_BUFFER: usize = 8 << 20;

/// What a socket has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UdpStats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams the kernel refused: no route, no buffer, too large. They are lost,
    /// as the network may lose any.
    pub refused: u64,
    /// System calls that received something, and that sent.
    pub calls: u64,
}

/// A UDP socket.
pub struct BatchSocket {
    socket: UdpSocket,
    inbox: Inbox,
    outbox: Outbox,
    /// The largest datagrams that are handed to the kernel joined; 0: none are.
    gso: usize,
    /// Messages of one system call that sends.
    most: usize,
    stats: UdpStats,
}

impl fmt::Debug for BatchSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchSocket")
            .field("socket", &self.socket)
            .field("queued", &self.outbox.len())
            .field("gso", &self.gso)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl BatchSocket {
    /// Binds to `address`, with large kernel buffers as far as this process may.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        Self::of(UdpSocket::bind(address).map_err(named)?)
    }

    /// Hears what is sent to a group (IP multicast), through the interface that has the
    /// address `own`. Others on this machine may hear the same.
    pub fn join(group: SocketAddrV4, own: Ipv4Addr) -> io::Result<Self> {
        let named = |error: rustix::io::Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("group {group} at {own}: {error}"))
        };
        let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // Bound to the group: nothing else that is sent to this port gets here.
        rustix::net::bind(&socket, &group).map_err(named)?;
        sockopt::set_ip_add_membership(&socket, group.ip(), &own).map_err(named)?;
        Self::of(socket.into())
    }

    /// How many routers what this socket sends to groups may pass. It leaves through the
    /// interface that has the address the socket is bound to.
    pub fn reach_groups(&self, routers: u8) -> io::Result<()> {
        Ok(sockopt::set_ip_multicast_ttl(
            &self.socket,
            u32::from(routers) + 1,
        )?)
    }

    fn of(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Only root may exceed the system's limit; up to it is the best others get.
        if sockopt::set_socket_recv_buffer_size_force(&socket, KERNEL_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, KERNEL_BUFFER)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, KERNEL_BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, KERNEL_BUFFER)?;
        }
        sys::ask_for_gro(&socket);
        let gso = if sys::has_gso(&socket) {
            MAX_DATAGRAM
        } else {
            0
        };
        Ok(Self {
            socket,
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            gso,
            most: sys::BATCH,
            stats: UdpStats::default(),
        })
    }

    /// From now on every datagram enters and leaves the kernel in a system call of its own, as
    /// if there were no batches: to see what they save.
    pub fn one_by_one(&mut self) {
        sys::refuse_gro(&self.socket);
        self.inbox.offer_one();
        self.gso = 0;
        self.most = 1;
    }

    /// The address bound to, with the port the kernel chose if it was asked to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Hands waiting datagrams to `each`, which may change them where they lie; how many.
    /// Takes no further system call once there were `enough`. Never waits.
    pub fn receive(
        &mut self,
        enough: usize,
        mut each: impl FnMut(SocketAddr, &mut [u8]),
    ) -> io::Result<usize> {
        let mut count = 0;
        for _ in 0..enough {
            let (filled, more) = match self.inbox.fill(&self.socket) {
                Ok(filled) => filled,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an earlier datagram, or a signal: there may be more.
                    io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::Interrupted => continue,
                    _ => return Err(error),
                },
            };
            self.stats.calls += 1;
            for index in 0..filled {
                let Some((from, segment, bytes)) = self.inbox.filled(index) else {
                    continue;
                };
                if bytes.is_empty() {
                    each(from, bytes);
                    count += 1;
                    continue;
                }
                for datagram in bytes.chunks_mut(segment) {
                    each(from, datagram);
                    count += 1;
                }
            }
            if !more || count >= enough {
                break;
            }
        }
        self.stats.received += count as u64;
        Ok(count)
    }

    /// Queues a datagram for [`BatchSocket::flush`], which a full queue does by itself.
    pub fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.compose(&[to], |out| out.extend_from_slice(datagram));
    }

    /// Queues one datagram for several destinations. `write` appends it where it is sent
    /// from and must not touch what lies before.
    pub fn compose(&mut self, to: &[SocketAddr], write: impl FnOnce(&mut Vec<u8>)) {
        if !self.outbox.has_room(to.len()) {
            self.flush();
        }
        match self.outbox.write(write) {
            Some(place) => to.iter().for_each(|to| self.outbox.address(*to, place)),
            None => self.stats.refused += to.len() as u64,
        }
    }

    /// Hands everything queued to the kernel. What it refuses is lost and counted.
    pub fn flush(&mut self) {
        while self.outbox.load(self.gso) {
            let (mut done, all) = (0, self.outbox.trains().len());
            while done < all {
                self.stats.calls += 1;
                let until = all.min(done + self.most);
                let trains = &self.outbox.trains()[done..until];
                match sys::send(&self.socket, trains, self.outbox.pieces(done)) {
                    Ok(count) => {
                        let sent = (done..done + count).map(|i| self.outbox.carried(i));
                        self.stats.sent += sent.sum::<u64>();
                        done += count;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // It is the first of the call that was refused.
                    Err(error) => {
                        self.refuse(done, &error);
                        done += 1;
                    }
                }
            }
        }
        self.outbox.clear();
    }

    /// The kernel refused a train. If that may be for being one, its datagrams go one by
    /// one: a device that cannot compute checksums refuses all trains, a path with a
    /// smaller MTU those of larger datagrams. That is remembered.
    fn refuse(&mut self, index: usize, error: &io::Error) {
        let train = self.outbox.trains()[index];
        let Some(segment) = train.segment.filter(|_| sys::may_mean_gso(error)) else {
            self.stats.refused += self.outbox.carried(index);
            return;
        };
        let mut taken = 0;
        for datagram in self.outbox.datagrams(index, segment) {
            self.stats.calls += 1;
            match self.socket.send_to(datagram, train.to) {
                Ok(_) => taken += 1,
                Err(_) => self.stats.refused += 1,
            }
        }
        self.stats.sent += taken;
        if taken > 0 {
            self.gso = self.gso.min(usize::from(segment) - 1);
        }
    }

    /// What the socket has done so far.
    pub fn stats(&self) -> UdpStats {
        self.stats
    }
}

impl AsFd for BatchSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll;
    use std::time::{Duration, Instant};

    fn socket() -> BatchSocket {
        BatchSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    /// Everything that arrives until `count` datagrams have.
    fn collect(socket: &mut BatchSocket, count: usize) -> Vec<Vec<u8>> {
        let (mut all, start) = (Vec::new(), Instant::now());
        while all.len() < count && start.elapsed() < Duration::from_secs(5) {
            poll::wait(&[socket.as_fd()], Some(Duration::from_millis(100))).unwrap();
            socket
                .receive(7, |_, bytes| all.push(bytes.to_vec()))
                .unwrap();
        }
        all
    }

    #[test]
    fn batches_keep_boundaries_order_and_destinations() {
        let (mut from, mut one, mut two) = (socket(), socket(), socket());
        let (to_one, to_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let datagram = |number: u16| vec![number as u8; usize::from(number)];
        for number in 0..200 {
            from.send(
                if number % 3 == 0 { to_one } else { to_two },
                &datagram(number),
            );
        }
        from.flush();
        let expected = |third| {
            (0..200)
                .filter(move |n| (n % 3 == 0) == third)
                .map(datagram)
        };
        assert!(collect(&mut one, 67).into_iter().eq(expected(true)));
        assert!(collect(&mut two, 133).into_iter().eq(expected(false)));
        assert_eq!((from.stats().sent, from.stats().refused), (200, 0));
        assert_eq!(one.receive(1, |_, _| ()).unwrap(), 0, "and nothing else");
    }

    #[test]
    fn a_refused_datagram_does_not_take_others_with_it() {
        let (mut from, mut to) = (socket(), socket());
        let good = to.local_addr().unwrap();
        // A socket bound to loopback may not send elsewhere.
        let bad: SocketAddr = "203.0.113.1:9".parse().unwrap();
        for address in [good, bad, good, bad, bad, good] {
            from.send(address, b"x");
        }
        from.send(good, &[0; MAX_DATAGRAM + 1]);
        from.flush();
        assert_eq!(collect(&mut to, 3).len(), 3);
        assert_eq!((from.stats().sent, from.stats().refused), (3, 4));
    }

    #[test]
    fn datagrams_of_one_size_travel_together() {
        let (mut from, mut one, mut two) = (socket(), socket(), socket());
        let to = [one.local_addr().unwrap(), two.local_addr().unwrap()];
        // Runs of sizes, each longer than a train; a shorter one may end a train.
        let sizes = (0..300).map(|n| [64, 64, 64, 900, 17, 0][n / 50]);
        let all: Vec<Vec<u8>> = sizes.zip(0..).map(|(len, n)| vec![n as u8; len]).collect();
        for datagram in &all {
            from.compose(&to, |out| out.extend_from_slice(datagram));
        }
        from.flush();
        assert_eq!(collect(&mut one, 300), all);
        assert_eq!(collect(&mut two, 300), all);
        assert_eq!(from.stats().sent, 600);
        if from.gso > 0 {
            let calls = from.stats().calls + one.stats().calls;
            assert!(calls < 30, "{calls} calls");
        }
    }

    #[test]
    fn without_batches_every_datagram_takes_a_call() {
        let (mut from, mut to) = (socket(), socket());
        from.one_by_one();
        to.one_by_one();
        let address = to.local_addr().unwrap();
        let all: Vec<Vec<u8>> = (0..20).map(|n| vec![n; 64]).collect();
        for datagram in &all {
            from.send(address, datagram);
        }
        from.flush();
        assert_eq!(collect(&mut to, 20), all);
        assert_eq!((from.stats().calls, to.stats().calls), (20, 20));
    }

    #[test]
    fn trains_that_are_refused_go_apart() {
        let (mut from, mut to) = (socket(), socket());
        // What leaves without a checksum cannot be split.
        sys::without_checksums(&from.socket);
        let address = to.local_addr().unwrap();
        for round in 1..=2 {
            (0..100).for_each(|n| from.send(address, &[n; 64]));
            from.flush();
            let expected: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 64]).collect();
            assert_eq!(collect(&mut to, 100), expected);
            let stats = from.stats();
            assert_eq!((stats.sent, stats.refused), (round * 100, 0));
            assert!(from.gso < 64, "remembered");
        }
    }

    #[test]
    fn the_largest_datagram_passes_whole() {
        let (mut from, mut to) = (socket(), socket());
        let big = vec![0xa5; MAX_DATAGRAM];
        let address = to.local_addr().unwrap();
        for _ in 0..5 {
            from.send(address, &big);
        }
        from.flush();
        assert_eq!(collect(&mut to, 5), vec![big; 5]);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let holder = socket();
        let taken = holder.local_addr().unwrap();
        let error = BatchSocket::bind(taken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()));
    }
}
