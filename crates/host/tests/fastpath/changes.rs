//! Tables that change while packets pass.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};

use stateplane_flow::PortId;
use stateplane_flow::fast::{Action, Entry, Guard, Hop, Key, Kind, Punt, Verdict, Vlans};
use stateplane_host::{clock, priority};

use crate::support::{Random, can_make_interfaces};
use crate::world::{STATION, World, long_ago, seconds};
use etherparse::PacketBuilder;

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const DESTINATION: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const XDP_REDIRECT: u32 = 4;

fn key(port: u16) -> Key<Ipv4Addr> {
    Key {
        kind: Kind::Udp,
        port: PortId::INSIDE,
        source: SOURCE,
        source_port: port,
        destination: DESTINATION,
        destination_port: 53,
        vlans: Vlans(0, 0),
    }
}

fn frame(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], STATION.0)
        .ipv4(SOURCE.octets(), DESTINATION.octets(), 64)
        .udp(port, 53)
        .write(&mut bytes, b"some text")
        .unwrap();
    bytes
}

/// An action whose parts all say `number`.
fn all_say(number: u8) -> Action<Ipv4Addr> {
    let port = Some(u16::from_be_bytes([number; 2]));
    Action {
        source: Some([number; 4].into()),
        source_port: port,
        destination: Some([number; 4].into()),
        destination_port: port,
        ..Action::forward(Hop::Index(0), Guard::NONE)
    }
}

fn entry(action: Action<Ipv4Addr>) -> Entry<Ipv4Addr> {
    let until = clock::now() + seconds(1000);
    Entry { action, until }
}

/// While one flow's action changes, and while flows take turns in their slots, a packet meets
/// one whole entry of its own flow or none.
#[test]
fn no_packet_meets_half_an_entry() {
    const PACKETS: u32 = 40_000;
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(1));
    let fast_path = world.fast_path.clone();
    let stop = AtomicBool::new(false);
    let frame = frame(1000);
    let mut seen = [0u32; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let now = clock::now();
            while !stop.load(Ordering::Relaxed) {
                for turn in 0..100 {
                    let entry = entry(all_say(turn % 2 + 1));
                    world.flows4.insert(now, &key(1000), &entry).unwrap();
                }
                world.flows4.remove(&key(1000));
                // Neighbours, one of which may get the same slot.
                for port in 1001..1020 {
                    let entry = entry(all_say(9));
                    world.flows4.insert(now, &key(port), &entry).unwrap();
                }
                for port in 1001..1020 {
                    world.flows4.remove(&key(port));
                }
            }
        });
        let mut packets = 0;
        // A busy machine may let the writer run seldom.
        while packets < PACKETS || (seen.contains(&0) && packets < 50 * PACKETS) {
            packets += 1;
            let outcome = fast_path.try_on(PortId::INSIDE, &frame).unwrap();
            if outcome.action != XDP_REDIRECT {
                assert_eq!(outcome.frame, frame);
                seen[0] += 1;
                continue;
            }
            let number = outcome.frame[26];
            assert!(number == 1 || number == 2, "another flow's: {number}");
            assert_eq!(outcome.frame[26..38], [number; 12], "half an entry");
            seen[usize::from(number)] += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("left to the function, first action, second: {seen:?}");
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn a_lease_revoked_in_mid_flow_stops_the_next_packet() {
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(5));
    let now = clock::now();
    let guard = |epoch| Guard { lease: 1, epoch };
    let of = |epoch| {
        entry(Action {
            guard: guard(epoch),
            ..all_say(1)
        })
    };
    world.flows4.insert(now, &key(1), &of(7)).unwrap();
    let verdict = |world: &World| {
        let mut reference = world.reference();
        reference.resume(world);
        reference.compare(world, &frame(1), PortId::INSIDE)
    };
    let passes = |verdict| matches!(verdict, Verdict::Redirect { .. });
    assert_eq!(verdict(&world), Verdict::Function(Punt::Lease), "nobody's");
    world.leases.set(1, 7, now + seconds(1000)).unwrap();
    assert!(passes(verdict(&world)));
    world.leases.revoke(1).unwrap();
    assert_eq!(verdict(&world), Verdict::Function(Punt::Lease), "revoked");
    world.leases.set(1, 8, now + seconds(1000)).unwrap();
    assert_eq!(verdict(&world), Verdict::Function(Punt::Lease), "another's");
    world.flows4.update(&key(1), &of(8));
    assert!(passes(verdict(&world)));
    world.leases.set(1, 8, long_ago()).unwrap();
    assert_eq!(verdict(&world), Verdict::Function(Punt::Lease), "over");
    world.leases.set(1, 8, now + seconds(1000)).unwrap();
    world.flows4.prolong(&key(1), long_ago());
    assert_eq!(verdict(&world), Verdict::Function(Punt::Expired));
    world.flows4.prolong(&key(1), now + seconds(1000));
    assert!(passes(verdict(&world)));
    world.settings.enable(false);
    assert_eq!(verdict(&world), Verdict::Function(Punt::Disabled));
}

/// At each moment of a doubling the program finds each flow, and none twice.
#[test]
fn flows_pass_while_their_table_doubles() {
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(3));
    let now = clock::now();
    let before = world.flows4.pressure().in_use;
    let mut flows = 0;
    while world.flows4.pressure().in_use == before {
        flows += 1;
        let entry = entry(all_say(flows as u8));
        world.flows4.insert(now, &key(flows), &entry).unwrap();
        for flow in [1, flows / 2, flows] {
            let mut reference = world.reference();
            reference.resume(&world);
            let verdict = reference.compare(&world, &frame(flow.max(1)), PortId::INSIDE);
            assert!(
                matches!(verdict, Verdict::Redirect { .. }),
                "{flow} of {flows}"
            );
            reference.compare_notes(&world);
        }
    }
    for step in 0..before {
        world.flows4.tend(1);
        let flow = step as u16 % flows + 1;
        let outcome = world
            .fast_path
            .try_on(PortId::INSIDE, &frame(flow))
            .unwrap();
        assert_eq!(outcome.action, XDP_REDIRECT, "{flow}");
        assert_eq!(outcome.frame[26..38], [flow as u8; 12], "{flow}");
    }
    let packets = |flow| u64::from(world.flows4.seen(&key(flow), now).unwrap().packets);
    let counted = world.fast_path.counters(PortId::INSIDE).unwrap().fast;
    let noted: u64 = (1..=flows).map(packets).sum();
    assert_eq!(noted, counted.0[0], "no packet is forgotten");
}

#[test]
fn a_full_table_keeps_what_it_has() {
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(9));
    let now = clock::now();
    let mut refused = 0;
    let ports = 1..2 * world.flows4.capacity() as u16;
    let kept: Vec<bool> = ports
        .clone()
        .map(|port| {
            let inserted = world.flows4.insert(now, &key(port), &entry(all_say(3)));
            refused += u32::from(inserted.is_err());
            inserted.is_ok()
        })
        .collect();
    assert!(refused > 0);
    let mut reference = world.reference();
    for (port, kept) in ports.zip(kept) {
        let verdict = reference.compare(&world, &frame(port), PortId::INSIDE);
        match verdict {
            Verdict::Redirect { .. } => assert!(kept, "{port}"),
            verdict => assert!(
                !kept && verdict == Verdict::Function(Punt::Unknown),
                "{port}"
            ),
        }
    }
    reference.compare_notes(&world);
}

/// Counters of a port are exact whoever counts; those of a flow may miss what processors count
/// at the same moment.
#[test]
fn all_processors_count() {
    const EACH: u64 = 2000;
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(13));
    let now = clock::now();
    let action = all_say(4);
    world.flows4.insert(now, &key(1), &entry(action)).unwrap();
    let processors = priority::allowed_cpus().unwrap();
    let fast_path = &world.fast_path;
    std::thread::scope(|scope| {
        for &processor in &processors {
            scope.spawn(move || {
                priority::pin_to(processor).unwrap();
                for _ in 0..EACH {
                    let outcome = fast_path.try_on(PortId::INSIDE, &frame(1)).unwrap();
                    assert_eq!(outcome.action, XDP_REDIRECT);
                }
            });
        }
    });
    let all = EACH * processors.len() as u64;
    let counted = world.fast_path.counters(PortId::INSIDE).unwrap().fast;
    let bytes = frame(1).len() as u64;
    assert_eq!(counted.0[..2], [all, all * bytes]);
    let seen = world.flows4.seen(&key(1), now).unwrap();
    assert!((1..=all).contains(&u64::from(seen.packets)), "{seen:?}");
}
