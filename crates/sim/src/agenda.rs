//! The virtual future: what happens when, in an order that depends on nothing
//! but the run itself. The heap holds small keys; what happens lies still in a
//! slab until it is due.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// When (64 bits), in which order among equals (32), and where in the slab (32): one number,
/// so that two are compared at once.
type Key = Reverse<u128>;

const fn key(at: u64, serial: u32, place: u32) -> Key {
    Reverse((at as u128) << 64 | (serial as u128) << 32 | place as u128)
}

/// A queue of future events. Equal times are served in the order of insertion.
pub(crate) struct Agenda<T> {
    heap: BinaryHeap<Key>,
    slab: Vec<Option<T>>,
    free: Vec<u32>,
    serial: u32,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::with_capacity(256),
            slab: Vec::with_capacity(256),
            free: Vec::new(),
            serial: 0,
        }
    }

    /// Notes that `what` happens at `at`.
    pub(crate) fn add(&mut self, at: u64, what: T) {
        self.serial += 1;
        let place = if let Some(place) = self.free.pop() {
            self.slab[place as usize] = Some(what);
            place
        } else {
            self.slab.push(Some(what));
            u32::try_from(self.slab.len() - 1).expect("a run's future is short")
        };
        self.heap.push(key(at, self.serial, place));
    }

    /// The next event, if it is due before `limit`.
    pub(crate) fn next(&mut self, limit: u64) -> Option<(u64, T)> {
        let next = self.heap.peek_mut()?;
        #[allow(clippy::cast_possible_truncation)] // each part is what was put in
        let (at, place) = ((next.0 >> 64) as u64, next.0 as u32);
        if at >= limit {
            return None;
        }
        PeekMut::pop(next);
        self.free.push(place);
        let what = self.slab[place as usize].take();
        Some((at, what.expect("what is on the heap is in the slab")))
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
