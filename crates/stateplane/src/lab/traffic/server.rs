//! The server's side: answers asks, pushes to subscribers, echoes datagrams.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;

use super::live::{End, Live};
use super::poll::{Agenda, Poller, Token};
use super::records::{Failure, Kind, LEN, Record, RecordStream};

/// What the server saw.
#[derive(Debug, Default)]
pub(crate) struct ServerReport {
    pub(crate) accepted: u64,
    /// Connections that delivered something else than the next number.
    pub(crate) wrong_data: u64,
    pub(crate) resets: u64,
    pub(crate) stall: super::report::Phases,
}

struct Connection {
    stream: RecordStream,
    generation: u32,
    flow: Option<u32>,
    expected: u64,
    push: Option<Push>,
}

#[derive(Clone, Copy)]
struct Push {
    period_ns: u64,
    number: u64,
}

/// Listening sockets, opened before the thread starts so that errors show.
pub(crate) struct Listeners {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Listeners {
    /// Call inside the server's namespace.
    pub(crate) fn open(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let tcp = TcpListener::bind((address, port))?;
        rustix::net::listen(&tcp, 4096)?;
        tcp.set_nonblocking(true)?;
        let udp = UdpSocket::bind((address, port))?;
        sockopt::set_socket_recv_buffer_size(&udp, 4 << 20)?;
        udp.set_nonblocking(true)?;
        Ok(Self { tcp, udp })
    }
}

const TCP: Token = Token {
    index: u32::MAX,
    generation: 0,
};
const UDP: Token = Token {
    index: u32::MAX - 1,
    generation: 0,
};

pub(super) struct Server {
    listeners: Listeners,
    live: Arc<Live>,
    poller: Poller,
    agenda: Agenda,
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    generation: u32,
    scratch: Vec<u8>,
    report: ServerReport,
}

impl Server {
    pub(super) fn new(listeners: Listeners, live: Arc<Live>) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&listeners.tcp, TCP)?;
        poller.add(&listeners.udp, UDP)?;
        Ok(Self {
            listeners,
            live,
            poller,
            agenda: Agenda::default(),
            connections: Vec::new(),
            free: Vec::new(),
            generation: 0,
            scratch: vec![0; 64 * 1024],
            report: ServerReport::default(),
        })
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) -> io::Result<ServerReport> {
        let mut ready = Vec::new();
        let mut woken = self.live.now_ns();
        while !self.live.stopped() {
            let idle = self
                .agenda
                .idle(self.live.now_ns(), Duration::from_millis(10));
            self.poller.wait(idle, &mut ready)?;
            let now = self.live.now_ns();
            let late = now.saturating_sub(woken + nanos(idle));
            self.report.stall.note(self.live.phase(), late);
            self.live.note_stall(End::Server, late);
            woken = now;
            for token in &ready {
                match *token {
                    TCP => self.accept()?,
                    UDP => self.echo()?,
                    token => self.on_data(token),
                }
            }
            let now = self.live.now_ns();
            while let Some((_, token)) = self.agenda.pop(now) {
                self.push(token, now);
            }
        }
        Ok(self.report)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listeners.tcp.accept() {
                Ok((stream, _)) => self.admit(stream)?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if out_of_descriptors(&e) => return Err(e),
                // Other errors belong to the connection, not to us (accept(2)).
                Err(_) => {}
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        self.report.accepted += 1;
        self.generation = self.generation.wrapping_add(1);
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            u32::try_from(self.connections.len() - 1).expect("fewer connections than ports")
        });
        let token = Token {
            index,
            generation: self.generation,
        };
        self.poller.add(&stream, token)?;
        self.connections[index as usize] = Some(Connection {
            stream: RecordStream::new(stream),
            generation: token.generation,
            flow: None,
            expected: 0,
            push: None,
        });
        Ok(())
    }

    fn on_data(&mut self, token: Token) {
        let Some(connection) = find(&mut self.connections, token) else {
            return;
        };
        let had_push = connection.push.is_some();
        let result = connection.serve(&mut self.scratch);
        if result == Ok(false) {
            if !had_push && connection.push.is_some() {
                self.agenda.book(self.live.now_ns(), token);
            }
            return;
        }
        self.end(token, result.err());
    }

    fn push(&mut self, token: Token, now: u64) {
        let Some(connection) = find(&mut self.connections, token) else {
            return;
        };
        let (Some(push), Some(flow)) = (&mut connection.push, connection.flow) else {
            return;
        };
        let record = Record::new(Kind::Push, flow, push.number, now);
        push.number += 1;
        let period = push.period_ns;
        match connection.stream.send(&record) {
            Ok(()) => drop(self.agenda.book(now + period, token)),
            Err(failure) => self.end(token, Some(failure)),
        }
    }

    fn end(&mut self, token: Token, failure: Option<Failure>) {
        if let Some(connection) = self.connections[token.index as usize].take() {
            if failure == Some(Failure::WrongData) {
                // A reset tells the client that its connection is broken.
                let socket = connection.stream.socket();
                let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                self.report.wrong_data += 1;
            } else if failure.is_some() {
                self.report.resets += 1;
            }
            self.free.push(token.index);
        }
    }

    fn echo(&mut self) -> io::Result<()> {
        let mut buffer = [0; LEN + 1];
        loop {
            let (length, from) = match self.listeners.udp.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // An ICMP error about an earlier answer: not our sender's fault.
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => continue,
                Err(e) => return Err(e),
            };
            if let (Some(mut record), SocketAddr::V4(from)) =
                (Record::decode(&buffer[..length]), from)
            {
                record.seen = from;
                // A full socket drops a datagram, as a network would.
                let _ = self.listeners.udp.send_to(&record.encode(), from);
            }
        }
    }
}

impl Connection {
    fn serve(&mut self, scratch: &mut [u8]) -> Result<bool, Failure> {
        let mut answers = Vec::new();
        let (flow, expected, push) = (&mut self.flow, &mut self.expected, &mut self.push);
        let closed = self.stream.receive(scratch, |record| {
            if *flow.get_or_insert(record.flow) != record.flow || record.number != *expected {
                return Err(Failure::WrongData);
            }
            *expected += 1;
            match record.kind {
                Kind::Ask => answers.push(record),
                Kind::Push => {
                    *push = Some(Push {
                        period_ns: u64::from(record.period_ms().max(1)) * 1_000_000,
                        number: 0,
                    });
                }
                Kind::Datagram => return Err(Failure::WrongData),
            }
            Ok(())
        })?;
        for answer in answers {
            self.stream.send(&answer)?;
        }
        Ok(closed)
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [
        Errno::MFILE,
        Errno::NFILE,
        Errno::BADF,
        Errno::NOMEM,
        Errno::INVAL,
    ]
    .iter()
    .any(|e| code == Some(e.raw_os_error()))
}

fn find(connections: &mut [Option<Connection>], token: Token) -> Option<&mut Connection> {
    let connection = connections.get_mut(token.index as usize)?.as_mut()?;
    (connection.generation == token.generation).then_some(connection)
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
