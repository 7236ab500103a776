//! Runs of addresses as prefixes.

use std::net::Ipv4Addr;

/// A run of IPv4 addresses that share their first `length` bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// The first address.
    pub address: Ipv4Addr,
    /// Bits in common.
    pub length: u8,
}

impl Prefix {
    /// The fewest prefixes that cover exactly `first..=last`; none if `last < first`.
    pub fn cover(first: Ipv4Addr, last: Ipv4Addr) -> Vec<Prefix> {
        let (mut next, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
        let mut prefixes = Vec::new();
        while next <= last {
            // The largest block that begins here and does not reach beyond `last`.
            let aligned = next.trailing_zeros().min(32);
            let fits = (last - next + 1).ilog2();
            let bits = aligned.min(fits);
            prefixes.push(Prefix {
                address: Ipv4Addr::from(next as u32),
                length: (32 - bits) as u8,
            });
            next += 1 << bits;
        }
        prefixes
    }
}
