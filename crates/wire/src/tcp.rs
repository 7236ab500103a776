//! The TCP header (RFC 9293), as far as packet forwarding needs it.
//!
//! ```text
//!  0             2             4                           8
//! +-------------+-------------+---------------------------+
//! | source port | dest port   | sequence number           |
//! +-------------+------+------+-------------+-------------+
//! | acknowledgment     ...    |off   | flags| window      |
//! +-------------+-------------+---------------------------+
//! | checksum    | urgent      | options                   |
//! +-------------+-------------+---------------------------+
//! ```

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;

/// The fixed part as it lies in the packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// From.
    pub source: U16,
    /// To.
    pub destination: U16,
    /// Number of the first byte.
    pub sequence: U32,
    /// Number of the next byte expected.
    pub acknowledgment: U32,
    /// Header length in words, in the high half.
    pub offset: u8,
    /// See [`Flags`].
    pub flags: u8,
    /// Bytes the sender would accept.
    pub window: U16,
    /// Over pseudo-header, header and data.
    pub checksum: U16,
    /// End of urgent data.
    pub urgent: U16,
}

impl Header {
    /// Length with options.
    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub const fn len(&self) -> usize {
        ((self.offset >> 4) as usize) * 4
    }
}

/// The control bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender has no more data.
    pub const FIN: Flags = Flags(0x01);
    /// A new connection.
    pub const SYN: Flags = Flags(0x02);
    /// The connection is void.
    pub const RST: Flags = Flags(0x04);
    /// The acknowledgment number counts.
    pub const ACK: Flags = Flags(0x10);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}
