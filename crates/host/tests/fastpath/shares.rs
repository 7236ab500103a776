//! What the function, and what the kernel gets, with the fast path switched off and without one.

use stateplane_flow::PortId;
use stateplane_flow::fast::PortSettings;
use stateplane_host::bpf::fastpath::{Prefix, Programs};
use stateplane_host::port::Mac;

use crate::support::{Random, can_make_interfaces};
use crate::world::{PORT, World};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const LOCAL: [u8; 4] = [10, 1, 0, 1];
const POOL: [u8; 4] = [198, 51, 100, 5];
const POOL_AND_LOCAL: [u8; 4] = [198, 51, 100, 6];
const FAR: [u8; 4] = [203, 0, 113, 9];

fn ethernet(destination: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &OTHER_MAC, &kind.to_be_bytes(), payload].concat()
}

fn ipv4(protocol: u8, destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&[10, 1, 0, 2]);
    packet[16..20].copy_from_slice(&destination);
    packet
}

fn arp(operation: u8, target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    packet[24..].copy_from_slice(&target);
    packet
}

const KERNEL: u32 = 2; // XDP_PASS
const FUNCTION: u32 = 1; // XDP_DROP: there is no socket

/// Each frame goes to whom it is said to.
fn share(programs: &Programs, port: PortId, cases: &[(&str, u32, Vec<u8>)]) {
    let owned = Prefix::cover(POOL.into(), POOL_AND_LOCAL.into());
    programs.add_pool(&owned).unwrap();
    programs.set_locals(&[FAR.into()]).unwrap();
    let locals = [LOCAL.into(), POOL_AND_LOCAL.into()];
    programs.set_locals(&locals).unwrap();
    for (name, expected, frame) in cases {
        let outcome = programs.try_on(port, frame).unwrap();
        assert_eq!(outcome.action, *expected, "{name}, {port:?}");
        assert_eq!(outcome.frame, *frame, "{name}: left unchanged");
    }
    let counters = programs.counters(port).unwrap();
    let dropped = cases.iter().filter(|case| case.1 == FUNCTION).count() as u64;
    assert_eq!((counters.function, counters.arp), (0, 0));
    assert_eq!(counters.no_socket, dropped);
    assert_eq!(counters.kernel, cases.len() as u64 - dropped);
}

#[test]
fn the_function_gets_its_packets_and_the_kernel_the_rest() {
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(99));
    let four = PortSettings {
        ipv6: false,
        tagged: false,
        ..PORT
    };
    world.settings.set_port(PortId::INSIDE, Some(&four));
    world.settings.enable(false);
    let ip = |protocol, destination| ethernet(MAC, 0x0800, &ipv4(protocol, destination));
    let request = |target| ethernet([0xff; 6], 0x0806, &arp(1, target));
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("TCP to afar", FUNCTION, ip(6, FAR)),
        ("UDP to afar", FUNCTION, ip(17, FAR)),
        ("ICMP to afar", FUNCTION, ip(1, FAR)),
        ("GRE to afar", KERNEL, ip(47, FAR)),
        ("TCP to us", KERNEL, ip(6, LOCAL)),
        ("TCP to the pool", FUNCTION, ip(6, POOL)),
        (
            "TCP to a pool address that is ours too",
            FUNCTION,
            ip(6, POOL_AND_LOCAL),
        ),
        ("multicast", KERNEL, ip(17, [224, 0, 0, 251])),
        ("broadcast", KERNEL, ip(17, [255; 4])),
        (
            "another's MAC",
            KERNEL,
            ethernet(OTHER_MAC, 0x0800, &ipv4(6, FAR)),
        ),
        (
            "all MACs",
            KERNEL,
            ethernet([0xff; 6], 0x0800, &ipv4(6, FAR)),
        ),
        (
            "a header cut short",
            KERNEL,
            ethernet(MAC, 0x0800, &ipv4(6, FAR)[..19]),
        ),
        ("no packet at all", KERNEL, ethernet(MAC, 0x0800, &[])),
        ("IPv6", KERNEL, ethernet(MAC, 0x86dd, &[0x60; 60])),
        ("a VLAN", KERNEL, ethernet(MAC, 0x8100, &[0; 60])),
        ("ARP for the pool", FUNCTION, request(POOL)),
        (
            "ARP for a pool address that is ours",
            KERNEL,
            request(POOL_AND_LOCAL),
        ),
        ("ARP for us", KERNEL, request(LOCAL)),
        ("ARP for another", KERNEL, request(FAR)),
        ("an ARP reply", KERNEL, ethernet(MAC, 0x0806, &arp(2, POOL))),
        (
            "ARP cut short",
            KERNEL,
            ethernet(MAC, 0x0806, &arp(1, POOL)[..27]),
        ),
    ];
    let stations = [Mac(OTHER_MAC), Mac(MAC)];
    let punt = Programs::punt(stations).unwrap();
    let switched_off: &Programs = &world.fast_path;
    for (programs, port) in [(switched_off, PortId::INSIDE), (&punt, PortId::OUTSIDE)] {
        share(programs, port, &cases);
    }
    let at_the_other = punt.try_on(PortId::INSIDE, &ip(17, FAR)).unwrap();
    assert_eq!(at_the_other.action, KERNEL, "not that port's station");
}
