//! Copies of regions between machines over UDP: the drivers of `stateplane_region::sync`.
//!
//! A [`Source`] sends a region of this machine to the receivers it was told of: the
//! region's scope. A [`Copy`] receives one and is its writer here. Both are turned by their
//! owner, wait for nothing, and authenticate as all messages between nodes do.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use stateplane_base::Time;
use stateplane_region::sync::{At, Export, Import, Outgoing, Sealed, Taken, Timing};
use stateplane_region::{ReadError, Reader, Snapshot, Writer};
use stateplane_wire::envelope::OVERHEAD;

use crate::udp::BatchSocket;

/// Datagrams taken from a socket in one turn.
const ENOUGH: usize = 256;
/// Bytes of a datagram that any path between nodes takes whole: what IPv6 demands, less
/// its header and that of UDP (RFC 8200, 5).
pub const DATAGRAM: usize = 1280 - 40 - 8;
/// Routers that what is sent to a group may pass: a site's, not the world's.
const ROUTERS: u8 = 7;

/// What a socket has seen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Heard {
    /// Taken in.
    pub taken: u64,
    /// Of nobody known, forged, replayed, or malformed.
    pub refused: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// What came by the sender's group.
    pub by_group: u64,
}

/// Loses datagrams on purpose, to see what loss costs: one in so many (0: none), at random.
#[derive(Clone, Copy, Default, Debug)]
struct Loss {
    one_in: u32,
    draw: u64,
}

impl Loss {
    fn strikes(&mut self) -> bool {
        if self.one_in == 0 {
            return false;
        }
        // A multiplicative generator (Lehmer's, with the multiplier of Steele and Vigna).
        self.draw = (self.draw | 1).wrapping_mul(0xd134_2543_de82_ef95);
        (self.draw >> 33).is_multiple_of(u64::from(self.one_in))
    }
}

/// Sends a region to other machines.
#[derive(Debug)]
pub struct Source {
    socket: BatchSocket,
    sealed: Sealed,
    export: Export,
    reader: Reader<[u8]>,
    snapshot: Option<Snapshot<[u8]>>,
    scope: BTreeMap<u16, SocketAddr>,
    group: Option<SocketAddr>,
    grouped: u64,
    heard: Heard,
    loss: Loss,
}

impl Source {
    /// A sender of `reader`'s region, known as `region` on the wire, to the nodes of
    /// `scope`: their numbers in the cluster and where they listen.
    pub fn new(
        socket: BatchSocket,
        sealed: Sealed,
        region: u64,
        reader: Reader<[u8]>,
        scope: BTreeMap<u16, SocketAddr>,
        timing: Timing,
    ) -> Self {
        Self {
            socket,
            sealed,
            export: Export::new(region, timing, DATAGRAM - OVERHEAD),
            reader,
            snapshot: None,
            scope,
            group: None,
            grouped: 0,
            heard: Heard::default(),
            loss: Loss::default(),
        }
    }

    /// Sends what several receivers need once, to a group that they hear; what one of them
    /// lacks still goes to that one. Who hears the group is for the network: scope bounds
    /// who is served, and the key who understands.
    pub fn send_to(&mut self, group: SocketAddrV4) -> io::Result<()> {
        self.socket.reach_groups(ROUTERS)?;
        self.export.send_once();
        self.group = Some(group.into());
        Ok(())
    }

    /// Loses one in `one_in` of what arrives (0: none).
    pub fn lose(&mut self, one_in: u32, seed: u64) {
        self.loss = Loss { one_in, draw: seed };
    }

    /// Goes on with the memory of the region's next writer.
    pub fn follow(&mut self, reader: Reader<[u8]>) {
        (self.reader, self.snapshot) = (reader, None);
    }

    /// Everything there is to do now; when to call it next, if nothing arrives before.
    ///
    /// # Errors
    /// The socket's, and [`ReadError::Superseded`] as an [`io::Error`]: the region has
    /// another writer, to be [followed](Source::follow).
    pub fn turn(&mut self, now: Time) -> io::Result<Time> {
        let Self {
            socket,
            sealed,
            export,
            scope,
            heard,
            loss,
            ..
        } = self;
        socket.receive(ENOUGH, |_, datagram| {
            if loss.strikes() {
                heard.lost += 1;
                return;
            }
            let known = sealed
                .open(datagram)
                .filter(|(from, _)| scope.contains_key(from));
            let taken =
                known.is_some_and(|(from, body)| export.on_message(now, from, body).is_ok());
            count(heard, taken);
        })?;
        let taken_up = self.take_up(now);
        self.export.on_time(now);
        let mut datagram = Vec::new();
        while let Some(Outgoing { to, body }) = self.export.poll(now) {
            datagram.clear();
            self.sealed.seal(&body, &mut datagram);
            let write = |out: &mut Vec<u8>| out.extend_from_slice(&datagram);
            if let Some(group) = self.group.filter(|_| to.len() > 1) {
                self.socket.compose(&[group], write);
                self.grouped += 1;
                continue;
            }
            let known = to.iter().filter_map(|n| self.scope.get(n));
            let to: Vec<SocketAddr> = known.copied().collect();
            self.socket.compose(&to, write);
        }
        self.socket.flush();
        taken_up?;
        Ok(self.export.next_timer())
    }

    fn take_up(&mut self, now: Time) -> io::Result<()> {
        if !self.export.is_ready(now) {
            return Ok(());
        }
        let read = match &mut self.snapshot {
            Some(snapshot) => self.reader.refresh(snapshot),
            None => self.reader.snapshot().map(|first| {
                self.snapshot = Some(first);
                true
            }),
        };
        match (read, &self.snapshot) {
            (Ok(new), Some(snapshot)) => {
                let edition = snapshot.edition();
                let at = At {
                    epoch: edition.epoch,
                    version: edition.version,
                };
                if new {
                    let day_ns = edition.published_day_ns;
                    self.export.update(now, snapshot.bytes(), at, day_ns);
                }
                self.export.checked(edition.current);
                Ok(())
            }
            // Nothing yet, or too fast just now: the next turn tries again.
            (Ok(_) | Err(ReadError::Empty | ReadError::Overrun), _) => Ok(()),
            (Err(error), _) => Err(io::Error::other(error)),
        }
    }

    /// Datagrams sent to the group.
    pub fn grouped(&self) -> u64 {
        self.grouped
    }

    /// What receivers have said they have.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Datagrams so far.
    pub fn heard(&self) -> Heard {
        self.heard
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

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
    /// The sender's number in the cluster, and where it listens.
    source: (u16, SocketAddr),
    heard: Heard,
    loss: Loss,
    /// When the version it has was published, in nanoseconds since 1970, once it has one.
    day_ns: Option<u64>,
}

impl Copy {
    /// A receiver that writes `copy`, which has the original's length.
    pub fn new(
        socket: BatchSocket,
        sealed: Sealed,
        region: u64,
        copy: Writer<[u8]>,
        source: (u16, SocketAddr),
        timing: Timing,
    ) -> Self {
        let len = copy.bytes().len();
        Self {
            socket,
            group: None,
            sealed,
            // What an earlier life of the copy held is of an epoch nobody knows here.
            import: Import::new(region, len, At::default(), timing),
            copy,
            source,
            heard: Heard::default(),
            loss: Loss::default(),
            day_ns: None,
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
            source,
            heard,
            loss,
            day_ns,
        } = self;
        let mut fenced = Ok(());
        let mut take = |datagram: &mut [u8]| {
            if loss.strikes() {
                heard.lost += 1;
                return;
            }
            let known = sealed.open(datagram).filter(|(from, _)| *from == source.0);
            let step = known.map(|(_, body)| import.on_message(now, body));
            count(heard, matches!(step, Some(Ok(_))));
            if let Some(Ok(Some(step))) = step {
                *day_ns = Some(step.day_ns());
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
            let mut datagram = Vec::new();
            self.sealed.seal(&report, &mut datagram);
            self.socket.send(self.source.1, &datagram);
        }
        self.socket.flush();
        Ok(self.import.next_timer())
    }

    /// When the version it has was published at its origin, in nanoseconds since 1970 by the
    /// clock there.
    pub fn day_ns(&self) -> Option<u64> {
        self.day_ns
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

fn count(heard: &mut Heard, taken: bool) {
    if taken {
        heard.taken += 1;
    } else {
        heard.refused += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use stateplane_region::Spec;
    use stateplane_wire::envelope::Key;
    use std::time::{Duration, Instant};

    fn socket() -> BatchSocket {
        BatchSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    fn sealed(number: u16, key: u8) -> Sealed {
        Sealed::new(Key::new([key; 16]), 1, number, 1)
    }

    fn reader(writer: &Writer<[u8]>) -> Reader<[u8]> {
        Reader::open(writer.fd().try_clone_to_owned().unwrap(), "").unwrap()
    }

    /// Three receivers hear a group: one loses a tenth, one has another key.
    /// Turns them all until the first two copies have a version.
    fn deliver(source: &mut Source, copies: &mut [Copy], version: u64) {
        let start = Instant::now();
        while copies[..2].iter().any(|copy| copy.has().version != version) {
            assert!(start.elapsed() < Duration::from_secs(20), "does not arrive");
            source.turn(clock::now()).unwrap();
            for copy in &mut *copies {
                copy.turn(clock::now()).unwrap();
            }
        }
    }

    #[test]
    fn a_group_hears_once_what_several_need() {
        const LEN: usize = 20_000;
        let (spec, timing) = (Spec::bytes(LEN), Timing::default());
        let mut original = Writer::<[u8]>::create(&spec).unwrap();
        let home = socket();
        let address = home.local_addr().unwrap();
        // A port that nobody has: other tests may run.
        let free = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let group = SocketAddrV4::new([239, 192, 78, 1].into(), port);
        let (mut scope, mut copies) = (BTreeMap::new(), Vec::new());
        for (number, key, lose_one_in) in [(1, 7, 0), (2, 7, 10), (3, 8, 0)] {
            let socket = socket();
            scope.insert(number, socket.local_addr().unwrap());
            let (copy, sealed) = (Writer::create(&spec).unwrap(), sealed(number, key));
            let mut copy = Copy::new(socket, sealed, 5, copy, (9, address), timing);
            copy.hear(group).unwrap();
            copy.lose(lose_one_in, 1);
            copies.push(copy);
        }
        let mut source = Source::new(home, sealed(9, 7), 5, reader(&original), scope, timing);
        source.send_to(group).unwrap();
        for round in 1..=40u8 {
            original.edit_all().fill(round);
            let version = original.publish().unwrap();
            deliver(&mut source, &mut copies, version);
            for copy in &copies[..2] {
                let snapshot = reader(copy.copy()).snapshot().unwrap();
                assert!(snapshot.bytes() == original.bytes(), "another version");
            }
        }
        assert!(source.grouped() > 0 && source.export().sent().repairs > 0);
        assert!(copies.iter().all(|copy| copy.heard().by_group > 0));
        assert!(copies[2].heard().refused > 0);
        assert_eq!(copies[2].has(), At::default(), "of another key");
    }

    /// A source, a copy within its scope, one without the key, one outside of the scope.
    #[test]
    fn copies_follow_and_strangers_get_nothing() {
        const LEN: usize = 100_001;
        let spec = Spec::bytes(LEN);
        let mut original = Writer::<[u8]>::create(&spec).unwrap();
        let home = socket();
        let (address, timing) = (home.local_addr().unwrap(), Timing::default());
        let (mut scope, mut copies) = (BTreeMap::new(), Vec::new());
        for (number, key) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
            let socket = socket();
            if number != 4 {
                scope.insert(number, socket.local_addr().unwrap());
            }
            let copy = Writer::create(&spec).unwrap();
            copies.push(Copy::new(
                socket,
                sealed(number, key),
                5,
                copy,
                (9, address),
                timing,
            ));
        }
        let mut source = Source::new(home, sealed(9, 7), 5, reader(&original), scope, timing);
        let readers = [reader(copies[0].copy()), reader(copies[1].copy())];
        for round in 1..=30u8 {
            original
                .bytes_mut(usize::from(round) * 999, 2000)
                .fill(round);
            original.bytes_mut(LEN - 1, 1).fill(round);
            let version = original.publish().unwrap();
            deliver(&mut source, &mut copies, version);
            for reader in &readers {
                let snapshot = reader.snapshot().unwrap();
                assert!(snapshot.bytes() == original.bytes(), "another version");
                assert_eq!(snapshot.edition().version, version);
            }
        }
        assert_eq!(copies[2].has(), At::default(), "of another key");
        assert_eq!(copies[3].has(), At::default(), "outside of the scope");
        assert!(source.heard().refused > 0 && source.heard().taken > 0);
        assert_eq!(source.export().peers().count(), 2);
    }
}
