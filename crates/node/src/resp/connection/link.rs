//! A connection's socket, with what was read of it and what is to be written.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use stateplane_host::epoll::Ready;

/// A buffer that grew beyond this is not kept.
const KEEP: usize = 16 << 10;

/// A socket that never blocks, and its two buffers.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    /// It may have bytes to read, or room for bytes to write.
    readable: bool,
    writable: bool,
    /// The peer sends nothing more: it is read until its end.
    pub(super) ended: bool,
    /// Nothing can be said to the peer any more.
    pub(super) dead: bool,
    /// What was read and not understood yet.
    pub(super) input: Vec<u8>,
    /// What the peer is told.
    pub(super) output: Vec<u8>,
    /// So much of it is written.
    sent: usize,
}

/// What reading gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Got {
    /// So many bytes; none, for now or for ever.
    Bytes(usize),
    /// The peer's last byte was read before.
    End,
}

impl Link {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            readable: true,
            writable: true,
            ended: false,
            dead: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
        }
    }

    /// What the kernel says of the socket.
    pub(super) fn ready(&mut self, ready: Ready) {
        self.readable |= ready.readable;
        self.writable |= ready.writable;
        self.ended |= ready.ended;
    }

    /// Whether there may be bytes to read.
    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Bytes to be written.
    pub(super) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Reads once.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> Got {
        match self.stream.read(scratch) {
            Ok(0) => {
                self.readable = false;
                return Got::End;
            }
            Ok(len) => {
                // A short read has emptied the socket: the next bytes will be told.
                self.readable = self.ended || len == scratch.len();
                self.input.extend_from_slice(&scratch[..len]);
                return Got::Bytes(len);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.dead = true,
        }
        Got::Bytes(0)
    }

    /// So many bytes of the input are done with.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.input.drain(..bytes);
        if self.input.is_empty() && self.input.capacity() > KEEP {
            self.input = Vec::new();
        }
    }

    /// Writes what the socket takes; how many bytes that were.
    pub(super) fn write(&mut self) -> usize {
        let before = self.sent;
        while self.writable && self.sent < self.output.len() && !self.dead {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => self.dead = true,
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.dead = true,
            }
        }
        let written = self.sent - before;
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            if self.output.capacity() > KEEP {
                self.output = Vec::new();
            }
        }
        written
    }
}
