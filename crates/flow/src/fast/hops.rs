//! What actions refer to by number: next hops, and the leases they depend on.

use core::sync::atomic::{AtomicU64, Ordering};

use stateplane_base::Time;
use stateplane_wire::eth::Mac;

use super::layout::{HOP_BY_DESTINATION, HOP_WORDS, LEASE_WORDS, STATE_BUSY, STATE_VALID};
use super::memory::{self, BeyondEnd, Memory, change, load, store};

/// A neighbour and the way to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// Its hardware address.
    pub destination: Mac,
    /// Ours, on the link it is on.
    pub source: Mac,
    /// The device: its slot in the program's map of devices.
    pub device: u16,
    /// The longest IP packet that the link carries.
    pub mtu: u16,
}

/// The next hops, as their one writer has them.
#[derive(Debug)]
pub struct Hops<M>(M);

impl<M: Memory> Hops<M> {
    /// Takes memory for as many as fit.
    pub const fn new(memory: M) -> Self {
        Hops(memory)
    }

    /// Sets a next hop, for all entries that use it at once.
    pub fn set(&mut self, index: u16, hop: &NextHop) -> Result<(), BeyondEnd> {
        let words = self.words(index)?;
        let (Mac(to), Mac(from)) = (hop.destination, hop.source);
        let [d, m] = [hop.device.to_le_bytes(), hop.mtu.to_le_bytes()];
        publish(words, true, || {
            let first = [to[0], to[1], to[2], to[3], to[4], to[5], from[0], from[1]];
            let second = [from[2], from[3], from[4], from[5], d[0], d[1], m[0], m[1]];
            store(words, 1, u64::from_le_bytes(first));
            store(words, 2, u64::from_le_bytes(second));
        });
        Ok(())
    }

    /// Takes a next hop away: packets to it go to the slow path.
    pub fn clear(&mut self, index: u16) -> Result<(), BeyondEnd> {
        publish(self.words(index)?, false, || ());
        Ok(())
    }

    /// The next hop, if there is one.
    pub fn get(&self, index: u16) -> Option<NextHop> {
        next_hop(&self.0, index).ok().flatten()
    }

    /// How many there can be.
    pub fn capacity(&self) -> usize {
        (self.0.len() / HOP_WORDS).min(usize::from(HOP_BY_DESTINATION))
    }

    fn words(&self, index: u16) -> Result<&[AtomicU64], BeyondEnd> {
        if usize::from(index) >= self.capacity() {
            let last = self.capacity().saturating_sub(1);
            let what = "next hop";
            return Err(BeyondEnd { what, index, last });
        }
        Ok(&self.0[usize::from(index) * HOP_WORDS..][..HOP_WORDS])
    }
}

/// The record is being changed at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Busy;

/// A reader's look-up.
pub(super) fn next_hop(memory: &[AtomicU64], index: u16) -> Result<Option<NextHop>, Busy> {
    let Some(words) = memory.get(usize::from(index) * HOP_WORDS..) else {
        return Ok(None);
    };
    let Some(words) = words.get(..HOP_WORDS) else {
        return Ok(None);
    };
    let read = read_record(words, || [load(words, 1), load(words, 2)])?;
    Ok(read.map(|[first, second]| {
        let [a, b] = [first.to_le_bytes(), second.to_le_bytes()];
        NextHop {
            destination: Mac([a[0], a[1], a[2], a[3], a[4], a[5]]),
            source: Mac([a[6], a[7], b[0], b[1], b[2], b[3]]),
            device: u16::from_le_bytes([b[4], b[5]]),
            mtu: u16::from_le_bytes([b[6], b[7]]),
        }
    }))
}

/// Changes a record that begins with a state of [`STATE_BUSY`], [`STATE_VALID`] and a count.
pub(super) fn publish(words: &[AtomicU64], valid: bool, write: impl FnOnce()) {
    let count = (load(words, 0) & !(STATE_BUSY | STATE_VALID)).wrapping_add(4);
    let done = count | if valid { STATE_VALID } else { 0 };
    change(&words[0], count | STATE_BUSY, done, write);
}

/// Reads such a record; nothing if it is not valid.
pub(super) fn read_record<T>(
    words: &[AtomicU64],
    read: impl FnOnce() -> T,
) -> Result<Option<T>, Busy> {
    let (state, found) = memory::read(&words[0], u64::MAX, read).ok_or(Busy)?;
    Ok((state & STATE_VALID != 0).then_some(found))
}

/// The leases, as their one writer has them. Renewing all entries that depend on one is one store.
#[derive(Debug)]
pub struct Leases<M>(M);

impl<M: Memory> Leases<M> {
    /// Takes memory for as many as fit; number 0 is never used ([`Guard::NONE`](super::Guard::NONE)).
    pub const fn new(memory: M) -> Self {
        Leases(memory)
    }

    /// Gives a lease to the owner whose epoch this is, until a moment that its holder has
    /// chosen early enough for the program's coarse clock. Epoch 0 is nobody's.
    pub fn set(&mut self, index: u16, epoch: u32, until: Time) -> Result<(), BeyondEnd> {
        let words = self.words(index)?;
        if load(words, 0) != u64::from(epoch) {
            // Nobody's before its end is the new owner's: the former one shall not live by it.
            words[0].store(0, Ordering::SeqCst);
        }
        words[1].store(until.as_nanos(), Ordering::SeqCst);
        words[0].store(u64::from(epoch), Ordering::SeqCst);
        Ok(())
    }

    /// Ends a lease: from now on no packet passes by an entry that depends on it.
    pub fn revoke(&mut self, index: u16) -> Result<(), BeyondEnd> {
        self.words(index)?[0].store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Whether a lease is in this life and not over, as a reader sees it.
    pub fn holds(&self, index: u16, epoch: u32, now: Time) -> bool {
        holds(&self.0, index, epoch, now)
    }

    /// How many there can be, the unused one included.
    pub fn capacity(&self) -> usize {
        (self.0.len() / LEASE_WORDS).min(1 << 16)
    }

    fn words(&self, index: u16) -> Result<&[AtomicU64], BeyondEnd> {
        if usize::from(index) >= self.capacity() {
            let last = self.capacity().saturating_sub(1);
            let what = "lease";
            return Err(BeyondEnd { what, index, last });
        }
        Ok(&self.0[usize::from(index) * LEASE_WORDS..][..LEASE_WORDS])
    }
}

/// A reader's look: whether a lease is in this life and not over. The end is read first: who
/// sees that of the next owner sees then that the former one's epoch is gone.
pub(super) fn holds(memory: &[AtomicU64], index: u16, epoch: u32, now: Time) -> bool {
    let at = usize::from(index) * LEASE_WORDS;
    let Some([owner, until]) = memory.get(at..at + LEASE_WORDS) else {
        return false;
    };
    now.as_nanos() < until.load(Ordering::SeqCst)
        && epoch != 0
        && owner.load(Ordering::SeqCst) == u64::from(epoch)
}
