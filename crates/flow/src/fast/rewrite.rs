//! What an action does to the bytes of a packet.

use stateplane_wire::checksum::{Delta, Sum};
use stateplane_wire::eth;

use super::action::Action;
use super::hops::NextHop;
use super::key::{Address, Kind};
use super::packet::{Family, Packet};
use super::tunnels::Tunnel;

/// Replaces addresses and ports, and lets the time to live fall. Checksums follow
/// incrementally (RFC 1624), so damage done on the way stays visible.
pub(super) fn rewrite<A: Family>(frame: &mut [u8], packet: &Packet<A>, action: &Action<A>) {
    let (mut header, mut transport) = (Delta::default(), Delta::default());
    // What shares a word with the time to live stays.
    let at = packet.l3 + A::TTL_AT / 2 * 2;
    let mut word = [frame[at], frame[at + 1]];
    word[A::TTL_AT % 2] = word[A::TTL_AT % 2].saturating_sub(action.ttl);
    replace(frame, at, &word, &mut [&mut header]);
    for (addr, at) in [(action.source, 0), (action.destination, A::ADDR_LEN)] {
        let Some(addr) = addr else { continue };
        let (at, new) = (packet.l3 + A::SOURCE_AT + at, addr.bytes());
        let new = &new[..A::ADDR_LEN];
        if packet.kind == Kind::Echo && !A::ECHO_COVERS_ADDRESSES {
            replace(frame, at, new, &mut [&mut header]);
        } else {
            replace(frame, at, new, &mut [&mut header, &mut transport]);
        }
    }
    if let Some(at) = A::SUM_AT {
        settle(frame, packet.l3 + at, |sum| header.apply(sum));
    }
    let ports = match packet.kind {
        // One identifier: the answer's sender knows it as its destination.
        Kind::Echo => [
            (action.destination_port.or(action.source_port), 4),
            (None, 4),
        ],
        Kind::Tcp | Kind::Udp => [(action.source_port, 0), (action.destination_port, 2)],
    };
    for (port, at) in ports {
        if let Some(port) = port {
            replace(
                frame,
                packet.l4 + at,
                &port.to_be_bytes(),
                &mut [&mut transport],
            );
        }
    }
    settle(frame, packet.sum_at(), |sum| match packet.kind {
        Kind::Udp => transport.apply_udp(sum),
        Kind::Tcp | Kind::Echo => transport.apply(sum),
    });
}

/// Writes `new` over whole words, and notes the change.
fn replace(frame: &mut [u8], at: usize, new: &[u8], deltas: &mut [&mut Delta]) {
    for (word, new) in frame[at..].chunks_exact_mut(2).zip(new.chunks_exact(2)) {
        let number = |word: &[u8]| u16::from_be_bytes([word[0], word[1]]);
        for delta in &mut *deltas {
            **delta = delta.word(number(word), number(new));
        }
        word.copy_from_slice(new);
    }
}

fn settle(frame: &mut [u8], at: usize, update: impl Fn(u16) -> u16) {
    let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&update(sum).to_be_bytes());
}

/// Puts a tunnel's header between the link's and the packet, and gives where the frame begins
/// now. The caller has seen that there is room for it in front.
pub(super) fn encapsulate<A: Address>(
    buffer: &mut [u8],
    headroom: usize,
    packet: &Packet<A>,
    tunnel: &Tunnel,
    hash: u64,
) -> usize {
    let header = tunnel.header();
    let start = headroom - header.len();
    buffer.copy_within(headroom..headroom + packet.l3, start);
    let ethertype = if tunnel.is_ipv4() {
        eth::IPV4
    } else {
        eth::IPV6
    };
    let frame = &mut buffer[start..];
    frame[packet.l3 - 2..packet.l3].copy_from_slice(&ethertype.to_be_bytes());
    let outer = &mut frame[packet.l3..][..header.len()];
    outer.copy_from_slice(header);
    // No longer than the link's MTU, which has 16 bits.
    let total = header.len() + (packet.end - packet.l3);
    let mut put = |at: usize, number: usize| {
        outer[at..at + 2].copy_from_slice(&(number as u16).to_be_bytes());
    };
    if tunnel.is_ipv4() {
        put(2, total);
    } else {
        put(4, total - 40);
    }
    if let Some(udp) = tunnel.udp() {
        put(udp + 4, total - udp);
        if tunnel.varies() {
            put(udp, 0xc000 | hash as usize & 0x3fff);
        }
    }
    if tunnel.is_ipv4() {
        let sum = Sum::default().bytes(&outer[..20]).finish();
        outer[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    start
}

/// Addresses the frame to the next hop.
pub(super) fn address(frame: &mut [u8], hop: &NextHop) {
    frame[..6].copy_from_slice(&hop.destination.0);
    frame[6..12].copy_from_slice(&hop.source.0);
}
