//! Queues of byte strings.
//!
//! ```text
//! queue.push@1   | key 2+n | item ...      reply: | length 8 |
//! queue.pop@1    | key ...                 reply: | found 1 | item ... |
//! queue.len@1    | key ...                 reply: | length 8 |
//! ```

use alloc::vec::Vec;

use super::{ROWS, kv, put_string, read_u64, take_string};
use crate::op::{Operation, ProcedureId};
use crate::queue::Queues;
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::TableSpec;

/// Appends an item; the reply is the queue's length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Push<'a> {
    /// Which queue.
    pub key: &'a [u8],
    /// The item.
    pub item: &'a [u8],
}

impl Operation for Push<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("queue.push", 1);
    type Reply = u64;

    fn arguments(&self, out: &mut Vec<u8>) {
        put_string(self.key, out);
        out.extend_from_slice(self.item);
    }

    fn read(body: &[u8]) -> Option<u64> {
        read_u64(body)
    }
}

/// Takes the oldest item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pop<'a> {
    /// Which queue.
    pub key: &'a [u8],
}

impl Operation for Pop<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("queue.pop", 1);
    type Reply = Option<Vec<u8>>;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<Self::Reply> {
        kv::Get::read(body)
    }
}

/// Reads a queue's length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Len<'a> {
    /// Which queue.
    pub key: &'a [u8],
}

impl Operation for Len<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("queue.len", 1);
    const READS: bool = true;
    type Reply = u64;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<u64> {
        read_u64(body)
    }
}

/// Registers the procedures.
pub(super) fn register(registry: &mut Registry) -> Result<(), RegisterError> {
    let ends = TableSpec::new("queue.ends", ROWS);
    let items = TableSpec::new("queue.items", ROWS);
    let queues: Queues<[u8], [u8]> = Queues::register(registry, ends, items)?;
    registry.register("queue.push", 1, move |tx, arguments, reply| {
        let (key, item) = take_string(arguments).ok_or(Refusal::BadArguments)?;
        let len = queues.push(tx, key, item)?;
        reply.extend_from_slice(&len.to_be_bytes());
        Ok(())
    })?;
    registry.register("queue.pop", 1, move |tx, key, reply| {
        reply.push(0);
        let flag = reply.len() - 1;
        let found = queues.pop(tx, key, |item| reply.extend_from_slice(item))?;
        reply[flag] = u8::from(found.is_some());
        Ok(())
    })?;
    registry.register("queue.len", 1, move |tx, key, reply| {
        reply.extend_from_slice(&queues.len(tx, key)?.to_be_bytes());
        Ok(())
    })?;
    Ok(())
}
