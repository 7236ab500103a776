//! Procedures every store has: keys and values, counters, queues and pools, all under names of the
//! client's choosing, and the commands of Redis.
//!
//! Each file shows its operations' arguments as a diagram, the client's side (a type that implements
//! [`Operation`](crate::op::Operation)) and the procedures.

pub mod counter;
pub mod kv;
pub mod pool;
pub mod queue;
pub mod redis;

use crate::registry::{RegisterError, Registry};

/// Most rows of each builtin table.
const ROWS: usize = 1 << 20;

/// Registers all of them.
pub(crate) fn register(registry: &mut Registry) -> Result<(), RegisterError> {
    kv::register(registry)?;
    counter::register(registry)?;
    queue::register(registry)?;
    pool::register(registry)?;
    redis::register(registry)
}

/// Splits off a string that is preceded by its length in two bytes.
fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Appends a string preceded by its length. One that is too long for its length is cut, and so
/// too long for every store's limits, too.
fn put_string(string: &[u8], out: &mut alloc::vec::Vec<u8>) {
    let len = u16::try_from(string.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&string[..usize::from(len)]);
}

/// Splits off a number.
fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// Reads a body that is one number.
fn read_u64(body: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(body.try_into().ok()?))
}
