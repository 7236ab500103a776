//! What a frame is: offsets and the fields that forwarding needs, read once.
//!
//! Parsing is total: any bytes give [`Headers`] or a [`Malformed`], and all offsets
//! in `Headers` lie inside the frame they were read from.

use core::net::Ipv4Addr;

use zerocopy::FromBytes;

use crate::checksum;
use crate::{eth, icmp, ipv4, tcp, udp};

/// Why a frame has no [`Headers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The frame ends before a header does.
    #[error("truncated")]
    Truncated,
    /// Length fields contradict each other.
    #[error("contradictory lengths")]
    Lengths,
    /// A version or address type that does not go with the EtherType.
    #[error("wrong version")]
    Version,
    /// The IPv4 header checksum is wrong.
    #[error("wrong IPv4 header checksum")]
    Checksum,
    /// Well-formed perhaps, but not the protocol that was asked for.
    #[error("EtherType {0:#06x}")]
    EtherType(u16),
}

/// Place of a packet among the fragments of its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// The datagram is in one piece.
    Whole,
    /// The first fragment: it has the ports.
    First,
    /// A later fragment: it has no transport header.
    Later,
}

/// The transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Control bits.
        flags: tcp::Flags,
        /// Whether it carries data.
        data: bool,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// An ICMP echo message.
    Echo {
        /// Request, else reply.
        request: bool,
        /// The session's identifier.
        identifier: u16,
    },
    /// An ICMP error about another packet (destination unreachable, time exceeded,
    /// parameter problem).
    Error(Inner),
    /// A fragment without transport header.
    Fragment,
    /// Another protocol, or another ICMP message of this type.
    Other {
        /// ICMP type if the protocol is ICMP.
        icmp: Option<u8>,
    },
}

/// The packet that an ICMP error is about, as its receiver saw it. At least eight
/// bytes behind its IPv4 header are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// Offset of its IPv4 header in the frame.
    pub l3: usize,
    /// Offset of its transport header in the frame.
    pub l4: usize,
    /// Its source.
    pub source: Ipv4Addr,
    /// Its destination.
    pub destination: Ipv4Addr,
    /// Its protocol.
    pub protocol: u8,
    /// Its source and destination port (echo: the identifier, twice), if it is TCP,
    /// UDP or ICMP echo and not a later fragment.
    pub ports: Option<(u16, u16)>,
}

/// An IPv4 packet in an Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Offset of the IPv4 header (14 without VLAN tags).
    pub l3: usize,
    /// Offset of the payload of IPv4.
    pub l4: usize,
    /// Where the packet ends; what follows in the frame is Ethernet padding.
    pub end: usize,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Hops left.
    pub ttl: u8,
    /// Whether routers must not fragment it.
    pub dont_fragment: bool,
    /// Place among fragments.
    pub fragment: Fragment,
    /// The next header.
    pub transport: Transport,
}

impl Headers {
    /// Reads an Ethernet frame. Up to two VLAN tags are skipped; IPv6 and everything
    /// else that is not IPv4 is [`Malformed::EtherType`].
    pub fn parse(frame: &[u8]) -> Result<Headers, Malformed> {
        let (ethertype, l3) = eth::payload(frame).ok_or(Malformed::Truncated)?;
        if ethertype != eth::IPV4 {
            return Err(Malformed::EtherType(ethertype));
        }
        let (fixed, _) =
            ipv4::Header::ref_from_prefix(&frame[l3..]).map_err(|_| Malformed::Truncated)?;
        if fixed.version_ihl >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header = ipv4::Header::view(&frame[l3..]).ok_or(Malformed::Lengths)?;
        let l4 = l3 + header.len();
        let end = l3 + usize::from(header.total_len.get());
        let packet = frame.get(..end).ok_or(Malformed::Truncated)?;
        if checksum::internet(&packet[l3..l4]) != 0 {
            return Err(Malformed::Checksum);
        }
        let fragment = match header.fragment.get() {
            field if field & ipv4::OFFSET != 0 => Fragment::Later,
            field if field & ipv4::MORE_FRAGMENTS != 0 => Fragment::First,
            _ => Fragment::Whole,
        };
        Ok(Headers {
            l3,
            l4,
            end,
            source: header.source(),
            destination: header.destination(),
            protocol: header.protocol,
            ttl: header.ttl,
            dont_fragment: header.fragment.get() & ipv4::DONT_FRAGMENT != 0,
            fragment,
            transport: transport(packet, l4, header.protocol, fragment)?,
        })
    }

    /// Length of the IPv4 packet.
    pub const fn packet_len(&self) -> usize {
        self.end - self.l3
    }

    /// Source and destination port of TCP and UDP; of echo, the identifier twice.
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp {
                source,
                destination,
                ..
            }
            | Transport::Udp {
                source,
                destination,
            } => Some((source, destination)),
            Transport::Echo { identifier, .. } => Some((identifier, identifier)),
            _ => None,
        }
    }
}

fn transport(
    packet: &[u8],
    l4: usize,
    protocol: u8,
    fragment: Fragment,
) -> Result<Transport, Malformed> {
    if fragment == Fragment::Later {
        return Ok(Transport::Fragment);
    }
    let payload = &packet[l4..];
    match protocol {
        ipv4::TCP => {
            let (header, rest) = read::<tcp::Header>(payload)?;
            let options = header
                .len()
                .checked_sub(tcp::HEADER_LEN)
                .ok_or(Malformed::Lengths)?;
            if options > rest.len() {
                return Err(Malformed::Lengths);
            }
            Ok(Transport::Tcp {
                source: header.source.get(),
                destination: header.destination.get(),
                flags: tcp::Flags(header.flags),
                data: rest.len() > options,
            })
        }
        ipv4::UDP => {
            let (header, rest) = read::<udp::Header>(payload)?;
            let length = usize::from(header.length.get());
            let fits = length <= udp::HEADER_LEN + rest.len() || fragment == Fragment::First;
            if length < udp::HEADER_LEN || !fits {
                return Err(Malformed::Lengths);
            }
            Ok(Transport::Udp {
                source: header.source.get(),
                destination: header.destination.get(),
            })
        }
        ipv4::ICMP => {
            let (header, _) = read::<icmp::Header>(payload)?;
            match header.kind {
                icmp::ECHO_REPLY | icmp::ECHO_REQUEST => Ok(Transport::Echo {
                    request: header.kind == icmp::ECHO_REQUEST,
                    identifier: header.identifier.get(),
                }),
                icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => {
                    inner(packet, l4 + icmp::HEADER_LEN).map(Transport::Error)
                }
                kind => Ok(Transport::Other { icmp: Some(kind) }),
            }
        }
        _ => Ok(Transport::Other { icmp: None }),
    }
}

/// Reads the packet inside an ICMP error. Its own length field and header checksum
/// are not judged: it is cut off as a rule, and routers return it half changed.
fn inner(packet: &[u8], l3: usize) -> Result<Inner, Malformed> {
    let embedded = packet.get(l3..).ok_or(Malformed::Truncated)?;
    let header = ipv4::Header::view(embedded).ok_or(Malformed::Lengths)?;
    let start = embedded
        .get(header.len()..header.len() + 8)
        .ok_or(Malformed::Truncated)?;
    let word = |at: usize| u16::from_be_bytes([start[at], start[at + 1]]);
    let ports = match header.protocol {
        _ if header.fragment.get() & ipv4::OFFSET != 0 => None,
        ipv4::TCP | ipv4::UDP => Some((word(0), word(2))),
        ipv4::ICMP if matches!(start[0], icmp::ECHO_REPLY | icmp::ECHO_REQUEST) => {
            Some((word(4), word(4)))
        }
        _ => None,
    };
    Ok(Inner {
        l3,
        l4: l3 + header.len(),
        source: header.source(),
        destination: header.destination(),
        protocol: header.protocol,
        ports,
    })
}

fn read<T>(bytes: &[u8]) -> Result<(&T, &[u8]), Malformed>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)
}
