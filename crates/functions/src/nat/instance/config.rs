//! What an instance of the NAT is told.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;
use core::time::Duration;

use stateplane_base::Incarnation;
use stateplane_flow::steering::mix;
use stateplane_lease::{HolderConfig, Life};
use stateplane_wire::eth::Mac;

use crate::nat::ops::{BLOCK_PORTS, InstanceId};
use crate::nat::procedures::NatStateConfig;

/// A set of addresses that share their first bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    bits: u32,
    mask: u32,
}

impl Prefix {
    /// The prefix of `len` bits that `address` lies in; `None` if `len` exceeds 32.
    pub fn new(address: Ipv4Addr, len: u8) -> Option<Prefix> {
        let mask = match len {
            0 => 0,
            1..=32 => u32::MAX << (32 - len),
            _ => return None,
        };
        Some(Prefix {
            bits: address.to_bits() & mask,
            mask,
        })
    }

    /// Whether the address lies in it.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask == self.bits
    }
}

/// The outside addresses: ranges, in order and without overlap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    ranges: Vec<(u32, u32)>,
    len: u32,
}

impl Pool {
    /// The addresses of all these ranges, counted once. `None` if there is none at all,
    /// or all of IPv4.
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<Ipv4Addr>>) -> Option<Pool> {
        let numbers = ranges
            .into_iter()
            .map(|r| (r.start().to_bits(), r.end().to_bits()));
        let mut sorted: Vec<_> = numbers.filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => ranges.push((first, last)),
            }
        }
        let len: u64 = ranges.iter().map(|&(a, b)| u64::from(b - a) + 1).sum();
        let len = u32::try_from(len).ok().filter(|&len| len > 0)?;
        Some(Pool { ranges, len })
    }

    /// Whether this is one of them.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let address = address.to_bits();
        let after = self.ranges.partition_point(|&(first, _)| first <= address);
        after > 0 && address <= self.ranges[after - 1].1
    }

    /// The address a subscriber is translated to, always the same ("paired pooling",
    /// RFC 4787 REQ-2) and the same at every instance.
    pub fn paired(&self, inside: Ipv4Addr) -> Ipv4Addr {
        const SEED: u32 = 0x51ed_270b;
        let spread = u64::from(mix(inside.to_bits() ^ SEED)) * u64::from(self.len);
        let mut index = (spread >> 32) as u32;
        for &(first, last) in &self.ranges {
            let width = last - first;
            if index <= width {
                return Ipv4Addr::from_bits(first + index);
            }
            index -= width + 1;
        }
        Ipv4Addr::from_bits(self.ranges[0].0)
    }
}

/// Settings of a [`Nat44`](super::Nat44).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatConfig {
    /// Who we are in the store.
    pub instance: InstanceId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The configuration's fingerprint; store and instances must agree on it.
    pub fingerprint: u64,
    /// Where the hosts are that we translate.
    pub inside: Vec<Prefix>,
    /// What we translate them to.
    pub outside: Pool,
    /// Outside ports. Only whole blocks of 256 are used.
    pub ports: RangeInclusive<u16>,
    /// The hardware address ARP requests for outside addresses are answered with, if
    /// they are to be answered (not needed where a route leads to them).
    pub arp_mac: Option<Mac>,
    /// Longest time a cached decision is believed, counted from asking. The store keeps
    /// an ended mapping's port unused for longer than that.
    pub cache_lease: Duration,
    /// Most mappings tracked here. Others work, but are asked for once a cache lease.
    pub mappings_max: usize,
    /// How the lease over our blocks is kept.
    pub lease: HolderConfig,
    /// Seed of the choice of ports.
    pub seed: u64,
}

/// Longest time a cached decision may be believed.
pub const CACHE_LEASE: Duration = Duration::from_secs(60);

impl NatConfig {
    /// The usual settings of an instance that goes with a store of this configuration.
    /// `None` if there are no outside addresses.
    pub fn new(
        store: &NatStateConfig,
        instance: InstanceId,
        incarnation: Incarnation,
        inside: Vec<Prefix>,
        seed: u64,
    ) -> Option<Self> {
        Some(Self {
            instance,
            incarnation,
            fingerprint: store.fingerprint(),
            inside,
            outside: Pool::new(store.outside.iter().cloned())?,
            ports: store.ports.clone(),
            arp_mac: None,
            cache_lease: CACHE_LEASE,
            mappings_max: 1 << 19,
            lease: HolderConfig::default(),
            seed,
        })
    }

    /// Who we are, and in which life.
    pub(super) fn life(&self) -> Life {
        Life {
            instance: self.instance,
            incarnation: self.incarnation,
        }
    }

    /// The blocks that lie wholly in the range of ports.
    pub fn blocks(&self) -> RangeInclusive<u8> {
        let first = self.ports.start().div_ceil(BLOCK_PORTS);
        let after = (u32::from(*self.ports.end()) + 1) / u32::from(BLOCK_PORTS);
        // At most 256 blocks end at or before port 65536; an empty range has first > last.
        match u8::try_from(after.saturating_sub(1)) {
            Ok(last) if after > 0 && u32::from(first) < after => first as u8..=last,
            _ => RangeInclusive::new(1, 0),
        }
    }

    /// Whether an address is one of the hosts'.
    pub fn is_inside(&self, address: Ipv4Addr) -> bool {
        self.inside.iter().any(|prefix| prefix.contains(address))
    }
}
