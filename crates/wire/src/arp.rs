//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0     2     4    5    6     8        14       18       24       28
//! +-----+-----+----+----+-----+--------+--------+--------+--------+
//! | 1   |0800 | 6  | 4  | op  | sender MAC, IPv4| target MAC, IPv4|
//! +-----+-----+----+----+-----+--------+--------+--------+--------+
//! ```

use core::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::eth::{self, Mac};
use crate::packet::Malformed;

/// Length of the payload.
pub const LEN: usize = 28;

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: Mac,
    sender: [u8; 4],
    target_mac: Mac,
    target: [u8; 4],
}

/// What an ARP packet asks or tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// One ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// Question or answer.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: Mac,
    /// Address of the sender; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// Hardware address of the target; meaningless in a request.
    pub target_mac: Mac,
    /// Address of the target.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the ARP packet in an Ethernet frame, behind VLAN tags if there are any.
    pub fn parse(frame: &[u8]) -> Result<Arp, Malformed> {
        let (ethertype, at) = eth::payload(frame).ok_or(Malformed::Truncated)?;
        if ethertype != eth::ARP {
            return Err(Malformed::EtherType(ethertype));
        }
        let payload = frame.get(at..).ok_or(Malformed::Truncated)?;
        let (layout, _) = Layout::ref_from_prefix(payload).map_err(|_| Malformed::Truncated)?;
        if (layout.hardware_len, layout.protocol_len) != (6, 4) {
            return Err(Malformed::Lengths);
        }
        let operation = match (
            layout.hardware.get(),
            layout.protocol.get(),
            layout.operation.get(),
        ) {
            (1, eth::IPV4, REQUEST) => Operation::Request,
            (1, eth::IPV4, REPLY) => Operation::Reply,
            _ => return Err(Malformed::Version),
        };
        Ok(Arp {
            operation,
            sender_mac: layout.sender_mac,
            sender: layout.sender.into(),
            target_mac: layout.target_mac,
            target: layout.target.into(),
        })
    }

    /// The answer to this request: `mac` has the address that was asked for.
    #[must_use]
    pub fn reply(&self, mac: Mac) -> Arp {
        Arp {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// Writes the packet, with an untagged Ethernet header, into `frame` and returns
    /// the length, or `None` if there is not enough room. Replies go to their target,
    /// requests to everybody.
    pub fn write(&self, frame: &mut [u8]) -> Option<usize> {
        let (header, rest) = eth::Header::mut_from_prefix(frame).ok()?;
        let (layout, _) = Layout::mut_from_prefix(rest).ok()?;
        header.destination = match self.operation {
            Operation::Request => Mac::BROADCAST,
            Operation::Reply => self.target_mac,
        };
        header.source = self.sender_mac;
        header.ethertype = U16::new(eth::ARP);
        *layout = Layout {
            hardware: U16::new(1),
            protocol: U16::new(eth::IPV4),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(match self.operation {
                Operation::Request => REQUEST,
                Operation::Reply => REPLY,
            }),
            sender_mac: self.sender_mac,
            sender: self.sender.octets(),
            target_mac: self.target_mac,
            target: self.target.octets(),
        };
        Some(eth::HEADER_LEN + LEN)
    }
}
