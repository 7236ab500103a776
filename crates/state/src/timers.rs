//! Timers: what is to happen when the log's time reaches a deadline.

use alloc::collections::BTreeMap;
use core::ops::Bound;

use stateplane_base::LogTime;

use crate::table::Key;

/// One armed timer. Timers fire in the order of their ids: by deadline, then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TimerId {
    deadline: LogTime,
    serial: u64,
}

impl TimerId {
    /// The id with this deadline and serial number.
    pub const fn new(deadline: LogTime, serial: u64) -> Self {
        Self { deadline, serial }
    }

    /// When it fires.
    pub const fn deadline(self) -> LogTime {
        self.deadline
    }

    /// Its number, which no other timer ever had; never zero.
    pub const fn serial(self) -> u64 {
        self.serial
    }
}

/// What a procedure's timers do: a handle given out by the registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerKind(pub(crate) u16);

/// What is to happen: which handler, for which key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Alarm {
    pub(crate) kind: u16,
    pub(crate) key: Key,
}

/// All armed timers.
#[derive(Default)]
pub(crate) struct Timers {
    armed: BTreeMap<TimerId, Alarm>,
    /// The serial number drawn last, see [`Tx::serial`](crate::Tx::serial).
    pub(crate) last_serial: u64,
}

impl Timers {
    pub(crate) fn len(&self) -> usize {
        self.armed.len()
    }

    pub(crate) fn insert(&mut self, id: TimerId, alarm: Alarm) {
        self.armed.insert(id, alarm);
    }

    pub(crate) fn remove(&mut self, id: TimerId) -> Option<Alarm> {
        self.armed.remove(&id)
    }

    /// The next timer to fire.
    pub(crate) fn first(&self) -> Option<TimerId> {
        self.armed.first_key_value().map(|(id, _)| *id)
    }

    /// The timers after one of them, in the order they fire; without one, all.
    pub(crate) fn after(&self, last: Option<TimerId>) -> impl Iterator<Item = (TimerId, &Alarm)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.armed.range((from, Bound::Unbounded));
        range.map(|(id, alarm)| (*id, alarm))
    }

    /// Forgets about `count` timers, or all; how many.
    pub(crate) fn shed(&mut self, count: usize) -> usize {
        let gone = core::iter::from_fn(|| self.armed.pop_first());
        gone.take(count).count()
    }

    /// All timers in the order they fire.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TimerId, &Alarm)> {
        self.armed.iter().map(|(id, alarm)| (*id, alarm))
    }
}
