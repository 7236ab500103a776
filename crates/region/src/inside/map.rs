//! A hash map of fixed capacity.
//!
//! ```text
//! line 0      entries, longest probe, two words of the hash's key
//! slots       tag (0: empty, else the hash with its highest bit set), key, value
//! ```
//!
//! Open addressing, linear probing, and removal by shifting back: there are no
//! tombstones, so a map that lives for years does not become slower, and what a publish
//! copies is what changed. The hash is keyed, because keys often come from packets that
//! somebody else chose: products with words that are drawn anew for each map, and that he does
//! not see. (SipHash took longer than all the rest of a look-up that hits the caches.)
//!
//! A look-up of a large map waits for memory once: tag, key and value of a slot lie together,
//! and the slot after the home is fetched with it, where most of the others are. Until a key is
//! found nothing is decided on what memory says, or look-ups would wait for each other: a
//! processor that guessed wrong throws away what it began meanwhile.

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;

use super::{Source, slot_bytes, value};
use crate::LINE;
use crate::publisher::Publisher;
use crate::spec::Content;

const WORD: usize = size_of::<u64>();
/// Words of the head.
const LEN: usize = 0;
const LONGEST: usize = WORD;
const SEED: [usize; 2] = [2 * WORD, 3 * WORD];
/// Keys looked for at once: about as many lines as a core can have under way.
const BURST: usize = 32;
/// Marks a slot as taken.
const TAKEN: u64 = 1 << 63;

/// A map of fixed capacity in a region.
///
/// ```
/// # use stateplane_region::{Map, Reader, Spec, Writer};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let flows = Map::<[u8; 4], u32>::new(0, 1000);
/// let mut writer = Writer::<[u8]>::create(&Spec::bytes(flows.bytes()))?;
/// flows.insert(&mut writer, &[10, 0, 0, 7], &443)?;
/// writer.publish()?;
/// # let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
/// // In place: only the lines of this key are read, all of one version.
/// let (port, edition) = reader.read_with(|view| flows.get(view, &[10, 0, 0, 7]))?;
/// assert_eq!((port, edition.version), (Some(443), 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Map<K, V> {
    at: usize,
    capacity: usize,
    slots: usize,
    entries: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Map<K, V> {}

/// The map holds as many entries as it was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the map is full: it was made for {capacity} entries")]
pub struct Full {
    /// Entries it was made for.
    pub capacity: usize,
}

/// What a look for a key finds.
enum Found {
    /// The key is in this slot.
    There(usize),
    /// It would go into this slot, so far from where it belongs.
    Missing(usize, usize),
}

impl<K: Content, V: Content> Map<K, V> {
    /// A map of `capacity` entries that lies at byte `at` of its region. Bytes of zero are
    /// an empty map.
    ///
    /// # Panics
    /// If `at` is not a multiple of [`LINE`], or the capacity is zero.
    pub const fn new(at: usize, capacity: usize) -> Self {
        assert!(at.is_multiple_of(LINE) && capacity > 0);
        Self {
            at,
            capacity,
            // At most three quarters full: probes stay short.
            slots: (capacity + capacity.div_ceil(3)).next_power_of_two(),
            entries: PhantomData,
        }
    }

    const KEY_AT: usize = WORD;
    const VALUE_AT: usize = WORD + size_of::<K>();
    const SLOT: usize = slot_bytes(WORD + size_of::<K>() + size_of::<V>());

    /// Bytes it takes.
    pub const fn bytes(&self) -> usize {
        LINE + self.slots * Self::SLOT
    }

    /// Bytes of a value.
    pub const fn value_bytes(&self) -> usize {
        size_of::<V>()
    }

    /// Where in its region it lies.
    pub const fn at(&self) -> usize {
        self.at
    }

    #[inline]
    fn slot_at(&self, slot: usize) -> usize {
        // In each look-up several times; what is outside, the source refuses.
        let slots = self.at.wrapping_add(LINE);
        slots.wrapping_add(slot.wrapping_mul(Self::SLOT))
    }

    #[inline]
    fn word(&self, source: &(impl Source + ?Sized), word: usize) -> u64 {
        source.word(self.at + word).unwrap_or(0)
    }

    #[inline]
    fn tag(&self, source: &(impl Source + ?Sized), slot: usize) -> u64 {
        source.word(self.slot_at(slot)).unwrap_or(0)
    }

    #[inline]
    fn hash(&self, source: &(impl Source + ?Sized), key: &K) -> u64 {
        let (first, second) = (self.word(source, SEED[0]), self.word(source, SEED[1]));
        let fold = |hash: u64, word: u64, by: u64| {
            let product = u128::from(hash ^ word).wrapping_mul((by | 1).into());
            product as u64 ^ (product >> 64) as u64
        };
        let (words, rest) = key.as_bytes().as_chunks::<WORD>();
        let words = words.iter().map(|word| u64::from_ne_bytes(*word));
        let hash = words.fold(first, |hash, word| fold(hash, word, second));
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        fold(
            hash,
            u64::from_ne_bytes(last),
            second.rotate_left(32) ^ first,
        ) | TAKEN
    }

    /// Entries in it.
    pub fn len(&self, source: &(impl Source + ?Sized)) -> usize {
        let len = usize::try_from(self.word(source, LEN)).unwrap_or(usize::MAX);
        len.min(self.capacity)
    }

    /// Whether it has no entry.
    pub fn is_empty(&self, source: &(impl Source + ?Sized)) -> bool {
        self.len(source) == 0
    }

    /// The value of a key. Bounded by the longest probe there ever was, also where the
    /// bytes are of several versions.
    #[inline]
    pub fn get(&self, source: &(impl Source + ?Sized), key: &K) -> Option<V> {
        value(source, self.place(source, key)?)
    }

    /// Where in the region the value of a key lies, for who wants to load it, or a part of it,
    /// himself.
    #[inline]
    pub fn place(&self, source: &(impl Source + ?Sized), key: &K) -> Option<usize> {
        let hash = self.hash(source, key);
        let mask = self.slots - 1;
        let home = hash as usize & mask;
        let after = home.wrapping_add(1) & mask;
        source.expect(self.slot_at(after));
        // Most keys are in one of two slots: which, is computed and not guessed.
        let is_home = self.tag(source, home) == hash;
        let likely = home ^ ((home ^ after) & usize::from(!is_home).wrapping_neg());
        if self.tag(source, likely) == hash && self.is_key(source, likely, key) {
            return Some(self.slot_at(likely) + Self::VALUE_AT);
        }
        self.search(source, hash, key)
    }

    #[cold]
    fn search(&self, source: &(impl Source + ?Sized), hash: u64, key: &K) -> Option<usize> {
        let longest = usize::try_from(self.word(source, LONGEST)).unwrap_or(usize::MAX);
        match self.find(source, hash, key, longest) {
            Some(Found::There(slot)) => Some(self.slot_at(slot) + Self::VALUE_AT),
            _ => None,
        }
    }

    #[inline]
    fn is_key(&self, source: &(impl Source + ?Sized), slot: usize, key: &K) -> bool {
        let at = self.slot_at(slot) + Self::KEY_AT;
        let (words, rest) = key.as_bytes().as_chunks::<WORD>();
        let equal = |(number, word): (usize, &[u8; WORD])| {
            source.word(at + number * WORD) == Some(u64::from_ne_bytes(*word))
        };
        let mut last = [0; WORD];
        let last = &mut last[..rest.len()];
        words.iter().enumerate().all(equal)
            && (rest.is_empty() || source.load(at + words.len() * WORD, last) && last == rest)
    }

    /// The values of several keys, by their place among the keys. Memory is waited for
    /// once for a burst of them instead of once for each, if the map is larger than the
    /// caches.
    #[inline]
    pub fn get_each(
        &self,
        source: &(impl Source + ?Sized),
        keys: &[K],
        mut each: impl FnMut(usize, Option<V>),
    ) {
        for (burst, keys) in keys.chunks(BURST).enumerate() {
            keys.iter().for_each(|key| self.expect(source, key));
            for (index, key) in keys.iter().enumerate() {
                each(burst * BURST + index, self.get(source, key));
            }
        }
    }

    /// A key will be looked for soon: what that needs is fetched. Waits for nothing. Of many
    /// keys about 32 at a time are worth it.
    #[inline]
    pub fn expect(&self, source: &(impl Source + ?Sized), key: &K) {
        let home = self.hash(source, key) as usize & (self.slots - 1);
        source.expect(self.slot_at(home));
        source.expect(self.slot_at(home.wrapping_add(1) & (self.slots - 1)));
    }

    /// Looks at no more than `furthest` slots beyond the first.
    #[inline]
    fn find(
        &self,
        source: &(impl Source + ?Sized),
        hash: u64,
        key: &K,
        furthest: usize,
    ) -> Option<Found> {
        let home = hash as usize;
        for distance in 0..=furthest.min(self.slots - 1) {
            let slot = home.wrapping_add(distance) & (self.slots - 1);
            let tag = self.tag(source, slot);
            if tag == 0 {
                return Some(Found::Missing(slot, distance));
            }
            if tag == hash && self.is_key(source, slot, key) {
                return Some(Found::There(slot));
            }
        }
        None
    }

    /// Sets the value of a key; what it was before.
    ///
    /// # Panics
    /// If the map does not lie within the region.
    pub fn insert(&self, region: &mut Publisher, key: &K, new: &V) -> Result<Option<V>, Full> {
        let len = self.len(region.bytes());
        if len == 0 {
            self.draw_seed(region);
        }
        let hash = self.hash(region.bytes(), key);
        let full = Full {
            capacity: self.capacity,
        };
        match self.find(region.bytes(), hash, key, usize::MAX) {
            Some(Found::There(slot)) => {
                let at = self.slot_at(slot) + Self::VALUE_AT;
                let old = value(region.bytes(), at);
                put(region, at, new);
                Ok(old)
            }
            Some(Found::Missing(slot, distance)) if len < self.capacity => {
                put(region, self.slot_at(slot) + Self::KEY_AT, key);
                put(region, self.slot_at(slot) + Self::VALUE_AT, new);
                put(region, self.slot_at(slot), &hash);
                put(region, self.at + LEN, &(len as u64 + 1));
                if distance as u64 > self.word(region.bytes(), LONGEST) {
                    put(region, self.at + LONGEST, &(distance as u64));
                }
                Ok(None)
            }
            _ => Err(full),
        }
    }

    /// A map that was empty hashes anew: nothing depends on the old key, and bytes of
    /// zero have none.
    fn draw_seed(&self, region: &mut Publisher) {
        for word in SEED {
            put(region, self.at + word, &RandomState::new().hash_one(word));
        }
        put(region, self.at + LONGEST, &0u64);
    }

    /// Removes a key; the value it had.
    pub fn remove(&self, region: &mut Publisher, key: &K) -> Option<V> {
        let hash = self.hash(region.bytes(), key);
        let Some(Found::There(slot)) = self.find(region.bytes(), hash, key, usize::MAX) else {
            return None;
        };
        let old = value(region.bytes(), self.slot_at(slot) + Self::VALUE_AT);
        self.close(region, slot);
        let len = self.len(region.bytes()) as u64;
        put(region, self.at + LEN, &len.saturating_sub(1));
        old
    }

    /// Moves entries back over a hole, so that none is cut off from its home.
    fn close(&self, region: &mut Publisher, mut hole: usize) {
        let mask = self.slots - 1;
        let mut next = hole;
        for _ in 1..self.slots {
            next = (next + 1) & mask;
            let tag = self.tag(region.bytes(), next);
            if tag == 0 {
                break;
            }
            let from_home = next.wrapping_sub(tag as usize) & mask;
            if from_home >= next.wrapping_sub(hole) & mask {
                let from = self.slot_at(next);
                let slot = region.bytes()[from..from + Self::SLOT].to_vec();
                region
                    .bytes_mut(self.slot_at(hole), Self::SLOT)
                    .copy_from_slice(&slot);
                hole = next;
            }
        }
        region.bytes_mut(self.slot_at(hole), Self::SLOT).fill(0);
    }

    /// Hands every entry to `each`, in no order.
    pub fn for_each(&self, source: &(impl Source + ?Sized), mut each: impl FnMut(K, V)) {
        for slot in 0..self.slots {
            if self.tag(source, slot) == 0 {
                continue;
            }
            let at = self.slot_at(slot);
            let key = value(source, at + Self::KEY_AT);
            if let (Some(key), Some(value)) = (key, value(source, at + Self::VALUE_AT)) {
                each(key, value);
            }
        }
    }
}

fn put<V: Content>(region: &mut Publisher, at: usize, value: &V) {
    let bytes = region.bytes_mut(at, size_of::<V>());
    bytes.copy_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::writer::Writer;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Flows = Map<[u8; 3], [u16; 2]>;

    proptest! {
        /// Against an ordered map, near its capacity, with many removals.
        #[test]
        fn it_is_a_map(
            capacity in 1usize..60,
            steps in proptest::collection::vec((any::<bool>(), 0u8..80, any::<[u16; 2]>()), 1..400),
        ) {
            let map = Flows::new(64, capacity);
            let mut writer = Writer::<[u8]>::create(&Spec::bytes(64 + map.bytes())).unwrap();
            let mut model = BTreeMap::new();
            for (insert, key, value) in steps {
                let key = [key, 1, 2];
                if insert {
                    let expected = if model.contains_key(&key) || model.len() < capacity {
                        Ok(model.insert(key, value))
                    } else {
                        Err(Full { capacity })
                    };
                    prop_assert_eq!(map.insert(&mut writer, &key, &value), expected);
                } else {
                    prop_assert_eq!(map.remove(&mut writer, &key), model.remove(&key));
                }
                prop_assert_eq!(map.len(writer.bytes()), model.len());
                for key in 0..80 {
                    let key = [key, 1, 2];
                    prop_assert_eq!(map.get(writer.bytes(), &key), model.get(&key).copied());
                }
                let keys: Vec<[u8; 3]> = (0..80).map(|key| [key, 1, 2]).collect();
                let mut each = Vec::new();
                map.get_each(writer.bytes(), &keys, |index, value| each.push((index, value)));
                let expected = keys.iter().map(|key| model.get(key).copied());
                prop_assert_eq!(each, expected.enumerate().collect::<Vec<_>>());
            }
            let mut all = BTreeMap::new();
            map.for_each(writer.bytes(), |key, value| {
                all.insert(key, value);
            });
            prop_assert_eq!(all, model);
            prop_assert_eq!(&writer.bytes()[..64], &[0; 64], "not ours");
        }

        /// A view may be torn while it is looked at.
        #[test]
        fn any_bytes_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..2000), key: [u8; 3]) {
            let map = Flows::new(0, 100);
            let _ = map.get(&bytes[..], &key);
            let mut answers = 0;
            map.get_each(&bytes[..], &[key; 40], |_, _| answers += 1);
            prop_assert_eq!(answers, 40);
            prop_assert!(map.len(&bytes[..]) <= 100);
            let mut count = 0;
            map.for_each(&bytes[..], |_, _| count += 1);
            prop_assert!(count <= map.slots);
        }
    }

    #[test]
    fn a_lookup_touches_few_lines() {
        let map = Map::<u64, u64>::new(0, 10_000);
        let mut writer = Writer::<[u8]>::create(&Spec::bytes(map.bytes())).unwrap();
        for key in 0..10_000u64 {
            map.insert(&mut writer, &key, &(key * 3)).unwrap();
        }
        assert!(map.insert(&mut writer, &10_000, &0).is_err());
        writer.publish().unwrap();
        map.insert(&mut writer, &77, &1).unwrap();
        assert_eq!(writer.dirty_lines(), 1, "a slot lies in one line");
        let longest = map.word(writer.bytes(), LONGEST);
        assert!(longest < 200, "{longest}");
    }
}
