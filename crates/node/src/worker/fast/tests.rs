//! The worker and the reference of the XDP program on one memory: a packet meets the program
//! first, and the worker gets what it leaves.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use etherparse::PacketBuilder;
use stateplane_base::Time;
use stateplane_flow::fast::layout::{
    HOP_WORDS, LEASE_WORDS, METER_WORDS, ROUTE4_WORDS, SETTINGS_WORDS, SLOT4_WORDS,
};
use stateplane_flow::fast::{Punt, Seed, Settings, Tables, Verdict, interpret};
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId, Protocol};
use stateplane_functions::nat::Nat44;
use stateplane_functions::{Decision, Driven, Ownership, Runtime, Token};
use stateplane_host::port::{Mac, Port};
use stateplane_lease::Partition;

use super::super::egress::Hop;
use super::super::packets::PORTS;
use super::super::tests::{Bench, HOST, HOST_MAC, SERVER, SERVER_MAC, Words, ready, udp};
use super::{Fast, Link, Parts, settings};

mod chain;

const SEED: Seed = Seed::new([1, 2, 3, 4]);
/// Where the test frames are addressed to.
const STATION: Mac = Mac([2, 0, 0, 0, 0, 2]);
const IN: PortId = PORTS[0];
const OUT: PortId = PORTS[1];
/// The unused one, the worker's, and two of partitions.
const LEASES: usize = 4;

fn words(number: usize) -> Words {
    (0..number).map(|_| AtomicU64::new(0)).collect()
}

struct World<R = Runtime<Nat44>> {
    bench: Bench<R>,
    /// Another worker's of the same instance.
    other: Fast<Words>,
    parts: Parts<Words>,
    settings: Words,
    _owner: Settings<Words>,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Out {
    /// It passed in front of the worker.
    Unseen(Vec<u8>),
    /// The program left it to the worker for this reason, which sent it.
    Sent(Punt, Vec<u8>),
    /// The same, and nothing came of it.
    Nothing(Punt),
}

impl World {
    fn new(flows: usize) -> Self {
        Self::of(flows, |fast| Bench::with(64, fast))
    }
}

impl<R: Driven> World<R> {
    fn of(flows: usize, bench: impl Fn(Option<Fast<Words>>) -> Bench<R>) -> Self {
        let memory = words(SETTINGS_WORDS);
        let first = bench(None);
        let masks = PORTS.map(|port| first.worker.runtime.key_mask(port));
        let owner = settings(memory.clone(), SEED, masks, [STATION; 2]);
        let owner = owner.expect("memory of the right size");
        let parts = Parts {
            extent: owner.extent::<Ipv4Addr>(),
            flows: words(flows * SLOT4_WORDS),
            hops: words(64 * HOP_WORDS),
            routes: words(64 * ROUTE4_WORDS),
            leases: words(LEASES * LEASE_WORDS),
            meters: words(4 * METER_WORDS),
        };
        let link = |side: usize| Link {
            mac: first.worker.ports[side].mac(),
            mtu: 1500,
            device: side as u16,
        };
        let fast = Fast::for_each(2, &parts, SEED, [link(0), link(1)]);
        let mut fast = fast.expect("memory of the right sizes");
        let other = fast.pop();
        let fast = fast.pop();
        Self {
            bench: bench(fast),
            other: other.expect("one for each worker"),
            parts,
            settings: memory,
            _owner: owner,
        }
    }

    fn program(&self, now: Time, port: PortId, frame: &[u8]) -> Result<Vec<u8>, Punt> {
        let tables = Tables {
            flows4: &self.parts.flows,
            flows6: &[],
            hops: &self.parts.hops,
            routes4: &self.parts.routes,
            routes6: &[],
            leases: &self.parts.leases,
            meters: &self.parts.meters,
            tunnels: &[],
            settings: &self.settings,
        };
        let mut buffer = frame.to_vec();
        match interpret(&tables, &mut buffer, 0, port, now) {
            Verdict::Redirect { device, start, len } => {
                assert_eq!(u16::from(1 - port.0), device, "out of the other port");
                Ok(buffer[start..start + len].to_vec())
            }
            Verdict::Function(punt) => Err(punt),
            Verdict::Kernel => panic!("not for the kernel"),
        }
    }

    fn send(&mut self, port: PortId, frame: &[u8]) -> Out {
        let punt = match self.program(self.bench.now, port, frame) {
            Ok(frame) => return Out::Unseen(frame),
            Err(punt) => punt,
        };
        let bench = &mut self.bench;
        let (from, to) = match port {
            IN => (&mut bench.inside, 1),
            _ => (&mut bench.outside, 0),
        };
        from.inject(frame);
        bench.turn();
        let sent = match to {
            1 => bench.outside.collect(),
            _ => bench.inside.collect(),
        };
        sent.map_or(Out::Nothing(punt), |frame| Out::Sent(punt, frame))
    }

    /// An outbound packet from this port of the host.
    fn ask(&mut self, from: u16, to: Ipv4Addr) -> Out {
        self.send(IN, &udp((HOST, from), (to, 53)))
    }

    /// The kernel's table changed.
    fn hop(&mut self, destination: Ipv4Addr, hop: Hop) {
        let hops = &mut self.bench.worker.egress.hops_mut().0;
        hops.insert(destination, hop);
        if let Hop::Ready { gateway, .. } = hop {
            hops.insert(gateway, hop); // it is on the link
        }
        self.bench.worker.ways_changed(self.bench.now);
    }
}

fn mac(frame: &[u8]) -> Mac {
    Mac(frame[..6].try_into().expect("six bytes"))
}

fn source(frame: &[u8]) -> (Ipv4Addr, u16) {
    let addr: [u8; 4] = frame[26..30].try_into().expect("four bytes");
    (addr.into(), u16::from_be_bytes([frame[34], frame[35]]))
}

fn sent(out: Out) -> Vec<u8> {
    match out {
        Out::Sent(_, frame) => frame,
        other => panic!("{other:?}"),
    }
}

fn unseen(out: Out) -> Vec<u8> {
    match out {
        Out::Unseen(frame) => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_second_packet_passes_unseen_and_looks_the_same() {
    let mut world = World::new(64);
    let first = sent(world.ask(4000, SERVER));
    assert_eq!(unseen(world.ask(4000, SERVER)), first);
    let answer = udp((SERVER, 53), source(&first));
    let back = unseen(world.send(OUT, &answer));
    assert_eq!(mac(&back), HOST_MAC);
    let received = world.bench.worker.runtime.counters().hits;
    assert_eq!(received, 0, "no second packet came to the worker");
    let fast = world.bench.worker.fast.as_ref().expect("there is one");
    let (pressure, ..) = fast.fill().expect("nobody writes");
    assert_eq!(pressure.used, 2, "one each way");
}

#[test]
fn what_ends_a_connection_comes_to_the_worker() {
    let mut world = World::new(64);
    let segment = |flags: &str| {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 7, 7], STATION.0)
            .ipv4(HOST.octets(), SERVER.octets(), 64)
            .tcp(4000, 443, 7, 9000);
        let builder = match flags {
            "S" => builder.syn(),
            "F" => builder.fin().ack(8),
            "R" => builder.rst(),
            _ => builder.ack(8),
        };
        let mut frame = Vec::new();
        builder.write(&mut frame, b"").expect("a Vec takes all");
        frame
    };
    assert!(matches!(
        world.send(IN, &segment("S")),
        Out::Sent(Punt::Unknown, _)
    ));
    assert!(matches!(world.send(IN, &segment("A")), Out::Unseen(_)));
    let end = world.send(IN, &segment("F"));
    assert!(matches!(end, Out::Sent(Punt::TcpEvent, _)), "{end:?}");
    // What follows the end is watched: perhaps it was none.
    let after = world.send(IN, &segment("R"));
    assert!(matches!(after, Out::Sent(Punt::Unknown, _)), "{after:?}");
}

#[test]
fn a_new_destination_is_learned_from_its_first_packet() {
    let mut world = World::new(64);
    let other = Ipv4Addr::new(203, 0, 113, 77);
    world.hop(other, ready(SERVER, SERVER_MAC)); // behind the same neighbour
    sent(world.ask(4000, SERVER));
    assert!(matches!(world.ask(4000, other), Out::Sent(Punt::Route, _)));
    assert_eq!(mac(&unseen(world.ask(4000, other))), SERVER_MAC);
}

#[test]
fn a_changed_neighbour_is_followed_at_once() {
    let mut world = World::new(64);
    let first = sent(world.ask(4000, SERVER));
    let (new, newer) = (Mac([2, 0, 0, 0, 5, 5]), Mac([2, 0, 0, 0, 6, 6]));
    world.hop(SERVER, ready(SERVER, new));
    assert_eq!(mac(&unseen(world.ask(4000, SERVER))), new);
    world.hop(HOST, ready(HOST, newer));
    let answer = udp((SERVER, 53), source(&first));
    assert_eq!(mac(&unseen(world.send(OUT, &answer))), newer);
    // Nobody knows it any more: the worker has it resolved.
    world.hop(SERVER, Hop::Resolving { gateway: SERVER });
    assert_eq!(world.ask(4000, SERVER), Out::Nothing(Punt::Hop));
    world.hop(SERVER, ready(SERVER, new));
    assert_eq!(mac(&unseen(world.ask(4000, SERVER))), new);
}

#[test]
fn a_changed_route_is_followed_by_the_next_packet() {
    let mut world = World::new(64);
    let first = sent(world.ask(4000, SERVER));
    let (gateway, new) = (Ipv4Addr::new(203, 0, 113, 99), Mac([2, 0, 0, 0, 5, 5]));
    world.hop(SERVER, ready(gateway, new));
    let out = world.ask(4000, SERVER);
    assert!(
        matches!(&out, Out::Sent(Punt::Route, frame) if mac(frame) == new),
        "{out:?}"
    );
    assert_eq!(mac(&unseen(world.ask(4000, SERVER))), new);
    // Flows that name their next hop are offered anew.
    let answer = udp((SERVER, 53), source(&first));
    world.hop(HOST, ready(Ipv4Addr::new(10, 0, 0, 8), new));
    let out = world.send(OUT, &answer);
    assert!(
        matches!(&out, Out::Sent(Punt::Lease, frame) if mac(frame) == new),
        "{out:?}"
    );
    assert_eq!(mac(&unseen(world.send(OUT, &answer))), new);
    assert!(matches!(world.ask(4000, SERVER), Out::Sent(Punt::Lease, _)));
    unseen(world.ask(4000, SERVER));
}

#[test]
fn what_finds_no_slot_is_served_by_the_worker() {
    let mut world = World::new(8);
    let mut unseen = 0;
    for port in 4000..4040 {
        sent(world.ask(port, SERVER));
        match world.ask(port, SERVER) {
            Out::Unseen(_) => unseen += 1,
            Out::Sent(Punt::Unknown, _) => {}
            other => panic!("{other:?}"),
        }
    }
    let fast = world.bench.worker.fast.as_ref().expect("there is one");
    assert!(unseen > 0 && fast.done().full > 0, "{:?}", fast.done());
    assert!(fast.fill().expect("nobody writes").0.used <= 8);
}

#[test]
fn the_worker_can_take_everything_back() {
    let mut world = World::new(64);
    sent(world.ask(4000, SERVER));
    unseen(world.ask(4000, SERVER));
    world.bench.worker.take_all();
    assert!(matches!(world.ask(4000, SERVER), Out::Sent(Punt::Lease, _)));
}

#[test]
fn entries_end_before_their_decisions() {
    let mut world = World::new(64);
    sent(world.ask(4000, SERVER));
    let frame = udp((HOST, 4000), (SERVER, 53));
    let asked = |world: &World, after_ms: u64| {
        let later = world.bench.now + std::time::Duration::from_millis(after_ms);
        world.program(later, IN, &frame).err()
    };
    assert_eq!(asked(&world, 59_900), None);
    // The program's clock may be as much behind.
    assert_eq!(asked(&world, 59_995), Some(Punt::Expired));
}

const OWNED: Partition = Partition(7);

/// What is decided about a flow from inside for the next 100 s.
fn decision(now: Time) -> Decision {
    Decision {
        action: FlowAction {
            source: None,
            destination: Some(Endpoint {
                addr: SERVER,
                port: 53,
            }),
            ttl: 1,
            out: OUT,
        },
        valid_until: now + Duration::from_secs(100),
        token: Token(0),
    }
}

/// A flow from inside that the worker may let pass as long as we own [`OWNED`].
fn install(world: &mut World, port: u16, epoch: u64) {
    let (key, now) = (owned_flow(port), world.bench.now);
    let ownership = Ownership {
        partition: OWNED,
        epoch,
    };
    let worker = &mut world.bench.worker;
    let fast = worker.fast.as_mut().expect("there is one");
    fast.install(IN, key, decision(now), Some(ownership), None);
    fast.apply(now, worker.egress.hops_mut());
}

/// The same by the other worker, so much later.
fn install_beside(world: &mut World, port: u16, ownership: Option<Ownership>, later: Duration) {
    let now = world.bench.now + later;
    let decision = decision(now);
    world
        .other
        .install(IN, owned_flow(port), decision, ownership, None);
    world.other.apply(now, world.bench.worker.egress.hops_mut());
}

fn owned_flow(port: u16) -> FlowKey {
    FlowKey {
        protocol: Protocol::Udp,
        source: Endpoint { addr: HOST, port },
        destination: Endpoint::ANY,
    }
}

fn publish(world: &mut World, epoch: u32, until: Time) {
    let fast = world.bench.worker.fast.as_mut().expect("there is one");
    fast.publish(OWNED, epoch, until);
}

/// Why the program leaves a packet of that flow to the worker, so much later.
fn left(world: &World, port: u16, after: Duration) -> Option<Punt> {
    let frame = udp((HOST, port), (SERVER, 53));
    world.program(world.bench.now + after, IN, &frame).err()
}

#[test]
fn what_has_an_owner_passes_while_its_lease_is_held() {
    const SECOND: Duration = Duration::from_secs(1);
    let mut world = World::new(64);
    let now = world.bench.now;
    let unowned = |world: &World| world.bench.worker.fast.as_ref().unwrap().done().unowned;
    install(&mut world, 1, 5);
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Unknown));
    assert_eq!(unowned(&world), 1, "nobody has published its lease");

    publish(&mut world, 5, now + 10 * SECOND);
    install(&mut world, 1, 5);
    install(&mut world, 2, 5);
    assert_eq!(left(&world, 1, 9 * SECOND), None);
    assert_eq!(left(&world, 1, 10 * SECOND), Some(Punt::Lease), "over");
    // One word prolongs all, or lets them go on without an end.
    publish(&mut world, 5, now + 20 * SECOND);
    assert_eq!(left(&world, 2, 19 * SECOND), None);
    publish(&mut world, 5, Time::MAX);
    assert_eq!(left(&world, 2, 50 * SECOND), None);

    publish(&mut world, 0, Time::ZERO);
    let gone = Some(Punt::Lease);
    assert_eq!(
        [1, 2].map(|port| left(&world, port, Duration::ZERO)),
        [gone; 2]
    );
    // What was decided before and comes late is not in force either.
    install(&mut world, 1, 5);
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Unknown));
    assert_eq!(unowned(&world), 2);

    // Ours again, under another epoch: what was decided under the former one stays out.
    publish(&mut world, 6, now + 10 * SECOND);
    assert_eq!(left(&world, 2, Duration::ZERO), gone);
    install(&mut world, 2, 5);
    assert_eq!(left(&world, 2, Duration::ZERO), Some(Punt::Unknown));
    install(&mut world, 2, 6);
    assert_eq!(left(&world, 2, Duration::ZERO), None);
}

#[test]
fn taking_everything_back_takes_owned_flows_too() {
    let mut world = World::new(64);
    let until = world.bench.now + Duration::from_secs(10);
    publish(&mut world, 5, until);
    install(&mut world, 1, 5);
    assert_eq!(left(&world, 1, Duration::ZERO), None);
    let fast = world.bench.worker.fast.as_mut().expect("there is one");
    fast.revoke();
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Lease));
    // Prolonging the lease does not bring it back; being offered again does.
    publish(&mut world, 5, until);
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Lease));
    install(&mut world, 1, 5);
    assert_eq!(left(&world, 1, Duration::ZERO), None);
    world.bench.worker.take_all();
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Lease));
}

#[test]
fn a_partition_without_a_place_stays_with_the_worker() {
    let mut world = World::new(64);
    let until = world.bench.now + Duration::from_secs(10);
    let fast = world.bench.worker.fast.as_mut().expect("there is one");
    for other in 0..2 {
        fast.publish(Partition(100 + other), 1, until);
    }
    publish(&mut world, 5, until);
    install(&mut world, 1, 5);
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Unknown));
}

#[test]
fn a_flow_that_two_workers_know_is_one_entry_that_neither_changes() {
    const SECOND: Duration = Duration::from_secs(1);
    let mut world = World::new(64);
    install_beside(&mut world, 1, None, Duration::ZERO);
    // Where readers see that something changed: the sequence in a slot's state.
    let sequences = |world: &World| -> Vec<u64> {
        let slots = world.parts.flows.chunks_exact(SLOT4_WORDS);
        slots.map(|slot| slot[2].load(Relaxed) & 0xffff).collect()
    };
    let before = sequences(&world);
    let now = world.bench.now + 50 * SECOND;
    let worker = &mut world.bench.worker;
    let fast = worker.fast.as_mut().expect("there is one");
    fast.install(IN, owned_flow(1), decision(now), None, None);
    fast.apply(now, worker.egress.hops_mut());
    install_beside(&mut world, 1, None, 51 * SECOND);
    assert_eq!(
        sequences(&world),
        before,
        "prolonged, and no reader disturbed"
    );
    assert_eq!(left(&world, 1, 140 * SECOND), None);
    assert_eq!(world.other.fill().expect("nobody writes").0.used, 1);
}

#[test]
fn a_worker_does_not_wait_for_another_that_writes() {
    let mut world = World::new(64);
    let shared = Arc::clone(&world.other.shared);
    let writing = shared.lock().expect("nobody panicked");
    sent(world.ask(4000, SERVER));
    sent(world.ask(4000, SERVER));
    let waited = |world: &World| {
        let fast = world.bench.worker.fast.as_ref().expect("there is one");
        (fast.is_behind(), fast.done().waited > 0)
    };
    assert_eq!(waited(&world), (true, true));
    assert_eq!(world.bench.worker.next_timer(), Some(Time::ZERO));
    drop(writing);
    world.bench.turn();
    assert!(!waited(&world).0, "it was written in the next turn");
    unseen(world.ask(4000, SERVER));
}

#[test]
fn what_one_worker_takes_back_the_others_offer_again() {
    let mut world = World::new(64);
    install_beside(&mut world, 1, None, Duration::ZERO);
    let (gateway, new) = (Ipv4Addr::new(203, 0, 113, 99), Mac([2, 0, 0, 0, 5, 5]));
    // The first worker hears of it first.
    world.hop(SERVER, ready(gateway, new));
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Lease));
    let now = world.bench.now;
    let mut again = || {
        let hops = world.bench.worker.egress.hops_mut();
        world.other.ways_changed(now, hops)
    };
    assert!(again(), "the other one's flows, too");
    assert!(!again(), "once");
    install_beside(&mut world, 1, None, Duration::ZERO);
    assert_eq!(left(&world, 1, Duration::ZERO), None);
}

#[test]
fn nothing_is_installed_once_a_worker_has_taken_all_for_good() {
    let mut world = World::new(64);
    world.bench.worker.take_all();
    install_beside(&mut world, 1, None, Duration::ZERO);
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Unknown));
}

#[test]
fn a_partition_that_another_worker_owns_next_is_not_ended_by_the_former() {
    let mut world = World::new(64);
    let until = world.bench.now + Duration::from_secs(10);
    publish(&mut world, 5, until);
    install(&mut world, 1, 5);
    assert_eq!(left(&world, 1, Duration::ZERO), None);
    world.other.publish(OWNED, 6, until);
    let ownership = Ownership {
        partition: OWNED,
        epoch: 6,
    };
    install_beside(&mut world, 2, Some(ownership), Duration::ZERO);
    // The former one says late that it has it no more.
    publish(&mut world, 0, Time::ZERO);
    assert_eq!(left(&world, 1, Duration::ZERO), Some(Punt::Lease));
    assert_eq!(left(&world, 2, Duration::ZERO), None);
}
