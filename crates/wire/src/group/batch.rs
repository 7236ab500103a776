//! Operations on their way in, and their results on the way back.

use alloc::vec::Vec;

use smallvec::SmallVec;
use stateplane_base::Blob;

use super::large::{Piece, Whole};
use super::parts::Slot;
use crate::codec::{Malformed, Reader, Writer};

/// Operations one request carries at most.
pub const MAX_BATCH: usize = 256;
/// Bytes of one operation, or piece of one, at most: what its length field can say.
pub const MAX_PIECE: usize = PIECE_FLAG as usize - 1;
/// In an operation's length field: it is a piece, and where it belongs follows.
const PIECE_FLAG: u16 = 1 << 15;

/// Operations of one client that share a slot, in their encoded form:
/// per operation `id u64 | length u15 | piece u1 | [whole u32 | offset u32] | bytes`,
/// where the highest bit of the length field says that it is a piece.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u16,
}

impl Batch {
    /// Bytes an operation adds to a batch besides itself.
    pub const OVERHEAD: usize = 10;
    /// The same for a piece of one.
    pub const PIECE_OVERHEAD: usize = 18;

    /// Adds an operation; false if the batch or the operation is too large.
    #[must_use]
    pub fn push(&mut self, id: u64, operation: &[u8]) -> bool {
        operation.len() <= MAX_PIECE && self.push_piece(id, Piece::all(operation))
    }

    /// Adds a piece of an operation; false if the batch or the piece is too large.
    #[must_use]
    pub fn push_piece(&mut self, id: u64, piece: Piece<'_>) -> bool {
        let len = u16::try_from(piece.bytes.len()).unwrap_or(u16::MAX);
        if usize::from(self.count) >= MAX_BATCH || len >= PIECE_FLAG {
            return false;
        }
        // At once, not field by field.
        self.bytes.reserve(Self::PIECE_OVERHEAD + piece.bytes.len());
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

    /// Takes everything out; the memory is kept for others.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
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

    /// The operations, and pieces of some, in order and with their request ids.
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
    let bytes = r.bytes(usize::from(len & !PIECE_FLAG))?;
    Ok((id, Piece::checked(whole, offset, bytes)?))
}

/// What a reply says of its operations. That of a single one needs no memory of its own.
pub type Results = SmallVec<[OpResult; 1]>;

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
    /// Not executed: there was no room in the client table, or, of a read, no answer
    /// without a slot.
    Refused,
    /// Not executed yet: of the operation in pieces, the one at `offset` is kept.
    Kept {
        /// Which.
        offset: u32,
        /// Where the first piece lies that is not there.
        missing: u32,
    },
    /// Executed, with a result too long for a datagram: it is asked for part by part.
    Long {
        /// As in `Done`.
        earlier: Option<Slot>,
        /// What it is known by.
        whole: Whole,
    },
    /// Executed.
    Done {
        /// The slot it was executed in, if that is not the slot of the reply: the
        /// request was a repetition.
        earlier: Option<Slot>,
        /// The result; a short one needs no memory of its own.
        result: Blob<22>,
    },
}

impl OpResult {
    /// Bytes it takes in a reply at most.
    pub fn size(&self) -> usize {
        29 + match &self.outcome {
            Outcome::Done { result, .. } => result.len(),
            _ => 0,
        }
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.id);
        match &self.outcome {
            Outcome::Refused => w.u8(0),
            Outcome::Done { earlier, result } => {
                encode_earlier(1, *earlier, w);
                w.string(result);
            }
            Outcome::Long { earlier, whole } => {
                encode_earlier(3, *earlier, w);
                whole.encode(w);
            }
            Outcome::Kept { offset, missing } => {
                w.u8(5);
                w.u32(*offset);
                w.u32(*missing);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = r.u64()?;
        let kind = r.u8()?;
        let earlier = match kind {
            2 | 4 => Some(r.u64()?),
            _ => None,
        };
        let outcome = match kind {
            0 => Outcome::Refused,
            1 | 2 => Outcome::Done {
                earlier,
                result: r.string()?.into(),
            },
            3 | 4 => Outcome::Long {
                earlier,
                whole: Whole::decode(r)?,
            },
            5 => Outcome::Kept {
                offset: r.u32()?,
                missing: r.u32()?,
            },
            _ => return Err(Malformed("result")),
        };
        Ok(Self { id, outcome })
    }
}

/// The kind of an outcome, one higher if the slot it was executed in follows.
fn encode_earlier(kind: u8, earlier: Option<Slot>, w: &mut Writer<'_>) {
    w.u8(kind + u8::from(earlier.is_some()));
    if let Some(slot) = earlier {
        w.u64(slot);
    }
}

pub(super) fn encode_results(results: &[OpResult], w: &mut Writer<'_>) {
    w.u16(u16::try_from(results.len()).expect("a reply answers at most one batch"));
    results.iter().for_each(|result| result.encode(w));
}

pub(super) fn decode_results(r: &mut Reader<'_>) -> Result<Results, Malformed> {
    let count = usize::from(r.u16()?);
    if count > MAX_BATCH {
        return Err(Malformed("results"));
    }
    let mut results = Results::with_capacity(count.min(r.remaining() / 9));
    for _ in 0..count {
        results.push(OpResult::decode(r)?);
    }
    Ok(results)
}
