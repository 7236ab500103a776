//! The runtime: parking, commit modes, time-outs, limits, and no packet that harms it.

mod common;

use common::*;
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::{Incarnation, Reason, Time};
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId};
use stateplane_functions::nat::ops::{InstanceId, Lookup};
use stateplane_functions::{
    Class, CommitMode, Context, Deciding, Decision, Disposition, Effect, FrameId, NetworkFunction,
    Runtime, RuntimeConfig, StateError, Ticket, Token,
};
use stateplane_wire::packet::Headers;

const IN: PortId = PortId::INSIDE;
const OUT: PortId = PortId::OUTSIDE;

/// Forwards whatever the store says something about; a flow is a UDP source port. The
/// reply decides: anything is yes, a failure is no.
struct Scripted;

impl NetworkFunction for Scripted {
    fn classify(&mut self, _: Time, _: PortId, headers: &Headers) -> Class {
        let Some((source, _)) = headers.ports() else {
            return Class::Drop(Reason::Unsupported);
        };
        Class::Flow(flow(source))
    }

    fn decide(&mut self, cx: Context, flow: FlowKey, _: &Headers) -> Deciding {
        Box::pin(async move {
            let ask = Lookup {
                protocol: flow.protocol,
                outside: flow.source,
            };
            let sent = cx.now();
            match cx.call(&ask).await {
                Err(StateError::Unavailable) => Err(Reason::StoreUnavailable),
                Err(StateError::Refused(_)) => Err(Reason::NoMapping),
                _ => Ok(decision(sent + Duration::from_secs(1))),
            }
        })
    }

    fn port_of(&self, _: &FlowKey) -> Option<PortId> {
        Some(IN)
    }
}

fn flow(port: u16) -> FlowKey {
    let source = Endpoint {
        addr: Ipv4Addr::UNSPECIFIED,
        port,
    };
    FlowKey {
        protocol: stateplane_flow::Protocol::Udp,
        source,
        destination: Endpoint::ANY,
    }
}

fn decision(valid_until: Time) -> Decision {
    let action = FlowAction {
        source: None,
        destination: None,
        ttl: 1,
        out: OUT,
    };
    Decision {
        action,
        valid_until,
        token: Token(0),
    }
}

const fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

struct Bench {
    runtime: Runtime<Scripted>,
    frames: u32,
}

impl Bench {
    fn new(change: impl FnOnce(&mut RuntimeConfig)) -> Bench {
        let mut config = RuntimeConfig::new(ports(), [3, 4]);
        change(&mut config);
        Bench {
            runtime: Runtime::new(ms(0), config, Scripted),
            frames: 0,
        }
    }

    /// Frame ids count from 1.
    fn frame(&mut self, now: Time, port: u16) -> Disposition {
        let frame = udp((CLIENT, port), (SERVER, 1), b"x");
        let mut buffer = frame.clone();
        self.frames += 1;
        let id = FrameId(self.frames);
        let disposition = self.runtime.on_frame(now, IN, id, &mut buffer, frame.len());
        self.runtime.check();
        disposition
    }

    /// Effects in short: `S<ticket>`, `R<frame>`, `D<frame>:<reason>`,
    /// `O<port>` and `W<port>`.
    fn effects(&mut self) -> Vec<String> {
        let effects = std::iter::from_fn(|| self.runtime.poll_effect());
        let short = effects.map(|effect| match effect {
            Effect::Submit { ticket, .. } => format!("S{}", ticket.0),
            Effect::Release { frame, .. } => format!("R{}", frame.0),
            Effect::Discard { frame, reason } => format!("D{}:{}", frame.0, reason.name()),
            Effect::Offload { port, .. } => format!("O{}", port.0),
            Effect::Withdraw { port, .. } => format!("W{}", port.0),
            Effect::Publish { epoch, .. } => format!("P{epoch}"),
            Effect::Meter { meter, .. } => format!("M{}", meter.0),
        });
        let effects = short.collect();
        self.runtime.check();
        effects
    }

    fn reply(&mut self, now: Time, ticket: u64, yes: bool) {
        let refusal = [stateplane_state::Refusal::NotFound.code()];
        let reply = if yes { &[0u8; 9][..] } else { &refusal[..] };
        self.runtime
            .on_reply(now, Ticket(ticket), Ok(reply.to_vec()));
        self.runtime.check();
    }
}

const SENT: Disposition = Disposition::Forward { port: OUT, len: 43 };

#[test]
fn packets_of_a_flow_wait_together_and_leave_in_order() {
    let mut bench = Bench::new(|_| ());
    assert_eq!(bench.frame(ms(1), 7), Disposition::Parked);
    assert_eq!(bench.frame(ms(2), 8), Disposition::Parked);
    assert_eq!(bench.frame(ms(3), 7), Disposition::Parked);
    assert_eq!(bench.frame(ms(4), 7), Disposition::Parked);
    assert_eq!(bench.effects(), ["S0", "S1"], "one decision for each flow");
    bench.reply(ms(5), 1, true);
    bench.reply(ms(6), 0, true);
    assert_eq!(bench.effects(), ["R2", "R1", "R3", "R4"]);
    assert_eq!(bench.frame(ms(7), 7), SENT);
    // The decision was valid for a second from when it was asked for.
    assert_eq!(bench.frame(ms(1001), 7), SENT);
    assert_eq!(bench.frame(ms(1002), 7), Disposition::Parked);
    assert_eq!(bench.effects(), ["S2"]);
    let counters = bench.runtime.counters();
    assert_eq!(
        (counters.parked, counters.released, counters.hits),
        (5, 4, 2)
    );
    assert_eq!((counters.park_now, counters.park_high_water), (1, 4));
}

#[test]
fn a_refusal_is_remembered_briefly() {
    let mut bench = Bench::new(|_| ());
    bench.frame(ms(1), 7);
    bench.frame(ms(1), 7);
    bench.effects();
    bench.reply(ms(2), 0, false);
    assert_eq!(bench.effects(), ["D1:no-mapping", "D2:no-mapping"]);
    assert_eq!(bench.frame(ms(50), 7), Disposition::Drop(Reason::NoMapping));
    assert_eq!(bench.frame(ms(103), 7), Disposition::Parked);
    assert_eq!(bench.runtime.counters().dropped(Reason::NoMapping), 3);
}

#[test]
fn what_is_refused_after_its_time_is_withdrawn() {
    let mut bench = Bench::new(|config| config.fast_path = true);
    bench.frame(ms(1), 7);
    bench.effects();
    bench.reply(ms(2), 0, true);
    assert_eq!(bench.effects(), ["O0", "R1"]);
    // Its time is over, and no sweep has passed.
    bench.frame(ms(1500), 7);
    bench.effects();
    bench.reply(ms(1501), 1, false);
    assert_eq!(bench.effects(), ["W0", "D2:no-mapping"]);
    bench.frame(ms(1700), 7);
    bench.effects();
    bench.reply(ms(1701), 2, false);
    assert_eq!(bench.effects(), ["D3:no-mapping"], "once");
}

#[test]
fn waiting_is_bounded_in_time() {
    let mut bench = Bench::new(|_| ());
    bench.frame(ms(1), 7);
    bench.frame(ms(100), 7);
    bench.effects();
    assert_eq!(bench.runtime.next_timer(), Some(ms(201)));
    bench.runtime.on_timer(ms(201), &());
    assert_eq!(bench.effects(), ["D1:park-timeout"]);
    assert_eq!(bench.runtime.next_timer(), Some(ms(300)));
    bench.runtime.on_timer(ms(300), &());
    assert_eq!(bench.effects(), ["D2:park-timeout"]);
    // The decision itself goes on, and later packets wait for it.
    assert_eq!(bench.frame(ms(1900), 7), Disposition::Parked);
    assert_eq!(bench.effects(), [""; 0]);
    bench.runtime.on_timer(ms(2001), &());
    assert_eq!(bench.effects(), ["D3:store-unavailable"]);
    assert_eq!(bench.runtime.counters().decisions_timed_out, 1);
    // Its answer comes too late for anybody.
    bench.reply(ms(2002), 0, true);
    assert_eq!(bench.frame(ms(2003), 7), Disposition::Parked);
    assert_eq!(bench.effects(), ["S1"]);
    assert!(bench.runtime.next_timer().is_some());
}

#[test]
fn a_store_that_does_not_answer_frees_the_frames() {
    let mut bench = Bench::new(|_| ());
    bench.frame(ms(1), 7);
    bench.effects();
    bench
        .runtime
        .on_reply(ms(9), Ticket(0), Err(StateError::Unavailable));
    assert_eq!(bench.effects(), ["D1:store-unavailable"]);
    // Answers nobody asked for, and answers given twice, change nothing.
    bench.reply(ms(10), 0, true);
    bench.reply(ms(10), 99, true);
    assert_eq!(bench.effects(), [""; 0]);
}

#[test]
fn everything_is_bounded_in_number() {
    let mut bench = Bench::new(|config| {
        (config.park_max, config.decisions_max, config.flows_max) = (5, 3, 8);
    });
    for port in 1..=3 {
        assert_eq!(bench.frame(ms(1), port), Disposition::Parked);
    }
    assert_eq!(bench.frame(ms(1), 4), Disposition::Drop(Reason::ParkFull));
    assert_eq!(bench.frame(ms(1), 1), Disposition::Parked);
    assert_eq!(bench.frame(ms(1), 1), Disposition::Parked);
    assert_eq!(bench.frame(ms(1), 1), Disposition::Drop(Reason::ParkFull));
    bench.effects();
    let mut refused = 0;
    for (ticket, port) in (0u64..).zip(1..40) {
        bench.reply(ms(2), ticket, true);
        bench.effects();
        if bench.frame(ms(2), port + 100) == Disposition::Drop(Reason::TableFull) {
            refused += 1;
        }
        bench.effects();
        assert!(bench.runtime.flows() <= 8);
    }
    assert!(refused > 25);
    // Expired flows make room.
    bench.runtime.on_timer(ms(3000), &());
    assert_eq!(bench.runtime.flows(), 0);
    assert_eq!(bench.frame(ms(3001), 1), Disposition::Parked);
}

#[test]
fn strict_holds_the_packet_back_until_the_commit() {
    let mut world = World::new(1, CommitMode::Strict);
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b"")); // owns a block now
    world.store_up = false;
    assert_eq!(
        world.send(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b"")),
        []
    );
    world.store_up = true;
    world.settle();
    assert!(matches!(world.nodes[0].out.as_slice(), [Out::Sent(OUT, _)]));
    assert_eq!(world.nodes[0].runtime.counters().passed_early, 0);
}

#[test]
fn the_reply_barrier_holds_answers_back() {
    let mut world = World::new(1, CommitMode::ReplyBarrier);
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.store_up = false;
    let out = world.pass(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b""));
    let mapped = ends(&out).0;
    assert_eq!(
        ends(&world.pass(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b""))).0,
        mapped
    );
    assert_eq!(world.send(0, OUT, &tcp((SERVER, 1), mapped, "SA", b"")), []);
    assert_eq!(
        world.send(0, OUT, &tcp((SERVER, 1), mapped, "A", b"early")),
        []
    );
    assert_eq!(world.nodes[0].parked(), 2);
    world.store_up = true;
    world.settle();
    let out = std::mem::take(&mut world.nodes[0].out);
    let [Out::Sent(IN, first), Out::Sent(IN, second)] = out.as_slice() else {
        panic!("{out:?}")
    };
    assert_eq!((first[47], second[47]), (0x12, 0x10), "in order");
    assert_eq!(ends(first).1, (CLIENT, 2));
    let counters = world.nodes[0].runtime.counters();
    assert_eq!((counters.passed_early, counters.held_by_barrier), (2, 2));
    // Only a SYN says that no mapping exists: others wait.
    world.store_up = false;
    assert_eq!(
        world.send(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"")),
        []
    );
}

#[test]
fn async_lets_both_ways_pass() {
    let mut world = World::new(1, CommitMode::Async);
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.store_up = false;
    let out = world.pass(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b""));
    let back = world.pass(0, OUT, &tcp((SERVER, 1), ends(&out).0, "SA", b""));
    assert_eq!(ends(&back).1, (CLIENT, 2));
    world.fail_submitted(0);
    assert_eq!(world.nodes[0].runtime.counters().misannounced, 1);
}

/// The answer comes to another instance, or another worker, before the commit: the look-up without
/// a slot finds nothing, but the mapping was on its way to the store before the answer was.
#[test]
fn an_early_packets_answer_finds_its_mapping_elsewhere() {
    let mut world = World::new(2, CommitMode::ReplyBarrier);
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.store_up = false;
    let out = world.pass(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b""));
    let answer = tcp((SERVER, 1), ends(&out).0, "SA", b"");
    assert_eq!(world.send(1, OUT, &answer), []);
    let bind = std::mem::take(&mut world.nodes[0].submitted);
    assert_eq!((bind.len(), world.nodes[1].submitted.len()), (1, 1));
    // The read is answered from a state without the mapping.
    world.store_up = true;
    let (ticket, op) = world.nodes[1].submitted.pop_front().unwrap();
    let reply = world.execute(&op);
    let now = world.now;
    world.nodes[1].runtime.on_reply(now, ticket, Ok(reply));
    world.nodes[0].submitted = bind;
    world.settle();
    let [Out::Sent(IN, back)] = &world.nodes[1].out[..] else {
        panic!("{:?}", world.nodes[1].out)
    };
    assert_eq!(ends(back).1, (CLIENT, 2));
}

#[test]
fn an_announcement_that_comes_out_differently_is_counted() {
    let mut world = World::new(2, CommitMode::ReplyBarrier);
    let first = ends(&world.pass(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b""))).0;
    world.pass(1, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.store_up = false;
    world.pass(1, IN, &tcp((CLIENT, 2), (SERVER, 2), "S", b""));
    world.store_up = true;
    world.settle();
    assert_eq!(world.nodes[1].runtime.counters().misannounced, 1);
    let retried = world.pass(1, IN, &tcp((CLIENT, 2), (SERVER, 2), "S", b""));
    assert_eq!(ends(&retried).0, first);
}

#[test]
fn a_port_that_packets_left_with_rests_even_if_it_was_not_bound() {
    for mode in [CommitMode::ReplyBarrier, CommitMode::Async] {
        let mut world = World::new(1, mode);
        world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
        world.store_up = false;
        let seen = ends(&world.pass(0, IN, &tcp((CLIENT, 2), (SERVER, 1), "S", b""))).0;
        world.fail_submitted(0);
        world.store_up = true;
        // Answers to that port must not reach anybody else for two minutes.
        for round in 1..=11u16 {
            world.advance(Duration::from_secs(10));
            for port in 0..100 {
                let from = (CLIENT, round * 1000 + port);
                let out = world.pass(0, IN, &tcp(from, (SERVER, 1), "S", b""));
                assert_ne!(ends(&out).0, seen, "{mode:?}, {round}");
            }
        }
    }
}

#[test]
fn a_late_reply_that_nobody_has_a_port_does_not_hide_its_new_mapping() {
    // Two worlds with equal seeds: which port will be proposed?
    let mut foretold = World::new(1, CommitMode::Strict);
    let mut world = World::new(1, CommitMode::Strict);
    for world in [&mut foretold, &mut world] {
        world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    }
    let mapped = ends(&foretold.pass(0, IN, &udp((CLIENT, 2), (SERVER, 1), b""))).0;
    world.store_up = false;
    assert_eq!(world.send(0, OUT, &udp((SERVER, 9), mapped, b"scan")), []);
    let (ticket, _lookup) = world.nodes[0].submitted.pop_front().unwrap();
    world.store_up = true;
    let out = world.pass(0, IN, &udp((CLIENT, 2), (SERVER, 1), b""));
    assert_eq!(ends(&out).0, mapped);
    // It was executed before the mapping was made, but arrives after.
    let nobody = [&[stateplane_state::op::OK][..], &[0; 8]].concat();
    let now = world.now;
    world.nodes[0].runtime.on_reply(now, ticket, Ok(nobody));
    world.settle();
    world.nodes[0].out.clear();
    let back = world.pass(0, OUT, &udp((SERVER, 1), mapped, b"answer"));
    assert_eq!(ends(&back).1, (CLIENT, 2));
}

#[test]
fn an_instance_without_a_store_recovers_when_there_is_one() {
    let mut world = World::new(1, CommitMode::Strict);
    world.nodes = vec![node(world.now, "late", CommitMode::Strict)];
    world.store_up = false;
    for _ in 0..10 {
        assert_eq!(world.send(0, IN, &udp((CLIENT, 1), (SERVER, 1), b"")), []);
        world.advance(Duration::from_secs(3));
        world.fail_submitted(0);
        assert_eq!(world.nodes[0].out.drain(..).count(), 1);
    }
    let dropped = world.nodes[0].runtime.counters();
    assert_eq!(dropped.dropped(Reason::ParkTimeout), 10);
    world.store_up = true;
    world.advance(Duration::from_secs(1));
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    assert_eq!(world.nodes[0].parked(), 0);
}

#[test]
fn answers_are_steered_home() {
    use stateplane_flow::steering::Table;
    let mut world = World::new(2, CommitMode::Strict);
    let table = Table::compute(&[0, 1]);
    for (me, node) in (0..).zip(&mut world.nodes) {
        node.runtime.function_mut().set_home(table.clone(), me);
    }
    for i in 0..600u16 {
        let node = usize::from(i % 2);
        let out = world.pass(node, IN, &udp((CLIENT, 1000 + i), (SERVER, 1), b""));
        let (mapped, port) = ends(&out).0;
        let owner = table.owner_of_block(u32::from_be_bytes(mapped), port >> 8);
        assert_eq!(usize::from(owner), node);
    }
}

#[test]
fn arp_is_answered_for_pool_addresses_only() {
    use stateplane_functions::nat::{Nat44, NatConfig};
    use stateplane_wire::{arp, eth::Mac};
    let me = Mac([2, 0, 0, 0, 0, 9]);
    let name = InstanceId::of("gw");
    let config = NatConfig::new(&store_config(), name, Incarnation(1), vec![], 1).unwrap();
    let function = Nat44::new(NatConfig {
        arp_mac: Some(me),
        ..config
    });
    let mut runtime = Runtime::new(ms(0), RuntimeConfig::new(ports(), [0; 2]), function);
    let mut ask = |port, target: Ipv4Addr| {
        let request = arp::Arp {
            operation: arp::Operation::Request,
            sender_mac: Mac([2, 0, 0, 0, 0, 1]),
            sender: SERVER.into(),
            target_mac: Mac::default(),
            target,
        };
        let mut buffer = [0; 64];
        let len = request.write(&mut buffer).unwrap();
        let disposition = runtime.on_frame(ms(1), port, FrameId(0), &mut buffer, len);
        (disposition, arp::Arp::parse(&buffer).unwrap())
    };
    let (disposition, reply) = ask(OUT, POOL);
    assert_eq!(disposition, Disposition::Answer { len: 42 });
    assert_eq!(
        (reply.operation, reply.sender_mac, reply.sender),
        (arp::Operation::Reply, me, POOL)
    );
    assert_eq!(
        (reply.target_mac, reply.target),
        (Mac([2, 0, 0, 0, 0, 1]), SERVER.into())
    );
    assert_eq!(
        ask(OUT, Ipv4Addr::new(198, 51, 100, 2)).0,
        Disposition::Drop(Reason::NotOurs)
    );
    assert_eq!(ask(IN, POOL).0, Disposition::Drop(Reason::NotOurs));
}

proptest! {
    #[test]
    fn no_bytes_harm_an_instance(
        frames in prop::collection::vec((any::<bool>(), 0usize..6, prop::collection::vec(
            (0usize..100, any::<u8>()), 0..5)), 1..20),
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut world = World::new(1, CommitMode::ReplyBarrier);
        let pooled = [198, 51, 100, 1];
        for (inside, kind, damage) in frames {
            let (from, to) = if inside { (CLIENT, SERVER) } else { (SERVER, pooled) };
            let mut frame = match kind {
                0 => udp((from, 1024), (to, 4000), b"abc"),
                1 => tcp((from, 1024), (to, 4000), "S", b""),
                2 => echo(from, to, true, 9, b"abc"),
                3 => icmp_error(from, to, (3, 4), &udp((to, 1), (from, 2), b"x"), 40),
                4 => icmp_error(from, to, (11, 0), &tcp((to, 1), (from, 2), "S", b"x"), 28),
                _ => noise.clone(),
            };
            for (at, value) in damage {
                if let Some(byte) = frame.get_mut(at) { *byte = value; }
            }
            // Damage that leaves the header's checksum wrong tells little.
            if let Ok((mut header, _)) = etherparse::Ipv4Header::from_slice(
                frame.get(14..).unwrap_or_default()) {
                header.header_checksum = header.calc_header_checksum();
                frame[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
            }
            let port = if inside { IN } else { OUT };
            world.send(0, port, &frame);
            world.advance(Duration::from_millis(300));
        }
        prop_assert_eq!(world.nodes[0].parked(), 0);
    }

    #[test]
    fn what_goes_out_comes_back(
        hosts in prop::collection::vec((any::<u8>(), 1u16.., 0u8..3), 1..40),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut world = World::new(2, CommitMode::Strict);
        let mut lent = std::collections::BTreeMap::new();
        for (i, (host, port, kind)) in hosts.into_iter().enumerate() {
            let client = [10, 0, 3, host];
            let out = match kind {
                0 => udp((client, port), (SERVER, 9), &payload),
                1 => tcp((client, port), (SERVER, 9), "S", &payload),
                _ => echo(client, SERVER, true, port, &payload),
            };
            let (mapped, _) = ends(&world.pass(i % 2, IN, &out));
            let inside = lent.entry((kind, mapped)).or_insert((client, port));
            prop_assert_eq!(*inside, (client, port), "one outside endpoint, one host");
            let back = match kind {
                0 => udp((SERVER, 9), mapped, &payload),
                1 => tcp((SERVER, 9), mapped, "SA", &payload),
                _ => echo(SERVER, mapped.0, false, mapped.1, &payload),
            };
            let (_, reached) = ends(&world.pass((i / 2) % 2, OUT, &back));
            prop_assert_eq!(reached, (client, port));
        }
    }
}
