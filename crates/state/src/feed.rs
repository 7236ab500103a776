//! What operations change in tables that somebody else keeps a copy of.

use alloc::vec::Vec;
use core::ops::Bound;

use crate::rows::Rows;
use crate::state::State;
use crate::table::{Key, Value};
use crate::tx::{Journal, Touched};

/// Changes that nobody fetched; beyond these the copy must be made anew.
const MOST: usize = 1 << 20;

/// One change of a shared table. It says what a row *is* now, not what was done to it, so that it
/// does no harm to a copy that has it already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The table's place among those that are shared.
    pub(crate) table: u16,
    pub(crate) what: What,
}

/// What became of a row, or of all of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Is(Key, Value),
    Gone(Key),
    Cleared,
}

/// Notes the changes of committed transactions; those of refused ones never happened.
pub(crate) struct Feed {
    /// The shared tables, by their place in the store.
    tables: Vec<u16>,
    pub(crate) changes: Vec<Change>,
    /// The state is another one, or too much changed to be noted.
    pub(crate) replaced: bool,
}

impl Feed {
    /// Whatever the tables hold already has to be taken first.
    pub(crate) fn new(tables: Vec<u16>) -> Self {
        Self {
            tables,
            changes: Vec::new(),
            replaced: true,
        }
    }

    /// The state was exchanged.
    pub(crate) fn replace(&mut self) {
        self.replaced = true;
        self.changes.clear();
    }

    /// A transaction is about to be committed.
    pub(crate) fn note(&mut self, journal: &Journal, state: &State) {
        for touched in journal.touched() {
            let (Touched::Row(table, _) | Touched::All(table)) = touched;
            let Some(place) = self.tables.iter().position(|shared| *shared == table) else {
                continue;
            };
            let what = match touched {
                Touched::All(_) => What::Cleared,
                Touched::Row(_, key) => match state.get(table, state.sought(table, key)) {
                    Some(value) => What::Is(key.clone(), value.into()),
                    None => What::Gone(key.clone()),
                },
            };
            if self.changes.len() >= MOST {
                return self.replace();
            }
            self.changes.push(Change {
                table: place as u16,
                what,
            });
        }
    }

    /// Hands out some rows of the shared tables, as they are now; how many, or none at the end.
    pub(crate) fn page(
        &self,
        state: &State,
        walk: &mut Walk,
        mut each: impl FnMut(usize, &[u8], &[u8]),
    ) -> Option<usize> {
        let table = *self.tables.get(walk.table)?;
        let rows = &state.tables[usize::from(table)].rows;
        let mut seen = 0;
        let complete = match rows {
            Rows::Hashed(parts) => {
                // Parts only split, and what is split off comes last: no row is passed over. Fewer
                // than before are there if the table was cleared, but all that came since is noted.
                if walk.part < parts.count() {
                    for (key, value) in parts.part(walk.part) {
                        each(walk.table, key, value);
                        seen += 1;
                    }
                    walk.part += 1;
                }
                walk.part >= parts.count()
            }
            Rows::Ordered(rows) => {
                let from = match &walk.last {
                    Some(key) => Bound::Excluded(key.clone()),
                    None => Bound::Unbounded,
                };
                walk.last = None;
                for (key, value) in rows.range((from, Bound::Unbounded)).take(PAGE) {
                    each(walk.table, key, value);
                    seen += 1;
                    walk.last = (seen == PAGE).then(|| key.clone());
                }
                walk.last.is_none()
            }
        };
        if complete {
            *walk = Walk {
                table: walk.table + 1,
                ..Walk::default()
            };
        }
        Some(seen.max(1))
    }
}

/// Rows of an ordered table handed out at once.
const PAGE: usize = 512;

/// How far the shared tables have been handed out.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    table: usize,
    part: usize,
    /// In an ordered table: the last key handed out.
    last: Option<Key>,
}
