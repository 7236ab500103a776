//! Who is counted, and who may how much.

use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::Ipv4Addr;
use core::time::Duration;

use siphasher::sip::SipHasher13;
use stateplane_base::{Incarnation, LogTime};
use stateplane_flow::steering::mix;
use stateplane_lease::{HolderConfig, InstanceId, Life, Partition};

/// Parts of an allowance: one is reserved at a time, but no less than [`SLICE_MIN`].
pub const SLICES: u64 = 64;
/// Bytes that are reserved at once, at least.
pub const SLICE_MIN: u64 = 1 << 16;
/// Most partitions.
pub const PARTITIONS_MAX: u32 = 512;
/// Most subscribers.
pub const SUBSCRIBERS_MAX: u64 = 1 << 20;

/// Seed of the hash that places subscribers in partitions.
const SEED: u32 = 0x6d65_7465;

/// Addresses that share their first bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    bits: u32,
    len: u8,
}

impl Subnet {
    /// The one of `len` bits that `address` lies in; `None` if `len` exceeds 32.
    pub fn new(address: Ipv4Addr, len: u8) -> Option<Self> {
        let mask = mask(len)?;
        let bits = address.to_bits() & mask;
        Some(Self { bits, len })
    }

    /// Whether the address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        mask(self.len).is_some_and(|mask| address.to_bits() & mask == self.bits)
    }

    /// How many addresses.
    pub fn count(self) -> u64 {
        1 << (32 - u32::from(self.len.min(32)))
    }
}

fn mask(len: u8) -> Option<u32> {
    (len <= 32).then(|| u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0))
}

/// How many bytes may pass in a period, both ways together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Bytes of frames.
    pub bytes: u64,
    /// The period. Periods begin where the log's time, which begins with the time of day, is a
    /// multiple of it.
    pub period: Duration,
}

impl Allowance {
    /// The period's number, and when it ends.
    pub fn period_at(&self, now: LogTime) -> (u64, LogTime) {
        let period = u64::try_from(self.period.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let number = now.as_nanos() / period;
        let end = number.saturating_add(1).saturating_mul(period);
        (number, LogTime::from_nanos(end))
    }

    /// What is reserved at once.
    pub fn slice(&self) -> u64 {
        (self.bytes / SLICES).max(SLICE_MIN)
    }
}

/// What store and instances must agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeterStateConfig {
    /// Whose packets are counted.
    pub inside: Vec<Subnet>,
    /// Who may how much; of several that a subscriber lies in, the longest counts.
    pub allowances: Vec<(Subnet, Allowance)>,
    /// Partitions that subscribers are spread over.
    pub partitions: u32,
}

impl MeterStateConfig {
    /// Counts these, without allowances.
    pub fn new(inside: Vec<Subnet>) -> Self {
        Self {
            inside,
            allowances: Vec::new(),
            partitions: 64,
        }
    }

    /// Whether the configuration makes sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let subscribers: u64 = self.inside.iter().map(|subnet| subnet.count()).sum();
        if subscribers == 0 || subscribers > SUBSCRIBERS_MAX {
            return Err(ConfigError::Subscribers);
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return Err(ConfigError::Partitions);
        }
        let mut allowances = self.allowances.iter();
        if allowances.any(|(_, allowed)| allowed.bytes == 0 || allowed.period.is_zero()) {
            return Err(ConfigError::Allowance);
        }
        Ok(())
    }

    /// A hash of everything here: equal for equal configurations, on every machine.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = SipHasher13::new_with_keys(0x6d65_7465_7263_6f6e, 1);
        let mut put = |number: u64| hash.write(&number.to_be_bytes());
        put(self.inside.len() as u64);
        let subnet = |subnet: &Subnet| u64::from(subnet.bits) << 8 | u64::from(subnet.len);
        self.inside.iter().for_each(|inside| put(subnet(inside)));
        for (whose, allowed) in &self.allowances {
            put(subnet(whose));
            put(allowed.bytes);
            put(u64::try_from(allowed.period.as_nanos()).unwrap_or(u64::MAX));
        }
        put(self.partitions.into());
        hash.finish()
    }

    /// Whether packets of this address are counted.
    pub fn is_subscriber(&self, address: Ipv4Addr) -> bool {
        self.inside.iter().any(|subnet| subnet.contains(address))
    }

    /// How much it may, if that is limited.
    pub fn allowance(&self, address: Ipv4Addr) -> Option<Allowance> {
        let mine = self.allowances.iter();
        let mine = mine.filter(|(subnet, _)| subnet.contains(address));
        mine.max_by_key(|(subnet, _)| subnet.len)
            .map(|(_, allowed)| *allowed)
    }

    /// The partition it belongs to.
    pub fn partition(&self, address: Ipv4Addr) -> Partition {
        let spread = u64::from(mix(address.to_bits() ^ SEED)) * u64::from(self.partitions);
        Partition(spread >> 32)
    }
}

/// Why a configuration makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// None, or too many.
    #[error("the prefixes must hold 1 to {SUBSCRIBERS_MAX} addresses together")]
    Subscribers,
    /// None, or too many.
    #[error("there must be 1 to {PARTITIONS_MAX} partitions")]
    Partitions,
    /// One is empty.
    #[error("allowances and their periods must be more than nothing")]
    Allowance,
}

/// Settings of a [`Meter44`](super::Meter44).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeterConfig {
    /// Who we are in the store.
    pub instance: InstanceId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What the store must have, too.
    pub state: MeterStateConfig,
    /// How often what passed is added to the accounts: what a crash may lose.
    pub interval: Duration,
    /// Subscribers that may be active here at once.
    pub accounts_max: usize,
    /// How our leases are kept.
    pub lease: HolderConfig,
    /// Seed of what is spread in time.
    pub seed: u64,
}

impl MeterConfig {
    /// Accounts are added to so often unless somebody says otherwise.
    pub const INTERVAL: Duration = Duration::from_millis(100);

    /// The usual settings of an instance.
    pub fn new(
        state: MeterStateConfig,
        instance: InstanceId,
        incarnation: Incarnation,
        seed: u64,
    ) -> Self {
        Self {
            instance,
            incarnation,
            state,
            interval: Self::INTERVAL,
            accounts_max: 1 << 16,
            lease: HolderConfig::default(),
            seed,
        }
    }

    /// Who we are, and in which life.
    pub(super) fn life(&self) -> Life {
        Life {
            instance: self.instance,
            incarnation: self.incarnation,
        }
    }
}
