//! Address space: where memory is mapped, so that huge pages can serve it.
//!
//! Of a region of many megabytes in pages of 4 KiB almost every line that is touched at
//! random costs a page walk, which in a virtual machine is more than the line itself. The
//! kernel can gather memory into huge pages (`MADV_COLLAPSE`, Linux 6.1) without any having
//! been reserved, also that of a `memfd` and whatever `shmem_enabled` says, if it lies at
//! an address that is a multiple of their size. Where it cannot, small pages serve as well.
//!
//! It is done before there is anything to gather: then the kernel clears a huge page instead of
//! allocating, clearing and copying 512 small ones. Of 256 MiB of a `memfd` that took a sixtieth
//! of the time.

use core::ffi::c_void;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::time::{ClockId, clock_gettime};

use super::{LINE, Line};

pub(super) const HUGE: usize = 2 << 20;
/// Bytes gathered by one call.
const AT_ONCE: usize = 16 * HUGE;
/// How much of a processor's time a region's start may take for huge pages, at most: some, and
/// for each what a virtual machine may take for memory that it never touched.
const GATHER_MAX: Duration = Duration::from_millis(200);
const GATHER_EACH: Duration = Duration::from_millis(4);

/// A mapping, unmapped on drop.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Maps the first `len` bytes of `fd`, or memory of this process's own. What is `fresh`, never
    /// used by anybody, is [gathered](Pages::gather) and has its pages [later](Pages::populate).
    pub(super) fn map(
        fd: Option<BorrowedFd<'_>>,
        len: usize,
        access: ProtFlags,
        fresh: bool,
    ) -> io::Result<Self> {
        let at = if len < HUGE {
            ptr::null_mut()
        } else {
            huge_page_place(len)?
        };
        // Page faults belong to the start, not to the first publish or read.
        let flags = if fresh {
            MapFlags::empty()
        } else {
            MapFlags::POPULATE
        };
        // SAFETY: without MAP_FIXED a hint replaces no existing mapping.
        let start = unsafe {
            match fd {
                Some(fd) => rustix::mm::mmap(at, len, access, flags | MapFlags::SHARED, fd, 0)?,
                None => rustix::mm::mmap_anonymous(at, len, access, flags | MapFlags::PRIVATE)?,
            }
        };
        let start = NonNull::new(start.cast()).expect("mmap never maps page 0 by itself");
        let pages = Self { start, len };
        if fresh {
            pages.gather();
        }
        Ok(pages)
    }

    /// Has all pages there from now on.
    pub(super) fn populate(&self) {
        // SAFETY: the range is ours; its contents stay. A failure costs page faults later.
        let _ = unsafe { libc::madvise(self.start().cast(), self.len, libc::MADV_POPULATE_WRITE) };
    }

    #[inline]
    pub(super) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Asks for huge pages where they fit, some at a time and for a bounded time: a machine
    /// that is short of whole pieces of memory takes long for each. Some at a time, because
    /// with every call the kernel waits for all processors; and it is this thread's time that
    /// counts, or regions that begin while the machine is busy would be slow for ever. Being
    /// refused huge pages costs speed, nothing else.
    fn gather(&self) {
        let begun = spent();
        let whole = self.len - self.len % HUGE;
        let most = GATHER_MAX + GATHER_EACH * u32::try_from(whole / HUGE).unwrap_or(u32::MAX);
        for first in (0..whole).step_by(AT_ONCE) {
            let at = self.start().wrapping_add(first);
            let len = AT_ONCE.min(whole - first);
            for place in (0..len).step_by(HUGE) {
                // The kernel gathers only where there is a page already.
                // SAFETY: within the mapping, which is writable, zero, and nobody else's yet.
                unsafe { at.wrapping_add(place).write_volatile(0) };
            }
            // SAFETY: the range is ours; its contents stay, whatever the kernel does.
            let result = unsafe { libc::madvise(at.cast(), len, libc::MADV_COLLAPSE) };
            if result != 0 || spent().saturating_sub(begun) > most {
                return;
            }
        }
    }
}

/// Processor's time of this thread so far.
fn spent() -> Duration {
    let at = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(at).unwrap_or_default()
}

/// An address where `len` bytes had room just now, a multiple of the huge page's size. If
/// another thread takes it before us, the kernel chooses, and the pages are small.
fn huge_page_place(len: usize) -> io::Result<*mut c_void> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    let room = len + HUGE;
    // SAFETY: as in `map`; nobody learns of this memory before it is given back.
    unsafe {
        let start = rustix::mm::mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags)?;
        rustix::mm::munmap(start, room)?;
        Ok(start.map_addr(|at| at.next_multiple_of(HUGE)))
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this is the range mmap answered, and nothing borrowed from `self`
        // outlives it. A failure could only leave memory mapped.
        let _ = unsafe { rustix::mm::munmap(self.start().cast(), self.len) };
    }
}

/// Lines of memory that no other process sees, zero at first.
#[derive(Debug)]
pub(crate) struct Private {
    pages: Pages,
    lines: usize,
}

// SAFETY: the pages are this value's alone, as those of a `Vec` would be.
unsafe impl Send for Private {}
// SAFETY: as above.
unsafe impl Sync for Private {}

impl Private {
    pub(crate) fn new(lines: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let pages = Pages::map(None, lines * LINE, access, true)?;
        pages.populate();
        Ok(Self { pages, lines })
    }
}

impl Deref for Private {
    type Target = [Line];
    #[inline]
    fn deref(&self) -> &[Line] {
        // SAFETY: so many lines are mapped as long as `self`, begin at a page, hold zeros
        // or what was written through `deref_mut`, and are borrowed through `self` only.
        unsafe { core::slice::from_raw_parts(self.pages.start().cast(), self.lines) }
    }
}

impl DerefMut for Private {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `deref`; writable, and borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(self.pages.start().cast(), self.lines) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn private_lines_are_zero_and_keep_what_is_written() {
        for lines in [1, 70, 3 * HUGE / LINE + 5] {
            let mut private = Private::new(lines).unwrap();
            assert_eq!(private.len(), lines);
            assert!(private.iter().all(|line| line.0 == [0; 8]));
            private[lines - 1].0[7] = 9;
            assert_eq!(private[lines - 1].0, [0, 0, 0, 0, 0, 0, 0, 9]);
        }
    }

    /// Large mappings lie where huge pages can serve them, and hold the same bytes
    /// whether the kernel had any or not.
    #[test]
    fn gathering_changes_nothing_but_the_pages() {
        let fd = rustix::fs::memfd_create("region-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let len = 2 * HUGE + 4096;
        rustix::fs::ftruncate(&fd, len as u64).unwrap();
        let all = ProtFlags::READ | ProtFlags::WRITE;
        let writer = Pages::map(Some(fd.as_fd()), len, all, true).unwrap();
        writer.populate();
        // SAFETY: within the mapping.
        let put = unsafe { writer.start().add(len - 1) };
        // SAFETY: as above; nobody else touches it.
        unsafe { put.write_volatile(7) };
        let reader = Pages::map(Some(fd.as_fd()), len, ProtFlags::READ, false).unwrap();
        // SAFETY: within the mapping, which nobody writes to now.
        let seen = unsafe { core::slice::from_raw_parts(reader.start(), len) };
        assert!(seen[..len - 1].iter().all(|byte| *byte == 0));
        assert_eq!(seen[len - 1], 7);
    }
}
