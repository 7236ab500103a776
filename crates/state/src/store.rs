//! The store: the sequential machine that a group replicates and an embedded user calls.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use stateplane_base::LogTime;

use crate::application::{Application, SnapshotError};
use crate::cut::Cut;
use crate::feed::{Change, Feed, Walk};
use crate::hash::Seed;
use crate::limits::Limits;
use crate::op;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::snapshot::{self, Incoming, Outgoing};
use crate::state::State;
use crate::timers::TimerKind;
use crate::tx::Journal;

/// Tables, timers and procedures, driven by operations and the times stamped on them.
pub struct Store {
    registry: Arc<Registry>,
    /// The registry's.
    fingerprint: u64,
    state: State,
    journal: Journal,
    seed: Seed,
    tally: Tally,
    outgoing: Outgoing,
    /// If somebody keeps copies of tables.
    feed: Option<Feed>,
}

/// What a store has done since it was made. Not part of its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Operations executed.
    pub executed: u64,
    /// Operations refused.
    pub refused: u64,
    /// Timers fired.
    pub fired: u64,
    /// Timers whose handler refused.
    pub misfired: u64,
}

/// One table, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSummary {
    /// Its name.
    pub name: &'static str,
    /// Rows it has.
    pub rows: usize,
    /// Rows it may have.
    pub max_rows: usize,
    /// Bytes of its rows, about.
    pub bytes: usize,
}

/// A store's figures besides its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreSummary {
    /// The log's time.
    pub now: LogTime,
    /// Timers armed.
    pub timers: usize,
    /// Timers that may be armed.
    pub max_timers: usize,
    /// Bytes of all rows and timers, about.
    pub bytes: usize,
    /// Bytes they may have.
    pub max_bytes: usize,
    /// What it has done.
    pub tally: Tally,
}

impl Store {
    /// An empty store.
    pub fn new(registry: impl Into<Arc<Registry>>, limits: Limits) -> Self {
        Self::with_seed(registry, limits, [0; 2])
    }

    /// An empty store whose hash tables are placed by a secret, so that who chooses keys cannot
    /// choose collisions. Nothing a store answers depends on it, replicas may have different ones.
    /// Stores of one process may share their registry.
    pub fn with_seed(registry: impl Into<Arc<Registry>>, limits: Limits, seed: [u64; 2]) -> Self {
        let (registry, seed) = (registry.into(), Seed(seed[0], seed[1]));
        let limits = limits.encodable();
        let state = State::new(registry.tables(), limits, seed);
        Self {
            fingerprint: registry.fingerprint(),
            registry,
            state,
            journal: Journal::default(),
            seed,
            tally: Tally::default(),
            outgoing: Outgoing::default(),
            feed: None,
        }
    }

    /// The log's time: that of the last operation.
    pub fn now(&self) -> LogTime {
        self.state.now
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<LogTime> {
        Some(self.state.timers.first()?.deadline())
    }

    /// See [`Registry::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Each table, in the order registered.
    pub fn summary(&self) -> Vec<TableSummary> {
        let tables = self.state.tables.iter();
        tables
            .map(|table| TableSummary {
                name: table.name,
                rows: table.rows.len(),
                max_rows: table.max_rows,
                bytes: table.bytes,
            })
            .collect()
    }

    /// The figures besides the tables.
    pub fn totals(&self) -> StoreSummary {
        StoreSummary {
            now: self.state.now,
            timers: self.state.timers.len(),
            max_timers: self.state.limits.timers,
            bytes: self.state.bytes,
            max_bytes: self.state.limits.memory_bytes,
            tally: self.tally,
        }
    }

    /// Asserts what must always hold. Slow: reads everything.
    pub fn check(&self) {
        self.state.check();
    }

    /// Notes from now on what changes in these tables, for [`Settled`](crate::settled::Settled).
    /// Fails with the first name that no table has.
    pub fn share<'a>(&mut self, names: &[&'a str]) -> Result<(), &'a str> {
        let find = |name: &&'a str| {
            let mut tables = (0u16..).zip(&self.state.tables);
            let found = tables.find(|(_, table)| table.name == *name);
            found.map(|(index, _)| index).ok_or(*name)
        };
        let tables = names.iter().map(find).collect::<Result<Vec<u16>, _>>()?;
        self.feed = Some(Feed::new(tables));
        Ok(())
    }

    /// Whether the shared tables have to be taken anew; asked once.
    pub(crate) fn take_replaced(&mut self) -> bool {
        let feed = self.feed.as_mut();
        feed.is_some_and(|feed| mem::take(&mut feed.replaced))
    }

    /// What changed in the shared tables since, to be drained.
    pub(crate) fn changes(&mut self) -> Option<&mut Vec<Change>> {
        self.feed.as_mut().map(|feed| &mut feed.changes)
    }

    /// Hands out some rows of the shared tables; how many, or none at the end.
    pub(crate) fn page(
        &self,
        walk: &mut Walk,
        each: impl FnMut(usize, &[u8], &[u8]),
    ) -> Option<usize> {
        self.feed.as_ref()?.page(&self.state, walk, each)
    }

    fn commit(&mut self) {
        if let Some(feed) = &mut self.feed {
            feed.note(&self.journal, &self.state);
        }
        self.journal.commit(&mut self.state);
    }

    /// Fires the timers due at or before `at`, each at its own deadline: what they do does not
    /// depend on when the next operation happens to come.
    fn fire_until(&mut self, at: LogTime) {
        while let Some(id) = self.state.timers.first().filter(|id| id.deadline() <= at) {
            let alarm = self.state.disarm(id).expect("the first timer is armed");
            self.state.now = id.deadline();
            let handler = self.registry.handler(alarm.kind);
            self.tally.fired += 1;
            let mut tx = self.journal.begin(&mut self.state);
            match handler(&mut tx, TimerKind(alarm.kind), &alarm.key) {
                Ok(()) => self.commit(),
                Err(_) => {
                    self.journal.undo(&mut self.state);
                    self.tally.misfired += 1;
                }
            }
        }
        self.state.now = at;
    }

    /// Appends the next rows of the snapshot; how many, or none when it is complete.
    fn write_snapshot(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        let cut = self.state.cut.as_mut()?;
        let written = self.outgoing.write(cut, self.fingerprint, out);
        if written.is_none() {
            self.state.cut = None;
        }
        written
    }

    fn call(&mut self, op: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let limits = self.state.limits;
        if op.len() > limits.op_bytes {
            return Err(Refusal::OpTooLarge);
        }
        let (id, arguments) = op::decode(op).ok_or(Refusal::BadArguments)?;
        let procedure = self
            .registry
            .procedure(id)
            .ok_or(Refusal::UnknownProcedure)?;
        procedure(&mut self.journal.begin(&mut self.state), arguments, reply)?;
        if reply.len() > limits.reply_bytes {
            return Err(Refusal::ReplyTooLarge);
        }
        Ok(())
    }
}

impl Application for Store {
    type Incoming = Incoming;

    fn execute(&mut self, at: LogTime, op: &[u8], reply: &mut Vec<u8>) {
        if self.state.cut.as_ref().is_some_and(Cut::presses) {
            self.state.collect();
        }
        // A time before the last one (a sequencer's clock was set back) stands still instead.
        self.fire_until(at.max(self.state.now));
        reply.clear();
        reply.push(op::OK);
        self.tally.executed += 1;
        match self.call(op, reply) {
            Ok(()) => self.commit(),
            Err(refusal) => {
                self.journal.undo(&mut self.state);
                reply.clear();
                reply.push(refusal.code());
                self.tally.refused += 1;
            }
        }
    }

    fn read(&mut self, clock: LogTime, op: &[u8], reply: &mut Vec<u8>) -> bool {
        if self.next_timer().is_some_and(|due| due <= clock) {
            return false;
        }
        reply.clear();
        reply.push(op::OK);
        let outcome = self.call(op, reply);
        let wrote = self.journal.wrote(&self.state);
        self.journal.undo(&mut self.state);
        if let Some(refusal) = outcome.err().or(wrote.then_some(Refusal::NotARead)) {
            reply.clear();
            reply.push(refusal.code());
        }
        true
    }

    fn snapshot(&self) -> Vec<u8> {
        snapshot::encode(&self.state, self.fingerprint)
    }

    fn begin_snapshot(&mut self) -> u64 {
        let state = &mut self.state;
        state.cut = Some(Cut::new(state.now, &state.tables, &state.timers));
        self.outgoing = Outgoing::default();
        snapshot::size(state) as u64
    }

    fn continue_snapshot(&mut self, rows: usize, out: &mut Vec<u8>) -> bool {
        let mut left = rows;
        while left > 0 {
            let done = match self.state.collect() {
                Some(done) => done,
                None => match self.write_snapshot(out) {
                    Some(done) => done,
                    None => return true,
                },
            };
            left = left.saturating_sub(done);
        }
        false
    }

    fn abandon_snapshot(&mut self) {
        self.state.cut = None;
    }

    fn incoming(&self) -> Incoming {
        let empty = State::new(self.registry.tables(), self.state.limits, self.seed);
        let kinds = self.registry.timer_kinds();
        Incoming::new(empty, self.fingerprint, kinds)
    }

    fn take(incoming: &mut Incoming, piece: &[u8]) -> Result<(), SnapshotError> {
        incoming.take(piece)
    }

    fn install(&mut self, incoming: Incoming) -> Result<(), SnapshotError> {
        let former = mem::replace(&mut self.state, incoming.finish()?);
        self.state.waste.append(former.into_waste());
        if let Some(feed) = &mut self.feed {
            feed.replace();
        }
        Ok(())
    }

    fn tidy(&mut self, rows: usize) -> bool {
        self.state.waste.shed(rows)
    }

    fn digest(&self) -> u64 {
        self.state.digest()
    }
}
