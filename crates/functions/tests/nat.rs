//! The NAT's instances over one store: what hosts on both sides see.

pub(crate) mod common;

use common::*;
use std::time::Duration;

use stateplane_base::Reason;
use stateplane_flow::PortId;
use stateplane_functions::CommitMode;
use stateplane_functions::nat::procedures::Timeouts;

const IN: PortId = PortId::INSIDE;
const OUT: PortId = PortId::OUTSIDE;
const POOLED: [u8; 4] = [198, 51, 100, 1];

#[test]
fn a_session_of_each_protocol_goes_there_and_back() {
    let mut world = World::new(1, CommitMode::Strict);
    let out = world.pass(0, IN, &tcp((CLIENT, 40000), (SERVER, 443), "S", b""));
    let (source, destination) = ends(&out);
    assert_eq!((source.0, destination), (POOLED, (SERVER, 443)));
    assert!(source.1 >= 1024);
    assert_eq!(out[22], 63, "one hop");
    let back = world.pass(0, OUT, &tcp((SERVER, 443), source, "SA", b""));
    assert_eq!(ends(&back), ((SERVER, 443), (CLIENT, 40000)));

    let out = world.pass(0, IN, &udp((CLIENT, 40000), (SERVER, 53), b"odd"));
    let (mapped, _) = ends(&out);
    let back = world.pass(0, OUT, &udp((SERVER, 53), mapped, b"answer"));
    assert_eq!(ends(&back).1, (CLIENT, 40000));

    let out = world.pass(0, IN, &echo(CLIENT, SERVER, true, 77, b"ping!"));
    let (mapped, _) = ends(&out);
    let back = world.pass(0, OUT, &echo(SERVER, POOLED, false, mapped.1, b"ping!"));
    assert_eq!(ends(&back), ((SERVER, 77), (CLIENT, 77)));
}

#[test]
fn mapping_and_filtering_are_endpoint_independent() {
    let mut world = World::new(1, CommitMode::Strict);
    let first = ends(&world.pass(0, IN, &udp((CLIENT, 5000), (SERVER, 53), b""))).0;
    let other = ([192, 0, 2, 1], 9999);
    let second = ends(&world.pass(0, IN, &udp((CLIENT, 5000), other, b""))).0;
    assert_eq!(first, second);
    // A third party that was never sent anything.
    let back = world.pass(0, OUT, &udp(([192, 0, 2, 77], 1), first, b"hello"));
    assert_eq!(ends(&back).1, (CLIENT, 5000));
    assert_eq!(
        world.nodes[0].runtime.counters().decisions,
        1,
        "the answers' way is cached"
    );
}

#[test]
fn another_instance_goes_on_with_the_same_mapping() {
    let mut world = World::new(2, CommitMode::Strict);
    let mut flows = Vec::new();
    for port in 30000..30050 {
        let out = world.pass(0, IN, &tcp((CLIENT, port), (SERVER, 80), "S", b""));
        flows.push((port, ends(&out).0));
    }
    // Instance 0 is killed; both directions meet instance 1, in mid-connection.
    for (port, mapped) in flows {
        let out = world.pass(1, IN, &tcp((CLIENT, port), (SERVER, 80), "A", b"data"));
        assert_eq!(ends(&out).0, mapped);
        let back = world.pass(1, OUT, &tcp((SERVER, 80), mapped, "A", b"more"));
        assert_eq!(ends(&back).1, (CLIENT, port));
    }
    assert_eq!(world.nodes[1].runtime.flows(), 100);
}

#[test]
fn requests_through_one_instance_and_answers_through_another() {
    let mut world = World::new(2, CommitMode::Strict);
    for port in 20000..20100 {
        let out = world.pass(0, IN, &tcp((CLIENT, port), (SERVER, 80), "S", b""));
        let back = world.pass(1, OUT, &tcp((SERVER, 80), ends(&out).0, "SA", b""));
        assert_eq!(ends(&back).1, (CLIENT, port));
    }
    let (there, back) = (
        world.nodes[0].runtime.counters(),
        world.nodes[1].runtime.counters(),
    );
    assert_eq!((there.released, back.released), (100, 100));
    assert_eq!(back.drops().map(|(_, n)| n).sum::<u64>(), 0);
}

#[test]
fn two_instances_never_lend_the_same_port() {
    let mut world = World::new(2, CommitMode::Strict);
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..900u16 {
        let node = usize::from(i % 2);
        let host = [10, 0, 1, (i % 5) as u8];
        let out = world.pass(node, IN, &udp((host, 1000 + i), (SERVER, 53), b"x"));
        assert!(seen.insert(ends(&out).0), "port lent twice");
    }
    assert!(world.nodes[0].runtime.function().status().blocks >= 2);
}

#[test]
fn strange_packets_are_dropped_for_the_right_reason() {
    let mut world = World::new(1, CommitMode::Strict);
    let mut dropped = |port, frame: &[u8]| match world.send(0, port, frame).as_slice() {
        [Out::Dropped(reason)] => *reason,
        other => panic!("{other:?}"),
    };
    let nobody = udp((SERVER, 53), (POOLED, 4242), b"");
    assert_eq!(dropped(OUT, &nobody), Reason::NoMapping);
    assert_eq!(dropped(OUT, &nobody), Reason::NoMapping);
    assert_eq!(
        dropped(OUT, &udp((SERVER, 53), ([192, 0, 2, 1], 1), b"")),
        Reason::NotOurs
    );
    assert_eq!(
        dropped(IN, &udp((CLIENT, 1), ([10, 0, 9, 9], 1), b"")),
        Reason::NotOurs
    );
    assert_eq!(
        dropped(IN, &udp(([172, 16, 0, 1], 1), (SERVER, 1), b"")),
        Reason::NotOurs
    );
    assert_eq!(
        dropped(IN, &tcp((CLIENT, 7), (SERVER, 1), "R", b"")),
        Reason::NotOurs
    );
    assert_eq!(
        dropped(IN, &echo(CLIENT, SERVER, false, 7, b"")),
        Reason::NotOurs
    );
    let mut fragment = udp((CLIENT, 1), (SERVER, 1), b"12345678");
    fragment[20] = 0x20;
    let sum = etherparse::Ipv4Header::from_slice(&fragment[14..])
        .unwrap()
        .0;
    fragment[24..26].copy_from_slice(&sum.calc_header_checksum().to_be_bytes());
    assert_eq!(dropped(IN, &fragment), Reason::Fragment);
    let mut damaged = udp((CLIENT, 1), (SERVER, 1), b"");
    damaged[24] ^= 1;
    assert_eq!(dropped(IN, &damaged), Reason::BadChecksum);
    assert_eq!(dropped(IN, &damaged[..30]), Reason::Malformed);
    // The second packet for nobody was answered from memory.
    assert_eq!(world.nodes[0].runtime.counters().decisions, 3);
}

#[test]
fn icmp_errors_find_their_way_and_create_nothing() {
    let mut world = World::new(2, CommitMode::Strict);
    for (quoted, node) in [(28, 0), (548, 1)] {
        let sent = world.pass(0, IN, &tcp((CLIENT, 40000), (SERVER, 443), "S", b"payload"));
        let router = [203, 0, 113, 1];
        let error = icmp_error(router, POOLED, (11, 0), &sent, quoted);
        let back = world.pass(node, OUT, &error);
        assert_eq!(&back[26..34], [router, CLIENT].concat(), "outer addresses");
        assert_eq!(&back[54..62], [CLIENT, SERVER].concat(), "quoted addresses");
        assert_eq!(
            &back[62..66],
            [40000u16.to_be_bytes(), 443u16.to_be_bytes()].concat()
        );
        if quoted > 28 {
            // What is quoted is a right packet again, one hop older.
            let mut inner = back[..14].to_vec();
            inner.extend(&back[42..]);
            verify(&inner);
        }
    }
    // The host complains about an answer.
    let out = world.pass(0, IN, &udp((CLIENT, 6000), (SERVER, 53), b""));
    let answer = world.pass(0, OUT, &udp((SERVER, 53), ends(&out).0, b"late"));
    let complaint = icmp_error(CLIENT, SERVER, (3, 3), &answer, 548);
    let told = world.pass(0, IN, &complaint);
    assert_eq!(&told[26..30], POOLED);
    assert_eq!(&told[58..62], POOLED, "quoted destination");
    assert_eq!(told[64..66], ends(&out).0.1.to_be_bytes());
    // About something that was never mapped: no mapping is made.
    let stray = udp((SERVER, 53), (CLIENT, 6001), b"");
    let out = world.send(0, IN, &icmp_error(CLIENT, SERVER, (3, 3), &stray, 548));
    assert_eq!(out, [Out::Dropped(Reason::NotOurs)]);
    assert_eq!(world.nodes[0].runtime.function().status().mappings, 2);
}

#[test]
fn senders_hear_of_expired_and_too_big_packets() {
    let mut world = World::new(1, CommitMode::Strict);
    let mut old = udp((CLIENT, 1), (SERVER, 1), b"x");
    old[22] = 1;
    let header = etherparse::Ipv4Header::from_slice(&old[14..]).unwrap().0;
    old[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let out = world.send(0, IN, &old);
    let [Out::Sent(IN, answer)] = out.as_slice() else {
        panic!("{out:?}")
    };
    verify(answer);
    assert_eq!((answer[34], answer[35]), (11, 0));
    assert_eq!(&answer[26..34], [[10, 0, 0, 1], CLIENT].concat());
    // Larger than the outside's MTU; etherparse sets "don't fragment".
    let big = udp((CLIENT, 2), (SERVER, 1), &[7; 1450]);
    let out = world.send(0, IN, &big);
    let [Out::Sent(IN, answer)] = out.as_slice() else {
        panic!("{out:?}")
    };
    verify(answer);
    assert_eq!((answer[34], answer[35]), (3, 4));
    assert_eq!(answer[40..42], 1400u16.to_be_bytes());
    // The rate is limited: here a burst of ten.
    let limited =
        (0..50).filter(|_| world.send(0, IN, &old) == [Out::Dropped(Reason::IcmpLimited)]);
    assert!(limited.count() >= 40);
}

#[test]
fn hosts_behind_the_nat_reach_each_other_by_outside_addresses() {
    let mut world = World::new(1, CommitMode::Strict);
    let peer = [10, 0, 0, 6];
    let mapped = ends(&world.pass(0, IN, &udp((peer, 700), (SERVER, 1), b""))).0;
    let out = world.send(0, IN, &udp((CLIENT, 600), mapped, b"hairpin"));
    let [Out::Sent(IN, frame)] = out.as_slice() else {
        panic!("{out:?}")
    };
    verify(frame);
    let (source, destination) = ends(frame);
    assert_eq!((source.0, destination), (POOLED, (peer, 700)));
    let out = world.send(0, IN, &udp((peer, 700), source, b"answer"));
    let [Out::Sent(IN, frame)] = out.as_slice() else {
        panic!("{out:?}")
    };
    assert_eq!(ends(frame), (mapped, (CLIENT, 600)));
}

#[test]
fn mappings_live_as_long_as_the_rfcs_say() {
    let mut world = World::new(2, CommitMode::Strict);
    // An idle and a busy UDP session, and an established TCP connection that idles.
    let idle = ends(&world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""))).0;
    let busy = ends(&world.pass(0, IN, &udp((CLIENT, 2), (SERVER, 1), b""))).0;
    let connection = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(0, OUT, &tcp((SERVER, 1), connection, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b""));
    let half = ends(&world.pass(0, IN, &tcp((CLIENT, 4), (SERVER, 1), "S", b""))).0;
    for _ in 0..70 {
        world.advance(Duration::from_secs(10));
        assert_eq!(
            ends(&world.pass(0, IN, &udp((CLIENT, 2), (SERVER, 1), b""))).0,
            busy
        );
    }
    // 700 s later, as any instance sees it.
    let at = |world: &mut World, outside| {
        let frame = udp((SERVER, 1), outside, b"");
        world.send(1, OUT, &frame) != [Out::Dropped(Reason::NoMapping)]
    };
    assert!(!at(&mut world, idle));
    assert!(at(&mut world, busy));
    let mut alive = |outside| {
        let frame = tcp((SERVER, 1), outside, "A", b"push");
        world.send(1, OUT, &frame) != [Out::Dropped(Reason::NoMapping)]
    };
    assert!(alive(connection), "7440 s");
    assert!(!alive(half), "240 s");
    let decisions = world.nodes[0].runtime.counters().decisions;
    assert!(
        decisions < 6,
        "traffic is refreshed in the background: {decisions} decisions"
    );
}

#[test]
fn a_closed_connection_ends_early_and_traffic_from_outside_keeps_nothing() {
    let mut world = World::new(1, CommitMode::Strict);
    let closed = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(0, OUT, &tcp((SERVER, 1), closed, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"get"));
    world.advance(Duration::from_secs(50)); // refreshed as established
    world.pass(0, OUT, &tcp((SERVER, 1), closed, "FA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "FA", b""));
    let pushed = ends(&world.pass(0, IN, &udp((CLIENT, 9), (SERVER, 1), b""))).0;
    for _ in 0..40 {
        world.advance(Duration::from_secs(10));
        world.send(0, OUT, &udp((SERVER, 1), pushed, b"flood"));
    }
    let late = world.send(0, OUT, &tcp((SERVER, 1), closed, "A", b""));
    assert_eq!(
        late,
        [Out::Dropped(Reason::NoMapping)],
        "240 s after its end, not 7440"
    );
    let late = world.send(0, OUT, &udp((SERVER, 1), pushed, b"flood"));
    assert_eq!(
        late,
        [Out::Dropped(Reason::NoMapping)],
        "300 s after the last from inside"
    );
}

#[test]
fn a_subscriber_has_a_quota_and_a_pool_its_end() {
    let mut world = World::new(1, CommitMode::Strict);
    let mut outcomes = std::collections::BTreeMap::new();
    for port in 1..=2100 {
        let out = world.send(0, IN, &udp((CLIENT, port), (SERVER, 1), b""));
        *outcomes.entry(matches!(out[0], Out::Sent(..))).or_insert(0) += 1;
    }
    assert_eq!((outcomes[&true], outcomes[&false]), (2000, 100));
    assert_eq!(
        world.nodes[0].runtime.counters().dropped(Reason::Quota),
        100
    );
}

#[test]
fn partial_checksums_are_finished_on_the_way() {
    let mut world = World::new(1, CommitMode::Strict);
    let mut frame = tcp((CLIENT, 40000), (SERVER, 443), "S", b"");
    // As a sender with offload leaves it: the pseudo-header's sum alone.
    let sum = stateplane_wire::checksum::Sum::default()
        .pseudo(CLIENT.into(), SERVER.into(), 6, 20)
        .fold();
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    world.pass(0, IN, &frame); // verifies
    assert_eq!(world.nodes[0].runtime.counters().checksums_finished, 1);
}

#[test]
fn a_stopped_instance_gives_its_blocks_back() {
    let mut world = World::new(2, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""))).0;
    let now = world.now;
    world.nodes[0].runtime.stop(now);
    world.settle();
    assert_eq!(world.nodes[0].runtime.function().status().blocks, 0);
    world.advance(Duration::from_secs(30));
    assert!(!world.nodes[0].runtime.function().status().registered);
    // Sessions go on at the other instance, which may take every block there is.
    assert_eq!(
        ends(&world.pass(1, IN, &udp((CLIENT, 1), (SERVER, 1), b""))).0,
        mapped
    );
    world.nodes[0].runtime.check();
}

#[test]
fn mappings_beyond_the_tracked_ones_work_too() {
    let mut world = World::new(0, CommitMode::Strict);
    let now = world.now;
    world
        .nodes
        .push(node_with(now, "small", CommitMode::Strict, |nat| {
            nat.mappings_max = 10
        }));
    for round in 0..5 {
        let mut seen = std::collections::BTreeSet::new();
        for port in 1..=50 {
            let out = world.pass(0, IN, &udp((CLIENT, port), (SERVER, 1), b""));
            world.pass(0, OUT, &udp((SERVER, 1), ends(&out).0, b""));
            assert!(seen.insert(ends(&out).0), "round {round}");
        }
        assert_eq!(world.nodes[0].runtime.function().status().mappings, 10);
        world.advance(Duration::from_secs(61));
    }
}

#[test]
fn a_connection_ends_where_only_one_way_of_it_passes() {
    let mut world = World::new(2, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(1, OUT, &tcp((SERVER, 1), mapped, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"get"));
    world.advance(Duration::from_secs(50)); // refreshed as established
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "FA", b""));
    world.pass(1, OUT, &tcp((SERVER, 1), mapped, "FA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b""));
    assert_eq!(
        world.nodes[0].runtime.sessions(world.now, 9, |_, _| true)[0].note,
        "closing"
    );
    world.advance(Duration::from_secs(400));
    let late = world.send(1, OUT, &tcp((SERVER, 1), mapped, "A", b""));
    assert_eq!(late, [Out::Dropped(Reason::NoMapping)]);
}

#[test]
fn a_forged_reset_does_not_end_a_connection_that_goes_on() {
    let mut world = World::new(1, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(0, OUT, &tcp((SERVER, 1), mapped, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b""));
    world.pass(0, OUT, &tcp((SERVER, 1), mapped, "R", b""));
    world.advance(Duration::from_secs(50));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"data"));
    world.advance(Duration::from_secs(600));
    assert_eq!(
        ends(&world.pass(0, OUT, &tcp((SERVER, 1), mapped, "A", b""))).1,
        (CLIENT, 3)
    );
}

#[test]
fn icmp_errors_keep_no_mapping_alive() {
    let mut world = World::new(1, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""))).0;
    let answer = world.pass(0, OUT, &udp((SERVER, 1), mapped, b"late"));
    let sent = udp((mapped.0, mapped.1), (SERVER, 1), b"");
    for _ in 0..48 {
        world.send(0, IN, &icmp_error(CLIENT, SERVER, (3, 3), &answer, 548));
        world.send(0, OUT, &icmp_error(SERVER, mapped.0, (3, 3), &sent, 548));
        world.advance(Duration::from_secs(8));
    }
    let late = world.send(0, OUT, &udp((SERVER, 1), mapped, b""));
    assert_eq!(late, [Out::Dropped(Reason::NoMapping)]);
}

/// Whether a connection's mapping survives the timeout of closing ones.
fn outlives_closing(world: &mut World, mapped: ([u8; 4], u16)) -> bool {
    world.advance(Duration::from_secs(900));
    world.send(0, OUT, &tcp((SERVER, 1), mapped, "A", b"push")) != [Out::Dropped(Reason::NoMapping)]
}

/// An established connection of the client's port 3, refreshed as such.
fn connection(world: &mut World) -> ([u8; 4], u16) {
    let mapped = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(0, OUT, &tcp((SERVER, 1), mapped, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"get"));
    world.advance(Duration::from_secs(50));
    mapped
}

#[test]
fn a_connection_that_idles_outlives_the_instance_that_saw_it_open() {
    let mut world = World::new(2, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(0, OUT, &tcp((SERVER, 1), mapped, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b""));
    world.advance(Duration::from_secs(4));
    world.nodes.remove(0);
    assert!(outlives_closing(&mut world, mapped));
}

#[test]
fn many_refreshes_come_in_portions() {
    let mut world = World::new(1, CommitMode::Strict);
    for port in 1..=1500 {
        world.pass(0, IN, &tcp((CLIENT, port), (SERVER, 1), "S", b""));
    }
    world.store_up = false;
    while world.nodes[0].submitted.is_empty() {
        world.advance(Duration::from_millis(1));
    }
    assert!(world.nodes[0].submitted.len() <= 8);
    world.advance(Duration::from_millis(50));
    assert!(world.nodes[0].submitted.len() >= 1500 / 72);
}

#[test]
fn a_scan_from_outside_ends_no_idle_connection() {
    const SCANNER: ([u8; 4], u16) = ([192, 0, 2, 66], 666);
    for (probe, answer) in [("S", "RA"), ("A", "R"), ("F", "RA")] {
        // While the instance knows the connection, and long after its last packet.
        for idle in [0, 300] {
            let mut world = World::new(1, CommitMode::Strict);
            let mapped = connection(&mut world);
            world.advance(Duration::from_secs(idle));
            world.pass(0, OUT, &tcp(SCANNER, mapped, probe, b""));
            world.pass(0, IN, &tcp((CLIENT, 3), SCANNER, answer, b""));
            assert!(outlives_closing(&mut world, mapped), "{probe} {idle}");
        }
    }
}

#[test]
fn the_end_of_one_connection_is_not_that_of_another_on_the_same_mapping() {
    let other = ([192, 0, 2, 7], 80);
    for idle in [0, 300] {
        let mut world = World::new(1, CommitMode::Strict);
        let mapped = connection(&mut world);
        world.advance(Duration::from_secs(idle));
        world.pass(0, IN, &tcp((CLIENT, 3), other, "S", b""));
        world.pass(0, OUT, &tcp(other, mapped, "SA", b""));
        world.pass(0, IN, &tcp((CLIENT, 3), other, "A", b"get"));
        world.pass(0, OUT, &tcp(other, mapped, "FA", b""));
        world.pass(0, IN, &tcp((CLIENT, 3), other, "FA", b""));
        assert!(outlives_closing(&mut world, mapped), "{idle}");
    }
    // One that ended first, or is picked up after a pause, does end the mapping.
    for idle in [0, 300] {
        let mut world = World::new(1, CommitMode::Strict);
        let mapped = connection(&mut world);
        world.advance(Duration::from_secs(idle));
        world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "FA", b""));
        world.pass(0, OUT, &tcp((SERVER, 1), mapped, "FA", b""));
        world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b""));
        world.pass(0, IN, &tcp((CLIENT, 3), other, "S", b""));
        world.pass(0, OUT, &tcp(other, mapped, "RA", b""));
        assert!(!outlives_closing(&mut world, mapped), "{idle}");
    }
}

#[test]
fn without_the_store_blocks_rest_before_it_lends_them_again() {
    let mut world = World::new(1, CommitMode::Strict);
    world.pass(0, IN, &udp((CLIENT, 6000), (SERVER, 53), b""));
    let lease = |world: &World| {
        let nat = world.nodes[0].runtime.function();
        nat.lease(world.now).expect("it has registered")
    };
    let held = lease(&world);
    assert_eq!((held.state, held.epoch), ("held", Some(1)));
    // 10 s less a thousandth for drift and 20 ms for clocks that advance in steps.
    let usable = Duration::from_millis(9_970);
    assert!(held.left < usable + Duration::from_millis(1), "{held:?}");
    world.store_up = false;
    world.advance(held.left - Duration::from_millis(1));
    assert_eq!(lease(&world).state, "held");
    world.advance(Duration::from_millis(2));
    assert_eq!(lease(&world).state, "lapsed");
    // Known flows pass, new ones wait until the store has renewed the lease.
    world.pass(0, IN, &udp((CLIENT, 6000), (SERVER, 53), b""));
    assert!(
        world
            .send(0, IN, &udp((CLIENT, 6001), (SERVER, 53), b""))
            .is_empty()
    );
    world.store_up = true;
    world.settle();
    assert_eq!(world.nodes[0].out.len(), 1);
    let renewed = lease(&world);
    assert_eq!((renewed.state, renewed.epoch), ("held", Some(1)));
}

/// Refreshes come in time however short the timeout is, wherever in a second it began.
#[test]
fn a_mapping_of_a_short_timeout_lives_as_long_as_it_is_used() {
    for (secs, begins_ms) in (1..=5).flat_map(|secs| [(secs, 0), (secs, 130), (secs, 990)]) {
        let udp_timeout = Duration::from_secs(secs);
        let mut config = store_config();
        config.timeouts = Timeouts {
            udp: udp_timeout,
            ..config.timeouts
        };
        let mut world = World::with(1, CommitMode::Strict, &config);
        world.advance(Duration::from_millis(begins_ms));
        let packet = udp((CLIENT, 5000), (SERVER, 53), b"");
        let mapped = ends(&world.pass(0, IN, &packet)).0;
        for _ in 0..100 {
            world.advance(udp_timeout / 5);
            assert_eq!(ends(&world.pass(0, IN, &packet)).0, mapped, "{secs} s");
        }
        let counters = world.nodes[0].runtime.counters();
        assert_eq!(
            counters.decisions, 1,
            "{secs} s: it was never asked for again"
        );
    }
}
