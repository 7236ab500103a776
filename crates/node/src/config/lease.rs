//! `[lease]`: how long instances may use what they own without asking, and what then.

use std::time::Duration;

use stateplane_lease::{HolderConfig, OnExpiry};

use super::problem::Collector;
use super::section::Section;
use super::values;

/// A lease's length unless the file says otherwise.
const LENGTH: Duration = Duration::from_secs(10);
/// A clock that goes wrong by more than a tenth is broken.
const MAX_DRIFT_PPM: u64 = 100_000;

/// How leases are kept. The same for all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long one is.
    pub length: Duration,
    /// By how many millionths the store's clock may go faster than an instance's.
    pub drift_ppm: u32,
    /// What becomes of known flows when a lease ends for want of contact.
    pub on_expiry: OnExpiry,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            length: LENGTH,
            drift_ppm: HolderConfig::DRIFT_PPM,
            on_expiry: OnExpiry::Closed,
        }
    }
}

impl Lease {
    /// The same in the words of a holder.
    pub fn holder(&self) -> HolderConfig {
        let mut holder = HolderConfig::new(self.drift_ppm);
        holder.on_expiry = self.on_expiry;
        holder
    }
}

/// Reads the table.
pub(super) fn read(root: &Section<'_, '_>, out: &mut Collector) -> Lease {
    let mut lease = Lease::default();
    let Some(section) = root.section("lease", out) else {
        return lease;
    };
    section.only(&["length", "drift-ppm", "on-expiry"], out);
    if let Some(length) = section.optional("length", out, values::timeout) {
        lease.length = length;
    }
    if let Some(ppm) = section.optional("drift-ppm", out, values::integer(0..=MAX_DRIFT_PPM)) {
        lease.drift_ppm = ppm as u32;
    }
    let words = [("closed", OnExpiry::Closed), ("open", OnExpiry::Open)];
    if let Some(what) = section.optional("on-expiry", out, values::word(&words)) {
        lease.on_expiry = what;
    }
    if lease.on_expiry == OnExpiry::Open {
        let message = "flows that need an owner go on without one when the store is out of reach";
        let help = "an owner that took over meanwhile may see them too; \"closed\" stops them";
        out.warn("lease.on-expiry", message, help);
    }
    lease
}
