//! A map for keys that are drawn one after the other.

use alloc::collections::VecDeque;

/// A map whose keys rise with each insertion. Those between the first and the last take a place
/// each, there or not. It allocates nothing once there were as many at a time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ring<T> {
    /// The first key; 0 if there is none.
    first: u64,
    /// The first and the last hold something.
    places: VecDeque<Option<T>>,
    held: usize,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self {
            first: 0,
            places: VecDeque::new(),
            held: 0,
        }
    }
}

impl<T> Ring<T> {
    fn index(&self, key: &u64) -> Option<usize> {
        usize::try_from(key.checked_sub(self.first)?).ok()
    }

    /// Whether there is nothing.
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// How many values there are.
    pub const fn len(&self) -> usize {
        self.held
    }

    /// The lowest key.
    pub fn first(&self) -> Option<u64> {
        (!self.places.is_empty()).then_some(self.first)
    }

    /// Whether there is something under a key.
    pub fn contains_key(&self, key: &u64) -> bool {
        self.get(key).is_some()
    }

    /// What is under a key.
    pub fn get(&self, key: &u64) -> Option<&T> {
        self.places.get(self.index(key)?)?.as_ref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &u64) -> Option<&mut T> {
        let index = self.index(key)?;
        self.places.get_mut(index)?.as_mut()
    }

    /// Adds a value under a key above all others.
    ///
    /// # Panics
    /// If it is not above them.
    pub fn insert(&mut self, key: u64, value: T) {
        if self.places.is_empty() {
            self.first = key;
        }
        let index = self.index(&key).expect("keys rise");
        assert!(index >= self.places.len(), "keys rise");
        self.places.resize_with(index, || None);
        self.places.push_back(Some(value));
        self.held += 1;
    }

    /// Takes out what is under a key.
    pub fn remove(&mut self, key: &u64) -> Option<T> {
        let index = self.index(key)?;
        let value = self.places.get_mut(index)?.take()?;
        self.held -= 1;
        while self.places.front().is_some_and(Option::is_none) {
            self.places.pop_front();
            self.first += 1;
        }
        while self.places.back().is_some_and(Option::is_none) {
            self.places.pop_back();
        }
        if self.places.is_empty() {
            self.first = 0;
        }
        Some(value)
    }

    /// All values in the order of their keys.
    pub fn into_values(self) -> impl Iterator<Item = T> {
        self.places.into_iter().flatten()
    }

    /// All values with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let keyed = (self.first..).zip(&mut self.places);
        keyed.filter_map(|(key, value)| Some((key, value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ring_is_a_map(steps in prop::collection::vec((any::<bool>(), 0..40_u64), 0..200)) {
            let (mut ring, mut map, mut next) = (Ring::default(), BTreeMap::new(), 7);
            for (adds, n) in steps {
                if adds {
                    next += n % 3;
                    ring.insert(next, n);
                    map.insert(next, n);
                    next += 1;
                } else {
                    let key = next.saturating_sub(n);
                    prop_assert_eq!(ring.get(&key), map.get(&key));
                    prop_assert_eq!(ring.get_mut(&key), map.get_mut(&key));
                    prop_assert_eq!(ring.remove(&key), map.remove(&key));
                }
                prop_assert_eq!(ring.len(), map.len());
                prop_assert_eq!(ring.first(), map.keys().next().copied());
            }
            prop_assert!(ring.into_values().eq(map.into_values()));
        }
    }
}
