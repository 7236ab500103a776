//! The virtual future: what happens when, in an order that depends on nothing
//! but the run itself.
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Something due at a time. Equal times are served in the order of insertion.
struct Entry<T> {
    at: u64,
    serial: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The heap serves the greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

/// A queue of future events.
pub(crate) struct Agenda<T> {
    heap: BinaryHeap<Entry<T>>,
    serial: u64,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            serial: 0,
        }
    }

    /// Notes that `what` happens at `at`.
    pub(crate) fn add(&mut self, at: u64, what: T) {
        self.serial += 1;
        self.heap.push(Entry {
            at,
            serial: self.serial,
            what,
        });
    }

    /// The next event, if it is due before `limit`.
    pub(crate) fn next(&mut self, limit: u64) -> Option<(u64, T)> {
        if self.heap.peek()?.at >= limit {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_equals_in_order_of_insertion() {
        let mut agenda = Agenda::new();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            agenda.add(at, what);
        }
        let order: String = std::iter::from_fn(|| agenda.next(6).map(|(_, what)| what)).collect();
        assert_eq!(order, "abcd");
        agenda.add(6, 'e');
        assert_eq!(agenda.next(6), None);
    }
}
