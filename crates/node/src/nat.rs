//! The configured NAT in the words of the function.

use stateplane_base::Incarnation;
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::{CACHE_LEASE, NatConfig, Pool, Prefix};
use stateplane_host::port::Mac;

use crate::config::Nat;
use crate::failure::Failure;
use crate::store;

/// What one instance is told.
pub(crate) fn instance_config(
    nat: &Nat,
    instance: InstanceId,
    incarnation: Incarnation,
    outside_mac: Mac,
    seed: u64,
) -> Result<NatConfig, Failure> {
    let prefixes = nat.inside_prefixes.iter();
    let inside = prefixes
        .filter_map(|p| Prefix::new(p.first(), p.len()))
        .collect();
    let ranges = nat
        .outside_addresses
        .iter()
        .map(|range| range.first..=range.last);
    let outside = Pool::new(ranges)
        .ok_or_else(|| Failure::Usage("nat.outside-addresses names no address".to_owned()))?;
    Ok(NatConfig {
        instance,
        incarnation,
        fingerprint: store::nat_config(nat).fingerprint(),
        inside,
        outside,
        ports: nat.ports.clone(),
        arp_mac: Some(stateplane_wire::eth::Mac(outside_mac.0)),
        cache_lease: CACHE_LEASE,
        mappings_max: 1 << 20,
        seed,
    })
}
