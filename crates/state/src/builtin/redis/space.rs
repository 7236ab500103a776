//! The key space: one row for each key, and around it what must be found in other ways.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `redis.keys` | key | [`Head`], then a string's bytes, or a collection's [`Members`] or [`Ends`] |
//! | `redis.index` | hash 4, key | nothing: the order in which `SCAN` walks |
//! | `redis.expiries` | deadline 8, key | nothing: what ends next |
//! | `redis.elements` | id 8, hash 4, field | a hash's value, or nothing for a member of a set |
//! | `redis.items` | id 8, position 8 | an item of a list |
//! | `redis.garbage` | id 8 | collections that nobody can reach any more, taken away piecemeal |
//! | `redis.meta` | name | the timer of the next sweep |
//!
//! A collection's rows stand under a number of its own, so that renaming or deleting it touches one
//! row. A key past its deadline does not exist, whether it has been swept away yet or not.

use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::LogTime;
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Fault;
use crate::hash::Fingerprint;
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::Key;
use crate::table::{Ordered, Table, TableSpec};
use crate::timers::{TimerId, TimerKind};
use crate::tx::Tx;

/// Most keys, and most elements of all collections of a kind together.
const ROWS: usize = 4 << 20;
/// Collections up to this size are deleted at once.
const SMALL: u64 = 64;
/// Rows one sweep takes away; the next comes soon.
const SWEPT: usize = 256;
/// Between sweeps while there is more.
const SOON: Duration = Duration::from_millis(1);

/// What a key holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    String = 1,
    Hash = 2,
    List = 3,
    Set = 4,
}

impl Kind {
    fn of(code: u8) -> Result<Self, Fault> {
        match code {
            1 => Ok(Self::String),
            2 => Ok(Self::Hash),
            3 => Ok(Self::List),
            4 => Ok(Self::Set),
            _ => Err(Refusal::Corrupt.into()),
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
        }
    }
}

/// How a key's row begins.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Head {
    version: U64,
    /// Milliseconds of log time; zero: never.
    deadline: U64,
    kind: u8,
}

/// A hash or a set: its number and size.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Members {
    pub(super) id: U64,
    pub(super) len: U64,
}

/// A list: its number, the position of its first item, and its length. Positions wrap.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Ends {
    pub(super) id: U64,
    pub(super) head: U64,
    pub(super) len: U64,
}

/// A collection nobody can reach.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Garbage {
    kind: u8,
    ends: Ends,
}

/// The armed timer of the next sweep.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Armed {
    deadline: U64,
    serial: U64,
}

/// A key that exists.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) version: u64,
    /// Milliseconds of log time; zero: never.
    pub(super) deadline: u64,
    /// What follows the head.
    pub(super) data: &'a [u8],
}

/// Where an item of a list stands.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Place {
    pub(super) id: U64,
    pub(super) at: U64,
}

/// The tables.
#[derive(Clone, Copy)]
pub(super) struct Space {
    keys: Table<[u8], [u8]>,
    index: Table<[u8], [u8], Ordered>,
    expiries: Table<[u8], [u8], Ordered>,
    pub(super) elements: Table<[u8], [u8], Ordered>,
    pub(super) items: Table<Place, [u8]>,
    garbage: Table<U64, Garbage, Ordered>,
    meta: Table<[u8], Armed>,
}

const SWEEP: &[u8] = b"sweep";

impl Space {
    pub(super) fn register(registry: &mut Registry) -> Result<(Self, TimerKind), RegisterError> {
        let space = Self {
            keys: registry.table(TableSpec::new("redis.keys", ROWS))?,
            index: registry.ordered_table(TableSpec::new("redis.index", ROWS))?,
            expiries: registry.ordered_table(TableSpec::new("redis.expiries", ROWS))?,
            elements: registry.ordered_table(TableSpec::new("redis.elements", ROWS))?,
            items: registry.table(TableSpec::new("redis.items", ROWS))?,
            garbage: registry.ordered_table(TableSpec::new("redis.garbage", ROWS))?,
            meta: registry.table(TableSpec::new("redis.meta", 1))?,
        };
        let sweep = registry.timer("redis.sweep", move |tx, kind, _| space.sweep(tx, kind))?;
        Ok((space, sweep))
    }

    /// The key, if it exists.
    pub(super) fn find<'t>(self, tx: &'t Tx<'_>, key: &[u8]) -> Result<Option<Entry<'t>>, Fault> {
        let entry = self.row(tx, key)?;
        Ok(entry.filter(|entry| !expired(tx, entry.deadline)))
    }

    /// The key, if it exists and holds what the caller is for.
    pub(super) fn expect<'t>(
        self,
        tx: &'t Tx<'_>,
        key: &[u8],
        kind: Kind,
    ) -> Result<Option<Entry<'t>>, Fault> {
        match self.find(tx, key)? {
            Some(entry) if entry.kind != kind => Err(Fault::WRONG_TYPE),
            found => Ok(found),
        }
    }

    fn row<'t>(self, tx: &'t Tx<'_>, key: &[u8]) -> Result<Option<Entry<'t>>, Fault> {
        let Some(row) = tx.get(self.keys, key)? else {
            return Ok(None);
        };
        let (head, data) = Head::ref_from_prefix(row).map_err(|_| Refusal::Corrupt)?;
        Ok(Some(Entry {
            kind: Kind::of(head.kind)?,
            version: head.version.get(),
            deadline: head.deadline.get(),
            data,
        }))
    }

    /// Sets what a key holds, given by its parts, under a new version. What it held before is gone,
    /// unless it was the same collection.
    pub(super) fn put(
        self,
        tx: &mut Tx<'_>,
        sweep: TimerKind,
        key: &[u8],
        kind: Kind,
        deadline: u64,
        data: [&[u8]; 2],
    ) -> Result<(), Fault> {
        let before = self
            .row(tx, key)?
            .map(|old| (old.deadline, collection(old)));
        if let Some((_, Some(old))) = before
            && (old.kind != kind as u8 || !data[0].starts_with(old.ends.id.as_bytes()))
        {
            self.discard(tx, sweep, old)?;
        }
        let head = Head {
            version: tx.serial()?.into(),
            deadline: deadline.into(),
            kind: kind as u8,
        };
        let [a, b] = data;
        with_joined(head.as_bytes(), a, b, |row| tx.put(self.keys, key, row))?;
        let old_deadline = match before {
            Some((deadline, _)) => deadline,
            None => {
                tx.put(self.index, &*indexed(key), &[][..])?;
                0
            }
        };
        if old_deadline == deadline {
            return Ok(());
        }
        if old_deadline != 0 {
            tx.remove(self.expiries, &*timed(old_deadline, key));
        }
        if deadline != 0 {
            tx.put(self.expiries, &*timed(deadline, key), &[][..])?;
            self.sweep_at(tx, sweep, LogTime::from_millis(deadline))?;
        }
        Ok(())
    }

    /// Deletes a key; says whether it existed.
    pub(super) fn delete(
        self,
        tx: &mut Tx<'_>,
        sweep: TimerKind,
        key: &[u8],
    ) -> Result<bool, Fault> {
        let Some(entry) = self.row(tx, key)? else {
            return Ok(false);
        };
        let (deadline, collection) = (entry.deadline, collection(entry));
        if let Some(collection) = collection {
            self.discard(tx, sweep, collection)?;
        }
        self.unlink(tx, key, deadline);
        Ok(!expired(tx, deadline))
    }

    /// Takes a key's row away and leaves its collection, which another key now has.
    pub(super) fn unlink(self, tx: &mut Tx<'_>, key: &[u8], deadline: u64) {
        tx.remove(self.keys, key);
        tx.remove(self.index, &*indexed(key));
        if deadline != 0 {
            tx.remove(self.expiries, &*timed(deadline, key));
        }
    }

    /// Deletes everything.
    pub(super) fn flush(self, tx: &mut Tx<'_>) {
        tx.clear(self.keys);
        tx.clear(self.index);
        tx.clear(self.expiries);
        tx.clear(self.elements);
        tx.clear(self.items);
        tx.clear(self.garbage);
    }

    /// How many keys there are, with those that have ended and were not swept away yet.
    pub(super) fn len(self, tx: &Tx<'_>) -> usize {
        tx.len(self.keys)
    }

    /// How many of them end by themselves.
    pub(super) fn ending(self, tx: &Tx<'_>) -> usize {
        tx.len(self.expiries)
    }

    /// The keys from a place on in the order of the index, each with its place. Some may have ended.
    pub(super) fn walk<'t>(
        self,
        tx: &'t Tx<'_>,
        from: u32,
    ) -> impl Iterator<Item = (u32, &'t [u8])> {
        let rows = tx.scan(self.index, &from.to_be_bytes()[..]);
        rows.filter_map(|(row, _)| split_hash(row))
    }

    /// The elements of a collection from a place on, each with its place, its field and its value.
    pub(super) fn elements_of<'t>(
        self,
        tx: &'t Tx<'_>,
        id: U64,
        from: u32,
    ) -> impl Iterator<Item = (u32, &'t [u8], &'t [u8])> {
        let mut start = [0; 12];
        start[..8].copy_from_slice(id.as_bytes());
        start[8..].copy_from_slice(&from.to_be_bytes());
        let rows = tx.scan(self.elements, &start[..]);
        rows.map_while(move |(row, value)| {
            let (at, field) = split_hash(row.strip_prefix(id.as_bytes())?)?;
            Some((at, field, value))
        })
    }
}

/// Taking away what nobody can reach.
impl Space {
    /// Gets rid of a collection: at once, or little by little if it is large.
    fn discard(
        self,
        tx: &mut Tx<'_>,
        sweep: TimerKind,
        collection: Garbage,
    ) -> Result<(), Refusal> {
        if collection.ends.len.get() <= SMALL {
            self.take_away(tx, collection, SMALL as usize);
            return Ok(());
        }
        tx.put(self.garbage, &collection.ends.id, &collection)?;
        self.sweep_at(tx, sweep, tx.now() + SOON)
    }

    /// Removes at most `most` of a collection's rows; says what is left.
    fn take_away(self, tx: &mut Tx<'_>, mut rest: Garbage, most: usize) -> Option<Garbage> {
        let Ends { id, head, len } = rest.ends;
        let count = len.get().min(most as u64);
        if rest.kind == Kind::List as u8 {
            for n in 0..count {
                let at = head.get().wrapping_add(n).into();
                tx.remove(self.items, &Place { id, at });
            }
        } else {
            let rows = tx.scan(self.elements, id.as_bytes());
            let rows = rows.map(|(row, _)| row).take(count as usize);
            let rows = rows.take_while(|row| row.starts_with(id.as_bytes()));
            let rows: Vec<Key> = rows.map(Key::from).collect();
            for row in rows {
                tx.remove(self.elements, &*row);
            }
        }
        rest.ends.head = head.get().wrapping_add(count).into();
        rest.ends.len = (len.get() - count).into();
        (count < len.get()).then_some(rest)
    }

    /// Sees to it that a sweep comes at `due` or before.
    fn sweep_at(self, tx: &mut Tx<'_>, sweep: TimerKind, due: LogTime) -> Result<(), Refusal> {
        if let Some(&Armed { deadline, serial }) = tx.get(self.meta, SWEEP)? {
            let armed = LogTime::from_nanos(deadline.get());
            if tx.now() < armed && armed <= due {
                return Ok(());
            }
            tx.disarm(TimerId::new(armed, serial.get()));
        }
        let timer = tx.arm(sweep, SWEEP, due)?;
        let deadline = timer.deadline().as_nanos().into();
        let serial = timer.serial().into();
        tx.put(self.meta, SWEEP, &Armed { deadline, serial })?;
        Ok(())
    }

    /// Takes away what has ended and what nobody can reach, a little at a time.
    fn sweep(self, tx: &mut Tx<'_>, sweep: TimerKind) -> Result<(), Refusal> {
        tx.remove(self.meta, SWEEP);
        let due = tx.scan(self.expiries, &[][..]);
        let due = due.map_while(|(row, _)| split_deadline(row));
        let due = due.take_while(|(deadline, _)| expired(tx, *deadline));
        let due: Vec<Key> = due.map(|(_, key)| key.into()).take(SWEPT).collect();
        for key in &due {
            self.delete(tx, sweep, key).map_err(Fault::refusal)?;
        }
        let first = tx.scan(self.garbage, &U64::ZERO).next();
        if let Some((&id, &collection)) = first {
            match self.take_away(tx, collection, SWEPT) {
                Some(rest) => drop(tx.put(self.garbage, &id, &rest)?),
                None => drop(tx.remove(self.garbage, &id)),
            }
        }
        let next = tx.scan(self.expiries, &[][..]).next();
        let next = next.and_then(|(row, _)| split_deadline(row));
        let next = next.map(|(deadline, _)| LogTime::from_millis(deadline));
        let (now, soon) = (tx.now(), tx.now() + SOON);
        let more = tx.len(self.garbage) > 0;
        // A read from the present state counts on a timer being due when anything has ended.
        let next = next.map(|next| if next > now { next } else { soon });
        match next.into_iter().chain(more.then_some(soon)).min() {
            Some(due) => self.sweep_at(tx, sweep, due),
            None => Ok(()),
        }
    }
}

/// The log's time in milliseconds.
pub(super) fn now_ms(tx: &Tx<'_>) -> u64 {
    tx.now().as_nanos() / 1_000_000
}

fn expired(tx: &Tx<'_>, deadline: u64) -> bool {
    deadline != 0 && deadline <= now_ms(tx)
}

/// The collection an entry stands for, if it is not a string.
fn collection(entry: Entry<'_>) -> Option<Garbage> {
    let (id, rest) = U64::read_from_prefix(entry.data).ok()?;
    let ends = match entry.kind {
        Kind::String => return None,
        Kind::List => Ends::read_from_bytes(entry.data).ok()?,
        Kind::Hash | Kind::Set => Ends {
            id,
            head: U64::ZERO,
            len: U64::read_from_bytes(rest).ok()?,
        },
    };
    let kind = entry.kind as u8;
    Some(Garbage { kind, ends })
}

/// The place of a key or a field among others: any order would do that stays the same while others
/// come and go.
fn place(bytes: &[u8]) -> u32 {
    Fingerprint::new(7).bytes(bytes).finish() as u32
}

fn split_hash(row: &[u8]) -> Option<(u32, &[u8])> {
    let (at, rest) = row.split_first_chunk()?;
    Some((u32::from_be_bytes(*at), rest))
}

fn split_deadline(row: &[u8]) -> Option<(u64, &[u8])> {
    let (deadline, key) = row.split_first_chunk()?;
    Some((u64::from_be_bytes(*deadline), key))
}

fn indexed(key: &[u8]) -> Key {
    Key::join(&place(key).to_be_bytes(), key)
}

fn timed(deadline: u64, key: &[u8]) -> Key {
    Key::join(&deadline.to_be_bytes(), key)
}

/// Where a field of a collection stands.
pub(super) fn element(id: U64, field: &[u8]) -> Key {
    let mut prefix = [0; 12];
    prefix[..8].copy_from_slice(id.as_bytes());
    prefix[8..].copy_from_slice(&place(field).to_be_bytes());
    Key::join(&prefix, field)
}

/// Hands three strings in one piece to `with`; short ones without an allocation.
fn with_joined<R>(a: &[u8], b: &[u8], c: &[u8], with: impl FnOnce(&[u8]) -> R) -> R {
    const SHORT: usize = 96;
    let (ab, abc) = (a.len() + b.len(), a.len() + b.len() + c.len());
    if abc <= SHORT {
        let mut row = [0; SHORT];
        row[..a.len()].copy_from_slice(a);
        row[a.len()..ab].copy_from_slice(b);
        row[ab..abc].copy_from_slice(c);
        with(&row[..abc])
    } else {
        with(&[a, b, c].concat())
    }
}
