//! A small deterministic network around the cores: every message takes 50 µs,
//! and a test decides which are lost. Faults at random are the simulator's job.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use stateplane_base::{ClientId, Incarnation, LogTime, ReplicaId, Time};
use stateplane_group::{
    Alarm, Answer, Client, Disk, Effect, GroupConfig, Mark, Memory, Message, Peer, Persist, Place,
    Protocol, Replica, RequestId, Role, Sequencer, Unknown,
};
use stateplane_state::{Application, SnapshotError};
use stateplane_wire::envelope::Key;
use stateplane_wire::group::{Address, Body, Request};
use stateplane_wire::oum::{self, Groups, Keys};

/// Remembers every operation it executed, in order.
#[derive(Default)]
pub struct Journal {
    pub ops: Vec<(LogTime, Vec<u8>)>,
    /// A snapshot under way: what is not handed out yet.
    rest: Option<Vec<u8>>,
}

impl Application for Journal {
    type Incoming = Vec<u8>;

    fn execute(&mut self, at: LogTime, op: &[u8], reply: &mut Vec<u8>) {
        self.ops.push((at, op.to_vec()));
        reply.extend_from_slice(&(self.ops.len() as u64).to_be_bytes());
        if op.starts_with(b"much") {
            // Different for each execution.
            let count = self.ops.len();
            reply.extend((0..100_000).map(|n| ((n + count) % 251) as u8));
        }
    }

    fn read(&mut self, _: LogTime, op: &[u8], reply: &mut Vec<u8>) -> bool {
        // As long as asked for, if it is long.
        let count = (self.ops.len() as u64).to_be_bytes();
        reply.extend_from_slice(&count);
        if op == b"long" {
            reply.resize(5_000, 7);
        }
        op != b"due"
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, op) in &self.ops {
            out.extend_from_slice(&at.as_nanos().to_be_bytes());
            out.extend_from_slice(&(op.len() as u32).to_be_bytes());
            out.extend_from_slice(op);
        }
        out
    }

    fn begin_snapshot(&mut self) -> u64 {
        let bytes = self.snapshot();
        self.rest.insert(bytes).len() as u64
    }

    /// Two bytes a row.
    fn continue_snapshot(&mut self, rows: usize, out: &mut Vec<u8>) -> bool {
        let rest = self.rest.as_mut().expect("it has begun");
        let len = rest.len().min(rows * 2);
        out.extend(rest.drain(..len));
        rest.is_empty() && self.rest.take().is_some()
    }

    fn abandon_snapshot(&mut self) {
        self.rest = None;
    }

    fn incoming(&self) -> Vec<u8> {
        Vec::new()
    }

    fn take(incoming: &mut Vec<u8>, piece: &[u8]) -> Result<(), SnapshotError> {
        incoming.extend_from_slice(piece);
        Ok(())
    }

    fn tidy(&mut self, _: usize) -> bool {
        true
    }

    fn install(&mut self, incoming: Vec<u8>) -> Result<(), SnapshotError> {
        let (mut ops, mut bytes) = (Vec::new(), &incoming[..]);
        while let Some((head, rest)) = bytes.split_first_chunk::<12>() {
            let at = LogTime::from_nanos(u64::from_be_bytes(head[..8].try_into().unwrap()));
            let len = u32::from_be_bytes(head[8..].try_into().unwrap()) as usize;
            let (op, rest) = rest.split_at_checked(len).ok_or(SnapshotError::Damaged)?;
            ops.push((at, op.to_vec()));
            bytes = rest;
        }
        self.ops = ops;
        Ok(())
    }

    fn digest(&self) -> u64 {
        self.ops
            .iter()
            .flat_map(|(_, op)| op)
            .fold(7, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Node {
    Replica(u8),
    Sequencer,
    Client,
}

pub type Filter = Box<dyn FnMut(Node, Node, &Body) -> bool>;

pub struct World {
    pub now: Time,
    pub config: GroupConfig,
    pub replicas: Vec<Option<Replica<Journal>>>,
    pub sequencer: Option<Sequencer>,
    pub client: Client,
    pub done: BTreeMap<RequestId, Result<Vec<u8>, Unknown>>,
    pub places: BTreeMap<RequestId, Place>,
    /// Messages sent so far, by kind.
    pub sent: BTreeMap<&'static str, u64>,
    /// True = lose the message.
    pub lose: Filter,
    /// True = keep the message in `held` for a later [`World::release`].
    pub hold: Filter,
    held: Vec<(Node, Node, Vec<u8>)>,
    pub alarms: Vec<Alarm>,
    /// What was said to changes, by ticket.
    pub answers: Vec<(u64, Answer)>,
    /// What is on each replica's disk, if the group has disks.
    pub disks: Option<Vec<Option<Memory>>>,
    wire: BTreeMap<(Time, u64), (Node, Node, Vec<u8>)>,
    serial: u64,
    /// Requests sealed.
    sealed: u64,
    keys: Keys,
    pub lives: u64,
    /// As replicas name it in their messages.
    formation: u64,
}

pub const CLIENT: ClientId = ClientId(77);
/// Where answers to it go.
const ADDRESS: Address = Address {
    ip: [0; 16],
    port: 9,
};
const DELAY: Duration = Duration::from_micros(50);

impl World {
    pub fn new(n: u8) -> Self {
        Self::with(GroupConfig::new(n))
    }

    pub fn with(config: GroupConfig) -> Self {
        let mut world = Self {
            now: Time::from_millis(1),
            replicas: (0..config.seats).map(|_| None).collect(),
            sequencer: None,
            client: Client::new(config.clone(), CLIENT, 5),
            done: BTreeMap::new(),
            places: BTreeMap::new(),
            sent: BTreeMap::new(),
            lose: Box::new(|_, _, _| false),
            hold: Box::new(|_, _, _| false),
            held: Vec::new(),
            alarms: Vec::new(),
            answers: Vec::new(),
            disks: None,
            wire: BTreeMap::new(),
            serial: 0,
            sealed: 0,
            keys: Keys::derive(&Key::new([1; 16]), 1),
            lives: 100,
            formation: 0,
            config,
        };
        (0..world.config.seats).for_each(|i| world.start_replica(i));
        if world.config.protocol == Protocol::Nopaxos {
            world.start_sequencer();
        }
        world
    }

    /// A formed group with a session.
    pub fn ready(n: u8) -> Self {
        Self::ready_with(GroupConfig::new(n))
    }

    /// The same, of any kind.
    pub fn ready_with(config: GroupConfig) -> Self {
        let mut world = Self::with(config);
        world.run(200);
        assert!(world.leader().is_some(), "the group forms");
        world
    }

    pub fn start_replica(&mut self, i: u8) {
        self.lives += 1;
        let (config, life, app) = (
            self.config.clone(),
            Incarnation(self.lives),
            Journal::default(),
        );
        let disk = self.disks.as_ref().map(|disks| &disks[usize::from(i)]);
        let replica = match disk {
            None => Replica::new(config, ReplicaId(i), life, app),
            Some(None) => Replica::with_disk(config, ReplicaId(i), life, Disk::Blank, app),
            Some(Some(memory)) => Replica::recover(config, ReplicaId(i), memory, app, self.now)
                .expect("what was written is read"),
        };
        let replica = replica.with_day(Time::ZERO, LogTime::from_millis(5000));
        self.replicas[usize::from(i)] = Some(replica);
    }

    /// A formed group with a session, all of whose replicas have disks.
    pub fn ready_with_disks(config: GroupConfig) -> Self {
        let mut world = Self::with(config);
        world.disks = Some(vec![None; usize::from(world.config.seats)]);
        (0..world.config.seats).for_each(|i| world.start_replica(i));
        world.run(200);
        assert!(world.leader().is_some(), "the group forms");
        world
    }

    /// All replicas and the sequencer stop at once, and start again.
    pub fn lose_power(&mut self) {
        self.wire.clear();
        (0..self.config.seats).for_each(|i| self.start_replica(i));
        if self.config.protocol == Protocol::Nopaxos {
            self.start_sequencer();
        }
    }

    fn persist(&mut self, i: u8, persist: Persist) {
        let disks = self.disks.as_mut().expect("only replicas with disks ask");
        let disk = &mut disks[usize::from(i)];
        match persist {
            Persist::Checkpoint { bytes, .. } => {
                *disk = Some(Memory {
                    checkpoint: bytes,
                    records: Vec::new(),
                });
            }
            Persist::Record(bytes) => disk.as_mut().expect("begun").records.push(bytes),
        }
    }

    pub fn start_sequencer(&mut self) {
        self.lives += 1;
        self.sequencer = Some(Sequencer::new(self.config.clone(), 0, self.lives << 32));
    }

    pub fn kill(&mut self, i: u8) {
        self.replicas[usize::from(i)] = None;
    }

    pub fn replica(&self, i: u8) -> &Replica<Journal> {
        self.replicas[usize::from(i)].as_ref().expect("alive")
    }

    pub fn alive(&self) -> impl Iterator<Item = &Replica<Journal>> {
        self.replicas.iter().flatten()
    }

    pub fn leader(&self) -> Option<u8> {
        let leaders = self.alive().filter(|r| r.inspect().role == Role::Leader);
        let newest = leaders.max_by_key(|r| r.inspect().view)?;
        Some(stateplane_wire::group::leader_of(newest.inspect().view))
    }

    pub fn mark(&self, mark: Mark) -> u64 {
        self.alive().map(|r| r.marks().get(mark)).sum()
    }

    pub fn submit(&mut self, op: &[u8]) -> RequestId {
        self.client
            .submit(self.now, op.to_vec())
            .expect("room for an operation")
    }

    /// Submits and runs until the outcome.
    pub fn call(&mut self, op: &[u8]) -> Result<Vec<u8>, Unknown> {
        let id = self.submit(op);
        self.run_until(3000, |w| w.done.contains_key(&id));
        self.done[&id].clone()
    }

    pub fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.step(end) {}
    }

    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + Duration::from_millis(ms);
        while !done(self) {
            assert!(self.step(end), "did not happen within {ms} ms");
        }
    }

    /// One event; false when `end` is reached.
    fn step(&mut self, end: Time) -> bool {
        self.flush();
        let timers = self.alive().filter_map(Replica::next_timer);
        let timers = timers.chain(self.sequencer.as_ref().and_then(Sequencer::next_timer));
        let timer = timers.chain(self.client.next_timer()).min();
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = timer
            .into_iter()
            .chain(arrival)
            .min()
            .filter(|at| *at <= end)
        else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        if arrival.is_some_and(|at| at <= self.now) {
            let (_, (from, to, bytes)) = self.wire.pop_first().unwrap();
            self.deliver(from, to, &bytes);
        } else {
            let now = self.now;
            self.replicas
                .iter_mut()
                .flatten()
                .for_each(|r| r.on_timer(now));
            self.sequencer.iter_mut().for_each(|s| s.on_timer(now));
            self.client.on_timer(now);
        }
        self.flush();
        self.alive().for_each(Replica::check);
        self.client.check();
        true
    }

    fn deliver(&mut self, from: Node, to: Node, bytes: &[u8]) {
        let now = self.now;
        let msg = match oum::kind(bytes) {
            Some(oum::Kind::Request) if to == Node::Sequencer => {
                return self.stamp(bytes.to_vec());
            }
            Some(oum::Kind::Request) => {
                let (_, request) = oum::read_request(&self.keys, bytes).expect("well sealed");
                let body = Body::Request(request);
                Message { formation: 0, body }
            }
            Some(oum::Kind::Ordered) => self.ordered(bytes),
            None => Message::decode(bytes).expect("what is sent can be read"),
        };
        self.formation = self.formation.max(msg.formation);
        if std::env::var_os("TRACE").is_some() {
            eprintln!("{now:?} {from:?} -> {to:?}: {:?}", msg.body);
        }
        let peer = match from {
            Node::Replica(i) => Peer::Replica(ReplicaId(i)),
            Node::Sequencer => Peer::Sequencer(0),
            Node::Client => Peer::Client(CLIENT, ADDRESS),
        };
        match to {
            Node::Replica(i) => {
                if let Some(replica) = &mut self.replicas[usize::from(i)] {
                    replica.on_message(now, peer, msg);
                }
            }
            Node::Sequencer => {
                self.sequencer
                    .iter_mut()
                    .for_each(|s| s.on_message(now, peer, msg.clone()));
            }
            Node::Client => self.client.on_message(now, peer, msg),
        }
    }

    fn ordered(&self, bytes: &[u8]) -> Message {
        let opened = oum::open_ordered(&self.keys, bytes);
        let (_, formation, mut ordered) = opened.expect("well stamped");
        ordered.request.reply_to = ADDRESS;
        let body = Body::Ordered(ordered);
        Message { formation, body }
    }

    /// What the sequencer's driver does with a request.
    fn stamp(&mut self, mut bytes: Vec<u8>) {
        let ask = oum::open_request(&self.keys, &bytes).expect("well sealed");
        let wall = LogTime::from_nanos(self.now.as_nanos());
        let sequencer = self.sequencer.as_mut();
        let Some(stamp) = sequencer.and_then(|s| s.stamp(self.now, wall, &ask.groups)) else {
            return;
        };
        oum::stamp(&self.keys, &stamp, &mut bytes);
        let body = self.ordered(&bytes).body;
        for target in (0..self.config.n).map(Node::Replica) {
            self.post(Node::Sequencer, target, &body, bytes.clone());
        }
    }

    fn seal(&mut self, request: &Request) -> Vec<u8> {
        self.sealed += 1;
        let groups = Groups::one(self.config.group);
        let mut bytes = Vec::new();
        oum::seal_request(&self.keys, self.sealed, groups, request, &mut bytes);
        bytes
    }

    fn flush(&mut self) {
        for i in 0..self.config.seats {
            while let Some(effect) = self.replicas[usize::from(i)]
                .as_mut()
                .and_then(Replica::poll_effect)
            {
                self.route(Node::Replica(i), effect);
            }
        }
        while let Some(effect) = self.sequencer.as_mut().and_then(Sequencer::poll_effect) {
            self.route(Node::Sequencer, effect);
        }
        while let Some(effect) = self.client.poll_effect() {
            self.route(Node::Client, effect);
        }
        while let Some((id, outcome)) = self.client.poll_done() {
            if let Ok(committed) = &outcome {
                self.places.insert(id, committed.place);
            }
            self.done
                .insert(id, outcome.map(|committed| committed.reply));
        }
    }

    fn route(&mut self, from: Node, effect: Effect) {
        let (to, msg) = match effect {
            Effect::Send { to, msg } => (to, msg),
            Effect::Alarm(alarm) => return self.alarms.push(alarm),
            Effect::Reconfigured { ticket, answer } => return self.answers.push((ticket, answer)),
            Effect::Persist(persist) => match from {
                Node::Replica(i) => return self.persist(i, persist),
                _ => unreachable!("only replicas have disks"),
            },
        };
        let targets = match to {
            Peer::Replica(j) => vec![Node::Replica(j.0)],
            Peer::Replicas => (0..self.config.seats)
                .map(Node::Replica)
                .filter(|t| *t != from)
                .collect(),
            Peer::Sequencer(_) => vec![Node::Sequencer],
            Peer::Client(id, at) => {
                assert_eq!(
                    (id, at.port),
                    (CLIENT, 9),
                    "replies go where requests came from"
                );
                vec![Node::Client]
            }
        };
        let bytes = if let Body::Request(request) = &msg.body {
            self.seal(request)
        } else {
            let mut bytes = Vec::new();
            msg.encode(&mut bytes);
            bytes
        };
        for target in targets {
            self.post(from, target, &msg.body, bytes.clone());
        }
    }

    fn post(&mut self, from: Node, target: Node, body: &Body, bytes: Vec<u8>) {
        *self.sent.entry(body.name()).or_default() += 1;
        if (self.hold)(from, target, body) {
            self.held.push((from, target, bytes));
        } else if !(self.lose)(from, target, body) {
            self.serial += 1;
            self.wire
                .insert((self.now + DELAY, self.serial), (from, target, bytes));
        }
    }

    /// A replica gets this as if another one had sent it.
    pub fn inject(&mut self, from: u8, to: u8, body: Body) {
        let formation = self.formation;
        let mut bytes = Vec::new();
        Message { formation, body }.encode(&mut bytes);
        self.deliver(Node::Replica(from), Node::Replica(to), &bytes);
    }

    /// Everything held arrives now.
    pub fn release(&mut self) -> usize {
        let held = std::mem::take(&mut self.held);
        let count = held.len();
        for message in held {
            self.serial += 1;
            self.wire.insert((self.now + DELAY, self.serial), message);
        }
        count
    }

    /// All live replicas executed the same operations.
    pub fn agree(&self) {
        let mut journals = self.alive().map(|r| &r.app().ops);
        let first = journals.next().expect("somebody lives");
        journals.for_each(|j| assert_eq!(j, first, "replicas executed different operations"));
    }
}
