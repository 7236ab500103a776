//! The configured meter in the words of the function.

use stateplane_base::Incarnation;
use stateplane_functions::meter::{Allowance, MeterConfig, MeterStateConfig, Subnet};
use stateplane_lease::InstanceId;

use crate::config::{Lease, Meter, Prefix};

/// What the meter's procedures depend on: the same on every replica and instance that read the same
/// file.
pub(crate) fn state_config(meter: &Meter) -> MeterStateConfig {
    let subnet = |prefix: &Prefix| Subnet::new(prefix.first(), prefix.len());
    let inside = meter.inside_prefixes.iter().filter_map(subnet);
    let allowances = meter.allowances.iter().filter_map(|one| {
        let allowance = Allowance {
            bytes: one.bytes,
            period: one.period,
        };
        Some((subnet(&one.prefix)?, allowance))
    });
    MeterStateConfig {
        allowances: allowances.collect(),
        partitions: meter.partitions,
        ..MeterStateConfig::new(inside.collect())
    }
}

/// What one instance is told.
pub(crate) fn instance_config(
    meter: &Meter,
    lease: &Lease,
    instance: InstanceId,
    incarnation: Incarnation,
    seed: u64,
) -> MeterConfig {
    let mut config = MeterConfig::new(state_config(meter), instance, incarnation, seed);
    config.interval = meter.interval;
    config.accounts_max = meter.active as usize;
    config.lease = lease.holder();
    config
}
