//! The ICMP header (RFC 792).
//!
//! ```text
//!  0      1      2             4             6             8
//! +------+------+-------------+-------------+-------------+
//! | type | code | checksum    | identifier  | sequence    |   echo
//! +------+------+-------------+-------------+-------------+
//! | type | code | checksum    | unused      | MTU         |   error
//! +------+------+-------------+-------------+-------------+
//! | the packet it is about: IPv4 header and >= 8 bytes    |
//! +-------------------------------------------------------+
//! ```

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header.
pub const HEADER_LEN: usize = 8;
/// Type: answer to an echo request.
pub const ECHO_REPLY: u8 = 0;
/// Type: a packet could not be delivered.
pub const UNREACHABLE: u8 = 3;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type: a packet's time to live ran out.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: a packet's header is wrong.
pub const PARAMETER_PROBLEM: u8 = 12;

/// The header as it lies in the packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// What kind of message.
    pub kind: u8,
    /// Which one of that kind.
    pub code: u8,
    /// Of the whole message.
    pub checksum: U16,
    /// Echo: the session. Errors: unused.
    pub identifier: U16,
    /// Echo: number in the session. Fragmentation needed: the next link's MTU.
    pub sequence: U16,
}

/// Whether messages of this type tell about another packet and so, by RFC 1122, must
/// never be answered with an error. Types that are not known to be queries count as
/// errors: silence is the safe side.
pub const fn is_error(kind: u8) -> bool {
    !matches!(kind, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13..=18)
}
