//! Datagrams between nodes: a nonblocking socket that receives and sends in batches
//! and reuses its buffers.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{Errno, IoSlice};
use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sockopt};

/// The largest datagram UDP can carry.
const MAX_DATAGRAM: usize = 65_507;

/// Bytes the kernel may hold in each direction while this process does not run.
const KERNEL_BUFFER: usize = 8 << 20;

/// Datagrams of one system call.
const BATCH: usize = 32;

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
}

/// A UDP socket.
pub struct BatchSocket {
    socket: UdpSocket,
    incoming: Box<[u8]>,
    outgoing: Vec<u8>,
    /// Where each queued datagram ends in `outgoing`, and where it goes.
    queue: Vec<(usize, SocketAddr)>,
    stats: UdpStats,
}

impl fmt::Debug for BatchSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchSocket")
            .field("socket", &self.socket)
            .field("queued", &self.queue.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl BatchSocket {
    /// Binds to `address`, with large kernel buffers as far as this process may.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let socket = UdpSocket::bind(address).map_err(named)?;
        socket.set_nonblocking(true)?;
        // Only root may exceed the system's limit; up to it is the best others get.
        if sockopt::set_socket_recv_buffer_size_force(&socket, KERNEL_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, KERNEL_BUFFER)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, KERNEL_BUFFER).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, KERNEL_BUFFER)?;
        }
        Ok(Self {
            socket,
            incoming: vec![0; MAX_DATAGRAM].into_boxed_slice(),
            outgoing: Vec::with_capacity(4 * MAX_DATAGRAM),
            queue: Vec::with_capacity(2 * BATCH),
            stats: UdpStats::default(),
        })
    }

    /// The address bound to, with the port the kernel chose if it was asked to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Hands at most `max` waiting datagrams to `each`; how many. Never waits.
    pub fn receive(
        &mut self,
        max: usize,
        mut each: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<usize> {
        let mut count = 0;
        for _ in 0..max {
            match self.socket.recv_from(&mut self.incoming) {
                Ok((len, from)) => {
                    each(from, &self.incoming[..len]);
                    count += 1;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an earlier datagram, or a signal: there may be more.
                    io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        self.stats.received += count as u64;
        Ok(count)
    }

    /// Queues a datagram for [`BatchSocket::flush`], which a full queue does by itself.
    pub fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        if datagram.len() > MAX_DATAGRAM {
            self.stats.refused += 1;
            return;
        }
        if self.outgoing.len() + datagram.len() > self.outgoing.capacity() {
            self.flush();
        }
        self.outgoing.extend_from_slice(datagram);
        self.queue.push((self.outgoing.len(), to));
        if self.queue.len() == 2 * BATCH {
            self.flush();
        }
    }

    /// Hands everything queued to the kernel. What it refuses is lost and counted.
    pub fn flush(&mut self) {
        let mut done = 0;
        while done < self.queue.len() {
            match self.send_some(done) {
                Ok(count) => {
                    done += count;
                    self.stats.sent += count as u64;
                }
                Err(Errno::INTR) => {}
                // It is the first of the batch that was refused.
                Err(_) => {
                    done += 1;
                    self.stats.refused += 1;
                }
            }
        }
        self.queue.clear();
        self.outgoing.clear();
    }

    /// One system call for the datagrams from number `first` on; how many it took.
    fn send_some(&self, first: usize) -> Result<usize, Errno> {
        let start = if first == 0 {
            0
        } else {
            self.queue[first - 1].0
        };
        let last = (first + BATCH).min(self.queue.len());
        let batch = &self.queue[first..last];
        if let [(end, to)] = batch {
            let sent = self.socket.send_to(&self.outgoing[start..*end], to);
            return match sent {
                Ok(_) => Ok(1),
                Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            };
        }
        let mut from = start;
        let slices: Vec<[IoSlice<'_>; 1]> = batch
            .iter()
            .map(|&(end, _)| {
                [IoSlice::new(
                    &self.outgoing[core::mem::replace(&mut from, end)..end],
                )]
            })
            .collect();
        let addresses: Vec<_> = batch.iter().map(|(_, to)| to.as_any()).collect();
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] = Default::default();
        let mut messages: Vec<MMsgHdr<'_>> = addresses
            .iter()
            .zip(&slices)
            .zip(&mut controls)
            .map(|((to, slice), control)| MMsgHdr::new_with_addr(to, slice, control))
            .collect();
        sendmmsg(&self.socket, &mut messages, SendFlags::empty())
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
        assert_eq!(
            from.stats(),
            UdpStats {
                sent: 200,
                ..UdpStats::default()
            }
        );
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
        assert_eq!(
            from.stats(),
            UdpStats {
                sent: 3,
                refused: 4,
                received: 0
            }
        );
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
