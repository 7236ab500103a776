//! The commands of Redis: strings, hashes, lists and sets under keys of one name space, with deadlines.
//!
//! A front end turns connections into operations: the commands that arrived together on a connection
//! are one operation ([`codec`]), executed one after the other, each failing on its own. A transaction
//! (`MULTI`) is an operation, too, and so is what `WATCH` needs: a key's version changes whenever
//! the key does. Commands behave as those of Redis 7.0 do, except where determinism forbids it; replies
//! are RESP ready to be sent.
//!
//! * [`command`]: the commands; [`codec`]: operations
//! * `space`: how keys lie in the store's tables, deadlines, and garbage
//! * `keys`, `strings`, `hashes`, `lists`, `sets`: what the commands do

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::op::OK;
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::timers::TimerKind;
use crate::tx::Tx;

pub mod codec;
pub mod command;
mod decimal;
mod glob;
mod hashes;
mod keys;
mod lists;
mod number;
mod reply;
mod sets;
mod space;
mod strings;

use codec::{ABORTED, Input, TRANSACTION};
pub use command::{Command, Shape};
use decimal::Decimal;
use reply::Out;
use space::Space;

/// Why a command failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// As Redis words it.
    Says(&'static str),
    /// The store refused.
    Refused(Refusal),
    /// Wrong number of arguments.
    Arity,
    /// A time to live that is not one.
    Expire,
    /// What it says does not fit into a reply.
    TooLong,
}

impl Fault {
    const WRONG_TYPE: Self =
        Self::Says("WRONGTYPE Operation against a key holding the wrong kind of value");
    const NOT_AN_INTEGER: Self = Self::Says("ERR value is not an integer or out of range");
    const NOT_A_FLOAT: Self = Self::Says("ERR value is not a valid float");
    const NOT_FINITE: Self = Self::Says("ERR increment would produce NaN or Infinity");
    const NOT_POSITIVE: Self = Self::Says("ERR value is out of range, must be positive");
    const SYNTAX: Self = Self::Says("ERR syntax error");
    const OVERFLOW: Self = Self::Says("ERR increment or decrement would overflow");
    const NO_KEY: Self = Self::Says("ERR no such key");
    const TOO_MUCH: Self =
        Self::Says("ERR this would move more elements than one command may; use a shorter list");

    /// As a refusal of the whole.
    fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::TooLong => Refusal::ReplyTooLarge,
            Self::Says(_) | Self::Arity | Self::Expire => Refusal::BadArguments,
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a command runs with.
struct Call<'c, 'tx> {
    tx: &'c mut Tx<'tx>,
    space: Space,
    sweep: TimerKind,
    command: Command,
    /// Without the command's name.
    args: &'c [&'c [u8]],
    out: Out<'c>,
}

impl Call<'_, '_> {
    fn run(&mut self) -> Result<(), Fault> {
        if !self.command.shape().admits(self.args.len() + 1) {
            return Err(Fault::Arity);
        }
        use Command as C;
        match self.command {
            C::Del | C::Unlink => self.del(),
            C::Exists | C::Touch => self.exists(),
            C::Type => self.kind(),
            C::Expire | C::PExpire | C::ExpireAt | C::PExpireAt => self.expire(),
            C::Ttl | C::PTtl | C::ExpireTime | C::PExpireTime => self.ttl(),
            C::Persist => self.persist(),
            C::Rename | C::RenameNx => self.rename(),
            C::Scan => self.scan(),
            C::Keys => self.keys(),
            C::DbSize => self.db_size(),
            C::RandomKey => self.random_key(),
            C::FlushAll | C::FlushDb => self.flush(),
            C::Versions => self.versions(),
            C::Figures => self.figures(),
            C::Get => self.get(),
            C::GetDel => self.get_del(),
            C::GetEx => self.get_ex(),
            C::GetSet => self.get_set(),
            C::Set => self.set(),
            C::SetNx => self.set_nx(),
            C::SetEx | C::PSetEx => self.set_ex(),
            C::Append => self.append(),
            C::StrLen => self.str_len(),
            C::GetRange | C::SubStr => self.get_range(),
            C::SetRange => self.set_range(),
            C::MGet => self.mget(),
            C::MSet | C::MSetNx => self.mset(),
            C::Incr | C::Decr | C::IncrBy | C::DecrBy => self.incr(),
            C::IncrByFloat => self.incr_by_float(),
            C::HSet | C::HMSet => self.hset(),
            C::HSetNx => self.hset_nx(),
            C::HGet => self.hget(),
            C::HMGet => self.hmget(),
            C::HGetAll | C::HKeys | C::HVals => self.hget_all(),
            C::HDel => self.hdel(),
            C::HLen => self.hlen(),
            C::HExists => self.hexists(),
            C::HStrLen => self.hstr_len(),
            C::HIncrBy => self.hincr_by(),
            C::HIncrByFloat => self.hincr_by_float(),
            C::HScan | C::SScan => self.scan_elements(),
            C::LPush | C::RPush | C::LPushX | C::RPushX => self.push(),
            C::LPop | C::RPop => self.pop(),
            C::LLen => self.llen(),
            C::LRange => self.lrange(),
            C::LIndex => self.lindex(),
            C::LSet => self.lset(),
            C::LTrim => self.ltrim(),
            C::LRem => self.lrem(),
            C::LInsert => self.linsert(),
            C::LMove | C::RPopLPush | C::BLMove | C::BRPopLPush => self.lmove(),
            C::BLPop | C::BRPop => self.pop_first(),
            C::SAdd => self.sadd(),
            C::SRem => self.srem(),
            C::SIsMember | C::SMIsMember => self.sis_member(),
            C::SMembers => self.smembers(),
            C::SCard => self.scard(),
            C::SPop => self.spop(),
            C::SMove => self.smove(),
        }
    }

    /// Runs it within what a reply may be.
    fn run_within(&mut self, most: usize) -> Result<(), Fault> {
        self.run()?;
        if self.out.0.len() > most {
            return Err(Fault::TooLong);
        }
        Ok(())
    }
}

/// What a failed command says.
fn explain(fault: Fault, command: Command, tx: &Tx<'_>, out: &mut Out<'_>) {
    let name = command.shape().name;
    let limits = tx.limits();
    let mut say = |text: fmt::Arguments<'_>| out.error(&alloc::fmt::format(text));
    match fault {
        Fault::Says(text) => out.error(text),
        Fault::Arity => say(format_args!(
            "ERR wrong number of arguments for '{name}' command"
        )),
        Fault::Expire => say(format_args!("ERR invalid expire time in '{name}' command")),
        Fault::TooLong => say(format_args!(
            "ERR the reply would be longer than {} bytes",
            limits.reply_bytes
        )),
        Fault::Refused(Refusal::KeyTooLarge) => say(format_args!(
            "ERR a key or field is longer than {} bytes",
            limits.key_bytes - KEY_OVERHEAD
        )),
        Fault::Refused(Refusal::ValueTooLarge) => say(format_args!(
            "ERR string exceeds maximum allowed size ({} bytes)",
            limits.value_bytes - VALUE_OVERHEAD
        )),
        Fault::Refused(Refusal::TableFull | Refusal::MemoryFull | Refusal::TimersFull) => {
            out.error("OOM command not allowed when used memory > 'maxmemory'.");
        }
        Fault::Refused(refusal) => say(format_args!("ERR {refusal}")),
    }
}

/// How long a client waits at most whose command may wait; zero: for ever.
///
/// # Errors
/// As Redis words them.
pub fn timeout(text: &[u8]) -> Result<Duration, &'static str> {
    let seconds = Decimal::parse(text).ok_or("ERR timeout is not a float or out of range")?;
    if seconds.is_negative() {
        return Err("ERR timeout is negative");
    }
    seconds.seconds().ok_or("ERR timeout is out of range")
}

/// Bytes that stand with a key or field in a table's key, at most.
const KEY_OVERHEAD: usize = 12;
/// Bytes that stand with a string in its key's row.
const VALUE_OVERHEAD: usize = 17;

/// What is said after so many bytes is said in the next reply: a long one takes more than one
/// round trip.
const ENOUGH: usize = 8 << 10;

/// The procedure.
fn run(
    space: Space,
    sweep: TimerKind,
    tx: &mut Tx<'_>,
    arguments: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let mut input = Input(arguments);
    let flags = input.byte().ok_or(Refusal::BadArguments)?;
    let transaction = flags & TRANSACTION != 0;
    let begins = reply.len();
    reply.extend_from_slice(&ABORTED.to_be_bytes());
    if transaction && !unchanged(space, tx, &mut input)? {
        return Ok(());
    }
    // The status before the body counts as well.
    let most = tx.limits().reply_bytes;
    let mut executed = 0u16;
    let mut args = Vec::new();
    while !input.is_empty() && executed < ABORTED - 1 {
        let command = input.command(&mut args).ok_or(Refusal::BadArguments)?;
        let before = reply.len();
        let done = tx.attempt(|tx| {
            let mut call = Call {
                tx,
                space,
                sweep,
                command,
                args: &args,
                out: Out(reply),
            };
            call.run_within(most)
        });
        if let Err(fault) = done {
            reply.truncate(before);
            match fault {
                Fault::TooLong if transaction => return Err(Refusal::ReplyTooLarge),
                Fault::TooLong if executed > 0 => break,
                _ => explain(fault, command, tx, &mut Out(reply)),
            }
            if reply.len() > most {
                if transaction {
                    return Err(Refusal::ReplyTooLarge);
                }
                reply.truncate(before);
                break;
            }
        }
        executed += 1;
        if reply.len() > ENOUGH && !transaction {
            break;
        }
    }
    reply[begins..begins + 2].copy_from_slice(&executed.to_be_bytes());
    Ok(())
}

/// Whether all watched keys are at their versions.
fn unchanged(space: Space, tx: &Tx<'_>, input: &mut Input<'_>) -> Result<bool, Refusal> {
    let count = input.number().ok_or(Refusal::BadArguments)?;
    let mut all = true;
    for _ in 0..count {
        let version = input.u64().ok_or(Refusal::BadArguments)?;
        let key = input.string().ok_or(Refusal::BadArguments)?;
        let found = space.find(tx, key).map_err(Fault::refusal)?;
        all &= found.map_or(0, |entry| entry.version) == version;
    }
    Ok(all)
}

/// Registers the procedure.
pub(super) fn register(registry: &mut Registry) -> Result<(), RegisterError> {
    let (space, sweep) = Space::register(registry)?;
    registry.register("redis.run", 1, move |tx, arguments, reply| {
        debug_assert_eq!(reply.last(), Some(&OK), "the body follows the status");
        run(space, sweep, tx, arguments, reply)
    })?;
    Ok(())
}
