//! The instance's cache of decisions: bounded in number and in time.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::time::Duration;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use stateplane_base::{Reason, Time};
use stateplane_flow::FlowKey;

use crate::function::Decision;

/// SipHash-1-3 with a key of this process: whoever sends packets cannot aim them at one
/// slot. The order of iteration depends on it, so nothing but listings iterates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(pub(crate) [u64; 2]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

/// What is remembered about a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Pass(Decision),
    Deny(Reason),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    verdict: Verdict,
    valid_until: Time,
}

/// Refusals may take this part of the table, so that a port scan cannot fill it.
const DENY_PART: usize = 8;

/// Entries one sweep looks at.
const SWEEP_MAX: usize = 1024;

/// The table. Each key is in exactly one bin, named by the second in which its entry was
/// to end when it was put there; a bin whose second is over is looked through once, and
/// keys whose entries were prolonged move to a later bin.
#[derive(Debug)]
pub(crate) struct Table {
    entries: HashMap<FlowKey, Entry, Keyed>,
    bins: BTreeMap<u64, Vec<FlowKey>>,
    denied: usize,
    max: usize,
}

impl Table {
    pub(crate) fn new(max: usize, key: [u64; 2]) -> Self {
        // All at once: growing would stop packets for milliseconds. Memory that is never
        // used costs address space alone.
        let entries = HashMap::with_capacity_and_hasher(max, Keyed(key));
        Self {
            entries,
            bins: BTreeMap::new(),
            denied: 0,
            max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The valid verdict about a flow.
    #[inline]
    pub(crate) fn get(&self, flow: &FlowKey, now: Time) -> Option<Verdict> {
        let entry = self.entries.get(flow)?;
        (entry.valid_until >= now).then_some(entry.verdict)
    }

    /// Remembers a decision, in place of whatever was known. False: the table is full.
    pub(crate) fn pass(&mut self, flow: FlowKey, decision: Decision) -> bool {
        self.put(
            flow,
            Entry {
                verdict: Verdict::Pass(decision),
                valid_until: decision.valid_until,
            },
        )
    }

    /// Remembers a refusal for a while, if there is room for refusals.
    pub(crate) fn deny(&mut self, flow: FlowKey, reason: Reason, until: Time) -> bool {
        self.denied < self.max / DENY_PART
            && self.put(
                flow,
                Entry {
                    verdict: Verdict::Deny(reason),
                    valid_until: until,
                },
            )
    }

    /// Believes nothing about this flow any more.
    pub(crate) fn forget(&mut self, flow: &FlowKey) {
        // The entry stays, expired, until its bin's turn: every key is in one bin.
        if let Some(entry) = self.entries.get_mut(flow) {
            entry.valid_until = Time::ZERO;
        }
    }

    fn put(&mut self, flow: FlowKey, entry: Entry) -> bool {
        let denied = |entry: &Entry| usize::from(matches!(entry.verdict, Verdict::Deny(_)));
        if let Some(known) = self.entries.get_mut(&flow) {
            self.denied = self.denied - denied(known) + denied(&entry);
            *known = entry;
            return true;
        }
        if self.entries.len() >= self.max {
            return false;
        }
        self.denied += denied(&entry);
        self.entries.insert(flow, entry);
        self.bins
            .entry(second(entry.valid_until))
            .or_default()
            .push(flow);
        true
    }

    /// When there may be something to [`Self::sweep`].
    pub(crate) fn next_sweep(&self) -> Option<Time> {
        let (&bin, _) = self.bins.first_key_value()?;
        Some(Time::ZERO + Duration::from_secs(bin + 1))
    }

    /// Removes what ended before this second, a bounded number of entries at a time:
    /// packets must not wait for a large bin.
    pub(crate) fn sweep(&mut self, now: Time) {
        for _ in 0..SWEEP_MAX {
            let Some(mut bin) = self.bins.first_entry() else {
                return;
            };
            if *bin.key() >= second(now) {
                return;
            }
            let Some(flow) = bin.get_mut().pop() else {
                bin.remove();
                continue;
            };
            let Some(entry) = self.entries.get(&flow) else {
                continue;
            };
            if entry.valid_until < now {
                self.denied -= usize::from(matches!(entry.verdict, Verdict::Deny(_)));
                self.entries.remove(&flow);
            } else {
                self.bins
                    .entry(second(entry.valid_until))
                    .or_default()
                    .push(flow);
            }
        }
    }

    /// The valid decisions, in no particular order.
    pub(crate) fn decisions(&self, now: Time) -> impl Iterator<Item = (&FlowKey, &Decision)> {
        self.entries
            .iter()
            .filter_map(move |(flow, entry)| match &entry.verdict {
                Verdict::Pass(decision) if entry.valid_until >= now => Some((flow, decision)),
                _ => None,
            })
    }

    /// Asserts the invariants.
    pub(crate) fn check(&self) {
        let binned: usize = self.bins.values().map(Vec::len).sum();
        assert_eq!(
            binned,
            self.entries.len(),
            "every entry is in exactly one bin"
        );
        assert!(self.entries.len() <= self.max, "the table is bounded");
    }
}

const fn second(time: Time) -> u64 {
    time.as_nanos() / 1_000_000_000
}
