//! One operation: commands of one connection, in their order.
//!
//! ```text
//! redis.run@1  | flags 1 | [ watched n | (version 8, key)* ] | command ...
//!      command: | code 1 | arguments n | argument* |
//!
//! reply:       | executed 2 | what each says, as RESP ... |
//! ```
//!
//! Counts, and the lengths that precede strings, are LEB128 numbers. Watched keys are there in a
//! transaction alone. `executed` says how many of the commands were executed; the others were not,
//! because what all of them say would be too long for one reply. `ABORTED` in its place says that a
//! watched key has changed.

use alloc::vec::Vec;

use super::command::Command;
use crate::op::{self, ProcedureId};

/// The procedure that executes commands.
pub const RUN: ProcedureId = ProcedureId::of("redis.run", 1);

/// In place of the number of executed commands: a watched key has changed.
pub const ABORTED: u16 = u16::MAX;

/// A transaction: all of its commands are executed or none.
pub const TRANSACTION: u8 = 1;
/// A key and the version it must have; zero: it must not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watched {
    /// The key.
    pub key: Vec<u8>,
    /// What it must have.
    pub version: u64,
}

/// Begins an operation; commands follow by [`push_command`].
pub fn begin(flags: u8, watched: &[Watched], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&op::encode(RUN, &[flags]));
    if flags & TRANSACTION != 0 {
        put_number(watched.len(), out);
        for Watched { key, version } in watched {
            out.extend_from_slice(&version.to_be_bytes());
            put_string(key, out);
        }
    }
}

/// Appends a command.
pub fn push_command<'a>(
    command: Command,
    arguments: impl ExactSizeIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    out.push(command as u8);
    put_number(arguments.len(), out);
    for argument in arguments {
        put_string(argument, out);
    }
}

/// Splits a successful reply's body: how many commands were executed, and what they say.
pub fn split_reply(body: &[u8]) -> Option<(u16, &[u8])> {
    let (executed, said) = body.split_first_chunk()?;
    Some((u16::from_be_bytes(*executed), said))
}

fn put_number(number: usize, out: &mut Vec<u8>) {
    let mut left = number;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

fn put_string(string: &[u8], out: &mut Vec<u8>) {
    put_number(string.len(), out);
    out.extend_from_slice(string);
}

/// Reads an operation's arguments.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    /// A number below 2^28.
    pub(super) fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            number |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(string)
    }

    /// The next command; its arguments replace those in `arguments`.
    pub(super) fn command(&mut self, arguments: &mut Vec<&'a [u8]>) -> Option<Command> {
        let command = Command::from_code(self.byte()?)?;
        arguments.clear();
        for _ in 0..self.number()? {
            arguments.push(self.string()?);
        }
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn commands_are_read_as_written() {
        let long = vec![7; 20_000];
        let arguments: [&[u8]; 3] = [b"", b"key", &long];
        let mut op = Vec::new();
        begin(0, &[], &mut op);
        push_command(Command::MSet, arguments.into_iter(), &mut op);
        push_command(Command::DbSize, [].into_iter(), &mut op);
        let (procedure, rest) = op::decode(&op).expect("an operation");
        assert_eq!(procedure, RUN);
        let (mut input, mut read) = (Input(rest), Vec::new());
        assert_eq!(input.byte(), Some(0));
        assert_eq!(input.command(&mut read), Some(Command::MSet));
        assert_eq!(read, arguments);
        assert_eq!(input.command(&mut read), Some(Command::DbSize));
        assert!(read.is_empty() && input.is_empty());
        for cut in 1..rest.len() - 2 {
            let mut input = Input(&rest[1..cut]);
            assert_eq!(input.command(&mut read), None, "cut at {cut}");
        }
    }
}
