//! The log: entries for the slots `base + 1 ..= len`.

use alloc::collections::VecDeque;

use super::journal::Unwritten;
use stateplane_wire::group::{Entry, MAX_NOOP_BYTES, NoopSet, Slot, Summary};

/// How far back a summary says which slots are no-ops.
pub(super) const SUMMARY_SPAN: u64 = MAX_NOOP_BYTES as u64 * 8;

/// Slots after a truncated prefix.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Log {
    base: Slot,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// How many entries are no-ops: most summaries need no search.
    noops: usize,
    /// What the disk lacks, if there is one.
    unwritten: Option<Unwritten>,
}

impl Log {
    /// An empty log that ends at `base`, for a replica with or without a disk.
    pub(super) fn after(base: Slot, disk: bool) -> Self {
        Self {
            base,
            unwritten: disk.then(|| Unwritten::above(base)),
            ..Self::default()
        }
    }

    /// Whether the disk lacks nothing.
    pub(super) fn is_written(&self) -> bool {
        let len = self.len();
        self.unwritten.as_ref().is_none_or(|u| u.is_empty(len))
    }

    /// The first slot that the disk lacks.
    pub(super) fn first_unwritten(&self) -> Option<Slot> {
        self.unwritten.as_ref().map(Unwritten::first)
    }

    /// What the disk lacks; it is about to get it.
    pub(super) fn take_unwritten(&mut self) -> Option<Unwritten> {
        let len = self.len();
        self.unwritten.replace(Unwritten::above(len))
    }

    /// The last truncated slot.
    pub(super) const fn base(&self) -> Slot {
        self.base
    }

    /// The last slot.
    pub(super) fn len(&self) -> Slot {
        self.base + self.entries.len() as u64
    }

    /// Memory used by the entries.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn index(&self, slot: Slot) -> Option<usize> {
        usize::try_from(slot.checked_sub(self.base + 1)?).ok()
    }

    /// What `slot` holds, if it is kept.
    pub(super) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(self.index(slot)?)
    }

    /// Fills the next slot.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.size();
        self.noops += usize::from(entry.is_noop());
        self.entries.push_back(entry);
    }

    /// Replaces what a kept slot holds.
    pub(super) fn replace(&mut self, slot: Slot, entry: Entry) {
        let index = self.index(slot).expect("only kept slots are replaced");
        let place = self
            .entries
            .get_mut(index)
            .expect("only filled slots are replaced");
        self.bytes = self.bytes + entry.size() - place.size();
        self.noops = self.noops + usize::from(entry.is_noop()) - usize::from(place.is_noop());
        *place = entry;
        if let Some(unwritten) = self.unwritten.as_mut() {
            unwritten.replace(slot);
        }
    }

    fn forget(&mut self, entry: &Entry) {
        self.bytes -= entry.size();
        self.noops -= usize::from(entry.is_noop());
    }

    /// Removes and answers the last entry if it lies above `slot`.
    pub(super) fn pop_above(&mut self, slot: Slot) -> Option<(Slot, Entry)> {
        let len = self.len();
        if len <= slot {
            return None;
        }
        let entry = self.entries.pop_back()?;
        self.forget(&entry);
        if let Some(unwritten) = self.unwritten.as_mut() {
            unwritten.cut(len);
        }
        Some((len, entry))
    }

    /// Forgets the slots up to `slot`, kept or not; the log may become empty
    /// and then ends at `slot`.
    pub(super) fn truncate_to(&mut self, slot: Slot) {
        while self.base < slot {
            match self.entries.pop_front() {
                Some(entry) => {
                    self.forget(&entry);
                    self.base += 1;
                }
                None => self.base = slot,
            }
        }
    }

    /// What the log looks like, given its sync point.
    pub(super) fn summary(&self, commit: Slot) -> Summary {
        let len = self.len();
        let known_from = self.base.max(len.saturating_sub(SUMMARY_SPAN));
        let noops = if self.noops == 0 {
            NoopSet::default()
        } else {
            NoopSet::from_rising(
                (known_from + 1..=len).filter(|s| self.get(*s).is_some_and(Entry::is_noop)),
            )
        };
        Summary {
            commit,
            len,
            known_from,
            noops,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_survive_truncation_at_both_ends() {
        let mut log = Log::default();
        (0..10).for_each(|_| log.push(Entry::Noop));
        log.truncate_to(4);
        assert_eq!((log.base(), log.len()), (4, 10));
        assert!(log.get(4).is_none() && log.get(5).is_some() && log.get(11).is_none());
        assert_eq!(log.pop_above(9), Some((10, Entry::Noop)));
        assert_eq!(log.pop_above(9), None);
        let summary = log.summary(6);
        assert!(
            summary.noops.contains(5) && !summary.noops.contains(4) && !summary.noops.contains(10)
        );
        log.truncate_to(20);
        assert_eq!((log.base(), log.len(), log.bytes()), (20, 20, 0));
    }
}
