//! The configured NAT in the words of the function.

use stateplane_base::Incarnation;
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::{NatConfig, Prefix};
use stateplane_host::port::Mac;

use crate::config::{Lease, Nat};
use crate::failure::Failure;
use crate::store;

/// What one instance is told.
pub(crate) fn instance_config(
    nat: &Nat,
    lease: &Lease,
    instance: InstanceId,
    incarnation: Incarnation,
    outside_mac: Mac,
    seed: u64,
) -> Result<NatConfig, Failure> {
    let prefixes = nat.inside_prefixes.iter();
    let inside = prefixes
        .filter_map(|p| Prefix::new(p.first(), p.len()))
        .collect();
    let store = store::nat_config(nat, lease);
    let mut config = NatConfig::new(&store, instance, incarnation, inside, seed)
        .ok_or_else(|| Failure::Usage("nat.outside-addresses names no address".to_owned()))?;
    config.lease = lease.holder();
    config.arp_mac = Some(stateplane_wire::eth::Mac(outside_mac.0));
    Ok(config)
}
