//! Many writers, one answer: each writes a region of its own, readers merge.
//!
//! A region has one writer, so writers never wait for each other and never lose each
//! other's updates; what belongs together is put together by who wants to know it. That
//! works for whatever can be merged in any order: counts, largest values, sets, sketches.
//! What writers wrote before they ended counts on, as long as their regions are there.

use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::reader::{ReadError, Reader, Snapshot};
use crate::spec::Content;

/// What several writers' values make together.
///
/// Merging is commutative and associative, and bytes of zero are the value of a writer
/// that has not written anything. (A writer of its own for each part makes counts merge
/// right: no part is ever merged twice.)
pub trait Merge: Content + Sized {
    /// Takes another writer's value in.
    fn merge(&mut self, other: &Self);
}

impl<T: Merge, const N: usize> Merge for [T; N] {
    fn merge(&mut self, other: &Self) {
        let pairs = self.iter_mut().zip(other);
        pairs.for_each(|(mine, other)| mine.merge(other));
    }
}

/// A count: what all writers counted, together. Wraps at 64 bits.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
#[repr(transparent)]
pub struct Count(pub u64);

impl Merge for Count {
    fn merge(&mut self, other: &Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// A level that goes up and down.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
#[repr(transparent)]
pub struct Level(pub i64);

impl Merge for Level {
    fn merge(&mut self, other: &Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// The largest value any writer saw.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug, Default,
)]
#[repr(transparent)]
pub struct Largest(pub u64);

impl Merge for Largest {
    fn merge(&mut self, other: &Self) {
        self.0 = self.0.max(other.0);
    }
}

/// A set of small numbers, or a Bloom filter: what any writer put in. 64 members a word.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Members<const WORDS: usize>(pub [u64; WORDS]);

impl<const WORDS: usize> Members<WORDS> {
    /// Puts a number in; numbers beyond the size count from zero again, as hashes do.
    pub fn insert(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.0[word] |= bit;
    }

    /// Whether a number is in it.
    pub fn contains(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0[word] & bit != 0
    }

    /// Members.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(number: u64) -> (usize, u64) {
        let at = number % (WORDS as u64 * 64);
        ((at / 64) as usize, 1 << (at % 64))
    }
}

impl<const WORDS: usize> Merge for Members<WORDS> {
    fn merge(&mut self, other: &Self) {
        let pairs = self.0.iter_mut().zip(&other.0);
        pairs.for_each(|(mine, other)| *mine |= other);
    }
}

/// How many different things were seen, by all writers together, about: HyperLogLog
/// (Flajolet et al., 2007). With R registers, a power of two, it errs by 1.04 / sqrt(R).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Distinct<const R: usize>(pub [u8; R]);

impl<const R: usize> Distinct<R> {
    const INDEX_BITS: u32 = {
        assert!(
            R.is_power_of_two() && R >= 128,
            "a power of two, 128 or more"
        );
        R.trailing_zeros()
    };

    /// Notes something, by a good 64-bit hash of it that is the same in all writers.
    /// Which register changes, if one does, so that a writer can mark just that.
    pub fn place(hash: u64) -> (usize, u8) {
        let rest = hash >> Self::INDEX_BITS;
        let rank = rest.trailing_zeros().min(64 - Self::INDEX_BITS) + 1;
        ((hash % R as u64) as usize, rank as u8)
    }

    /// Notes something, by its hash.
    pub fn insert(&mut self, hash: u64) {
        let (register, rank) = Self::place(hash);
        self.0[register] = self.0[register].max(rank);
    }

    /// How many different hashes were noted, about.
    pub fn estimate(&self) -> f64 {
        let registers = R as f64;
        let sum: f64 = self.0.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        let alpha = 0.7213 / (1.0 + 1.079 / registers);
        let raw = alpha * registers * registers / sum;
        let empty = self.0.iter().filter(|rank| **rank == 0).count();
        if raw <= 2.5 * registers && empty > 0 {
            // Few: counting the registers that are empty is more exact.
            return registers * (registers / empty as f64).ln();
        }
        raw
    }
}

impl<const R: usize> Merge for Distinct<R> {
    fn merge(&mut self, other: &Self) {
        let pairs = self.0.iter_mut().zip(&other.0);
        pairs.for_each(|(mine, other)| *mine = (*mine).max(*other));
    }
}

/// How often each of very many things was seen, about and never less: a count-min sketch
/// (Cormode and Muthukrishnan, 2005) of ROWS rows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Frequencies<const ROWS: usize, const COLUMNS: usize>(pub [[u64; COLUMNS]; ROWS]);

impl<const ROWS: usize, const COLUMNS: usize> Frequencies<ROWS, COLUMNS> {
    /// The column of something in a row, from a good 64-bit hash of it.
    pub fn column(row: usize, hash: u64) -> usize {
        // Two halves of one hash make as many hashes as there are rows (Kirsch, 2006).
        let step = (hash >> 32) | 1;
        (hash.wrapping_add(step.wrapping_mul(row as u64)) % COLUMNS as u64) as usize
    }

    /// Counts something, by its hash.
    pub fn add(&mut self, hash: u64, count: u64) {
        for (row, columns) in self.0.iter_mut().enumerate() {
            let cell = &mut columns[Self::column(row, hash)];
            *cell = cell.wrapping_add(count);
        }
    }

    /// How often something was counted: at most this often.
    pub fn estimate(&self, hash: u64) -> u64 {
        let rows = self.0.iter().enumerate();
        let cells = rows.map(|(row, columns)| columns[Self::column(row, hash)]);
        cells.min().unwrap_or(0)
    }
}

impl<const ROWS: usize, const COLUMNS: usize> Merge for Frequencies<ROWS, COLUMNS> {
    fn merge(&mut self, other: &Self) {
        for (mine, other) in self.0.iter_mut().zip(&other.0) {
            let pairs = mine.iter_mut().zip(other);
            pairs.for_each(|(mine, other)| *mine = mine.wrapping_add(*other));
        }
    }
}

/// The regions of several writers, read as one value.
#[derive(Debug)]
pub struct Merged<T> {
    parts: Vec<(Reader<T>, Option<Snapshot<T>>)>,
}

impl<T> Default for Merged<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T: Merge> Merged<T> {
    /// Adds a writer's region; a second reader of the same name takes the first's place,
    /// as it should after a change of writer.
    pub fn add(&mut self, reader: Reader<T>) {
        let named = |part: &&mut (Reader<T>, _)| {
            !reader.name().is_empty() && part.0.name() == reader.name()
        };
        match self.parts.iter_mut().find(named) {
            // Until the new writer's first version is read the last of the old one counts.
            Some(part) => part.0 = reader,
            None => self.parts.push((reader, None)),
        }
    }

    /// Regions in it.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Reads what is new and merges all. A region that cannot be read counts as it was
    /// when it last could; `each` is told its name and why.
    pub fn read(&mut self, mut each: impl FnMut(&str, ReadError)) -> T {
        let mut all = T::new_zeroed();
        for (reader, last) in &mut self.parts {
            let fresh = match last {
                Some(last) => reader.refresh(last).map(|_| ()),
                None => reader.snapshot().map(|first| *last = Some(first)),
            };
            if let Err(error) = fresh {
                each(reader.name(), error);
            }
            if let Some(last) = last {
                all.merge(last);
            }
        }
        all
    }

    /// The age of the oldest part that was read.
    pub fn age(&self) -> Option<Duration> {
        let parts = self.parts.iter().filter_map(|(_, last)| last.as_ref());
        parts.map(|last| last.edition().age()).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::writer::Writer;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
    #[repr(C)]
    struct Telemetry {
        packets: Count,
        queue: Level,
        longest: Largest,
        ports: Members<16>,
    }

    impl Merge for Telemetry {
        fn merge(&mut self, other: &Self) {
            self.packets.merge(&other.packets);
            self.queue.merge(&other.queue);
            self.longest.merge(&other.longest);
            self.ports.merge(&other.ports);
        }
    }

    fn reader<T: Content>(writer: &Writer<T>) -> Reader<T> {
        Reader::open(writer.fd().try_clone_to_owned().unwrap(), "").unwrap()
    }

    #[test]
    fn what_many_wrote_is_read_as_one() {
        let mut merged = Merged::<Telemetry>::default();
        let mut writers = vec![];
        for number in 0..5u64 {
            let mut writer = Writer::<Telemetry>::create(&Spec::of::<Telemetry>()).unwrap();
            merged.add(reader(&writer));
            *writer.edit(|t| &t.packets) = Count(100 + number);
            *writer.edit(|t| &t.queue) = Level(2 - number as i64);
            *writer.edit(|t| &t.longest) = Largest(number * 7);
            writer.edit(|t| &t.ports).insert(number / 2);
            if number != 4 {
                writer.publish().unwrap();
            }
            writers.push(writer);
        }
        let mut errors = vec![];
        let all = merged.read(|name, error| errors.push((name.to_owned(), error)));
        assert_eq!(errors, [(String::new(), ReadError::Empty)]);
        assert_eq!((all.packets.0, all.queue.0, all.longest.0), (406, 2, 21));
        assert_eq!((all.ports.len(), all.ports.contains(1)), (2, true));

        writers[4].publish().unwrap();
        drop(writers.remove(0));
        let all = merged.read(|_, error| panic!("{error}"));
        assert_eq!((all.packets.0, all.queue.0, all.longest.0), (510, 0, 28));
        assert!(merged.age().is_some());
    }

    fn hash(number: u64) -> u64 {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        BuildHasherDefault::<DefaultHasher>::default().hash_one(number)
    }

    proptest! {
        /// However what was seen is spread over writers, together they say the same.
        #[test]
        fn sketches_merge(
            seen in proptest::collection::vec((0u64..3000, 0usize..4, 1u64..5), 0..2000),
        ) {
            let mut parts = vec![(Distinct([0; 1024]), Frequencies::<4, 512>([[0; 512]; 4])); 4];
            let (mut one, mut truth) = (parts[0], BTreeMap::new());
            let mut different = BTreeSet::new();
            for (thing, writer, count) in &seen {
                for (distinct, frequencies) in [&mut parts[*writer], &mut one] {
                    distinct.insert(hash(*thing));
                    frequencies.add(hash(*thing), *count);
                }
                different.insert(*thing);
                *truth.entry(*thing).or_insert(0u64) += count;
            }
            let mut all = (Distinct([0; 1024]), Frequencies([[0; 512]; 4]));
            for (distinct, frequencies) in &parts {
                all.0.merge(distinct);
                all.1.merge(frequencies);
            }
            prop_assert_eq!(&all, &one);
            for (thing, count) in truth {
                prop_assert!(all.1.estimate(hash(thing)) >= count);
            }
            // Five times the error that is to be expected.
            let (estimate, truth) = (all.0.estimate(), different.len() as f64);
            prop_assert!((estimate - truth).abs() <= 5.0 * 1.04 / 32.0 * truth + 3.0, "{estimate} {truth}");
        }
    }
}
