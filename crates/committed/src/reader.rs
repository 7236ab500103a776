//! The function's side: look-ups in place.

use std::time::Duration;

use stateplane_base::LogTime;
use stateplane_region::{Edition, LINE, ReadError, Reader, View as Bytes};
use stateplane_state::settled::{Position, TableName};

use crate::layout::{Head, MAX_TABLES, Placed, Row, TABLES_AT, View, each_shape, padded};

/// Why a region is not of this kind.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotCommitted {
    /// It cannot be read, or holds nothing yet.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its directory contradicts itself.
    #[error("the region holds no tables of a store, or those of another release")]
    Directory,
}

/// A table of a [`Committed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalTable(usize);

/// What was found under a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A value of so many bytes, which were copied as far as there was room.
    Value(usize),
    /// There was no row.
    Absent,
    /// The copy does not hold all rows, and not this one: only the store knows.
    Unknown,
}

/// What was found, and what it is true of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The row.
    pub found: Found,
    /// All operations up to this slot, and none after it, are part of it; all are final.
    pub at: Position,
    /// The region's version.
    pub edition: Edition,
}

impl Answer {
    /// How long ago it was published. How old it is in the store's own time is for who knows
    /// that time; see [`Position::time`].
    pub fn age(&self) -> Duration {
        self.edition.age()
    }
}

/// One table, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableView {
    /// Rows it holds.
    pub rows: usize,
    /// Rows it has room for.
    pub max_rows: usize,
    /// Rows that did not fit.
    pub left_out: u64,
}

/// Committed tables of a store on this machine.
#[derive(Clone, Debug)]
pub struct Committed {
    reader: Reader<[u8]>,
    /// By name, hashed.
    tables: Vec<(u64, Placed)>,
}

impl Committed {
    /// Reads the directory of a region that holds tables of a replica.
    pub fn open(reader: Reader<[u8]>) -> Result<Self, NotCommitted> {
        let len = reader.len();
        let (directory, _) = reader.read_with(directory)?;
        let directory = directory.ok_or(NotCommitted::Directory)?;
        let place = |row: &Row| {
            let (at, rows) = (
                usize::try_from(row.at).ok()?,
                usize::try_from(row.rows).ok()?,
            );
            // Nothing is computed from numbers that cannot be true.
            let sane = at >= TABLES_AT && at.is_multiple_of(LINE) && (1..=len).contains(&rows);
            let placed = Placed::new(row.shape, at, sane.then_some(rows)?)?;
            let end = at.checked_add(placed.bytes())?;
            (end <= len).then_some((row.name, placed))
        };
        let tables: Option<Vec<_>> = directory.iter().map(place).collect();
        let tables = tables.ok_or(NotCommitted::Directory)?;
        Ok(Self { reader, tables })
    }

    /// The table of this name, if it is shared.
    pub fn table(&self, name: &str) -> Option<LocalTable> {
        self.table_of(TableName::of(name))
    }

    /// The table of a name that was hashed before.
    #[inline]
    pub fn table_of(&self, name: TableName) -> Option<LocalTable> {
        let found = self.tables.iter().position(|table| table.0 == name.0);
        found.map(LocalTable)
    }

    /// Looks a key up; its value goes to `value`.
    #[inline]
    pub fn get(
        &self,
        table: LocalTable,
        key: &[u8],
        value: &mut [u8],
    ) -> Result<Answer, ReadError> {
        let placed = self.tables[table.0].1;
        let ((found, at), edition) = self.reader.read_with(|view| {
            let found = find(view, table, placed, key, value);
            (found, position(view))
        })?;
        Ok(Answer { found, at, edition })
    }

    /// Looks several keys up, those of a burst of packets: each value goes to the same place of
    /// `values`, and what was found to that of `found`. Memory is waited for once for a few tens of
    /// them instead of once for each. All are of the version that is answered.
    ///
    /// # Panics
    /// If the three slices are not equally long.
    pub fn get_each<const N: usize>(
        &self,
        table: LocalTable,
        keys: &[impl AsRef<[u8]>],
        values: &mut [[u8; N]],
        found: &mut [Found],
    ) -> Result<(Position, Edition), ReadError> {
        assert_eq!((keys.len(), keys.len()), (values.len(), found.len()));
        let placed = self.tables[table.0].1;
        self.reader.read_with(|view| {
            for (burst, keys) in keys.chunks(BURST).enumerate() {
                each_shape!(placed, map => for key in keys {
                    if let Some(key) = padded(key.as_ref()) {
                        map.expect(view, &key);
                    }
                });
                for (index, key) in (burst * BURST..).zip(keys) {
                    found[index] = find(view, table, placed, key.as_ref(), &mut values[index]);
                }
            }
            position(view)
        })
    }

    /// Where it stands: slot and log time, in which view, and which version that is.
    pub fn at(&self) -> Result<(Position, View, Edition), ReadError> {
        let ((at, seen), edition) = self.reader.read_with(|view| {
            let seen = head(view).map_or(View::default(), |head| View {
                formation: head.formation,
                view: head.view,
            });
            (position(view), seen)
        })?;
        Ok((at, seen, edition))
    }

    /// How full a table is.
    pub fn view(&self, table: LocalTable) -> Result<TableView, ReadError> {
        let placed = self.tables[table.0].1;
        let (view, _) = self.reader.read_with(|view| {
            let max = view.get::<Row>(Row::at(table.0)).map_or(0, |row| row.rows);
            TableView {
                rows: each_shape!(placed, map => map.len(view)),
                max_rows: usize::try_from(max).unwrap_or(usize::MAX),
                left_out: left_out(view, table.0),
            }
        })?;
        Ok(view)
    }

    /// The region.
    pub fn region(&self) -> &Reader<[u8]> {
        &self.reader
    }
}

/// Keys looked for at once: about as many lines as a core can have under way.
const BURST: usize = 32;

#[inline]
fn find(
    view: &Bytes<'_>,
    table: LocalTable,
    placed: Placed,
    key: &[u8],
    value: &mut [u8],
) -> Found {
    let found = each_shape!(placed, map => {
        let place = padded(key).and_then(|key| map.place(view, &key));
        place.map(|at| load(view, at, map.value_bytes(), value))
    });
    match found {
        Some(len) => Found::Value(len),
        None if left_out(view, table.0) == 0 => Found::Absent,
        None => Found::Unknown,
    }
}

fn head(view: &Bytes<'_>) -> Option<Head> {
    view.get::<Head>(0)
}

#[inline]
fn position(view: &Bytes<'_>) -> Position {
    let word = |at| view.word(at).unwrap_or(0);
    Position {
        slot: word(std::mem::offset_of!(Head, slot)),
        time: LogTime::from_nanos(word(std::mem::offset_of!(Head, time))),
    }
}

#[inline]
fn left_out(view: &Bytes<'_>, table: usize) -> u64 {
    view.word(Row::at(table) + Row::LEFT_OUT).unwrap_or(0)
}

/// Copies the padded string at `at`, of `len` bytes with its length in the last, as far as there
/// is room; how long it is. What is not asked for is not loaded.
#[inline]
fn load(view: &Bytes<'_>, at: usize, len: usize, into: &mut [u8]) -> usize {
    let last = view.word(at + len - size_of::<u64>()).unwrap_or(0);
    let [.., length] = last.to_ne_bytes();
    let length = usize::from(length).min(len - 1);
    let room = length.min(into.len());
    view.load(at, &mut into[..room]);
    length
}

fn directory(view: &Bytes<'_>) -> Option<Vec<Row>> {
    let count = usize::try_from(head(view)?.tables).ok()?;
    if !(1..=MAX_TABLES).contains(&count) {
        return None;
    }
    (0..count).map(|table| view.get(Row::at(table))).collect()
}
