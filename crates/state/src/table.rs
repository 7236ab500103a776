//! Tables: rows of bytes under keys of bytes, and the typed handles procedures use.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Bound;

use hashbrown::HashTable;
use hashbrown::hash_table;
use stateplane_base::Blob;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hash::Seed;

/// A row's key: most of network state fit in place.
pub(crate) type Key = Blob<22>;
/// A row's value.
pub(crate) type Value = Blob<46>;

/// What may be a key or a value: a fixed layout without padding, or plain bytes (`[u8]`).
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + ?Sized> Record for T {}

/// Marks a table whose rows are only found by their key.
pub enum Unordered {}
/// Marks a table whose rows can also be listed in the byte order of their keys.
pub enum Ordered {}

/// A procedure's handle on one table of the store.
pub struct Table<K: ?Sized, V: ?Sized, Order = Unordered> {
    pub(crate) index: u16,
    types: PhantomData<fn(&K, &V, Order)>,
}

impl<K: ?Sized, V: ?Sized, Order> Table<K, V, Order> {
    pub(crate) const fn new(index: u16) -> Self {
        Self {
            index,
            types: PhantomData,
        }
    }
}

impl<K: ?Sized, V: ?Sized, Order> Clone for Table<K, V, Order> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized, V: ?Sized, Order> Copy for Table<K, V, Order> {}

/// What a table is called and how large it may grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSpec {
    /// Its name, unique in the store.
    pub name: &'static str,
    /// Most rows it may have; the store's own limit may be lower.
    pub rows: usize,
    /// Rows to make room for at once, so that growing does not halt the store later.
    pub reserve: usize,
}

impl TableSpec {
    /// A table with at most `rows` rows.
    pub const fn new(name: &'static str, rows: usize) -> Self {
        Self {
            name,
            rows,
            reserve: 0,
        }
    }

    /// Makes room for `rows` rows from the start.
    pub const fn reserve(self, rows: usize) -> Self {
        Self {
            reserve: rows,
            ..self
        }
    }
}

/// A place in a table: a row, or where one would be.
pub(crate) enum Slot<'a> {
    Used(&'a mut Value),
    Free(FreeSlot<'a>),
}

pub(crate) enum FreeSlot<'a> {
    Hashed(hash_table::VacantEntry<'a, (Key, Value)>, Key),
    Ordered(btree_map::VacantEntry<'a, Key, Value>),
}

impl FreeSlot<'_> {
    pub(crate) fn fill(self, value: Value) {
        match self {
            Self::Hashed(slot, key) => drop(slot.insert((key, value))),
            Self::Ordered(slot) => drop(slot.insert(value)),
        }
    }
}

/// A table's rows.
pub(crate) enum Rows {
    Hashed(HashTable<(Key, Value)>, Seed),
    Ordered(BTreeMap<Key, Value>),
}

impl Rows {
    pub(crate) fn new(ordered: bool, reserve: usize, seed: Seed) -> Self {
        if ordered {
            Self::Ordered(BTreeMap::new())
        } else {
            Self::Hashed(HashTable::with_capacity(reserve), seed)
        }
    }

    /// A table of the same kind without rows.
    pub(crate) fn emptied(&self) -> Self {
        match self {
            Self::Hashed(_, seed) => Self::new(false, 0, *seed),
            Self::Ordered(_) => Self::Ordered(BTreeMap::new()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Hashed(rows, _) => rows.len(),
            Self::Ordered(rows) => rows.len(),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Hashed(rows, seed) => rows
                .find(seed.hash(key), |row| *row.0 == *key)
                .map(|row| &*row.1),
            Self::Ordered(rows) => rows.get(key).map(|value| &**value),
        }
    }

    pub(crate) fn slot(&mut self, key: &[u8]) -> Slot<'_> {
        match self {
            Self::Hashed(rows, seed) => {
                let rehash = |row: &(Key, Value)| seed.hash(&row.0);
                match rows.entry(seed.hash(key), |row| *row.0 == *key, rehash) {
                    hash_table::Entry::Occupied(slot) => Slot::Used(&mut slot.into_mut().1),
                    hash_table::Entry::Vacant(slot) => {
                        Slot::Free(FreeSlot::Hashed(slot, key.into()))
                    }
                }
            }
            Self::Ordered(rows) => match rows.entry(key.into()) {
                btree_map::Entry::Occupied(slot) => Slot::Used(slot.into_mut()),
                btree_map::Entry::Vacant(slot) => Slot::Free(FreeSlot::Ordered(slot)),
            },
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<(Key, Value)> {
        match self {
            Self::Hashed(rows, seed) => {
                let slot = rows.find_entry(seed.hash(key), |row| *row.0 == *key).ok()?;
                Some(slot.remove().0)
            }
            Self::Ordered(rows) => rows.remove_entry(key),
        }
    }

    /// The rows of an ordered table from a key on; none if it is not ordered.
    pub(crate) fn scan<'a>(
        &'a self,
        from: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let range = match self {
            Self::Hashed(..) => None,
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
            Self::Hashed(rows, _) => {
                // Keys lie scattered in memory: their beginnings are compared in place of most.
                let mut all: Vec<_> = rows
                    .iter()
                    .map(|(key, value)| (beginning(key), &**key, &**value))
                    .collect();
                all.sort_unstable();
                all.iter().map(|(_, key, value)| (*key, *value)).collect()
            }
            Self::Ordered(rows) => rows.iter().map(|(key, value)| (&**key, &**value)).collect(),
        }
    }
}

/// The first eight bytes of a key, as a number that sorts as they do.
fn beginning(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}
