//! Linearizability by search: Wing and Gong's algorithm with Lowe's cache of
//! visited configurations ("Testing for linearizability", 2017), one object
//! at a time. Needs no help from the protocol, and is exponential in the
//! number of concurrent clients, so the work is bounded.
use crate::check::Record;
use crate::check::fifo::Fifo;
use crate::check::register::Register;
use crate::dice::{fold, fold_word, mix};
use crate::spec::{Action, Model, Object, Outcome, Sequential};
use hashbrown::HashSet;
use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};

/// One operation on one object: an interval of time, an action and, if known,
/// its outcome.
#[derive(Clone, Debug)]
pub struct Operation<A, O> {
    /// When it was invoked.
    pub invoked: u64,
    /// When it returned what; `None` if nobody knows whether it took place.
    pub returned: Option<(u64, O)>,
    /// What was asked.
    pub action: A,
}

/// What the search found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Impossible,
    /// The search ended before it knew.
    Undecided,
}

/// Steps after which a search gives up, unless told otherwise.
const BUDGET: usize = 200_000;

/// Checks a run's history object by object; the first object whose answers no
/// order explains. `undecided` counts objects given up. Values that end with
/// the log's time are left to the audit, which knows that time.
pub fn check(records: &[Record], undecided: &mut u64) -> Result<(), Object> {
    check_within(BUDGET, records, undecided)
}

/// The same, with another number of steps after which a search gives up.
pub fn check_within(budget: usize, records: &[Record], undecided: &mut u64) -> Result<(), Object> {
    let mut objects: BTreeMap<Object, Vec<Operation<Action, Outcome>>> = BTreeMap::new();
    let timed = |r: &&Record| matches!(r.action.object(), Object::Timed(_));
    // A read without an answer says nothing.
    let silent = |r: &&Record| r.action.reads() && r.answer().is_none();
    for record in records.iter().filter(|r| !timed(r) && !silent(r)) {
        let list = objects.entry(record.action.object()).or_default();
        list.push(Operation {
            invoked: record.invoked,
            returned: record.answer(),
            action: record.action,
        });
    }
    for (object, list) in objects {
        let open_take = |o: &Operation<Action, Outcome>| {
            o.returned.is_none() && matches!(o.action, Action::Take(_))
        };
        if list.iter().any(open_take) {
            *undecided += 1;
            continue;
        }
        let verdict = match object {
            Object::Queue(_) => search_within(budget, Fifo::new(object, &list), &list),
            Object::Key(_) => search_within(budget, Register::new(object, &list), &list),
            _ => search_within(budget, Model::new(object), &list),
        };
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Impossible => return Err(object),
            Verdict::Undecided => *undecided += 1,
        }
    }
    Ok(())
}

/// One end of an operation in the time-ordered list of events.
#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_return: bool,
    next: usize,
    previous: usize,
}

/// Events as a doubly linked list, from which operations that are already in
/// the order are lifted, and into which they are put back on the way back.
struct Timeline {
    events: Vec<Event>,
    call: Vec<usize>,
    ret: Vec<Option<usize>>,
}

/// Index of the list's two ends.
const END: usize = 0;

impl Timeline {
    fn new<A, O>(operations: &[Operation<A, O>]) -> Self {
        let mut order = Vec::with_capacity(operations.len() * 2);
        for (i, operation) in operations.iter().enumerate() {
            order.push((operation.invoked, false, i));
            if let Some((at, _)) = &operation.returned {
                order.push((*at, true, i));
            }
        }
        // At equal times calls come first: the operations then overlap.
        order.sort_unstable();
        let mut events = Vec::with_capacity(order.len() + 1);
        events.push(Event {
            operation: usize::MAX,
            is_return: true,
            next: END,
            previous: END,
        });
        let mut call = vec![0; operations.len()];
        let mut ret = vec![None; operations.len()];
        for (_, is_return, operation) in order {
            let index = events.len();
            if is_return {
                ret[operation] = Some(index);
            } else {
                call[operation] = index;
            }
            events[index - 1].next = index;
            events.push(Event {
                operation,
                is_return,
                next: END,
                previous: index - 1,
            });
            events[END].previous = index;
        }
        Self { events, call, ret }
    }

    fn lift(&mut self, operation: usize) {
        for index in [Some(self.call[operation]), self.ret[operation]]
            .into_iter()
            .flatten()
        {
            let Event { next, previous, .. } = self.events[index];
            self.events[previous].next = next;
            self.events[next].previous = previous;
        }
    }

    fn unlift(&mut self, operation: usize) {
        // In the opposite order of lifting, so that neighbours are right again.
        for index in [self.ret[operation], Some(self.call[operation])]
            .into_iter()
            .flatten()
        {
            let Event { next, previous, .. } = self.events[index];
            self.events[previous].next = index;
            self.events[next].previous = index;
        }
    }
}

/// Which operations are already in the order, as a hash that does not depend on the
/// sequence in which they came (Zobrist): two sets share one with probability 2^-64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Members(u64);

impl Members {
    const fn flip(&mut self, i: usize) {
        self.0 ^= mix(i as u64 + 1);
    }
}

/// Configurations from which no order was found, as fingerprints of 128 bits. Nothing is
/// kept of a search that never takes a step back, which most do not.
#[derive(Default)]
struct Hopeless(HashSet<(u64, u64), BuildHasherDefault<Folder>>);

impl Hopeless {
    fn key<S: Sequential>(members: Members, state: &S) -> (u64, u64) {
        let mut folder = Folder::default();
        state.hash(&mut folder);
        (members.0, folder.finish())
    }

    fn has<S: Sequential>(&self, members: Members, state: &S) -> bool {
        !self.0.is_empty() && self.0.contains(&Self::key(members, state))
    }

    fn add<S: Sequential>(&mut self, members: Members, state: &S) {
        self.0.insert(Self::key(members, state));
    }
}

/// A quick hash; nobody chooses histories against it.
#[derive(Default)]
struct Folder(u64);

impl Hasher for Folder {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0, bytes);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold_word(self.0, word);
    }

    fn write_i64(&mut self, word: i64) {
        self.write_u64(word.cast_unsigned());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

/// Searches for an order of `operations` that respects time and that the
/// specification, starting in `state`, allows. Operations without a return
/// may be in the order or not.
pub fn search<S: Sequential>(state: S, operations: &[Operation<S::Action, S::Outcome>]) -> Verdict {
    search_within(BUDGET, state, operations)
}

fn search_within<S: Sequential>(
    budget: usize,
    state: S,
    operations: &[Operation<S::Action, S::Outcome>],
) -> Verdict {
    let waiting = operations.iter().filter(|o| o.returned.is_some()).count();
    let mut search = Search {
        line: Timeline::new(operations),
        operations,
        state,
        waiting,
        members: Members::default(),
        hopeless: Hopeless::default(),
        chosen: Vec::with_capacity(operations.len()),
    };
    let mut at = search.line.events[END].next;
    for _ in 0..budget {
        if search.waiting == 0 {
            return Verdict::Linearizable;
        }
        let first = search.line.events[END].next;
        // Most searches never take a step back, and need no shorter ways.
        let harder = at == first && !search.hopeless.0.is_empty();
        let quiet = harder.then(|| search.quiet()).flatten();
        if let Some((i, next)) = quiet {
            if search.choose(i, next, false) {
                at = search.line.events[END].next;
                continue;
            }
        } else if at != END && !search.line.events[at].is_return {
            let Event {
                operation, next, ..
            } = search.line.events[at];
            let chosen = search
                .step(operation)
                .is_some_and(|after| search.choose(operation, after, true));
            at = match chosen {
                true => search.line.events[END].next,
                false => next,
            };
            continue;
        }
        // Something returned that is not in the order yet: take a step back.
        match search.step_back() {
            Some(next) => at = next,
            None => return Verdict::Impossible,
        }
    }
    Verdict::Undecided
}

/// An operation in the order found so far.
struct Chosen<S> {
    operation: usize,
    before: S,
    /// Others could have come in its place.
    open: bool,
}

/// A search under way.
struct Search<'a, S: Sequential> {
    line: Timeline,
    operations: &'a [Operation<S::Action, S::Outcome>],
    state: S,
    /// Operations that returned and are not in the order yet.
    waiting: usize,
    members: Members,
    hopeless: Hopeless,
    chosen: Vec<Chosen<S>>,
}

impl<S: Sequential> Search<'_, S> {
    fn step(&self, i: usize) -> Option<S> {
        let operation = &self.operations[i];
        let outcome = operation.returned.as_ref().map(|(_, outcome)| outcome);
        self.state.step(&operation.action, outcome)
    }

    /// An operation that may come next, and whose answer says that it changed nothing. If
    /// there is an order at all, there is one in which it comes next: no other need be tried.
    fn quiet(&self) -> Option<(usize, S)> {
        let mut at = self.line.events[END].next;
        while at != END && !self.line.events[at].is_return {
            let Event {
                operation, next, ..
            } = self.line.events[at];
            if self.operations[operation].returned.is_some()
                && let Some(after) = self.step(operation)
                && after == self.state
            {
                return Some((operation, after));
            }
            at = next;
        }
        None
    }

    /// Takes operation `i` into the order, unless nothing can follow.
    fn choose(&mut self, i: usize, next: S, open: bool) -> bool {
        self.members.flip(i);
        if self.hopeless.has(self.members, &next) {
            self.members.flip(i);
            return false;
        }
        self.chosen.push(Chosen {
            operation: i,
            before: core::mem::replace(&mut self.state, next),
            open,
        });
        self.waiting -= usize::from(self.line.ret[i].is_some());
        self.line.lift(i);
        true
    }

    /// Takes the last operation out that could have been another; where to go on.
    fn step_back(&mut self) -> Option<usize> {
        loop {
            let last = self.chosen.pop()?;
            self.hopeless.add(self.members, &self.state);
            let i = last.operation;
            self.state = last.before;
            self.members.flip(i);
            self.line.unlift(i);
            self.waiting += usize::from(self.line.ret[i].is_some());
            if last.open {
                return Some(self.line.events[self.line.call[i]].next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::{Dice, Stream};

    fn op(
        invoked: u64,
        returned: u64,
        action: Action,
        outcome: Outcome,
    ) -> Operation<Action, Outcome> {
        Operation {
            invoked,
            returned: Some((returned, outcome)),
            action,
        }
    }

    fn open(invoked: u64, action: Action) -> Operation<Action, Outcome> {
        Operation {
            invoked,
            returned: None,
            action,
        }
    }

    fn key(operations: &[Operation<Action, Outcome>]) -> Verdict {
        search(Model::new(Object::Key(0)), operations)
    }

    fn put(from: u64, to: u64, value: u64, existed: bool) -> Operation<Action, Outcome> {
        op(from, to, Action::Put(0, value), Outcome::Took(existed))
    }

    const fn found(value: u64) -> Outcome {
        Outcome::Found(Some(value))
    }

    #[test]
    fn concurrent_operations_may_take_either_order() {
        for value in [1, 2] {
            let history = [
                put(0, 10, 1, value == 1),
                put(0, 10, 2, value == 2),
                op(11, 12, Action::Get(0), found(value)),
            ];
            assert_eq!(key(&history), Verdict::Linearizable);
        }
    }

    #[test]
    fn a_stale_read_is_impossible() {
        let history = [
            put(0, 1, 1, false),
            put(2, 3, 2, true),
            op(4, 5, Action::Get(0), found(1)),
        ];
        assert_eq!(key(&history), Verdict::Impossible);
    }

    #[test]
    fn a_value_once_read_does_not_vanish() {
        let history = [
            put(0, 100, 1, false),
            op(10, 20, Action::Get(0), found(1)),
            op(30, 40, Action::Get(0), Outcome::Found(None)),
        ];
        assert_eq!(key(&history), Verdict::Impossible);
    }

    #[test]
    fn an_unknown_write_may_or_may_not_have_happened_but_not_both() {
        let yes = [
            open(0, Action::Put(0, 1)),
            op(5, 6, Action::Get(0), found(1)),
        ];
        let no = [
            open(0, Action::Put(0, 1)),
            op(5, 6, Action::Get(0), Outcome::Found(None)),
        ];
        assert_eq!(key(&yes), Verdict::Linearizable);
        assert_eq!(key(&no), Verdict::Linearizable);
        let both = [
            open(0, Action::Put(0, 1)),
            op(5, 6, Action::Get(0), found(1)),
            op(7, 8, Action::Get(0), Outcome::Found(None)),
        ];
        assert_eq!(key(&both), Verdict::Impossible);
        let early = [
            op(0, 1, Action::Get(0), found(1)),
            open(2, Action::Put(0, 1)),
        ];
        assert_eq!(key(&early), Verdict::Impossible);
    }

    #[test]
    fn an_increment_applied_twice_or_lost_is_impossible() {
        let add = |from, to, sum| op(from, to, Action::Add(0, 1), Outcome::Sum(sum));
        let counter = |list: &[_]| search(Model::new(Object::Counter(0)), list);
        assert_eq!(
            counter(&[add(0, 1, 1), add(2, 3, 2)]),
            Verdict::Linearizable
        );
        assert_eq!(counter(&[add(0, 1, 1), add(2, 3, 3)]), Verdict::Impossible);
        assert_eq!(counter(&[add(0, 9, 1), add(2, 3, 1)]), Verdict::Impossible);
    }

    #[test]
    fn an_item_taken_twice_is_impossible() {
        let take = |from, to| op(from, to, Action::Take(0), found(5));
        let give = op(4, 5, Action::Give(0, 5), Outcome::Took(true));
        let pool = |list: &[_]| search(Model::new(Object::Pool(0)), list);
        assert_eq!(pool(&[take(0, 1), take(2, 3)]), Verdict::Impossible);
        assert_eq!(pool(&[take(0, 1), give, take(6, 7)]), Verdict::Linearizable);
    }

    #[test]
    fn queue_order_must_hold() {
        let push = |at, value, length| op(at, at + 1, Action::Push(0, value), Outcome::Sum(length));
        let pop = |at, value| op(at, at + 1, Action::Pop(0), found(value));
        let queue = |list: &[_]| search(Model::new(Object::Queue(0)), list);
        let right = [push(0, 1, 1), push(2, 2, 2), pop(4, 1), pop(6, 2)];
        let wrong = [push(0, 1, 1), push(2, 2, 2), pop(4, 2), pop(6, 1)];
        assert_eq!(queue(&right), Verdict::Linearizable);
        assert_eq!(queue(&wrong), Verdict::Impossible);
    }

    /// Histories made from a known order are accepted; the same with one
    /// answer falsified beyond any order are not.
    #[test]
    fn made_up_histories() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed, Stream::Work);
            let (mut sum, mut list) = (0, Vec::new());
            for i in 0..60 {
                let point: u64 = i * 10;
                let amount = 1 + i64::try_from(dice.between(0, 4)).expect("small");
                sum += amount;
                list.push(op(
                    point.saturating_sub(dice.between(0, 25)),
                    point + dice.between(1, 25),
                    Action::Add(0, amount),
                    Outcome::Sum(sum),
                ));
            }
            let counter = Model::new(Object::Counter(0));
            assert_eq!(search(counter.clone(), &list), Verdict::Linearizable);
            let victim = dice.below(list.len());
            if let Some((_, outcome)) = &mut list[victim].returned {
                *outcome = Outcome::Sum(sum + 1);
            }
            assert_eq!(search(counter, &list), Verdict::Impossible, "seed {seed}");
        }
    }
}
