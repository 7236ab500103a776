//! What a run of many seeds found, for people and for machines.
use crate::dice::mix;
use serde::Serialize;
use std::collections::BTreeMap;

/// The result of a run of seeds; its JSON form is stable.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seeds run.
    pub seeds: u64,
    /// Seeds in which every check held.
    pub passed: u64,
    /// The others.
    pub failed: Vec<Failure>,
    /// Datagrams delivered, timers fired and faults injected, over all seeds.
    pub events: u64,
    /// Operations answered to clients.
    pub operations: u64,
    /// Virtual seconds simulated.
    pub virtual_s: f64,
    /// Wall-clock seconds used.
    pub wall_s: f64,
    /// Seeds per wall-clock second.
    pub seeds_per_s: f64,
    /// Seeds that were run twice to see that both runs are the same.
    pub repeated: u64,
    /// Fingerprint of every datagram delivered in any seed: the same seeds of the same code
    /// give the same.
    pub digest: u64,
    /// Longest virtual time from the end of all faults to full agreement.
    pub slowest_recovery_ms: f64,
    /// How often each noteworthy thing happened.
    pub marks: BTreeMap<String, u64>,
}

/// A seed that broke a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The profile that was asked for.
    pub profile: String,
    /// The first word says which rule, the rest how.
    pub what: String,
    /// The smallest set of fault classes found with which it still fails.
    pub needs: Vec<String>,
    /// How many choices (faults, delays, requests) are left of it, if it was shrunk.
    pub choices: Option<usize>,
    /// Shows the run, message by message.
    pub replay: String,
}

/// What one seed gave.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Run {
    /// The first broken rule.
    pub broken: Option<String>,
    /// Fingerprint of everything that was delivered, in order.
    pub hash: u64,
    pub events: u64,
    pub operations: u64,
    pub virtual_ns: u64,
    /// From the end of the faults to agreement.
    pub recovery_ns: u64,
    pub marks: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Adds what one seed gave, except its failure.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn add(&mut self, seed: u64, run: &Run) {
        self.seeds += 1;
        // Seeds end in any order.
        self.digest ^= mix(run.hash ^ mix(seed));
        self.passed += u64::from(run.broken.is_none());
        self.events += run.events;
        self.operations += run.operations;
        self.virtual_s += run.virtual_ns as f64 / 1e9;
        let recovery_ms = run.recovery_ns as f64 / 1e6;
        self.slowest_recovery_ms = self.slowest_recovery_ms.max(recovery_ms);
        for (mark, count) in &run.marks {
            *self.marks.entry((*mark).to_owned()).or_default() += count;
        }
    }

    /// Whether every seed passed.
    pub fn pass(&self) -> bool {
        self.failed.is_empty()
    }
}
