//! The client's UDP flows: numbered datagrams, echoed with the source address
//! that the server saw. A changed source is a lost mapping.

use std::io::{self, ErrorKind};
use std::net::{SocketAddrV4, UdpSocket};

use super::Plan;
use super::live::{Live, Moment};
use super::poll::{Poller, Token};
use super::records::{Failure, Kind, LEN, Record};
use super::report::{FlowReport, Silence};
use super::server::nanos;

/// Marks the generation of tokens that belong here.
const MARK: u32 = u32::MAX;

struct Flow {
    socket: UdpSocket,
    period_ns: u64,
    sent: u64,
    received: u64,
    wrong: bool,
    last_received_ns: u64,
    opened_ns: u64,
    silence: Silence,
    seen: Option<SocketAddrV4>,
    remapped: bool,
}

#[derive(Default)]
pub(super) struct Datagrams {
    flows: Vec<Flow>,
}

impl Datagrams {
    pub(super) fn owns(token: Token) -> bool {
        token.generation == MARK
    }

    pub(super) fn open(
        &mut self,
        plan: &Plan,
        from: SocketAddrV4,
        poller: &Poller,
    ) -> io::Result<Token> {
        let socket = UdpSocket::bind(from)?;
        socket.set_nonblocking(true)?;
        socket.connect(plan.server)?;
        let token = Token {
            index: u32::try_from(self.flows.len()).expect("few flows"),
            generation: MARK,
        };
        poller.add(&socket, token)?;
        self.flows.push(Flow {
            socket,
            period_ns: nanos(plan.udp_period),
            sent: 0,
            received: 0,
            wrong: false,
            last_received_ns: 0,
            opened_ns: 0,
            silence: Silence::default(),
            seen: None,
            remapped: false,
        });
        Ok(token)
    }

    /// Sends the next datagram; returns when the one after is due.
    pub(super) fn send(&mut self, token: Token, now: u64) -> u64 {
        let flow = &mut self.flows[token.index as usize];
        if flow.sent == 0 {
            flow.opened_ns = now;
        }
        let record = Record::new(Kind::Datagram, token.index, flow.sent, now);
        flow.sent += 1;
        // An error is a lost datagram; the silence that follows is measured.
        let _ = flow.socket.send(&record.encode());
        now + flow.period_ns
    }

    pub(super) fn receive(&mut self, token: Token, live: &Live) {
        let flow = &mut self.flows[token.index as usize];
        let mut buffer = [0; LEN + 1];
        loop {
            let length = match flow.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // WouldBlock, or an ICMP error about an earlier datagram.
                Err(_) => return,
            };
            match Record::decode(&buffer[..length]) {
                Some(r) if r.flow == token.index && r.number < flow.sent => {
                    flow.on_answer(&r, live)
                }
                _ => flow.wrong = true,
            }
        }
    }

    pub(super) fn all_heard_since(&self, since: u64) -> bool {
        self.flows.iter().all(|f| f.last_received_ns > since)
    }

    pub(super) fn close_books(self, moment: &Moment, since: u64) -> Vec<FlowReport> {
        let report = |mut flow: Flow| {
            flow.silence.close(moment, flow.opened_ns);
            FlowReport {
                kind: Kind::Datagram,
                silence: flow.silence,
                failure: if flow.wrong {
                    Some(Failure::WrongData)
                } else {
                    (flow.last_received_ns < since).then_some(Failure::Silent)
                },
                remapped: flow.remapped,
                sent: flow.sent,
                received: flow.received,
            }
        };
        self.flows.into_iter().map(report).collect()
    }
}

impl Flow {
    fn on_answer(&mut self, record: &Record, live: &Live) {
        let moment = live.moment();
        self.received += 1;
        Live::count(&live.delivered);
        self.silence.end(&moment);
        self.last_received_ns = moment.now_ns;
        if *self.seen.get_or_insert(record.seen) != record.seen && !self.remapped {
            self.remapped = true;
            Live::count(&live.remapped);
        }
    }
}
