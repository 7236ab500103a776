//! What a frame is, as far as the fast path has to know. Total: any bytes have an answer.

use core::net::{Ipv4Addr, Ipv6Addr};

use stateplane_wire::checksum::{Sum, internet};
use stateplane_wire::eth::{self, Mac};
use stateplane_wire::{icmp, ipv4, tcp, udp};

use super::key::{Address, Key, Kind, Vlans};
use super::verdict::Punt;
use crate::PortId;

/// Why a frame is not the fast path's: what becomes of it instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aside {
    /// Not the function's business.
    Kernel,
    /// The function has to look.
    Function(Punt),
}

const MALFORMED: Aside = Aside::Function(Punt::Malformed);

/// The Ethernet header with at most two tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// For which station.
    pub destination: Mac,
    /// In which VLANs.
    pub vlans: Vlans,
    /// Whether there is a tag (its id may be 0: priority alone).
    pub tagged: bool,
    /// What follows.
    pub ethertype: u16,
    /// Where it begins.
    pub l3: usize,
}

impl Link {
    /// Reads it; nothing if the frame ends before.
    pub fn parse(frame: &[u8]) -> Option<Link> {
        let destination = Mac(*frame.first_chunk()?);
        let (ethertype, l3) = eth::payload(frame)?;
        let id = |at: usize| match l3 > at {
            true => u16::from_be_bytes([frame[at], frame[at + 1]]) & 0xfff,
            false => 0,
        };
        Some(Link {
            destination,
            vlans: Vlans(id(14), id(18)),
            tagged: l3 > eth::HEADER_LEN,
            ethertype,
            l3,
        })
    }
}

/// A whole packet of TCP, UDP or echo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<A> {
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// Where the packet ends; what follows in the frame is padding.
    pub end: usize,
    /// From which address.
    pub source: A,
    /// To which address.
    pub destination: A,
    /// What kind of transport.
    pub kind: Kind,
    /// Source and destination port; of echo, the identifier twice.
    pub ports: (u16, u16),
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP's flags, else zero.
    pub tcp_flags: u8,
}

/// What the families differ in, for who rewrites.
pub trait Family: Address {
    /// Where in the header the time to live is.
    const TTL_AT: usize;
    /// Where the source is; the destination follows.
    const SOURCE_AT: usize;
    /// Bytes of an address.
    const ADDR_LEN: usize;
    /// Where the header has a checksum, if it has one.
    const SUM_AT: Option<usize>;
    /// Whether an echo's checksum covers the addresses (RFC 4443 section 2.3, but not RFC 792).
    const ECHO_COVERS_ADDRESSES: bool;

    /// Reads a packet at `l3`.
    fn parse(frame: &[u8], l3: usize) -> Result<Packet<Self>, Aside>;

    /// The address as it lies in a packet, the first [`Self::ADDR_LEN`] bytes.
    fn bytes(self) -> [u8; 16];
}

impl Family for Ipv4Addr {
    const TTL_AT: usize = 8;
    const SOURCE_AT: usize = 12;
    const ADDR_LEN: usize = 4;
    const SUM_AT: Option<usize> = Some(10);
    const ECHO_COVERS_ADDRESSES: bool = false;

    fn parse(frame: &[u8], l3: usize) -> Result<Packet<Self>, Aside> {
        let fixed = frame.get(l3..l3 + ipv4::HEADER_LEN).ok_or(Aside::Kernel)?;
        let protocol = fixed[9];
        let destination = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
        // Multicast, the limited broadcast and what lies between.
        if !matches!(protocol, ipv4::ICMP | ipv4::TCP | ipv4::UDP) || fixed[16] >= 224 {
            return Err(Aside::Kernel);
        }
        let header = ipv4::Header::view(fixed).ok_or(MALFORMED)?;
        let (l4, end) = (l3 + header.len(), l3 + usize::from(header.total_len.get()));
        let packet = frame.get(..end).ok_or(MALFORMED)?;
        if internet(&packet[l3..l4]) != 0 {
            return Err(Aside::Function(Punt::HeaderChecksum));
        }
        if header.fragment.get() & (ipv4::OFFSET | ipv4::MORE_FRAGMENTS) != 0 {
            return Err(Aside::Function(Punt::Fragment));
        }
        let transport = match protocol {
            ipv4::TCP => Transport::tcp(&packet[l4..])?,
            ipv4::UDP => Transport::udp(&packet[l4..])?,
            _ => Transport::echo(&packet[l4..], [icmp::ECHO_REQUEST, icmp::ECHO_REPLY])?,
        };
        Ok(transport.of(l3, l4, end, (header.source(), destination), header.ttl))
    }

    fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] = self.octets();
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

const IPV6_LEN: usize = 40;
const ICMPV6: u8 = 58;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are passed over. The XDP program's loop needs a bound.
const EXTENSIONS_MAX: usize = 6;

impl Family for Ipv6Addr {
    const TTL_AT: usize = 7;
    const SOURCE_AT: usize = 8;
    const ADDR_LEN: usize = 16;
    const SUM_AT: Option<usize> = None;
    const ECHO_COVERS_ADDRESSES: bool = true;

    fn parse(frame: &[u8], l3: usize) -> Result<Packet<Self>, Aside> {
        let header = frame
            .get(l3..)
            .and_then(|rest| rest.first_chunk::<IPV6_LEN>());
        let header = header.ok_or(Aside::Kernel)?;
        let addr = |at: usize| Ipv6Addr::from(*header[at..].first_chunk::<16>().expect("within"));
        let (source, destination) = (addr(8), addr(24));
        if destination.is_multicast() {
            return Err(Aside::Kernel);
        }
        let end = l3 + IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let packet = frame.get(..end).ok_or(MALFORMED)?;
        if header[0] >> 4 != 6 {
            return Err(MALFORMED);
        }
        let (protocol, l4) = extensions(packet, l3 + IPV6_LEN, header[6])?;
        let transport = match protocol {
            ipv4::TCP => Transport::tcp(&packet[l4..])?,
            ipv4::UDP => Transport::udp(&packet[l4..])?,
            _ => Transport::echo(&packet[l4..], [ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY])?,
        };
        Ok(transport.of(l3, l4, end, (source, destination), header[7]))
    }

    fn bytes(self) -> [u8; 16] {
        self.octets()
    }
}

/// Passes over extension headers that a router may pass over (RFC 8200 section 4), up to TCP, UDP
/// or ICMPv6.
fn extensions(packet: &[u8], mut at: usize, mut next: u8) -> Result<(u8, usize), Aside> {
    for passed in 0..=EXTENSIONS_MAX {
        match next {
            ipv4::TCP | ipv4::UDP | ICMPV6 => return Ok((next, at)),
            FRAGMENT => return Err(Aside::Function(Punt::Fragment)),
            AUTHENTICATION => return Err(Aside::Function(Punt::Extension)),
            HOP_BY_HOP if passed > 0 => return Err(MALFORMED),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
            _ => return Err(Aside::Kernel),
        }
        let &[following, len, _, left, ..] = packet.get(at..at + 8).ok_or(MALFORMED)? else {
            return Err(MALFORMED);
        };
        // The destination is not the last one, and the checksum is over that one.
        if passed == EXTENSIONS_MAX || (next == ROUTING && left != 0) {
            return Err(Aside::Function(Punt::Extension));
        }
        at += (usize::from(len) + 1) * 8;
        if at > packet.len() {
            return Err(MALFORMED);
        }
        next = following;
    }
    Err(Aside::Function(Punt::Extension))
}

/// What the transport header says.
struct Transport {
    kind: Kind,
    ports: (u16, u16),
    tcp_flags: u8,
}

impl Transport {
    fn tcp(segment: &[u8]) -> Result<Self, Aside> {
        let header = segment.get(..tcp::HEADER_LEN).ok_or(MALFORMED)?;
        let len = usize::from(header[12] >> 4) * 4;
        if len < tcp::HEADER_LEN || len > segment.len() {
            return Err(MALFORMED);
        }
        Ok(Transport {
            kind: Kind::Tcp,
            ports: (word(header, 0), word(header, 2)),
            tcp_flags: header[13],
        })
    }

    fn udp(datagram: &[u8]) -> Result<Self, Aside> {
        let header = datagram.get(..udp::HEADER_LEN).ok_or(MALFORMED)?;
        let len = usize::from(word(header, 4));
        if len < udp::HEADER_LEN || len > datagram.len() {
            return Err(MALFORMED);
        }
        Ok(Transport {
            kind: Kind::Udp,
            ports: (word(header, 0), word(header, 2)),
            tcp_flags: 0,
        })
    }

    fn echo(message: &[u8], kinds: [u8; 2]) -> Result<Self, Aside> {
        let header = message.get(..icmp::HEADER_LEN).ok_or(MALFORMED)?;
        if !kinds.contains(&header[0]) {
            return Err(Aside::Function(Punt::Icmp));
        }
        // It may consist of zeros alone; then an update of its checksum does not suffice.
        if header[0] == 0 && word(header, 6) == 0 {
            return Err(Aside::Function(Punt::Icmp));
        }
        let identifier = word(header, 4);
        Ok(Transport {
            kind: Kind::Echo,
            ports: (identifier, identifier),
            tcp_flags: 0,
        })
    }

    const fn of<A: Copy>(
        self,
        l3: usize,
        l4: usize,
        end: usize,
        (source, destination): (A, A),
        ttl: u8,
    ) -> Packet<A> {
        Packet {
            l3,
            l4,
            end,
            source,
            destination,
            kind: self.kind,
            ports: self.ports,
            ttl,
            tcp_flags: self.tcp_flags,
        }
    }
}

impl<A: Family> Packet<A> {
    /// The key of the packet's flow, with all fields.
    pub const fn key(&self, port: PortId, vlans: Vlans) -> Key<A> {
        Key {
            kind: self.kind,
            port,
            source: self.source,
            source_port: self.ports.0,
            destination: self.destination,
            destination_port: self.ports.1,
            vlans,
        }
    }

    /// Where the transport's checksum is.
    pub const fn sum_at(&self) -> usize {
        self.l4
            + match self.kind {
                Kind::Tcp => 16,
                Kind::Udp => 6,
                Kind::Echo => 2,
            }
    }

    /// Whether the sender left the transport checksum unfinished: the sum of the pseudo-header alone
    /// ([`finish_partial_checksum`](stateplane_wire::checksum::finish_partial_checksum) has more).
    pub fn has_partial_checksum(&self, frame: &[u8]) -> bool {
        let (protocol, len) = match self.kind {
            Kind::Tcp => (ipv4::TCP, (self.end - self.l4) as u16),
            // The sum covers what UDP counts, which may be less than IP carries.
            Kind::Udp => (ipv4::UDP, word(frame, self.l4 + 4)),
            Kind::Echo => return false,
        };
        let pseudo = Sum::default()
            .bytes(&self.source.bytes())
            .bytes(&self.destination.bytes())
            .word(u16::from(protocol))
            .word(len);
        word(frame, self.sum_at()) == pseudo.fold()
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
