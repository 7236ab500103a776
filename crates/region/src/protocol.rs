//! How a whole region changes from one version to the next under its readers.
//!
//! An object holds two or more *images* of the region. Each has a *stamp*: twice the
//! version it holds, one less while that version is being written. One *control word*
//! names the version in force and its image.
//!
//! ```text
//! writer                                   reader
//! stamp[b] = 2v - 1         begin          c = control              (a)
//! fence(release)                           stamp[c.image] == 2 * c.version?  (b)
//! image b  = dirty lines                   copy of image c.image
//! stamp[b] = 2v             finish (c)     fence(acquire)
//! control  = (v, b)         flip   (d)     stamp[c.image] still the same?
//! ```
//!
//! * **Wait-free for the writer.** It looks at nothing a reader does.
//! * **Never torn.** A reader that copied a word of version v from image b has, after its
//!   fence, a stamp of at least 2v - 1 before it (the two fences pair), and starts again.
//!   While an image is in force nobody writes to it, so a reader starts again only if it
//!   takes longer than it takes the writer to come round to that image.
//! * **Whole after any crash.** Between two flips the image in force is untouched.
//! * **Versions never go back.** A reader accepts an image only as the control word names
//!   it (b), never a newer one that is finished but not in force: the next writer, after a
//!   crash between (c) and (d), knows nothing of it.
//!
//! Generic over the memory, so that a model checker runs these very lines.

use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

/// Images an object may have.
pub const MAX_IMAGES: usize = 8;
const IMAGE_BITS: u32 = 3;
/// Versions end far before they could overflow a stamp or the control word.
pub(crate) const MAX_VERSION: u64 = (1 << (63 - IMAGE_BITS)) - 1;

/// A word of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cell {
    /// Version and image in force; 0: nothing was published yet.
    Control,
    /// The stamp of an image.
    Stamp(usize),
}

/// The words that writer and readers share.
pub(crate) trait Cells {
    fn load(&self, cell: Cell, order: Ordering) -> u64;
    fn store(&self, cell: Cell, value: u64, order: Ordering);
    fn fence(&self, order: Ordering);
    /// How many images there are.
    fn images(&self) -> usize;
}

/// What the control word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Control {
    pub(crate) version: u64,
    pub(crate) image: usize,
}

impl Control {
    /// What is in force, if anything is: no image that is not there, and no version that
    /// cannot be, whoever made the memory.
    #[inline]
    pub(crate) fn load(cells: &impl Cells) -> Option<Self> {
        // Pairs with the store in `flip`: the stamp and what it covers are seen too.
        let word = cells.load(Cell::Control, Acquire);
        let control = Self {
            version: word >> IMAGE_BITS,
            image: (word & (MAX_IMAGES as u64 - 1)) as usize,
        };
        let possible = control.version.wrapping_sub(1) < MAX_VERSION;
        (possible && control.image < cells.images()).then_some(control)
    }

    #[inline]
    fn word(self) -> u64 {
        self.version << IMAGE_BITS | self.image as u64
    }
}

/// From here on the image holds no version.
#[inline]
pub(crate) fn begin(cells: &impl Cells, next: Control) {
    cells.store(Cell::Stamp(next.image), 2 * next.version - 1, Relaxed);
    // Pairs with the fence in `read`: who sees a word written after it sees the stamp.
    cells.fence(Release);
}

/// The image holds the version, and is not in force yet.
#[inline]
pub(crate) fn finish(cells: &impl Cells, next: Control) {
    cells.store(Cell::Stamp(next.image), 2 * next.version, Release);
}

/// The version is in force.
#[inline]
pub(crate) fn flip(cells: &impl Cells, next: Control) {
    cells.store(Cell::Control, next.word(), Release);
}

/// Copies what is in force by `copy`, which may be called up to `attempts` times and may
/// see anything, but whose answer counts only when it saw one version. None: the writer
/// was faster each time, or the region is empty.
///
/// Always part of the caller, and `copy` called where it stands: a short copy's answer then
/// stays in registers. By way of memory it costs more than the copy.
#[inline(always)]
pub(crate) fn read<R>(
    cells: &impl Cells,
    attempts: u32,
    mut copy: impl FnMut(usize) -> R,
) -> Option<(R, Control)> {
    for _ in 0..attempts {
        let control = Control::load(cells)?;
        if enter(cells, control) {
            let copied = copy(control.image);
            if leave(cells, control) {
                return Some((copied, control));
            }
        }
        core::hint::spin_loop();
    }
    None
}

/// Copies one version from the image that should hold it.
#[inline]
pub(crate) fn read_image<R>(
    cells: &impl Cells,
    of: Control,
    copy: impl FnOnce(usize) -> R,
) -> Option<R> {
    if !enter(cells, of) {
        return None;
    }
    let copied = copy(of.image);
    leave(cells, of).then_some(copied)
}

/// Whether the image holds this version before it is copied.
#[inline(always)]
fn enter(cells: &impl Cells, of: Control) -> bool {
    cells.load(Cell::Stamp(of.image), Acquire) == 2 * of.version
}

/// Whether it held it to the end of the copy.
#[inline(always)]
fn leave(cells: &impl Cells, of: Control) -> bool {
    // Pairs with the fence in `begin`.
    cells.fence(Acquire);
    cells.load(Cell::Stamp(of.image), Relaxed) == 2 * of.version
}

#[cfg(test)]
mod model;
