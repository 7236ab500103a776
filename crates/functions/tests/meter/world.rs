//! Instances of the meter behind fast paths, over one store, with clocks and a network of their own.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use fastrand::Rng;
use stateplane_base::{Incarnation, LogTime, Reason, Time};
use stateplane_flow::fast::Metered;
use stateplane_flow::{Endpoint, FlowKey, PortId, Protocol};
use stateplane_functions::meter::ops::{Account, List, Tally};
use stateplane_functions::meter::{
    Allowance, Meter44, MeterConfig, MeterStateConfig, Subnet, procedures,
};
use stateplane_functions::{
    Allow, Decision, Disposition, Effect, FrameId, Meter, Ownership, Runtime, RuntimeConfig, Sight,
    StateError, Ticket,
};
use stateplane_lease::ops::Operation;
use stateplane_lease::{InstanceId, OnExpiry, Partition, Terms, ops};
use stateplane_state::{Application, Limits, Registry, Store};
use stateplane_wire::packet::Headers;

use crate::common::{ports, udp};

pub const LENGTH: Duration = Duration::from_secs(1);
pub const INTERVAL: Duration = Duration::from_millis(100);
/// An operation without an answer is given up.
const PATIENCE: u64 = 400_000_000;
pub const STEP: Duration = Duration::from_millis(1);

pub const FREE: [u8; 4] = [10, 0, 0, 5];
/// May send and receive [`ALLOWED`] in each [`PERIOD`].
pub const LIMITED: [u8; 4] = [10, 0, 1, 5];
pub const ALLOWED: u64 = 400_000;
pub const PERIOD: Duration = Duration::from_secs(7);
pub const SERVER: [u8; 4] = [203, 0, 113, 9];

pub fn state_config() -> MeterStateConfig {
    let subnet = |third, len| Subnet::new(Ipv4Addr::new(10, 0, third, 0), len).unwrap();
    let allowance = Allowance {
        bytes: ALLOWED,
        period: PERIOD,
    };
    MeterStateConfig {
        allowances: vec![(subnet(1, 24), allowance)],
        partitions: 4,
        ..MeterStateConfig::new(vec![subnet(0, 16)])
    }
}

/// A fast path: does what it was told.
#[derive(Default)]
pub struct Front {
    entries: HashMap<(PortId, FlowKey), (Decision, Ownership, Meter)>,
    leases: HashMap<Partition, (u32, Time)>,
    meters: HashMap<Meter, (u64, Metered)>,
    pub hits: u64,
}

impl Front {
    fn passes(&mut self, now: Time, port: PortId, frame: &[u8]) -> bool {
        let headers = Headers::parse(frame).unwrap();
        let end = |addr| Endpoint { addr, port: 0 };
        let (source, destination) = match port {
            PortId::INSIDE => (end(headers.source), Endpoint::ANY),
            _ => (Endpoint::ANY, end(headers.destination)),
        };
        let protocol = Protocol::Udp;
        let flow = FlowKey {
            protocol,
            source,
            destination,
        };
        let Some((decision, ownership, meter)) = self.entries.get(&(port, flow)) else {
            return false;
        };
        let (epoch, until) = self.leases[&ownership.partition];
        let held = epoch != 0 && u64::from(epoch) == ownership.epoch && now < until;
        let (limit, counted) = self.meters.get_mut(meter).expect("it was begun");
        let fits = counted.used() + frame.len() as u64 <= *limit;
        if now >= decision.valid_until || !held || !fits {
            return false;
        }
        counted.packets[usize::from(port.0)] += 1;
        counted.bytes[usize::from(port.0)] += frame.len() as u64;
        self.hits += 1;
        true
    }
}

impl Sight for Front {
    fn last_seen(&self, _: Time, _: PortId, _: &FlowKey) -> Option<Time> {
        None
    }

    fn metered(&self, meter: Meter) -> Option<Metered> {
        self.meters.get(&meter).map(|(_, counted)| *counted)
    }
}

pub struct Gate {
    pub runtime: Runtime<Meter44>,
    pub front: Front,
    life: u64,
    parked: HashMap<FrameId, Vec<u8>>,
    frames: u32,
    /// Millionths by which its clock goes faster than the log's.
    drift: i64,
    pub dropped: BTreeMap<Reason, u64>,
}

/// Something on its way between an instance and the store.
enum Mail {
    Request(Vec<u8>),
    Reply(Result<Vec<u8>, StateError>),
}

/// What goes wrong in the network, in so many of 1000.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub lost: u32,
    /// Milliseconds that each way takes at most.
    pub slow: u64,
}

pub struct World {
    pub store: Store,
    pub log: u64,
    pub gates: Vec<Option<Gate>>,
    pub cut: bool,
    pub weather: Weather,
    pub on_expiry: OnExpiry,
    pub rng: Rng,
    mail: Vec<(u64, usize, u64, Ticket, Mail)>,
    lives: u64,
    /// What really passed.
    pub passed: BTreeMap<Ipv4Addr, Tally>,
    /// Of [`LIMITED`], by period of the log's time.
    pub in_period: BTreeMap<u64, u64>,
}

impl World {
    pub fn new(seed: u64, gates: usize) -> Self {
        let mut registry = Registry::builtin();
        let grants = stateplane_lease::procedures::register(&mut registry, Terms::new(LENGTH));
        procedures::register(&mut registry, grants.unwrap(), &state_config()).unwrap();
        let mut world = World {
            store: Store::new(registry, Limits::default()),
            log: 100_000_000_000,
            gates: Vec::new(),
            cut: false,
            weather: Weather::default(),
            on_expiry: OnExpiry::Closed,
            rng: Rng::with_seed(seed),
            mail: Vec::new(),
            lives: 0,
            passed: BTreeMap::new(),
            in_period: BTreeMap::new(),
        };
        for _ in 0..gates {
            world.gates.push(None);
        }
        (0..gates).for_each(|gate| world.start(gate));
        world
    }

    pub fn start(&mut self, gate: usize) {
        self.lives += 1;
        let instance = InstanceId(gate as u64 + 1);
        let seed = self.rng.u64(..);
        let mut config = MeterConfig::new(state_config(), instance, Incarnation(self.lives), seed);
        config.interval = INTERVAL;
        config.lease.on_expiry = self.on_expiry;
        let mut limits = RuntimeConfig::new(ports(), [seed, 4]);
        limits.fast_path = self.rng.bool();
        let drift = self.rng.i64(-900..=900);
        let runtime = Runtime::new(local(self.log, drift), limits, Meter44::new(config));
        self.gates[gate] = Some(Gate {
            runtime,
            front: Front::default(),
            life: self.lives,
            parked: HashMap::new(),
            frames: 0,
            drift,
            dropped: BTreeMap::new(),
        });
    }

    pub fn kill(&mut self, gate: usize) {
        self.gates[gate] = None;
    }

    /// No more packets come.
    pub fn stop(&mut self, gate: usize) {
        let there = self.gates[gate].as_mut().expect("it lives");
        there.runtime.stop(local(self.log, there.drift));
        self.effects(gate);
    }

    /// An operation of an operator.
    pub fn ask<O: Operation>(&mut self, op: &O) -> O::Reply {
        let mut reply = Vec::new();
        let now = LogTime::from_nanos(self.log);
        self.store.execute(now, &op.encode(), &mut reply);
        O::decode_reply(&reply).expect("the store takes it")
    }

    /// The store's account of a subscriber.
    pub fn account(&mut self, subscriber: [u8; 4]) -> Option<Account> {
        let from = Ipv4Addr::from(subscriber);
        let page = self.ask(&List { from, limit: 1 });
        let first = page.accounts.first().copied();
        first.filter(|account| account.subscriber == from)
    }

    pub fn owner(&mut self, subscriber: [u8; 4]) -> Option<usize> {
        let from = state_config().partition(subscriber.into());
        let page = self.ask(&ops::List { from, limit: 1 });
        let now = LogTime::from_nanos(self.log);
        let (partition, grant) = page.leases.first()?;
        let held = *partition == from && !grant.is_over(now);
        held.then_some(grant.owner.instance.0 as usize - 1)
    }

    /// A packet of so many bytes at an instance, from the subscriber or to it. Whether it passed at once.
    pub fn packet(&mut self, gate: usize, port: PortId, subscriber: [u8; 4], bytes: usize) -> bool {
        let payload = vec![7; bytes - 42];
        let frame = match port {
            PortId::INSIDE => udp((subscriber, 5000), (SERVER, 53), &payload),
            _ => udp((SERVER, 53), (subscriber, 5000), &payload),
        };
        let Some(there) = self.gates[gate].as_mut() else {
            return false;
        };
        let now = local(self.log, there.drift);
        if there.front.passes(now, port, &frame) {
            self.note(gate, port, &frame);
            return true;
        }
        let (id, mut buffer) = (FrameId(there.frames), frame.clone());
        there.frames += 1;
        let what = there
            .runtime
            .on_frame(now, port, id, &mut buffer, frame.len());
        let before = self.passed.clone();
        self.dispose(gate, port, id, buffer, what);
        self.effects(gate);
        before != self.passed
    }

    fn dispose(
        &mut self,
        gate: usize,
        port: PortId,
        id: FrameId,
        frame: Vec<u8>,
        what: Disposition,
    ) {
        let there = self.gates[gate].as_mut().expect("it lives");
        match what {
            Disposition::Forward { .. } => self.note(gate, port, &frame),
            Disposition::Drop(reason) => *there.dropped.entry(reason).or_default() += 1,
            Disposition::Parked => drop(there.parked.insert(id, frame)),
            Disposition::Answer { .. } => panic!("nobody asked"),
        }
    }

    /// A packet passed: its partition must be this instance's, and its allowance must not be used up.
    fn note(&mut self, gate: usize, port: PortId, frame: &[u8]) {
        let headers = Headers::parse(frame).unwrap();
        let subscriber = match port {
            PortId::INSIDE => headers.source,
            _ => headers.destination,
        };
        let (side, bytes) = (usize::from(port.0), frame.len() as u64);
        let tally = self.passed.entry(subscriber).or_default();
        tally.packets[side] += 1;
        tally.bytes[side] += bytes;
        if subscriber == Ipv4Addr::from(LIMITED) {
            let period = self.log / PERIOD.as_nanos() as u64;
            let sum = self.in_period.entry(period).or_default();
            *sum += bytes;
            assert!(*sum <= ALLOWED, "{sum} bytes in period {period}");
        }
        if self.on_expiry == OnExpiry::Closed {
            assert_eq!(
                self.owner(subscriber.octets()),
                Some(gate),
                "at {}",
                self.log
            );
        }
    }

    fn effects(&mut self, gate: usize) {
        while let Some(there) = self.gates[gate].as_mut()
            && let Some(effect) = there.runtime.poll_effect()
        {
            let now = local(self.log, there.drift);
            match effect {
                Effect::Submit { ticket, op, .. } => {
                    let life = there.life;
                    self.post(gate, life, ticket, Mail::Request(op));
                    let silence = Mail::Reply(Err(StateError::Unavailable));
                    let due = self.log + PATIENCE;
                    self.mail.push((due, gate, life, ticket, silence));
                }
                Effect::Release { frame, parked } => {
                    let Some(mut buffer) = there.parked.remove(&frame) else {
                        panic!("released once");
                    };
                    let what = there.runtime.release(now, &parked, &mut buffer);
                    self.dispose(gate, parked.port, frame, buffer, what);
                }
                Effect::Discard { frame, reason } => {
                    there.parked.remove(&frame);
                    *there.dropped.entry(reason).or_default() += 1;
                }
                Effect::Offload {
                    port,
                    flow,
                    decision,
                    ownership,
                    meter,
                } => {
                    let (ownership, meter) = (ownership.unwrap(), meter.unwrap());
                    let entry = (decision, ownership, meter);
                    there.front.entries.insert((port, flow), entry);
                }
                Effect::Publish {
                    partition,
                    epoch,
                    until,
                } => drop(there.front.leases.insert(partition, (epoch, until))),
                Effect::Meter { meter, allow } => {
                    let known = there.front.meters.entry(meter).or_default();
                    match allow {
                        Allow::Nothing => *known = Default::default(),
                        Allow::Until(limit) => known.0 = limit,
                    }
                }
                Effect::Withdraw { port, flow } => {
                    there.front.entries.remove(&(port, flow));
                }
            }
        }
    }

    fn post(&mut self, gate: usize, life: u64, ticket: Ticket, mail: Mail) {
        if self.cut || self.rng.u32(..1000) < self.weather.lost {
            return;
        }
        let due = self.log + self.rng.u64(0..=self.weather.slow * 1_000_000);
        self.mail.push((due, gate, life, ticket, mail));
    }

    fn deliver(&mut self) {
        loop {
            // The earliest first, as they were sent.
            let due = self.mail.iter().enumerate();
            let due = due.filter(|(_, mail)| mail.0 <= self.log);
            let Some((at, _)) = due.min_by_key(|(_, mail)| mail.0) else {
                return;
            };
            let (_, gate, life, ticket, mail) = self.mail.remove(at);
            match mail {
                Mail::Request(op) => {
                    let mut reply = Vec::new();
                    let now = LogTime::from_nanos(self.log);
                    self.store.execute(now, &op, &mut reply);
                    self.post(gate, life, ticket, Mail::Reply(Ok(reply)));
                }
                Mail::Reply(result) => {
                    let there = self.gates[gate].as_mut().filter(|gate| gate.life == life);
                    if let Some(there) = there {
                        let now = local(self.log, there.drift);
                        there.runtime.on_reply(now, ticket, result);
                        self.effects(gate);
                    }
                }
            }
        }
    }

    /// A millisecond passes.
    pub fn step(&mut self) {
        self.log += STEP.as_nanos() as u64;
        self.deliver();
        for gate in 0..self.gates.len() {
            let Some(there) = self.gates[gate].as_mut() else {
                continue;
            };
            let now = local(self.log, there.drift);
            if there.runtime.next_timer().is_some_and(|due| due <= now) {
                there.runtime.on_timer(now, &there.front);
            }
            there.runtime.check();
            self.effects(gate);
        }
        self.deliver();
    }

    pub fn pass(&mut self, span: Duration) {
        for _ in 0..span.as_millis() {
            self.step();
        }
    }

    /// The store never counts what did not pass.
    pub fn check(&mut self) {
        for (subscriber, passed) in self.passed.clone() {
            let counted = self.account(subscriber.octets());
            let counted = counted.map(|account| account.passed).unwrap_or_default();
            for side in 0..2 {
                assert!(counted.packets[side] <= passed.packets[side]);
                assert!(counted.bytes[side] <= passed.bytes[side]);
            }
        }
    }
}

fn local(log: u64, drift: i64) -> Time {
    let since = log - 99_000_000_000;
    let ahead = i128::from(since) * i128::from(drift) / 1_000_000;
    Time::from_nanos((i128::from(since) + ahead) as u64)
}
