//! Counters with an optional range: quotas and rate limits.
//!
//! ```text
//! counter.add@1   | delta 8 | lowest 8 | highest 8 | key ...      reply: | sum 8 |
//! counter.get@1   | key ...                                       reply: | value 8 |
//! ```
//!
//! Numbers are signed. A sum outside `lowest ..= highest` is refused.

use alloc::vec::Vec;

use super::{ROWS, read_u64, take_u64};
use crate::counter::Counters;
use crate::op::{Operation, ProcedureId};
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::TableSpec;

/// Adds to a counter; the reply is the sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Add<'a> {
    /// Which counter.
    pub key: &'a [u8],
    /// What to add.
    pub delta: i64,
    /// The lowest sum allowed.
    pub lowest: i64,
    /// The highest sum allowed.
    pub highest: i64,
}

impl Operation for Add<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("counter.add", 1);
    type Reply = i64;

    fn arguments(&self, out: &mut Vec<u8>) {
        for number in [self.delta, self.lowest, self.highest] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<i64> {
        read_u64(body).map(u64::cast_signed)
    }
}

/// Reads a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Get<'a> {
    /// Which counter.
    pub key: &'a [u8],
}

impl Operation for Get<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("counter.get", 1);
    const READS: bool = true;
    type Reply = i64;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<i64> {
        read_u64(body).map(u64::cast_signed)
    }
}

fn take_i64(bytes: &[u8]) -> Result<(i64, &[u8]), Refusal> {
    let (number, rest) = take_u64(bytes).ok_or(Refusal::BadArguments)?;
    Ok((number.cast_signed(), rest))
}

/// Registers the procedures.
pub(super) fn register(registry: &mut Registry) -> Result<(), RegisterError> {
    let counters: Counters<[u8]> =
        Counters::register(registry, TableSpec::new("counter.values", ROWS))?;
    registry.register("counter.add", 1, move |tx, arguments, reply| {
        let (delta, rest) = take_i64(arguments)?;
        let (lowest, rest) = take_i64(rest)?;
        let (highest, key) = take_i64(rest)?;
        let sum = counters.add(tx, key, delta, lowest..=highest)?;
        reply.extend_from_slice(&sum.to_be_bytes());
        Ok(())
    })?;
    registry.register("counter.get", 1, move |tx, key, reply| {
        reply.extend_from_slice(&counters.get(tx, key)?.to_be_bytes());
        Ok(())
    })?;
    Ok(())
}
