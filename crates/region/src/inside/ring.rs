//! The last so many values of a sequence that does not end.

use std::marker::PhantomData;

use zerocopy::IntoBytes;

use super::{Source, slot_bytes, value};
use crate::LINE;
use crate::publisher::Publisher;
use crate::spec::Content;

/// A ring in a region: the writer appends, readers go on from where they were, and are
/// told how much they have missed.
///
/// ```
/// # use stateplane_region::{Reader, Ring, Spec, Writer};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Ring::<u64>::new(0, 100);
/// let mut writer = Writer::<[u8]>::create(&Spec::bytes(log.bytes()))?;
/// (0..5).for_each(|n| log.push(&mut writer, &(n * n)));
/// writer.publish()?;
/// # let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
/// let mut squares = vec![];
/// let seen = log.since(&reader.snapshot()?, 2, |_, square| squares.push(square));
/// assert_eq!((squares, seen.next, seen.lost), (vec![4, 9, 16], 5, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ring<V> {
    at: usize,
    capacity: usize,
    values: PhantomData<fn() -> V>,
}

impl<V> Clone for Ring<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Ring<V> {}

/// How far a reader has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What to go on from the next time.
    pub next: u64,
    /// Values that were overwritten before this reader came.
    pub lost: u64,
}

impl<V: Content> Ring<V> {
    /// A ring of `capacity` values that lies at byte `at` of its region. Bytes of zero are
    /// an empty ring.
    ///
    /// # Panics
    /// If `at` is not a multiple of [`LINE`], or the capacity is zero.
    pub const fn new(at: usize, capacity: usize) -> Self {
        assert!(at.is_multiple_of(LINE) && capacity > 0);
        Self {
            at,
            capacity,
            values: PhantomData,
        }
    }

    /// Bytes it takes.
    pub const fn bytes(&self) -> usize {
        LINE + self.capacity * slot_bytes(size_of::<V>())
    }

    fn slot_at(&self, number: u64) -> usize {
        let slot = (number % self.capacity as u64) as usize;
        self.at + LINE + slot * slot_bytes(size_of::<V>())
    }

    /// Appends a value.
    ///
    /// # Panics
    /// If the ring does not lie within the region.
    pub fn push(&self, region: &mut Publisher, value: &V) {
        let next = self.next(region.bytes());
        let bytes = region.bytes_mut(self.slot_at(next), size_of::<V>());
        bytes.copy_from_slice(value.as_bytes());
        let count = region.bytes_mut(self.at, size_of::<u64>());
        count.copy_from_slice(next.wrapping_add(1).as_bytes());
    }

    /// How many values were ever appended.
    pub fn next(&self, source: &(impl Source + ?Sized)) -> u64 {
        value(source, self.at).unwrap_or(0)
    }

    /// Hands the values since number `seen` to `each`, with their numbers, oldest first:
    /// at most as many as the ring holds.
    pub fn since(
        &self,
        source: &(impl Source + ?Sized),
        seen: u64,
        mut each: impl FnMut(u64, V),
    ) -> Seen {
        let next = self.next(source);
        // A ring that was begun anew is behind who has seen the old one.
        let seen = if seen > next { 0 } else { seen };
        let first = seen.max(next.saturating_sub(self.capacity as u64));
        for number in first..next {
            if let Some(value) = value(source, self.slot_at(number)) {
                each(number, value);
            }
        }
        Seen {
            next,
            lost: first - seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;
    use crate::writer::Writer;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ring_keeps_the_last_values(
            capacity in 1usize..20,
            steps in proptest::collection::vec(0u64..30, 1..20),
        ) {
            let ring = Ring::<[u32; 3]>::new(64, capacity);
            let mut writer = Writer::<[u8]>::create(&Spec::bytes(64 + ring.bytes())).unwrap();
            let (mut pushed, mut seen) = (0u64, 0u64);
            for count in steps {
                for number in pushed..pushed + count {
                    ring.push(&mut writer, &[number as u32, 1, 2]);
                }
                pushed += count;
                let mut got = vec![];
                let answer = ring.since(writer.bytes(), seen, |number, [value, _, _]| {
                    got.push((number, u64::from(value)));
                });
                let lost = (pushed - seen).saturating_sub(capacity as u64);
                prop_assert_eq!(answer, Seen { next: pushed, lost });
                prop_assert!(got.into_iter().eq((seen + lost..pushed).map(|n| (n, n))));
                seen = pushed;
            }
            prop_assert_eq!(&writer.bytes()[..64], &[0; 64], "not ours");
        }

        /// A view may be torn while it is looked at.
        #[test]
        fn any_bytes_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..600), seen: u64) {
            let mut count = 0;
            Ring::<u64>::new(0, 16).since(&bytes[..], seen, |_, _| count += 1);
            prop_assert!(count <= 16);
        }
    }
}
