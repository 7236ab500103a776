//! Operations on their way in, and their results on the way back.

use alloc::vec::Vec;

use super::parts::Slot;
use crate::codec::{Malformed, Reader, Writer};

/// Operations one request carries at most.
pub const MAX_BATCH: usize = 256;
/// Bytes of one operation at most: what its two-byte length can say.
pub const MAX_OPERATION: usize = u16::MAX as usize;

/// Operations of one client that share a slot, in their encoded form:
/// per operation `id u64 | length u16 | bytes`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u16,
}

impl Batch {
    /// Bytes an operation adds to a batch besides itself.
    pub const OVERHEAD: usize = 10;

    /// Adds an operation; false if the batch or the operation is too large.
    #[must_use]
    pub fn push(&mut self, id: u64, operation: &[u8]) -> bool {
        let Ok(len) = u16::try_from(operation.len()) else {
            return false;
        };
        if usize::from(self.count) >= MAX_BATCH {
            return false;
        }
        let mut w = Writer::new(&mut self.bytes);
        w.u64(id);
        w.u16(len);
        w.bytes(operation);
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
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
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

fn take_operation<'a>(r: &mut Reader<'a>) -> Result<(u64, &'a [u8]), Malformed> {
    let id = r.u64()?;
    let len = r.u16()?;
    Ok((id, r.bytes(usize::from(len))?))
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
    /// Not executed: there was no room in the client table, or, of a read, no answer
    /// without a slot.
    Refused,
    /// Executed.
    Done {
        /// The slot it was executed in, if that is not the slot of the reply: the
        /// request was a repetition.
        earlier: Option<Slot>,
        /// The result.
        result: Vec<u8>,
    },
}

impl OpResult {
    /// Bytes it takes in a reply at most.
    pub const fn size(&self) -> usize {
        21 + match &self.outcome {
            Outcome::Done { result, .. } => result.len(),
            Outcome::Refused => 0,
        }
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.id);
        match &self.outcome {
            Outcome::Refused => w.u8(0),
            Outcome::Done { earlier, result } => {
                w.u8(1 + u8::from(earlier.is_some()));
                if let Some(slot) = earlier {
                    w.u64(*slot);
                }
                w.string(result);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let id = r.u64()?;
        let earlier = match r.u8()? {
            0 => {
                let outcome = Outcome::Refused;
                return Ok(Self { id, outcome });
            }
            1 => None,
            2 => Some(r.u64()?),
            _ => return Err(Malformed("result")),
        };
        let result = r.string()?.to_vec();
        let outcome = Outcome::Done { earlier, result };
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
