//! One TCP connection of the client, from its first SYN to its end.

use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::live::Moment;
use super::records::{Failure, Kind, Record, RecordStream};
use super::report::Silence;

/// How long a connection is meant to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Until the end of the run; its record is kept on its own.
    Long,
    /// One question, one answer.
    Short,
    /// A while after its start, in nanoseconds.
    Kept(u64),
}

/// What a flow wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To be called again at this time.
    At(u64),
    /// Nothing more: it did what it was made for.
    Done,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) id: u32,
    pub(super) generation: u32,
    pub(super) kind: Kind,
    pub(super) life: Life,
    pub(super) stream: RecordStream,
    pub(super) started_ns: u64,
    pub(super) connected_ns: Option<u64>,
    pub(super) first_answer_ns: Option<u64>,
    /// The entry of the agenda that counts; older ones are ignored.
    pub(super) due_ns: u64,
    pub(super) silence: Silence,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) last_received_ns: u64,
    period_ns: u64,
    patience_ns: u64,
}

/// What a flow is made from.
pub(super) struct Order {
    pub(super) id: u32,
    pub(super) generation: u32,
    pub(super) kind: Kind,
    pub(super) life: Life,
    pub(super) period_ns: u64,
    pub(super) patience_ns: u64,
}

/// Starts a connection from exactly this source; it is not yet established.
pub(super) fn connect(from: SocketAddrV4, to: SocketAddrV4) -> rustix::io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &from)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(e) => Err(e),
    }
}

impl Flow {
    pub(super) fn new(order: &Order, stream: TcpStream, now: u64) -> Self {
        Self {
            id: order.id,
            generation: order.generation,
            kind: order.kind,
            life: order.life,
            stream: RecordStream::new(stream),
            started_ns: now,
            connected_ns: None,
            first_answer_ns: None,
            due_ns: 0,
            silence: Silence::default(),
            sent: 0,
            received: 0,
            last_received_ns: 0,
            period_ns: order.period_ns,
            patience_ns: order.patience_ns,
        }
    }

    /// When to give up connecting.
    pub(super) fn connect_deadline(&self) -> u64 {
        self.started_ns + self.patience_ns
    }

    /// The socket reported something: is the handshake over?
    pub(super) fn check_connected(&mut self, now: u64) -> Result<bool, Failure> {
        let socket = self.stream.socket();
        if let Some(error) = socket.take_error()? {
            return Err(error.into());
        }
        let connected = socket.peer_addr().is_ok();
        if connected {
            self.connected_ns = Some(now);
            self.due_ns = now;
        }
        Ok(connected)
    }

    /// Reads what came. `rtt` is told how long each record was under way.
    pub(super) fn receive(
        &mut self,
        moment: &Moment,
        scratch: &mut [u8],
        mut travelled: impl FnMut(u64),
    ) -> Result<(), Failure> {
        let (id, kind) = (self.id, self.kind);
        let mut expected = self.received;
        let closed = self.stream.receive(scratch, |record| {
            if record.flow != id || record.kind != kind || record.number != expected {
                return Err(Failure::WrongData);
            }
            expected += 1;
            travelled(moment.now_ns.saturating_sub(record.sent_ns));
            Ok(())
        })?;
        if expected > self.received {
            self.received = expected;
            self.note(moment);
        }
        if closed { Err(Failure::Closed) } else { Ok(()) }
    }

    fn note(&mut self, moment: &Moment) {
        self.first_answer_ns.get_or_insert(moment.now_ns);
        self.silence.end(moment);
        self.last_received_ns = moment.now_ns;
    }

    /// Counts the silence in which the run ended.
    pub(super) fn close_books(&mut self, moment: &Moment) {
        self.silence.close(moment, self.started_ns);
    }

    /// Whether a short or kept connection has done what it was made for.
    pub(super) fn complete(&self, now: u64) -> bool {
        match self.life {
            Life::Long => false,
            Life::Short => self.received == 1,
            Life::Kept(until) => {
                now >= until
                    && match self.kind {
                        Kind::Ask => self.received == self.sent,
                        _ => self.last_received_ns >= until,
                    }
            }
        }
    }

    /// Its time has come: send what is to be sent, complain if it is late.
    pub(super) fn tick(&mut self, now: u64) -> Result<Next, Failure> {
        if self.connected_ns.is_none() {
            return if now >= self.connect_deadline() {
                Err(Failure::TimedOut)
            } else {
                Ok(Next::At(self.connect_deadline()))
            };
        }
        if self.complete(now) {
            return Ok(Next::Done);
        }
        let heard = self.last_received_ns.max(self.connected_ns.unwrap_or(0));
        if self.life != Life::Long && now - heard > self.patience_ns {
            return Err(Failure::Silent);
        }
        match (self.kind, self.life) {
            (Kind::Ask, Life::Kept(until)) if now >= until => self.stream.flush()?,
            (Kind::Ask, Life::Short) | (Kind::Push, _) if self.sent > 0 => self.stream.flush()?,
            (Kind::Push, _) => {
                let period_ms = u32::try_from(self.period_ns / 1_000_000).unwrap_or(u32::MAX);
                self.sent += 1;
                self.stream
                    .send(&Record::subscribe(self.id, period_ms, now))?;
            }
            _ => {
                let record = Record::new(self.kind, self.id, self.sent, now);
                self.sent += 1;
                self.stream.send(&record)?;
            }
        }
        Ok(Next::At(match (self.kind, self.life) {
            (Kind::Ask, Life::Long | Life::Kept(_)) => (self.due_ns + self.period_ns).max(now),
            _ => now + 100_000_000,
        }))
    }
}
