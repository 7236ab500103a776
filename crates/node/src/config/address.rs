//! Sets of addresses.

use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    first: Ipv4Addr,
    len: u8,
}

impl Prefix {
    /// The prefix of length `len` (at most 32) that contains `addr`.
    pub fn new(addr: Ipv4Addr, len: u8) -> Self {
        let len = len.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        Self {
            first: Ipv4Addr::from(u32::from(addr) & mask),
            len,
        }
    }

    /// The lowest address.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> Ipv4Addr {
        let host = u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
        Ipv4Addr::from(u32::from(self.first) | host)
    }

    /// Bits of the network part.
    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether it covers every address.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Whether `addr` lies in it.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        (self.first..=self.last()).contains(&addr)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.len)
    }
}

/// Consecutive addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    /// The lowest.
    pub first: Ipv4Addr,
    /// The highest; not below `first`.
    pub last: Ipv4Addr,
}

impl AddressRange {
    /// Every address in order.
    pub fn iter(self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }

    /// How many addresses.
    pub fn count(self) -> u64 {
        u64::from(u32::from(self.last)) - u64::from(u32::from(self.first)) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_at_the_edges() {
        let all = Prefix::new(Ipv4Addr::new(1, 2, 3, 4), 0);
        assert_eq!(
            (all.first(), all.last()),
            (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
        );
        let one = Prefix::new(Ipv4Addr::new(1, 2, 3, 4), 32);
        assert_eq!((one.first(), one.last()), (one.last(), one.first()));
        assert!(
            one.contains(Ipv4Addr::new(1, 2, 3, 4)) && !one.contains(Ipv4Addr::new(1, 2, 3, 5))
        );
    }
}
