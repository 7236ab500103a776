//! Which packets are the fast path's, and what of them changes.

use std::net::Ipv4Addr;

use stateplane_flow::fast::{Action, Guard, Hop, Key, Kind, PortSettings, Punt, Verdict, Vlans};
use stateplane_wire::checksum::{Sum, internet};

use crate::world::*;

#[test]
fn what_only_the_function_can_judge_goes_there() {
    let world = udp_world(forward());
    world.passes(&udp());
    let fragment = |field: [u8; 2]| with_header(udp(), |ip| ip[6..8].copy_from_slice(&field));
    world.punts(&fragment([0x20, 0]), Punt::Fragment);
    world.punts(&fragment([0, 1]), Punt::Fragment);
    world.passes(&fragment([0x40, 0])); // "do not fragment" is none
    world.punts(&with_header(udp(), |ip| ip[8] = 1), Punt::Ttl);
    world.punts(&with_header(udp(), |ip| ip[8] = 0), Punt::Ttl);
    world.passes(&with_header(udp(), |ip| ip[8] = 2));
    let mut damaged = udp();
    damaged[24] ^= 1;
    world.punts(&damaged, Punt::HeaderChecksum);
    world.punts(&build4(Kind::Udp, TO, FROM, 9, b""), Punt::Unknown);
    let mut unreachable = build4(Kind::Echo, FROM, TO, 9, b"1234");
    unreachable[34] = 3;
    world.punts(&unreachable, Punt::Icmp);
    let mut unfinished = udp();
    let pseudo = Sum::default()
        .bytes(&udp()[26..34])
        .word(17)
        .word(16)
        .fold();
    unfinished[40..42].copy_from_slice(&pseudo.to_be_bytes());
    world.punts(&unfinished, Punt::PartialChecksum);
}

#[test]
fn what_is_nobodys_business_stays_with_the_kernel() {
    let mut world = udp_world(forward());
    let kernel = |world: &World, frame: &[u8]| assert_eq!(world.run(frame).0, Verdict::Kernel);
    let changed = |at: usize, bytes: &[u8]| {
        let mut frame = udp();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    kernel(&world, &changed(0, &SENDER.0)); // for another station
    kernel(&world, &changed(0, &[0xff; 6]));
    kernel(&world, &changed(12, &[8, 6])); // ARP
    kernel(&world, &changed(23, &[47])); // GRE
    kernel(&world, &changed(30, &[224])); // multicast
    kernel(&world, &udp()[..33]);
    world.settings.set_port(
        IN,
        Some(&PortSettings {
            ipv4: false,
            ..PORT
        }),
    );
    kernel(&world, &udp());
    world.settings.set_port(IN, None);
    kernel(&world, &udp());
}

#[test]
fn switched_off_it_leaves_all_to_the_function() {
    let mut world = udp_world(forward());
    world.settings.enable(false);
    world.punts(&udp(), Punt::Disabled);
    world.punts(&build4(Kind::Udp, TO, FROM, 9, b""), Punt::Disabled);
    world.punts(&with_header(udp(), |ip| ip[7] = 9), Punt::Disabled);
}

#[test]
fn tags_belong_to_the_flow_and_stay() {
    let tagged = tag(&udp(), 0x8100, 5);
    let double = tag(&tag(&udp(), 0x8100, 7), 0x88a8, 5);
    let in_vlans = |a, b| Key {
        vlans: Vlans(a, b),
        ..key4(Kind::Udp, FROM, TO)
    };
    for (frame, vlans) in [(&tagged, (5, 0)), (&double, (5, 7))] {
        udp_world(forward()).punts(frame, Punt::Unknown);
        let mut world = World::with4(&in_vlans(vlans.0, vlans.1), forward());
        let sent = world.passes(frame);
        assert_eq!(
            sent[12..frame.len() - 36],
            frame[12..frame.len() - 36],
            "tags"
        );
        assert_eq!(sent.len(), frame.len());
        world.punts(&udp(), Punt::Unknown);
        world.settings.set_port(
            IN,
            Some(&PortSettings {
                tagged: false,
                ..PORT
            }),
        );
        assert_eq!(world.run(frame).0, Verdict::Kernel);
    }
    // A third one is no business of ours.
    let triple = tag(&double, 0x88a8, 1);
    assert_eq!(
        World::with4(&in_vlans(1, 5), forward()).run(&triple).0,
        Verdict::Kernel
    );
}

#[test]
fn options_are_passed_over() {
    let mut frame = udp();
    frame[14] = 0x47;
    frame.splice(34..34, [1, 1, 1, 1, 7, 3, 4, 0]);
    let frame = with_header(frame, |ip| ip[3] += 8);
    let action = Action {
        source: Some([9, 9, 9, 9].into()),
        ..forward()
    };
    let sent = udp_world(action).passes(&frame);
    assert_eq!(internet(&sent[14..42]), 0);
    assert_eq!(sent[26..30], [9, 9, 9, 9]);
    assert!(sums_right(&sent));
}

/// An IPv6 packet with extension headers before UDP: (number, bytes behind the first one).
fn extended(headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut frame = build6(Kind::Udp, FROM6, TO6, 9, b"data");
    let numbers: Vec<u8> = headers.iter().map(|h| h.0).chain([17]).collect();
    frame[20] = numbers[0];
    let mut all = Vec::new();
    for ((_, rest), next) in headers.iter().zip(&numbers[1..]) {
        all.push(*next);
        all.extend_from_slice(rest);
    }
    let len = u16::from_be_bytes([frame[18], frame[19]]) + all.len() as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame.splice(54..54, all);
    frame
}

#[test]
fn extension_headers_are_passed_over_or_need_a_look() {
    let mut world = World::new();
    World::insert(
        &mut world.flows6,
        &key(Kind::Udp, FROM6, TO6),
        Action {
            destination_port: Some(99),
            ..Action::forward(Hop::Index(1), Guard::NONE)
        },
    );
    let pad = |len: u8| {
        let mut rest = vec![len, 1, 4];
        rest.resize(usize::from(len) * 8 + 7, 0);
        rest
    };
    let routing = |left: u8| vec![0, 4, left, 0, 0, 0, 0];
    let sent = world.passes(&extended(&[
        (0, pad(0)),
        (60, pad(2)),
        (43, routing(0)),
        (60, pad(0)),
    ]));
    assert!(sums_right(&sent));
    assert_eq!(sent[sent.len() - 10..][..2], [0, 99]);
    world.passes(&extended(&vec![(60, pad(0)); 6]));
    world.punts(&extended(&vec![(60, pad(0)); 7]), Punt::Extension);
    world.punts(&extended(&[(43, routing(1))]), Punt::Extension);
    world.punts(&extended(&[(51, pad(0))]), Punt::Extension);
    world.punts(&extended(&[(44, pad(0))]), Punt::Fragment);
    world.punts(&extended(&[(60, pad(0)), (0, pad(0))]), Punt::Malformed);
    world.punts(
        &extended(&[(60, vec![200, 0, 0, 0, 0, 0, 0])]),
        Punt::Malformed,
    );
    assert_eq!(
        world.run(&extended(&[(60, pad(0)), (50, pad(0))])).0,
        Verdict::Kernel
    );
    let mut other = build6(Kind::Echo, FROM6, TO6, 9, b"");
    other[54] = 135; // neighbour solicitation
    world.punts(&other, Punt::Icmp);
    let mut multicast = build6(Kind::Udp, FROM6, TO6, 9, b"");
    multicast[38] = 0xff;
    assert_eq!(world.run(&multicast).0, Verdict::Kernel);
    let mut unfinished = build6(Kind::Udp, FROM6, TO6, 9, b"data");
    let pseudo = Sum::default()
        .bytes(&unfinished[22..54])
        .word(17)
        .word(12)
        .fold();
    unfinished[60..62].copy_from_slice(&pseudo.to_be_bytes());
    world.punts(&unfinished, Punt::PartialChecksum);
}

#[test]
fn direct_server_return_changes_hardware_addresses_alone() {
    let sent = udp_world(Action::forward(Hop::Index(1), Guard::NONE)).passes(&udp());
    assert_eq!(sent[12..], udp()[12..]);
    assert_eq!(sent[..12], [NEXT.destination.0, NEXT.source.0].concat());
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut frame = udp();
    frame[40..42].fill(0);
    let source = Some(Ipv4Addr::new(1, 2, 3, 4));
    let sent = udp_world(Action {
        source,
        ..forward()
    })
    .passes(&frame);
    assert_eq!(sent[40..42], [0, 0]);
    let reached = (0..=u16::MAX).step_by(1).any(|port| {
        let action = Action {
            source_port: Some(port),
            ..forward()
        };
        let sent = udp_world(action).passes(&udp());
        assert_ne!(sent[40..42], [0, 0], "would mean: none");
        sent[40..42] == [0xff, 0xff]
    });
    assert!(reached, "one of all ports gives a zero sum");
}
