//! The program's decisions, frame by frame.

use aya::programs::Xdp;

use super::super::{TestRunMode, test_run};
use super::*;

fn cover(first: [u8; 4], last: [u8; 4]) -> Vec<String> {
    let text = |prefix: &Prefix| format!("{}/{}", prefix.address, prefix.length);
    Prefix::cover(first.into(), last.into())
        .iter()
        .map(text)
        .collect()
}

#[test]
fn a_range_becomes_the_fewest_prefixes() {
    assert_eq!(cover([10, 0, 0, 0], [10, 0, 0, 255]), ["10.0.0.0/24"]);
    assert_eq!(
        cover([198, 51, 100, 1], [198, 51, 100, 16]),
        [
            "198.51.100.1/32",
            "198.51.100.2/31",
            "198.51.100.4/30",
            "198.51.100.8/29",
            "198.51.100.16/32"
        ]
    );
    assert_eq!(cover([0, 0, 0, 0], [255, 255, 255, 255]), ["0.0.0.0/0"]);
    assert_eq!(
        cover([255, 255, 255, 255], [255, 255, 255, 255]),
        ["255.255.255.255/32"]
    );
    assert!(cover([10, 0, 0, 2], [10, 0, 0, 1]).is_empty());
}

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

/// The program with addresses set and no socket: what it has for the function it
/// drops, what it has for the kernel it passes.
fn program() -> Option<Ebpf> {
    let mut ebpf = match load("punt", object!("punt")) {
        Ok(ebpf) => ebpf,
        Err(error) if error.to_string().contains("run as root") => {
            println!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    set_station(&mut ebpf, Mac(MAC)).unwrap();
    set_pool(
        &mut ebpf,
        &Prefix::cover(POOL.into(), POOL_AND_LOCAL.into()),
    )
    .unwrap();
    set_locals(&mut ebpf, &[FAR.into()]).unwrap();
    set_locals(&mut ebpf, &[LOCAL.into(), POOL_AND_LOCAL.into()]).unwrap();
    verify(&mut ebpf, "punt").unwrap();
    Some(ebpf)
}

#[test]
fn the_function_gets_its_packets_and_the_kernel_the_rest() {
    const KERNEL: u32 = 2; // XDP_PASS
    const FUNCTION: u32 = 1; // XDP_DROP: there is no socket
    let Some(ebpf) = program() else { return };
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
    let xdp: &Xdp = ebpf.program("punt").unwrap().try_into().unwrap();
    for (name, expected, frame) in &cases {
        let outcome = test_run(xdp, frame, 1, TestRunMode::Dry).unwrap();
        assert_eq!(outcome.action, *expected, "{name}");
        assert_eq!(outcome.frame, *frame, "{name}: left unchanged");
    }
    let [function, kernel, arp, no_socket] = counters(&ebpf).unwrap();
    let dropped = cases.iter().filter(|case| case.1 == FUNCTION).count() as u64;
    assert_eq!((function, arp, no_socket), (0, 0, dropped));
    assert_eq!(kernel, cases.len() as u64 - dropped);
}
