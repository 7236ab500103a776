//! Tasks by number, in places that are used again.

use alloc::vec::Vec;

use crate::context::TaskId;

/// Values under numbers that are never given twice: the place in the low half, in the high half
/// how many had it before.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> TaskId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let (turn, held) = &mut self.places[place as usize];
        *held = Some(value);
        TaskId(u64::from(*turn) << 32 | u64::from(place))
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&T> {
        let (turn, held) = self.places.get(id.0 as u32 as usize)?;
        held.as_ref().filter(|_| u64::from(*turn) == id.0 >> 32)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut T> {
        let (turn, held) = self.places.get_mut(id.0 as u32 as usize)?;
        held.as_mut().filter(|_| u64::from(*turn) == id.0 >> 32)
    }

    pub(super) fn remove(&mut self, id: TaskId) -> Option<T> {
        self.get(id)?;
        let place = id.0 as u32;
        let (turn, held) = &mut self.places[place as usize];
        // A place whose numbers are used up rests for ever.
        if let Some(next) = turn.checked_add(1) {
            *turn = next;
            self.free.push(place);
        }
        held.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, &T)> {
        let numbered = (0..).zip(&self.places);
        numbered.filter_map(|(place, (turn, held))| {
            Some((TaskId(u64::from(*turn) << 32 | place), held.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_value_for_ever() {
        let mut slab = Slab::default();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_eq!(slab.get(a), Some(&'a'));
        assert_eq!(slab.remove(a), Some('a'));
        let c = slab.insert('c');
        assert!(
            c != a && c.0 as u32 == a.0 as u32,
            "the place, not the number"
        );
        assert!(slab.get(a).is_none() && slab.get_mut(a).is_none());
        assert_eq!(slab.remove(a), None);
        assert!(slab.iter().eq([(c, &'c'), (b, &'b')]));
    }
}
