//! Operations on their way in, and their results on the way back.

use alloc::vec::Vec;

use super::parts::Slot;
use crate::codec::{Malformed, Reader, Writer, length32};

/// Operations one request carries at most.
pub const MAX_BATCH: usize = 256;
/// Bytes of one operation or result at most; longer than a datagram, it travels in pieces.
pub const MAX_OPERATION: usize = 2 << 20;
/// Bytes of one piece of an operation at most: what its length field can say.
pub const MAX_PIECE: usize = PIECE_FLAG as usize - 1;
/// In an operation's length field: it is a piece, and where it belongs follows.
const PIECE_FLAG: u16 = 1 << 15;

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

    /// The offset after it.
    pub fn end(&self) -> u32 {
        self.offset + length32(self.bytes.len())
    }
}

/// Operations of one client that share a slot, in their encoded form:
/// per operation `id u64 | length u15 | piece u1 [whole u32 | offset u32] | bytes`,
/// where the highest bit of the length field says that it is a piece.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u16,
}

impl Batch {
    /// Bytes an operation adds to a batch besides itself, and a piece as well.
    pub const OVERHEAD: usize = 18;

    /// Adds an operation; false if the batch or the operation is too large.
    #[must_use]
    pub fn push(&mut self, id: u64, operation: &[u8]) -> bool {
        operation.len() <= MAX_PIECE && self.push_piece(id, Piece::all(operation))
    }

    /// Adds an operation or a piece of one; false if the batch or the piece is too large.
    #[must_use]
    pub fn push_piece(&mut self, id: u64, piece: Piece<'_>) -> bool {
        let len = u16::try_from(piece.bytes.len()).unwrap_or(u16::MAX);
        if usize::from(self.count) >= MAX_BATCH || len >= PIECE_FLAG {
            return false;
        }
        let mut w = Writer::new(&mut self.bytes);
        w.u64(id);
        if piece.is_all() {
            w.u16(len);
        } else {
            w.u16(len | PIECE_FLAG);
            w.u32(piece.whole);
            w.u32(piece.offset);
        }
        w.bytes(piece.bytes);
        self.count += 1;
        true
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it carries nothing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Encoded size.
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The operations in order, with their request ids.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Piece<'_>)> {
        let mut r = Reader::new(&self.bytes);
        // The bytes were checked when they were pushed or decoded, so the
        // iteration ends only where they end.
        core::iter::from_fn(move || take_operation(&mut r).ok())
    }

    /// The operations in their encoded form.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads operations that fill `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut check = Reader::new(bytes);
        let mut count = 0;
        while check.remaining() > 0 {
            take_operation(&mut check)?;
            count += 1;
            if usize::from(count) > MAX_BATCH {
                return Err(Malformed("batch too large"));
            }
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            count,
        })
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = r.u16()?;
        let batch = Self::from_bytes(r.string()?)?;
        if batch.count != count {
            return Err(Malformed("batch"));
        }
        Ok(batch)
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u16(self.count);
        w.string(&self.bytes);
    }
}

fn take_operation<'a>(r: &mut Reader<'a>) -> Result<(u64, Piece<'a>), Malformed> {
    let id = r.u64()?;
    let len = r.u16()?;
    if len & PIECE_FLAG == 0 {
        return Ok((id, Piece::all(r.bytes(usize::from(len))?)));
    }
    let (whole, offset) = (r.u32()?, r.u32()?);
    let len = len & !PIECE_FLAG;
    let bytes = r.bytes(usize::from(len))?;
    let end = offset.checked_add(u32::from(len));
    // A piece is something, but not all, of a whole that may be.
    let sound = len > 0
        && end.is_some_and(|end| end <= whole)
        && u32::from(len) < whole
        && whole as usize <= MAX_OPERATION;
    if !sound {
        return Err(Malformed("piece"));
    }
    Ok((
        id,
        Piece {
            whole,
            offset,
            bytes,
        },
    ))
}

/// The leader's answer to one operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OpResult {
    /// The request id.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Not executed: there was no room in the client table.
    Refused,
    /// Not executed yet: the piece that begins at this offset is kept, and others are awaited.
    Kept(u32),
    /// Executed.
    Done {
        /// The slot it was executed in, if that is not the slot of the reply: the
        /// request was a repetition.
        earlier: Option<Slot>,
        /// The result.
        result: ResultPart,
    },
}

/// A result, or a part of one that is longer than a datagram.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResultPart {
    /// Length of the whole result.
    pub whole: u32,
    /// Where this part lies in it.
    pub offset: u32,
    /// The part.
    pub bytes: Vec<u8>,
}

impl ResultPart {
    /// A result in one part.
    pub fn all(bytes: Vec<u8>) -> Self {
        Self {
            whole: length32(bytes.len()),
            offset: 0,
            bytes,
        }
    }

    /// Whether it is all of its result.
    pub const fn is_all(&self) -> bool {
        self.bytes.len() == self.whole as usize
    }
}

impl OpResult {
    /// Bytes it takes in a reply at most.
    pub const fn size(&self) -> usize {
        29 + match &self.outcome {
            Outcome::Done { result, .. } => result.bytes.len(),
            _ => 0,
        }
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.id);
        match &self.outcome {
            Outcome::Refused => w.u8(0),
            Outcome::Kept(offset) => {
                w.u8(1);
                w.u32(*offset);
            }
            Outcome::Done { earlier, result } => {
                let part = !result.is_all();
                w.u8(2 | u8::from(earlier.is_some()) << 2 | u8::from(part) << 3);
                if let Some(slot) = earlier {
                    w.u64(*slot);
                }
                if part {
                    w.u32(result.whole);
                    w.u32(result.offset);
                }
                w.string(&result.bytes);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = r.u64()?;
        let outcome = match r.u8()? {
            0 => Outcome::Refused,
            1 => Outcome::Kept(r.u32()?),
            flags if flags & !0b1100 == 2 => {
                let earlier = (flags & 4 != 0).then(|| r.u64()).transpose()?;
                let part = (flags & 8 != 0)
                    .then(|| Ok((r.u32()?, r.u32()?)))
                    .transpose()?;
                let bytes = r.string()?.to_vec();
                let len = length32(bytes.len());
                let (whole, offset) = part.unwrap_or((len, 0));
                let end = offset.checked_add(len);
                // Exactly what an encoder writes: a part is not the whole.
                let sound = end.is_some_and(|end| end <= whole)
                    && whole as usize <= MAX_OPERATION
                    && (part.is_none() || len < whole);
                if !sound {
                    return Err(Malformed("result part"));
                }
                let result = ResultPart {
                    whole,
                    offset,
                    bytes,
                };
                Outcome::Done { earlier, result }
            }
            _ => return Err(Malformed("result")),
        };
        Ok(Self { id, outcome })
    }
}

pub(super) fn encode_results(results: &[OpResult], w: &mut Writer<'_>) {
    w.u16(u16::try_from(results.len()).expect("a reply answers at most one batch"));
    results.iter().for_each(|result| result.encode(w));
}

pub(super) fn decode_results(r: &mut Reader<'_>) -> Result<Vec<OpResult>, Malformed> {
    let count = usize::from(r.u16()?);
    if count > MAX_BATCH {
        return Err(Malformed("results"));
    }
    let mut results = Vec::with_capacity(count.min(r.remaining() / 9));
    for _ in 0..count {
        results.push(OpResult::decode(r)?);
    }
    Ok(results)
}
