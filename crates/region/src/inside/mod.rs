//! Structures that lie in a region: a map, a ring, a text, counters with names.
//!
//! Each knows only where it lies and how large it is. The writer changes it through its
//! [`Publisher`](crate::Publisher); readers look it up in a [`Snapshot`](crate::Snapshot),
//! or in place through a [`View`](crate::View), which touches only the lines in question.
//! (An array needs no structure: a region can be a `[V]`, or hold `[V; N]`.)

mod counters;
mod map;
mod ring;
mod text;

pub use counters::{Counted, Counter, Counters, How, Tally};
pub use map::{Full, Map};
pub use ring::{Ring, Seen};
pub use text::{Text, TooLong};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::reader::{Snapshot, View};
use crate::spec::Content;

/// Bytes that a structure is read from.
pub trait Source {
    /// Copies the bytes at `at` out; false, and nothing is done, if there are none.
    fn load(&self, at: usize, into: &mut [u8]) -> bool;

    /// The word at `at`, a multiple of its size; none outside.
    #[inline]
    fn word(&self, at: usize) -> Option<u64> {
        value(self, at)
    }

    /// The line at `at` will be loaded soon: a hint, that waits for nothing.
    #[inline]
    fn expect(&self, at: usize) {
        let _ = at;
    }
}

impl Source for [u8] {
    #[inline]
    fn load(&self, at: usize, into: &mut [u8]) -> bool {
        let end = at.checked_add(into.len());
        let bytes = end.and_then(|end| self.get(at..end));
        bytes.inspect(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}

impl Source for View<'_> {
    #[inline]
    fn load(&self, at: usize, into: &mut [u8]) -> bool {
        View::load(self, at, into)
    }

    #[inline]
    fn word(&self, at: usize) -> Option<u64> {
        View::word(self, at)
    }

    #[inline]
    fn expect(&self, at: usize) {
        View::expect(self, at);
    }
}

impl<T: ?Sized + Content> Source for Snapshot<T> {
    #[inline]
    fn load(&self, at: usize, into: &mut [u8]) -> bool {
        self.bytes().load(at, into)
    }
}

/// The value at `at`; none if that is outside.
#[inline]
fn value<V: FromBytes + IntoBytes + Immutable>(
    source: &(impl Source + ?Sized),
    at: usize,
) -> Option<V> {
    let mut value = V::new_zeroed();
    source.load(at, value.as_mut_bytes()).then_some(value)
}

/// The bytes that a slot of `used` bytes takes, so that none lies in more lines than it
/// must.
const fn slot_bytes(used: usize) -> usize {
    if used <= crate::LINE {
        used.next_power_of_two()
    } else {
        used.next_multiple_of(crate::LINE)
    }
}
