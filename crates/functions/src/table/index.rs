//! Where entries lie, by the hash of their keys.
//!
//! A look-up reads one line of the processor's cache before the entry itself, and which one is known
//! from the hash alone, so that it can be fetched ahead. A line is a bucket of sixteen words: an
//! entry's place, and as much of its key's hash as a word has room for beside it. What a full bucket
//! has no room for is spilled into a common table, one entry of a hundred at most.
//!
//! Buckets are split one at a time as they fill (linear hashing): few entries have a small index
//! however many there may be, and no insertion waits for more than one bucket to move. They are not
//! merged again.

use alloc::vec::Vec;

use hashbrown::HashTable;

/// Words of a bucket.
const CELLS: usize = 16;
/// Entries of a bucket, on average, from which on there are more buckets: of so many, one bucket of
/// forty is too small.
const FULL: usize = 10;
/// A word that names no entry.
const FREE: u32 = u32::MAX;

/// One line of the processor's cache. Words in use come first.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket([u32; CELLS]);

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self([FREE; CELLS]);

    /// The words that agree with `sign` in the bits of `mask`, one bit each.
    #[inline]
    fn alike(&self, sign: u32, mask: u32) -> u32 {
        // Without branches, so that the compiler compares several at once.
        let bits = self.0.iter().enumerate();
        bits.fold(0, |bits, (n, cell)| {
            bits | u32::from((cell ^ sign) & mask == 0) << n
        })
    }

    fn is_full(&self) -> bool {
        self.0[CELLS - 1] != FREE
    }

    /// Whether there was room.
    fn put(&mut self, cell: u32) -> bool {
        let free = self.0.iter_mut().find(|cell| **cell == FREE);
        free.map(|free| *free = cell).is_some()
    }

    /// Whether it was there.
    fn take(&mut self, cell: u32) -> bool {
        let used = self.0.iter().take_while(|cell| **cell != FREE).count();
        let found = self.0[..used].iter().position(|other| *other == cell);
        if let Some(n) = found {
            self.0[n] = self.0[used - 1];
            self.0[used - 1] = FREE;
        }
        found.is_some()
    }
}

/// An entry that its bucket, which is full, has no room for.
#[derive(Clone, Copy, Debug)]
struct Spilled {
    bucket: usize,
    at: u32,
}

impl Spilled {
    /// All of a bucket's lie together.
    const fn hash(bucket: usize) -> u64 {
        let mixed = (bucket as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<Bucket>,
    /// Low bits of a sign that tell buckets apart; those of numbers that are not there yet share the
    /// one that they are to be split off.
    numbers: usize,
    /// The bits of a word that name a place; the others are those of the sign.
    places: u32,
    /// By place, so that a bucket can be split without a look at its entries.
    signs: Vec<u32>,
    spilled: HashTable<Spilled>,
    len: usize,
}

/// What is kept of a hash.
const fn sign(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Index {
    /// For places below `max`. All at once: growing would stop packets for milliseconds. Memory that is
    /// never used costs address space alone.
    pub(crate) fn new(max: usize) -> Self {
        assert!(max < 1 << 31, "a place and a bit of its sign share a word");
        let most = (max / FULL + 1).next_power_of_two();
        let mut buckets = Vec::with_capacity(most);
        buckets.push(Bucket::EMPTY);
        Self {
            buckets,
            numbers: 0,
            places: (max + 1).next_power_of_two() as u32 - 1,
            signs: Vec::with_capacity(max),
            spilled: HashTable::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn number(&self, sign: u32) -> usize {
        let number = sign as usize & self.numbers;
        match number < self.buckets.len() {
            true => number,
            false => number & self.numbers >> 1,
        }
    }

    fn cell(&self, sign: u32, at: u32) -> u32 {
        sign & !self.places | at
    }

    /// Reads from the line that [`Self::find`] reads first.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        self.buckets[self.number(sign(hash))].0[0]
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let sign = sign(hash);
        let number = self.number(sign);
        let bucket = &self.buckets[number];
        let mut alike = bucket.alike(sign, !self.places);
        while alike != 0 {
            let cell = bucket.0[alike.trailing_zeros() as usize % CELLS];
            let at = cell & self.places;
            if cell != FREE && is_it(at) {
                return Some(at);
            }
            alike &= alike.wrapping_sub(1);
        }
        match bucket.is_full() {
            true => self.find_spilled(number, is_it),
            false => None,
        }
    }

    #[cold]
    fn find_spilled(&self, bucket: usize, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let same = |spilled: &Spilled| spilled.bucket == bucket && is_it(spilled.at);
        Some(self.spilled.find(Spilled::hash(bucket), same)?.at)
    }

    /// Adds an entry that is not there.
    pub(crate) fn insert(&mut self, hash: u64, at: u32) {
        let (sign, place) = (sign(hash), at as usize);
        if self.signs.len() <= place {
            self.signs.resize(place + 1, 0);
        }
        self.signs[place] = sign;
        self.put(sign, at);
        self.len += 1;
        // Once begun it goes on until all buckets are split.
        let buckets = self.buckets.len();
        if !buckets.is_power_of_two() || self.len > buckets * FULL {
            self.split();
        }
    }

    fn put(&mut self, sign: u32, at: u32) {
        let (bucket, cell) = (self.number(sign), self.cell(sign, at));
        if !self.buckets[bucket].put(cell) {
            let spilled = Spilled { bucket, at };
            let rehash = |other: &Spilled| Spilled::hash(other.bucket);
            self.spilled
                .insert_unique(rehash(&spilled), spilled, rehash);
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, at: u32) {
        let sign = sign(hash);
        let (number, cell) = (self.number(sign), self.cell(sign, at));
        if self.buckets[number].take(cell) {
            self.len -= 1;
            // Nothing is spilled of a bucket that has room.
            if let Some(at) = self.take_spilled(number, |_| true) {
                self.put(self.signs[at as usize], at);
            }
        } else if self.take_spilled(number, |other| other == at).is_some() {
            self.len -= 1;
        }
    }

    fn take_spilled(&mut self, bucket: usize, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let same = |spilled: &Spilled| spilled.bucket == bucket && is_it(spilled.at);
        let found = self.spilled.find_entry(Spilled::hash(bucket), same).ok()?;
        Some(found.remove().0.at)
    }

    /// Splits the next bucket in two.
    fn split(&mut self) {
        let new = self.buckets.len();
        self.buckets.push(Bucket::EMPTY);
        self.numbers = self.buckets.len().next_power_of_two() - 1;
        let source = new & self.numbers >> 1;
        let old = core::mem::replace(&mut self.buckets[source], Bucket::EMPTY);
        let spilled: Vec<u32> =
            core::iter::from_fn(|| self.take_spilled(source, |_| true)).collect();
        let places = self.places;
        let cells = old.0.into_iter().take_while(|cell| *cell != FREE);
        for at in cells.map(|cell| cell & places).chain(spilled) {
            self.put(self.signs[at as usize], at);
        }
    }

    /// All places, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let cells = self.buckets.iter().flat_map(|bucket| &bucket.0);
        let held = cells.filter(|cell| **cell != FREE);
        let held = held.map(|cell| cell & self.places);
        held.chain(self.spilled.iter().map(|spilled| spilled.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Keyed;
    use alloc::collections::{BTreeMap, BTreeSet};
    use core::hash::BuildHasher;
    use proptest::prelude::*;

    impl Index {
        fn check(&self) {
            let places: Vec<u32> = self.iter().collect();
            let distinct: BTreeSet<u32> = places.iter().copied().collect();
            assert_eq!((places.len(), distinct.len()), (self.len, self.len));
            for (number, bucket) in self.buckets.iter().enumerate() {
                let mut cells = bucket.0.iter().skip_while(|cell| **cell != FREE);
                assert!(cells.all(|cell| *cell == FREE), "words in use come first");
                for cell in bucket.0.iter().filter(|cell| **cell != FREE) {
                    let sign = self.signs[(cell & self.places) as usize];
                    assert_eq!(self.number(sign), number, "each in its bucket");
                    assert_eq!((cell ^ sign) & !self.places, 0, "with its sign");
                }
            }
            for Spilled { bucket, at } in &self.spilled {
                assert!(self.buckets[*bucket].is_full(), "no need to spill");
                assert_eq!(self.number(self.signs[*at as usize]), *bucket);
            }
        }
    }

    /// The first twenty share one hash.
    fn hash(at: u32) -> u64 {
        Keyed([1, 2]).hash_one(at.max(20))
    }

    fn find(index: &Index, at: u32) -> Option<u32> {
        index.find(hash(at), |other| other == at)
    }

    #[test]
    fn buckets_split_and_lose_nothing() {
        const MAX: u32 = 20_000;
        let mut index = Index::new(MAX as usize);
        let room = index.buckets.capacity();
        let mut spilled = 0;
        for at in 0..MAX {
            index.insert(hash(at), at);
            spilled = spilled.max(index.spilled.len());
        }
        index.check();
        assert_eq!(
            (index.buckets.len(), index.buckets.capacity()),
            (2048, room)
        );
        assert!((4..MAX as usize / 50).contains(&spilled), "{spilled}");
        assert!((0..MAX).all(|at| find(&index, at) == Some(at)));
        for at in (0..MAX).step_by(3) {
            index.remove(hash(at), at);
            index.remove(hash(at), at); // is not there
        }
        index.check();
        let left: BTreeSet<u32> = (0..MAX).filter(|at| at % 3 != 0).collect();
        assert_eq!((index.len(), index.iter().collect()), (left.len(), left));
        assert!((0..MAX).all(|at| find(&index, at).is_some() == (at % 3 != 0)));
    }

    proptest! {
        /// Hashes of few values: buckets overflow, and signs do not tell entries apart.
        #[test]
        fn an_index_is_a_map(
            values in 1..300_u64,
            steps in prop::collection::vec((any::<bool>(), 0..400_u32), 0..1200),
        ) {
            let mut index = Index::new(400);
            let hash = |key: u32| Keyed([1, 2]).hash_one(u64::from(key) % values);
            // A place for each key, and another one when it comes again.
            let (mut map, mut keys) = (BTreeMap::new(), BTreeMap::new());
            let mut free: Vec<u32> = (0..400).collect();
            for (adds, key) in steps {
                let found = index.find(hash(key), |at| keys.get(&at) == Some(&key));
                prop_assert_eq!(found, map.get(&key).copied());
                match (adds, found) {
                    (true, None) => {
                        let at = free.swap_remove(key as usize % free.len());
                        index.insert(hash(key), at);
                        map.insert(key, at);
                        keys.insert(at, key);
                    }
                    (false, Some(at)) => {
                        index.remove(hash(key), at);
                        map.remove(&key);
                        keys.remove(&at);
                        free.push(at);
                    }
                    _ => {}
                }
                index.check();
            }
            let places: BTreeSet<u32> = index.iter().collect();
            prop_assert_eq!(places, map.values().copied().collect());
        }
    }
}
