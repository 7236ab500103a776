//! The store's data: every change goes through here, so that digest and sizes stay true.

use alloc::vec::Vec;
use core::mem;

use stateplane_base::LogTime;

use crate::cut::Cut;
use crate::hash::{Fingerprint, Seed};
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::rows::{Rows, Slot, Sought};
use crate::table::{Key, Value};
use crate::timers::{Alarm, TimerId, Timers};
use crate::waste::Waste;

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
    /// They are a cut's as well.
    cut: bool,
}

/// What a table is to be, as the registry knows it.
#[derive(Clone, Copy)]
pub(crate) struct TableShape {
    pub(crate) name: &'static str,
    pub(crate) ordered: bool,
    pub(crate) max_rows: usize,
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
    /// The state at an earlier moment, while it is collected for a snapshot.
    pub(crate) cut: Option<Cut>,
    /// What nobody needs any more.
    pub(crate) waste: Waste,
}

impl State {
    pub(crate) fn new(shapes: &[TableShape], limits: Limits, seed: Seed) -> Self {
        let table = |shape: &TableShape| {
            let max_rows = shape.max_rows.min(limits.rows);
            TableState {
                name: shape.name,
                max_rows,
                rows: Rows::new(shape.ordered, seed),
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
            cut: None,
            waste: Waste::default(),
        }
    }

    /// A key as it is sought in a table.
    pub(crate) fn sought<'a>(&self, table: u16, key: &'a [u8]) -> Sought<'a> {
        self.tables[usize::from(table)].rows.sought(key)
    }

    pub(crate) fn get(&self, table: u16, at: Sought<'_>) -> Option<&[u8]> {
        self.tables[usize::from(table)].rows.get(at)
    }

    /// Sets a row within the limits; the value it had before comes back.
    pub(crate) fn put(
        &mut self,
        table: u16,
        at: Sought<'_>,
        value: &[u8],
    ) -> Result<Option<Value>, Refusal> {
        let key = at.key;
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
        let (index, table) = (table, &mut self.tables[usize::from(table)]);
        if let Some(cut) = &mut self.cut {
            cut.before_change(index, &table.rows, at);
        }
        let may_split = !self.cut.as_ref().is_some_and(Cut::is_collecting);
        let full = table.rows.len() >= table.max_rows;
        let new = table.tag.bytes(key).bytes(value).finish();
        let (old, grown, gone) = match table.rows.slot(at) {
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
                table.rows.grown(may_split);
                (None, cost, 0)
            }
        };
        table.bytes = table.bytes + grown - gone;
        table.sum = table.sum.wrapping_add(new);
        self.bytes = self.bytes + grown - gone;
        self.sum = self.sum.wrapping_add(new);
        Ok(old)
    }

    pub(crate) fn remove(&mut self, table: u16, at: Sought<'_>) -> Option<(Key, Value)> {
        let (index, table) = (table, &mut self.tables[usize::from(table)]);
        if let Some(cut) = &mut self.cut {
            cut.before_change(index, &table.rows, at);
        }
        let (key, value) = table.rows.remove(at)?;
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
        let cut = self.cut.as_mut().is_some_and(|cut| cut.cleared(table));
        let table = &mut self.tables[usize::from(table)];
        let rows = table.rows.emptied();
        let cleared = Cleared {
            cut,
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
        if let Some(cut) = self.cut.as_mut().filter(|_| cleared.cut) {
            cut.refilled(table);
        }
        let table = &mut self.tables[usize::from(table)];
        assert_eq!(table.rows.len(), 0, "rows set since were removed first");
        self.bytes += cleared.bytes;
        self.sum = self.sum.wrapping_add(cleared.sum);
        table.rows = cleared.rows;
        table.bytes = cleared.bytes;
        table.sum = cleared.sum;
    }

    /// What [`Self::clear`] took out does not come back.
    pub(crate) fn bury(&mut self, table: u16, cleared: Cleared) {
        match self.cut.as_mut().filter(|_| cleared.cut) {
            Some(cut) => cut.keep(table, cleared.rows),
            None => self.waste.rows.push(cleared.rows),
        }
    }

    /// Collects some rows for the cut; how many, or none if it has all.
    pub(crate) fn collect(&mut self) -> Option<usize> {
        let cut = self.cut.as_mut().filter(|cut| cut.is_collecting())?;
        Some(cut.collect(&self.tables, &self.timers, &mut self.waste))
    }

    /// Gives up everything, to be freed by and by.
    pub(crate) fn into_waste(self) -> Waste {
        let mut waste = self.waste;
        waste
            .rows
            .extend(self.tables.into_iter().map(|table| table.rows));
        waste.timers.push(self.timers);
        waste
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
        if let Some(cut) = &mut self.cut {
            cut.before_arm(id);
        }
        self.timers.insert(id, alarm);
        Ok(())
    }

    pub(crate) fn disarm(&mut self, id: TimerId) -> Option<Alarm> {
        let alarm = self.timers.remove(id)?;
        if let Some(cut) = &mut self.cut {
            cut.after_disarm(id, &alarm);
        }
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
