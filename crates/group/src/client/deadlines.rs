//! Deadlines of operations, in memory that is used again.

use alloc::collections::VecDeque;

use stateplane_base::Time;

/// Deadlines in order. New ones come late and old ones go first, so hardly anything moves.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Deadlines {
    sorted: VecDeque<(Time, u64)>,
}

impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The earliest.
    pub(super) fn first(&self) -> Option<&(Time, u64)> {
        self.sorted.front()
    }

    pub(super) fn insert(&mut self, deadline: (Time, u64)) {
        if let Err(place) = self.sorted.binary_search(&deadline) {
            self.sorted.insert(place, deadline);
        }
    }

    pub(super) fn remove(&mut self, deadline: &(Time, u64)) {
        if let Ok(place) = self.sorted.binary_search(deadline) {
            self.sorted.remove(place);
        }
    }

    /// All are due at `now`.
    #[cfg(feature = "model")]
    pub(super) fn fire(&mut self, now: Time) {
        self.sorted.iter_mut().for_each(|(at, _)| *at = now);
        self.sorted.make_contiguous().sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn deadlines_are_sorted(steps in prop::collection::vec((any::<bool>(), 0..20_u64, 0..9_u64), 0..100)) {
            let (mut deadlines, mut set) = (Deadlines::default(), BTreeSet::new());
            for (adds, ms, id) in steps {
                let one = (Time::from_millis(ms), id);
                if adds {
                    deadlines.insert(one);
                    set.insert(one);
                } else {
                    deadlines.remove(&one);
                    set.remove(&one);
                }
                prop_assert_eq!(deadlines.first(), set.first());
            }
            prop_assert_eq!(deadlines.len(), set.len());
            let all: Vec<_> = set.into_iter().collect();
            prop_assert_eq!(deadlines.sorted.make_contiguous(), &all[..]);
        }
    }
}
