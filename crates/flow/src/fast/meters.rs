//! Meters: what passed of several entries together, and how much may.
//!
//! An entry's own counts may miss packets that several processors serve, and go with the entry. A
//! meter's are exact and outlive it. The program adds before it compares, so that however many
//! processors serve a meter, what passes never exceeds the limit.

use core::sync::atomic::{AtomicU64, Ordering};

use super::layout::METER_WORDS;
use super::memory::{Memory, load, store};
use crate::PortId;

/// Where things lie in a meter: [`layout`](super::layout).
const LIMIT: usize = 0;
const USED: usize = 1;
const PACKETS: usize = 2;
const BYTES: usize = 4;

/// What passed at a meter, from inside and from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metered {
    /// Packets.
    pub packets: [u64; 2],
    /// Bytes of their frames.
    pub bytes: [u64; 2],
}

impl Metered {
    /// Bytes both ways: what a limit is compared with.
    pub const fn used(&self) -> u64 {
        self.bytes[0].wrapping_add(self.bytes[1])
    }
}

/// The meters, as their one writer has them.
#[derive(Debug)]
pub struct Meters<M>(M);

impl<M: Memory> Meters<M> {
    /// Takes memory for as many as fit.
    pub const fn new(memory: M) -> Self {
        Meters(memory)
    }

    /// Begins anew, with nothing counted. To be called when no entry names the meter any more.
    /// False: there is no such meter.
    pub fn clear(&mut self, meter: u32) -> bool {
        let Some(words) = words(&self.0, meter) else {
            return false;
        };
        for at in 0..METER_WORDS {
            store(words, at, 0);
        }
        true
    }

    /// How many bytes may have passed in all, since the meter began.
    pub fn limit(&mut self, meter: u32, bytes: u64) {
        if let Some(words) = words(&self.0, meter) {
            words[LIMIT].store(bytes, Ordering::SeqCst);
        }
    }

    /// What passed since it began.
    pub fn read(&self, meter: u32) -> Option<Metered> {
        let words = words(&self.0, meter)?;
        let pair = |at| [load(words, at), load(words, at + 1)];
        Some(Metered {
            packets: pair(PACKETS),
            bytes: pair(BYTES),
        })
    }
}

fn words(memory: &[AtomicU64], meter: u32) -> Option<&[AtomicU64]> {
    let at = usize::try_from(meter).ok()?.checked_mul(METER_WORDS)?;
    memory.get(at..at + METER_WORDS)
}

/// The program's part: counts a packet of so many bytes, if the limit allows it.
pub(super) fn charge(memory: &[AtomicU64], meter: u32, port: PortId, bytes: usize) -> bool {
    let Some(words) = words(memory, meter) else {
        return false;
    };
    let (side, bytes) = (usize::from(port.0 & 1), bytes as u64);
    let used = words[USED].fetch_add(bytes, Ordering::SeqCst);
    if used.wrapping_add(bytes) > words[LIMIT].load(Ordering::SeqCst) {
        words[USED].fetch_sub(bytes, Ordering::SeqCst);
        return false;
    }
    words[PACKETS + side].fetch_add(1, Ordering::SeqCst);
    words[BYTES + side].fetch_add(bytes, Ordering::SeqCst);
    true
}
