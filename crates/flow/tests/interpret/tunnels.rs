//! Headers in front of packets.

use etherparse::{IpNumber, PacketBuilder};
use stateplane_flow::fast::{Action, Key, Kind, NextHop, Punt, Tunnel, Vlans};
use stateplane_wire::checksum::internet;

use crate::world::*;

/// An outer header, by another library, with lengths that are not right yet.
struct Outer {
    bytes: Vec<u8>,
    ip: usize,
    udp: bool,
}

fn ipv4(protocol: u8) -> Outer {
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]);
    let builder = builder.ipv4([203, 0, 113, 1], [203, 0, 113, 2], 64);
    let mut frame = Vec::new();
    builder.write(&mut frame, IpNumber(protocol), &[]).unwrap();
    let bytes = frame.split_off(14);
    Outer {
        ip: bytes.len(),
        bytes,
        udp: false,
    }
}

fn ipv6(protocol: u8) -> Outer {
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]);
    let builder = builder.ipv6([1; 16], [2; 16], 64);
    let mut frame = Vec::new();
    builder.write(&mut frame, IpNumber(protocol), &[]).unwrap();
    let bytes = frame.split_off(14);
    Outer {
        ip: bytes.len(),
        bytes,
        udp: false,
    }
}

fn gre(mut outer: Outer) -> Outer {
    outer.bytes.extend_from_slice(&[0, 0, 8, 0]);
    outer
}

fn vxlan(mut outer: Outer) -> Outer {
    let udp = [0x12, 0x34, 0x12, 0xb5, 0, 0, 0, 0];
    let header = [8, 0, 0, 0, 0, 0, 42, 0];
    let inner = [6, 6, 6, 6, 6, 6, 5, 5, 5, 5, 5, 5, 8, 0];
    outer
        .bytes
        .extend_from_slice(&[&udp[..], &header, &inner].concat());
    outer.udp = true;
    outer
}

impl Outer {
    /// Compares what stands in front of a packet with what should.
    fn check(&self, sent: &[u8]) {
        let (front, header) = (&sent[..self.bytes.len()], &self.bytes);
        let word = |at: usize| usize::from(u16::from_be_bytes([front[at], front[at + 1]]));
        if self.ip == 20 {
            assert_eq!(word(2), sent.len());
            assert_eq!(internet(&front[..20]), 0);
            assert_eq!(front[12..20], header[12..20]);
        } else {
            assert_eq!(word(4), sent.len() - 40);
            assert_eq!(front[6..40], header[6..40]);
        }
        let mut rest = self.ip;
        if self.udp {
            assert_eq!(word(rest + 4), sent.len() - rest);
            assert!(word(rest) >= 0xc000, "the source port tells flows apart");
            assert_eq!(word(rest + 2), 4789);
            rest += 8;
        }
        assert_eq!(front[rest..], header[rest..]);
    }
}

/// Sends `frame`, which has `l3` bytes before its packet, through the tunnel.
fn send(outer: &Outer, frame: &[u8], l3: usize) {
    let vlans = Vlans(if l3 > 14 { 5 } else { 0 }, 0);
    let key = Key {
        vlans,
        ..key4(Kind::Udp, FROM, TO)
    };
    let tunnelled = Action {
        tunnel: 1,
        ..forward()
    };
    let mut world = World::with4(&key, tunnelled);
    world.punts(frame, Punt::Tunnel);
    let tunnel = Tunnel::new(&outer.bytes, true).unwrap();
    world.tunnels.set(1, &tunnel).unwrap();
    assert_eq!(world.tunnels.get(1), Some(tunnel));
    let sent = world.passes(frame);
    let (link, rest) = sent.split_at(l3);
    assert_eq!(link[..6], NEXT.destination.0);
    assert_eq!(link[12..l3 - 2], frame[12..l3 - 2]);
    let ethertype = if outer.ip == 20 { [8, 0] } else { [0x86, 0xdd] };
    assert_eq!(link[l3 - 2..], ethertype);
    outer.check(rest);
    // Inside is what would have been sent otherwise.
    World::insert(&mut world.flows4, &key, forward());
    assert_eq!(rest[outer.bytes.len()..], world.passes(frame)[l3..]);
    // One byte too long for the link with its header.
    World::insert(&mut world.flows4, &key, tunnelled);
    let mtu = rest.len() as u16 - 1;
    world.hops.set(1, &NextHop { mtu, ..NEXT }).unwrap();
    world.punts(frame, Punt::Mtu);
    world.tunnels.clear(1).unwrap();
    world.punts(frame, Punt::Tunnel);
}

#[test]
fn tunnels_put_a_right_header_in_front() {
    for outer in [
        ipv4(4),
        ipv6(4),
        gre(ipv4(47)),
        gre(ipv6(47)),
        vxlan(ipv4(17)),
        vxlan(ipv6(17)),
    ] {
        send(&outer, &udp(), 14);
        send(&outer, &tag(&udp(), 0x8100, 5), 18);
    }
}

#[test]
fn what_cannot_be_a_tunnel_is_refused() {
    for bad in [
        &[0x45; 18][..],
        &[0x45; 114],
        &[0x46; 24],
        &[0x60; 38],
        &[0x45; 21],
    ] {
        assert!(Tunnel::new(bad, false).is_err(), "{bad:x?}");
    }
    assert!(Tunnel::new(&[0x45; 20], false).is_ok());
}
