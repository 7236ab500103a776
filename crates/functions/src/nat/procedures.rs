//! The NAT's procedures: what every replica of the store executes.
//!
//! * [`config`]: what they depend on; the same on every replica and instance
//! * `blocks`: instances, their leases and the blocks of outside ports they own
//! * `bind`, `mappings`, `ends`: mappings made; found, kept alive and listed; ended
//! * `rows`: the tables' layouts; [`read`]: copies of them
//!
//! # What holds at any time
//!
//! * An inside endpoint has at most one mapping per protocol, and no two live mappings of a protocol
//!   have the same outside endpoint (endpoint-independent mapping, RFC 4787 REQ-1; no overloading,
//!   REQ-3).
//! * An outside endpoint whose mapping ended serves no other one for [`QUARANTINE`] (RFC 6888
//!   REQ-8). An instance may so use what it remembers of a mapping for a while without asking.
//! * A port is given to a mapping only if its block belongs to who proposed it, under a lease that
//!   has not ended. What a former life of an instance still has in flight is fenced by its epoch.
//! * A block whose owner is gone keeps its mappings. It may be taken again when
//!   [`NatStateConfig::orphan_quarantine`] has passed since the lease ended: by then nothing answers
//!   any more to packets that the owner let out with ports it had not committed.

mod bind;
mod blocks;
pub mod config;
mod ends;
mod mappings;
pub mod read;
mod rows;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use stateplane_state::{
    Counters, Ordered, Refusal, RegisterError, Registry, Table, TableSpec, TimerKind, Tx,
};
use zerocopy::byteorder::network_endian::U64;

pub use config::{ConfigError, NatStateConfig, Timeouts};
use rows::{BlockKey, Empty, InsideKey, LeaseRow, MappingRow, OutsideKey, OwnerRow, PortRow};

/// How long an outside endpoint rests after its mapping ended (RFC 6888 REQ-8).
pub const QUARANTINE: Duration = Duration::from_secs(120);

/// Most instances the store remembers.
const MAX_OWNERS: usize = 4096;
/// Most blocks owned by anybody.
const MAX_BLOCKS: usize = 1 << 20;

/// Tables and timers of the NAT, and the configuration its procedures depend on.
struct Nat {
    config: NatStateConfig,
    /// Each instance's present life.
    owners: Table<U64, OwnerRow>,
    /// Each epoch's lease, as long as it is an owner's present one or has blocks.
    leases: Table<U64, LeaseRow>,
    /// Each block's epoch.
    blocks: Table<BlockKey, U64>,
    /// The same blocks in their order, for listings.
    taken: Table<BlockKey, Empty, Ordered>,
    /// The last epoch given out.
    epochs: Counters<[u8]>,
    /// Each inside endpoint's mapping.
    mappings: Table<InsideKey, MappingRow>,
    /// Each outside endpoint that is mapped or in quarantine.
    ports: Table<OutsideKey, PortRow>,
    /// How many mappings each inside address has.
    subscribers: Counters<[u8; 4]>,
    /// The timer that looks whether mappings have ended.
    expire: TimerKind,
}

/// Why the NAT could not be registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NatRegisterError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry refused a name.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// Adds the NAT's tables and procedures to a registry, bound to `config`.
pub fn register(registry: &mut Registry, config: &NatStateConfig) -> Result<(), NatRegisterError> {
    config.check()?;
    registry.depend_on(config.fingerprint());
    let rows = config.max_mappings;
    let mappings = registry.table(TableSpec::new(read::MAPPINGS, rows))?;
    let ports = registry.table(TableSpec::new(read::PORTS, rows))?;
    let subscribers = Counters::register(registry, TableSpec::new("nat.subscribers", rows))?;
    let unquarantine = registry.timer("nat.unquarantine", move |tx, _, key| {
        ends::unquarantine(tx, ports, key)
    })?;
    let ends = ends::Ends {
        mappings,
        ports,
        subscribers,
        unquarantine,
    };
    let expire = registry.timer("nat.expire", move |tx, kind, key| {
        ends.expire(tx, kind, key)
    })?;
    let nat = Arc::new(Nat {
        config: config.clone(),
        owners: registry.table(TableSpec::new("nat.owners", MAX_OWNERS))?,
        leases: registry.table(TableSpec::new("nat.leases", MAX_OWNERS + MAX_BLOCKS))?,
        blocks: registry.table(TableSpec::new("nat.blocks", MAX_BLOCKS))?,
        taken: registry.ordered_table(TableSpec::new("nat.taken", MAX_BLOCKS))?,
        epochs: Counters::register(registry, TableSpec::new("nat.epochs", 1))?,
        mappings,
        ports,
        subscribers,
        expire,
    });
    let mut add = |name, version, procedure: NatProcedure| {
        let nat = nat.clone();
        registry.register(name, version, move |tx, arguments, reply| {
            procedure(&nat, tx, arguments, reply)
        })
    };
    add("nat.register", 1, Nat::register)?;
    add("nat.renew", 1, Nat::renew)?;
    add("nat.release", 1, Nat::release)?;
    add("nat.take_block", 1, Nat::take_block)?;
    add("nat.bind", 2, Nat::bind)?;
    add("nat.lookup", 1, Nat::lookup)?;
    add("nat.refresh", 1, Nat::refresh)?;
    add("nat.list", 1, Nat::list)?;
    Ok(())
}

type NatProcedure = fn(&Nat, &mut Tx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Refusal>;
