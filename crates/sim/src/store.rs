//! The workload in the store's own language.
use crate::dice::mix;
use crate::recorder::tagged;
use crate::spec::{Action, Outcome, POOL_ITEMS};
use core::time::Duration;
use stateplane_base::{Blob, LogTime};
use stateplane_state::builtin::{counter, kv, pool, queue};
use stateplane_state::op::{Operation, ReplyError};
use stateplane_state::{Application, Limits, Refusal, Registry, Store};
use std::sync::{Arc, LazyLock};

/// What makes the pools that exist from the start.
static POOLS: LazyLock<[Vec<u8>; 8]> = LazyLock::new(|| {
    [0, 1, 2, 3, 4, 5, 6, 7].map(|pool| {
        let create = pool::Create {
            key: &[b'p', pool],
            first: 0,
            count: POOL_ITEMS,
        };
        create.encode()
    })
});

/// On whose behalf items are taken; who that is makes no difference here.
const HOLDER: u64 = 1;

/// All stores have the same procedures, put together once.
static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(|| Arc::new(Registry::builtin()));

/// The store every replica starts with. `secret` places its hash tables, and
/// differs from replica to replica: no answer may depend on it.
pub(crate) fn empty(secret: [u64; 2]) -> Store {
    let mut store = Store::with_seed(Arc::clone(&REGISTRY), Limits::default(), secret);
    let mut reply = Vec::with_capacity(16);
    for create in &*POOLS {
        store.execute(LogTime::ZERO, create, &mut reply);
        assert_eq!(pool::Create::decode_reply(&reply), Ok(()));
    }
    store
}

/// The tagged operation that carries out `action`.
pub(crate) fn encode(tag: u64, action: Action) -> Vec<u8> {
    tagged(tag, &operation(&[], action))
}

/// The operation that carries out `action` on an object of `space`: a store has any number
/// of spaces, whose objects have nothing to do with each other.
pub fn operation(space: &[u8], action: Action) -> Vec<u8> {
    let name = |kind: u8, number: u8| Blob::<22>::join(&[kind, number], space);
    match action {
        Action::Get(k) => kv::Get {
            key: &name(b'k', k),
        }
        .encode(),
        Action::Put(k, new) => put(&name(b'k', k), new, None),
        Action::Delete(k) => kv::Delete {
            key: &name(b'k', k),
        }
        .encode(),
        Action::Swap(k, old, new) => kv::CompareAndSet {
            key: &name(b'k', k),
            expected: Some(&value(old)),
            value: &value(new),
            ttl: None,
        }
        .encode(),
        Action::Hold(k, new, ms) => put(&name(b't', k), new, Some(Duration::from_millis(ms))),
        Action::Look(k) => kv::Get {
            key: &name(b't', k),
        }
        .encode(),
        Action::Add(c, delta) => counter::Add {
            key: &name(b'c', c),
            delta,
            lowest: i64::MIN,
            highest: i64::MAX,
        }
        .encode(),
        Action::Push(q, new) => queue::Push {
            key: &name(b'q', q),
            item: &value(new),
        }
        .encode(),
        Action::Pop(q) => queue::Pop {
            key: &name(b'q', q),
        }
        .encode(),
        Action::Take(p) => pool::Take {
            key: &name(b'p', p),
            holder: HOLDER,
        }
        .encode(),
        Action::Give(p, number) => pool::Give {
            key: &name(b'p', p),
            number,
            holder: HOLDER,
        }
        .encode(),
    }
}

/// What `reply` says about `action`; `None` if it is no answer to it.
pub fn decode(action: Action, reply: &[u8]) -> Option<Outcome> {
    let number = |bytes: Option<Vec<u8>>| match bytes {
        None => Some(Outcome::Found(None)),
        Some(bytes) => read_value(&bytes).map(|value| Outcome::Found(Some(value))),
    };
    match action {
        Action::Get(_) | Action::Look(_) => number(kv::Get::decode_reply(reply).ok()?),
        Action::Put(..) | Action::Hold(..) => kv::Put::decode_reply(reply).ok().map(Outcome::Took),
        Action::Delete(_) => kv::Delete::decode_reply(reply).ok().map(Outcome::Took),
        Action::Swap(..) => {
            let compared = kv::CompareAndSet::decode_reply(reply).ok()?;
            Some(Outcome::Took(compared.swapped))
        }
        Action::Add(..) => counter::Add::decode_reply(reply).ok().map(Outcome::Sum),
        Action::Push(..) => {
            let length = queue::Push::decode_reply(reply).ok()?;
            i64::try_from(length).ok().map(Outcome::Sum)
        }
        Action::Pop(_) => number(queue::Pop::decode_reply(reply).ok()?),
        Action::Take(_) => match pool::Take::decode_reply(reply) {
            Ok(number) => Some(Outcome::Found(Some(number))),
            Err(ReplyError::Refused(Refusal::Exhausted)) => Some(Outcome::Found(None)),
            Err(_) => None,
        },
        Action::Give(..) => match pool::Give::decode_reply(reply) {
            Ok(()) => Some(Outcome::Took(true)),
            Err(ReplyError::Refused(Refusal::NotFound)) => Some(Outcome::Took(false)),
            Err(_) => None,
        },
    }
}

fn put(key: &[u8], new: u64, ttl: Option<Duration>) -> Vec<u8> {
    kv::Put {
        key,
        value: &value(new),
        ttl,
    }
    .encode()
}

/// A number as a value; some are long, so that requests differ in size, and no two have a
/// part in common.
fn value(number: u64) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let padding = if number.is_multiple_of(5) {
        number * 7 % 400
    } else {
        0
    };
    bytes.extend((0..padding).map(|at| (mix(number ^ at << 32) & 0xff) as u8));
    bytes
}

/// The number a value stands for, if it is whole.
fn read_value(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.first_chunk::<8>()?);
    (value(number) == bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use stateplane_state::op;

    /// The yardstick and the store agree where nothing goes wrong.
    #[test]
    fn the_store_does_what_the_specification_says() {
        let mut store = empty([1, 2]);
        let mut spec = Spec::default();
        let actions = [
            Action::Get(0),
            Action::Put(0, 7),
            Action::Swap(0, 6, 8),
            Action::Swap(0, 7, 9),
            Action::Get(0),
            Action::Delete(0),
            Action::Delete(0),
            Action::Hold(0, 21, 3),
            Action::Look(0),
            Action::Look(0),
            Action::Look(0),
            Action::Add(1, -5),
            Action::Add(1, 3),
            Action::Push(0, 14),
            Action::Push(0, 2),
            Action::Pop(0),
            Action::Pop(0),
            Action::Pop(0),
            Action::Give(0, 5),
            Action::Take(0),
            Action::Give(0, 0),
        ];
        let takes = [Action::Take(1); 25];
        for (i, action) in actions.into_iter().chain(takes).enumerate() {
            let op = encode(i as u64, action);
            assert!(op::decode(&op[8..]).is_some(), "{action:?}");
            let mut reply = Vec::new();
            let at = LogTime::from_millis(i as u64);
            store.execute(at, &op[8..], &mut reply);
            let outcome = decode(action, &reply).expect("an answer");
            assert!(
                spec.apply(at.as_nanos(), action, outcome),
                "{action:?} {outcome:?}"
            );
        }
    }
}
