//! A queue as the search for an order sees it: with a look ahead.
//!
//! Which of two overlapping pushes came first shows only when their items come out, which
//! may be hundreds of operations later, and a search that goes back so far does not end.
//! But when they came out is in the history. An item never lies behind one that certainly
//! came out later.
use crate::check::wgl::Operation;
use crate::spec::{Action, Model, Object, Outcome, Sequential};
use core::hash::{Hash, Hasher};
use std::collections::BTreeMap;
use std::rc::Rc;

/// When an item came out, at the earliest and at the latest.
type Span = (u64, u64);

/// The state of a queue, and what is known of its future.
#[derive(Clone, Debug)]
pub(super) struct Fifo {
    model: Model,
    out: Rc<BTreeMap<u64, Span>>,
}

impl Fifo {
    /// An empty queue with this history.
    pub(super) fn new(object: Object, history: &[Operation<Action, Outcome>]) -> Self {
        let spans = history.iter().filter_map(|o| match o.returned? {
            (at, Outcome::Found(Some(item))) => Some((item, (o.invoked, at))),
            _ => None,
        });
        Self {
            model: Model::new(object),
            out: Rc::new(spans.collect()),
        }
    }

    /// Whether `item` can be the last of the queue it was just added to.
    fn may_follow(&self, item: u64) -> bool {
        let Some((_, latest)) = self.out.get(&item) else {
            return true;
        };
        let Model::Queue(queue) = &self.model else {
            return true;
        };
        let ahead = queue.iter().filter_map(|item| self.out.get(item));
        ahead.into_iter().all(|(earliest, _)| earliest <= latest)
    }
}

impl PartialEq for Fifo {
    fn eq(&self, other: &Self) -> bool {
        self.model == other.model
    }
}

impl Eq for Fifo {}

impl Hash for Fifo {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.model.hash(hasher);
    }
}

impl Sequential for Fifo {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self, action: &Action, outcome: Option<&Outcome>) -> Option<Self> {
        let next = Self {
            model: self.model.step(action, outcome)?,
            out: Rc::clone(&self.out),
        };
        match action {
            Action::Push(_, item) if !next.may_follow(*item) => None,
            _ => Some(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::wgl::{Verdict, search};

    fn op(from: u64, to: u64, action: Action, outcome: Outcome) -> Operation<Action, Outcome> {
        Operation {
            invoked: from,
            returned: Some((to, outcome)),
            action,
        }
    }

    /// Pairs of pushes that overlap, and a pop between each that hides their order; the
    /// items come out only at the end.
    fn history(pairs: u64) -> Vec<Operation<Action, Outcome>> {
        let mut list = Vec::new();
        let found = |item| Outcome::Found(Some(item));
        list.push(op(0, 1, Action::Push(0, 1_000), Outcome::Sum(1)));
        let items: Vec<u64> = (0..pairs).flat_map(|n| [2 * n + 2, 2 * n + 1]).collect();
        let mut waiting = std::collections::VecDeque::from([1_000]);
        for pair in items.chunks(2) {
            // The later number is pushed first, and asked for last.
            let at = 10 + pair[0] * 10;
            let length = i64::try_from(waiting.len()).expect("few") + 1;
            let out = waiting.pop_front().expect("never empty");
            waiting.extend(pair);
            list.push(op(
                at,
                at + 9,
                Action::Push(0, pair[1]),
                Outcome::Sum(length),
            ));
            list.push(op(at, at + 9, Action::Pop(0), found(out)));
            list.push(op(
                at,
                at + 9,
                Action::Push(0, pair[0]),
                Outcome::Sum(length),
            ));
        }
        let last = 100_000;
        for (n, item) in (0..).zip(waiting) {
            let at = last + 10 * n;
            list.push(op(at, at + 5, Action::Pop(0), found(item)));
        }
        list
    }

    #[test]
    fn the_order_of_pushes_is_read_off_what_came_out_later() {
        let list = history(60);
        let fifo = Fifo::new(Object::Queue(0), &list);
        assert_eq!(search(fifo, &list), Verdict::Linearizable);
        let blind = Model::new(Object::Queue(0));
        assert_eq!(search(blind, &list), Verdict::Undecided, "too easy");
    }

    #[test]
    fn looking_ahead_forgives_nothing() {
        let mut list = history(4);
        let at = list.len() - 2;
        let (Some((_, one)), Some((_, two))) = (list[at].returned, list[at + 1].returned) else {
            panic!("both were answered");
        };
        // Two items of different times change their places.
        let other = list.len() - 4;
        let Some((_, early)) = list[other].returned else {
            panic!("it was answered");
        };
        assert!(one != two && one != early);
        for (place, outcome) in [(at + 1, early), (other, two)] {
            if let Some((_, seen)) = &mut list[place].returned {
                *seen = outcome;
            }
        }
        let fifo = Fifo::new(Object::Queue(0), &list);
        assert_eq!(search(fifo, &list), Verdict::Impossible);
    }
}
