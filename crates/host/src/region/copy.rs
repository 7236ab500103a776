//! The receiving side.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use stateplane_base::Time;
use stateplane_region::Writer;
use stateplane_region::sync::{At, Import, Parents, Sealed, Taken, Timing};

use super::{ENOUGH, Heard, Loss, count};
use crate::udp::BatchSocket;

/// Receives a region of another machine, and is the writer of its copy here. The copy's age
/// is that of the original, as far as it is known: it grows when the original's writer is
/// gone, or cannot be reached, and not while that has nothing new.
#[derive(Debug)]
pub struct Copy {
    socket: BatchSocket,
    /// Hears the sender's group, if it has one.
    group: Option<BatchSocket>,
    sealed: Sealed,
    import: Import,
    copy: Writer<[u8]>,
    /// The senders' numbers in the cluster, and where they listen: the best first.
    sources: Vec<(u16, SocketAddr)>,
    parents: Parents,
    heard: Heard,
    loss: Loss,
}

impl Copy {
    /// A receiver that writes `copy`, which has the original's length. Of `sources`, numbers of
    /// senders in the cluster and where they listen, it asks the first that is alive.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(
        socket: BatchSocket,
        sealed: Sealed,
        region: u64,
        copy: Writer<[u8]>,
        sources: Vec<(u16, SocketAddr)>,
        timing: Timing,
    ) -> Self {
        let len = copy.bytes().len();
        Self {
            parents: Parents::new(sources.len(), timing.lease),
            socket,
            group: None,
            sealed,
            // What an earlier life of the copy held is of an epoch nobody knows here.
            import: Import::new(region, len, At::default(), timing),
            copy,
            sources,
            heard: Heard::default(),
            loss: Loss::default(),
        }
    }

    /// Hears the sender's group too, through the interface of this socket's address.
    pub fn hear(&mut self, group: SocketAddrV4) -> io::Result<()> {
        let IpAddr::V4(own) = self.socket.local_addr()?.ip() else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        self.group = Some(BatchSocket::join(group, own)?);
        Ok(())
    }

    /// Loses one in `one_in` of what arrives (0: none).
    pub fn lose(&mut self, one_in: u32, seed: u64) {
        self.loss = Loss { one_in, draw: seed };
    }

    /// Everything there is to do now; when to call it next, if nothing arrives before.
    ///
    /// # Errors
    /// The socket's, and [`stateplane_region::Fenced`] as an [`io::Error`]: the copy has
    /// another writer.
    pub fn turn(&mut self, now: Time) -> io::Result<Time> {
        let Self {
            socket,
            group,
            sealed,
            import,
            copy,
            sources,
            parents,
            heard,
            loss,
        } = self;
        let mut fenced = Ok(());
        let mut take = |datagram: &mut [u8]| {
            if loss.strikes() {
                heard.lost += 1;
                return;
            }
            let known = sealed.open(datagram).and_then(|(from, body)| {
                let place = |(number, _): &(u16, SocketAddr)| *number == from.sender;
                Some((sources.iter().position(place)?, from, body))
            });
            let Some((place, from, body)) = known else {
                return count(heard, false);
            };
            import.ask(sources[parents.chosen()].0);
            let step = import.on_message(now, from, body);
            parents.on_message(now, place, import.told());
            count(heard, step.is_ok());
            if let Ok(Some(step)) = step {
                fenced = step.publish(copy).map(|_| ());
            }
        };
        // All that waits of the group comes first: repairs are younger than what they repair.
        let waits = match group {
            Some(group) => group.receive(ENOUGH, |_, datagram| take(datagram))?,
            None => 0,
        };
        if waits < ENOUGH {
            socket.receive(ENOUGH, |_, datagram| take(datagram))?;
        }
        heard.by_group += waits as u64;
        import.confirm(copy);
        fenced.map_err(io::Error::other)?;
        if let Some(report) = self.import.poll(now) {
            let asked = self.parents.ask(now);
            self.send(asked.chosen, &report);
            if let Some(better) = asked.better {
                self.send(better, &report);
            }
            if let Some(left) = asked.left {
                let farewell = self.import.farewell();
                self.send(left, &farewell);
            }
        }
        self.socket.flush();
        Ok(self.import.next_timer())
    }

    fn send(&mut self, place: usize, body: &[u8]) {
        let mut datagram = Vec::new();
        self.sealed.seal(body, &mut datagram);
        self.socket.send(self.sources[place].1, &datagram);
    }

    /// The place of the sender that it asks, among those it was given.
    pub fn asks(&self) -> usize {
        self.parents.chosen()
    }

    /// When the version it has was published at its origin, in nanoseconds since 1970 by the
    /// clock there.
    pub fn day_ns(&self) -> Option<u64> {
        self.import.day_ns()
    }

    /// When that version was last known to be all there is, on this machine's clock.
    pub fn current(&self) -> Option<Time> {
        self.import.current()
    }

    /// What to wait for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let group = self.group.as_ref().map(AsFd::as_fd);
        std::iter::once(self.socket.as_fd()).chain(group)
    }

    /// What it has received, to be passed on.
    pub(super) fn import(&self) -> &Import {
        &self.import
    }

    /// What it has taken.
    pub fn taken(&self) -> Taken {
        self.import.taken()
    }

    /// The newest version that was whole.
    pub fn has(&self) -> At {
        self.import.has()
    }

    /// The copy, as a region.
    pub fn copy(&self) -> &Writer<[u8]> {
        &self.copy
    }

    /// Datagrams so far.
    pub fn heard(&self) -> Heard {
        self.heard
    }
}
