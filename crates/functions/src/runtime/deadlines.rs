//! When decisions run out of time.

use alloc::collections::VecDeque;

use stateplane_base::Time;

use crate::context::TaskId;

/// Deadlines in their order. Nearly all are as far away as each other when they are set, so new
/// ones come last; those that are met leave in about the order they came in.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    sorted: VecDeque<(Time, TaskId)>,
}

impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn first(&self) -> Option<(Time, TaskId)> {
        self.sorted.front().copied()
    }

    pub(super) fn insert(&mut self, due: Time, task: TaskId) {
        let last = self.sorted.back().is_none_or(|&(last, _)| last <= due);
        let place = match last {
            true => self.sorted.len(),
            false => self.sorted.partition_point(|&(other, _)| other <= due),
        };
        self.sorted.insert(place, (due, task));
    }

    pub(super) fn remove(&mut self, due: Time, task: TaskId) {
        if let Some(place) = self.place(due, task) {
            self.sorted.remove(place);
        }
    }

    pub(super) fn contains(&self, due: Time, task: TaskId) -> bool {
        self.place(due, task).is_some()
    }

    fn place(&self, due: Time, task: TaskId) -> Option<usize> {
        if self.sorted.front() == Some(&(due, task)) {
            return Some(0);
        }
        let from = self.sorted.partition_point(|&(other, _)| other < due);
        let mut same = self.sorted.range(from..).take_while(|other| other.0 == due);
        same.position(|&(_, other)| other == task).map(|n| from + n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn deadlines_are_a_sorted_set(steps in prop::collection::vec((any::<bool>(), 0..9_u64, 0..20_u64), 0..100)) {
            let (mut deadlines, mut set) = (Deadlines::default(), BTreeSet::new());
            for (adds, ms, id) in steps {
                let (due, task) = (Time::from_millis(ms), TaskId(id));
                match adds {
                    true if set.insert((due, task)) => deadlines.insert(due, task),
                    true => {}
                    false => {
                        set.remove(&(due, task));
                        deadlines.remove(due, task);
                    }
                }
                prop_assert_eq!(deadlines.contains(due, task), set.contains(&(due, task)));
                prop_assert!(deadlines.sorted.iter().is_sorted_by_key(|&(due, _)| due));
                prop_assert_eq!(deadlines.first().map(|first| first.0), set.first().map(|first| first.0));
            }
            let found: BTreeSet<_> = deadlines.sorted.iter().copied().collect();
            prop_assert_eq!((deadlines.len(), found), (set.len(), set));
        }
    }
}
