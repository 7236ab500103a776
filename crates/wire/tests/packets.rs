//! Packet headers against another implementation (etherparse), and on any bytes.

use std::net::Ipv4Addr;

use etherparse::{IpFragOffset, Ipv4Options, NetHeaders, PacketBuilder, PacketHeaders};
use etherparse::{SlicedPacket, TransportHeader, TransportSlice};
use proptest::prelude::*;
use stateplane_wire::arp::{Arp, Operation};
use stateplane_wire::checksum::{self, Delta, Sum, finish_partial_checksum};
use stateplane_wire::eth::Mac;
use stateplane_wire::icmp_error::{self, Error};
use stateplane_wire::packet::{Fragment, Headers, Malformed, Transport};
use stateplane_wire::tcp::Flags;

const SOURCE: [u8; 4] = [10, 0, 0, 5];
const DESTINATION: [u8; 4] = [203, 0, 113, 9];

fn build(kind: u8, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]).ipv4(
        SOURCE,
        DESTINATION,
        17,
    );
    let mut out = Vec::new();
    match kind {
        0 => packet.udp(source, destination).write(&mut out, payload),
        1 => packet
            .tcp(source, destination, 1, 2)
            .syn()
            .write(&mut out, payload),
        _ => packet
            .icmpv4_echo_request(source, destination)
            .write(&mut out, payload),
    }
    .unwrap();
    out
}

#[test]
fn a_frame_is_read_as_it_was_written() {
    let frame = build(1, 40000, 443, b"hello");
    let headers = Headers::parse(&frame).unwrap();
    assert_eq!((headers.l3, headers.l4, headers.end), (14, 34, frame.len()));
    assert_eq!(
        (headers.source.octets(), headers.destination.octets()),
        (SOURCE, DESTINATION)
    );
    assert_eq!((headers.ttl, headers.dont_fragment), (17, true));
    let expected = Transport::Tcp {
        source: 40000,
        destination: 443,
        flags: Flags::SYN,
        data: true,
    };
    assert_eq!(headers.transport, expected);
    // Padding behind the packet is not the packet's.
    let mut padded = build(0, 1, 2, b"");
    padded.resize(60, 0xaa);
    assert_eq!(Headers::parse(&padded).unwrap().end, 42);
}

#[test]
fn tags_options_and_fragments() {
    let mut ip =
        etherparse::Ipv4Header::new(8, 9, etherparse::IpNumber::UDP, SOURCE, DESTINATION).unwrap();
    ip.options = Ipv4Options::from([1; 8]);
    ip.total_len = 36;
    ip.more_fragments = true;
    for offset in [0u16, 5] {
        ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 8, 0]);
        frame.extend(ip.to_bytes());
        frame.extend([0, 53, 1, 0, 0, 100, 0, 0]);
        let headers = Headers::parse(&frame).unwrap();
        assert_eq!((headers.l3, headers.l4), (22, 50));
        let (fragment, transport) = match offset {
            0 => (
                Fragment::First,
                Transport::Udp {
                    source: 53,
                    destination: 256,
                },
            ),
            _ => (Fragment::Later, Transport::Fragment),
        };
        assert_eq!((headers.fragment, headers.transport), (fragment, transport));
    }
}

#[test]
fn what_is_wrong_is_said() {
    let whole = build(0, 1, 2, b"abc");
    for len in 0..whole.len() {
        assert_eq!(
            Headers::parse(&whole[..len]),
            Err(Malformed::Truncated),
            "{len} bytes"
        );
    }
    let changed = |at: usize, value: u8| {
        let mut frame = whole.clone();
        frame[at] = value;
        Headers::parse(&frame)
    };
    assert_eq!(changed(12, 0x86), Err(Malformed::EtherType(0x8600)));
    assert_eq!(changed(14, 0x65), Err(Malformed::Version));
    assert_eq!(changed(14, 0x44), Err(Malformed::Lengths));
    assert_eq!(changed(17, 19), Err(Malformed::Lengths));
    assert_eq!(changed(22, 3), Err(Malformed::Checksum));
    assert_eq!(
        changed(39, 7),
        Err(Malformed::Lengths),
        "UDP shorter than its header"
    );
    assert_eq!(
        changed(39, 12),
        Err(Malformed::Lengths),
        "UDP longer than its packet"
    );
}

#[test]
fn arp_there_and_back() {
    let request = Arp {
        operation: Operation::Request,
        sender_mac: Mac([2, 0, 0, 0, 0, 1]),
        sender: SOURCE.into(),
        target_mac: Mac::default(),
        target: DESTINATION.into(),
    };
    let mut frame = [0; 42];
    assert_eq!(request.write(&mut frame), Some(42));
    assert_eq!(request.write(&mut frame[..41]), None);
    let written = frame;
    let parsed = SlicedPacket::from_ethernet(&written).unwrap();
    let Some(etherparse::NetSlice::Arp(arp)) = parsed.net else {
        panic!("{parsed:?}")
    };
    assert_eq!(arp.sender_protocol_addr(), SOURCE);
    assert_eq!(arp.target_protocol_addr(), DESTINATION);
    assert_eq!(arp.operation(), etherparse::ArpOperation::REQUEST);
    assert_eq!(Arp::parse(&frame), Ok(request));
    let reply = request.reply(Mac([2, 0, 0, 0, 0, 7]));
    reply.write(&mut frame).unwrap();
    assert_eq!(&frame[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7]);
    assert_eq!(Arp::parse(&frame), Ok(reply));
    assert_eq!(Arp::parse(&frame[..41]), Err(Malformed::Truncated));
    frame[18] = 8;
    assert_eq!(Arp::parse(&frame), Err(Malformed::Lengths));
}

#[test]
fn known_checksums() {
    // The example of RFC 1071 section 3: the sum is ddf2.
    assert_eq!(
        checksum::internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        !0xddf2
    );
    // The example of RFC 1624 section 4: 5555 becomes 3285 and the checksum 0, not ffff.
    assert_eq!(Delta::default().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    assert_eq!(checksum::internet(&[0xab]), !0xab00);
    assert_eq!(
        Delta::default().word(1, 2).apply_udp(0),
        0,
        "none stays none"
    );
}

#[test]
fn errors_quote_what_they_are_about() {
    for kind in 0..3 {
        let frame = build(kind, 40000, 443, &[9; 700]);
        let headers = Headers::parse(&frame).unwrap();
        let mut buffer = frame.clone();
        buffer.resize(1000, 0);
        let from = Ipv4Addr::new(10, 0, 0, 1);
        let needed = Error::FragmentationNeeded { mtu: 1400 };
        let len = icmp_error::build(&mut buffer, &headers, needed, from).unwrap();
        assert_eq!(len, 14 + icmp_error::LEN_MAX);
        let error = PacketHeaders::from_ethernet_slice(&buffer[..len]).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = error.net else {
            panic!("not IPv4")
        };
        assert_eq!((ip.source, ip.destination), (from.octets(), SOURCE));
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let Some(TransportHeader::Icmpv4(icmp)) = error.transport else {
            panic!("not ICMP")
        };
        assert_eq!(
            icmp.checksum,
            icmp.icmp_type.calc_checksum(error.payload.slice())
        );
        assert_eq!(
            (buffer[34], buffer[35], &buffer[38..42]),
            (3, 4, &[0, 0, 5, 120][..])
        );
        assert_eq!(&buffer[42..len], &frame[14..14 + 548], "quoted as it came");
        assert_eq!(
            &buffer[..12],
            [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1],
            "back to its sender"
        );
        // And it is read as the error that it is.
        let parsed = Headers::parse(&buffer[..len]).unwrap();
        let Transport::Error(inner) = parsed.transport else {
            panic!("{parsed:?}")
        };
        assert_eq!(
            (inner.source.octets(), inner.destination.octets()),
            (SOURCE, DESTINATION)
        );
        let ports = if kind == 2 {
            (40000, 40000)
        } else {
            (40000, 443)
        };
        assert_eq!(inner.ports, Some(ports));
    }
}

#[test]
fn errors_about_some_packets_must_not_be_sent() {
    let frame = build(0, 1, 2, b"abc");
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = frame.clone();
        change(&mut frame);
        frame[24..26].fill(0);
        let sum = checksum::internet(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let headers = Headers::parse(&frame).unwrap();
        let mut buffer = frame.clone();
        buffer.resize(200, 0);
        let before = buffer.clone();
        let from = Ipv4Addr::new(10, 0, 0, 1);
        let built = icmp_error::build(&mut buffer, &headers, Error::TimeExceeded, from);
        assert!(built.is_some() || before == buffer, "untouched if refused");
        built.is_none()
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|frame| frame[0] = 3), "multicast frame");
    assert!(refused(&|frame| frame[30] = 230), "multicast packet");
    assert!(refused(&|frame| frame[30..34].fill(255)), "broadcast");
    assert!(refused(&|frame| frame[26..30].fill(0)), "no source");
    assert!(refused(&|frame| frame[26] = 127), "loopback source");
    assert!(
        refused(&|frame| frame[20..22].copy_from_slice(&[0, 9])),
        "later fragment"
    );
    assert!(
        refused(&|frame| (frame[23], frame[34]) = (1, 5)),
        "ICMP redirect"
    );
    let mut error = frame.clone();
    error.resize(200, 0);
    let headers = Headers::parse(&frame).unwrap();
    let from = DESTINATION.into();
    let len = icmp_error::build(&mut error, &headers, Error::PortUnreachable, from).unwrap();
    let headers = Headers::parse(&error[..len]).unwrap();
    assert_eq!(
        icmp_error::build(&mut error, &headers, Error::TimeExceeded, from),
        None
    );
    // No room for the added headers and the start of the packet.
    let headers = Headers::parse(&frame).unwrap();
    let mut tight = frame.clone();
    assert_eq!(
        icmp_error::build(&mut tight, &headers, Error::TimeExceeded, from),
        None
    );
}

/// The transport checksum another implementation computes for a frame.
fn right_checksum(frame: &[u8]) -> u16 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
        panic!("not IPv4")
    };
    let ip = ip.header().to_header();
    match packet.transport {
        Some(TransportSlice::Udp(udp)) => udp
            .to_header()
            .calc_checksum_ipv4(&ip, udp.payload())
            .unwrap(),
        Some(TransportSlice::Tcp(tcp)) => tcp
            .to_header()
            .calc_checksum_ipv4(&ip, tcp.payload())
            .unwrap(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn full_checksums_agree(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        // An ICMP message of any content: type 8 with the four bytes behind the checksum.
        let kind = etherparse::Icmpv4Type::Unknown { type_u8: 200, code_u8: 3, bytes5to8: [0; 4] };
        let mut message = vec![200, 3, 0, 0, 0, 0, 0, 0];
        message.extend(&bytes);
        prop_assert_eq!(checksum::internet(&message), kind.calc_checksum(&bytes));
    }

    #[test]
    fn incremental_and_full_checksums_agree(
        mut bytes in prop::collection::vec(any::<u8>(), 12..80),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), any::<bool>()), 0..5),
    ) {
        bytes[0] |= 1; // RFC 1624: data that is all zero has no negative zero
        let before = checksum::internet(&bytes);
        let mut delta = Delta::default();
        for (at, value, wide) in changes {
            let at = 2 + at.index((bytes.len() - 6) / 2) * 2;
            if wide {
                let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
                delta = delta.field(old, value);
                bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            } else {
                let (value, old) = (value as u16, [bytes[at], bytes[at + 1]]);
                delta = delta.word(u16::from_be_bytes(old), value);
                bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
        }
        prop_assert_eq!(delta.apply(before), checksum::internet(&bytes));
    }

    #[test]
    fn unfinished_checksums_are_finished(
        tcp in any::<bool>(), ports in any::<(u16, u16)>(),
        payload in prop::collection::vec(any::<u8>(), 0..90), padding in 0usize..10,
    ) {
        let (kind, protocol, at) = if tcp { (1, 6, 50) } else { (0, 17, 40) };
        let whole = build(kind, ports.0, ports.1, &payload);
        let mut frame = whole.clone();
        let len = (frame.len() - 34) as u16;
        let pseudo = Sum::default().pseudo(SOURCE.into(), DESTINATION.into(), protocol, len);
        frame[at..at + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
        let headers = Headers::parse(&frame).unwrap();
        frame.resize(frame.len() + padding, 0x5a);
        prop_assert!(finish_partial_checksum(&mut frame, &headers));
        prop_assert_eq!(&frame[..whole.len()], &whole[..]);
        // Finished ones stay, whether or not they are taken for unfinished.
        finish_partial_checksum(&mut frame, &headers);
        prop_assert_eq!(&frame[..whole.len()], &whole[..]);
        let stored = u16::from_be_bytes([frame[at], frame[at + 1]]);
        prop_assert_eq!(stored, right_checksum(&frame[..whole.len()]));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        damage in prop::collection::vec((0usize..110, any::<u8>()), 0..6),
        kind in 0u8..4,
    ) {
        let mut frame = match kind {
            3 => bytes.clone(),
            kind => build(kind, 1, 2, &bytes),
        };
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        if frame.len() >= 34 && frame[14] == 0x45 {
            frame[24..26].fill(0);
            let sum = checksum::internet(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = Arp::parse(&frame);
        if let Ok(headers) = Headers::parse(&frame) {
            prop_assert!(headers.l3 < headers.l4 && headers.l4 <= headers.end);
            prop_assert!(headers.end <= frame.len());
            if let Transport::Error(inner) = headers.transport {
                prop_assert!(inner.l3 < inner.l4 && inner.l4 + 8 <= headers.end);
            }
            finish_partial_checksum(&mut frame, &headers);
            frame.resize(frame.len() + 40, 0);
            let from = Ipv4Addr::new(10, 0, 0, 1);
            if let Some(len) = icmp_error::build(&mut frame, &headers, Error::TimeExceeded, from) {
                prop_assert!(Headers::parse(&frame[..len]).is_ok());
            }
        }
    }
}
