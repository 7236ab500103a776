//! Instances behind fast paths, over one store, with clocks and a network of their own, where everything
//! goes wrong that may. With each packet that a meter counts, its instance must own the subscriber's
//! partition by the store's clock, and the allowance must hold.
//!
//! * `watched.rs`: a meter that says what it lets pass
//! * `strikes.rs`: what goes wrong

mod strikes;
mod watched;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use fastrand::Rng;
use stateplane_base::{Incarnation, LogTime, Reason, Time};
use stateplane_flow::PortId;
use stateplane_functions::meter::ops::{Account, List, Tally};
use stateplane_functions::meter::{
    Allowance, Meter44, MeterConfig, MeterStateConfig, Subnet, procedures as meter_procedures,
};
use stateplane_functions::nat::procedures::{self as nat_procedures, NatStateConfig};
use stateplane_functions::{
    Disposition, Driven, Effect, FrameId, RuntimeConfig, StateError, Ticket,
};
use stateplane_lease::ops::Operation;
use stateplane_lease::{InstanceId, OnExpiry, Terms, ops};
use stateplane_state::{Application, Limits, Registry, Store};

use crate::common::{FastPath, ROOM, ports, store_config};
pub use watched::Watched;
use watched::Witness;

pub const LENGTH: Duration = Duration::from_secs(1);
pub const INTERVAL: Duration = Duration::from_millis(100);
/// An operation without an answer is given up.
const PATIENCE: u64 = 400_000_000;
pub const STEP: Duration = Duration::from_millis(1);

/// Its packets and those to it are counted, without a limit.
pub const FREE: [u8; 4] = [10, 0, 0, 5];
/// May send and receive [`ALLOWED`] in each [`PERIOD`].
pub const LIMITED: [u8; 4] = [10, 0, 1, 5];
pub const ALLOWED: u64 = 400_000;
pub const PERIOD: Duration = Duration::from_secs(7);

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

/// What an instance is started with.
pub struct Start {
    pub now: Time,
    pub limits: RuntimeConfig,
    pub instance: InstanceId,
    pub life: Incarnation,
    pub seed: u64,
    on_expiry: OnExpiry,
    witness: Witness,
}

impl Start {
    /// Its meter.
    pub fn meter(&self) -> Watched {
        let mut config = MeterConfig::new(state_config(), self.instance, self.life, self.seed);
        config.interval = INTERVAL;
        config.lease.on_expiry = self.on_expiry;
        Watched {
            meter: Meter44::new(config),
            witness: Witness::clone(&self.witness),
        }
    }
}

/// What instances run, and what must hold of packets that leave them.
pub trait Kind: Driven + Sized {
    type Notes: Default;
    fn start(start: Start, world: &World<Self>) -> Self;
    /// A packet left by this port.
    fn left(_world: &mut World<Self>, _port: PortId, _frame: &[u8]) {}
}

pub struct Gate<R> {
    pub driven: R,
    pub front: FastPath,
    life: u64,
    /// It was asked to stop, and ends at this moment of the log.
    ends: Option<u64>,
    parked: HashMap<FrameId, Vec<u8>>,
    frames: u32,
    /// Millionths by which its clock goes faster than the log's.
    drift: i64,
    pub dropped: BTreeMap<Reason, u64>,
    witness: Witness,
}

impl<R> Gate<R> {
    /// What passed here and will never be told.
    pub fn lost(&self) -> Tally {
        self.witness.borrow().lost
    }
}

/// Something on its way between an instance and the store.
#[derive(Clone)]
enum Mail {
    Request(Vec<u8>),
    Reply(Result<Vec<u8>, StateError>),
}

/// To or from which life of which instance, and when it is there.
#[derive(Clone)]
struct Letter {
    due: u64,
    gate: usize,
    life: u64,
    ticket: Ticket,
    mail: Mail,
}

/// What goes wrong in the network, in so many of 1000.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub lost: u32,
    /// Replies that come twice. Of a request's copies the store executes one.
    pub twice: u32,
    /// What comes when nobody waits for it any more.
    pub late: u32,
    /// Milliseconds that each way takes at most.
    pub slow: u64,
}

pub struct World<R: Kind> {
    pub store: Store,
    pub log: u64,
    pub gates: Vec<Option<Gate<R>>>,
    pub cut: bool,
    pub weather: Weather,
    pub on_expiry: OnExpiry,
    pub nat: NatStateConfig,
    pub rng: Rng,
    mail: Vec<Letter>,
    lives: u64,
    /// Packets that left.
    pub left: u64,
    /// What a meter or the fast path in front of it let pass.
    pub passed: BTreeMap<Ipv4Addr, Tally>,
    /// What instances that ended by themselves never told.
    pub lost: Tally,
    /// Of [`LIMITED`], by period of the log's time.
    pub in_period: BTreeMap<u64, u64>,
    pub hits: u64,
    pub notes: R::Notes,
}

impl<R: Kind> World<R> {
    pub fn new(seed: u64, gates: usize) -> Self {
        Self::with(seed, gates, store_config())
    }

    pub fn with(seed: u64, gates: usize, nat: NatStateConfig) -> Self {
        let mut registry = Registry::builtin();
        let grants = stateplane_lease::procedures::register(&mut registry, Terms::new(LENGTH));
        meter_procedures::register(&mut registry, grants.unwrap(), &state_config()).unwrap();
        nat_procedures::register(&mut registry, &nat).unwrap();
        let mut world = World {
            store: Store::new(registry, Limits::default()),
            log: 100_000_000_000,
            gates: (0..gates).map(|_| None).collect(),
            cut: false,
            weather: Weather::default(),
            on_expiry: OnExpiry::Closed,
            nat,
            rng: Rng::with_seed(seed),
            mail: Vec::new(),
            lives: 0,
            left: 0,
            passed: BTreeMap::new(),
            lost: Tally::default(),
            in_period: BTreeMap::new(),
            hits: 0,
            notes: R::Notes::default(),
        };
        (0..gates).for_each(|gate| world.start(gate));
        world
    }

    pub fn start(&mut self, gate: usize) {
        self.lives += 1;
        let seed = self.rng.u64(..);
        let mut limits = RuntimeConfig::new(ports(), [seed, 4]);
        limits.fast_path = self.rng.bool();
        let drift = self.rng.i64(-900..=900);
        let witness = Witness::default();
        let start = Start {
            now: local(self.log, drift),
            limits,
            instance: InstanceId(gate as u64 + 1),
            life: Incarnation(self.lives),
            seed,
            on_expiry: self.on_expiry,
            witness: Witness::clone(&witness),
        };
        let driven = R::start(start, self);
        self.gates[gate] = Some(Gate {
            front: FastPath::before(&driven),
            driven,
            life: self.lives,
            ends: None,
            parked: HashMap::new(),
            frames: 0,
            drift,
            dropped: BTreeMap::new(),
            witness,
        });
    }

    pub fn kill(&mut self, gate: usize) {
        self.gates[gate] = None;
    }

    /// No more packets come, and nothing passes in front.
    pub fn stop(&mut self, gate: usize) {
        let there = self.gates[gate].as_mut().expect("it lives");
        there.front.close();
        there.driven.stop(local(self.log, there.drift));
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

    /// A frame arrives at an instance. Whether anything left it at once.
    pub fn frame(&mut self, gate: usize, port: PortId, frame: &[u8]) -> bool {
        let Some(there) = self.gates[gate].as_mut() else {
            return false;
        };
        let (now, before) = (local(self.log, there.drift), self.left);
        if let Some(passed) = there.front.pass(now, port, frame) {
            self.hits += 1;
            if passed.meter.is_some() {
                // As it is inside.
                let (subscriber, side) = match port {
                    PortId::INSIDE => (&frame[26..30], 0),
                    _ => (&passed.frame[30..34], 1),
                };
                let subscriber: [u8; 4] = subscriber.try_into().expect("four bytes");
                self.count(gate, subscriber.into(), side, frame.len() as u64);
            }
            self.leave(passed.port, &passed.frame);
            return true;
        }
        let (id, len) = (FrameId(there.frames), frame.len());
        let mut buffer = frame.to_vec();
        buffer.resize(ROOM.max(len), 0);
        there.frames += 1;
        let mut glance = there.driven.glance(now, port, &mut buffer, len);
        there.driven.seek(port, std::slice::from_mut(&mut glance));
        let what = there.driven.proceed(now, port, id, &mut buffer, &glance);
        self.dispose(gate, id, buffer, what);
        self.effects(gate);
        before != self.left
    }

    fn dispose(&mut self, gate: usize, id: FrameId, mut frame: Vec<u8>, what: Disposition) {
        self.look(gate);
        let there = self.gates[gate].as_mut().expect("it lives");
        match what {
            Disposition::Forward { port, len } => {
                frame.truncate(len);
                there.front.learn(&frame);
                self.leave(port, &frame);
            }
            Disposition::Drop(reason) => *there.dropped.entry(reason).or_default() += 1,
            Disposition::Parked => {
                let before = there.parked.insert(id, frame);
                assert!(before.is_none(), "it waits once");
            }
            Disposition::Answer { .. } => panic!("nobody asked"),
        }
    }

    fn leave(&mut self, port: PortId, frame: &[u8]) {
        self.left += 1;
        R::left(self, port, frame);
    }

    /// Looks at what a gate's meter let pass.
    fn look(&mut self, gate: usize) {
        let there = self.gates[gate].as_mut().expect("it lives");
        let passed = std::mem::take(&mut there.witness.borrow_mut().passed);
        for (subscriber, side, bytes) in passed {
            self.count(gate, subscriber, side, bytes);
        }
    }

    /// A packet was let pass: its partition must be this instance's, and its allowance must not be used up.
    fn count(&mut self, gate: usize, subscriber: Ipv4Addr, side: usize, bytes: u64) {
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
            let owner = self.owner(subscriber.octets());
            assert_eq!(owner, Some(gate), "at {}", self.log);
        }
    }

    fn effects(&mut self, gate: usize) {
        self.look(gate);
        while let Some(there) = self.gates[gate].as_mut()
            && let Some(effect) = there.driven.poll_effect()
        {
            let now = local(self.log, there.drift);
            match effect {
                Effect::Submit { ticket, op, .. } => {
                    let letter = |mail| Letter {
                        due: self.log + PATIENCE,
                        gate,
                        life: there.life,
                        ticket,
                        mail,
                    };
                    let request = letter(Mail::Request(op));
                    let silence = letter(Mail::Reply(Err(StateError::Unavailable)));
                    self.mail.push(silence);
                    self.post(request);
                }
                Effect::Release { frame, parked } => {
                    let Some(mut buffer) = there.parked.remove(&frame) else {
                        panic!("released once");
                    };
                    let what = there.driven.release(now, frame, &parked, &mut buffer);
                    self.dispose(gate, frame, buffer, what);
                }
                Effect::Discard { frame, reason } => {
                    there.parked.remove(&frame).expect("discarded once");
                    *there.dropped.entry(reason).or_default() += 1;
                }
                other => there.front.obey(other),
            }
        }
    }

    /// Hands something to the network.
    fn post(&mut self, letter: Letter) {
        let Weather {
            lost,
            twice,
            late,
            slow,
        } = self.weather;
        let copies = match &letter.mail {
            Mail::Reply(_) if self.rng.u32(..1000) < twice => 2,
            _ => 1,
        };
        for _ in 0..copies {
            if self.cut || self.rng.u32(..1000) < lost {
                continue;
            }
            let delay = match self.rng.u32(..1000) < late {
                true => self.rng.u64(..2 * PATIENCE),
                false => self.rng.u64(0..=slow * 1_000_000),
            };
            let due = self.log + delay;
            self.mail.push(Letter {
                due,
                ..letter.clone()
            });
        }
    }

    fn deliver(&mut self) {
        loop {
            // The earliest first, as they were sent.
            let due = self.mail.iter().enumerate();
            let due = due.filter(|(_, letter)| letter.due <= self.log);
            let Some((at, _)) = due.min_by_key(|(_, letter)| letter.due) else {
                return;
            };
            let letter = self.mail.remove(at);
            let (gate, life) = (letter.gate, letter.life);
            match letter.mail {
                Mail::Request(op) => {
                    let mut reply = Vec::new();
                    let now = LogTime::from_nanos(self.log);
                    self.store.execute(now, &op, &mut reply);
                    self.post(Letter {
                        mail: Mail::Reply(Ok(reply)),
                        ..letter
                    });
                }
                Mail::Reply(result) => {
                    let there = self.gates[gate].as_mut().filter(|gate| gate.life == life);
                    if let Some(there) = there {
                        let now = local(self.log, there.drift);
                        there.driven.on_reply(now, letter.ticket, result);
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
            if there.driven.next_timer().is_some_and(|due| due <= now) {
                there.driven.on_timer(now, &there.front);
            }
            there.driven.check();
            self.effects(gate);
            self.end(gate);
        }
        self.deliver();
    }

    /// An instance that was asked to stop ends.
    fn end(&mut self, gate: usize) {
        let due = |gate: &mut Gate<R>| gate.ends.is_some_and(|ends| ends <= self.log);
        if let Some(gone) = self.gates[gate].take_if(due) {
            self.lost.add(&gone.lost());
        }
    }

    pub fn pass(&mut self, span: Duration) {
        for _ in 0..span.as_millis() {
            self.step();
        }
    }

    /// What passed of a subscriber.
    pub fn tally(&self, subscriber: [u8; 4]) -> Tally {
        let passed = self.passed.get(&subscriber.into());
        passed.copied().unwrap_or_default()
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
