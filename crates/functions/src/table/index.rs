//! Where entries lie, by the hash of their keys.
//!
//! Many small hash tables, split one at a time as they fill (linear hashing): few entries have a
//! small index however many there may be, which stays in the processor's caches, and no insertion
//! waits for more than one part to move. Parts are not merged again.

use alloc::vec;
use alloc::vec::Vec;

use hashbrown::HashTable;

/// Entries of one part, on average. One that is next to be split has twice as many, give or take:
/// they fit the 512 places that a part has from the beginning.
const PART: usize = 200;
/// What a hash table of 512 places takes.
const PLACES: usize = 448;

/// An entry's place, and enough of its key's hash that a part can move without asking for it.
#[derive(Clone, Copy, Debug)]
struct Sign {
    hash: u32,
    at: u32,
}

impl Sign {
    /// What places it within its part: other bits than those that chose the part.
    const fn inner(self) -> u64 {
        let mixed = (self.hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 32
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    parts: Vec<HashTable<Sign>>,
    len: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            parts: vec![HashTable::new()],
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn sign(hash: u64, at: u32) -> Sign {
        let hash = (hash >> 32) as u32;
        Sign { hash, at }
    }

    /// Those from the last power of two on have been split off.
    fn part(&self, hash: u32) -> usize {
        let mask = self.parts.len().next_power_of_two() - 1;
        let index = hash as usize & mask;
        match index < self.parts.len() {
            true => index,
            false => index & mask >> 1,
        }
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let sought = Self::sign(hash, 0);
        let part = &self.parts[self.part(sought.hash)];
        let same = |sign: &Sign| sign.hash == sought.hash && is_it(sign.at);
        Some(part.find(sought.inner(), same)?.at)
    }

    /// Adds an entry that is not there.
    pub(crate) fn insert(&mut self, hash: u64, at: u32) {
        let sign = Self::sign(hash, at);
        let part = self.part(sign.hash);
        self.parts[part].insert_unique(sign.inner(), sign, |sign| sign.inner());
        self.len += 1;
        if self.len > self.parts.len() * PART {
            self.split();
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, at: u32) {
        let sign = Self::sign(hash, at);
        let part = self.part(sign.hash);
        let known = self.parts[part].find_entry(sign.inner(), |other| other.at == at);
        if let Ok(known) = known {
            known.remove();
            self.len -= 1;
        }
    }

    /// Splits the next part in two.
    fn split(&mut self) {
        let new = self.parts.len();
        let mask = (new + 1).next_power_of_two() - 1;
        let source = &mut self.parts[new & mask >> 1];
        let mut moved = HashTable::with_capacity(PLACES);
        for sign in source.extract_if(|sign| sign.hash as usize & mask == new) {
            moved.insert_unique(sign.inner(), sign, |sign| sign.inner());
        }
        self.parts.push(moved);
    }

    /// All places, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().flatten().map(|sign| sign.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    /// Some share all that is kept of their hashes.
    fn hash(at: u32) -> u64 {
        u64::from(at / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn find(index: &Index, at: u32) -> Option<u32> {
        index.find(hash(at), |other| other == at)
    }

    #[test]
    fn parts_split_and_lose_nothing() {
        let mut index = Index::new();
        for at in 0..20_000 {
            index.insert(hash(at), at);
        }
        assert_eq!(index.parts.len(), 20_000_usize.div_ceil(PART));
        assert!(index.parts.iter().all(|part| part.len() < 4 * PART));
        assert!((0..20_000).all(|at| find(&index, at) == Some(at)));
        for at in (0..20_000).step_by(3) {
            index.remove(hash(at), at);
            index.remove(hash(at), at); // is not there
        }
        let left: BTreeSet<u32> = (0..20_000).filter(|at| at % 3 != 0).collect();
        assert_eq!((index.len(), index.iter().collect()), (left.len(), left));
        assert!((0..20_000).all(|at| find(&index, at).is_some() == (at % 3 != 0)));
    }
}
