//! The store's data: every change goes through here, so that digest and sizes stay true.

use alloc::vec::Vec;
use core::mem;

use stateplane_base::LogTime;

use crate::hash::{Fingerprint, Seed};
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::table::{Key, Rows, Slot, Value};
use crate::timers::{Alarm, TimerId, Timers};

/// One table's rows and sizes.
pub(crate) struct TableState {
    pub(crate) name: &'static str,
    pub(crate) max_rows: usize,
    pub(crate) rows: Rows,
    pub(crate) bytes: usize,
    /// Its share of [`State::sum`].
    sum: u64,
    /// Begins the fingerprint of each of its rows.
    tag: Fingerprint,
}

/// What a table held before it was cleared.
pub(crate) struct Cleared {
    rows: Rows,
    bytes: usize,
    sum: u64,
}

/// What a table is to be, as the registry knows it.
#[derive(Clone, Copy)]
pub(crate) struct TableShape {
    pub(crate) name: &'static str,
    pub(crate) ordered: bool,
    pub(crate) max_rows: usize,
    pub(crate) reserve: usize,
}

/// All data of a store.
pub(crate) struct State {
    pub(crate) now: LogTime,
    pub(crate) tables: Vec<TableState>,
    pub(crate) timers: Timers,
    pub(crate) limits: Limits,
    /// Bytes of all tables and timers, see [`Limits::memory_bytes`].
    pub(crate) bytes: usize,
    /// Sum of the fingerprints of all rows and timers: the same whatever order they came in.
    sum: u64,
}

impl State {
    pub(crate) fn new(shapes: &[TableShape], limits: Limits, seed: Seed) -> Self {
        let table = |shape: &TableShape| {
            let max_rows = shape.max_rows.min(limits.rows);
            TableState {
                name: shape.name,
                max_rows,
                rows: Rows::new(shape.ordered, shape.reserve.min(max_rows), seed),
                bytes: 0,
                sum: 0,
                tag: Fingerprint::new(1).bytes(shape.name.as_bytes()),
            }
        };
        Self {
            now: LogTime::ZERO,
            tables: shapes.iter().map(table).collect(),
            timers: Timers::default(),
            limits,
            bytes: 0,
            sum: 0,
        }
    }

    pub(crate) fn get(&self, table: u16, key: &[u8]) -> Option<&[u8]> {
        self.tables[usize::from(table)].rows.get(key)
    }

    /// Sets a row within the limits; the value it had before comes back.
    pub(crate) fn put(
        &mut self,
        table: u16,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<Value>, Refusal> {
        let (limits, spare) = (
            &self.limits,
            self.limits.memory_bytes.saturating_sub(self.bytes),
        );
        if key.len() > limits.key_bytes {
            return Err(Refusal::KeyTooLarge);
        }
        if value.len() > limits.value_bytes {
            return Err(Refusal::ValueTooLarge);
        }
        let table = &mut self.tables[usize::from(table)];
        let full = table.rows.len() >= table.max_rows;
        let new = table.tag.bytes(key).bytes(value).finish();
        let (old, grown, gone) = match table.rows.slot(key) {
            Slot::Used(row) => {
                if value.len() > row.len() && value.len() - row.len() > spare {
                    return Err(Refusal::MemoryFull);
                }
                let hash = table.tag.bytes(key).bytes(row).finish();
                table.sum = table.sum.wrapping_sub(hash);
                self.sum = self.sum.wrapping_sub(hash);
                let old = mem::replace(row, value.into());
                let gone = old.len();
                (Some(old), value.len(), gone)
            }
            Slot::Free(slot) => {
                let cost = key.len() + value.len() + Limits::ROW_COST;
                if full {
                    return Err(Refusal::TableFull);
                }
                if cost > spare {
                    return Err(Refusal::MemoryFull);
                }
                slot.fill(value.into());
                (None, cost, 0)
            }
        };
        table.bytes = table.bytes + grown - gone;
        table.sum = table.sum.wrapping_add(new);
        self.bytes = self.bytes + grown - gone;
        self.sum = self.sum.wrapping_add(new);
        Ok(old)
    }

    pub(crate) fn remove(&mut self, table: u16, key: &[u8]) -> Option<(Key, Value)> {
        let table = &mut self.tables[usize::from(table)];
        let (key, value) = table.rows.remove(key)?;
        let cost = key.len() + value.len() + Limits::ROW_COST;
        table.bytes -= cost;
        self.bytes -= cost;
        let hash = table.tag.bytes(&key).bytes(&value).finish();
        table.sum = table.sum.wrapping_sub(hash);
        self.sum = self.sum.wrapping_sub(hash);
        Some((key, value))
    }

    /// Takes all rows of a table out at once, whatever their number.
    pub(crate) fn clear(&mut self, table: u16) -> Cleared {
        let table = &mut self.tables[usize::from(table)];
        let rows = table.rows.emptied();
        let cleared = Cleared {
            rows: mem::replace(&mut table.rows, rows),
            bytes: mem::take(&mut table.bytes),
            sum: mem::take(&mut table.sum),
        };
        self.bytes -= cleared.bytes;
        self.sum = self.sum.wrapping_sub(cleared.sum);
        cleared
    }

    /// Puts back what [`Self::clear`] took out of a table that is empty again.
    pub(crate) fn refill(&mut self, table: u16, cleared: Cleared) {
        let table = &mut self.tables[usize::from(table)];
        assert_eq!(table.rows.len(), 0, "rows set since were removed first");
        self.bytes += cleared.bytes;
        self.sum = self.sum.wrapping_add(cleared.sum);
        table.rows = cleared.rows;
        table.bytes = cleared.bytes;
        table.sum = cleared.sum;
    }

    /// Arms a timer within the limits.
    pub(crate) fn arm(&mut self, id: TimerId, alarm: Alarm) -> Result<(), Refusal> {
        let cost = alarm.key.len() + Limits::ROW_COST;
        if alarm.key.len() > self.limits.key_bytes {
            return Err(Refusal::KeyTooLarge);
        }
        if self.timers.len() >= self.limits.timers {
            return Err(Refusal::TimersFull);
        }
        if cost > self.limits.memory_bytes.saturating_sub(self.bytes) {
            return Err(Refusal::MemoryFull);
        }
        self.bytes += cost;
        self.sum = self.sum.wrapping_add(timer_hash(id, &alarm));
        self.timers.insert(id, alarm);
        Ok(())
    }

    pub(crate) fn disarm(&mut self, id: TimerId) -> Option<Alarm> {
        let alarm = self.timers.remove(id)?;
        self.bytes -= alarm.key.len() + Limits::ROW_COST;
        self.sum = self.sum.wrapping_sub(timer_hash(id, &alarm));
        Some(alarm)
    }

    pub(crate) fn digest(&self) -> u64 {
        Fingerprint::new(3)
            .number(self.sum)
            .number(self.now.as_nanos())
            .number(self.timers.last_serial)
            .finish()
    }

    /// Asserts that sums and sizes, kept up to date change by change, are those of the data.
    pub(crate) fn check(&self) {
        let (mut sum, mut bytes) = (0u64, 0);
        for table in &self.tables {
            let rows = table.rows.sorted();
            assert!(
                rows.len() <= table.max_rows,
                "{} has too many rows",
                table.name
            );
            let cost = |row: &(&[u8], &[u8])| row.0.len() + row.1.len() + Limits::ROW_COST;
            assert_eq!(
                table.bytes,
                rows.iter().map(cost).sum(),
                "size of {}",
                table.name
            );
            bytes += table.bytes;
            let own = rows.iter().fold(0u64, |own, (key, value)| {
                own.wrapping_add(table.tag.bytes(key).bytes(value).finish())
            });
            assert_eq!(table.sum, own, "sum of {}", table.name);
            sum = sum.wrapping_add(own);
        }
        for (id, alarm) in self.timers.iter() {
            assert!(
                id.deadline() > self.now,
                "a timer of the past is still armed"
            );
            assert!(
                id.serial() <= self.timers.last_serial,
                "a timer of the future"
            );
            bytes += alarm.key.len() + Limits::ROW_COST;
            sum = sum.wrapping_add(timer_hash(id, alarm));
        }
        assert_eq!(self.bytes, bytes, "size of the store");
        assert_eq!(self.sum, sum, "sum of the fingerprints");
    }
}

fn timer_hash(id: TimerId, alarm: &Alarm) -> u64 {
    Fingerprint::new(2)
        .number(id.deadline().as_nanos())
        .number(id.serial())
        .number(u64::from(alarm.kind))
        .bytes(&alarm.key)
        .finish()
}
