//! What clients ask for. Values are unique, so that a stale or misplaced
//! answer cannot look right by accident.
use crate::dice::{Dice, Stream, mix};
use crate::plan::Plan;
use crate::spec::Action;

/// How an operation is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// As one of the log.
    Slot,
    /// As a read without a slot.
    Read,
}

impl Way {
    /// The way of an operation that every client asks for once: each way in turn.
    pub(crate) fn of(action: Action, turn: usize) -> Self {
        if action.reads() && turn.is_multiple_of(2) {
            Self::Read
        } else {
            Self::Slot
        }
    }
}

/// The source of operations for all clients.
pub(crate) struct Workload {
    seed: u64,
    dice: Dice,
    objects: u64,
    values: u64,
    /// The last value written to each key, as a likely guess for a swap.
    guesses: Vec<u64>,
    /// Items clients took and may give back, with their pool.
    taken: Vec<(u8, u64)>,
    think: u64,
    burst: usize,
}

impl Workload {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        Self {
            seed,
            dice: Dice::new(seed, Stream::Work),
            objects: u64::from(plan.objects),
            values: 0,
            guesses: vec![0; usize::from(plan.objects)],
            taken: Vec::new(),
            think: plan.think,
            burst: plan.burst,
        }
    }

    /// A client is about to ask: what it does depends on nobody else.
    pub(crate) fn turn_to(&mut self, client: usize, serial: u32) {
        let salt = mix((client as u64) << 32 | u64::from(serial));
        self.dice = Dice::new(self.seed ^ salt, Stream::Work);
    }

    /// Time until a client asks again.
    pub(crate) fn think(&mut self) -> u64 {
        self.dice.exponential(self.think)
    }

    /// How many operations a client submits at once.
    pub(crate) fn burst(&mut self) -> usize {
        if self.dice.chance(0.4) {
            self.dice.below(self.burst) + 1
        } else {
            1
        }
    }

    /// The next operation.
    #[allow(clippy::cast_possible_truncation)] // objects are few
    pub(crate) fn next(&mut self) -> Action {
        let object = self.dice.between(0, self.objects - 1) as u8;
        match self.dice.below(18) {
            0..=3 => Action::Get(object),
            4..=6 => Action::Put(object, self.value(object)),
            7 => Action::Swap(
                object,
                self.guesses[usize::from(object)],
                self.value(object),
            ),
            8 => Action::Delete(object),
            9..=10 => Action::Add(object, self.dice.between(1, 100) as i64),
            11 => Action::Push(object, self.value(object)),
            12 => Action::Pop(object),
            13..=14 => Action::Take(object),
            15 => Action::Look(object),
            16 => Action::Hold(object, self.value(object), self.dice.between(1, 60)),
            _ => self.give().unwrap_or(Action::Take(object)),
        }
    }

    /// How the next operation is asked for.
    pub(crate) fn way(&mut self, action: Action) -> Way {
        if action.reads() && self.dice.chance(0.6) {
            Way::Read
        } else {
            Way::Slot
        }
    }

    /// Reads of every object, to see what is left after everything healed.
    #[allow(clippy::cast_possible_truncation)] // objects are few
    pub(crate) fn scan(&self) -> Vec<Action> {
        let reads = |object| {
            [
                Action::Get(object),
                Action::Add(object, 0),
                Action::Look(object),
            ]
        };
        (0..self.objects as u8).flat_map(reads).collect()
    }

    /// Remembers that a client got `item` out of `pool`. Items whose taker
    /// never learned of it are lost to the clients, as in real life.
    pub(crate) fn took(&mut self, pool: u8, item: u64) {
        self.taken.push((pool, item));
    }

    fn value(&mut self, object: u8) -> u64 {
        self.values += 1;
        self.guesses[usize::from(object)] = self.values;
        self.values
    }

    fn give(&mut self) -> Option<Action> {
        if self.taken.is_empty() {
            return None;
        }
        let index = self.dice.below(self.taken.len());
        let (pool, item) = self.taken.swap_remove(index);
        Some(Action::Give(pool, item))
    }
}
