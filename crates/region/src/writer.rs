//! Typed access to the working image.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;

use crate::object::Object;
use crate::publisher::Publisher;
use crate::spec::{Content, Spec, fits};

/// The one writer of a region.
///
/// It works on an image of its own, in plain memory; readers see what it publishes. Every
/// way to change the image notes which lines change, so a change cannot be missed.
///
/// `T` is the type of the contents: a struct, an array `[V]`, or `[u8]` for raw bytes.
///
/// ```compile_fail
/// # use stateplane_region::{Spec, Writer};
/// # let mut writer = Writer::<[u32]>::create(&Spec::array::<u32>(8)).unwrap();
/// writer.get()[3] = 5; // no: nobody would note it
/// ```
/// ```compile_fail
/// # use stateplane_region::{Spec, Writer};
/// # let mut writer = Writer::<[u32]>::create(&Spec::array::<u32>(8)).unwrap();
/// writer.set(|w| { w[4] = 6; &w[3] }, 5); // no: line 4 may be another line
/// ```
/// ```
/// # use stateplane_region::{Spec, Writer};
/// # let mut writer = Writer::<[u32]>::create(&Spec::array::<u32>(8)).unwrap();
/// writer.set(|w| &w[3], 5);
/// writer.edit(|w| &w[4..6])[1] = 6;
/// assert_eq!(writer.get()[3..6], [5, 0, 6]);
/// ```
#[derive(Debug)]
pub struct Writer<T: ?Sized> {
    publisher: Publisher,
    contents: PhantomData<fn(&T)>,
}

impl<T: ?Sized + Content> Writer<T> {
    /// Creates a region without a name: it is reached by its file descriptor only.
    pub fn create(spec: &Spec) -> io::Result<Self> {
        check::<T>(spec)?;
        Ok(Self::of(Publisher::create("", spec, 1)?))
    }

    pub(crate) fn of(publisher: Publisher) -> Self {
        Self {
            publisher,
            contents: PhantomData,
        }
    }

    /// The contents as the writer sees them, published or not.
    #[inline]
    pub fn get(&self) -> &T {
        T::ref_from_bytes(self.publisher.bytes()).expect("checked when the region was created")
    }

    /// Part of the contents, to be changed: `writer.edit(|t| &t.rows[3]).hits += 1`.
    ///
    /// # Panics
    /// If `part` answers something that lies elsewhere.
    #[inline]
    pub fn edit<F: ?Sized + Content>(&mut self, part: impl FnOnce(&T) -> &F) -> &mut F {
        let bytes = part(self.get()).as_bytes();
        let (start, len) = (bytes.as_ptr().addr(), bytes.len());
        let at = start.wrapping_sub(self.publisher.bytes().as_ptr().addr());
        F::mut_from_bytes(self.publisher.bytes_mut(at, len))
            .expect("the bytes of a part are a part")
    }

    /// Sets part of the contents.
    #[inline]
    pub fn set<F: Content>(&mut self, part: impl FnOnce(&T) -> &F, value: F) {
        *self.edit(part) = value;
    }

    /// All of the contents, to be changed: every line counts as changed.
    pub fn edit_all(&mut self) -> &mut T {
        let len = self.publisher.bytes().len();
        T::mut_from_bytes(self.publisher.bytes_mut(0, len))
            .expect("checked when the region was created")
    }

    /// The bytes of the working image.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.publisher.bytes()
    }

    /// `len` bytes at `at`, to be changed.
    ///
    /// # Panics
    /// If they lie outside of the region.
    #[inline]
    pub fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        self.publisher.bytes_mut(at, len)
    }

    /// What publishes the region, for [`crate::publish_together`].
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }

    /// The sealed memory, to be handed to readers: whoever has it can read, nobody write.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.object().fd()
    }

    pub(crate) fn object(&self) -> &Object {
        self.publisher.object()
    }
}

impl<T: ?Sized> Deref for Writer<T> {
    type Target = Publisher;
    fn deref(&self) -> &Publisher {
        &self.publisher
    }
}

impl<T: ?Sized> DerefMut for Writer<T> {
    fn deref_mut(&mut self) -> &mut Publisher {
        &mut self.publisher
    }
}

/// Whether a region of `spec` can hold a `T`.
pub(crate) fn check<T: ?Sized + Content>(spec: &Spec) -> io::Result<()> {
    spec.plan()?;
    if fits::<T>(spec.len) {
        return Ok(());
    }
    let text = format!(
        "{} bytes cannot be a value of {}: use Spec::of for one value, Spec::array for [V]",
        spec.len,
        std::any::type_name::<T>()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
