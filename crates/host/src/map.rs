//! Memory mapped from the kernel, unmapped on drop.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags};

/// One mapping, owned. Hands out only its address: what lies there, and who else
/// writes to it, is for the user of the mapping to argue.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it, and
// `Mapping` itself never reads or writes through the address.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroed memory of this process, resident from the start so that the data path
    /// never takes a page fault.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: a null hint with no MAP_FIXED replaces no existing mapping.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )?
        };
        Ok(Self::own(start, len))
    }

    /// `len` bytes the kernel shares at `offset` of `fd`.
    pub(crate) fn shared(fd: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        // SAFETY: a null hint with no MAP_FIXED replaces no existing mapping.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                offset,
            )?
        };
        Ok(Self::own(start, len))
    }

    fn own(start: *mut c_void, len: usize) -> Self {
        let start = NonNull::new(start.cast()).expect("mmap without MAP_FIXED never maps page 0");
        Self { start, len }
    }

    /// The first byte. Page aligned.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes, as asked for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the range mmap returned, and nothing borrowed from `self`
        // outlives it. A failure could only leave memory mapped.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
