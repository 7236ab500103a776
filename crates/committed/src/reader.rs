//! The function's side: look-ups in place.

use std::time::Duration;

use stateplane_base::LogTime;
use stateplane_region::{Edition, LINE, ReadError, Reader, View as Bytes};
use stateplane_state::settled::{Position, TableName};
use zerocopy::FromBytes;

use crate::layout::{Head, MAX_TABLES, Placed, Row, TABLES_AT, View, each_shape, padded, unpadded};

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
            let found = each_shape!(placed, map => {
                let row = padded(key).and_then(|key| map.get(view, &key));
                row.map(|row| {
                    let bytes = unpadded(&row);
                    let room = bytes.len().min(value.len());
                    value[..room].copy_from_slice(&bytes[..room]);
                    bytes.len()
                })
            });
            let found = match found {
                Some(len) => Found::Value(len),
                None if left_out(view, table.0) == 0 => Found::Absent,
                None => Found::Unknown,
            };
            (found, position(view))
        })?;
        Ok(Answer { found, at, edition })
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

fn head(view: &Bytes<'_>) -> Option<Head> {
    view.get::<Head>(0)
}

#[inline]
fn position(view: &Bytes<'_>) -> Position {
    let mut words = [0u8; 2 * size_of::<u64>()];
    view.load(std::mem::offset_of!(Head, slot), &mut words);
    let [slot, time] = <[u64; 2]>::read_from_bytes(&words).unwrap_or_default();
    Position {
        slot,
        time: LogTime::from_nanos(time),
    }
}

#[inline]
fn left_out(view: &Bytes<'_>, table: usize) -> u64 {
    view.get(Row::at(table) + Row::LEFT_OUT).unwrap_or(0)
}

fn directory(view: &Bytes<'_>) -> Option<Vec<Row>> {
    let count = usize::try_from(head(view)?.tables).ok()?;
    if !(1..=MAX_TABLES).contains(&count) {
        return None;
    }
    (0..count).map(|table| view.get(Row::at(table))).collect()
}
