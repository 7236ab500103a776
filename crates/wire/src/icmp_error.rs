//! ICMP errors of our own: tells the sender why its packet did not pass (RFC 792,
//! with the rules of RFC 1812 section 4.3.2 about when to keep silent).

use core::net::Ipv4Addr;

use zerocopy::FromBytes;
use zerocopy::byteorder::network_endian::U16;

use crate::eth::{self, Mac};
use crate::packet::{Fragment, Headers, Transport};
use crate::{checksum, icmp, ipv4};

/// An error message is at most this long (RFC 1812 4.3.2.3), headers included.
pub const LEN_MAX: usize = 576;

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The time to live ran out here.
    TimeExceeded,
    /// Too big for the next link and not to be fragmented.
    FragmentationNeeded {
        /// What the next link can carry.
        mtu: u16,
    },
    /// The destination does not answer.
    HostUnreachable,
    /// Nobody listens at this port.
    PortUnreachable,
    /// Administratively prohibited (RFC 1812 section 5.2.7.1).
    Prohibited,
}

impl Error {
    const fn kind_code_mtu(self) -> (u8, u8, u16) {
        match self {
            Error::TimeExceeded => (icmp::TIME_EXCEEDED, 0, 0),
            Error::FragmentationNeeded { mtu } => (icmp::UNREACHABLE, 4, mtu),
            Error::HostUnreachable => (icmp::UNREACHABLE, 1, 0),
            Error::PortUnreachable => (icmp::UNREACHABLE, 3, 0),
            Error::Prohibited => (icmp::UNREACHABLE, 13, 0),
        }
    }
}

/// Whether an error may be sent about this packet: not about ICMP errors, later
/// fragments, broadcasts or multicasts, nor to a source that is not one host.
pub fn allowed(frame: &[u8], headers: &Headers) -> bool {
    let to_group = match eth::Header::ref_from_prefix(frame) {
        Ok((header, _)) => header.destination.is_group(),
        Err(_) => return false,
    };
    let about_error = match headers.transport {
        Transport::Error(_) => true,
        Transport::Other { icmp: Some(kind) } => icmp::is_error(kind),
        _ => false,
    };
    let host = |a: Ipv4Addr| !(a.is_multicast() || a.is_broadcast() || a.octets()[0] >= 240);
    let source = headers.source;
    let sender = host(source) && source.octets()[0] != 0 && !source.is_loopback();
    !to_group
        && !about_error
        && headers.fragment != Fragment::Later
        && host(headers.destination)
        && sender
}

/// Turns the frame in `buffer` into an error about itself, from address `from`, back
/// to its sender's hardware address. `buffer` is the whole room there is; the packet
/// must still be as received. Returns the new length, or `None`, with the frame
/// untouched, if an error is not [`allowed`] or there is not enough room.
pub fn build(buffer: &mut [u8], headers: &Headers, error: Error, from: Ipv4Addr) -> Option<usize> {
    const ADDED: usize = ipv4::HEADER_LEN + icmp::HEADER_LEN;
    if headers.end > buffer.len() || !allowed(buffer, headers) {
        return None;
    }
    let (l3, room) = (headers.l3, buffer.len() - headers.l3);
    let quoted = headers
        .packet_len()
        .min(LEN_MAX - ADDED)
        .min(room.checked_sub(ADDED)?);
    // Too little room to quote what RFC 792 demands: header and eight bytes.
    if quoted < (headers.l4 - l3 + 8).min(headers.packet_len()) {
        return None;
    }
    buffer.copy_within(l3..l3 + quoted, l3 + ADDED);
    let end = l3 + ADDED + quoted;
    let (ip, rest) = ipv4::Header::mut_from_prefix(&mut buffer[l3..end]).ok()?;
    let total_len = u16::try_from(ADDED + quoted).ok()?;
    *ip = ipv4::Header {
        version_ihl: 0x45,
        tos: 0xc0, // internetwork control
        total_len: U16::new(total_len),
        identifier: U16::new(0), // atomic: never fragmented (RFC 6864)
        fragment: U16::new(ipv4::DONT_FRAGMENT),
        ttl: 64,
        protocol: ipv4::ICMP,
        checksum: U16::new(0),
        source: from.octets(),
        destination: headers.source.octets(),
    };
    let (message, _) = icmp::Header::mut_from_prefix(rest).ok()?;
    let (kind, code, mtu) = error.kind_code_mtu();
    *message = icmp::Header {
        kind,
        code,
        checksum: U16::new(0),
        identifier: U16::new(0),
        sequence: U16::new(mtu),
    };
    let sum = checksum::internet(&buffer[l3..l3 + ipv4::HEADER_LEN]);
    put(buffer, l3 + 10, sum);
    let sum = checksum::internet(&buffer[l3 + ipv4::HEADER_LEN..end]);
    put(buffer, l3 + ipv4::HEADER_LEN + 2, sum);
    let me = Mac(buffer[..6].try_into().ok()?);
    eth::answer(buffer, me);
    Some(end)
}

fn put(buffer: &mut [u8], at: usize, word: u16) {
    buffer[at..at + 2].copy_from_slice(&word.to_be_bytes());
}
