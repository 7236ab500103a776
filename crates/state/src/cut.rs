//! A cut: the state as it was between two operations, collected piece by piece while it goes on.
//!
//! A cursor walks over the tables, part by part or key by key, and then over the timers. Whoever
//! changes a row that the cursor has not reached sets its old version *aside* first; the cursor
//! takes that one. A row is thus collected as it was at the cut, whenever its turn comes, and what
//! is collected depends on nothing that happened since.
//!
//! Rows of hash tables come in no order, and a snapshot has them in the order of their keys. They
//! are dealt onto *piles*, one for each range of keys between two of a sample of them; a pile is
//! small enough to be sorted at once when its turn comes to be written.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::mem;
use core::ops::Bound;

use stateplane_base::LogTime;

use crate::rows::{Parts, Rows, Sought};
use crate::snapshot::{append_row, append_timer};
use crate::state::TableState;
use crate::table::{Key, Value};
use crate::timers::{Alarm, TimerId, Timers};
use crate::waste::Waste;

/// A longer row counts as several.
pub(crate) const ROW_BYTES: usize = 1024;
/// Rows of an ordered table, or timers, collected at once.
const BATCH: usize = 512;
/// Rows of one pile, on average, as long as there are not too many piles.
const PILE: usize = 512;
/// Piles of one table.
const MAX_PILES: usize = 2048;
/// Keys looked at for each pile: enough that none grows much larger than the others.
const SAMPLE: usize = 4;
/// Versions set aside before whoever changes a row has to help collecting.
const MOST_ASIDE: usize = 1 << 16;

/// Rows on their way into the snapshot, encoded.
#[derive(Default)]
pub(crate) struct Pile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) rows: usize,
}

/// Where a table's rows are found.
enum Source {
    /// In the table.
    Live,
    /// The running transaction has cleared the table.
    Cleared,
    /// The table was cleared since.
    Kept(Rows),
}

/// What is collected of one table.
struct Collected {
    rows: usize,
    source: Source,
    /// The keys at which a pile ends and the next begins.
    splitters: Vec<Key>,
    piles: VecDeque<Pile>,
}

/// The state at one moment.
pub(crate) struct Cut {
    pub(crate) now: LogTime,
    pub(crate) last_serial: u64,
    timers: usize,
    tables: Vec<Collected>,
    timer_piles: VecDeque<Pile>,
    cursor: Cursor,
    /// By table, part and key: what a row was that is not collected yet; `None`: not there.
    aside: BTreeMap<(u16, usize, Key), Option<Value>>,
    aside_timers: BTreeMap<TimerId, Alarm>,
}

/// What is collected next. Tables come first, then the timers.
#[derive(Default)]
struct Cursor {
    table: usize,
    part: usize,
    /// In an ordered table: the last key collected.
    key: Option<Key>,
    timer: Option<TimerId>,
    done: bool,
}

impl Cut {
    /// Cuts here and now. Takes a moment for the sample of each table's keys.
    pub(crate) fn new(now: LogTime, tables: &[TableState], timers: &Timers) -> Self {
        let tables = tables.iter().map(|table| Collected {
            rows: table.rows.len(),
            source: Source::Live,
            splitters: splitters(&table.rows),
            piles: VecDeque::new(),
        });
        let mut cut = Self {
            now,
            last_serial: timers.last_serial,
            timers: timers.len(),
            tables: tables.collect(),
            timer_piles: VecDeque::new(),
            cursor: Cursor::default(),
            aside: BTreeMap::new(),
            aside_timers: BTreeMap::new(),
        };
        for table in &mut cut.tables {
            let piles = table.splitters.len() + 1;
            table.piles.resize_with(piles, Pile::default);
        }
        cut
    }

    /// Whether rows still have to be collected.
    pub(crate) const fn is_collecting(&self) -> bool {
        !self.cursor.done
    }

    /// Whether so much is set aside that collecting has to hurry.
    pub(crate) fn presses(&self) -> bool {
        self.aside.len() + self.aside_timers.len() > MOST_ASIDE
    }

    /// A row is about to change.
    pub(crate) fn before_change(&mut self, table: u16, rows: &Rows, at: Sought<'_>) {
        let key = at.key;
        let (index, cursor) = (usize::from(table), &self.cursor);
        if cursor.done || index < cursor.table || !matches!(self.tables[index].source, Source::Live)
        {
            return;
        }
        let here = index == cursor.table;
        let part = match rows {
            Rows::Hashed(parts) => {
                let part = parts.of_key(at);
                if here && part < cursor.part {
                    return;
                }
                part
            }
            Rows::Ordered(_) => {
                if here && cursor.key.as_deref().is_some_and(|last| key <= last) {
                    return;
                }
                0
            }
        };
        self.aside
            .entry((table, part, key.into()))
            .or_insert_with(|| rows.get(at).map(Into::into));
    }

    /// A timer is about to be armed: it is new, or an undone transaction had taken it away.
    pub(crate) fn before_arm(&mut self, id: TimerId) {
        self.aside_timers.remove(&id);
    }

    /// A timer was taken away.
    pub(crate) fn after_disarm(&mut self, id: TimerId, alarm: &Alarm) {
        let ahead = self.cursor.timer.is_none_or(|last| id > last);
        if self.is_collecting() && ahead && id.serial() <= self.last_serial {
            self.aside_timers.insert(id, alarm.clone());
        }
    }

    /// A transaction takes all rows out of a table. Says whether they are the cut's: then they
    /// come back by [`Self::refilled`] or [`Self::keep`].
    pub(crate) fn cleared(&mut self, table: u16) -> bool {
        let collected = &mut self.tables[usize::from(table)];
        let wanted = !self.cursor.done && usize::from(table) >= self.cursor.table;
        let live = matches!(collected.source, Source::Live);
        if wanted && live {
            collected.source = Source::Cleared;
        }
        wanted && live
    }

    /// The clearing was undone.
    pub(crate) fn refilled(&mut self, table: u16) {
        self.tables[usize::from(table)].source = Source::Live;
    }

    /// The clearing is final: the rows are needed here only.
    pub(crate) fn keep(&mut self, table: u16, rows: Rows) {
        self.tables[usize::from(table)].source = Source::Kept(rows);
    }

    /// Collects the next few rows; how many it looked at. A table that was kept for the cut and
    /// is collected goes to `waste`.
    pub(crate) fn collect(
        &mut self,
        tables: &[TableState],
        timers: &Timers,
        waste: &mut Waste,
    ) -> usize {
        let index = self.cursor.table;
        let Some(collected) = self.tables.get_mut(index) else {
            return self.collect_timers(timers);
        };
        let rows = match &collected.source {
            Source::Live => &tables[index].rows,
            Source::Kept(rows) => rows,
            Source::Cleared => unreachable!("nothing is collected within a transaction"),
        };
        let table = index as u16;
        let (aside, cursor) = (&mut self.aside, &mut self.cursor);
        let (seen, complete) = match rows {
            Rows::Hashed(parts) => {
                let old = take_aside(aside, |at| at.0 == table && at.1 == cursor.part);
                let seen = deal(
                    parts,
                    cursor.part,
                    &old,
                    &collected.splitters,
                    &mut collected.piles,
                );
                cursor.part += 1;
                (seen, cursor.part >= parts.count())
            }
            Rows::Ordered(rows) => {
                let from = match &cursor.key {
                    Some(key) => Bound::Excluded(key.clone()),
                    None => Bound::Unbounded,
                };
                let batch: Vec<(&Key, &Value)> =
                    rows.range((from, Bound::Unbounded)).take(BATCH).collect();
                let last = batch
                    .last()
                    .filter(|_| batch.len() == BATCH)
                    .map(|row| row.0);
                let old = take_aside(aside, |at| {
                    at.0 == table && last.is_none_or(|last| at.2 <= *last)
                });
                let mut pile = Pile::default();
                pile.add(batch.iter().copied(), &old);
                let seen = pile.rows.max(batch.len()) + pile.bytes.len() / ROW_BYTES;
                let complete = last.is_none();
                cursor.key = last.cloned();
                collected.piles.push_back(pile);
                (seen, complete)
            }
        };
        if complete {
            if let Source::Kept(rows) = mem::replace(&mut collected.source, Source::Cleared) {
                waste.rows.push(rows);
            }
            self.cursor = Cursor {
                table: index + 1,
                ..Cursor::default()
            };
        }
        seen.max(1)
    }

    fn collect_timers(&mut self, timers: &Timers) -> usize {
        let batch: Vec<(TimerId, &Alarm)> = timers.after(self.cursor.timer).take(BATCH).collect();
        let last = batch
            .last()
            .filter(|_| batch.len() == BATCH)
            .map(|timer| timer.0);
        let mut due: Vec<(TimerId, Alarm)> = Vec::with_capacity(batch.len());
        let young = |id: &TimerId| id.serial() > self.last_serial;
        due.extend(
            batch
                .iter()
                .filter(|(id, _)| !young(id))
                .map(|(id, alarm)| (*id, (*alarm).clone())),
        );
        while let Some(first) = self.aside_timers.first_entry() {
            if last.is_some_and(|last| *first.key() > last) {
                break;
            }
            due.push(first.remove_entry());
        }
        due.sort_unstable_by_key(|(id, _)| *id);
        let mut pile = Pile::default();
        for (id, alarm) in &due {
            append_timer(&mut pile.bytes, *id, alarm);
        }
        pile.rows = due.len();
        self.timer_piles.push_back(pile);
        self.cursor.timer = last;
        self.cursor.done = last.is_none();
        batch.len().max(due.len()).max(1)
    }

    /// How many rows table `index` has in the snapshot, if there is such a table.
    pub(crate) fn rows(&self, index: usize) -> Option<usize> {
        self.tables.get(index).map(|table| table.rows)
    }

    /// How many timers the snapshot has.
    pub(crate) const fn timers(&self) -> usize {
        self.timers
    }

    /// The next pile of a table, once all is collected.
    pub(crate) fn next_pile(&mut self, table: usize) -> Option<Pile> {
        self.tables[table].piles.pop_front()
    }

    /// The next pile of timers, once all is collected. They are in order.
    pub(crate) fn next_timers(&mut self) -> Option<Pile> {
        self.timer_piles.pop_front()
    }
}

/// Old versions of the rows that are collected now, by key. The cursor meets them in this order.
type Old = Vec<(Key, Option<Value>)>;

fn take_aside(
    aside: &mut BTreeMap<(u16, usize, Key), Option<Value>>,
    wanted: impl Fn(&(u16, usize, Key)) -> bool,
) -> Old {
    let mut old = Vec::new();
    while let Some(first) = aside.first_entry() {
        if !wanted(first.key()) {
            break;
        }
        let ((_, _, key), value) = first.remove_entry();
        old.push((key, value));
    }
    old
}

fn changed(old: &Old, key: &Key) -> bool {
    old.binary_search_by(|(other, _)| other.cmp(key)).is_ok()
}

/// Deals the rows of one part onto the piles their keys belong to; how many there are.
fn deal(
    parts: &Parts,
    part: usize,
    old: &Old,
    splitters: &[Key],
    piles: &mut VecDeque<Pile>,
) -> usize {
    let mut seen = 0;
    let mut add = |key: &Key, value: &Value| {
        let pile = splitters.partition_point(|splitter| splitter <= key);
        piles[pile].push(key, value);
        seen += 1 + value.len() / ROW_BYTES;
    };
    for (key, value) in parts.part(part) {
        if old.is_empty() || !changed(old, key) {
            add(key, value);
        }
    }
    for (key, value) in old {
        if let Some(value) = value {
            add(key, value);
        }
    }
    seen
}

impl Pile {
    fn push(&mut self, key: &Key, value: &Value) {
        append_row(&mut self.bytes, key, value);
        self.rows += 1;
    }

    /// Adds rows, in their old versions where there are such.
    fn add<'a>(&mut self, rows: impl Iterator<Item = (&'a Key, &'a Value)>, old: &Old) {
        for (key, value) in rows {
            if old.is_empty() || !changed(old, key) {
                self.push(key, value);
            }
        }
        for (key, value) in old {
            if let Some(value) = value {
                self.push(key, value);
            }
        }
    }
}

/// Keys that divide a table's rows into ranges of about one pile each. Which they are is different
/// on each replica, and nothing but the piles depends on it. An ordered table needs none.
fn splitters(rows: &Rows) -> Vec<Key> {
    let Rows::Hashed(parts) = rows else {
        return Vec::new();
    };
    let piles = (rows.len() / PILE).min(MAX_PILES);
    if piles < 2 {
        return Vec::new();
    }
    let each = (piles * SAMPLE).div_ceil(parts.count());
    let all = 0..parts.count();
    let mut sample: Vec<&Key> = all
        .flat_map(|part| parts.part(part).take(each).map(|row| row.0))
        .collect();
    sample.sort_unstable();
    let every = sample.len().div_ceil(piles).max(1);
    sample.into_iter().step_by(every).skip(1).cloned().collect()
}
