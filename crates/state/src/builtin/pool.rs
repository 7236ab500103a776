//! Pools of numbers, each held by one holder at most.
//!
//! ```text
//! pool.create@1   | first 8 | count 8 | key ...       reply: (empty)
//! pool.take@1     | holder 8 | key ...                reply: | number 8 |
//! pool.give@1     | number 8 | holder 8 | key ...     reply: (empty)
//! ```

use alloc::vec::Vec;

use super::{ROWS, read_u64, take_u64};
use crate::op::{Operation, ProcedureId};
use crate::pool::{PoolTables, Pools};
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};

/// Makes a pool of the numbers `first .. first + count`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Create<'a> {
    /// Which pool.
    pub key: &'a [u8],
    /// Its lowest number.
    pub first: u64,
    /// How many numbers.
    pub count: u64,
}

impl Operation for Create<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("pool.create", 1);
    type Reply = ();

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<()> {
        body.is_empty().then_some(())
    }
}

/// Takes a number; the reply is the number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Take<'a> {
    /// Which pool.
    pub key: &'a [u8],
    /// For whom.
    pub holder: u64,
}

impl Operation for Take<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("pool.take", 1);
    type Reply = u64;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.holder.to_be_bytes());
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<u64> {
        read_u64(body)
    }
}

/// Gives a number back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Give<'a> {
    /// Which pool.
    pub key: &'a [u8],
    /// The number.
    pub number: u64,
    /// Who took it.
    pub holder: u64,
}

impl Operation for Give<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("pool.give", 1);
    type Reply = ();

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.holder.to_be_bytes());
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<()> {
        body.is_empty().then_some(())
    }
}

/// Registers the procedures.
pub(super) fn register(registry: &mut Registry) -> Result<(), RegisterError> {
    let names = PoolTables {
        extents: "pool.extents",
        holders: "pool.holders",
        ends: "pool.ends",
        returned: "pool.returned",
    };
    let pools: Pools<[u8]> = Pools::register(registry, names, ROWS, ROWS)?;
    registry.register("pool.create", 1, move |tx, arguments, _| {
        let (first, rest) = take_u64(arguments).ok_or(Refusal::BadArguments)?;
        let (count, key) = take_u64(rest).ok_or(Refusal::BadArguments)?;
        pools.create(tx, key, first, count)
    })?;
    registry.register("pool.take", 1, move |tx, arguments, reply| {
        let (holder, key) = take_u64(arguments).ok_or(Refusal::BadArguments)?;
        let number = pools.take(tx, key, holder)?;
        reply.extend_from_slice(&number.to_be_bytes());
        Ok(())
    })?;
    registry.register("pool.give", 1, move |tx, arguments, _| {
        let (number, rest) = take_u64(arguments).ok_or(Refusal::BadArguments)?;
        let (holder, key) = take_u64(rest).ok_or(Refusal::BadArguments)?;
        pools.give(tx, key, number, holder)
    })?;
    Ok(())
}
