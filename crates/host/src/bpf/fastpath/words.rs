//! The memory of a BPF array map, shared with the programs that use it.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::map::Mapping;

/// The words of a table, as the kernel's program has them. Clones are the same memory, which
/// lives as long as one of them does.
#[derive(Clone)]
pub struct Words(Arc<Shared>);

struct Shared {
    mapping: Mapping,
    count: usize,
}

// SAFETY: the memory is only ever lent as atomic words, which any thread may use at once.
unsafe impl Sync for Shared {}

impl Words {
    /// Maps the first `count` words of the array map behind `fd`, which has at least so many.
    pub(super) fn map(fd: impl AsFd, count: usize) -> io::Result<Self> {
        let mapping = Mapping::shared(fd, 0, count * size_of::<AtomicU64>())?;
        Ok(Self(Arc::new(Shared { mapping, count })))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        let start = self.0.mapping.start().cast::<AtomicU64>();
        // SAFETY: the mapping starts at a page, so it is aligned; it is at least `count` words
        // long, all of which any bits are valid for; it stays mapped while `self.0` lives, and
        // nobody in this process has another kind of reference to it. What the kernel writes
        // meanwhile are whole words as well.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.0.count) }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({})", self.0.count)
    }
}
