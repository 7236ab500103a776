//! The IPv4 header (RFC 791).
//!
//! ```text
//!  0      1      2             4             6             8
//! +------+------+-------------+-------------+-------------+
//! |4  ihl| tos  | total len   | identifier  |flags, offset|
//! +------+------+-------------+-------------+-------------+
//! | ttl  | proto| checksum    | source                    |
//! +------+------+-------------+---------------------------+
//! | destination               | options (ihl * 4 - 20)    |
//! +---------------------------+---------------------------+
//! ```

use core::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Flag: routers must not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Flag: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Mask of the fragment's offset, in units of eight bytes.
pub const OFFSET: u16 = 0x1fff;

/// The fixed part as it lies in the packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version in the high, header length in words in the low half.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload.
    pub total_len: U16,
    /// Identifies the fragments of one datagram.
    pub identifier: U16,
    /// Flags and fragment offset.
    pub fragment: U16,
    /// Hops left.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: U16,
    /// From.
    pub source: [u8; 4],
    /// To.
    pub destination: [u8; 4],
}

impl Header {
    /// The header at the start of `packet`, if it is one of version 4 whose lengths
    /// make sense in themselves. The packet may be cut off behind the fixed part.
    pub fn view(packet: &[u8]) -> Option<&Header> {
        let (header, _) = Header::ref_from_prefix(packet).ok()?;
        let sound = header.version_ihl >> 4 == 4
            && header.len() >= HEADER_LEN
            && usize::from(header.total_len.get()) >= header.len();
        sound.then_some(header)
    }

    /// Length with options.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub const fn len(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) * 4
    }

    /// The source as an address.
    pub fn source(&self) -> Ipv4Addr {
        self.source.into()
    }

    /// The destination as an address.
    pub fn destination(&self) -> Ipv4Addr {
        self.destination.into()
    }
}
