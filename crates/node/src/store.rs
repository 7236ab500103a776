//! The store every replica (and every embedded client) starts with: the
//! builtin procedures, leases, and the procedures of the configured functions.

use std::time::Duration;

use stateplane_functions::nat::procedures::{self, NatStateConfig, QUARANTINE};
use stateplane_lease::Terms;
use stateplane_state::{Limits, Registry, Store};

use crate::config::{Commit, Config, Lease, Nat, State};
use crate::failure::Failure;
use crate::meter;
use crate::sequencer::random;

/// Bytes that a procedure keeps with a value, at most.
const KEPT_WITH: usize = 256;

/// A blank store. Two nodes with the same configuration build the same one;
/// only the placement in its hash tables, which nobody sees, is this node's own.
pub fn new(config: &Config) -> Result<Store, Failure> {
    let mut registry = Registry::builtin();
    let grants =
        stateplane_lease::procedures::register(&mut registry, Terms::new(config.lease.length))
            .map_err(|error| Failure::Usage(format!("[lease]: {error}")))?;
    if let Some(nat) = &config.nat {
        procedures::register(&mut registry, &nat_config(nat, &config.lease))
            .map_err(|error| Failure::Usage(format!("[nat]: {error}")))?;
    }
    if let Some(meter) = &config.meter {
        let state = meter::state_config(meter);
        stateplane_functions::meter::procedures::register(&mut registry, grants, &state)
            .map_err(|error| Failure::Usage(format!("[meter]: {error}")))?;
    }
    Ok(Store::with_seed(
        registry,
        limits(config),
        [random(), random()],
    ))
}

/// How large the store and what it is asked may be.
pub fn limits(config: &Config) -> Limits {
    let usual = Limits::default();
    match config.state {
        State::Embedded => usual,
        State::Group { longest, .. } => Limits {
            op_bytes: longest,
            reply_bytes: longest,
            value_bytes: longest / 4 + KEPT_WITH,
            ..usual
        },
    }
}

/// What the NAT's procedures depend on: the same on every replica and instance
/// that read the same file.
pub fn nat_config(nat: &Nat, lease: &Lease) -> NatStateConfig {
    let ranges = nat
        .outside_addresses
        .iter()
        .map(|range| range.first..=range.last);
    NatStateConfig {
        ports: nat.ports.clone(),
        timeouts: nat.timeouts,
        limit_per_subscriber: nat.limit_per_subscriber,
        block_lease: lease.length,
        // With strict commits no port is seen outside before the store has it,
        // so a dead owner's block holds no secrets.
        orphan_quarantine: match nat.commit {
            Commit::Strict => Duration::ZERO,
            Commit::ReplyBarrier | Commit::Async => QUARANTINE,
        },
        ..NatStateConfig::new(ranges.collect())
    }
}
