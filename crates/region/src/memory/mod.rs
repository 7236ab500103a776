//! Memory that other processes see too: mapping it, copying into and out of it.
//!
//! The only module of the crate with `unsafe`. Shared memory may change while it is
//! read, so no reference to its bytes ever exists on the Rust side: single words are
//! atomics, and runs of lines are copied by instructions the compiler does not see into
//! ([`copy`]). Whether what was copied is of one version is for [`crate::protocol`].

mod copy;
mod pages;
mod ticks;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::ProtFlags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use pages::Pages;
pub(crate) use pages::Private;
pub(crate) use ticks::ticks;

/// Bytes of a line: what a processor moves at once, and the grain of the log of changes.
pub const LINE: usize = 64;
const WORD: usize = size_of::<u64>();
/// The kernel maps whole pages: so much of any mapping is there.
const LEAST: usize = 4096;
/// Up to so many bytes a loop of words is faster than a call.
const SMALL: usize = 256;

/// One line of private memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(crate) struct Line([u64; LINE / WORD]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; LINE / WORD]);
}

/// Has the line of a word fetched, to be loaded soon. Waits for nothing.
#[inline]
pub(crate) fn expect_load(word: &AtomicU64) {
    copy::expect_load(word.as_ptr().cast());
}

/// Copies words of shared memory out, as many as both sides have. Unordered; may be torn.
#[inline(always)]
pub(crate) fn load_words(from: &[AtomicU64], into: &mut [[u8; WORD]]) {
    let (lines, words) = from.as_chunks::<{ LINE / WORD }>();
    let (lines_into, words_into) = into.as_chunks_mut::<{ LINE / WORD }>();
    for (into, from) in lines_into.iter_mut().zip(lines) {
        // SAFETY: both are a line long, the one begins at a word, the other is borrowed alone;
        // shared memory is accessed as nothing but atomics or by `copy`.
        unsafe { copy::line(into.as_mut_ptr().cast(), from.as_ptr().cast()) };
    }
    for (into, from) in words_into.iter_mut().zip(words) {
        *into = from.load(Ordering::Relaxed).to_ne_bytes();
    }
}

/// Parts of a mapping, equally long, one after the other.
#[derive(Clone, Copy, Default, Debug)]
struct Parts {
    at: usize,
    every: usize,
    words: usize,
    count: usize,
}

/// Shared memory, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    pages: Pages,
    writable: bool,
    copy: Option<copy::Ways>,
    /// All of them lie within the pages.
    parts: Parts,
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
        Self::map(fd, len, writable, false)
    }

    /// Maps an object that nobody has used yet, writable and as far as possible in huge pages.
    /// Its pages are there once it is [populated](Mapping::populate).
    pub(crate) fn fresh(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::map(fd, len, true, true)
    }

    fn map(fd: BorrowedFd<'_>, len: usize, writable: bool, fresh: bool) -> io::Result<Self> {
        let access = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        Ok(Self {
            pages: Pages::map(Some(fd), len, access, fresh)?,
            writable,
            copy: copy::fastest(),
            parts: Parts::default(),
        })
    }

    /// Names parts of `len` bytes, the first at byte `at`, one every `every` bytes: what is
    /// checked here need not be at each look at one.
    pub(crate) fn divide(&mut self, at: usize, every: usize, len: usize, count: usize) {
        let last = count
            .checked_sub(1)
            .and_then(|last| last.checked_mul(every));
        let end = last.and_then(|last| last.checked_add(at)?.checked_add(len));
        assert!(end.is_some_and(|end| end <= self.pages.len()));
        assert!(at.is_multiple_of(WORD) && every.is_multiple_of(WORD));
        self.parts = Parts {
            at,
            every,
            words: len / WORD,
            count,
        };
    }

    /// The words of a part that lie in it whole.
    #[inline(always)]
    pub(crate) fn part(&self, number: usize) -> &[AtomicU64] {
        let parts = &self.parts;
        assert!(number < parts.count);
        // Cannot overflow: the last part ends within the mapping.
        let at = parts.at.wrapping_add(number.wrapping_mul(parts.every));
        // SAFETY: as in `word`, for each of them: `divide` saw that the parts are inside and
        // begin at words.
        unsafe { core::slice::from_raw_parts(self.pages.start().add(at).cast(), parts.words) }
    }

    /// Has all pages of a fresh object there from now on.
    pub(crate) fn populate(&self) {
        self.pages.populate();
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The word at byte `at`.
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        // What is asked first is known when this is compiled, but for words of images.
        assert!(at <= LEAST - WORD || at <= self.pages.len() - WORD);
        assert!(at.is_multiple_of(WORD));
        // SAFETY: inside the mapping, aligned (mappings begin at a page), mapped as long
        // as `self`, and accessed as nothing but an atomic or by `copy`.
        unsafe { AtomicU64::from_ptr(self.pages.start().add(at).cast()) }
    }

    /// So many words from byte `at` on.
    #[inline]
    pub(crate) fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        let end = count.checked_mul(WORD).and_then(|len| len.checked_add(at));
        assert!(end.is_some_and(|end| end <= self.pages.len()));
        assert!(at.is_multiple_of(WORD));
        // SAFETY: as in `word`, for each of them.
        unsafe { core::slice::from_raw_parts(self.pages.start().add(at).cast(), count) }
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

    /// Has the line at `at` fetched, to be written soon. Waits for nothing.
    #[inline]
    pub(crate) fn expect_store(&self, at: usize) {
        copy::expect_store(self.pages.start().wrapping_add(at));
    }

    /// Has the line at `at` fetched, but not taken from those who read it.
    #[inline]
    pub(crate) fn expect_load(&self, at: usize) {
        copy::expect_load(self.pages.start().wrapping_add(at));
    }

    /// Has the first lines fetched that [`Mapping::store_listed`] will write.
    pub(crate) fn expect_listed(&self, at: usize, list: &[u32]) {
        for line in list.iter().take(copy::AHEAD) {
            self.expect_store(at.wrapping_add(*line as usize * LINE));
        }
    }

    fn assert_room(&self, at: usize, from: &[Line]) {
        let end = at.checked_add(size_of_val(from));
        let fits = end.is_some_and(|end| end <= self.pages.len());
        assert!(self.writable && fits && at.is_multiple_of(LINE));
    }

    /// Copies lines to `at`. Unordered, like relaxed stores.
    #[inline]
    pub(crate) fn store(&self, at: usize, from: &[Line]) {
        self.assert_room(at, from);
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
            let to = self.pages.start().add(at);
            (copy.run)(to, from.as_ptr().cast(), from.len());
        }
    }

    /// Copies the lines named in `list` from `from` to where they would lie if all of it
    /// were copied to `at`. Unordered, like relaxed stores.
    pub(crate) fn store_listed(&self, at: usize, from: &[Line], list: &[u32]) {
        self.assert_room(at, from);
        // Not by `all`, which stops early and therefore looks at one after the other.
        let last = list.iter().fold(0, |last, line| last.max(*line));
        assert!((last as usize) < from.len() || list.is_empty());
        let Some(copy) = self.copy else {
            for line in list {
                let line = *line as usize;
                self.store(at + line * LINE, &from[line..=line]);
            }
            return;
        };
        // SAFETY: as in `store`, for each of the lines, none of which is beyond the last.
        unsafe {
            let to = self.pages.start().add(at);
            (copy.listed)(to, from.as_ptr().cast(), list);
        }
    }

    /// Copies words of a mapping out, as many as both sides have, by the widest way there is.
    /// Unordered; may be torn.
    #[inline]
    pub(crate) fn load_run(&self, from: &[AtomicU64], into: &mut [[u8; WORD]]) {
        let (lines, words) = from.as_chunks::<{ LINE / WORD }>();
        let (lines_into, words_into) = into.as_chunks_mut::<{ LINE / WORD }>();
        match self.copy {
            // SAFETY: so many lines are borrowed on both sides, alone where they are written;
            // shared memory is accessed as nothing but atomics or by `copy`.
            Some(copy) => unsafe {
                let count = lines.len().min(lines_into.len());
                (copy.run)(lines_into.as_mut_ptr().cast(), lines.as_ptr().cast(), count);
            },
            None => load_words(lines.as_flattened(), lines_into.as_flattened_mut()),
        }
        load_words(words, words_into);
    }

    /// Copies bytes from `at`. Unordered, like relaxed loads; may be torn.
    #[inline]
    pub(crate) fn load(&self, at: usize, into: &mut [u8]) {
        if into.len() > SMALL || !at.is_multiple_of(WORD) {
            return self.load_long(at, into);
        }
        let (words, rest) = into.as_chunks_mut::<WORD>();
        let from = self.words(at, words.len());
        let end = at + from.len() * WORD;
        load_words(from, words);
        if !rest.is_empty() {
            self.load_part(end, rest);
        }
    }

    #[inline(never)]
    fn load_long(&self, at: usize, into: &mut [u8]) {
        let end = at.checked_add(into.len());
        assert!(end.is_some_and(|end| end <= self.pages.len()));
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
                let from = self.pages.start().add(at + head);
                (copy.run)(bulk.as_mut_ptr(), from, lines);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const LEN: usize = 8192;

    fn mapping() -> Mapping {
        let fd = rustix::fs::memfd_create("region-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, LEN as u64).unwrap();
        Mapping::new(fd.as_fd(), LEN, true).unwrap()
    }

    fn read(mapping: &Mapping, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        mapping.load(0, &mut bytes);
        bytes
    }

    /// Every way to copy moves the right bytes, at every offset and length.
    #[test]
    fn copies_are_exact() {
        let mut mapping = mapping();
        for way in copy::all().into_iter().map(Some).chain([None]) {
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
            let listed = [40, 2, 127, 40, 99];
            let before = read(&mapping, LEN);
            mapping.store_listed(0, &source, &listed);
            let after = read(&mapping, LEN);
            for line in 0..LEN / LINE {
                let bytes = line * LINE..(line + 1) * LINE;
                let from = if listed.contains(&(line as u32)) {
                    source.as_bytes()
                } else {
                    &before
                };
                assert_eq!(after[bytes.clone()], from[bytes], "line {line}");
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

    /// Words are copied as they are, however many, by whichever way.
    #[test]
    fn words_come_whole_from_parts() {
        let mut mapping = mapping();
        let source: Vec<Line> = (0..(LEN / LINE) as u64)
            .map(|n| Line([n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7]))
            .collect();
        mapping.store(0, &source);
        mapping.divide(LINE, 2016, 1004, 4);
        for number in 0..4 {
            let from = LINE + number * 2016;
            let part = mapping.part(number);
            assert_eq!(part.len(), 125, "only whole words");
            for first in [0, 1, 8, 9] {
                for count in (0..=20).chain([64, 100]) {
                    let range = first..first + count;
                    let (mut few, mut run) = (vec![[0xee; WORD]; count], vec![[0xee; WORD]; count]);
                    load_words(&part[range.clone()], &mut few);
                    mapping.load_run(&part[range.clone()], &mut run);
                    let bytes = from + first * WORD..from + range.end * WORD;
                    let expected = &source.as_bytes()[bytes];
                    assert_eq!(few.as_flattened(), expected);
                    assert_eq!(run.as_flattened(), expected);
                }
            }
        }
        assert!(std::panic::catch_unwind(|| mapping.part(4).len()).is_err());
    }

    #[test]
    #[should_panic(expected = "end <= self.pages.len()")]
    fn parts_lie_inside() {
        mapping().divide(LINE, 4096, 4096, LEN / 4096);
    }
}
