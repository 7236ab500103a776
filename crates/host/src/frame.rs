//! Frames: one region of memory cut into equal pieces, each holding one packet.
//!
//! ```text
//!   |<----------------------- frame_size ----------------------->|
//!   | front room (256) | packet ........ | tail room             |
//!                      ^ start           ^ start + len
//! ```
//!
//! A frame has exactly one owner at a time, and the pool knows which: itself
//! (*free*), the worker (*held*), the worker's parking lot (*parked*) or the kernel
//! (*lent*, in a ring of some port). Every move is checked, so a frame given back
//! twice or to the wrong pool stops the program, and one that was lost shows up in
//! [`FramePool::census`] for ever. All ports of a worker share the pool, so that a
//! packet goes from one to another without a copy.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::map::Mapping;

/// Room before a received packet, for headers that grow. The kernel reserves the
/// same amount (`XDP_PACKET_HEADROOM`) in every frame it fills.
pub const FRONT_ROOM: u16 = 256;

/// Number of a frame within its pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameId(pub u32);

/// The right to one frame's bytes. Neither `Copy` nor `Clone`: give it to a port to
/// send it, to [`FramePool::park`] to keep it, or to [`FramePool::give`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped frame is lost to its pool; give it back"]
pub struct Frame {
    index: u32,
    start: u16,
    len: u16,
}

impl Frame {
    /// The frame's number.
    #[inline]
    pub fn id(&self) -> FrameId {
        FrameId(self.index)
    }

    /// Bytes of packet.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether it holds no packet yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Who owns a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Free,
    Held,
    Parked { start: u16, len: u16 },
    Lent(Lessee),
}

/// A port frames are lent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lessee(u8);

/// How many frames each owner has. They always sum to the pool's size.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Census {
    /// In the pool, usable at once.
    pub free: usize,
    /// Handed out as [`Frame`]s.
    pub held: usize,
    /// Waiting in [`FramePool::park`].
    pub parked: usize,
    /// In a ring of a port: to be filled, received but not yet read, or being sent.
    pub lent: usize,
}

/// Size of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolConfig {
    /// Number of frames.
    pub frames: u32,
    /// Bytes of each: 2048 for an MTU up to 1700, 4096 for up to 3800 (a power of
    /// two, since AF_XDP divides its memory so).
    pub frame_size: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            frames: 16 * 1024,
            frame_size: 2048,
        }
    }
}

/// The frames of one worker.
#[derive(Debug)]
pub struct FramePool {
    memory: Mapping,
    /// Logarithm of the frame size: addresses are taken apart by shifts.
    shift: u32,
    free: Vec<u32>,
    owners: Vec<Owner>,
    census: Census,
    identity: u64,
    lessees: u8,
}

static POOLS: AtomicU64 = AtomicU64::new(1);

impl FramePool {
    /// Maps the memory. Fails when there is not enough, or when `config` cannot be
    /// divided into AF_XDP frames.
    pub fn new(config: PoolConfig) -> io::Result<Self> {
        let PoolConfig { frames, frame_size } = config;
        if frames == 0 || !matches!(frame_size, 2048 | 4096) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a frame pool needs at least one frame of 2048 or 4096 bytes",
            ));
        }
        let len = usize::try_from(u64::from(frames) * u64::from(frame_size))
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let count = frames as usize;
        Ok(Self {
            memory: Mapping::anonymous(len)?,
            shift: frame_size.trailing_zeros(),
            // Taken from the end: low numbers first, and the most recently used again,
            // while it is still in the cache.
            free: (0..frames).rev().collect(),
            owners: vec![Owner::Free; count],
            census: Census {
                free: count,
                ..Census::default()
            },
            identity: POOLS.fetch_add(1, Ordering::Relaxed),
            lessees: 0,
        })
    }

    /// A fresh frame with an empty packet at the usual place, or `None` when all are
    /// in use.
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.owners[index as usize] = Owner::Held;
        self.census.free -= 1;
        self.census.held += 1;
        Some(Frame {
            index,
            start: FRONT_ROOM,
            len: 0,
        })
    }

    /// A fresh frame that holds a copy of `packet`; `None` when no frame is free or
    /// the packet is too large.
    pub fn take_with(&mut self, packet: &[u8]) -> Option<Frame> {
        if packet.len() > self.capacity() {
            return None;
        }
        let mut frame = self.take()?;
        self.buffer_mut(&frame)[..packet.len()].copy_from_slice(packet);
        self.set_len(&mut frame, packet.len());
        Some(frame)
    }

    /// Takes a frame back.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        self.expect_owner(frame.index, Owner::Held);
        self.owners[frame.index as usize] = Owner::Free;
        self.census.held -= 1;
        self.census.free += 1;
        self.free.push(frame.index);
    }

    /// Keeps a frame until [`FramePool::unpark`], known by number only.
    pub fn park(&mut self, frame: Frame) -> FrameId {
        self.expect_owner(frame.index, Owner::Held);
        self.owners[frame.index as usize] = Owner::Parked {
            start: frame.start,
            len: frame.len,
        };
        self.census.held -= 1;
        self.census.parked += 1;
        FrameId(frame.index)
    }

    /// A parked frame with its packet, or `None` if that frame is not parked.
    pub fn unpark(&mut self, id: FrameId) -> Option<Frame> {
        let owner = self.owners.get_mut(id.0 as usize)?;
        let Owner::Parked { start, len } = *owner else {
            return None;
        };
        *owner = Owner::Held;
        self.census.parked -= 1;
        self.census.held += 1;
        Some(Frame {
            index: id.0,
            start,
            len,
        })
    }

    /// The packet.
    #[inline]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        let (start, len) = (frame.start as usize, frame.len as usize);
        &self.piece(frame.index)[start..start + len]
    }

    /// Has the packet's first line fetched into the processor's cache: it will be read soon.
    #[inline]
    pub fn fetch(&self, frame: &Frame) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let packet = self.bytes(frame);
            // SAFETY: needs SSE, which every x86-64 has; it reads nothing, and the address is valid.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(packet.as_ptr().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// The packet, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        let (start, len) = (frame.start as usize, frame.len as usize);
        &mut self.piece_mut(frame.index)[start..start + len]
    }

    /// From the packet's first byte to the frame's last: the packet may grow into the
    /// rest, after which [`FramePool::set_len`] says how far.
    #[inline]
    pub fn buffer_mut(&mut self, frame: &Frame) -> &mut [u8] {
        let start = frame.start as usize;
        &mut self.piece_mut(frame.index)[start..]
    }

    /// Sets the packet's length, at most to the end of [`FramePool::buffer_mut`].
    #[inline]
    pub fn set_len(&self, frame: &mut Frame, len: usize) {
        let room = self.frame_size() as usize - frame.start as usize;
        assert!(
            len <= room,
            "a packet of {len} bytes in a frame with room for {room}"
        );
        frame.len = len as u16;
    }

    /// Moves the packet's beginning `by` bytes towards the frame's, `false` if there
    /// is no such room. The new bytes are whatever was there.
    pub fn grow_front(&self, frame: &mut Frame, by: usize) -> bool {
        match u16::try_from(by) {
            Ok(by) if by <= frame.start => {
                frame.start -= by;
                frame.len += by;
                true
            }
            _ => false,
        }
    }

    /// Cuts `by` bytes off the packet's beginning, `false` if it is shorter.
    pub fn shrink_front(&self, frame: &mut Frame, by: usize) -> bool {
        match u16::try_from(by) {
            Ok(by) if by <= frame.len => {
                frame.start += by;
                frame.len -= by;
                true
            }
            _ => false,
        }
    }

    /// The largest packet a fresh frame holds.
    pub fn capacity(&self) -> usize {
        (self.frame_size() - u32::from(FRONT_ROOM)) as usize
    }

    /// Number of frames.
    pub fn size(&self) -> usize {
        self.owners.len()
    }

    /// Who has how many.
    pub fn census(&self) -> Census {
        self.census
    }

    /// Recounts every frame and asserts that the books are right: for tests.
    pub fn check(&self) {
        let mut found = Census::default();
        for owner in &self.owners {
            match owner {
                Owner::Free => found.free += 1,
                Owner::Held => found.held += 1,
                Owner::Parked { .. } => found.parked += 1,
                Owner::Lent(_) => found.lent += 1,
            }
        }
        assert_eq!(found, self.census, "the census differs from a recount");
        assert_eq!(
            found.free,
            self.free.len(),
            "the free list differs from the census"
        );
    }

    /// Distinguishes pools, so that a port notices a stranger's.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// The memory, for registration with the kernel.
    pub(crate) fn memory(&self) -> &Mapping {
        &self.memory
    }

    pub(crate) fn frame_size(&self) -> u32 {
        1 << self.shift
    }

    /// A new party to lend frames to.
    pub(crate) fn lessee(&mut self) -> Lessee {
        let lessee = Lessee(self.lessees);
        self.lessees = self
            .lessees
            .checked_add(1)
            .expect("a worker has fewer than 255 ports");
        lessee
    }

    /// Takes a free frame for the kernel to fill; where it begins in the region.
    #[inline]
    pub(crate) fn lend_free(&mut self, to: Lessee) -> Option<u64> {
        let index = self.free.pop()?;
        self.owners[index as usize] = Owner::Lent(to);
        self.census.free -= 1;
        self.census.lent += 1;
        Some(u64::from(index) << self.shift)
    }

    /// Gives a held frame to the kernel to send; where its packet lies in the region.
    #[inline]
    pub(crate) fn lend(&mut self, frame: Frame, to: Lessee) -> (u64, u32) {
        self.expect_owner(frame.index, Owner::Held);
        self.owners[frame.index as usize] = Owner::Lent(to);
        self.census.held -= 1;
        self.census.lent += 1;
        let address = (u64::from(frame.index) << self.shift) + u64::from(frame.start);
        (address, u32::from(frame.len))
    }

    /// A frame the kernel has filled: `len` bytes at `address` of the region.
    #[inline]
    pub(crate) fn received(&mut self, address: u64, len: u32, by: Lessee) -> Frame {
        let index = self.settle(address, by);
        self.census.held += 1;
        self.owners[index as usize] = Owner::Held;
        let start = (address & u64::from(self.frame_size() - 1)) as u32;
        assert!(
            start + len <= self.frame_size(),
            "the kernel filled beyond a frame's end"
        );
        Frame {
            index,
            start: start as u16,
            len: len as u16,
        }
    }

    /// A frame the kernel is done with, whichever byte of it `address` is.
    #[inline]
    pub(crate) fn returned(&mut self, address: u64, by: Lessee) {
        let index = self.settle(address, by);
        self.census.free += 1;
        self.owners[index as usize] = Owner::Free;
        self.free.push(index);
    }

    /// Takes back whatever `from` still has, once it has stopped using it.
    pub(crate) fn foreclose(&mut self, from: Lessee) {
        for (index, owner) in self.owners.iter_mut().enumerate() {
            if *owner == Owner::Lent(from) {
                *owner = Owner::Free;
                self.census.lent -= 1;
                self.census.free += 1;
                self.free.push(index as u32);
            }
        }
    }

    /// The number of a lent frame that comes back from the kernel.
    #[inline]
    fn settle(&mut self, address: u64, by: Lessee) -> u32 {
        let index = (address >> self.shift) as u32;
        self.expect_owner(index, Owner::Lent(by));
        self.census.lent -= 1;
        index
    }

    #[inline]
    fn expect_owner(&self, index: u32, expected: Owner) {
        let owner = self.owners.get(index as usize).copied();
        assert!(
            owner == Some(expected),
            "frame {index}: {owner:?}, expected {expected:?}"
        );
    }

    #[inline]
    fn piece(&self, index: u32) -> &[u8] {
        let (start, size) = self.bounds(index);
        // SAFETY: `bounds` lies within the mapping, whose bytes were zeroed by the
        // kernel. A `Frame` for this index exists, so it is held: no ring contains it
        // and the kernel does not write to it. Other frames do not overlap. `&self`
        // lives as long as the result, so nobody has these bytes mutably.
        unsafe { core::slice::from_raw_parts(start, size) }
    }

    #[inline]
    fn piece_mut(&mut self, index: u32) -> &mut [u8] {
        let (start, size) = self.bounds(index);
        // SAFETY: as in `piece`; `&mut self` makes this the only reference.
        unsafe { core::slice::from_raw_parts_mut(start, size) }
    }

    /// First byte and size of a held frame's piece of the region.
    #[inline]
    fn bounds(&self, index: u32) -> (*mut u8, usize) {
        self.expect_owner(index, Owner::Held);
        let size = self.frame_size() as usize;
        // SAFETY: `expect_owner` bounds `index` by the number of frames, and the
        // mapping is that number times `frame_size` long.
        (
            unsafe { self.memory.start().as_ptr().add(index as usize * size) },
            size,
        )
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
