//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and the
//! checksums that senders on the same machine leave unfinished.
//!
//! All sums are of 16-bit big-endian words; a last odd byte counts as the high half
//! of a word.

use core::net::Ipv4Addr;

use crate::packet::{Fragment, Headers, Transport};

/// A ones' complement sum under construction. Words may be added in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds one word.
    #[inline]
    #[must_use]
    pub const fn word(self, word: u16) -> Sum {
        // 2^48 words fit before the accumulator could overflow.
        Sum(self.0 + word as u64)
    }

    /// Adds a 32-bit field as two words.
    #[inline]
    #[must_use]
    pub const fn field(self, field: u32) -> Sum {
        self.word((field >> 16) as u16).word(field as u16)
    }

    /// Adds bytes that start at an even offset of the checksummed data.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let (pairs, rest) = bytes.as_chunks::<4>();
        // Two words at once, and in this machine's order, which only swaps the bytes of the sum
        // (RFC 1071 section 2). Of fewer than 2^32 pairs, whose sum cannot overflow.
        let native = pairs
            .iter()
            .map(|pair| u64::from(u32::from_ne_bytes(*pair)))
            .fold(0, u64::wrapping_add);
        let sum = self.word(u16::from_be(Sum(native).fold()));
        match *rest {
            [high, low, last] => sum
                .word(u16::from_be_bytes([high, low]))
                .word(u16::from(last) << 8),
            [high, low] => sum.word(u16::from_be_bytes([high, low])),
            [last] => sum.word(u16::from(last) << 8),
            _ => sum,
        }
    }

    /// Adds the pseudo-header of TCP and UDP over IPv4.
    #[must_use]
    pub fn pseudo(self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Sum {
        self.field(source.to_bits())
            .field(destination.to_bits())
            .word(u16::from(protocol))
            .word(len)
    }

    /// The sum in 16 bits, carries added back.
    #[inline]
    pub const fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

/// The checksum of `bytes`; zero over data that includes its own correct checksum.
#[inline]
pub fn internet(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

/// What replaced fields do to a checksum that covers them: equation 3 of RFC 1624,
/// `HC' = ~(~HC + ~m + m')`. A wrong checksum stays wrong, so damage on the way is
/// not hidden from the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(Sum);

impl Delta {
    /// A covered 16-bit field changed.
    #[inline]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Delta {
        Delta(self.0.word(!old).word(new))
    }

    /// A covered 32-bit field changed.
    #[inline]
    #[must_use]
    pub const fn field(self, old: u32, new: u32) -> Delta {
        Delta(self.0.field(!old).field(new))
    }

    /// The updated checksum.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        self.0.word(!checksum).finish()
    }

    /// The updated checksum of a UDP datagram (RFC 768): zero means that the sender
    /// computed none and stays; a computed zero is sent as all ones.
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        match checksum {
            0 => 0,
            sum => match self.apply(sum) {
                0 => 0xffff,
                updated => updated,
            },
        }
    }
}

/// Completes a TCP or UDP checksum that the sender left to its network card, and
/// says whether it did.
///
/// Linux then stores the folded sum of the pseudo-header alone in the field, and a
/// virtual link passes the frame on like that. So a field that equals that sum is
/// taken as unfinished and computed in full. A complete checksum may equal the sum
/// by chance: recomputing then writes the value that was there already, provided
/// that the packet is intact (a damaged one slips through with probability 2^-16,
/// and only on links that do damage data).
pub fn finish_partial_checksum(frame: &mut [u8], headers: &Headers) -> bool {
    let (protocol, field) = match headers.transport {
        Transport::Tcp { .. } => (6, headers.l4 + 16),
        Transport::Udp { .. } => (17, headers.l4 + 6),
        _ => return false,
    };
    // A fragment's sum is over more than is here.
    if headers.fragment != Fragment::Whole {
        return false;
    }
    let Some(mut segment) = frame.get(headers.l4..headers.end) else {
        return false;
    };
    if let (17, Some(&[high, low])) = (protocol, segment.get(4..6)) {
        // The checksum covers what UDP counts, which may be less than IPv4 carries.
        let len = usize::from(u16::from_be_bytes([high, low]));
        segment = segment.get(..len).unwrap_or(segment);
    }
    let Ok(len) = u16::try_from(segment.len()) else {
        return false;
    };
    let pseudo = Sum::default().pseudo(headers.source, headers.destination, protocol, len);
    let Some(stored) = frame.get(field..field + 2) else {
        return false;
    };
    // The pseudo-header's sum is never zero, so an absent UDP checksum never matches.
    if u16::from_be_bytes([stored[0], stored[1]]) != pseudo.fold() {
        return false;
    }
    // The stored pseudo-header sum takes the pseudo-header's part in the whole sum.
    let full = match (Sum::default().bytes(segment).finish(), protocol) {
        (0, 17) => 0xffff,
        (full, _) => full,
    };
    frame[field..field + 2].copy_from_slice(&full.to_be_bytes());
    true
}
