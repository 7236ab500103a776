//! The UDP header (RFC 768).
//!
//! ```text
//!  0             2             4             6             8
//! +-------------+-------------+-------------+-------------+
//! | source port | dest port   | length      | checksum    |
//! +-------------+-------------+-------------+-------------+
//! ```

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// The header as it lies in the packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// From.
    pub source: U16,
    /// To.
    pub destination: U16,
    /// Of header and data.
    pub length: U16,
    /// Over pseudo-header, header and data; zero if the sender computed none.
    pub checksum: U16,
}
