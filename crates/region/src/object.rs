//! One region's memory as the kernel holds it: a sealed memfd.
//!
//! The writer maps it, then seals it: it can neither grow nor shrink, and nobody maps it
//! writable from then on, whoever holds the file descriptor and under whatever user. That
//! makes it safe to hand around, and to read without a thought of SIGBUS.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, Relaxed};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use crate::layout::{LAYOUT, MAGIC, NAME_AT, NAME_MAX, Plan, Word};
use crate::memory::{Line, Mapping};
use crate::protocol::{Cell, Cells, Control};
use crate::spec::Spec;

/// Seals that make an object safe to read.
const SEALS: SealFlags = SealFlags::GROW
    .union(SealFlags::SHRINK)
    .union(SealFlags::FUTURE_WRITE);

/// Why something is not a region one can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The kernel refused.
    #[error("the object cannot be mapped: {0}")]
    System(rustix::io::Errno),
    /// Not made by this crate, or not sealed.
    #[error("not a sealed region: {0}")]
    NotARegion(&'static str),
    /// Made by another release.
    #[error("layout {found} of another release; this one reads layout {LAYOUT}")]
    Layout {
        /// What the object says.
        found: u64,
    },
    /// The writer means something else by the bytes.
    #[error(
        "schema {found:016x}, expected {expected:016x}: writer and reader were built for different contents"
    )]
    Schema {
        /// What the object says.
        found: u64,
        /// What the reader asked for.
        expected: u64,
    },
    /// The bytes are not a value of the type that was asked for.
    #[error("{found} bytes cannot be a value of the reader's type")]
    Type {
        /// The length of the region.
        found: usize,
    },
}

impl From<rustix::io::Errno> for OpenError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error)
    }
}

/// A region's memory, mapped.
#[derive(Debug)]
pub(crate) struct Object {
    map: Mapping,
    plan: Plan,
    schema: u64,
    epoch: u64,
    name: String,
    fd: OwnedFd,
}

impl Object {
    /// A new object, empty, that only this mapping will ever write.
    pub(crate) fn create(name: &str, spec: &Spec, epoch: u64) -> io::Result<Self> {
        let plan = spec.plan()?;
        let len = plan.object_len(spec.huge_pages);
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if spec.huge_pages {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let fd = rustix::fs::memfd_create("stateplane-region", flags)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        let mut map = Mapping::fresh(fd.as_fd(), len)?;
        divide(&mut map, plan);
        // Memory that is not there is an error now, not a signal at some later store.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)?;
        map.populate();
        rustix::fs::fcntl_add_seals(&fd, SEALS | SealFlags::SEAL)?;
        let object = Self {
            map,
            plan,
            schema: spec.schema,
            epoch,
            name: name.to_owned(),
            fd,
        };
        object.write_head();
        Ok(object)
    }

    fn write_head(&self) {
        for (word, value) in [
            (Word::Layout, LAYOUT),
            (Word::Len, self.plan.len as u64),
            (Word::Images, self.plan.images as u64),
            (Word::Schema, self.schema),
            (Word::Epoch, self.epoch),
            (Word::NameLen, self.name.len() as u64),
        ] {
            self.set(word, value);
        }
        let mut lines = [Line::ZERO; NAME_MAX / crate::memory::LINE];
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut lines[..]);
        bytes[..self.name.len()].copy_from_slice(self.name.as_bytes());
        self.map.store(NAME_AT, &lines);
        self.map
            .store_word(Word::Magic.at(), MAGIC, Ordering::Release);
    }

    /// Maps an object that somebody else made. Trusts nothing that it says.
    pub(crate) fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        let wrong = |what| Err(OpenError::NotARegion(what));
        match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(SEALS) => {}
            Ok(_) => return wrong("it could shrink, or somebody could write to it"),
            Err(_) => return wrong("no memory file"),
        }
        let len = rustix::fs::fstat(&fd)?.st_size;
        let len = usize::try_from(len).unwrap_or(0);
        if len < Plan::object_len(Plan { len: 1, images: 2 }, false) {
            return wrong("too short");
        }
        let mut map = Mapping::new(fd.as_fd(), len, false).map_err(|e| {
            OpenError::System(rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO))
        })?;
        let word = |word: Word| map.load_word(word.at(), Ordering::Acquire);
        if word(Word::Magic) != MAGIC {
            return wrong("its first word is another");
        }
        if word(Word::Layout) != LAYOUT {
            return Err(OpenError::Layout {
                found: word(Word::Layout),
            });
        }
        let plan = Plan::new(word(Word::Len), word(Word::Images));
        let Some(plan) = plan.filter(|plan| plan.object_len(false) <= len) else {
            return wrong("its lengths contradict each other");
        };
        let (schema, epoch) = (word(Word::Schema), word(Word::Epoch));
        let name_len = usize::try_from(word(Word::NameLen)).unwrap_or(usize::MAX);
        let mut name = vec![0; name_len.min(NAME_MAX)];
        map.load(NAME_AT, &mut name);
        let Ok(name) = String::from_utf8(name) else {
            return wrong("its name is not text");
        };
        divide(&mut map, plan);
        Ok(Self {
            map,
            plan,
            schema,
            epoch,
            name,
            fd,
        })
    }

    #[inline]
    pub(crate) fn get(&self, word: Word) -> u64 {
        self.map.load_word(word.at(), Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn set(&self, word: Word, value: u64) {
        self.map.store_word(word.at(), value, Ordering::Release);
    }

    /// For what a stamp covers.
    #[inline]
    pub(crate) fn set_unordered(&self, word: Word, value: u64) {
        self.map.store_word(word.at(), value, Relaxed);
    }

    /// What is in force.
    #[inline]
    pub(crate) fn control(&self) -> Option<Control> {
        Control::load(self)
    }

    /// Copies part of an image out. `at + into.len()` is within the region.
    #[inline]
    pub(crate) fn load_image(&self, image: usize, at: usize, into: &mut [u8]) {
        // A control word gone wrong must not lead out of the images.
        let image = image.min(self.plan.images - 1);
        self.map.load(self.plan.image_at(image) + at, into);
    }

    /// The words of an image that lie in the region whole.
    #[inline]
    pub(crate) fn image_words(&self, image: usize) -> &[AtomicU64] {
        // A control word gone wrong must not lead out of the images.
        self.map.part(image.min(self.plan.images.wrapping_sub(1)))
    }

    /// Copies words of an image out, as many as both sides have, many at a time.
    #[inline]
    pub(crate) fn load_run(&self, from: &[AtomicU64], into: &mut [[u8; size_of::<u64>()]]) {
        self.map.load_run(from, into);
    }

    /// Copies lines of the working image into an image.
    #[inline]
    pub(crate) fn store_image(&self, image: usize, line: usize, from: &[Line]) {
        let at = self.plan.image_at(image) + line * crate::memory::LINE;
        self.map.store(at, from);
    }

    /// Copies the listed lines of the working image into an image.
    pub(crate) fn store_listed(&self, image: usize, from: &[Line], list: &[u32]) {
        self.map.store_listed(self.plan.image_at(image), from, list);
    }

    /// A line of the image that begins at byte `at` will be written at the next publish.
    #[inline]
    pub(crate) fn expect_line(&self, at: usize, line: usize) {
        let line = line.wrapping_mul(crate::memory::LINE);
        self.map.expect_load(at.wrapping_add(line));
    }

    /// Lines of this image will be written now.
    pub(crate) fn expect_listed(&self, image: usize, list: &[u32]) {
        self.map.expect_listed(self.plan.image_at(image), list);
    }

    #[inline]
    pub(crate) fn plan(&self) -> Plan {
        self.plan
    }

    pub(crate) fn schema(&self) -> u64 {
        self.schema
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of memory that the object takes.
    pub(crate) fn bytes(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The images are what readers look into.
fn divide(map: &mut Mapping, plan: Plan) {
    map.divide(plan.image_at(0), plan.image_every(), plan.len, plan.images);
}

impl Cells for Object {
    #[inline]
    fn load(&self, cell: Cell, order: Ordering) -> u64 {
        self.map.load_word(place(cell), order)
    }

    #[inline]
    fn store(&self, cell: Cell, value: u64, order: Ordering) {
        self.map.store_word(place(cell), value, order);
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        std::sync::atomic::fence(order);
    }

    #[inline]
    fn images(&self) -> usize {
        self.plan.images
    }
}

#[inline]
const fn place(cell: Cell) -> usize {
    match cell {
        Cell::Control => Word::Control.at(),
        Cell::Stamp(image) => Word::Stamp(image).at(),
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // Readers are told that nobody will write any more, if this is the writer.
        if self.map.is_writable() {
            self.map.store_word(Word::Closed.at(), 1, Relaxed);
        }
    }
}
