//! Shrinking: the slots in use halve when few of them are taken, a few at each turn, while readers
//! go on.
//!
//! ```text
//!   Done ── few are taken ──▶ Joining ── all are in the lower half: readers look ──▶ Leaving ──▶ Done
//!     ▲                      slot i + S ─▶ below    at S slots, not at 2 S         the upper goes
//!     └── Undoing ◀── no room ──┘
//! ```
//!
//! With half the slots a choice of `i` or `i + S` becomes `i`. So an entry of the upper half moves to its
//! other bucket, if that lies in the lower half. If both are in the upper one it is copied below, where
//! nobody looks for it yet: who looks at all slots finds the one, who looks at the lower half the
//! other. When all of the upper half are done, one store tells readers to look at the lower half alone;
//! whoever read the old number of slots still finds what it did before. Then the upper half is emptied.
//!
//! An entry that changes loses its second place first, and is copied again: so no reader ever finds an
//! entry that was changed or removed before. Where there is no room below, the copies go again.

use stateplane_base::Time;

use super::super::key::{Address, Key};
use super::super::memory::Memory;
use super::grow::Growth;
use super::{Table, bucket, choices, clear_key, matches, put};

/// Parts of the slots of which no more may be taken before they halve: an eighth, which is a quarter
/// then. They double at five eighths, so a table whose flows come and go a little stays as it is.
const FEW: usize = 8;

impl<M: Memory, A: Address> Table<M, A> {
    /// Begins to halve the slots in use, if few enough are taken.
    pub(super) fn halve_if_few(&mut self) {
        if self.in_use > self.least && self.used <= self.in_use / FEW {
            self.growth = Growth::Joining(0);
        }
    }

    /// Brings halving forward by a slot.
    pub(super) fn step_down(&mut self) {
        let half = self.in_use / 2;
        self.growth = match self.growth {
            Growth::Joining(slot) if slot < half => {
                self.growth = Growth::Joining(slot + 1);
                self.join(half + slot);
                return;
            }
            Growth::Joining(_) => {
                self.in_use = half;
                if let Some(extent) = &self.extent {
                    extent.set(half);
                }
                Growth::Leaving(0)
            }
            Growth::Undoing(slot) if slot < half => {
                self.unite_slot(slot);
                Growth::Undoing(slot + 1)
            }
            Growth::Leaving(slot) if slot < self.in_use => {
                self.unite_slot(self.in_use + slot);
                Growth::Leaving(slot + 1)
            }
            _ => Growth::Done,
        };
    }

    /// Whether entries may lie in two places since the slots halve, or were to.
    pub(super) fn halves(&self) -> bool {
        let growth = self.growth;
        matches!(
            growth,
            Growth::Joining(_) | Growth::Undoing(_) | Growth::Leaving(_)
        )
    }

    /// Sees to it that what is in this slot of the upper half is found in the lower one.
    fn join(&mut self, slot: usize) {
        let Some(key) = self.key(slot) else {
            return;
        };
        let half = self.in_use / 2;
        let places = self.choices(&key);
        let empty = |table: &Self, choice: usize| {
            let mut slots = bucket(choice);
            slots.find(|&slot| !table.is_taken(slot))
        };
        let below = places.iter().find_map(|&choice| {
            let is_below = choice < half;
            is_below.then(|| empty(self, choice)).flatten()
        });
        if let Some(to) = below {
            return self.shift(slot, to);
        }
        let hidden = places.iter().all(|&choice| choice >= half);
        let to = places.iter().find_map(|&choice| empty(self, choice % half));
        match to.filter(|_| hidden) {
            Some(to) => {
                let (until, words) = self.words(slot);
                self.change(to, until, |to| put::<A>(to, &words));
                self.forget_counts(to);
            }
            None => self.growth = Growth::Undoing(0),
        }
    }

    /// Gives up halving where somebody else needs the room.
    pub(super) fn stay(&mut self) {
        if let Growth::Joining(_) = self.growth {
            self.growth = Growth::Undoing(0);
        }
    }

    /// The second place of a key, where nobody finds it: below while entries join, above when they
    /// have.
    pub(super) fn hidden(&self, key: &Key<A>) -> Option<usize> {
        let (slots, half) = match self.growth {
            Growth::Joining(_) | Growth::Undoing(_) => (self.in_use, self.in_use / 2),
            Growth::Leaving(_) => (2 * self.in_use, self.in_use),
            Growth::Done | Growth::Copying(_) | Growth::Parting(_) => return None,
        };
        let above = choices(&self.seed, self.seed.hash_of(key), slots).into_iter();
        let above = above.filter(|&choice| choice >= half);
        let (addresses, tag) = key.words();
        let is_here = |&slot: &usize| matches(self.slot(slot), &addresses[..A::PAIR_WORDS], tag);
        if let Growth::Leaving(_) = self.growth {
            return above.flat_map(bucket).find(is_here);
        }
        let both: usize = above.clone().count();
        let below = above.filter(|_| both == 2).map(|choice| choice - half);
        below.flat_map(bucket).find(is_here)
    }

    /// Leaves a key the one place where it is found.
    pub(super) fn unite(&mut self, key: &Key<A>) {
        let Some(hidden) = self.hidden(key) else {
            return;
        };
        if let Some(kept) = self.find(key) {
            self.add_counts(kept, hidden);
        } else {
            // Nobody has it but who read the old number of slots.
            self.used -= 1;
        }
        self.change(hidden, Time::ZERO, clear_key::<A>);
    }

    /// The same for the key of a slot, if what is there is its second place.
    fn unite_slot(&mut self, slot: usize) {
        if let Some(key) = self.key(slot)
            && self.hidden(&key) == Some(slot)
        {
            self.unite(&key);
        }
    }

    /// A key was added or changed: it needs its second place again.
    pub(super) fn rejoin(&mut self, key: &Key<A>) {
        if let Growth::Joining(joined) = self.growth
            && let Some(slot) = self.find(key)
            && (self.in_use / 2..self.in_use / 2 + joined).contains(&slot)
        {
            self.join(slot);
        }
    }

    /// Removes the entry that has this slot as one of its places.
    pub(super) fn discard(&mut self, slot: usize) {
        let Some(key) = self.key(slot) else {
            return;
        };
        self.unite(&key);
        if let Some(slot) = self.find(&key) {
            self.change(slot, Time::ZERO, clear_key::<A>);
            self.used -= 1;
        }
    }
}
