//! A key as the search for an order sees it: with a look ahead.
//!
//! A value that is written once must stay until all who found it have come: a search that
//! overwrites it earlier can never place them, but finds that out only after it has tried
//! every order of what is under way at the same time.
use crate::check::wgl::Operation;
use crate::spec::{Action, Model, Object, Outcome, Sequential};
use core::hash::{Hash, Hasher};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The state of a key, and what is known of its future.
#[derive(Clone, Debug)]
pub(super) struct Register {
    model: Model,
    /// So many who found the present value have not come yet. It follows from the value and
    /// from who has come.
    left: usize,
    values: Rc<BTreeMap<u64, Value>>,
}

/// What a history says of a value.
#[derive(Clone, Copy, Default, Debug)]
struct Value {
    writers: usize,
    /// So many found it.
    finders: usize,
    /// Somebody compared with it, and did not find it or does not know.
    compared: bool,
}

/// The value that an operation found, if its answer says so.
fn finds(action: Action, outcome: Outcome) -> Option<u64> {
    match (action, outcome) {
        (Action::Get(_), Outcome::Found(value)) => value,
        (Action::Swap(_, old, _), Outcome::Took(true)) => Some(old),
        _ => None,
    }
}

/// The value that an operation writes, if it takes place.
const fn writes(action: Action) -> Option<u64> {
    match action {
        Action::Put(_, new) | Action::Swap(_, _, new) => Some(new),
        _ => None,
    }
}

impl Register {
    /// A key without a value, with this history.
    pub(super) fn new(object: Object, history: &[Operation<Action, Outcome>]) -> Self {
        let mut values: BTreeMap<u64, Value> = BTreeMap::new();
        for operation in history {
            let outcome = operation.returned.map(|(_, outcome)| outcome);
            let found = outcome.and_then(|outcome| finds(operation.action, outcome));
            match (operation.action, found) {
                (_, Some(value)) => values.entry(value).or_default().finders += 1,
                (Action::Swap(_, old, _), None) => values.entry(old).or_default().compared = true,
                _ => {}
            }
            if let Some(value) = writes(operation.action) {
                values.entry(value).or_default().writers += 1;
            }
        }
        Self {
            model: Model::new(object),
            left: 0,
            values: Rc::new(values),
        }
    }

    fn value(&self, value: u64) -> Value {
        self.values.get(&value).copied().unwrap_or_default()
    }

    /// Whether nothing that may come can tell this value, the present one, from another.
    fn is_forgotten(&self, value: u64) -> bool {
        let Value {
            writers, compared, ..
        } = self.value(value);
        self.left == 0 && writers == 1 && !compared
    }
}

/// Two states are equal if their values are.
impl PartialEq for Register {
    fn eq(&self, other: &Self) -> bool {
        self.model == other.model
    }
}

impl Eq for Register {}

/// The hash says what may come: all forgotten values have the same.
impl Hash for Register {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match self.model {
            Model::Key(Some(value)) if self.is_forgotten(value) => hasher.write_u8(1),
            _ => self.model.hash(hasher),
        }
    }
}

impl Sequential for Register {
    type Action = Action;
    type Outcome = Outcome;

    fn step(&self, action: &Action, outcome: Option<&Outcome>) -> Option<Self> {
        let model = self.model.step(action, outcome)?;
        let mut left = self.left;
        if outcome.is_some_and(|outcome| finds(*action, *outcome).is_some()) {
            left = left.saturating_sub(1);
        }
        if model != self.model {
            if left > 0 {
                return None;
            }
            if let Model::Key(Some(value)) = model {
                left = match self.value(value) {
                    Value {
                        writers: 1,
                        finders,
                        ..
                    } => finders,
                    _ => 0,
                };
            }
        }
        let values = Rc::clone(&self.values);
        Some(Self {
            model,
            left,
            values,
        })
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

    /// Writes that all overlap, and after them a read of one that was asked for early.
    fn history(writes: u64, found: u64) -> Vec<Operation<Action, Outcome>> {
        let put = |n| op(n, 1_000 + n, Action::Put(0, n), Outcome::Took(n != 1));
        let read = op(2_000, 2_001, Action::Get(0), Outcome::Found(Some(found)));
        (1..=writes).map(put).chain([read]).collect()
    }

    fn register(list: &[Operation<Action, Outcome>]) -> Verdict {
        search(Register::new(Object::Key(0), list), list)
    }

    #[test]
    fn a_value_that_somebody_will_find_stays() {
        let list = history(40, 2);
        assert_eq!(register(&list), Verdict::Linearizable);
        let blind = Model::new(Object::Key(0));
        assert_eq!(search(blind, &list), Verdict::Undecided, "too easy");
    }

    #[test]
    fn looking_ahead_forgives_nothing() {
        assert_eq!(
            register(&history(6, 7)),
            Verdict::Impossible,
            "never written"
        );
        let mut list = history(6, 3);
        let late = Outcome::Found(Some(4));
        list.push(op(2_002, 2_003, Action::Get(0), late));
        assert_eq!(register(&list), Verdict::Impossible, "two are last");
        list[2].returned = None;
        list[3].returned = None;
        assert_eq!(register(&list), Verdict::Linearizable, "one came late");
    }

    #[test]
    fn looking_ahead_forbids_nothing() {
        // Written twice: found before and after another value.
        let found = |value| Outcome::Found(Some(value));
        let list = [
            op(1, 2, Action::Put(0, 7), Outcome::Took(false)),
            op(3, 4, Action::Get(0), found(7)),
            op(5, 6, Action::Put(0, 8), Outcome::Took(true)),
            op(7, 8, Action::Put(0, 7), Outcome::Took(true)),
            op(9, 10, Action::Get(0), found(7)),
            op(11, 12, Action::Swap(0, 7, 9), Outcome::Took(true)),
            op(13, 14, Action::Get(0), found(9)),
            op(15, 16, Action::Delete(0), Outcome::Took(true)),
            op(17, 18, Action::Get(0), Outcome::Found(None)),
        ];
        assert_eq!(register(&list), Verdict::Linearizable);
    }
}
