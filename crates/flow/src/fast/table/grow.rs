//! Growth: the slots in use double when many of them are taken, a few at each turn, while readers
//! go on.
//!
//! ```text
//!   Done ── many are taken ──▶ Copying ── all have a copy: readers look ──▶ Parting ──▶ Done
//!                              slot i ─▶ i + S        at 2 S slots          one of both goes
//! ```
//!
//! With twice the slots a choice of `i` becomes `i` or `i + S`, by one more bit of the hash. So each
//! entry is copied from `i` to `i + S` first; when all have a copy, one store tells readers to look
//! at both halves: whichever bit it is, they find it. Then each pair loses the one that nobody finds.
//!
//! Until then a change is made to both, so no reader ever finds an entry that was changed or removed
//! before. One that read the old number of slots looks at the lower half: there is its entry, or
//! nothing, and then the packet is the slow path's. [`shrink`](super::shrink) is the way back.

use stateplane_base::Time;

use super::super::key::{Address, Seed};
use super::super::layout::BUCKET_SLOTS;
use super::super::memory::{Memory, WrongSize, load, store};
use super::super::settings::Extent;
use super::{Seen, Slot, Table, clear_key, idle, put};

/// Where the doubling of a table stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Growth {
    /// It is not under way.
    Done,
    /// Slots below this one have a copy in the half that readers do not look at yet.
    Copying(usize),
    /// Readers look at both halves; pairs from this one on may hold an entry twice.
    Parting(usize),
    /// Slots of the upper half below this one are to be found in the lower half as well.
    Joining(usize),
    /// They are not, after all; slots of the lower half from this one on may hold an entry twice.
    Undoing(usize),
    /// Readers look at the lower half; the upper one is empty below this slot.
    Leaving(usize),
}

/// Parts of the slots that may be taken before they double: 5 of 8. Fewer would double the pages of
/// many tables for nothing; with more, second choices become frequent.
const MANY: (usize, usize) = (5, 8);
/// Slots that each insertion brings forward: a doubling ends long before the next one is due, and
/// before slots run short.
const STEP: usize = 16;

impl<M: Memory, A: Address> Table<M, A> {
    /// As [`Self::new`], but only about `first` slots are in use at first, and more as flows come.
    /// `extent` is this table's among the settings.
    pub fn growing(
        memory: M,
        seed: Seed,
        extent: Extent<M>,
        first: usize,
    ) -> Result<Self, WrongSize> {
        let mut table = Self::new(memory, seed)?;
        let first = first.next_power_of_two().max(2 * BUCKET_SLOTS);
        table.in_use = first.min(table.capacity());
        table.least = table.in_use;
        extent.set(table.in_use);
        table.extent = Some(extent);
        Ok(table)
    }

    /// Brings a doubling that is under way forward by so many slots.
    pub fn tend(&mut self, slots: usize) {
        for _ in 0..slots {
            match self.growth {
                Growth::Done => {
                    self.halve_if_few();
                    if self.growth == Growth::Done {
                        return;
                    }
                }
                Growth::Copying(slot) if slot < self.in_use => self.copy(slot),
                Growth::Copying(_) => self.open(),
                Growth::Parting(slot) if slot < self.in_use / 2 => {
                    self.part(slot);
                    self.growth = Growth::Parting(slot + 1);
                }
                Growth::Parting(_) => self.growth = Growth::Done,
                Growth::Joining(_) | Growth::Undoing(_) | Growth::Leaving(_) => self.step_down(),
            }
        }
    }

    /// An entry was added.
    pub(super) fn keep_up(&mut self) {
        let (part, whole) = MANY;
        let many = self.used >= self.in_use / whole * part;
        if self.growth == Growth::Done && many && self.in_use < self.capacity() {
            self.growth = Growth::Copying(0);
        }
        if self.used > self.in_use / 2 / whole * part {
            self.stay();
        }
        self.tend(STEP);
    }

    fn copy(&mut self, slot: usize) {
        if self.is_taken(slot) {
            let (until, words) = self.words(slot);
            let twin = slot + self.in_use;
            self.change(twin, until, |slot| put::<A>(slot, &words));
            self.forget_counts(twin);
        }
        self.growth = Growth::Copying(slot + 1);
    }

    /// All entries have a copy: readers may look at both halves.
    fn open(&mut self) {
        self.in_use *= 2;
        if let Some(extent) = &self.extent {
            extent.set(self.in_use);
        }
        self.growth = Growth::Parting(0);
    }

    /// The slot that has to change when this one does.
    pub(super) fn twin(&self, slot: usize) -> Option<usize> {
        match self.growth {
            // What halves is united before it changes.
            Growth::Done | Growth::Joining(_) | Growth::Undoing(_) | Growth::Leaving(_) => None,
            Growth::Copying(copied) => (slot < copied).then_some(slot + self.in_use),
            Growth::Parting(_) => {
                let other = slot ^ (self.in_use / 2);
                let (one, two) = (self.slot(slot), self.slot(other));
                let same = (0..=A::PAIR_WORDS).all(|at| load(one, at) == load(two, at));
                (same && self.is_taken(slot)).then_some(other)
            }
        }
    }

    /// Readers do not count in a copy that they do not look at.
    pub(super) fn after_copy(&self, twin: usize) {
        if let Growth::Copying(_) = self.growth {
            self.forget_counts(twin);
        }
    }

    pub(super) fn forget_counts(&self, slot: usize) {
        let words = self.slot(slot);
        let seen = load(words, Slot::<A>::SEEN);
        store(words, Slot::<A>::BYTES, 0);
        store(words, Slot::<A>::SEEN, seen & !0xffff_ffff);
    }

    /// Gets a slot ready for another entry: what it holds is over, here and where it is held twice.
    pub(super) fn vacate(&mut self, slot: usize) {
        match self.growth {
            Growth::Parting(_) if self.is_taken(slot) => self.empty(slot),
            _ if self.halves() => self.discard(slot),
            _ => {}
        }
    }

    /// Of an entry that is held twice, leaves the one that readers find.
    pub(super) fn part(&mut self, slot: usize) {
        let Growth::Parting(_) = self.growth else {
            return;
        };
        let Some(other) = self.twin(slot) else {
            return;
        };
        let kept = self.key(slot).and_then(|key| self.find(&key));
        let (kept, gone) = match kept {
            Some(kept) if kept == other => (other, slot),
            _ => (slot, other),
        };
        self.add_counts(kept, gone);
        self.change(gone, Time::ZERO, clear_key::<A>);
    }

    /// What was counted at either place. A packet that passes at this moment may be missed, as
    /// always with a flow's own counts.
    pub(super) fn add_counts(&self, kept: usize, gone: usize) {
        let seen = |slot: usize| load(self.slot(slot), Slot::<A>::SEEN);
        let bytes = |slot: usize| load(self.slot(slot), Slot::<A>::BYTES);
        if seen(gone) as u32 == 0 {
            return;
        }
        let sum = sum(seen(kept), seen(gone));
        let words = self.slot(kept);
        store(
            words,
            Slot::<A>::BYTES,
            bytes(kept).wrapping_add(bytes(gone)),
        );
        store(words, Slot::<A>::SEEN, sum);
    }

    /// What the program noted about an entry, wherever it found it.
    pub(super) fn noted(&self, slot: usize, now: Time) -> Seen {
        let at = |slot: usize| {
            let words = self.slot(slot);
            (load(words, Slot::<A>::SEEN), load(words, Slot::<A>::BYTES))
        };
        let (mut seen, mut bytes) = at(slot);
        let other = match self.growth {
            Growth::Parting(_) => self.twin(slot),
            _ => self.key(slot).and_then(|key| self.hidden(&key)),
        };
        if let Some(other) = other {
            let (more_seen, more_bytes) = at(other);
            (seen, bytes) = (sum(seen, more_seen), bytes.wrapping_add(more_bytes));
        }
        Seen {
            packets: seen as u32,
            bytes,
            idle: idle(seen, now),
        }
    }
}

/// Of two words of what was seen: the packets of both, and the later time.
pub(super) fn sum(one: u64, two: u64) -> u64 {
    let packets = (one as u32).wrapping_add(two as u32);
    let (a, b) = ((one >> 32) as u32, (two >> 32) as u32);
    let last = if a.wrapping_sub(b) <= u32::MAX / 2 {
        a
    } else {
        b
    };
    u64::from(packets) | u64::from(last) << 32
}
