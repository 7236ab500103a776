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

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(first: [u8; 4], last: [u8; 4]) -> Vec<String> {
        let text = |prefix: &Prefix| format!("{}/{}", prefix.address, prefix.length);
        Prefix::cover(first.into(), last.into())
            .iter()
            .map(text)
            .collect()
    }

    #[test]
    fn a_range_becomes_the_fewest_prefixes() {
        assert_eq!(cover([10, 0, 0, 0], [10, 0, 0, 255]), ["10.0.0.0/24"]);
        assert_eq!(
            cover([198, 51, 100, 1], [198, 51, 100, 16]),
            [
                "198.51.100.1/32",
                "198.51.100.2/31",
                "198.51.100.4/30",
                "198.51.100.8/29",
                "198.51.100.16/32"
            ]
        );
        assert_eq!(cover([0, 0, 0, 0], [255, 255, 255, 255]), ["0.0.0.0/0"]);
        assert_eq!(
            cover([255, 255, 255, 255], [255, 255, 255, 255]),
            ["255.255.255.255/32"]
        );
        assert!(cover([10, 0, 0, 2], [10, 0, 0, 1]).is_empty());
    }
}
