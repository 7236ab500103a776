//! A transaction: through it, and only through it, a procedure touches the store.
//!
//! Every change is made at once and noted in a journal. If the procedure refuses, the journal is
//! undone from its end, so that a refused operation leaves no trace wherever it gave up. The other
//! way, to demand of every procedure that it checks everything before its first change, could not
//! be enforced, and limits (a full table) would have to be foreseen by each of them.

use alloc::vec::Vec;
use core::hint::black_box;
use core::time::Duration;

use stateplane_base::LogTime;

use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::rows::Sought;
use crate::state::{Cleared, State};
use crate::table::{Key, Ordered, Record, Table, Unordered, Value};
use crate::timers::{Alarm, TimerId, TimerKind};

/// How to undo one change.
enum Undo {
    Unset { table: u16, key: Key },
    Reset { table: u16, key: Key, value: Value },
    Disarm(TimerId),
    Rearm(TimerId, Alarm),
    Refill { table: u16, rows: Cleared },
}

/// A row, or all rows of a table.
pub(crate) enum Touched<'a> {
    Row(u16, &'a Key),
    All(u16),
}

/// What the running transaction has changed.
#[derive(Default)]
pub(crate) struct Journal {
    changes: Vec<Undo>,
    /// The last serial number drawn before it began, if one has begun.
    serial: Option<u64>,
}

impl Journal {
    /// Begins a transaction.
    pub(crate) fn begin<'a>(&'a mut self, state: &'a mut State) -> Tx<'a> {
        assert!(self.changes.is_empty(), "transactions do not nest");
        self.serial = Some(state.timers.last_serial);
        Tx {
            state,
            journal: self,
        }
    }

    /// Whether the transaction has changed anything; to have drawn a number is to have changed.
    pub(crate) fn wrote(&self, state: &State) -> bool {
        let drew = |serial| serial != state.timers.last_serial;
        !self.changes.is_empty() || self.serial.is_some_and(drew)
    }

    /// What the transaction touched, in order; a row perhaps more than once.
    pub(crate) fn touched(&self) -> impl Iterator<Item = Touched<'_>> {
        self.changes.iter().filter_map(|change| match change {
            Undo::Unset { table, key } | Undo::Reset { table, key, .. } => {
                Some(Touched::Row(*table, key))
            }
            Undo::Refill { table, .. } => Some(Touched::All(*table)),
            Undo::Disarm(_) | Undo::Rearm(..) => None,
        })
    }

    /// Keeps the changes.
    pub(crate) fn commit(&mut self, state: &mut State) {
        for change in self.changes.drain(..) {
            if let Undo::Refill { table, rows } = change {
                state.bury(table, rows);
            }
        }
        self.serial = None;
    }

    /// Undoes the changes; there are none if no transaction has begun.
    pub(crate) fn undo(&mut self, state: &mut State) {
        if let Some(serial) = self.serial.take() {
            self.undo_to(state, 0, serial);
        }
    }

    /// Undoes the changes after the first `keep`, and the drawing of serial numbers above `serial`.
    /// Each step returns to a state that was within the limits, so none fails.
    fn undo_to(&mut self, state: &mut State, keep: usize, serial: u64) {
        for change in self.changes.drain(keep..).rev() {
            match change {
                Undo::Unset { table, key } => {
                    let at = state.sought(table, &key);
                    state
                        .remove(table, at)
                        .expect("the row was set by this transaction");
                }
                Undo::Reset { table, key, value } => {
                    let at = state.sought(table, &key);
                    state
                        .put(table, at, &value)
                        .expect("the row was there before");
                }
                Undo::Disarm(id) => {
                    state
                        .disarm(id)
                        .expect("the timer was armed by this transaction");
                }
                Undo::Rearm(id, alarm) => {
                    state.arm(id, alarm).expect("the timer was there before");
                }
                Undo::Refill { table, rows } => state.refill(table, rows),
            }
        }
        state.timers.last_serial = serial;
    }
}

/// Where a key's row is in a table, or would be; its key's hash is computed.
pub struct Spot<'k, K: ?Sized, V: ?Sized, O = Unordered> {
    table: Table<K, V, O>,
    key: &'k K,
    hash: u64,
}

impl<K: Record + ?Sized, V: ?Sized, O> Spot<'_, K, V, O> {
    fn sought(&self) -> Sought<'_> {
        Sought {
            key: self.key.as_bytes(),
            hash: self.hash,
        }
    }
}

/// The running transaction.
pub struct Tx<'a> {
    state: &'a mut State,
    journal: &'a mut Journal,
}

impl Tx<'_> {
    /// The log's time: of the operation, or in a timer's handler the timer's deadline.
    pub fn now(&self) -> LogTime {
        self.state.now
    }

    /// Where a key's row is in a table, or would be: for who looks for it more than once.
    pub fn spot<'k, K, V, O>(&self, table: Table<K, V, O>, key: &'k K) -> Spot<'k, K, V, O>
    where
        K: Record + ?Sized,
        V: ?Sized,
    {
        let hash = self.state.sought(table.index, key.as_bytes()).hash;
        Spot { table, key, hash }
    }

    /// Has the processor fetch what tells whether there is a row. In a large table that takes longer
    /// than all else about a row; where it is begun for several rows at once, they share the wait.
    pub fn fetch<K, V, O>(&self, spot: &Spot<'_, K, V, O>)
    where
        K: Record + ?Sized,
        V: ?Sized,
    {
        black_box(self.state.get(spot.table.index, spot.sought()).is_some());
    }

    /// The value under a key.
    ///
    /// Refuses with [`Refusal::Corrupt`] if the row is not of the table's type, as only a snapshot
    /// from elsewhere could bring about.
    pub fn get<K, V, O>(&self, table: Table<K, V, O>, key: &K) -> Result<Option<&V>, Refusal>
    where
        K: Record + ?Sized,
        V: Record + ?Sized,
    {
        self.get_at(&self.spot(table, key))
    }

    /// See [`Self::get`].
    pub fn get_at<K, V, O>(&self, spot: &Spot<'_, K, V, O>) -> Result<Option<&V>, Refusal>
    where
        K: Record + ?Sized,
        V: Record + ?Sized,
    {
        match self.state.get(spot.table.index, spot.sought()) {
            Some(bytes) => V::ref_from_bytes(bytes)
                .map(Some)
                .map_err(|_| Refusal::Corrupt),
            None => Ok(None),
        }
    }

    /// Whether a key has a row.
    pub fn contains<K, V, O>(&self, table: Table<K, V, O>, key: &K) -> bool
    where
        K: Record + ?Sized,
        V: ?Sized,
    {
        self.contains_at(&self.spot(table, key))
    }

    /// See [`Self::contains`].
    pub fn contains_at<K, V, O>(&self, spot: &Spot<'_, K, V, O>) -> bool
    where
        K: Record + ?Sized,
        V: ?Sized,
    {
        self.state.get(spot.table.index, spot.sought()).is_some()
    }

    /// The store's limits.
    pub fn limits(&self) -> &Limits {
        &self.state.limits
    }

    /// Bytes of all tables and timers, about.
    pub fn bytes(&self) -> usize {
        self.state.bytes
    }

    /// How many rows a table has.
    pub fn len<K: ?Sized, V: ?Sized, O>(&self, table: Table<K, V, O>) -> usize {
        self.state.tables[usize::from(table.index)].rows.len()
    }

    /// How many rows a table may have.
    pub fn capacity<K: ?Sized, V: ?Sized, O>(&self, table: Table<K, V, O>) -> usize {
        self.state.tables[usize::from(table.index)].max_rows
    }

    /// Sets the value under a key; says whether there was one before.
    pub fn put<K, V, O>(
        &mut self,
        table: Table<K, V, O>,
        key: &K,
        value: &V,
    ) -> Result<bool, Refusal>
    where
        K: Record + ?Sized,
        V: Record + ?Sized,
    {
        self.put_at(&self.spot(table, key), value)
    }

    /// See [`Self::put`].
    pub fn put_at<K, V, O>(&mut self, spot: &Spot<'_, K, V, O>, value: &V) -> Result<bool, Refusal>
    where
        K: Record + ?Sized,
        V: Record + ?Sized,
    {
        let table = spot.table.index;
        let old = self.state.put(table, spot.sought(), value.as_bytes())?;
        let existed = old.is_some();
        let key = Key::from(spot.key.as_bytes());
        self.journal.changes.push(match old {
            Some(value) => Undo::Reset { table, key, value },
            None => Undo::Unset { table, key },
        });
        Ok(existed)
    }

    /// Removes the row under a key; says whether there was one.
    pub fn remove<K, V, O>(&mut self, table: Table<K, V, O>, key: &K) -> bool
    where
        K: Record + ?Sized,
        V: ?Sized,
    {
        self.remove_at(&self.spot(table, key))
    }

    /// See [`Self::remove`].
    pub fn remove_at<K, V, O>(&mut self, spot: &Spot<'_, K, V, O>) -> bool
    where
        K: Record + ?Sized,
        V: ?Sized,
    {
        let table = spot.table.index;
        match self.state.remove(table, spot.sought()) {
            Some((key, value)) => {
                self.journal.changes.push(Undo::Reset { table, key, value });
                true
            }
            None => false,
        }
    }

    /// Removes all rows of a table, in one step whatever their number.
    pub fn clear<K: ?Sized, V: ?Sized, O>(&mut self, table: Table<K, V, O>) {
        let table = table.index;
        let rows = self.state.clear(table);
        self.journal.changes.push(Undo::Refill { table, rows });
    }

    /// Does a part of the transaction; if that fails, the part leaves no trace and the rest goes on.
    pub fn attempt<R, E>(
        &mut self,
        part: impl FnOnce(&mut Tx<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let (keep, serial) = (self.journal.changes.len(), self.state.timers.last_serial);
        let result = part(self);
        if result.is_err() {
            self.journal.undo_to(self.state, keep, serial);
        }
        result
    }

    /// A number never drawn before in the life of this store: an identity, or a version. Timers
    /// draw theirs from the same row.
    pub fn serial(&mut self) -> Result<u64, Refusal> {
        let next = self.state.timers.last_serial.checked_add(1);
        self.state.timers.last_serial = next.ok_or(Refusal::Exhausted)?;
        Ok(self.state.timers.last_serial)
    }

    /// The rows from a key on, in the byte order of their keys. Rows that are not of the table's
    /// types are passed over.
    pub fn scan<'a, K: Record + ?Sized + 'a, V: Record + ?Sized + 'a>(
        &'a self,
        table: Table<K, V, Ordered>,
        from: &K,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let rows = self.state.tables[usize::from(table.index)]
            .rows
            .scan(from.as_bytes());
        rows.filter_map(|(key, value)| {
            Some((K::ref_from_bytes(key).ok()?, V::ref_from_bytes(value).ok()?))
        })
    }

    /// Arms a timer that fires when the log's time reaches `deadline`, but not before the next
    /// nanosecond: a handler that arms its own timer again always lets time pass.
    pub fn arm<K: Record + ?Sized>(
        &mut self,
        kind: TimerKind,
        key: &K,
        deadline: LogTime,
    ) -> Result<TimerId, Refusal> {
        let now = self.state.now;
        if now == LogTime::MAX {
            return Err(Refusal::OutOfRange);
        }
        let deadline = deadline.max(now + Duration::from_nanos(1));
        let serial = self
            .state
            .timers
            .last_serial
            .checked_add(1)
            .ok_or(Refusal::TimersFull)?;
        let id = TimerId::new(deadline, serial);
        self.state.arm(
            id,
            Alarm {
                kind: kind.0,
                key: key.as_bytes().into(),
            },
        )?;
        self.state.timers.last_serial = serial;
        self.journal.changes.push(Undo::Disarm(id));
        Ok(id)
    }

    /// Takes an armed timer away; says whether it was still armed.
    pub fn disarm(&mut self, id: TimerId) -> bool {
        match self.state.disarm(id) {
            Some(alarm) => {
                self.journal.changes.push(Undo::Rearm(id, alarm));
                true
            }
            None => false,
        }
    }
}
