//! The four rings of an AF_XDP socket: memory shared with the kernel, one writer and
//! one reader each.
//!
//! Positions are free-running 32-bit counters; an entry's place is its position
//! modulo the (power of two) size, so that they wrap without a special case. The
//! kernel's half of each pairing below is in its `net/xdp/xsk_queue.h`.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::AsFd;

use rustix::net::xdp::XdpRingOffset;

use crate::map::Mapping;

/// Set by the kernel in a ring's flags when it waits to be called.
const NEED_WAKEUP: u32 = 1;

/// What both ends of a ring have in common. `T` is plain data with no invalid bit
/// patterns: `u64`, or a descriptor.
#[derive(Debug)]
struct Ring<T> {
    _map: Mapping,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// The position this side will use next, perhaps not yet published.
    mine: u32,
    /// The other side's position when last looked at.
    theirs: u32,
    _data: PhantomData<T>,
}

// SAFETY: the pointers lead into `_map`, which moves along and is not tied to a
// thread; `T` is plain data.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn new(map: Mapping, size: u32, offset: &XdpRingOffset) -> io::Result<Self> {
        assert!(size.is_power_of_two());
        let flags = offset.flags.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "AF_XDP here is older than Linux 5.4",
            )
        })?;
        let counter = |offset: u64| field::<AtomicU32>(&map, offset, 1);
        Ok(Self {
            producer: counter(offset.producer)?,
            consumer: counter(offset.consumer)?,
            flags: counter(flags)?,
            entries: field::<T>(&map, offset.desc, size as usize)?,
            size,
            mine: 0,
            theirs: 0,
            _map: map,
            _data: PhantomData,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `field` checked bounds and alignment; both sides use it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as for `producer`. Relaxed is enough: the flag is a hint that the
        // kernel leaves set until it is called, so it cannot be missed for ever.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// The place of `position`.
    fn slot(&self, position: u32) -> *mut T {
        let index = (position & (self.size - 1)) as usize;
        // SAFETY: `index < size`, and `field` checked that `size` entries lie within
        // the mapping.
        unsafe { self.entries.as_ptr().add(index) }
    }
}

/// `count` aligned values at `offset` of the mapping, which must hold them all.
fn field<T>(map: &Mapping, offset: u64, count: usize) -> io::Result<NonNull<T>> {
    let start = usize::try_from(offset).ok();
    let fits = start
        .zip(count.checked_mul(size_of::<T>()))
        .and_then(|(start, bytes)| start.checked_add(bytes))
        .is_some_and(|end| end <= map.len());
    match start {
        Some(start) if fits && start % align_of::<T>() == 0 => {
            // SAFETY: `start` was just shown to lie within the mapping.
            Ok(unsafe { map.start().add(start) }.cast())
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "AF_XDP ring offsets out of bounds",
        )),
    }
}

/// Where a ring is mapped from and how large it is.
pub(super) struct Place<'a> {
    pub(super) page_offset: u64,
    pub(super) size: u32,
    pub(super) offset: &'a XdpRingOffset,
}

impl Place<'_> {
    fn open<T: Copy>(&self, fd: impl AsFd) -> io::Result<Ring<T>> {
        let bytes = self.offset.desc as usize + self.size as usize * size_of::<T>();
        Ring::new(
            Mapping::shared(fd, self.page_offset, bytes)?,
            self.size,
            self.offset,
        )
    }
}

/// A ring this process fills: *fill* and *tx*.
#[derive(Debug)]
pub(super) struct Producer<T>(Ring<T>);

impl<T: Copy> Producer<T> {
    pub(super) fn open(fd: impl AsFd, place: &Place<'_>) -> io::Result<Self> {
        Ok(Self::over(place.open(fd)?))
    }

    fn over(mut ring: Ring<T>) -> Self {
        ring.mine = ring.producer().load(Ordering::Relaxed);
        ring.theirs = ring.consumer().load(Ordering::Acquire);
        Self(ring)
    }

    /// Room for at least `wanted` entries if there is so much, else all there is.
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        let ring = &mut self.0;
        let mut room = ring.size - ring.mine.wrapping_sub(ring.theirs);
        if room < wanted {
            // SYNC POINT with the kernel's release store of `consumer`: it has read the
            // entries it gives back before we overwrite them.
            ring.theirs = ring.consumer().load(Ordering::Acquire);
            room = ring.size - ring.mine.wrapping_sub(ring.theirs);
        }
        room
    }

    /// Writes one entry, of those [`Producer::room`] allowed, still invisible.
    pub(super) fn push(&mut self, value: T) {
        let ring = &mut self.0;
        assert!(
            ring.mine.wrapping_sub(ring.theirs) < ring.size,
            "a full ring was pushed to"
        );
        // SAFETY: `slot` is in bounds; the kernel has released this entry (the assertion,
        // with `theirs` read by an acquire load) and does not read it before `publish`.
        unsafe { ring.slot(ring.mine).write(value) };
        ring.mine = ring.mine.wrapping_add(1);
    }

    /// Shows the kernel everything pushed.
    pub(super) fn publish(&mut self) {
        // SYNC POINT with the kernel's acquire load of `producer`: it sees the entries.
        self.0.producer().store(self.0.mine, Ordering::Release);
    }

    /// How much of what was published the kernel has not yet taken.
    pub(super) fn pending(&mut self) -> u32 {
        self.0.theirs = self.0.consumer().load(Ordering::Acquire);
        self.0.mine.wrapping_sub(self.0.theirs)
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

/// A ring the kernel fills: *rx* and *completion*.
#[derive(Debug)]
pub(super) struct Consumer<T>(Ring<T>);

impl<T: Copy> Consumer<T> {
    pub(super) fn open(fd: impl AsFd, place: &Place<'_>) -> io::Result<Self> {
        Ok(Self::over(place.open(fd)?))
    }

    fn over(mut ring: Ring<T>) -> Self {
        ring.mine = ring.consumer().load(Ordering::Relaxed);
        ring.theirs = ring.producer().load(Ordering::Acquire);
        Self(ring)
    }

    /// Entries that can be read, at most `wanted`.
    pub(super) fn available(&mut self, wanted: u32) -> u32 {
        let ring = &mut self.0;
        let mut available = ring.theirs.wrapping_sub(ring.mine);
        if available < wanted {
            // SYNC POINT with the kernel's release store of `producer`: the entries it
            // announces, and the packets they name, are written.
            ring.theirs = ring.producer().load(Ordering::Acquire);
            available = ring.theirs.wrapping_sub(ring.mine);
        }
        available.min(wanted)
    }

    /// Reads one entry of those [`Consumer::available`] announced.
    pub(super) fn pop(&mut self) -> T {
        let ring = &mut self.0;
        assert!(ring.mine != ring.theirs, "an empty ring was popped from");
        // SAFETY: `slot` is in bounds; the kernel has published this entry (the assertion,
        // with `theirs` read by an acquire load) and does not touch it before `release`.
        let value = unsafe { ring.slot(ring.mine).read() };
        ring.mine = ring.mine.wrapping_add(1);
        value
    }

    /// Gives the entries read back to the kernel.
    pub(super) fn release(&mut self) {
        // SYNC POINT with the kernel's acquire load of `consumer`: we are done reading.
        self.0.consumer().store(self.0.mine, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: XdpRingOffset = XdpRingOffset {
        producer: 0,
        consumer: 64,
        desc: 192,
        flags: Some(128),
    };

    /// Both ends over one memory, the kernel's played by us, with positions just
    /// before they wrap.
    fn pair(size: u32, start: u32) -> (Producer<u64>, Consumer<u64>) {
        let memory = Mapping::anonymous(4096).unwrap();
        let other = Mapping::anonymous(4096).unwrap();
        let mut ours: Ring<u64> = Ring::new(memory, size, &OFFSET).unwrap();
        let mut theirs: Ring<u64> = Ring::new(other, size, &OFFSET).unwrap();
        ours.producer().store(start, Ordering::Relaxed);
        ours.consumer().store(start, Ordering::Relaxed);
        theirs.producer = ours.producer;
        theirs.consumer = ours.consumer;
        theirs.entries = ours.entries;
        ours.flags = theirs.flags;
        (Producer::over(ours), Consumer::over(theirs))
    }

    #[test]
    fn entries_arrive_in_order_across_the_wrap_of_positions() {
        let (mut producer, mut consumer) = pair(8, u32::MAX - 20);
        let (mut next_in, mut next_out) = (0u64, 0u64);
        for round in 0..100u32 {
            let count = producer.room(8).min(1 + round % 8);
            for _ in 0..count {
                producer.push(next_in);
                next_in += 1;
            }
            producer.publish();
            for _ in 0..consumer.available(1 + (round * 5) % 7) {
                assert_eq!(consumer.pop(), next_out);
                next_out += 1;
            }
            consumer.release();
        }
        assert!(next_out > 200 && next_in - next_out <= 8);
    }

    #[test]
    fn nothing_is_visible_before_it_is_published_or_reusable_before_it_is_released() {
        let (mut producer, mut consumer) = pair(4, 0);
        assert_eq!(producer.room(4), 4);
        (0..4).for_each(|value| producer.push(value));
        assert_eq!(consumer.available(4), 0);
        producer.publish();
        assert_eq!(producer.pending(), 4);
        assert_eq!(consumer.available(4), 4);
        consumer.pop();
        assert_eq!(producer.room(1), 0);
        consumer.release();
        assert_eq!(producer.room(1), 1);
    }

    #[test]
    #[should_panic(expected = "full ring")]
    fn a_full_ring_takes_no_more() {
        let (mut producer, _consumer) = pair(2, 0);
        (0..3).for_each(|value| producer.push(value));
    }

    #[test]
    fn offsets_outside_the_mapping_are_refused() {
        let wrong = XdpRingOffset {
            desc: 4096 - 8,
            ..OFFSET
        };
        let map = Mapping::anonymous(4096).unwrap();
        assert!(Ring::<u64>::new(map, 2, &wrong).is_err());
    }
}
