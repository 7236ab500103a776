//! The instance's cache of decisions: bounded in number and in time.

mod index;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::time::Duration;

use siphasher::sip::SipHasher13;
use stateplane_base::{Reason, Time};
use stateplane_flow::{FlowAction, FlowKey};

use crate::function::{Decision, Token};
pub(crate) use index::Index;

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

/// A verdict without its end.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Pass(FlowAction, Token),
    Deny(Reason),
}

/// One line of the processor's cache: a packet of a known flow waits for memory once.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Entry {
    flow: FlowKey,
    kept: Kept,
    valid_until: Time,
    /// The offer to the fast path that was made last; see [`Table::offer`].
    offered: u32,
}

const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    fn verdict(&self) -> Verdict {
        match self.kept {
            Kept::Pass(action, token) => Verdict::Pass(Decision {
                action,
                valid_until: self.valid_until,
                token,
            }),
            Kept::Deny(reason) => Verdict::Deny(reason),
        }
    }
}

/// Where an entry lies; good until the next sweep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

/// Refusals may take this part of the table, so that a port scan cannot fill it.
const DENY_PART: usize = 8;

/// Entries one sweep looks at.
const SWEEP_MAX: usize = 1024;

/// The table. Entries lie close together, however large the table may become, and an
/// index of numbers leads to them: few flows then need little of the cache and few pages.
/// Each entry is in exactly one bin, named by the second in which it was to end when it
/// was put there; a bin whose second is over is looked through once, and entries that
/// were prolonged move to a later bin.
#[derive(Debug)]
pub(crate) struct Table {
    index: Index,
    entries: Vec<Entry>,
    /// Places of entries that were removed.
    free: Vec<u32>,
    bins: BTreeMap<u64, Vec<u32>>,
    hasher: Keyed,
    denied: usize,
    max: usize,
}

impl Table {
    pub(crate) fn new(max: usize, key: [u64; 2]) -> Self {
        // All at once: growing would stop packets for milliseconds. Memory that is never
        // used costs address space alone.
        Self {
            index: Index::new(max),
            entries: Vec::with_capacity(max),
            free: Vec::new(),
            bins: BTreeMap::new(),
            hasher: Keyed(key),
            denied: 0,
            max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// What [`Self::find`] needs; costs more than the rest of it.
    #[inline]
    pub(crate) fn hash(&self, flow: &FlowKey) -> u64 {
        self.hasher.hash_one(flow)
    }

    /// Reads from the line that [`Self::find`] reads first: a place to wait for it while other packets
    /// are read.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        self.index.touch(hash)
    }

    /// Where a flow's entry is, valid or not.
    #[inline]
    pub(crate) fn find(&self, hash: u64, flow: &FlowKey) -> Option<Place> {
        let found = self
            .index
            .find(hash, |at| self.entries[at as usize].flow == *flow);
        found.map(Place)
    }

    /// The function's handle for the flow there, if it passes.
    #[inline]
    pub(crate) fn token(&self, Place(at): Place) -> Option<Token> {
        match self.entries.get(at as usize)?.kept {
            Kept::Pass(_, token) => Some(token),
            Kept::Deny(_) => None,
        }
    }

    /// The valid verdict at a place.
    #[inline]
    pub(crate) fn at(&self, Place(at): Place, now: Time) -> Option<Verdict> {
        let entry = self.entries.get(at as usize)?;
        (entry.valid_until >= now).then(|| entry.verdict())
    }

    /// The valid verdict about a flow.
    pub(crate) fn get(&self, flow: &FlowKey, now: Time) -> Option<Verdict> {
        self.at(self.find(self.hash(flow), flow)?, now)
    }

    /// Whether a flow has an entry with a decision, valid or not.
    pub(crate) fn knows(&self, flow: &FlowKey) -> bool {
        let place = self.find(self.hash(flow), flow);
        place.is_some_and(|Place(at)| matches!(self.entries[at as usize].kept, Kept::Pass(..)))
    }

    /// Whether the entry there has yet to be offered to the fast path, in this round of
    /// offers; from now on it has been.
    #[inline]
    pub(crate) fn offer(&mut self, Place(at): Place, round: u32) -> bool {
        let entry = &mut self.entries[at as usize];
        core::mem::replace(&mut entry.offered, round) != round
    }

    /// Remembers a decision, in place of whatever was known. `None`: the table is full.
    pub(crate) fn pass(&mut self, flow: FlowKey, decision: Decision) -> Option<Place> {
        let kept = Kept::Pass(decision.action, decision.token);
        self.put(flow, kept, decision.valid_until)
    }

    /// Remembers a refusal for a while, if there is room for refusals. Whether a decision, whose time
    /// was over, made room for it: no sweep will tell of that one.
    pub(crate) fn deny(&mut self, flow: FlowKey, reason: Reason, until: Time) -> bool {
        let (flows, denied) = (self.len(), self.denied);
        if denied < self.max / DENY_PART {
            self.put(flow, Kept::Deny(reason), until);
        }
        self.len() == flows && self.denied > denied
    }

    /// Believes nothing about this flow any more.
    pub(crate) fn forget(&mut self, flow: &FlowKey) {
        // The entry stays, expired, until its bin's turn: every entry is in one bin.
        if let Some(Place(at)) = self.find(self.hash(flow), flow) {
            self.entries[at as usize].valid_until = Time::ZERO;
        }
    }

    fn put(&mut self, flow: FlowKey, kept: Kept, valid_until: Time) -> Option<Place> {
        let hash = self.hash(&flow);
        let denied = usize::from(matches!(kept, Kept::Deny(_)));
        if let Some(Place(at)) = self.find(hash, &flow) {
            let known = &mut self.entries[at as usize];
            let was = usize::from(matches!(known.kept, Kept::Deny(_)));
            self.denied = self.denied - was + denied;
            (known.kept, known.valid_until) = (kept, valid_until);
            return Some(Place(at));
        }
        if self.index.len() >= self.max {
            return None;
        }
        let entry = Entry {
            flow,
            kept,
            valid_until,
            offered: 0,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.denied += denied;
        self.index.insert(hash, at);
        self.bins.entry(second(valid_until)).or_default().push(at);
        Some(Place(at))
    }

    /// When there may be something to [`Self::sweep`].
    pub(crate) fn next_sweep(&self) -> Option<Time> {
        let (&bin, _) = self.bins.first_key_value()?;
        Some(Time::ZERO + Duration::from_secs(bin + 1))
    }

    /// Removes what ended before this second, a bounded number of entries at a time:
    /// packets must not wait for a large bin. Tells the flows that had passed.
    pub(crate) fn sweep(&mut self, now: Time, mut ended: impl FnMut(FlowKey)) {
        for _ in 0..SWEEP_MAX {
            let Some(mut bin) = self.bins.first_entry() else {
                return;
            };
            if *bin.key() >= second(now) {
                return;
            }
            let Some(at) = bin.get_mut().pop() else {
                bin.remove();
                continue;
            };
            let entry = self.entries[at as usize];
            if entry.valid_until >= now {
                self.bins
                    .entry(second(entry.valid_until))
                    .or_default()
                    .push(at);
                continue;
            }
            let hash = self.hash(&entry.flow);
            self.index.remove(hash, at);
            self.free.push(at);
            match entry.kept {
                Kept::Deny(_) => self.denied -= 1,
                Kept::Pass(..) => ended(entry.flow),
            }
        }
    }

    /// The valid decisions, in no particular order.
    pub(crate) fn decisions(&self, now: Time) -> impl Iterator<Item = (FlowKey, Decision)> {
        let known = self.index.iter().map(|at| &self.entries[at as usize]);
        known.filter_map(move |entry| match entry.verdict() {
            Verdict::Pass(decision) if entry.valid_until >= now => Some((entry.flow, decision)),
            _ => None,
        })
    }

    /// Asserts the invariants.
    pub(crate) fn check(&self) {
        let binned: usize = self.bins.values().map(Vec::len).sum();
        assert_eq!(
            binned,
            self.index.len(),
            "every entry is in exactly one bin"
        );
        assert_eq!(
            self.index.len() + self.free.len(),
            self.entries.len(),
            "every place is used or free"
        );
        assert!(self.index.len() <= self.max, "the table is bounded");
    }
}

const fn second(time: Time) -> u64 {
    time.as_nanos() / 1_000_000_000
}
