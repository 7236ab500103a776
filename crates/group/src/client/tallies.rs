//! The tallies a client keeps: as many as it may need, the oldest make room. They lie in a row by
//! age, with an index, in memory that is used again.

use alloc::collections::VecDeque;
use core::hash::{Hash, Hasher};

use hashbrown::HashTable;

use super::tally::{Key, Tally};

/// Tallies by key and by age.
#[derive(Clone, Default)]
pub(super) struct Tallies {
    /// By age. That is when we first heard of a slot, not its number: a group that formed anew
    /// may count its life lower than the one before.
    row: VecDeque<(Key, Tally)>,
    /// How many left the row at its front.
    gone: u64,
    /// Where each is, counted from the first there ever was.
    index: HashTable<u64>,
}

/// Replicas choose the keys, and are believed: this need not resist anybody.
fn hash(key: &Key) -> u64 {
    let (formation, view, session, slot) = *key;
    let mixed = [formation, view, session, slot]
        .into_iter()
        .fold(0_u64, |h, word| {
            (h.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
    mixed ^ mixed >> 32
}

impl Tallies {
    pub(super) fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether every tally can be found.
    pub(super) fn is_sound(&self) -> bool {
        self.index.len() == self.row.len()
    }

    fn at(row: &VecDeque<(Key, Tally)>, gone: u64, number: u64) -> &(Key, Tally) {
        &row[(number - gone) as usize]
    }

    /// The tally of a key; a new one makes the oldest go if there are more than `most`.
    pub(super) fn of(&mut self, key: Key, most: usize) -> &mut Tally {
        let Self { row, gone, index } = self;
        let hashed = hash(&key);
        let known = index.find(hashed, |n| Self::at(row, *gone, *n).0 == key);
        let number = match known {
            Some(number) => *number,
            None => {
                if row.len() >= most.max(1) {
                    let oldest = row.front().map(|(key, _)| hash(key)).unwrap_or_default();
                    if let Ok(entry) = index.find_entry(oldest, |n| n == gone) {
                        entry.remove();
                    }
                    row.pop_front();
                    *gone += 1;
                }
                let number = *gone + row.len() as u64;
                row.push_back((key, Tally::default()));
                index.insert_unique(hashed, number, |n| hash(&Self::at(row, *gone, *n).0));
                number
            }
        };
        &mut row[(number - *gone) as usize].1
    }
}

impl PartialEq for Tallies {
    fn eq(&self, other: &Self) -> bool {
        self.row == other.row
    }
}

impl Eq for Tallies {}

impl Hash for Tallies {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.row.hash(state);
    }
}

impl core::fmt::Debug for Tallies {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.row.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let mut tallies = Tallies::default();
        let key = |slot: u64| (1, slot % 3, 1, slot / 3);
        for slot in 0..1_000 {
            tallies.of(key(slot), 16).replicas = 1 + slot as u16;
            assert!(tallies.is_sound());
            for known in slot.saturating_sub(15)..=slot {
                assert_eq!(tallies.of(key(known), 16).replicas, 1 + known as u16);
            }
        }
        assert_eq!(tallies.len(), 16);
        assert_eq!(tallies.of(key(1), 16).replicas, 0, "forgotten");
    }
}
