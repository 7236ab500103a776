//! The builtin procedures against a model that is too simple to be wrong: random operations and
//! times, and after each one equal replies.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::LogTime;
use stateplane_state::builtin::{counter, kv, pool, queue};
use stateplane_state::op::{Operation, ReplyError};
use stateplane_state::{Application, Limits, Refusal, Registry, Store};

#[derive(Clone, Debug)]
enum Op {
    Get(u8),
    Put(u8, Vec<u8>, Option<u64>),
    Delete(u8),
    CompareAndSet(u8, Option<Vec<u8>>, Vec<u8>, Option<u64>),
    Add(u8, i64, i64),
    Count(u8),
    Push(u8, Vec<u8>),
    Pop(u8),
    Create(u8, u64),
    Take(u8, u64),
    Give(u8, u64, u64),
}

/// Few keys and values, so that operations meet.
fn op() -> impl Strategy<Value = Op> {
    let key = || 0..4u8;
    let value = || {
        prop::sample::select(vec![
            vec![],
            vec![1],
            vec![2; 46],
            vec![3; 47],
            vec![4; 300],
        ])
    };
    let ttl = || prop::option::of(1..50u64);
    prop_oneof![
        key().prop_map(Op::Get),
        (key(), value(), ttl()).prop_map(|(k, v, t)| Op::Put(k, v, t)),
        key().prop_map(Op::Delete),
        (key(), prop::option::of(value()), value(), ttl())
            .prop_map(|(k, e, v, t)| Op::CompareAndSet(k, e, v, t)),
        (key(), -5..5i64, 0..8i64).prop_map(|(k, d, h)| Op::Add(k, d, h)),
        key().prop_map(Op::Count),
        (key(), value()).prop_map(|(k, v)| Op::Push(k, v)),
        key().prop_map(Op::Pop),
        (key(), 0..4u64).prop_map(|(k, n)| Op::Create(k, n)),
        (key(), 0..2u64).prop_map(|(k, h)| Op::Take(k, h)),
        (key(), 100..104u64, 0..2u64).prop_map(|(k, n, h)| Op::Give(k, n, h)),
    ]
}

fn log() -> impl Strategy<Value = Vec<(u64, Op)>> {
    prop::collection::vec((0..20u64, op()), 1..200)
}

#[derive(Default)]
struct ModelPool {
    count: u64,
    fresh: u64,
    returned: VecDeque<u64>,
    holders: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Model {
    values: BTreeMap<u8, (Vec<u8>, u64)>,
    counters: BTreeMap<u8, i64>,
    queues: BTreeMap<u8, VecDeque<Vec<u8>>>,
    pools: BTreeMap<u8, ModelPool>,
}

/// What either side answers, in one form.
#[derive(PartialEq, Debug)]
enum Answer {
    Flag(bool),
    Value(Option<Vec<u8>>),
    Compared(bool, Option<Vec<u8>>),
    Number(i64),
    Done,
    Refused(Refusal),
}

fn ends(now: u64, ttl: Option<u64>) -> u64 {
    ttl.map_or(u64::MAX, |ttl| now + ttl)
}

impl Model {
    fn execute(&mut self, now: u64, op: &Op) -> Answer {
        self.values.retain(|_, value| value.1 > now);
        match op {
            Op::Get(k) => Answer::Value(self.values.get(k).map(|value| value.0.clone())),
            Op::Put(k, v, ttl) => Answer::Flag(
                self.values
                    .insert(*k, (v.clone(), ends(now, *ttl)))
                    .is_some(),
            ),
            Op::Delete(k) => Answer::Flag(self.values.remove(k).is_some()),
            Op::CompareAndSet(k, expected, v, ttl) => {
                let before = self.values.get(k).map(|value| value.0.clone());
                let swapped = before == *expected;
                if swapped {
                    self.values.insert(*k, (v.clone(), ends(now, *ttl)));
                }
                Answer::Compared(swapped, before)
            }
            Op::Add(k, delta, highest) => {
                let counter = self.counters.entry(*k).or_default();
                if !(0..=*highest).contains(&(*counter + delta)) {
                    return Answer::Refused(Refusal::OutOfRange);
                }
                *counter += delta;
                Answer::Number(*counter)
            }
            Op::Count(k) => Answer::Number(self.counters.get(k).copied().unwrap_or(0)),
            Op::Push(k, v) => {
                let queue = self.queues.entry(*k).or_default();
                queue.push_back(v.clone());
                Answer::Number(queue.len() as i64)
            }
            Op::Pop(k) => Answer::Value(self.queues.entry(*k).or_default().pop_front()),
            Op::Create(k, count) => {
                if self.pools.contains_key(k) {
                    return Answer::Refused(Refusal::AlreadyExists);
                }
                self.pools.insert(
                    *k,
                    ModelPool {
                        count: *count,
                        ..Default::default()
                    },
                );
                Answer::Done
            }
            Op::Take(k, holder) => {
                let Some(pool) = self.pools.get_mut(k) else {
                    return Answer::Refused(Refusal::NotFound);
                };
                let number = if pool.fresh < pool.count {
                    pool.fresh += 1;
                    100 + pool.fresh - 1
                } else if let Some(number) = pool.returned.pop_front() {
                    number
                } else {
                    return Answer::Refused(Refusal::Exhausted);
                };
                assert_eq!(pool.holders.insert(number, *holder), None);
                Answer::Number(number as i64)
            }
            Op::Give(k, number, holder) => {
                let held = self.pools.get(k).and_then(|pool| pool.holders.get(number));
                match held {
                    None => Answer::Refused(Refusal::NotFound),
                    Some(by) if by != holder => Answer::Refused(Refusal::NotOwner),
                    Some(_) => {
                        let pool = self.pools.get_mut(k).unwrap();
                        pool.holders.remove(number);
                        pool.returned.push_back(*number);
                        Answer::Done
                    }
                }
            }
        }
    }
}

fn call<O: Operation>(
    store: &mut Store,
    now: u64,
    op: &O,
    answer: impl FnOnce(O::Reply) -> Answer,
) -> Answer {
    let mut reply = vec![9; 3];
    store.execute(LogTime::from_millis(now), &op.encode(), &mut reply);
    match O::decode_reply(&reply) {
        Ok(reply) => answer(reply),
        Err(ReplyError::Refused(refusal)) => Answer::Refused(refusal),
        Err(ReplyError::Malformed) => panic!("malformed reply {reply:?}"),
    }
}

fn execute(store: &mut Store, now: u64, op: &Op) -> Answer {
    let span = |ttl: &Option<u64>| ttl.map(Duration::from_millis);
    match op {
        Op::Get(k) => call(store, now, &kv::Get { key: &[*k] }, Answer::Value),
        Op::Put(k, value, ttl) => call(
            store,
            now,
            &kv::Put {
                key: &[*k],
                value,
                ttl: span(ttl),
            },
            Answer::Flag,
        ),
        Op::Delete(k) => call(store, now, &kv::Delete { key: &[*k] }, Answer::Flag),
        Op::CompareAndSet(k, expected, value, ttl) => {
            let (expected, ttl) = (expected.as_deref(), span(ttl));
            let op = kv::CompareAndSet {
                key: &[*k],
                expected,
                value,
                ttl,
            };
            call(store, now, &op, |c| Answer::Compared(c.swapped, c.before))
        }
        Op::Add(k, delta, highest) => {
            let op = counter::Add {
                key: &[*k],
                delta: *delta,
                lowest: 0,
                highest: *highest,
            };
            call(store, now, &op, Answer::Number)
        }
        Op::Count(k) => call(store, now, &counter::Get { key: &[*k] }, Answer::Number),
        Op::Push(k, item) => call(store, now, &queue::Push { key: &[*k], item }, |n| {
            Answer::Number(n as i64)
        }),
        Op::Pop(k) => call(store, now, &queue::Pop { key: &[*k] }, Answer::Value),
        Op::Create(k, count) => {
            let op = pool::Create {
                key: &[*k],
                first: 100,
                count: *count,
            };
            call(store, now, &op, |()| Answer::Done)
        }
        Op::Take(k, holder) => {
            let op = pool::Take {
                key: &[*k],
                holder: *holder,
            };
            call(store, now, &op, |n| Answer::Number(n as i64))
        }
        Op::Give(k, number, holder) => {
            let op = pool::Give {
                key: &[*k],
                number: *number,
                holder: *holder,
            };
            call(store, now, &op, |()| Answer::Done)
        }
    }
}

fn store() -> Store {
    Store::new(Registry::builtin(), Limits::default())
}

proptest! {
    #[test]
    fn answers_are_those_of_the_model(log in log()) {
        let (mut store, mut model, mut now) = (store(), Model::default(), 0);
        for (wait, op) in &log {
            now += wait;
            prop_assert_eq!(execute(&mut store, now, op), model.execute(now, op), "{:?}", op);
            store.check();
        }
    }

    #[test]
    fn equal_logs_make_equal_stores_whatever_their_seed(log in log()) {
        let mut one = store();
        let mut two = Store::with_seed(Registry::builtin(), Limits::default(), [7, 8]);
        let mut now = 0;
        for (wait, op) in &log {
            now += wait;
            prop_assert_eq!(execute(&mut one, now, op), execute(&mut two, now, op));
            prop_assert_eq!(one.digest(), two.digest());
        }
        prop_assert_eq!(one.snapshot(), two.snapshot());
    }

    #[test]
    fn a_restored_store_goes_on_identically(log in log(), cut in 0..200usize) {
        let (head, tail) = log.split_at(cut.min(log.len()));
        let (mut one, mut now) = (store(), 0);
        for (wait, op) in head {
            now += wait;
            execute(&mut one, now, op);
        }
        let mut two = store();
        execute(&mut two, 3, &Op::Put(9, vec![1], Some(5)));
        let bytes = one.snapshot();
        two.restore(&bytes).unwrap();
        two.check();
        prop_assert_eq!(two.snapshot(), bytes);
        prop_assert_eq!(two.digest(), one.digest());
        for (wait, op) in tail {
            now += wait;
            prop_assert_eq!(execute(&mut one, now, op), execute(&mut two, now, op));
            prop_assert_eq!(one.digest(), two.digest());
        }
        prop_assert_eq!(one.snapshot(), two.snapshot());
    }

    #[test]
    fn whatever_changes_what_can_be_read_changes_the_digest(log in log()) {
        let (mut store, mut now) = (store(), 0);
        for (wait, op) in &log {
            now += wait;
            // Let time pass and timers fire first, so that only the operation differs.
            execute(&mut store, now, &Op::Get(200));
            let (bytes, digest) = (store.snapshot(), store.digest());
            execute(&mut store, now, op);
            prop_assert_eq!(bytes == store.snapshot(), digest == store.digest(), "{:?}", op);
        }
    }
}
