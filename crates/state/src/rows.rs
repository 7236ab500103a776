//! A table's rows in memory.
//!
//! Rows that are only found by key lie in a hash table of many small *parts* that grows by
//! splitting one part at a time (linear hashing): no insertion ever waits for more than one part to
//! move, a snapshot can walk over the parts while rows change, and few rows lie close together
//! however many there may be.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Bound;

use hashbrown::HashTable;
use hashbrown::hash_table;

use crate::hash::Seed;
use crate::table::{Key, Value};

/// Rows of one part, on average. One that is next to be split has twice as many, give or take:
/// they fit the 1,024 places that a hash table has then, and those of a new part fit 512.
const PART: usize = 400;

/// A row of a hash table, with its key's hash: whoever moves rows need not compute hashes, which are
/// most of that work.
pub(crate) struct Row {
    hash: u64,
    key: Key,
    value: Value,
}

/// A key as tables look for it, with its hash: computed once, however often it is looked for.
#[derive(Clone, Copy)]
pub(crate) struct Sought<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
}

/// A place in a table: a row, or where one would be.
pub(crate) enum Slot<'a> {
    Used(&'a mut Value),
    Free(FreeSlot<'a>),
}

pub(crate) enum FreeSlot<'a> {
    Hashed(hash_table::VacantEntry<'a, Row>, Sought<'a>),
    Ordered(btree_map::VacantEntry<'a, Key, Value>),
}

impl FreeSlot<'_> {
    pub(crate) fn fill(self, value: Value) {
        match self {
            Self::Hashed(slot, Sought { key, hash }) => {
                let key = key.into();
                slot.insert(Row { hash, key, value });
            }
            Self::Ordered(slot) => drop(slot.insert(value)),
        }
    }
}

/// A table's rows.
pub(crate) enum Rows {
    Hashed(Parts),
    Ordered(BTreeMap<Key, Value>),
}

impl Rows {
    pub(crate) fn new(ordered: bool, seed: Seed) -> Self {
        if ordered {
            Self::Ordered(BTreeMap::new())
        } else {
            Self::Hashed(Parts::new(seed))
        }
    }

    /// A table of the same kind without rows.
    pub(crate) fn emptied(&self) -> Self {
        match self {
            Self::Hashed(parts) => Self::new(false, parts.seed),
            Self::Ordered(_) => Self::Ordered(BTreeMap::new()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Hashed(parts) => parts.len,
            Self::Ordered(rows) => rows.len(),
        }
    }

    /// A key as it is sought here.
    pub(crate) fn sought<'a>(&self, key: &'a [u8]) -> Sought<'a> {
        let hash = match self {
            Self::Hashed(parts) => parts.seed.hash(key),
            Self::Ordered(_) => 0,
        };
        Sought { key, hash }
    }

    pub(crate) fn get(&self, at: Sought<'_>) -> Option<&[u8]> {
        match self {
            Self::Hashed(parts) => parts.get(at),
            Self::Ordered(rows) => rows.get(at.key).map(|value| &**value),
        }
    }

    pub(crate) fn slot<'a>(&'a mut self, at: Sought<'a>) -> Slot<'a> {
        match self {
            Self::Hashed(parts) => parts.slot(at),
            Self::Ordered(rows) => match rows.entry(at.key.into()) {
                btree_map::Entry::Occupied(slot) => Slot::Used(slot.into_mut()),
                btree_map::Entry::Vacant(slot) => Slot::Free(FreeSlot::Ordered(slot)),
            },
        }
    }

    /// A free slot was filled; `may_split` unless somebody counts on where rows lie.
    pub(crate) fn grown(&mut self, may_split: bool) {
        if let Self::Hashed(parts) = self {
            parts.len += 1;
            if may_split && parts.len > parts.parts.len() * PART {
                parts.split();
            }
        }
    }

    pub(crate) fn remove(&mut self, at: Sought<'_>) -> Option<(Key, Value)> {
        match self {
            Self::Hashed(parts) => parts.remove(at),
            Self::Ordered(rows) => rows.remove_entry(at.key),
        }
    }

    /// The rows of an ordered table from a key on; none if it is not ordered.
    pub(crate) fn scan<'a>(
        &'a self,
        from: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let range = match self {
            Self::Hashed(_) => None,
            Self::Ordered(rows) => {
                Some(rows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)))
            }
        };
        range
            .into_iter()
            .flatten()
            .map(|(key, value)| (&**key, &**value))
    }

    /// All rows in the order of their keys.
    pub(crate) fn sorted(&self) -> Vec<(&[u8], &[u8])> {
        match self {
            Self::Hashed(parts) => {
                let rows = parts.parts.iter().flatten();
                let mut all: Vec<(&[u8], &[u8])> =
                    rows.map(|row| (&*row.key, &*row.value)).collect();
                all.sort_unstable_by(|a, b| a.0.cmp(b.0));
                all
            }
            Self::Ordered(rows) => rows.iter().map(|(key, value)| (&**key, &**value)).collect(),
        }
    }

    /// Forgets about `rows` rows, or all; how many.
    pub(crate) fn shed(&mut self, rows: usize) -> usize {
        let mut gone = 0;
        while gone < rows {
            gone += match self {
                Self::Hashed(parts) => match parts.parts.pop() {
                    Some(part) => part.len().max(1),
                    None => break,
                },
                Self::Ordered(rows) => match rows.pop_first() {
                    Some(_) => 1,
                    None => break,
                },
            };
        }
        gone
    }
}

/// The parts of a hash table.
pub(crate) struct Parts {
    parts: Vec<HashTable<Row>>,
    len: usize,
    seed: Seed,
}

impl Parts {
    fn new(seed: Seed) -> Self {
        Self {
            parts: vec![HashTable::new()],
            len: 0,
            seed,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.parts.len()
    }

    /// The rows of one part.
    pub(crate) fn part(&self, index: usize) -> impl Iterator<Item = (&Key, &Value)> {
        self.parts[index].iter().map(|row| (&row.key, &row.value))
    }

    /// The part in which a key is, if anywhere. Parts are chosen by bits that do not place rows within
    /// them. Those from the last power of two on have been split off.
    pub(crate) fn of_key(&self, at: Sought<'_>) -> usize {
        let count = self.parts.len();
        let mask = count.next_power_of_two() - 1;
        let index = (at.hash >> 24) as usize & mask;
        if index < count {
            index
        } else {
            index & (mask >> 1)
        }
    }

    fn get(&self, at: Sought<'_>) -> Option<&[u8]> {
        let part = &self.parts[self.of_key(at)];
        part.find(at.hash, |row| *row.key == *at.key)
            .map(|row| &*row.value)
    }

    fn slot<'a>(&'a mut self, at: Sought<'a>) -> Slot<'a> {
        let index = self.of_key(at);
        match self.parts[index].entry(at.hash, |row| *row.key == *at.key, |row| row.hash) {
            hash_table::Entry::Occupied(slot) => Slot::Used(&mut slot.into_mut().value),
            hash_table::Entry::Vacant(slot) => Slot::Free(FreeSlot::Hashed(slot, at)),
        }
    }

    fn remove(&mut self, at: Sought<'_>) -> Option<(Key, Value)> {
        let index = self.of_key(at);
        let slot = self.parts[index]
            .find_entry(at.hash, |row| *row.key == *at.key)
            .ok()?;
        self.len -= 1;
        let Row { key, value, .. } = slot.remove().0;
        Some((key, value))
    }

    /// Splits the next part in two.
    fn split(&mut self) {
        let new = self.parts.len();
        let source = new - (new + 1).next_power_of_two() / 2;
        self.parts.push(HashTable::new());
        let mask = (new + 1).next_power_of_two() - 1;
        let moves = |row: &mut Row| (row.hash >> 24) as usize & mask == new;
        let mut moved = HashTable::with_capacity(PART);
        for row in self.parts[source].extract_if(moves) {
            moved.insert_unique(row.hash, row, |row| row.hash);
        }
        self.parts[new] = moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_split_and_lose_no_row() {
        let mut rows = Rows::new(false, Seed(3, 4));
        let key = |n: u32| n.to_be_bytes();
        for n in 0..20_000 {
            let key = key(n);
            let at = rows.sought(&key);
            let Slot::Free(slot) = rows.slot(at) else {
                panic!("{n} is new");
            };
            slot.fill(key[..].into());
            // For a while somebody counts on where rows lie.
            rows.grown(!(5_000..9_000).contains(&n));
        }
        let Rows::Hashed(parts) = &rows else {
            panic!("it is not ordered");
        };
        assert_eq!(
            (parts.count(), rows.len()),
            (20_000_usize.div_ceil(PART), 20_000)
        );
        for (index, part) in parts.parts.iter().enumerate() {
            assert!(part.len() < 4 * PART, "rows are spread");
            for row in part {
                let at = rows.sought(&row.key);
                assert_eq!((parts.of_key(at), row.hash), (index, at.hash));
            }
        }
        assert!((0..20_000).all(|n| rows.get(rows.sought(&key(n))) == Some(&key(n))));
        for n in (0..20_000).step_by(2) {
            let key = key(n);
            let at = rows.sought(&key);
            assert!(rows.remove(at).is_some());
        }
        assert_eq!(rows.len(), 10_000);
        assert!((0..20_000).all(|n| rows.get(rows.sought(&key(n))).is_some() == (n % 2 == 1)));
        assert!(rows.sorted().is_sorted());
        while rows.shed(100) > 0 {}
    }
}
