//! Where things lie in the region.
//!
//! ```text
//! line 0      how many tables | formation | view | slot | log time
//! line 1..    a line for each table: name (hashed) | shape | rows it may have | where | left out
//! from 1024   each table: a map of the crate `region`
//! ```
//!
//! Rows have any length in a store; in a map all have one. A table is given the narrowest of three
//! shapes that its rows fit. A slot of the first fills a cache line, so that a look-up misses once.

use stateplane_region::{LINE, Map, Spec};
use stateplane_state::settled::TableName;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the region's bytes mean.
pub const SCHEMA: &str = "stateplane-committed-2";
/// Tables in one region.
pub const MAX_TABLES: usize = 15;
/// Bytes of the longest key.
pub const MAX_KEY: usize = 63;
/// Bytes of the longest value.
pub const MAX_VALUE: usize = 183;

pub(crate) const TABLES_AT: usize = (MAX_TABLES + 1) * LINE;

/// A table to be shared: its name in the store, how many rows there is room for, and of what size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared<'a> {
    /// Its name.
    pub name: &'a str,
    /// Rows there is room for. More are left out, and then nothing is known to be absent.
    pub rows: usize,
    /// Bytes of the longest key.
    pub key_bytes: usize,
    /// Bytes of the longest value.
    pub value_bytes: usize,
}

/// Why tables cannot be shared.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// There are none, or too many.
    #[error("{0} tables: 1 to {MAX_TABLES} can be shared")]
    Count(usize),
    /// A table without rows.
    #[error("{0}: it needs room for at least one row")]
    NoRows(String),
    /// Its rows are too long.
    #[error(
        "{name}: keys of {key_bytes} and values of {value_bytes} bytes; at most {MAX_KEY} and {MAX_VALUE} are possible"
    )]
    TooLong {
        /// The table.
        name: String,
        /// As asked for.
        key_bytes: usize,
        /// As asked for.
        value_bytes: usize,
    },
}

/// In which life of the group, and in which view, something was final.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// The life of the group.
    pub formation: u64,
    /// The view.
    pub view: u64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Head {
    pub(crate) tables: u64,
    pub(crate) formation: u64,
    pub(crate) view: u64,
    pub(crate) slot: u64,
    pub(crate) time: u64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Row {
    pub(crate) name: u64,
    pub(crate) shape: u64,
    pub(crate) rows: u64,
    pub(crate) at: u64,
    pub(crate) left_out: u64,
}

impl Row {
    pub(crate) const LEFT_OUT: usize = 4 * size_of::<u64>();

    pub(crate) const fn at(table: usize) -> usize {
        (table + 1) * LINE
    }
}

/// Less than a word of bytes, as the first of a word.
#[inline]
fn tail(bytes: &[u8]) -> u64 {
    let byte = |word, byte: &u8| word << 8 | u64::from(*byte);
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => {
            let [first, last] = [first, last].map(|four| u64::from(u32::from_le_bytes(*four)));
            // The last four begin within the first ones, or behind them.
            first | last << (8 * (bytes.len() - 4))
        }
        _ => bytes.iter().rev().fold(0, byte),
    }
}

/// A string of at most `N - 1` bytes, its length in the last one; `N` is a multiple of 8.
///
/// Word by word: it is loaded so at once, and a processor that must put a word together from
/// smaller stores waits until they have reached the cache.
#[inline]
pub(crate) fn padded<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    if bytes.len() >= N {
        return None;
    }
    let mut all = [0; N];
    let (words, _) = all.as_chunks_mut::<8>();
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, from) in words.iter_mut().zip(whole) {
        *word = *from;
    }
    let mut last = tail(rest);
    let length = (bytes.len() as u64) << 56;
    if whole.len() + 1 == words.len() {
        last |= length;
    } else {
        words[N / 8 - 1] = length.to_le_bytes();
    }
    words[whole.len()] = last.to_le_bytes();
    Some(all)
}

type Line64 = Map<[u8; 8], [u8; 48]>;
type Line128 = Map<[u8; 32], [u8; 88]>;
type Line256 = Map<[u8; 64], [u8; 184]>;

/// A table's place in the region.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placed {
    Narrow(Line64),
    Middle(Line128),
    Wide(Line256),
}

/// Calls the same code on whichever map it is.
macro_rules! each_shape {
    ($placed:expr, $map:ident => $code:expr) => {
        match $placed {
            $crate::layout::Placed::Narrow($map) => $code,
            $crate::layout::Placed::Middle($map) => $code,
            $crate::layout::Placed::Wide($map) => $code,
        }
    };
}
pub(crate) use each_shape;

impl Placed {
    /// The table with this number of a shape, at byte `at`; none: no such shape.
    pub(crate) fn new(shape: u64, at: usize, rows: usize) -> Option<Self> {
        Some(match shape {
            0 => Self::Narrow(Map::new(at, rows)),
            1 => Self::Middle(Map::new(at, rows)),
            2 => Self::Wide(Map::new(at, rows)),
            _ => return None,
        })
    }

    /// The narrowest shape for such rows.
    fn shape(key_bytes: usize, value_bytes: usize) -> Option<u64> {
        match (key_bytes, value_bytes) {
            (0..=7, 0..=47) => Some(0),
            (0..=31, 0..=87) => Some(1),
            (0..=MAX_KEY, 0..=MAX_VALUE) => Some(2),
            _ => None,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        each_shape!(self, map => map.bytes())
    }
}

/// The directory of these tables, their places, and the region's length.
pub(crate) fn plan(tables: &[Shared<'_>]) -> Result<(Vec<Row>, Vec<Placed>, usize), Unfit> {
    if !(1..=MAX_TABLES).contains(&tables.len()) {
        return Err(Unfit::Count(tables.len()));
    }
    let (mut rows, mut placed, mut end) = (Vec::new(), Vec::new(), TABLES_AT);
    for table in tables {
        let name = || table.name.to_owned();
        if table.rows == 0 {
            return Err(Unfit::NoRows(name()));
        }
        let shape = Placed::shape(table.key_bytes, table.value_bytes);
        let place = shape.and_then(|shape| Some((shape, Placed::new(shape, end, table.rows)?)));
        let Some((shape, place)) = place else {
            return Err(Unfit::TooLong {
                name: name(),
                key_bytes: table.key_bytes,
                value_bytes: table.value_bytes,
            });
        };
        rows.push(Row {
            name: TableName::of(table.name).0,
            shape,
            rows: table.rows as u64,
            at: end as u64,
            left_out: 0,
        });
        end = (end + place.bytes()).next_multiple_of(LINE);
        placed.push(place);
    }
    Ok((rows, placed, end))
}

/// The region that these tables need.
pub(crate) fn spec(tables: &[Shared<'_>]) -> Result<Spec, Unfit> {
    let (_, _, len) = plan(tables)?;
    Ok(Spec::bytes(len).schema(SCHEMA))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_padded_as_they_are_and_told_apart() {
        let bytes: Vec<u8> = (1..=70).collect();
        for len in 0..70 {
            let (string, fits) = (&bytes[..len], |size| len < size);
            let right = |all: &[u8]| {
                let (last, padding) = all[len..].split_last().expect("the length");
                all[..len] == *string
                    && padding.iter().all(|byte| *byte == 0)
                    && usize::from(*last) == len
            };
            assert_eq!(
                padded::<8>(string).is_some_and(|all| right(&all)),
                fits(8),
                "{len}"
            );
            assert_eq!(
                padded::<48>(string).is_some_and(|all| right(&all)),
                fits(48),
                "{len}"
            );
            assert_eq!(
                padded::<64>(string).is_some_and(|all| right(&all)),
                fits(64),
                "{len}"
            );
        }
    }
}
