//! Ethernet II (IEEE 802.3) and VLAN tags (802.1Q).
//!
//! ```text
//!  0              6              12     14
//! +--------------+--------------+------+----------
//! | destination  | source       | type | payload
//! +--------------+--------------+------+----------
//! ```

use core::fmt;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header without tags.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// A hardware address.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether this is a broadcast or multicast address.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The header as it lies in the frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What follows.
    pub ethertype: U16,
}

/// The EtherType behind at most two VLAN tags and the offset of its payload.
pub fn payload(frame: &[u8]) -> Option<(u16, usize)> {
    let (header, _) = Header::ref_from_prefix(frame).ok()?;
    let mut ethertype = header.ethertype.get();
    let mut at = HEADER_LEN;
    for _ in 0..2 {
        if ethertype != VLAN && ethertype != SERVICE_VLAN {
            break;
        }
        let tag = frame.get(at..at + 4)?;
        ethertype = u16::from_be_bytes([tag[2], tag[3]]);
        at += 4;
    }
    Some((ethertype, at))
}

/// Sends a frame back: its source becomes its destination. `me` is the new source.
/// Frames without a whole header stay as they are.
pub fn answer(frame: &mut [u8], me: Mac) {
    if let Ok((header, _)) = Header::mut_from_prefix(frame) {
        header.destination = header.source;
        header.source = me;
    }
}
