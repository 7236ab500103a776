//! What a region is to be.

use std::io;
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::broker::message::Access;
use crate::layout::{MAX_LEN, Plan};
use crate::memory::LINE;
use crate::protocol::MAX_IMAGES;

/// What may lie in a region: plain data, in which every bit pattern is a value.
///
/// Derive `FromBytes`, `IntoBytes`, `KnownLayout` and `Immutable` of the crate `zerocopy`;
/// `[u8]`, `[V]` and arrays have them. No pointers, no `bool`, no padding: what is read
/// was written by another process, perhaps of another build.
pub trait Content: FromBytes + IntoBytes + KnownLayout + Immutable {}

impl<T: ?Sized + FromBytes + IntoBytes + KnownLayout + Immutable> Content for T {}

/// What a region is to be: its size, how often it is published, what its bytes mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub(crate) len: usize,
    pub(crate) images: usize,
    pub(crate) interval: Duration,
    pub(crate) schema: u64,
    pub(crate) huge_pages: bool,
    pub(crate) access: Access,
}

impl Spec {
    /// One value of a type.
    pub fn of<T: Content>() -> Self {
        Self::bytes(size_of::<T>())
    }

    /// An array of `count` values.
    pub fn array<V: Content>(count: usize) -> Self {
        Self::bytes(size_of::<V>().saturating_mul(count))
    }

    /// `len` bytes.
    pub fn bytes(len: usize) -> Self {
        Self {
            len,
            images: 2,
            interval: Duration::ZERO,
            schema: 0,
            huge_pages: false,
            access: Access::Owner,
        }
    }

    /// Check-ins publish once in each interval. Zero, the default: each does.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// What the bytes mean, such as `"acl-v3"`. Readers that expect something else are
    /// refused when they attach, instead of reading nonsense.
    pub fn schema(mut self, meaning: &str) -> Self {
        self.schema = schema(meaning);
        self
    }

    /// Published images, 2 to 8. A reader of the whole region has `images - 1` intervals
    /// of time for it before it must start again; each image costs the region's length in
    /// memory, and a publish the copying of one more delta.
    pub fn images(mut self, images: usize) -> Self {
        self.images = images;
        self
    }

    /// Takes memory from the pages of 2 MiB that the machine has reserved
    /// (`vm.nr_hugepages`); without enough of them creating the region is an error. Not
    /// needed for speed: regions of that size and more get huge pages anyhow, if the
    /// kernel can gather some, and small ones if it cannot.
    pub fn huge_pages(mut self, wanted: bool) -> Self {
        self.huge_pages = wanted;
        self
    }

    /// Who may attach to it by its name. The default: its owner and root.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Bytes of the region.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it would hold nothing; then it cannot be created.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn plan(&self) -> io::Result<Plan> {
        Plan::new(self.len as u64, self.images as u64).ok_or_else(|| {
            let text = format!(
                "a region of {} bytes in {} images: a region has 1 to {MAX_LEN} bytes in 2 to {MAX_IMAGES} images",
                self.len, self.images
            );
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }
}

/// The number that a schema's name stands for (FNV-1a, 64 bits); "" stands for 0, any.
pub(crate) fn schema(meaning: &str) -> u64 {
    if meaning.is_empty() {
        return 0;
    }
    meaning.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether `len` bytes, aligned to a line, can be a value of `T`.
pub(crate) fn fits<T: ?Sized + Content>(len: usize) -> bool {
    // Only size and alignment are in question: these bytes are never touched, so that the
    // kernel need not find any memory for them.
    let bytes = vec![0u8; len + LINE];
    let start = bytes.as_ptr().align_offset(LINE);
    T::ref_from_bytes(&bytes[start..start + len]).is_ok()
}
