//! Keys and values, with an optional time to live.
//!
//! ```text
//! kv.get@1      | key ...                                   reply: | found 1 | value ... |
//! kv.put@1      | ttl 8 | key 2+n | value ...               reply: | existed 1 |
//! kv.delete@1   | key ...                                   reply: | existed 1 |
//! kv.cas@1      | ttl 8 | key 2+n | expected 1 [2+n] | value ...
//!                                          reply: | swapped 1 | found 1 | value before ... |
//! ```
//!
//! `ttl` is in milliseconds; zero: for ever. `2+n` is a string preceded by its length. `expected` is
//! 0 (the key must have no value) or 1 and a string (it must have this value).

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::LogTime;
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ROWS, put_string, take_string, take_u64};
use crate::op::{Operation, ProcedureId};
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::{Table, TableSpec};
use crate::timers::{TimerId, TimerKind};
use crate::tx::Tx;

/// Reads the value of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Get<'a> {
    /// The key.
    pub key: &'a [u8],
}

impl Operation for Get<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("kv.get", 1);
    const READS: bool = true;
    type Reply = Option<Vec<u8>>;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<Self::Reply> {
        let (&found, value) = body.split_first()?;
        Some((found != 0).then(|| value.to_owned()))
    }
}

/// Sets the value of a key. The reply says whether it had one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its new value.
    pub value: &'a [u8],
    /// How long it has it; `None`: for ever.
    pub ttl: Option<Duration>,
}

impl Operation for Put<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("kv.put", 1);
    type Reply = bool;

    fn arguments(&self, out: &mut Vec<u8>) {
        put_ttl(self.ttl, out);
        put_string(self.key, out);
        out.extend_from_slice(self.value);
    }

    fn read(body: &[u8]) -> Option<bool> {
        read_flag(body)
    }
}

/// Removes a key. The reply says whether it had a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delete<'a> {
    /// The key.
    pub key: &'a [u8],
}

impl Operation for Delete<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("kv.delete", 1);
    type Reply = bool;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key);
    }

    fn read(body: &[u8]) -> Option<bool> {
        read_flag(body)
    }
}

/// Sets the value of a key if it has the expected one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompareAndSet<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What it must have; `None`: no value.
    pub expected: Option<&'a [u8]>,
    /// Its new value.
    pub value: &'a [u8],
    /// How long it has it; `None`: for ever.
    pub ttl: Option<Duration>,
}

/// What came of a [`CompareAndSet`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Whether the new value was set.
    pub swapped: bool,
    /// The value before.
    pub before: Option<Vec<u8>>,
}

impl Operation for CompareAndSet<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("kv.cas", 1);
    type Reply = Compared;

    fn arguments(&self, out: &mut Vec<u8>) {
        put_ttl(self.ttl, out);
        put_string(self.key, out);
        out.push(u8::from(self.expected.is_some()));
        if let Some(expected) = self.expected {
            put_string(expected, out);
        }
        out.extend_from_slice(self.value);
    }

    fn read(body: &[u8]) -> Option<Compared> {
        let (&swapped, rest) = body.split_first()?;
        Some(Compared {
            swapped: swapped != 0,
            before: Get::read(rest)?,
        })
    }
}

/// Zero stands for no time to live, so the shortest one is a millisecond.
fn put_ttl(ttl: Option<Duration>, out: &mut Vec<u8>) {
    let ms = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
    out.extend_from_slice(&ttl.map_or(0, ms).to_be_bytes());
}

fn read_flag(body: &[u8]) -> Option<bool> {
    match body {
        [flag] => Some(*flag != 0),
        _ => None,
    }
}

/// The timer that ends a value.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Expiry {
    deadline: U64,
    serial: U64,
}

/// The procedures' side.
#[derive(Clone, Copy)]
struct Kv {
    rows: Table<[u8], [u8]>,
    /// Only for keys whose value ends.
    expiries: Table<[u8], Expiry>,
}

impl Kv {
    fn get(self, tx: &Tx<'_>, key: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let value = tx.get(self.rows, key)?;
        reply.push(u8::from(value.is_some()));
        reply.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }

    fn set(
        self,
        tx: &mut Tx<'_>,
        expire: TimerKind,
        key: &[u8],
        value: &[u8],
        ttl_ms: u64,
    ) -> Result<bool, Refusal> {
        let existed = tx.put(self.rows, key, value)?;
        if existed {
            self.forget_expiry(tx, key)?;
        }
        if ttl_ms > 0 {
            let timer = tx.arm(expire, key, tx.now() + Duration::from_millis(ttl_ms))?;
            let deadline = timer.deadline().as_nanos().into();
            let serial = timer.serial().into();
            tx.put(self.expiries, key, &Expiry { deadline, serial })?;
        }
        Ok(existed)
    }

    fn delete(self, tx: &mut Tx<'_>, key: &[u8]) -> Result<bool, Refusal> {
        let existed = tx.remove(self.rows, key);
        if existed {
            self.forget_expiry(tx, key)?;
        }
        Ok(existed)
    }

    fn forget_expiry(self, tx: &mut Tx<'_>, key: &[u8]) -> Result<(), Refusal> {
        if tx.len(self.expiries) == 0 {
            return Ok(());
        }
        if let Some(&Expiry { deadline, serial }) = tx.get(self.expiries, key)? {
            tx.disarm(TimerId::new(
                LogTime::from_nanos(deadline.get()),
                serial.get(),
            ));
            tx.remove(self.expiries, key);
        }
        Ok(())
    }

    fn compare_and_set(
        self,
        tx: &mut Tx<'_>,
        expire: TimerKind,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let (ttl, rest) = take_u64(arguments).ok_or(Refusal::BadArguments)?;
        let (key, rest) = take_string(rest).ok_or(Refusal::BadArguments)?;
        let (expected, value) = match rest.split_first() {
            Some((0, value)) => (None, value),
            Some((1, rest)) => {
                let (expected, value) = take_string(rest).ok_or(Refusal::BadArguments)?;
                (Some(expected), value)
            }
            _ => return Err(Refusal::BadArguments),
        };
        let swap = tx.get(self.rows, key)? == expected;
        reply.push(u8::from(swap));
        self.get(tx, key, reply)?;
        if swap {
            self.set(tx, expire, key, value, ttl)?;
        }
        Ok(())
    }
}

/// Registers the procedures.
pub(super) fn register(registry: &mut Registry) -> Result<(), RegisterError> {
    let kv = Kv {
        rows: registry.table(TableSpec::new("kv.rows", ROWS))?,
        expiries: registry.table(TableSpec::new("kv.expiries", ROWS))?,
    };
    let expire = registry.timer("kv.expire", move |tx, _, key| {
        tx.remove(kv.expiries, key);
        tx.remove(kv.rows, key);
        Ok(())
    })?;
    registry.register("kv.get", 1, move |tx, key, reply| kv.get(tx, key, reply))?;
    registry.register("kv.put", 1, move |tx, arguments, reply| {
        let (ttl, rest) = take_u64(arguments).ok_or(Refusal::BadArguments)?;
        let (key, value) = take_string(rest).ok_or(Refusal::BadArguments)?;
        reply.push(u8::from(kv.set(tx, expire, key, value, ttl)?));
        Ok(())
    })?;
    registry.register("kv.delete", 1, move |tx, key, reply| {
        reply.push(u8::from(kv.delete(tx, key)?));
        Ok(())
    })?;
    registry.register("kv.cas", 1, move |tx, arguments, reply| {
        kv.compare_and_set(tx, expire, arguments, reply)
    })?;
    Ok(())
}
