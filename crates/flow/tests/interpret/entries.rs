//! When an entry holds, and where it sends a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use stateplane_base::Time;
use stateplane_flow::fast::{
    Action, Guard, Hop, Key, KeyMask, Kind, Metered, NextHop, PortSettings, Punt, Reserve,
    Reserved, Verdict, compose,
};
use stateplane_flow::{FlowAction, PortId};

use crate::world::*;

#[test]
fn several_hops_need_as_much_time_to_live() {
    let world = udp_world(Action {
        ttl: 3,
        ..forward()
    });
    world.punts(&with_header(udp(), |ip| ip[8] = 3), Punt::Ttl);
    assert_eq!(world.passes(&with_header(udp(), |ip| ip[8] = 4))[22], 1);
}

#[test]
fn tcp_events_are_seen_by_the_function() {
    let world = World::with4(&key4(Kind::Tcp, FROM, TO), forward());
    for (flags, event) in [
        (0x10, false),
        (0x18, false),
        (0x02, true),
        (0x11, true),
        (0x14, true),
    ] {
        let mut frame = build4(Kind::Tcp, FROM, TO, 9, b"x");
        frame[47] = flags;
        match event {
            true => world.punts(&frame, Punt::TcpEvent),
            false => drop(world.passes(&frame)),
        }
    }
}

#[test]
fn entries_end_and_so_do_their_leases() {
    let guard = Guard { lease: 2, epoch: 5 };
    let mut world = udp_world(Action { guard, ..forward() });
    let lease = |world: &mut World, epoch, until| world.leases.set(2, epoch, until).unwrap();
    world.punts(&udp(), Punt::Lease);
    lease(&mut world, 5, LATER);
    world.passes(&udp());
    lease(&mut world, 5, NOW);
    world.punts(&udp(), Punt::Lease);
    lease(&mut world, 6, LATER);
    world.punts(&udp(), Punt::Lease);
    lease(&mut world, 5, LATER);
    world.leases.revoke(2).unwrap();
    world.punts(&udp(), Punt::Lease);
    lease(&mut world, 5, Time::MAX);
    assert_eq!(
        world.run_at(&udp(), LATER).0,
        Verdict::Function(Punt::Expired)
    );
    world
        .flows4
        .prolong(&key4(Kind::Udp, FROM, TO), Time::from_millis(1_002_000));
    assert!(matches!(
        world.run_at(&udp(), LATER).0,
        Verdict::Redirect { .. }
    ));
    let mut beyond = udp_world(Action {
        guard: Guard { lease: 9, ..guard },
        ..forward()
    });
    beyond.punts(&udp(), Punt::Lease);
    assert!(beyond.leases.set(9, 5, LATER).is_err());
}

#[test]
fn next_hops_come_and_go() {
    let mut world = udp_world(forward());
    world.hops.set(1, &NextHop { mtu: 36, ..NEXT }).unwrap();
    assert_eq!(world.hops.get(1).map(|hop| hop.mtu), Some(36));
    world.passes(&udp());
    world.hops.set(1, &NextHop { mtu: 35, ..NEXT }).unwrap();
    world.punts(&udp(), Punt::Mtu);
    world.hops.clear(1).unwrap();
    world.punts(&udp(), Punt::Hop);
    udp_world(Action {
        hop: Hop::Index(999),
        ..forward()
    })
    .punts(&udp(), Punt::Hop);
    assert!(world.hops.set(4, &NEXT).is_err());
}

#[test]
fn flows_without_one_destination_have_routes() {
    let out = PortId::OUTSIDE;
    let mut world = World::new();
    let mask = KeyMask::SOURCE;
    world
        .settings
        .set_port(IN, Some(&PortSettings { mask, ..PORT }));
    let hop = Hop::ByDestination(out);
    let masked = Key {
        destination: Ipv4Addr::UNSPECIFIED,
        destination_port: 0,
        ..key4(Kind::Udp, FROM, TO)
    };
    World::insert(&mut world.flows4, &masked, Action { hop, ..forward() });
    let other = build4(Kind::Udp, FROM, ([198, 51, 100, 1], 53), 9, b"");
    world.punts(&udp(), Punt::Route);
    world.routes4.insert(TO.0.into(), PortId::INSIDE, 1);
    world.punts(&udp(), Punt::Route);
    world.routes4.insert(TO.0.into(), out, 1);
    world.passes(&udp());
    world.punts(&other, Punt::Route);
    assert!(world.routes4.remove(TO.0.into(), out));
    world.punts(&udp(), Punt::Route);
    // Where it goes when it was rewritten is what counts.
    let destination = Ipv4Addr::new(203, 0, 113, 9);
    World::insert(
        &mut world.flows4,
        &masked,
        Action {
            hop,
            destination: Some(destination),
            ..forward()
        },
    );
    world.routes4.insert(destination, out, 1);
    world.passes(&udp());

    let masked = Key {
        destination: Ipv6Addr::UNSPECIFIED,
        destination_port: 0,
        ..key(Kind::Udp, FROM6, TO6)
    };
    World::insert(
        &mut world.flows6,
        &masked,
        Action::forward(hop, Guard::NONE),
    );
    let six = build6(Kind::Udp, FROM6, TO6, 9, b"");
    world.punts(&six, Punt::Route);
    world.routes6.insert(TO6.0, out, 1);
    assert_eq!(world.routes6.get(TO6.0, out), Some(1));
    world.passes(&six);
}

#[test]
fn reserved_destinations_are_spared() {
    let mut world = World::new();
    let mask = KeyMask::SOURCE;
    world
        .settings
        .set_port(IN, Some(&PortSettings { mask, ..PORT }));
    let masked = Key {
        destination: Ipv4Addr::UNSPECIFIED,
        destination_port: 0,
        ..key4(Kind::Udp, FROM, TO)
    };
    World::insert(&mut world.flows4, &masked, forward());
    let masked = Key {
        destination: Ipv6Addr::UNSPECIFIED,
        destination_port: 0,
        ..key(Kind::Udp, FROM6, TO6)
    };
    World::insert(
        &mut world.flows6,
        &masked,
        Action::forward(Hop::Index(1), Guard::NONE),
    );
    let six = build6(Kind::Udp, FROM6, TO6, 9, b"");
    let reserved = |length, who, ports| Reserved {
        address: TO.0.into(),
        length,
        who,
        ports,
    };
    let here = 1 << IN.0;
    for (length, addr, spared) in [
        (24, [192, 0, 2, 200], true),
        (24, [192, 0, 3, 1], false),
        (32, [192, 0, 2, 2], false),
        (0, [1, 2, 3, 4], true),
    ] {
        world
            .settings
            .reserve4(&[reserved(length, Reserve::Function, here)])
            .unwrap();
        let frame = build4(Kind::Udp, FROM, (addr, 53), 9, b"");
        match spared {
            true => world.punts(&frame, Punt::Reserved),
            false => drop(world.passes(&frame)),
        }
    }
    world
        .settings
        .reserve4(&[
            reserved(32, Reserve::Kernel, here),
            reserved(0, Reserve::Function, here),
        ])
        .unwrap();
    assert_eq!(world.run(&udp()).0, Verdict::Kernel);
    world
        .settings
        .reserve4(&[reserved(32, Reserve::Kernel, 1 << PortId::OUTSIDE.0)])
        .unwrap();
    world.passes(&udp());
    assert!(
        world
            .settings
            .reserve4(&[reserved(32, Reserve::Kernel, here); 17])
            .is_err()
    );
    world.passes(&six);
    let six_too = Reserved {
        address: TO6.0,
        length: 64,
        who: Reserve::Function,
        ports: here,
    };
    world.settings.reserve6(&[six_too]).unwrap();
    world.punts(&six, Punt::Reserved);
}

#[test]
fn packets_that_pass_are_noted() {
    let world = udp_world(forward());
    let key = key4(Kind::Udp, FROM, TO);
    let length = udp().len() as u64;
    for n in 1..=3 {
        world.passes(&udp());
        let seen = world.flows4.seen(&key, NOW).unwrap();
        assert_eq!((seen.packets, seen.bytes), (n, u64::from(n) * length));
    }
    world.punts(&with_header(udp(), |ip| ip[8] = 1), Punt::Ttl);
    assert_eq!(world.flows4.seen(&key, NOW).unwrap().packets, 3);
}

#[test]
fn chains_too_long_for_one_action_stay_apart() {
    let routes = FlowAction {
        source: None,
        destination: None,
        ttl: 1,
        out: IN,
    };
    assert!(compose(Kind::Udp, []).is_err());
    assert!(compose(Kind::Udp, [routes; 15]).is_ok());
    assert!(compose(Kind::Udp, [routes; 16]).is_err());
    assert_eq!(KeyMask::SOURCE.and_then(KeyMask::DESTINATION), KeyMask::ALL);
}

/// Entries of both ways share a meter, and one port can be rewritten beside it.
#[test]
fn a_meter_counts_what_passes_and_stops_at_its_limit() {
    let action = Action {
        meter: Some(3),
        destination_port: Some(99),
        ..forward()
    };
    let mut world = udp_world(action);
    let bytes = udp().len() as u64;
    world.punts(&udp(), Punt::Meter);
    world.meters.limit(3, 3 * bytes - 1);
    let sent = world.passes(&udp());
    assert_eq!(
        (&sent[34..36], &sent[36..38]),
        (&udp()[34..36], &[0, 99][..])
    );
    world.passes(&udp());
    world.punts(&udp(), Punt::Meter);
    let metered = world.meters.read(3).unwrap();
    assert_eq!((metered.packets, metered.bytes), ([2, 0], [2 * bytes, 0]));
    assert_eq!(metered.used(), 2 * bytes);
    world.meters.limit(3, 3 * bytes);
    world.passes(&udp());
    world.punts(&udp(), Punt::Meter);
    assert!(world.meters.clear(3));
    assert_eq!(world.meters.read(3), Some(Metered::default()));
    world.punts(&udp(), Punt::Meter);
    assert!(!world.meters.clear(4) && world.meters.read(4).is_none());
    let unknown = Action {
        meter: Some(4),
        ..forward()
    };
    udp_world(unknown).punts(&udp(), Punt::Meter);
}
