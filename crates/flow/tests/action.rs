//! The reference interpreter: a rewritten packet is the packet another implementation
//! builds with the new endpoints, byte for byte.

use etherparse::PacketBuilder;
use proptest::prelude::*;
use stateplane_flow::{Endpoint, FlowAction, PortId, Unfit};
use stateplane_wire::packet::Headers;

type End = ([u8; 4], u16);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

fn build(kind: Kind, from: End, to: End, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(from.0, to.0, ttl);
    let mut out = Vec::new();
    match kind {
        Kind::Tcp => packet
            .tcp(from.1, to.1, 7, 8)
            .ack(9)
            .write(&mut out, payload),
        Kind::Udp => packet.udp(from.1, to.1).write(&mut out, payload),
        Kind::Echo => packet
            .icmpv4_echo_request(from.1, 3)
            .write(&mut out, payload),
    }
    .unwrap();
    out
}

/// An ICMP error with the first `quoted` bytes of `packet`, an IPv4 packet.
fn error(from: [u8; 4], to: [u8; 4], ttl: u8, packet: &[u8], quoted: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(from, to, ttl);
    let mut out = Vec::new();
    let quote = &packet[..quoted.min(packet.len())];
    builder
        .icmpv4_raw(11, 0, [0; 4])
        .write(&mut out, quote)
        .unwrap();
    out
}

fn endpoint((addr, port): End) -> Endpoint {
    Endpoint {
        addr: addr.into(),
        port,
    }
}

fn action(source: Option<End>, destination: Option<End>, ttl: u8) -> FlowAction {
    let (source, destination) = (source.map(endpoint), destination.map(endpoint));
    FlowAction {
        source,
        destination,
        ttl,
        out: PortId::OUTSIDE,
    }
}

fn apply(action: &FlowAction, frame: &[u8]) -> Result<Vec<u8>, Unfit> {
    let headers = Headers::parse(frame).unwrap();
    let mut rewritten = frame.to_vec();
    action.apply(&mut rewritten, &headers).map(|()| rewritten)
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Tcp, Kind::Udp, Kind::Echo])
}

/// Zero and all ones are the same sum; builders choose either.
fn same(ours: &[u8], theirs: &[u8], checksums: &[usize]) -> bool {
    let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
    for &at in checksums {
        for bytes in [&mut ours, &mut theirs] {
            if bytes.get(at..at + 2) == Some(&[0xff, 0xff]) {
                bytes[at..at + 2].fill(0);
            }
        }
    }
    ours == theirs
}

const fn checksum_at(kind: Kind) -> usize {
    match kind {
        Kind::Tcp => 16,
        Kind::Udp => 6,
        Kind::Echo => 2,
    }
}

proptest! {
    #[test]
    fn packets_are_rewritten_as_if_built_so(
        kind in kinds(), from: End, to: End, new_from: Option<End>, new_to: Option<End>,
        ttl in 1u8.., falls in 0..3u8, payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let frame = build(kind, from, to, ttl, &payload);
        let rewritten = apply(&action(new_from, new_to, falls), &frame).unwrap();
        let (mut from_now, to_now) = (new_from.unwrap_or(from), new_to.unwrap_or(to));
        if matches!(kind, Kind::Echo) {
            // One identifier, given as the source's port to the builder.
            from_now.1 = new_to.or(new_from).unwrap_or(from).1;
        }
        let expected = build(kind, from_now, to_now, ttl.saturating_sub(falls), &payload);
        prop_assert!(same(&rewritten, &expected, &[24, 34 + checksum_at(kind)]));
    }

    #[test]
    fn errors_are_rewritten_with_what_they_quote(
        kind in kinds(), from: End, to: End, new: End, router: [u8; 4], inbound: bool,
        quoted in 28usize..60, payload in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        // Half a TCP checksum cannot be updated.
        prop_assume!(quoted != 37);
        // Inbound: about a packet that was sent from an outside endpoint.
        let quote = |from, to| build(kind, from, to, 5, &payload)[14..].to_vec();
        let (frame, expected, action) = if inbound {
            let changed = if matches!(kind, Kind::Echo) { (new.0, new.1) } else { new };
            (
                error(router, from.0, 60, &quote(from, to), quoted),
                error(router, new.0, 59, &quote(changed, to), quoted),
                action(None, Some(new), 1),
            )
        } else {
            let changed = if matches!(kind, Kind::Echo) { (from.0, new.1) } else { from };
            (
                error(to.0, router, 60, &quote(from, to), quoted),
                error(new.0, router, 59, &quote(changed, new), quoted),
                action(Some(new), None, 1),
            )
        };
        let rewritten = apply(&action, &frame).unwrap();
        let sums = [24, 36, 42 + 10, 62 + checksum_at(kind)];
        prop_assert!(same(&rewritten, &expected, &sums), "{rewritten:02x?}\n{expected:02x?}");
    }

    #[test]
    fn damage_is_not_repaired(
        kind in kinds(), new: End, bit in 0usize..8, at in any::<prop::sample::Index>(),
    ) {
        let from = ([10, 0, 0, 1], 4000);
        let to = ([192, 0, 2, 1], 53);
        let mut frame = build(kind, from, to, 9, b"some payload");
        let damaged = frame.len() - 12 + at.index(12);
        frame[damaged] ^= 1 << bit;
        let rewritten = apply(&action(Some(new), None, 1), &frame).unwrap();
        let mut repaired = rewritten.clone();
        repaired[damaged] ^= 1 << bit;
        let mut right = build(kind, (new.0, new.1), to, 8, b"some payload");
        let sums = [24, 34 + checksum_at(kind)];
        prop_assert!(same(&repaired, &right, &sums), "only the damage differs");
        right[damaged] ^= 1 << bit;
        prop_assert!(same(&rewritten, &right, &sums));
    }

    #[test]
    fn headers_of_another_frame_do_no_harm(
        kind in kinds(), bytes in prop::collection::vec(any::<u8>(), 0..120), quoted in 28usize..60,
    ) {
        let end = ([10, 0, 0, 1], 1);
        let inner = build(kind, end, end, 9, b"payload");
        for frame in [inner.clone(), error(end.0, end.0, 9, &inner[14..], quoted)] {
            let headers = Headers::parse(&frame).unwrap();
            let mut other = bytes.clone();
            let done = action(Some(end), Some(end), 1).apply(&mut other, &headers);
            prop_assert!(done.is_ok() || other.len() < headers.end);
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut frame = build(Kind::Udp, ([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2), 9, b"x");
    frame[40..42].fill(0);
    let rewritten = apply(&action(Some(([1, 2, 3, 4], 5)), None, 1), &frame).unwrap();
    assert_eq!(rewritten[40..42], [0, 0]);
    assert_eq!(rewritten[26..36], [1, 2, 3, 4, 10, 0, 0, 2, 0, 5]);
}

#[test]
fn a_checksum_that_becomes_zero_is_sent_as_ones() {
    let from = ([10, 0, 0, 1], 1);
    let seen = (0..=u16::MAX).any(|port| {
        let frame = build(Kind::Udp, from, ([10, 0, 0, 2], 2), 9, b"xy");
        let rewritten = apply(&action(Some((from.0, port)), None, 0), &frame).unwrap();
        assert_ne!(rewritten[40..42], [0, 0], "would mean: none");
        rewritten[40..42] == [0xff, 0xff]
    });
    assert!(seen, "one of all ports gives a zero sum");
}

#[test]
fn what_has_no_ports_is_not_rewritten() {
    let end = ([10, 0, 0, 1], 1);
    let mut fragment = build(Kind::Udp, end, end, 9, b"12345678");
    fragment[20..22].copy_from_slice(&[0, 3]);
    let header = etherparse::Ipv4Header::from_slice(&fragment[14..])
        .unwrap()
        .0;
    fragment[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    assert_eq!(apply(&action(Some(end), None, 1), &fragment), Err(Unfit));
    let routed = apply(&action(None, None, 1), &fragment).unwrap();
    assert_eq!(routed[22], 8, "but it can be routed");
}

/// The sum of nothing but zeros has two forms, of which receivers take one.
#[test]
fn an_echo_reply_of_zeros_alone_keeps_a_right_checksum() {
    for (from, to) in [(0xae87, 0), (0xffff, 0), (0, 0), (0, 9)] {
        let reply = |identifier| {
            let packet = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([1; 4], [2; 4], 9);
            let mut out = Vec::new();
            let echo = packet.icmpv4_echo_reply(identifier, 0);
            echo.write(&mut out, &[0; 6]).unwrap();
            out
        };
        let mut frame = reply(from);
        let headers = Headers::parse(&frame).unwrap();
        let rewrite = action(None, Some(([2; 4], to)), 0);
        rewrite.apply(&mut frame, &headers).unwrap();
        assert_eq!(frame, reply(to), "{from} to {to}");
    }
}
