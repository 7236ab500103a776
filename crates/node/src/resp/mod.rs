//! The front end for clients of Redis: its protocol in front, the store behind.
//!
//! One thread turns all connections: it waits, reads, asks the store, writes. What arrived together
//! on a connection is one operation ([`connection`]), and the operations of all connections share
//! datagrams. Nothing waits in unbounded buffers: who does not read its replies is not served, and
//! when the store takes no more operations nothing more is read.
//!
//! * `request`, `reply`: the protocol's bytes
//! * `connection`, `batch`: order, transactions, replies
//! * `waiting`: who waits for an item of a list
//! * `local`, `info`: commands that need no store

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::time::Duration;

use serde::Serialize;
use stateplane_base::{Incarnation, Time};
use stateplane_functions::Ticket;
use stateplane_host::clock;
use stateplane_host::epoll::{self, Epoll};
use tracing::{info, warn};

use crate::client::{Done, Missed, StateClient};
use crate::config::{self, Config, Io, State};
use crate::failure::Failure;
use crate::regions::telemetry::Sheet;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;

mod batch;
mod connection;
mod info;
mod local;
mod reply;
pub mod request;
mod waiting;

use connection::{Ask, Connection, Sizes};
use info::{Facts, Figures};
use local::Context;
use waiting::Waiting;

/// The Redis whose commands and replies these are.
const REDIS_VERSION: &str = "7.0.0";
/// The loop looks at the stop flag at least this often.
const PATIENCE: Duration = Duration::from_millis(50);
/// Bytes read from a connection at once.
const READ: usize = 64 << 10;
/// Connections accepted in one turn.
const ACCEPT: usize = 128;
/// After the kernel refused to accept, for want of descriptors, it is asked again so much later.
const RELENT: Duration = Duration::from_millis(100);
/// Tokens of what is no connection.
const LISTENER: u64 = 0;
const STORE: u64 = 1;

/// What a front end publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RespStatus {
    /// Where it listens.
    pub listen: String,
    /// Open connections.
    pub connections: u64,
    /// Connections whose commands wait for the store.
    pub waiting: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away because there were too many.
    pub turned_away: u64,
    /// Commands received.
    pub commands: u64,
    /// Operations sent to the store.
    pub operations: u64,
    /// Operations whose outcome nobody knows.
    pub unknown: u64,
    /// Bytes received from clients.
    pub bytes_received: u64,
    /// Bytes sent to clients.
    pub bytes_sent: u64,
}

impl RoleStatus for RespStatus {
    fn readiness(&self) -> Result<(), String> {
        match self.listen.is_empty() {
            true => Err("it does not listen yet".to_owned()),
            false => Ok(()),
        }
    }

    fn count(&self, out: &mut Sheet) {
        out.level("connections", "connections", self.connections);
        out.level("waiting", "connections", self.waiting);
        out.count("accepted", "connections", self.accepted);
        out.count("turned-away", "connections", self.turned_away);
        out.count("commands", "commands", self.commands);
        out.count("operations", "operations", self.operations);
        out.count("unknown", "operations", self.unknown);
        out.count("bytes-received", "bytes", self.bytes_received);
        out.count("bytes-sent", "bytes", self.bytes_sent);
    }
}

/// A front end ready to run.
pub struct Resp {
    listener: TcpListener,
    epoll: Epoll,
    state: StateClient,
    connections: HashMap<u64, Connection>,
    next_id: u64,
    /// Connections to be served in this turn.
    queue: VecDeque<u64>,
    /// Connections whose operation the store has no room for.
    stalled: VecDeque<u64>,
    /// Connections whose command waits for an item.
    waiting: Waiting,
    /// Connections that have something to write, or may be over.
    touched: Vec<u64>,
    scratch: Box<[u8]>,
    done: Vec<Done>,
    /// When something last happened: for a while after it is looked for without waiting.
    awake: Time,
    /// There may be connections to accept, from this time on.
    accept: Option<Time>,
    password: Option<String>,
    facts: Facts,
    figures: Figures,
    sizes: Sizes,
    certain: usize,
    status: Publisher<RespStatus>,
}

impl Resp {
    /// The front end of `node`, which asks `state`.
    pub fn new(
        config: &Config,
        node: &str,
        settings: &config::Resp,
        life: Incarnation,
        state: StateClient,
        status: Publisher<RespStatus>,
    ) -> Result<Self, Failure> {
        let address = settings.listen;
        let bind = |error: io::Error| Failure::bind("the front end", address, &error);
        let listener = TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let epoll = Epoll::new().map_err(bind)?;
        epoll.add(&listener, LISTENER).map_err(bind)?;
        if let Some(fd) = state.fd() {
            epoll.add_level(fd, STORE).map_err(bind)?;
        }
        let replicas = match &config.state {
            State::Embedded => Vec::new(),
            State::Group { replicas, .. } => replicas.clone(),
        };
        let bounds = state.bounds();
        Ok(Self {
            epoll,
            state,
            connections: HashMap::new(),
            next_id: STORE + 1,
            queue: VecDeque::new(),
            stalled: VecDeque::new(),
            waiting: Waiting::default(),
            touched: Vec::new(),
            scratch: vec![0; READ].into_boxed_slice(),
            done: Vec::new(),
            awake: Time::ZERO,
            accept: Some(Time::ZERO),
            password: settings.password.clone(),
            certain: replicas.len() / 2,
            facts: Facts {
                node: node.to_owned(),
                port: listener.local_addr().map_err(bind)?.port(),
                started: clock::now(),
                life: life.0,
                replicas,
                max_clients: settings.max_connections,
            },
            listener,
            figures: Figures::default(),
            sizes: Sizes {
                most: bounds.operation,
                usual: bounds.datagram.min(bounds.operation),
            },
            status,
        })
    }

    /// Serves until asked to stop.
    pub fn run(mut self, io: Io, stop: &Stop) -> Result<(), Failure> {
        if let Err(error) = epoll::allow_descriptors(self.facts.max_clients as u64 + 64) {
            warn!(%error, "fewer connections than configured may be open at once");
        }
        info!(port = self.facts.port, "Redis clients may connect");
        while !stop.is_raised() {
            self.turn(io)
                .map_err(|error| Failure::running(format!("resp: {error}")))?;
        }
        Ok(())
    }

    fn turn(&mut self, io: Io) -> io::Result<()> {
        self.wait(io)?;
        let now = clock::now();
        self.accept(now)?;
        self.hear(now);
        while let Some(id) = self.queue.pop_front() {
            self.serve(now, id);
        }
        self.state.flush(now);
        self.write();
        if self.status.due(now) {
            self.publish();
        }
        Ok(())
    }

    fn wait(&mut self, io: Io) -> io::Result<()> {
        let now = clock::now();
        let timer = self.state.next_timer().unwrap_or(Time::MAX);
        let accept = self.accept.unwrap_or(Time::MAX);
        let due = match self.queue.is_empty() && now.since(self.awake) >= io.busy_poll {
            true => {
                let again = self.waiting.next().unwrap_or(Time::MAX);
                timer.min(self.status.next()).min(accept).min(again)
            }
            false => now,
        };
        let Self {
            epoll,
            connections,
            queue,
            accept,
            awake,
            ..
        } = self;
        epoll.wait(due.since(now).min(PATIENCE), |ready| match ready.token {
            LISTENER => *accept = Some(Time::ZERO),
            STORE => *awake = now,
            id => {
                *awake = now;
                if let Some(connection) = connections.get_mut(&id) {
                    connection.ready(ready);
                    enqueue(connection, queue);
                }
            }
        })
    }

    fn accept(&mut self, now: Time) -> io::Result<()> {
        if self.accept.is_none_or(|from| from > now) {
            return Ok(());
        }
        for _ in 0..ACCEPT {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.accept = match error.kind() {
                        ErrorKind::WouldBlock => None,
                        // The peer has gone, or there are no descriptors left.
                        _ => Some(now + RELENT),
                    };
                    return Ok(());
                }
            };
            stream.set_nonblocking(true)?;
            if self.connections.len() >= self.facts.max_clients {
                self.figures.refused += 1;
                // It is told as far as its socket takes it.
                let _ = Connection::turn_away(stream);
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            // Replies are written whole: there is nothing to wait for.
            let _ = stream.set_nodelay(true);
            self.epoll.add(&stream, id)?;
            let mut connection = Connection::new(stream, id, self.password.is_none(), self.sizes);
            enqueue(&mut connection, &mut self.queue);
            self.connections.insert(id, connection);
            self.figures.accepted += 1;
        }
        Ok(())
    }

    /// Takes what the store answered.
    fn hear(&mut self, now: Time) {
        self.state.poll(now, &mut self.done);
        for (Ticket(id), result) in self.done.drain(..) {
            let result = result.as_deref().map_err(|missed| *missed);
            self.figures.unknown += u64::from(result == Err(Missed::Unknown));
            // Whoever left meanwhile does not hear it.
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let pushed = connection.complete(now, result);
            enqueue(connection, &mut self.queue);
            if let Some((again, since, keys)) = connection.waits() {
                *since = Some(self.waiting.add(id, *since, again, keys));
            }
            for (key, items) in pushed {
                for id in self.waiting.pushed(key, items) {
                    wake(&mut self.connections, id, true, &mut self.queue);
                }
            }
        }
        while let Some(id) = self.waiting.due(now) {
            wake(&mut self.connections, id, false, &mut self.queue);
        }
        for _ in 0..self.state.room() {
            let Some(id) = self.stalled.pop_front() else {
                break;
            };
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.stalled = false;
                enqueue(connection, &mut self.queue);
            }
        }
    }

    fn serve(&mut self, now: Time, id: u64) {
        self.figures.clients = self.connections.len();
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.queued = false;
        self.touched.push(id);
        let mut context = Context {
            facts: &self.facts,
            figures: self.figures,
            password: self.password.as_deref(),
            certain: self.certain,
        };
        connection.advance(&mut self.scratch, self.sizes, now, &mut context);
        self.figures = context.figures;
        if self.state.room() == 0 {
            if connection.has_operation() && !connection.stalled {
                connection.stalled = true;
                self.stalled.push_back(id);
            }
            return;
        }
        match connection.operation() {
            Some(Ask::Execute(op)) => self.state.submit(now, Ticket(id), op),
            Some(Ask::Read(op)) => self.state.read(now, Ticket(id), op),
            None => return,
        }
        self.figures.operations += 1;
    }

    fn write(&mut self) {
        for id in self.touched.drain(..) {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            self.figures.sent += connection.write() as u64;
            if connection.is_over() {
                self.waiting.remove(id);
                self.connections.remove(&id);
            } else if connection.may_go_on() {
                enqueue(connection, &mut self.queue);
            }
        }
    }

    fn publish(&mut self) {
        let waiting = self.connections.values().filter(|c| c.is_waiting()).count();
        let (view, leader) = self.state.view();
        self.figures = Figures {
            clients: self.connections.len(),
            waiting,
            view,
            leader,
            ..self.figures
        };
        let (figures, port) = (self.figures, self.facts.port);
        let listen = self.listener.local_addr();
        self.status.update(|status| {
            *status = RespStatus {
                listen: listen.map_or(port.to_string(), |address| address.to_string()),
                connections: figures.clients as u64,
                waiting: waiting as u64,
                accepted: figures.accepted,
                turned_away: figures.refused,
                commands: figures.commands,
                operations: figures.operations,
                unknown: figures.unknown,
                bytes_received: figures.received,
                bytes_sent: figures.sent,
            };
        });
    }
}

fn wake(
    connections: &mut HashMap<u64, Connection>,
    id: u64,
    pushed: bool,
    queue: &mut VecDeque<u64>,
) {
    if let Some(connection) = connections.get_mut(&id) {
        connection.awake(pushed);
        enqueue(connection, queue);
    }
}

fn enqueue(connection: &mut Connection, queue: &mut VecDeque<u64>) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(connection.id);
    }
}
