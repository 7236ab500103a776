//! Words that one writer changes while readers, among them the XDP program, use them.
//!
//! A record's *state* word is odd while its writer is at work, and differs afterwards. A reader
//! takes the state before and after what it reads, and uses it only if both were the same and even.

use core::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(test)]
mod model;

/// Words shared with readers.
pub trait Memory: core::ops::Deref<Target = [AtomicU64]> {}
impl<M: core::ops::Deref<Target = [AtomicU64]>> Memory for M {}

/// The memory is not of the size that the table's layout asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{words} words of memory do not hold {what}: {wants}")]
pub struct WrongSize {
    /// What it is for.
    pub what: &'static str,
    /// What it has.
    pub words: usize,
    /// What would do.
    pub wants: &'static str,
}

/// The index is beyond the end of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} {index} is beyond the last one, {last}")]
pub struct BeyondEnd {
    /// Of what.
    pub what: &'static str,
    /// The index.
    pub index: u16,
    /// The last one there is.
    pub last: usize,
}

/// Checks that `memory` is a power of two of `unit` words, `least` of them at least.
pub(super) fn sized(
    memory: &[AtomicU64],
    unit: usize,
    least: usize,
    what: &'static str,
) -> Result<(), WrongSize> {
    let words = memory.len();
    let units = words / unit;
    if words.is_multiple_of(unit) && units.is_power_of_two() && units >= least {
        return Ok(());
    }
    let wants = "a power of two of them, and no rest";
    Err(WrongSize { what, words, wants })
}

/// A state word, and the fences around what it guards.
pub(super) trait State {
    /// Its value.
    fn load(&self, order: Ordering) -> u64;
    /// Changes it.
    fn store(&self, word: u64, order: Ordering);
    /// Keeps what comes before from what comes behind.
    fn fence(order: Ordering);
}

impl State for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, word: u64, order: Ordering) {
        self.store(word, order);
    }

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

/// The writer's side: `busy` is odd, `done` is even and differs from what was there before.
#[inline]
pub(super) fn change<S: State>(state: &S, busy: u64, done: u64, write: impl FnOnce()) {
    state.store(busy, Ordering::Relaxed);
    // SYNC: with the fence in `read`: who sees a word written below sees `busy`, or later.
    S::fence(Ordering::Release);
    write();
    // SYNC: with the first load in `read`: who sees `done` sees all that was written.
    state.store(done, Ordering::Release);
}

/// A reader's side: what `read` gave, if nothing changed meanwhile, and the state. `same` says
/// which of the state's bits must not have changed.
#[inline]
pub(super) fn read<S: State, T>(
    state: &S,
    same: u64,
    read: impl FnOnce() -> T,
) -> Option<(u64, T)> {
    // SYNC: with the last store in `change`.
    let before = state.load(Ordering::Acquire);
    let found = read();
    // SYNC: with the fence in `change`.
    S::fence(Ordering::Acquire);
    let after = state.load(Ordering::Relaxed);
    ((before ^ after) & same == 0 && before & 1 == 0).then_some((before, found))
}

/// A word of whose order nothing depends: the state's does it.
#[inline]
pub(super) fn load(words: &[AtomicU64], at: usize) -> u64 {
    words[at].load(Ordering::Relaxed)
}

/// The other half of [`load`].
#[inline]
pub(super) fn store(words: &[AtomicU64], at: usize, word: u64) {
    words[at].store(word, Ordering::Relaxed);
}
