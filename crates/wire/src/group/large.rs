//! What is longer than a datagram: operations in pieces, results in parts.

use alloc::vec::Vec;

use stateplane_base::ClientId;
use xxhash_rust::xxh3::xxh3_64;

use super::parts::Slot;
use crate::codec::{Malformed, Reader, Writer, length32};

/// Bytes of an operation or of a result at most, whatever a group is told.
pub const MAX_LARGE: usize = 64 << 20;

/// An operation, or a piece of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Piece<'a> {
    /// Length of the whole operation.
    pub whole: u32,
    /// Where this piece lies in it.
    pub offset: u32,
    /// The piece.
    pub bytes: &'a [u8],
}

impl<'a> Piece<'a> {
    /// An operation in one piece.
    pub fn all(bytes: &'a [u8]) -> Self {
        Self {
            whole: length32(bytes.len()),
            offset: 0,
            bytes,
        }
    }

    /// Whether it is all of its operation.
    pub const fn is_all(&self) -> bool {
        self.bytes.len() == self.whole as usize
    }

    /// Something, but not all, of a whole that may be.
    pub(super) fn checked(whole: u32, offset: u32, bytes: &'a [u8]) -> Result<Self, Malformed> {
        if !lies_within(whole, offset, bytes) || bytes.len() >= whole as usize {
            return Err(Malformed("piece"));
        }
        Ok(Self {
            whole,
            offset,
            bytes,
        })
    }
}

fn lies_within(whole: u32, offset: u32, bytes: &[u8]) -> bool {
    let end = (offset as usize).checked_add(bytes.len());
    !bytes.is_empty() && end.is_some_and(|end| end <= whole as usize) && whole as usize <= MAX_LARGE
}

/// What a long result is known by: who has these bytes can tell, whoever sent them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Whole {
    /// Its length.
    pub len: u32,
    /// Its XXH3 fingerprint: different results differ, but for a chance of 2^-64.
    pub digest: u64,
}

impl Whole {
    /// That of this result.
    pub fn of(result: &[u8]) -> Self {
        Self {
            len: length32(result.len()),
            digest: xxh3_64(result),
        }
    }

    pub(super) fn encode(self, w: &mut Writer<'_>) {
        w.u32(self.len);
        w.u64(self.digest);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (len, digest) = (r.u32()?, r.u64()?);
        if len as usize > MAX_LARGE {
            return Err(Malformed("result length"));
        }
        Ok(Self { len, digest })
    }
}

/// Client to replica: "send me parts of that result".
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResultRequest {
    /// Who asks.
    pub client: ClientId,
    /// Of which operation.
    pub id: u64,
    /// First byte wanted.
    pub offset: u32,
    /// How many parts.
    pub parts: u16,
}

impl ResultRequest {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.client.0);
        w.u64(self.id);
        w.u32(self.offset);
        w.u16(self.parts);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            client: ClientId(r.u64()?),
            id: r.u64()?,
            offset: r.u32()?,
            parts: r.u16()?,
        })
    }
}

/// A part of a result, and of which one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResultPart {
    /// To whom.
    pub client: ClientId,
    /// Of which operation.
    pub id: u64,
    /// The slot it was executed in, or, of a read, after which the state was read.
    pub slot: Slot,
    /// All of it.
    pub whole: Whole,
    /// Where this part lies.
    pub offset: u32,
    /// The part.
    pub bytes: Vec<u8>,
}

impl ResultPart {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.client.0);
        w.u64(self.id);
        w.u64(self.slot);
        self.whole.encode(w);
        w.u32(self.offset);
        w.string(&self.bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (client, id, slot) = (ClientId(r.u64()?), r.u64()?, r.u64()?);
        let (whole, offset) = (Whole::decode(r)?, r.u32()?);
        let bytes = r.string()?.to_vec();
        if !lies_within(whole.len, offset, &bytes) {
            return Err(Malformed("part of a result"));
        }
        Ok(Self {
            client,
            id,
            slot,
            whole,
            offset,
            bytes,
        })
    }
}
