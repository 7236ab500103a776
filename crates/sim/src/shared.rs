//! Copies of the replicas' tables, as readers on their machines would see them: what is shown is
//! final, and the same wherever it is shown.
use crate::dice::{fold, fold_word};
use stateplane_group::Progress;
use stateplane_state::Store;
use stateplane_state::settled::{Image, Position, Settled};
use std::collections::{BTreeMap, VecDeque};

/// The tables that are looked at: hashed and ordered ones, with and without timers.
const TABLES: [&str; 3] = ["kv.rows", "counter.values", "queue.items"];
/// Rows taken in one step: so few that copying lasts through elections and snapshots.
const ROWS: usize = 3;

/// One replica's copy.
pub(crate) struct Shared {
    settled: Settled,
    image: Tables,
    /// After which slot how many operations were executed, as long as that is held back; in
    /// the order of slots.
    counts: VecDeque<(u64, usize)>,
}

/// The tables, and a fingerprint of them that does not depend on the order of changes.
#[derive(Default)]
struct Tables {
    rows: BTreeMap<(usize, Vec<u8>), u64>,
    sum: u64,
    shown: Option<Position>,
}

impl Shared {
    /// Begins a copy of what `store` has.
    pub(crate) fn new(store: &mut Store) -> Self {
        store.share(&TABLES).expect("builtin tables");
        Self {
            settled: Settled::default(),
            image: Tables::default(),
            counts: VecDeque::new(),
        }
    }

    /// Brings it up to date after a step of its replica, which has executed `told` operations.
    /// If there is something new to see: after how many operations, and a fingerprint of it.
    pub(crate) fn turn(
        &mut self,
        store: &mut Store,
        progress: Progress,
        told: usize,
    ) -> Option<(usize, u64)> {
        let executed = Position {
            slot: progress.executed,
            time: progress.log_time,
        };
        // A state that came from elsewhere may be an older one.
        let not_older = |known: &mut (u64, usize)| known.0 >= executed.slot;
        while self.counts.pop_back_if(not_older).is_some() {}
        self.counts.push_back((executed.slot, told));
        let (image, settled) = (&mut self.image, progress.commit);
        let new = self.settled.turn(store, executed, settled, ROWS, image);
        let at = image.shown.filter(|_| new)?;
        assert!(at.slot <= progress.commit, "what is shown is final");
        let passed = |known: &mut (u64, usize)| known.0 < at.slot;
        while self.counts.pop_front_if(passed).is_some() {}
        let (slot, count) = *self.counts.front()?;
        (slot == at.slot).then_some((count, image.sum))
    }
}

impl Tables {
    fn print(table: usize, key: &[u8], value: &[u8]) -> u64 {
        fold(fold(fold_word(table as u64, key.len() as u64), key), value) | 1
    }
}

impl Image for Tables {
    fn begin(&mut self) {
        (self.rows, self.sum) = (BTreeMap::new(), 0);
    }

    fn put(&mut self, table: usize, key: &[u8], value: &[u8]) {
        self.remove(table, key);
        let print = Self::print(table, key, value);
        self.rows.insert((table, key.to_vec()), print);
        self.sum = self.sum.wrapping_add(print);
    }

    fn remove(&mut self, table: usize, key: &[u8]) {
        let old = self.rows.remove(&(table, key.to_vec()));
        self.sum = self.sum.wrapping_sub(old.unwrap_or(0));
    }

    fn clear(&mut self, table: usize) {
        let gone = self.rows.extract_if(.., |at, _| at.0 == table);
        let sum = gone.fold(0u64, |sum, (_, print)| sum.wrapping_add(print));
        self.sum = self.sum.wrapping_sub(sum);
    }

    fn show(&mut self, at: Position) {
        self.shown = Some(at);
    }
}
