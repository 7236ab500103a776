//! Where things lie in an object.
//!
//! ```text
//! byte 0     what it is: magic, layout, length, images, schema, epoch (never changes)
//!      64    control word                                   written at every publish
//!      128   checked (when nothing was due), closed          written at check-ins
//!      192   per image one line: stamp, published, day, cut  8 lines
//!      1024  the region's name
//!      4096  image 0, image 1, ... each from a page on
//! ```
//!
//! Lines that are written at different times lie apart, so that readers miss no cache for
//! what they do not ask. All words are of this machine's order: objects never leave it.

use crate::memory::LINE;
use crate::protocol::MAX_IMAGES;

pub(crate) const MAGIC: u64 = u64::from_ne_bytes(*b"SPregion");
/// Raised with every change of this layout.
pub(crate) const LAYOUT: u64 = 1;
/// Where images begin.
const HEAD: usize = 4096;
const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

/// The largest region.
pub const MAX_LEN: usize = 1 << 32;

pub(crate) const NAME_AT: usize = 1024;
pub(crate) const NAME_MAX: usize = 256;
const IMAGE_LINES_AT: usize = 192;

const _: () = assert!(IMAGE_LINES_AT + MAX_IMAGES * LINE <= NAME_AT);
const _: () = assert!(NAME_AT + NAME_MAX <= HEAD);

/// A word of the head.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Magic,
    Layout,
    Len,
    Images,
    Schema,
    Epoch,
    NameLen,
    Control,
    Checked,
    Closed,
    Stamp(usize),
    Published(usize),
    Day(usize),
    Cut(usize),
}

impl Word {
    #[inline]
    pub(crate) const fn at(self) -> usize {
        match self {
            Self::Magic => 0,
            Self::Layout => 8,
            Self::Len => 16,
            Self::Images => 24,
            Self::Schema => 32,
            Self::Epoch => 40,
            Self::NameLen => 48,
            Self::Control => 64,
            Self::Checked => 128,
            Self::Closed => 136,
            Self::Stamp(image) => IMAGE_LINES_AT + image * LINE,
            Self::Published(image) => IMAGE_LINES_AT + image * LINE + 8,
            Self::Day(image) => IMAGE_LINES_AT + image * LINE + 16,
            Self::Cut(image) => IMAGE_LINES_AT + image * LINE + 24,
        }
    }
}

/// The sizes of one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// Bytes of the region.
    pub(crate) len: usize,
    pub(crate) images: usize,
}

impl Plan {
    /// None: not a region this release can hold.
    pub(crate) fn new(len: u64, images: u64) -> Option<Self> {
        let len = usize::try_from(len).ok()?;
        let images = usize::try_from(images).ok()?;
        let fits = (1..=MAX_LEN).contains(&len) && (2..=MAX_IMAGES).contains(&images);
        fits.then_some(Self { len, images })
    }

    pub(crate) const fn lines(self) -> usize {
        self.len.div_ceil(LINE)
    }

    #[inline]
    pub(crate) const fn image_at(self, image: usize) -> usize {
        HEAD + image * self.image_every()
    }

    /// How far apart images are.
    #[inline]
    pub(crate) const fn image_every(self) -> usize {
        self.len.wrapping_add(PAGE - 1) & !(PAGE - 1)
    }

    /// Bytes of the object.
    pub(crate) const fn object_len(self, huge_pages: bool) -> usize {
        let grain = if huge_pages { HUGE_PAGE } else { PAGE };
        self.image_at(self.images).next_multiple_of(grain)
    }
}
