//! The yardstick programs do what the fast path does: the rewritten packet is right.

mod support;

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use stateplane_host::bpf::limits::{Limit, LimitFlow, LimitHop, LimitProgram};
use stateplane_host::bpf::{TestRunMode, test_run};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::port::Mac;
use support::{End, can_make_interfaces, plain_cable};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 2), 5000);
const DESTINATION: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 80);
const REPLACEMENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 61234);
const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn frame(protocol: u8, port: u16) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], NEAR).ipv4(
        SOURCE.ip().octets(),
        DESTINATION.ip().octets(),
        64,
    );
    let mut bytes = Vec::new();
    match protocol {
        6 => packet
            .tcp(port, DESTINATION.port(), 7, 1000)
            .write(&mut bytes, b"some text"),
        _ => packet
            .udp(port, DESTINATION.port())
            .write(&mut bytes, b"some text"),
    }
    .unwrap();
    bytes
}

/// The rewritten packet has the new source, and checksums that an independent reader
/// computes as well.
fn check(rewritten: &[u8]) {
    assert_eq!(rewritten[..12], [FAR, NEAR].concat());
    let packet = SlicedPacket::from_ethernet(rewritten).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
        panic!("no IPv4: {rewritten:02x?}")
    };
    let header = ip.header().to_header();
    assert_eq!(header.source, REPLACEMENT.ip().octets());
    assert_eq!(header.time_to_live, 63);
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let computed = tcp.calc_checksum_ipv4(header.source, header.destination);
            assert_eq!(tcp.checksum(), computed.unwrap());
            assert_eq!(tcp.source_port(), REPLACEMENT.port());
        }
        TransportSlice::Udp(udp) => {
            let computed = udp
                .to_header()
                .calc_checksum_ipv4(&header, udp.payload())
                .unwrap();
            assert_eq!(udp.checksum(), computed);
            assert_eq!(udp.source_port(), REPLACEMENT.port());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_limit_does_what_it_says() {
    if !can_make_interfaces() {
        return;
    }
    let near = Namespace::create("near").unwrap();
    let far = Namespace::create("far").unwrap();
    let end = |namespace, name, mac| End {
        namespace,
        name,
        mac,
        address: None,
    };
    plain_cable(&end(&near, "near0", NEAR), &end(&far, "far0", FAR)).unwrap();
    near.run(|| {
        let hop = LimitHop {
            ifindex: Netlink::open()?.index("near0")?,
            source: Mac(NEAR),
            destination: Mac(FAR),
        };
        for limit in [Limit::Redirect, Limit::Lookup, Limit::Nat] {
            let flows = [6, 17].map(|protocol| LimitFlow {
                protocol,
                source: SOURCE,
                destination: DESTINATION,
                replacement: REPLACEMENT,
            });
            let program = LimitProgram::attach(limit, "near0", hop, flows.into_iter()).unwrap();
            let xdp = program.program().unwrap();
            for protocol in [6, 17] {
                let known = frame(protocol, SOURCE.port());
                let outcome = test_run(xdp, &known, 1, TestRunMode::Dry).unwrap();
                assert_eq!(outcome.action, XDP_REDIRECT, "{limit:?}");
                match limit {
                    Limit::Nat => check(&outcome.frame),
                    _ => assert_eq!(outcome.frame, known),
                }
                let unknown = frame(protocol, SOURCE.port() + 1);
                let outcome = test_run(xdp, &unknown, 1, TestRunMode::Dry).unwrap();
                let expected = match limit {
                    Limit::Redirect => XDP_REDIRECT,
                    _ => XDP_PASS,
                };
                assert_eq!((outcome.action, outcome.frame), (expected, unknown));
            }
        }
        Ok(())
    })
    .unwrap();
}
