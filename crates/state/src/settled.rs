//! Copies of tables that never hold what is not final.
//!
//! A replica may execute operations before it is known that they survive (the leader of a group
//! does). Who reads its tables from outside must not see those: a change of leaders can undo them.
//! [`Settled`] therefore stands between a store and a copy of some of its tables. It takes what
//! operations change, together with how far they were executed, holds it back until as much is
//! final, and then hands it on in order.
//!
//! # Why the copy is right
//! * *What is shown is final.* Changes executed up to some position are handed on when that position
//!   is final. Should they have been executed in vain, the replica does not undo them: it takes
//!   another state, [`Store`] says so, and everything held back is dropped before anything else.
//! * *A copy begun late is whole.* Rows are handed on a few at a time while the state goes on, so
//!   the copy is of no one moment at first. But changes say what a row is, and all since the
//!   beginning follow in order. Once those up to the moment the last row was taken were handed on,
//!   each row is what it was at that position: either nothing changed it after it was taken, or
//!   the change came after it. Before that, nothing is shown.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use stateplane_base::LogTime;

use crate::feed::{Change, Walk, What};
use crate::store::Store;

/// Positions remembered separately; beyond these the last one moves on instead.
const MARKS: usize = 1 << 14;

/// What stands for a table's name outside of a store (64-bit FNV-1a).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName(pub u64);

impl TableName {
    /// That of this name.
    pub const fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        let (mut hash, mut i) = (0xcbf2_9ce4_8422_2325_u64, 0);
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Self(hash)
    }
}

/// A place in the order of operations, and the time there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The last operation that is part of it.
    pub slot: u64,
    /// Its time.
    pub time: LogTime,
}

/// What a copy of tables can do. Tables are named by their place among those shared.
pub trait Image {
    /// All that was shown belongs to another state; what is shown stays until the next
    /// [`Self::show`].
    fn begin(&mut self);
    /// A row is this.
    fn put(&mut self, table: usize, key: &[u8], value: &[u8]);
    /// A row is not there.
    fn remove(&mut self, table: usize, key: &[u8]);
    /// No row is there.
    fn clear(&mut self, table: usize);
    /// What was handed on so far is what was final at `at`: it may be read.
    fn show(&mut self, at: Position);
}

/// What was executed up to a position, and how many changes that were.
#[derive(Debug)]
struct Mark {
    at: Position,
    changes: usize,
}

/// How far the copy is.
#[derive(Debug)]
enum Phase {
    /// Rows are being taken.
    Taking(Walk),
    /// It is whole as soon as it has what was executed up to this slot.
    From(u64),
}

/// Holds back what is not final. See the module's text.
#[derive(Debug)]
pub struct Settled {
    held: VecDeque<Change>,
    marks: VecDeque<Mark>,
    phase: Phase,
    shown: Option<Position>,
    /// How often a copy was begun.
    begun: u64,
}

impl Default for Settled {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            marks: VecDeque::new(),
            phase: Phase::From(u64::MAX),
            shown: None,
            begun: 0,
        }
    }
}

impl Settled {
    /// What is shown: the last position.
    pub const fn shown(&self) -> Option<Position> {
        self.shown
    }

    /// Changes held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How often a copy was begun.
    pub const fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether the copy is still being made, so that [`Self::turn`] should be called soon.
    pub const fn is_taking(&self) -> bool {
        matches!(self.phase, Phase::Taking(_))
    }

    /// Hands on what became final. `executed` is where `store` stands, `settled` the last slot
    /// that is final; about `rows` rows are taken at most. Whether there is something new to see.
    ///
    /// To be called after operations were executed, before others may be undone; the store's
    /// tables are those of [`Store::share`].
    pub fn turn(
        &mut self,
        store: &mut Store,
        executed: Position,
        settled: u64,
        rows: usize,
        image: &mut impl Image,
    ) -> bool {
        if store.take_replaced() {
            self.held.clear();
            self.marks.clear();
            self.phase = Phase::Taking(Walk::default());
            self.begun += 1;
            image.begin();
        }
        if self.rests(store, executed) {
            return false;
        }
        self.note(store.changes(), executed);
        self.take_rows(store, executed.slot, rows, image);
        let mut reached = None;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.at.slot <= settled) {
            for change in self.held.drain(..mark.changes) {
                hand_on(change, image);
            }
            reached = Some(mark.at);
        }
        let whole = |at: &Position| matches!(self.phase, Phase::From(from) if at.slot >= from);
        let Some(at) = reached.filter(whole) else {
            return false;
        };
        self.shown = Some(at);
        image.show(at);
        true
    }

    /// Whether all that was executed is shown.
    fn rests(&self, store: &mut Store, executed: Position) -> bool {
        let shown = self.shown == Some(executed) && self.marks.is_empty() && !self.is_taking();
        shown && store.changes().is_none_or(|new| new.is_empty())
    }

    fn note(&mut self, changes: Option<&mut Vec<Change>>, executed: Position) {
        let former = self.held.len();
        self.held
            .extend(changes.into_iter().flat_map(|new| new.drain(..)));
        let count = self.held.len() - former;
        let full = self.marks.len() >= MARKS;
        match self.marks.back_mut() {
            Some(last) if full || last.at.slot == executed.slot => {
                last.at = executed;
                last.changes += count;
            }
            last => {
                let known = last.map_or(self.shown, |mark| Some(mark.at));
                if count > 0 || known != Some(executed) || self.is_taking() {
                    let mark = Mark {
                        at: executed,
                        changes: count,
                    };
                    self.marks.push_back(mark);
                }
            }
        }
    }

    fn take_rows(&mut self, store: &Store, executed: u64, rows: usize, image: &mut impl Image) {
        let Phase::Taking(walk) = &mut self.phase else {
            return;
        };
        let mut left = rows;
        while left > 0 {
            let put = |table: usize, key: &[u8], value: &[u8]| image.put(table, key, value);
            match store.page(walk, put) {
                Some(seen) => left = left.saturating_sub(seen),
                None => {
                    self.phase = Phase::From(executed);
                    return;
                }
            }
        }
    }
}

fn hand_on(change: Change, image: &mut impl Image) {
    let table = usize::from(change.table);
    match change.what {
        What::Is(key, value) => image.put(table, &key, &value),
        What::Gone(key) => image.remove(table, &key),
        What::Cleared => image.clear(table),
    }
}
