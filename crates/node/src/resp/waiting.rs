//! Connections whose command waits for an item of a list.
//!
//! The store keeps no list of who waits: it is replicated, and connections are not. A command
//! that found nothing is asked again when a command of this front end pushes to one of its
//! keys, first come, first served; and from time to time, without a slot, because others push
//! through other front ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use stateplane_base::Time;

/// What a key is known by here; two of one number are woken for each other in vain.
pub(super) fn number(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[derive(Debug)]
struct Waiter {
    since: u64,
    again: Time,
    keys: Vec<u64>,
}

/// Who waits for what, and until when.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: HashMap<u64, Waiter>,
    /// By key, and since when.
    keys: BTreeMap<(u64, u64), u64>,
    again: BTreeSet<(Time, u64)>,
    last: u64,
}

impl Waiting {
    /// Connection `id` waits until it is asked again; since when, if it has waited before, keeps
    /// its place in the queue.
    pub(super) fn add(&mut self, id: u64, since: Option<u64>, again: Time, keys: &[u64]) -> u64 {
        self.remove(id);
        self.last += 1;
        let since = since.unwrap_or(self.last);
        for key in keys {
            self.keys.insert((*key, since), id);
        }
        self.again.insert((again, id));
        let keys = keys.to_vec();
        self.waiters.insert(id, Waiter { since, again, keys });
        since
    }

    /// It waits no longer.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(waiter) = self.waiters.remove(&id) {
            for key in waiter.keys {
                self.keys.remove(&(key, waiter.since));
            }
            self.again.remove(&(waiter.again, id));
        }
    }

    /// So many items were pushed to a key: those who are to ask for them now.
    pub(super) fn pushed(&mut self, key: u64, items: usize) -> Vec<u64> {
        let queue = self.keys.range((key, 0)..=(key, u64::MAX));
        let woken: Vec<u64> = queue.take(items).map(|(_, id)| *id).collect();
        woken.iter().for_each(|id| self.remove(*id));
        woken
    }

    /// When the next one asks again.
    pub(super) fn next(&self) -> Option<Time> {
        self.again.first().map(|(again, _)| *again)
    }

    /// One who is to ask again by now.
    pub(super) fn due(&mut self, now: Time) -> Option<u64> {
        let (_, id) = *self.again.first().filter(|(again, _)| *again <= now)?;
        self.remove(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_first_is_woken_first_and_keeps_its_place() {
        let (mut waiting, at) = (Waiting::default(), Time::from_millis);
        let (a, b) = (number(b"a"), number(b"b"));
        let first = waiting.add(1, None, at(10), &[a, b]);
        waiting.add(2, None, at(5), &[a]);
        waiting.add(3, None, at(20), &[b]);
        assert_eq!(waiting.due(at(4)), None);
        assert_eq!((waiting.next(), waiting.due(at(5))), (Some(at(5)), Some(2)));
        assert_eq!(waiting.pushed(a, 5), [1]);
        assert_eq!(waiting.add(1, Some(first), at(30), &[a, b]), first);
        assert_eq!(waiting.pushed(b, 1), [1]);
        assert_eq!(waiting.pushed(b, 1), [3]);
        assert_eq!((waiting.next(), waiting.pushed(b, 9)), (None, vec![]));
    }
}
