//! What the store must do, written down a second time and as simply as
//! possible: the yardstick for replies, independent of `stateplane-state`.
use std::collections::{BTreeMap, VecDeque};

/// What an operation asks for. Objects are small numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Read a key.
    Get(u8),
    /// Write a key.
    Put(u8, u64),
    /// Remove a key.
    Delete(u8),
    /// Write the last value if the key holds the first.
    Swap(u8, u64, u64),
    /// Write a key whose value ends after so many milliseconds of the log.
    Hold(u8, u64, u64),
    /// Read a key whose value ends.
    Look(u8),
    /// Add to a counter and learn the sum.
    Add(u8, i64),
    /// Append to a queue.
    Push(u8, u64),
    /// Take the oldest element of a queue.
    Pop(u8),
    /// Take any free item out of a pool.
    Take(u8),
    /// Give an item back to its pool.
    Give(u8, u64),
}

/// What the store answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The value, element or item found, if there was one.
    Found(Option<u64>),
    /// Whether a conditional action took place, or a key had a value before.
    Took(bool),
    /// The counter's new value, or a queue's new length.
    Sum(i64),
}

/// One independent object: histories are checked object by object, because
/// linearizability is a local property (Herlihy and Wing, 1990).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Object {
    /// A key of the key-value table.
    Key(u8),
    /// A key whose values end.
    Timed(u8),
    /// A counter.
    Counter(u8),
    /// A queue.
    Queue(u8),
    /// A pool.
    Pool(u8),
}

impl Action {
    /// Whether it changes nothing, and takes a read procedure to do so.
    pub fn reads(self) -> bool {
        matches!(self, Self::Get(_) | Self::Look(_))
    }

    /// The only object the action touches.
    pub fn object(self) -> Object {
        match self {
            Self::Get(k) | Self::Put(k, _) | Self::Delete(k) | Self::Swap(k, ..) => Object::Key(k),
            Self::Hold(k, ..) | Self::Look(k) => Object::Timed(k),
            Self::Add(c, _) => Object::Counter(c),
            Self::Push(q, _) | Self::Pop(q) => Object::Queue(q),
            Self::Take(p) | Self::Give(p, _) => Object::Pool(p),
        }
    }
}

/// A sequential specification: given a state, an action and what was answered
/// (if that is known), the next state, or `None` if the answer is impossible.
pub trait Sequential: Clone + Eq + core::hash::Hash {
    /// What can be asked.
    type Action;
    /// What can be answered.
    type Outcome;

    /// Applies `action`; an unknown outcome is any possible one.
    fn step(&self, action: &Self::Action, outcome: Option<&Self::Outcome>) -> Option<Self>;
}

/// The state of one object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Model {
    /// A key's value.
    Key(Option<u64>),
    /// A key's value and the log time, in nanoseconds, at which it ends.
    Timed(Option<(u64, u64)>, u64),
    /// A counter's sum.
    Counter(i64),
    /// A queue's elements, oldest first.
    Queue(VecDeque<u64>),
    /// A pool's free items, a bit each.
    Pool(u64),
}

/// Items every pool starts with: `0..POOL_ITEMS`, of at most 64.
pub const POOL_ITEMS: u64 = 24;

/// An item's bit in a pool; none if it is no pool's.
const fn bit(item: u64) -> Option<u64> {
    if item < POOL_ITEMS {
        Some(1 << item)
    } else {
        None
    }
}

impl Model {
    /// The object before anything happened to it.
    pub fn new(object: Object) -> Self {
        match object {
            Object::Key(_) => Self::Key(None),
            Object::Timed(_) => Self::Timed(None, 0),
            Object::Counter(_) => Self::Counter(0),
            Object::Queue(_) => Self::Queue(VecDeque::new()),
            Object::Pool(_) => Self::Pool((1 << POOL_ITEMS) - 1),
        }
    }
}

impl Sequential for Model {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self, action: &Action, outcome: Option<&Outcome>) -> Option<Self> {
        // Looked at before anything is copied: most answers a search tries are impossible.
        let fits = |answer: Outcome| outcome.is_none_or(|seen| *seen == answer);
        match (self, *action) {
            (Self::Key(value), action) => step_key(*value, action, fits).map(Self::Key),
            (Self::Timed(value, now), Action::Look(_)) => {
                let found = Outcome::Found(value.map(|v| v.0));
                fits(found).then_some(Self::Timed(*value, *now))
            }
            (Self::Timed(value, now), Action::Hold(_, new, ms)) => {
                let end = now.saturating_add(ms * 1_000_000);
                let took = Outcome::Took(value.is_some());
                fits(took).then_some(Self::Timed(Some((new, end)), *now))
            }
            (Self::Counter(sum), Action::Add(_, amount)) => {
                let sum = sum + amount;
                fits(Outcome::Sum(sum)).then_some(Self::Counter(sum))
            }
            (Self::Queue(queue), Action::Push(_, value)) => {
                let length = i64::try_from(queue.len() + 1).ok()?;
                let pushed = || queue.iter().copied().chain([value]).collect();
                fits(Outcome::Sum(length)).then(|| Self::Queue(pushed()))
            }
            (Self::Queue(queue), Action::Pop(_)) => {
                let popped = || queue.iter().copied().skip(1).collect();
                let oldest = Outcome::Found(queue.front().copied());
                fits(oldest).then(|| Self::Queue(popped()))
            }
            (Self::Pool(free), Action::Take(_)) => take(*free, outcome).map(Self::Pool),
            (Self::Pool(free), Action::Give(_, item)) => {
                let bit = bit(item)?;
                fits(Outcome::Took(free & bit == 0)).then_some(Self::Pool(free | bit))
            }
            _ => None,
        }
    }
}

/// A key's value after an action whose answer fits.
fn step_key(
    value: Option<u64>,
    action: Action,
    fits: impl Fn(Outcome) -> bool,
) -> Option<Option<u64>> {
    let (next, answer) = match action {
        Action::Get(_) => (value, Outcome::Found(value)),
        Action::Put(_, new) => (Some(new), Outcome::Took(value.is_some())),
        Action::Delete(_) => (None, Outcome::Took(value.is_some())),
        Action::Swap(_, old, new) => {
            let took = value == Some(old);
            (if took { Some(new) } else { value }, Outcome::Took(took))
        }
        _ => return None,
    };
    fits(answer).then_some(next)
}

/// A pool may hand out any free item, so the answer decides the next state.
/// Which item an unanswered taker got cannot be known; the search then has no
/// single next state, and such pools are left to the log's order.
fn take(free: u64, outcome: Option<&Outcome>) -> Option<u64> {
    match outcome {
        Some(Outcome::Found(Some(item))) => {
            let bit = bit(*item)?;
            (free & bit != 0).then_some(free & !bit)
        }
        Some(Outcome::Found(None)) => (free == 0).then_some(0),
        _ => None,
    }
}

/// All objects together, for replaying a whole log.
#[derive(Clone, Default, Debug)]
pub struct Spec(BTreeMap<Object, Model>);

impl Spec {
    /// Applies one operation executed at log time `at`, in nanoseconds; false
    /// if the answer is impossible.
    pub fn apply(&mut self, at: u64, action: Action, outcome: Outcome) -> bool {
        let object = action.object();
        let model = self.0.entry(object).or_insert_with(|| Model::new(object));
        if let Model::Timed(value, now) = model {
            *now = at;
            *value = value.filter(|(_, end)| at < *end);
        }
        match model.step(&action, Some(&outcome)) {
            Some(next) => {
                *model = next;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_never_gives_an_item_twice() {
        let mut spec = Spec::default();
        assert!(spec.apply(0, Action::Take(0), Outcome::Found(Some(3))));
        assert!(!spec.apply(0, Action::Take(0), Outcome::Found(Some(3))));
        assert!(spec.apply(0, Action::Give(0, 3), Outcome::Took(true)));
        assert!(spec.apply(0, Action::Take(0), Outcome::Found(Some(3))));
        assert!(!spec.apply(0, Action::Take(0), Outcome::Found(None)));
    }

    #[test]
    fn a_value_ends_when_the_log_says_so() {
        let mut spec = Spec::default();
        assert!(spec.apply(0, Action::Hold(0, 9, 2), Outcome::Took(false)));
        assert!(spec.apply(1_999_999, Action::Look(0), Outcome::Found(Some(9))));
        assert!(!spec.apply(2_000_000, Action::Look(0), Outcome::Found(Some(9))));
        assert!(spec.apply(2_000_000, Action::Look(0), Outcome::Found(None)));
    }

    #[test]
    fn wrong_answers_are_impossible() {
        let mut spec = Spec::default();
        assert!(spec.apply(0, Action::Put(1, 5), Outcome::Took(false)));
        assert!(!spec.apply(0, Action::Get(1), Outcome::Found(None)));
        assert!(!spec.apply(0, Action::Swap(1, 4, 6), Outcome::Took(true)));
        assert!(spec.apply(0, Action::Swap(1, 5, 6), Outcome::Took(true)));
        assert!(spec.apply(0, Action::Delete(1), Outcome::Took(true)));
        assert!(!spec.apply(0, Action::Delete(1), Outcome::Took(true)));
        assert!(spec.apply(0, Action::Add(0, 2), Outcome::Sum(2)));
        assert!(!spec.apply(0, Action::Add(0, 2), Outcome::Sum(2)));
        assert!(spec.apply(0, Action::Push(0, 1), Outcome::Sum(1)));
        assert!(spec.apply(0, Action::Push(0, 2), Outcome::Sum(2)));
        assert!(!spec.apply(0, Action::Pop(0), Outcome::Found(Some(2))));
    }
}
