//! Sources, copies and relays on the loopback.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use stateplane_region::sync::{At, Sealed, Timing};
use stateplane_region::{Reader, Spec, Writer};
use stateplane_wire::envelope::Key;

use super::*;
use crate::clock;
use crate::udp::BatchSocket;

fn socket() -> BatchSocket {
    BatchSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn sealed(number: u16, key: u8) -> Sealed {
    Sealed::new(Key::new([key; 16]), 1, number, 1)
}

fn reader(writer: &Writer<[u8]>) -> Reader<[u8]> {
    Reader::open(writer.fd().try_clone_to_owned().unwrap(), "").unwrap()
}

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

/// Three receivers hear a group: one loses a tenth, one has another key.
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
        let mut copy = Copy::new(socket, sealed, 5, copy, vec![(9, address)], timing);
        copy.hear(group).unwrap();
        copy.lose(lose_one_in, 1);
        copies.push(copy);
    }
    let mut sender = Sender::new(home, sealed(9, 7), 5, scope, timing);
    sender.send_to(group).unwrap();
    let mut source = Source::new(sender, reader(&original));
    for round in 1..=40u8 {
        original.edit_all().fill(round);
        let version = original.publish().unwrap();
        deliver(&mut source, &mut copies, version);
        for copy in &copies[..2] {
            let snapshot = reader(copy.copy()).snapshot().unwrap();
            assert!(snapshot.bytes() == original.bytes(), "another version");
        }
    }
    assert!(source.sender().grouped() > 0 && source.sender().export().sent().repairs > 0);
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
            vec![(9, address)],
            timing,
        ));
    }
    let sender = Sender::new(home, sealed(9, 7), 5, scope, timing);
    let mut source = Source::new(sender, reader(&original));
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
    let sender = source.sender();
    assert!(sender.heard().refused > 0 && sender.heard().taken > 0);
    assert_eq!(sender.export().peers().count(), 2);
}

/// Says often that it lives.
const HASTY: Timing = Timing {
    interval: Duration::from_micros(100),
    patience: Duration::from_millis(1),
    hold: Duration::from_millis(20),
    lease: Duration::from_millis(60),
    burst: 64 << 10,
};

/// A relay: a copy, and what passes it on.
struct Relay(Option<(Copy, Sender)>);

impl Relay {
    /// Its life of this number, at these addresses, between that source and that leaf.
    fn live(life: u64, at: [SocketAddr; 2], home: SocketAddr, end: SocketAddr, len: usize) -> Self {
        Self::of(1, life, at, home, end, len)
    }

    fn of(
        number: u16,
        life: u64,
        at: [SocketAddr; 2],
        home: SocketAddr,
        end: SocketAddr,
        len: usize,
    ) -> Self {
        let [upper, lower] = at.map(|at| BatchSocket::bind(at).unwrap());
        let sealed = || Sealed::new(Key::new([7; 16]), 1, number, life);
        let writer = Writer::create(&Spec::bytes(len)).unwrap();
        let mut copy = Copy::new(upper, sealed(), 5, writer, vec![(9, home)], HASTY);
        copy.lose(10, life);
        let sender = Sender::new(lower, sealed(), 5, [(2, end)].into(), HASTY);
        Self(Some((copy, sender)))
    }

    fn turn(&mut self) {
        let (copy, sender) = self.0.as_mut().expect("it lives");
        copy.turn(clock::now()).unwrap();
        sender.pass_on(clock::now(), Some(copy)).unwrap();
    }
}

/// A copy is passed on through loss: what the leaf lost it gets from the relay, which loses its
/// memory once. Names and contents are the original's, and no copy claims to be newer than it is.
#[test]
fn a_relay_passes_on_what_it_has_under_the_same_names() {
    const LEN: usize = 30_001;
    let spec = Spec::bytes(LEN);
    let mut original = Writer::<[u8]>::create(&spec).unwrap();
    let sockets = [(); 4].map(|()| socket());
    let [home, upper, lower, end] = sockets.each_ref().map(|s| s.local_addr().unwrap());
    let [at_home, free, also_free, at_end] = sockets;
    drop((free, also_free));
    let sender = Sender::new(at_home, sealed(9, 7), 5, [(1, upper)].into(), HASTY);
    let mut source = Source::new(sender, reader(&original));
    let mut relay = Relay::live(1, [upper, lower], home, end, LEN);
    let copy = Writer::create(&spec).unwrap();
    let mut leaf = Copy::new(at_end, sealed(2, 7), 5, copy, vec![(1, lower)], HASTY);
    leaf.lose(10, 3);
    let mut repairs = 0;
    for round in 1..=60u8 {
        if round == 30 {
            relay.0 = None;
            relay = Relay::live(2, [upper, lower], home, end, LEN);
        }
        let at = usize::from(round) * 400;
        original.bytes_mut(at, 5000).fill(round);
        let version = original.publish().unwrap();
        let start = Instant::now();
        while leaf.has().version != version {
            assert!(start.elapsed() < Duration::from_secs(20), "does not arrive");
            source.turn(clock::now()).unwrap();
            relay.turn();
            leaf.turn(clock::now()).unwrap();
        }
        assert_eq!(leaf.has(), source.sender().export().at(), "the same name");
        let published = *reader(&original).snapshot().unwrap().edition();
        assert_eq!(leaf.day_ns(), Some(published.published_day_ns));
        let snapshot = reader(leaf.copy()).snapshot().unwrap();
        assert!(snapshot.bytes() == original.bytes(), "another version");
        let (_, sender) = relay.0.as_ref().expect("it lives");
        repairs = repairs.max(sender.export().sent().repairs);
    }
    assert!(repairs > 0, "what the leaf lost came from the relay");
    let direct: Vec<u16> = source.sender().export().peers().map(|(n, _)| n).collect();
    assert_eq!(direct, [1], "the source serves nobody else");
    // Nobody says any more that this is all there is: no relay says so of itself.
    let gone = clock::now();
    while clock::now().since(gone) < HASTY.lease * 3 {
        relay.turn();
        leaf.turn(clock::now()).unwrap();
    }
    assert!(leaf.current().is_some_and(|current| current <= gone));
}

/// Two relays, the first of which dies and comes back: the leaf asks the second meanwhile, goes
/// only on, and says truly how old it is.
#[test]
fn a_leaf_has_a_second_relay() {
    const LEN: usize = 30_001;
    let spec = Spec::bytes(LEN);
    let mut original = Writer::<[u8]>::create(&spec).unwrap();
    let sockets = [(); 6].map(|()| socket());
    let [home, up1, low1, up2, low2, end] = sockets.each_ref().map(|s| s.local_addr().unwrap());
    let [at_home, a, b, c, d, at_end] = sockets;
    drop((a, b, c, d));
    let scope = [(1, up1), (3, up2)].into();
    let sender = Sender::new(at_home, sealed(9, 7), 5, scope, HASTY);
    let mut source = Source::new(sender, reader(&original));
    let live = |number, life, at| Some(Relay::of(number, life, at, home, end, LEN));
    let mut relays = [live(1, 1, [up1, low1]), live(3, 1, [up2, low2])];
    let copy = Writer::create(&spec).unwrap();
    let parents = vec![(1, low1), (3, low2)];
    let mut leaf = Copy::new(at_end, sealed(2, 7), 5, copy, parents, HASTY);
    leaf.lose(10, 3);
    let (begun, mut round, mut had) = (Instant::now(), 0u8, At::default());
    // Before the death, while it is dead, and when it is asked again.
    for (asks, alive) in [(0, true), (1, false), (0, true)] {
        match alive {
            true if relays[0].is_none() => relays[0] = live(1, 2, [up1, low1]),
            true => {}
            false => relays[0] = None,
        }
        let mut since = 0;
        while since < 20 {
            assert!(begun.elapsed() < Duration::from_secs(60), "does not arrive");
            round = round.wrapping_add(1);
            original
                .bytes_mut(usize::from(round) * 90, 5000)
                .fill(round);
            let version = original.publish().unwrap();
            while leaf.has().version != version && begun.elapsed() < Duration::from_secs(60) {
                source.turn(clock::now()).unwrap();
                relays.iter_mut().flatten().for_each(Relay::turn);
                leaf.turn(clock::now()).unwrap();
                assert!(leaf.has() >= had, "back to {:?}", leaf.has());
                had = leaf.has();
            }
            let snapshot = reader(leaf.copy()).snapshot().unwrap();
            assert!(snapshot.bytes() == original.bytes(), "another version");
            since += u8::from(leaf.asks() == asks);
        }
    }
    let gone = clock::now();
    while clock::now().since(gone) < HASTY.lease * 3 {
        relays.iter_mut().flatten().for_each(Relay::turn);
        leaf.turn(clock::now()).unwrap();
    }
    assert!(leaf.current().is_some_and(|current| current <= gone));
}
