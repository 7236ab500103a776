//! Counters with names: what a process counts, for readers that know nothing of it.
//!
//! ```text
//! 0    layout (4), counters (4), room (4), left out (4), since: day in ns (8)
//! 64   a line pair for each: how (1), bytes of name (1) and of unit (1), 5 unused,
//!      name (88), unit (32)
//! then the values, 8 bytes each, in the same order
//! ```
//!
//! Names are written once, so that a check-in copies lines of values only. Numbers are in
//! the byte order of the machine, as all of a region's words.

use std::collections::BTreeMap;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Source, value};
use crate::LINE;
use crate::merge::{Count, Largest, Level, Merge};
use crate::publisher::Publisher;

const LAYOUT: u32 = 1;
const NAME_MAX: usize = 88;
const UNIT_MAX: usize = 32;

/// What a value is, and so how the values of several writers make one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum How {
    /// Counts up; all writers' together are the sum.
    Count,
    /// Goes up and down; all writers' together are the sum.
    Level,
    /// The largest of all writers' is meant.
    Largest,
}

impl How {
    const ALL: [Self; 3] = [Self::Count, Self::Level, Self::Largest];

    /// The word for people and machines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Level => "level",
            Self::Largest => "largest",
        }
    }

    fn merge(self, mine: &mut u64, other: u64) {
        match self {
            Self::Count => {
                let mut all = Count(*mine);
                all.merge(&Count(other));
                *mine = all.0;
            }
            Self::Level => {
                let mut all = Level(*mine as i64);
                all.merge(&Level(other as i64));
                *mine = all.0 as u64;
            }
            Self::Largest => {
                let mut all = Largest(*mine);
                all.merge(&Largest(other));
                *mine = all.0;
            }
        }
    }
}

/// What tells counters apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Counter {
    /// Its name, such as `switch.frames.steered`; at most 88 bytes.
    pub name: String,
    /// What is counted, such as `packets`; at most 32 bytes.
    pub unit: String,
    /// How values merge.
    pub how: How,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Default)]
#[repr(C)]
struct Head {
    layout: u32,
    count: u32,
    room: u32,
    left_out: u32,
    since_day_ns: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Entry {
    how: u8,
    name_len: u8,
    unit_len: u8,
    unused: [u8; 5],
    name: [u8; NAME_MAX],
    unit: [u8; UNIT_MAX],
}

const _: () = assert!(size_of::<Entry>() == 2 * LINE);

/// Where counters lie in a region, and how many there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    at: usize,
    room: usize,
}

impl Counters {
    /// Room for so many counters at byte `at` of their region. Bytes of zero are none.
    ///
    /// # Panics
    /// If `at` is not a multiple of [`LINE`].
    pub const fn new(at: usize, room: usize) -> Self {
        assert!(at.is_multiple_of(LINE) && room <= 1 << 20);
        Self { at, room }
    }

    /// Bytes they take.
    pub const fn bytes(&self) -> usize {
        LINE + self.room * (2 * LINE + size_of::<u64>())
    }

    const fn entry_at(&self, index: usize) -> usize {
        self.at + LINE + index * 2 * LINE
    }

    const fn value_at(&self, index: usize) -> usize {
        self.entry_at(self.room) + index * size_of::<u64>()
    }

    /// What is counted there; nothing if the bytes are not that.
    pub fn read(&self, source: &(impl Source + ?Sized)) -> Counted {
        let mut counted = Counted::default();
        let head: Head = value(source, self.at).unwrap_or_default();
        if head.layout != LAYOUT || head.room as usize != self.room {
            return counted;
        }
        (counted.left_out, counted.since_day_ns) = (head.left_out, head.since_day_ns);
        for index in 0..self.room.min(head.count as usize) {
            let entry = value::<Entry>(source, self.entry_at(index));
            let number = value::<u64>(source, self.value_at(index));
            if let (Some(counter), Some(number)) = (entry.and_then(counter), number) {
                counted.values.insert(counter, number);
            }
        }
        counted
    }
}

fn counter(entry: Entry) -> Option<Counter> {
    let text = |bytes: &[u8], len: u8| {
        let text = std::str::from_utf8(bytes.get(..usize::from(len))?).ok()?;
        Some(text.to_owned())
    };
    Some(Counter {
        name: text(&entry.name, entry.name_len)?,
        unit: text(&entry.unit, entry.unit_len)?,
        how: *How::ALL.get(usize::from(entry.how))?,
    })
}

/// What one writer counted, or several.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// The values.
    pub values: BTreeMap<Counter, u64>,
    /// Counters for which there was no room.
    pub left_out: u32,
    /// When the writer began to count, in nanoseconds since 1970; of several, the first.
    pub since_day_ns: u64,
}

impl Counted {
    /// Takes another writer's in. What has the same name and another unit, or merges in
    /// another way, stands for itself.
    pub fn merge(&mut self, other: &Self) {
        for (counter, number) in &other.values {
            match self.values.get_mut(counter) {
                Some(mine) => counter.how.merge(mine, *number),
                None => drop(self.values.insert(counter.clone(), *number)),
            }
        }
        self.left_out = self.left_out.saturating_add(other.left_out);
        self.since_day_ns = match (self.since_day_ns, other.since_day_ns) {
            (0, since) | (since, 0) => since,
            (mine, others) => mine.min(others),
        };
    }
}

/// The writer's side: which counter is where.
///
/// ```
/// # use stateplane_region::{Counter, Counters, How, Reader, Spec, Tally, Writer};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let counters = Counters::new(0, 100);
/// let mut region = Writer::<[u8]>::create(&Spec::bytes(counters.bytes()))?;
/// let mut tally = Tally::new(counters, &mut region, 0);
/// tally.set(&mut region, [("nat.drops.no-port", "packets", How::Count, 7)]);
/// region.publish()?;
/// # let reader = Reader::<[u8]>::open(region.fd().try_clone_to_owned()?, "")?;
/// let counted = counters.read(&reader.snapshot()?);
/// let (counter, value) = counted.values.first_key_value().unwrap();
/// assert_eq!((&*counter.name, &*counter.unit, *value), ("nat.drops.no-port", "packets", 7));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tally {
    counters: Counters,
    places: BTreeMap<String, usize>,
    left_out: u32,
    since_day_ns: u64,
}

impl Tally {
    /// Begins to count, at nothing: what a former writer counted is its own.
    ///
    /// # Panics
    /// If the counters do not lie within the region.
    pub fn new(counters: Counters, region: &mut Publisher, since_day_ns: u64) -> Self {
        region.bytes_mut(counters.at, counters.bytes()).fill(0);
        let tally = Self {
            counters,
            places: BTreeMap::new(),
            left_out: 0,
            since_day_ns,
        };
        tally.write_head(region);
        tally
    }

    /// Sets counters: name, unit, how they merge, value. A name is entered when it first
    /// comes. Without room, or too long, it is left out, and readers are told of how many.
    pub fn set<'a>(
        &mut self,
        region: &mut Publisher,
        all: impl IntoIterator<Item = (&'a str, &'a str, How, u64)>,
    ) {
        let mut left_out = 0;
        for (name, unit, how, new) in all {
            let known = self.places.get(name).copied();
            let Some(index) = known.or_else(|| self.enter(region, name, unit, how)) else {
                left_out += 1;
                continue;
            };
            let at = self.counters.value_at(index);
            if value::<u64>(region.bytes(), at) != Some(new) {
                let bytes = region.bytes_mut(at, size_of::<u64>());
                bytes.copy_from_slice(new.as_bytes());
            }
        }
        if left_out != self.left_out {
            self.left_out = left_out;
            self.write_head(region);
        }
    }

    fn enter(&mut self, region: &mut Publisher, name: &str, unit: &str, how: How) -> Option<usize> {
        let index = self.places.len();
        if index >= self.counters.room || name.len() > NAME_MAX || unit.len() > UNIT_MAX {
            return None;
        }
        let mut entry = Entry {
            how: How::ALL.iter().position(|known| *known == how)? as u8,
            name_len: name.len() as u8,
            unit_len: unit.len() as u8,
            unused: [0; 5],
            name: [0; NAME_MAX],
            unit: [0; UNIT_MAX],
        };
        entry.name[..name.len()].copy_from_slice(name.as_bytes());
        entry.unit[..unit.len()].copy_from_slice(unit.as_bytes());
        let bytes = region.bytes_mut(self.counters.entry_at(index), size_of::<Entry>());
        bytes.copy_from_slice(entry.as_bytes());
        self.places.insert(name.to_owned(), index);
        self.write_head(region);
        Some(index)
    }

    fn write_head(&self, region: &mut Publisher) {
        let head = Head {
            layout: LAYOUT,
            count: self.places.len() as u32,
            room: self.counters.room as u32,
            left_out: self.left_out,
            since_day_ns: self.since_day_ns,
        };
        let bytes = region.bytes_mut(self.counters.at, size_of::<Head>());
        bytes.copy_from_slice(head.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::writer::Writer;
    use proptest::prelude::*;

    const COUNTERS: Counters = Counters::new(0, 8);

    fn region() -> Writer<[u8]> {
        Writer::create(&Spec::bytes(COUNTERS.bytes())).unwrap()
    }

    fn find(counted: &Counted, name: &str) -> Option<u64> {
        let mut all = counted.values.iter();
        all.find(|(c, _)| c.name == name).map(|(_, value)| *value)
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let mut region = region();
        let mut tally = Tally::new(COUNTERS, &mut region, 9);
        let long = "x".repeat(NAME_MAX + 1);
        for _ in 0..2 {
            let names: Vec<String> = (0..10)
                .map(|n| format!("c{n}"))
                .chain([long.clone()])
                .collect();
            let all = names.iter().map(|name| (&**name, "packets", How::Count, 5));
            tally.set(&mut region, all);
            let counted = COUNTERS.read(region.bytes());
            assert_eq!((counted.values.len(), counted.left_out), (8, 3));
            assert_eq!(counted.since_day_ns, 9);
        }
    }

    #[test]
    fn only_lines_of_values_change_afterwards() {
        let mut region = region();
        let mut tally = Tally::new(COUNTERS, &mut region, 0);
        for value in 1..5 {
            tally.set(
                &mut region,
                [("a", "s", How::Level, value), ("b", "s", How::Count, 7)],
            );
            assert_eq!(region.dirty_lines() == 1, value > 1, "{value}");
            region.publish().unwrap();
        }
    }

    #[test]
    fn a_next_writer_begins_anew() {
        let mut region = region();
        let mut tally = Tally::new(COUNTERS, &mut region, 1);
        tally.set(&mut region, [("old", "s", How::Count, 3)]);
        let mut tally = Tally::new(COUNTERS, &mut region, 2);
        tally.set(&mut region, [("new", "s", How::Count, 4)]);
        let counted = COUNTERS.read(region.bytes());
        assert_eq!(
            (find(&counted, "old"), find(&counted, "new")),
            (None, Some(4))
        );
    }

    #[test]
    fn writers_merge_by_name_unit_and_kind() {
        let writer = |count, level: i64, largest, unit| {
            let mut region = region();
            let mut tally = Tally::new(COUNTERS, &mut region, count);
            let all = [
                ("count", unit, How::Count, count),
                ("level", "flows", How::Level, level as u64),
                ("largest", "ms", How::Largest, largest),
            ];
            tally.set(&mut region, all);
            COUNTERS.read(region.bytes())
        };
        let mut all = Counted::default();
        for one in [
            writer(3, 5, 9, "packets"),
            writer(4, -7, 2, "packets"),
            writer(5, 0, 1, "bytes"),
        ] {
            all.merge(&one);
        }
        let count = |unit: &str| {
            let mut all = all.values.iter();
            all.find(|(c, _)| c.name == "count" && c.unit == unit)
                .map(|(_, v)| *v)
        };
        assert_eq!((count("packets"), count("bytes")), (Some(7), Some(5)));
        assert_eq!(find(&all, "level"), Some(-2i64 as u64));
        assert_eq!((find(&all, "largest"), all.since_day_ns), (Some(9), 3));
    }

    proptest! {
        #[test]
        fn any_bytes_are_bounded(
            mut bytes in proptest::collection::vec(any::<u8>(), COUNTERS.bytes()),
            count: u32, cut in 0..COUNTERS.bytes(),
        ) {
            for (at, word) in [(0, LAYOUT), (4, count), (8, 8)] {
                bytes[at..at + 4].copy_from_slice(word.as_bytes());
            }
            prop_assert!(COUNTERS.read(&bytes[..]).values.len() <= 8);
            COUNTERS.read(&bytes[..cut]);
        }
    }
}
