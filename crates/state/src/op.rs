//! Operations and replies as bytes: what every client of a store speaks.
//!
//! ```text
//! operation   0        4                    reply   0        1
//!             +--------+-------- ...                +--------+-------- ...
//!             | proc.  | arguments                  | status | body
//!             +--------+-------- ...                +--------+-------- ...
//! ```
//!
//! `procedure` is a [`ProcedureId`] in network byte order. `status` is 0 for success, else a
//! [`Refusal`]'s code, and then there is no body. Arguments and body belong to the procedure.

use alloc::vec::Vec;

use crate::refusal::Refusal;

/// The status byte of a successful reply.
pub const OK: u8 = 0;

/// A procedure's identity on the wire: the 32-bit FNV-1a hash of `name@version`, the version in
/// decimal. The registry refuses two procedures with the same identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcedureId(pub u32);

impl ProcedureId {
    /// The identity of version `version` of the procedure `name`.
    pub const fn of(name: &str, version: u16) -> Self {
        let mut hash = fnv1a(0x811c_9dc5, name.as_bytes());
        hash = fnv1a(hash, b"@");
        let mut divisor = 10_000;
        let mut leading = true;
        while divisor > 0 {
            let digit = (version / divisor % 10) as u8;
            leading = leading && digit == 0 && divisor > 1;
            if !leading {
                hash = fnv1a(hash, &[b'0' + digit]);
            }
            divisor /= 10;
        }
        Self(hash)
    }
}

const fn fnv1a(mut hash: u32, bytes: &[u8]) -> u32 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// Most operations are no longer.
const USUAL: usize = 64;

/// A typed operation, as its client writes it and as it reads the reply.
pub trait Operation {
    /// The procedure it calls.
    const PROCEDURE: ProcedureId;
    /// Whether it only reads, so that it needs no slot of a log.
    const READS: bool = false;
    /// What a successful reply says.
    type Reply;

    /// Appends the procedure's arguments.
    fn arguments(&self, out: &mut Vec<u8>);

    /// Reads the body of a successful reply.
    fn read(body: &[u8]) -> Option<Self::Reply>;

    /// The whole operation.
    fn encode(&self) -> Vec<u8> {
        let mut op = Vec::with_capacity(USUAL);
        op.extend_from_slice(&Self::PROCEDURE.0.to_be_bytes());
        self.arguments(&mut op);
        op
    }

    /// Reads the whole reply.
    fn decode_reply(reply: &[u8]) -> Result<Self::Reply, ReplyError> {
        Self::read(decode_reply(reply)?).ok_or(ReplyError::Malformed)
    }
}

/// One of the items that an operation is made of, each answered by itself: who asks at the same
/// time shares an operation.
pub trait Item {
    /// The procedure.
    const PROCEDURE: ProcedureId;
    /// Most items of one operation.
    const MOST: usize;
    /// What the items of an operation have in common.
    type Common;
    /// What is said of a successful item.
    type Answer;

    /// Appends what comes before the items.
    fn common(common: &Self::Common, out: &mut Vec<u8>);

    /// Appends the item.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads what the body of a successful reply says of the item at this place.
    fn answer(body: &[u8], at: usize) -> Option<Result<Self::Answer, Refusal>>;
}

/// The operation that calls `procedure` with `arguments`.
pub fn encode(procedure: ProcedureId, arguments: &[u8]) -> Vec<u8> {
    let mut op = Vec::with_capacity(4 + arguments.len());
    op.extend_from_slice(&procedure.0.to_be_bytes());
    op.extend_from_slice(arguments);
    op
}

/// Splits an operation into procedure and arguments.
pub fn decode(op: &[u8]) -> Option<(ProcedureId, &[u8])> {
    let (id, arguments) = op.split_first_chunk::<4>()?;
    Some((ProcedureId(u32::from_be_bytes(*id)), arguments))
}

/// The body of a successful reply, or why there is none.
pub fn decode_reply(reply: &[u8]) -> Result<&[u8], ReplyError> {
    match reply.split_first() {
        Some((&OK, body)) => Ok(body),
        Some((&code, _)) => {
            Err(Refusal::from_code(code).map_or(ReplyError::Malformed, ReplyError::Refused))
        }
        None => Err(ReplyError::Malformed),
    }
}

/// Why a reply carries no body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    /// The store refused the operation; its state is as before.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The reply is not one of this procedure's.
    #[error("the reply is malformed")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_the_hash_of_name_and_decimal_version() {
        for version in [0, 1, 9, 10, 407, u16::MAX] {
            let text = alloc::format!("nat.bind@{version}");
            assert_eq!(
                ProcedureId::of("nat.bind", version).0,
                fnv1a(0x811c_9dc5, text.as_bytes())
            );
        }
        // FNV-1a's published test vector for "a".
        assert_eq!(fnv1a(0x811c_9dc5, b"a"), 0xe40c_292c);
    }

    #[test]
    fn replies_say_success_refusal_or_nonsense() {
        assert_eq!(decode_reply(&[0, 7, 8]), Ok(&[7, 8][..]));
        assert_eq!(
            decode_reply(&[Refusal::TableFull.code()]),
            Err(ReplyError::Refused(Refusal::TableFull))
        );
        assert_eq!(decode_reply(&[]), Err(ReplyError::Malformed));
        assert_eq!(decode_reply(&[63]), Err(ReplyError::Malformed));
    }
}
