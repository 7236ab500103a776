//! What the generator sends: numbered records with a cookie, over TCP and UDP.
//!
//! ```text
//!  0       2      3      4          8            16            24       28    30   32
//!  | magic | kind | zero | flow u32 | number u64 | sent ns u64 | seen/  |port |zero|
//!  |       |      |      |          |            |             | period |     |    |
//! ```
//! Every byte a flow delivers is checked: a record of another flow, a missing
//! or a repeated number means that the connection is not the one it was.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

/// Length of a record on the wire.
pub(crate) const LEN: usize = 32;
const MAGIC: u16 = 0x5350;
/// More unsent bytes than this mean that the peer takes nothing any more.
const OUTBOX_LIMIT: usize = 256 * 1024;

/// Who speaks on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The client asks, the server answers with the same record.
    Ask,
    /// The client subscribes, the server sends a record each period.
    Push,
    /// A datagram; the answer tells from which address it came.
    Datagram,
}

/// One numbered record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    pub(crate) flow: u32,
    pub(crate) number: u64,
    pub(crate) sent_ns: u64,
    /// `Datagram`: the source the server saw. `Push`: the address bytes carry
    /// the period in milliseconds.
    pub(crate) seen: SocketAddrV4,
}

impl Record {
    pub(crate) fn new(kind: Kind, flow: u32, number: u64, sent_ns: u64) -> Self {
        Self {
            kind,
            flow,
            number,
            sent_ns,
            seen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        }
    }

    /// A subscription to pushed records.
    pub(crate) fn subscribe(flow: u32, period_ms: u32, sent_ns: u64) -> Self {
        let mut record = Self::new(Kind::Push, flow, 0, sent_ns);
        record.seen.set_ip(Ipv4Addr::from(period_ms));
        record
    }

    pub(crate) fn period_ms(&self) -> u32 {
        u32::from(*self.seen.ip())
    }

    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[2] = match self.kind {
            Kind::Ask => 1,
            Kind::Push => 2,
            Kind::Datagram => 3,
        };
        bytes[4..8].copy_from_slice(&self.flow.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.seen.ip().octets());
        bytes[28..30].copy_from_slice(&self.seen.port().to_be_bytes());
        bytes
    }

    /// None: these bytes are not a record of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let word = |at: usize| -> [u8; 4] { [0, 1, 2, 3].map(|i| bytes[at + i]) };
        let long = |at: usize| -> u64 {
            u64::from(u32::from_be_bytes(word(at))) << 32
                | u64::from(u32::from_be_bytes(word(at + 4)))
        };
        if bytes[0..2] != MAGIC.to_be_bytes() || bytes[3] != 0 || bytes[30..32] != [0, 0] {
            return None;
        }
        let kind = match bytes[2] {
            1 => Kind::Ask,
            2 => Kind::Push,
            3 => Kind::Datagram,
            _ => return None,
        };
        let port = u16::from_be_bytes([bytes[28], bytes[29]]);
        Some(Self {
            kind,
            flow: u32::from_be_bytes(word(4)),
            number: long(8),
            sent_ns: long(16),
            seen: SocketAddrV4::new(Ipv4Addr::from(word(24)), port),
        })
    }
}

/// How a flow ended when it did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Reset,
    Refused,
    TimedOut,
    Unreachable,
    Closed,
    WrongData,
    Silent,
    Other,
}

impl Failure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed by peer",
            Self::WrongData => "wrong data",
            Self::Silent => "silent",
            Self::Other => "other error",
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// Records over a non-blocking TCP connection.
#[derive(Debug)]
pub(crate) struct RecordStream {
    stream: TcpStream,
    partial: [u8; LEN],
    filled: usize,
    outbox: Vec<u8>,
}

impl RecordStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            partial: [0; LEN],
            filled: 0,
            outbox: Vec::new(),
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Hands every complete record to `take`. Ok(true): the peer has closed.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(Record) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        loop {
            let length = match self.stream.read(scratch) {
                Ok(0) => return Ok(true),
                Ok(length) => length,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            let mut rest = &scratch[..length];
            while !rest.is_empty() {
                let part = rest.len().min(LEN - self.filled);
                self.partial[self.filled..self.filled + part].copy_from_slice(&rest[..part]);
                self.filled += part;
                rest = &rest[part..];
                if self.filled == LEN {
                    self.filled = 0;
                    take(Record::decode(&self.partial).ok_or(Failure::WrongData)?)?;
                }
            }
            // Read on even after a short read: with edge-triggered events a
            // close that came along with the data is announced only once.
        }
    }

    /// Sends a record now, or as soon as the socket takes it.
    pub(crate) fn send(&mut self, record: &Record) -> Result<(), Failure> {
        if self.outbox.len() > OUTBOX_LIMIT {
            return Err(Failure::Silent);
        }
        self.outbox.extend_from_slice(&record.encode());
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(length) => drop(self.outbox.drain(..length)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn record(number: u64) -> Record {
        let mut record = Record::new(Kind::Datagram, 7, number, u64::MAX - 3);
        record.seen = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 4321);
        record
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Record::decode(&record(9).encode()), Some(record(9)));
        let subscription = Record::subscribe(3, 250, 1);
        let copy = Record::decode(&subscription.encode()).expect("record");
        assert_eq!(copy.period_ms(), 250);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let good = record(1).encode();
        for (at, value) in [(0, 0), (2, 4), (3, 1), (31, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Record::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Record::decode(&good[..31]), None);
    }

    #[test]
    fn records_survive_being_cut_anywhere() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let mut sender =
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let mut receiver = RecordStream::new(listener.accept().expect("accept").0);
        let bytes: Vec<u8> = (0..50).flat_map(|n| record(n).encode()).collect();
        bytes
            .chunks(7)
            .for_each(|c| sender.write_all(c).expect("send"));
        drop(sender);
        let mut numbers = Vec::new();
        let mut scratch = [0; 100];
        let closed = loop {
            let closed = receiver.receive(&mut scratch, |r| {
                numbers.push(r.number);
                Ok(())
            });
            if closed != Ok(false) {
                break closed;
            }
        };
        assert_eq!(closed, Ok(true));
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    }
}
