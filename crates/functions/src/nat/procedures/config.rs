//! What the NAT's procedures depend on.

use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use super::QUARANTINE;
use crate::nat::ops::Class;

/// How long a mapping lives after the last traffic of each class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5).
    pub udp: Duration,
    /// ICMP echo (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// TCP connections that open or close (RFC 5382 REQ-5).
    pub tcp_transitory: Duration,
    /// TCP connections that stand (RFC 5382 REQ-5).
    pub tcp_established: Duration,
}

impl Default for Timeouts {
    /// The values the RFCs recommend or, for TCP, their lowest.
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            tcp_transitory: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7440),
        }
    }
}

impl Timeouts {
    /// The timeout of one class.
    pub const fn of(&self, class: Class) -> Duration {
        match class {
            Class::Transitory | Class::Closing => self.tcp_transitory,
            Class::Established => self.tcp_established,
            Class::Udp => self.udp,
            Class::Icmp => self.icmp,
        }
    }
}

/// The configuration of the NAT's procedures. Every replica and every instance must have the same:
/// a snapshot of a differently configured replica is refused, and so is an instance's registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatStateConfig {
    /// The addresses the outside sees; ranges must not overlap.
    pub outside: Vec<RangeInclusive<Ipv4Addr>>,
    /// The ports mapped on each of them.
    pub ports: RangeInclusive<u16>,
    /// When mappings end.
    pub timeouts: Timeouts,
    /// Mappings one inside address may have at once (RFC 6888 REQ-4).
    pub limit_per_subscriber: u32,
    /// Mappings, and ports in quarantine, the store may hold.
    pub max_mappings: usize,
    /// How long an instance may use its blocks without renewing.
    pub block_lease: Duration,
    /// How long a block rests after its owner's lease ended. Zero is right only if instances commit
    /// before they let a packet out.
    pub orphan_quarantine: Duration,
}

impl NatStateConfig {
    /// The usual configuration for the given outside addresses.
    pub fn new(outside: Vec<RangeInclusive<Ipv4Addr>>) -> Self {
        Self {
            outside,
            ports: 1024..=65535,
            timeouts: Timeouts::default(),
            limit_per_subscriber: 8192,
            max_mappings: 1 << 20,
            block_lease: Duration::from_secs(10),
            orphan_quarantine: QUARANTINE,
        }
    }

    /// Whether the configuration makes sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut ranges: Vec<_> = self
            .outside
            .iter()
            .map(|r| (*r.start(), *r.end()))
            .collect();
        ranges.sort_unstable();
        if ranges.is_empty() || ranges.iter().any(|(start, end)| start > end) {
            return Err(ConfigError::NoAddress);
        }
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
            return Err(ConfigError::Overlap(pair[1].0));
        }
        if self.ports.is_empty() || *self.ports.start() == 0 {
            return Err(ConfigError::Ports);
        }
        let Timeouts {
            udp,
            icmp,
            tcp_transitory,
            tcp_established,
        } = self.timeouts;
        let spans = [udp, icmp, tcp_transitory, tcp_established, self.block_lease];
        if spans.iter().any(Duration::is_zero) {
            return Err(ConfigError::ZeroTimeout);
        }
        if self.limit_per_subscriber == 0 || self.max_mappings == 0 {
            return Err(ConfigError::ZeroLimit);
        }
        Ok(())
    }

    /// A hash of everything here: equal for equal configurations, on every machine.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = SipHasher13::new_with_keys(0x6e61_7463_6f6e_6669, 1);
        let mut put = |number: u64| hash.write(&number.to_be_bytes());
        put(self.outside.len() as u64);
        for range in &self.outside {
            put(range.start().to_bits().into());
            put(range.end().to_bits().into());
        }
        put((*self.ports.start()).into());
        put((*self.ports.end()).into());
        let Timeouts {
            udp,
            icmp,
            tcp_transitory,
            tcp_established,
        } = self.timeouts;
        let lease = [self.block_lease, self.orphan_quarantine];
        for span in [udp, icmp, tcp_transitory, tcp_established]
            .iter()
            .chain(&lease)
        {
            put(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        }
        put(self.limit_per_subscriber.into());
        put(self.max_mappings as u64);
        hash.finish()
    }

    /// Whether an address is one of the pool's.
    pub fn has_address(&self, addr: Ipv4Addr) -> bool {
        self.outside.iter().any(|range| range.contains(&addr))
    }

    /// Whether a block has any of the pool's ports.
    pub(super) fn has_block(&self, addr: Ipv4Addr, index: u8) -> bool {
        let first = u16::from(index) << 8;
        let overlaps = *self.ports.start() <= (first | 0xff) && first <= *self.ports.end();
        overlaps && self.has_address(addr)
    }
}

/// Why a configuration makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no outside address, or a range's end lies before its start.
    #[error("there must be outside addresses, each range from its lower to its higher end")]
    NoAddress,
    /// An address is named twice.
    #[error("outside address {0} is named twice")]
    Overlap(Ipv4Addr),
    /// The range of ports is empty or begins with zero.
    #[error("the range of ports must not be empty nor contain 0")]
    Ports,
    /// A timeout or the lease is zero.
    #[error("timeouts and the block lease must be longer than zero")]
    ZeroTimeout,
    /// A limit is zero.
    #[error("limits must be at least 1")]
    ZeroLimit,
}
