//! Memory that other processes see too: mapping it, copying into and out of it.
//!
//! The only module of the crate with `unsafe`. Shared memory may change while it is
//! read, so no reference to its bytes ever exists on the Rust side: single words are
//! atomics, and runs of lines are copied by instructions the compiler does not see into
//! ([`copy`]). Whether what was copied is of one version is for [`crate::protocol`].

mod copy;
mod ticks;

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) use ticks::ticks;

/// Bytes of a line: what a processor moves at once, and the grain of the log of changes.
pub const LINE: usize = 64;
const WORD: usize = size_of::<u64>();

/// One line of private memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(crate) struct Line([u64; LINE / WORD]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; LINE / WORD]);
}

/// Shared memory, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    copy: Option<copy::Lines>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access goes
// through atomics or through `copy`, which tolerate any other access at the same time.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`. The caller makes sure that the object has them
    /// and cannot shrink: memory that is gone would be a SIGBUS.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let access = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // Page faults belong to the start, not to the first publish or read.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a null hint without MAP_FIXED replaces no existing mapping.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, flags, fd, 0)? };
        let start = NonNull::new(start.cast::<u8>()).expect("mmap never maps page 0 by itself");
        Ok(Self {
            start,
            len,
            writable,
            copy: copy::fastest(),
        })
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The word at byte `at`.
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD) && at + WORD <= self.len);
        // SAFETY: inside the mapping, aligned (mappings begin at a page), mapped as long
        // as `self`, and accessed as nothing but an atomic or by `copy`.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast()) }
    }

    #[inline]
    pub(crate) fn load_word(&self, at: usize, order: Ordering) -> u64 {
        self.word(at).load(order)
    }

    #[inline]
    pub(crate) fn store_word(&self, at: usize, value: u64, order: Ordering) {
        assert!(self.writable, "only the writer's mapping is writable");
        self.word(at).store(value, order);
    }

    /// Copies lines to `at`. Unordered, like relaxed stores.
    #[inline]
    pub(crate) fn store(&self, at: usize, from: &[Line]) {
        let fits = at
            .checked_add(size_of_val(from))
            .is_some_and(|end| end <= self.len);
        assert!(self.writable && fits && at.is_multiple_of(LINE));
        let Some(copy) = self.copy else {
            for (word, offset) in from.as_bytes().chunks_exact(WORD).zip((at..).step_by(WORD)) {
                let word = u64::from_ne_bytes(word.try_into().expect("a chunk is a word"));
                self.word(offset).store(word, Ordering::Relaxed);
            }
            return;
        };
        // SAFETY: the source is borrowed; the target lies inside the mapping, which is
        // writable; they cannot overlap, since nothing borrows from a mapping.
        unsafe {
            let to = self.start.as_ptr().add(at);
            copy(to, from.as_ptr().cast(), from.len());
        }
    }

    /// Copies bytes from `at`. Unordered, like relaxed loads; may be torn.
    #[inline]
    pub(crate) fn load(&self, at: usize, into: &mut [u8]) {
        let fits = at
            .checked_add(into.len())
            .is_some_and(|end| end <= self.len);
        assert!(fits);
        let head = into.len().min(at.wrapping_neg() % WORD);
        let (first, rest) = into.split_at_mut(head);
        self.load_part(at, first);
        let lines = if self.copy.is_some() {
            rest.len() / LINE
        } else {
            0
        };
        let (bulk, tail) = rest.split_at_mut(lines * LINE);
        if let (Some(copy), true) = (self.copy, lines > 0) {
            // SAFETY: the source lies inside the mapping, the target is borrowed, and
            // nothing borrows from a mapping.
            unsafe {
                let from = self.start.as_ptr().add(at + head);
                copy(bulk.as_mut_ptr(), from, lines);
            }
        }
        let from = at + head + bulk.len();
        for (chunk, offset) in tail.chunks_mut(WORD).zip((from..).step_by(WORD)) {
            self.load_part(offset, chunk);
        }
    }

    /// At most the rest of the word that `at` lies in.
    #[inline]
    fn load_part(&self, at: usize, into: &mut [u8]) {
        if into.is_empty() {
            return;
        }
        let skip = at % WORD;
        let word = self.word(at - skip).load(Ordering::Relaxed).to_ne_bytes();
        into.copy_from_slice(&word[skip..skip + into.len()]);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range mmap answered, and nothing borrowed from `self`
        // outlives it. A failure could only leave memory mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// Every way to copy moves the right bytes, at every offset and length.
    #[test]
    fn copies_are_exact() {
        const LEN: usize = 8192;
        let fd = rustix::fs::memfd_create("region-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, LEN as u64).unwrap();
        let mut mapping = Mapping::new(fd.as_fd(), LEN, true).unwrap();
        let mut ways = copy::all();
        ways.push(None);
        for way in ways {
            mapping.copy = way;
            let mut source = vec![Line::ZERO; LEN / LINE];
            for (byte, number) in source.as_mut_bytes().iter_mut().zip(0u32..) {
                *byte = (number * 7 % 251) as u8;
            }
            mapping.store(0, &vec![Line::ZERO; LEN / LINE]);
            for lines in 1usize..=9 {
                let at = lines * (lines - 1) / 2;
                mapping.store(at * LINE, &source[at..at + lines]);
            }
            for start in 0..130 {
                for len in (0..20).chain([63, 64, 65, 127, 128, 256, 300, 1024]) {
                    let mut read = vec![0xee; len];
                    mapping.load(start, &mut read);
                    assert!(
                        read == source.as_bytes()[start..start + len],
                        "{start} {len}"
                    );
                }
            }
        }
    }
}
