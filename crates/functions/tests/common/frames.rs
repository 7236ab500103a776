//! Frames, as another implementation writes and reads them.

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

fn written(size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    write(&mut bytes);
    bytes
}

pub fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let packet = ethernet().ipv4(from.0, to.0, 64).udp(from.1, to.1);
    written(payload.len(), |out| packet.write(out, payload).unwrap())
}

/// TCP with the flags named by letters: S, A, F, R.
pub fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = ethernet()
        .ipv4(from.0, to.0, 64)
        .tcp(from.1, to.1, 1000, 4096);
    for flag in flags.chars() {
        packet = match flag {
            'S' => packet.syn(),
            'A' => packet.ack(2000),
            'F' => packet.fin(),
            'R' => packet.rst(),
            other => panic!("flag {other}"),
        };
    }
    written(payload.len(), |out| packet.write(out, payload).unwrap())
}

pub fn echo(from: [u8; 4], to: [u8; 4], request: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let packet = ethernet().ipv4(from, to, 64);
    let packet = if request {
        packet.icmpv4_echo_request(id, 1)
    } else {
        packet.icmpv4_echo_reply(id, 1)
    };
    written(payload.len(), |out| packet.write(out, payload).unwrap())
}

/// An ICMP error from `from` to `to` about the IPv4 packet in `frame`, of which it quotes
/// `quoted` bytes.
pub fn icmp_error(
    from: [u8; 4],
    to: [u8; 4],
    kind: (u8, u8),
    frame: &[u8],
    quoted: usize,
) -> Vec<u8> {
    let quote = &frame[14..frame.len().min(14 + quoted)];
    let packet = ethernet()
        .ipv4(from, to, 60)
        .icmpv4_raw(kind.0, kind.1, [0; 4]);
    written(quote.len(), |out| packet.write(out, quote).unwrap())
}

/// Source and destination of a frame, as another implementation reads them.
pub fn ends(frame: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else {
        panic!("not IPv4")
    };
    let (source, destination) = match headers.transport {
        Some(TransportHeader::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(TransportHeader::Icmpv4(_)) => {
            let id = u16::from_be_bytes([frame[38], frame[39]]);
            (id, id)
        }
        _ => panic!("no ports"),
    };
    ((ip.source, source), (ip.destination, destination))
}

/// All checksums are right, as another implementation computes them.
pub fn verify(frame: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else {
        panic!("not IPv4")
    };
    assert_eq!(
        ip.header_checksum,
        ip.calc_header_checksum(),
        "IPv4 header checksum"
    );
    let payload = headers.payload.slice();
    match headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            assert_eq!(
                tcp.checksum,
                tcp.calc_checksum_ipv4(ip, payload).unwrap(),
                "TCP"
            );
        }
        Some(TransportHeader::Udp(udp)) if udp.checksum != 0 => {
            let right = udp.calc_checksum_ipv4(ip, payload).unwrap();
            assert_eq!(udp.checksum, right, "UDP");
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload), "ICMP");
        }
        _ => {}
    }
}
