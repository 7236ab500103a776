//! What the group's messages are made of.

use alloc::vec::Vec;

use stateplane_base::{ClientId, LogTime};

use super::Lives;
use super::batch::Batch;
use crate::codec::{Malformed, Reader, Writer};

/// A place in the log, counted from 1 over the whole life of a group.
pub type Slot = u64;
/// The number of a view: a round, and in the lowest four bits its leader's seat.
pub type View = u64;
/// The number of a session: the view that granted it, so it is never reused.
/// 0 = no sequencer yet.
pub type Session = u64;
/// One life of the whole group, from the day all its replicas started empty.
pub type Formation = u64;

/// Seats of a group: its replicas, and those that may become one.
pub const MAX_REPLICAS: usize = 9;
/// Sequencers a group has at most: what the low bits of a nonce can say.
pub const MAX_SEQUENCERS: usize = 16;

/// Whose session it is: the number of a nonce's sequencer, which is its lowest four bits.
pub const fn sequencer_of(nonce: u64) -> u8 {
    (nonce % MAX_SEQUENCERS as u64) as u8
}
/// Bytes of a [`NoopSet`] at most: bits for 16,384 slots.
pub const MAX_NOOP_BYTES: usize = 2048;

/// Where replies go: an IPv6 (or IPv4-mapped) address and a port, written into
/// the request by the sequencer's driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Address {
    /// Network order.
    pub ip: [u8; 16],
    /// UDP port.
    pub port: u16,
}

/// What a client asks for; the value of a slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// Who asks.
    pub client: ClientId,
    /// Every request id below this one is finished and may be forgotten.
    pub done_below: u64,
    /// Where replies go.
    pub reply_to: Address,
    /// The operations.
    pub batch: Batch,
}

impl Request {
    /// Encoded size, for budgets.
    pub const fn size(&self) -> usize {
        8 + 8 + 18 + 6 + self.batch.size()
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.client.0);
        w.u64(self.done_below);
        w.bytes(&self.reply_to.ip);
        w.u16(self.reply_to.port);
        self.batch.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let client = ClientId(r.u64()?);
        let done_below = r.u64()?;
        let reply_to = Address {
            ip: r.octets16()?,
            port: r.u16()?,
        };
        Ok(Self {
            client,
            done_below,
            reply_to,
            batch: Batch::decode(r)?,
        })
    }
}

/// What a slot of the log holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// The group agreed that nothing happened here.
    Noop,
    /// A request and the time its sequencer stamped.
    Value {
        /// The stamp; execution uses the highest so far.
        time: LogTime,
        /// What to execute.
        request: Request,
    },
}

impl Entry {
    /// Whether nothing happened here.
    pub const fn is_noop(&self) -> bool {
        matches!(self, Self::Noop)
    }

    /// Memory it takes, roughly.
    pub const fn size(&self) -> usize {
        match self {
            Self::Noop => 16,
            Self::Value { request, .. } => 24 + request.size(),
        }
    }
}

/// One slot in the answer to a fetch: `None` = the answering replica has
/// nothing there (yet).
pub fn encode_entry(entry: Option<&Entry>, w: &mut Writer<'_>) {
    match entry {
        None => w.u8(0),
        Some(Entry::Noop) => w.u8(1),
        Some(Entry::Value { time, request }) => {
            w.u8(2);
            w.u64(time.as_nanos());
            request.encode(w);
        }
    }
}

/// Reads what [`encode_entry`] wrote.
pub fn decode_entry(r: &mut Reader<'_>) -> Result<Option<Entry>, Malformed> {
    Ok(match r.u8()? {
        0 => None,
        1 => Some(Entry::Noop),
        2 => {
            let time = LogTime::from_nanos(r.u64()?);
            Some(Entry::Value {
                time,
                request: Request::decode(r)?,
            })
        }
        _ => return Err(Malformed("entry")),
    })
}

/// A set of slots that hold no-ops: a bitmap that starts at the first.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NoopSet {
    first: Slot,
    bits: Vec<u8>,
}

impl NoopSet {
    /// Builds the set from rising slots that lie within [`MAX_NOOP_BYTES`] of
    /// each other; later ones are left out (callers bound their logs).
    pub fn from_rising(slots: impl IntoIterator<Item = Slot>) -> Self {
        let mut set = Self::default();
        for slot in slots {
            if set.bits.is_empty() {
                set.first = slot;
            }
            let offset = slot.saturating_sub(set.first);
            let byte = usize::try_from(offset / 8).unwrap_or(usize::MAX);
            if byte >= MAX_NOOP_BYTES {
                break;
            }
            if byte >= set.bits.len() {
                set.bits.resize(byte + 1, 0);
            }
            set.bits[byte] |= 1 << (offset % 8);
        }
        set
    }

    /// Whether `slot` holds a no-op.
    pub fn contains(&self, slot: Slot) -> bool {
        let Some(offset) = slot.checked_sub(self.first) else {
            return false;
        };
        let byte = usize::try_from(offset / 8)
            .ok()
            .and_then(|i| self.bits.get(i));
        byte.is_some_and(|b| b & (1 << (offset % 8)) != 0)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.first);
        w.string(&self.bits);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let first = r.u64()?;
        let bits = r.string()?;
        if bits.len() > MAX_NOOP_BYTES {
            return Err(Malformed("no-op set too large"));
        }
        Ok(Self {
            first,
            bits: bits.to_vec(),
        })
    }
}

/// What a log looks like without its values. Within one view two logs can
/// differ only in length and in which slots are no-ops, so this is all that a
/// view change and a synchronisation need.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Summary {
    /// The sync point: all slots up to here are final.
    pub commit: Slot,
    /// The last slot.
    pub len: Slot,
    /// `noops` is complete for the slots after this one.
    pub known_from: Slot,
    /// Which slots in `known_from + 1 ..= len` are no-ops.
    pub noops: NoopSet,
}

impl Summary {
    /// Whether it is known what kind of entry `slot` holds.
    pub const fn knows(&self, slot: Slot) -> bool {
        slot > self.known_from && slot <= self.len
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.commit);
        w.u64(self.len);
        w.u64(self.known_from);
        self.noops.encode(w);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (commit, len, known_from) = (r.u64()?, r.u64()?, r.u64()?);
        if commit > len || known_from > len {
            return Err(Malformed("summary"));
        }
        Ok(Self {
            commit,
            len,
            known_from,
            noops: NoopSet::decode(r)?,
        })
    }
}

pub(super) fn encode_lives(lives: &Lives, w: &mut Writer<'_>) {
    lives.iter().for_each(|life| w.u64(*life));
}

pub(super) fn decode_lives(r: &mut Reader<'_>) -> Result<Lives, Malformed> {
    let mut lives = Lives::default();
    for life in &mut lives {
        *life = r.u64()?;
    }
    Ok(lives)
}
