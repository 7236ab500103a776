//! Functions in a line, over a store of their own: as a chain in one instance, or as instances of which
//! each is cabled to the next.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use stateplane_base::{Incarnation, LogTime, Reason, Time};
use stateplane_flow::PortId;
use stateplane_functions::meter::ops::List;
use stateplane_functions::meter::{
    Allowance, Meter44, MeterConfig, MeterStateConfig, Subnet, procedures as meter_procedures,
};
use stateplane_functions::nat::procedures::{self as nat_procedures, NatStateConfig};
use stateplane_functions::nat::{Nat44, NatConfig, Prefix};
use stateplane_functions::{
    Chain, Disposition, Driven, Effect, FrameId, NetworkFunction, Runtime, RuntimeConfig,
    StateError, Ticket,
};
use stateplane_lease::ops::Operation;
use stateplane_lease::{InstanceId, Terms};
use stateplane_state::{Application, Limits, Registry, Store};

use crate::common::{FastPath, IN, OUT, Out, POOL, ROOM, ports, store_config};

pub type Function = Box<dyn NetworkFunction>;
/// Meter and NAT as a chain.
pub type Chained = Line<Chain<Function>>;
/// Meter and NAT one after the other.
pub type Apart = Line<Runtime<Function>>;

/// Its packets and those to it are counted, without a limit.
pub const FREE: [u8; 4] = [10, 0, 0, 5];
/// May send and receive [`ALLOWED`] bytes.
pub const LIMITED: [u8; 4] = [10, 0, 1, 5];
pub const ALLOWED: u64 = 400_000;
/// Mappings that a subscriber may have.
pub const MAPPINGS: u32 = 6;
pub const INTERVAL: Duration = Duration::from_millis(100);
const LENGTH: Duration = Duration::from_secs(1);

pub fn meter_state() -> MeterStateConfig {
    let subnet = |third, len| Subnet::new(Ipv4Addr::new(10, 0, third, 0), len).unwrap();
    let allowance = Allowance {
        bytes: ALLOWED,
        period: Duration::from_secs(1_000_000),
    };
    MeterStateConfig {
        allowances: vec![(subnet(1, 24), allowance)],
        partitions: 4,
        // The addresses that the NAT gives are counted where the meter is outside of it.
        ..MeterStateConfig::new(vec![subnet(0, 16), Subnet::new(POOL, 24).unwrap()])
    }
}

fn nat_state() -> NatStateConfig {
    NatStateConfig {
        limit_per_subscriber: MAPPINGS,
        ..store_config()
    }
}

fn store() -> Store {
    let mut registry = Registry::builtin();
    let grants = stateplane_lease::procedures::register(&mut registry, Terms::new(LENGTH));
    meter_procedures::register(&mut registry, grants.unwrap(), &meter_state()).unwrap();
    nat_procedures::register(&mut registry, &nat_state()).unwrap();
    Store::new(registry, Limits::default())
}

pub fn meter() -> Function {
    let mut config = MeterConfig::new(meter_state(), InstanceId(1), Incarnation(1), 11);
    config.interval = INTERVAL;
    Box::new(Meter44::new(config))
}

pub fn nat() -> Function {
    let inside = vec![Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 16).unwrap()];
    let config = NatConfig::new(&nat_state(), InstanceId(1), Incarnation(1), inside, 12);
    let mut config = config.unwrap();
    config.fingerprint = nat_state().fingerprint();
    config.arp_mac = Some(stateplane_wire::eth::Mac([2, 0, 0, 0, 7, 7]));
    Box::new(Nat44::new(config))
}

/// One instance with its driver.
pub struct Device<R> {
    pub driven: R,
    pub front: FastPath,
    parked: HashMap<FrameId, Vec<u8>>,
    frames: u32,
}

impl<R: Driven> Device<R> {
    fn new(driven: R) -> Self {
        Self {
            front: FastPath::before(&driven),
            driven,
            parked: HashMap::new(),
            frames: 0,
        }
    }
}

/// Which function of the line, and its operation.
type Asked = (usize, u64);

/// Devices, from inside to outside, and their store.
pub struct Line<R> {
    pub now: Time,
    pub devices: Vec<Device<R>>,
    pub store: Store,
    /// Operations that the store has not executed.
    pub asked: BTreeMap<Asked, Vec<u8>>,
    /// Whether it executes them at once.
    pub store_up: bool,
    /// What came out.
    pub out: Vec<Out>,
    functions: usize,
}

fn limits(fast_path: bool) -> RuntimeConfig {
    RuntimeConfig {
        fast_path,
        park_max: 64,
        ..RuntimeConfig::new(ports(), [3, 4])
    }
}

const BEGIN: Time = Time::from_millis(5_000);

impl Chained {
    pub fn chained(fast_path: bool, functions: Vec<Function>) -> Self {
        let count = functions.len();
        let functions = functions.into_iter();
        let functions = functions.map(|function| (limits(fast_path), function));
        Self::of(vec![Chain::new(BEGIN, functions)], count)
    }
}

impl Apart {
    /// Two, with a cable that takes everything between them.
    pub fn apart(fast_path: bool, [inner, outer]: [Function; 2]) -> Self {
        let (mut inside, mut outside) = (limits(fast_path), limits(fast_path));
        inside.ports[1].mtu = u16::MAX;
        outside.ports[0].mtu = u16::MAX;
        let devices = [(inside, inner), (outside, outer)];
        let devices = devices.map(|(limits, function)| Runtime::new(BEGIN, limits, function));
        Self::of(Vec::from(devices), 2)
    }
}

impl<R: Driven> Line<R> {
    fn of(devices: Vec<R>, functions: usize) -> Self {
        let mut line = Self {
            now: BEGIN,
            devices: devices.into_iter().map(Device::new).collect(),
            store: store(),
            asked: BTreeMap::new(),
            store_up: true,
            out: Vec::new(),
            functions,
        };
        line.settle();
        line
    }

    /// A frame comes from inside or outside; what came out until nothing moved any more.
    pub fn send(&mut self, port: PortId, frame: &[u8]) -> Vec<Out> {
        let device = if port == IN {
            0
        } else {
            self.devices.len() - 1
        };
        self.arrive(device, port, frame.to_vec());
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// The one frame that comes out on the other side.
    pub fn pass(&mut self, port: PortId, frame: &[u8]) -> Vec<u8> {
        match self.send(port, frame).as_slice() {
            [Out::Sent(to, bytes)] if *to != port => bytes.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn arrive(&mut self, at: usize, port: PortId, frame: Vec<u8>) {
        let device = &mut self.devices[at];
        if let Some(passed) = device.front.pass(self.now, port, &frame) {
            return self.leave(at, passed.port, passed.frame);
        }
        let id = FrameId(device.frames);
        device.frames += 1;
        let (len, mut buffer) = (frame.len(), frame);
        buffer.resize(ROOM.max(len), 0);
        let mut glance = device.driven.glance(self.now, port, &mut buffer, len);
        device.driven.seek(port, std::slice::from_mut(&mut glance));
        let what = device
            .driven
            .proceed(self.now, port, id, &mut buffer, &glance);
        self.dispose(at, port, id, buffer, what);
    }

    fn dispose(
        &mut self,
        at: usize,
        came: PortId,
        id: FrameId,
        mut buffer: Vec<u8>,
        what: Disposition,
    ) {
        match what {
            Disposition::Forward { port, len } => {
                buffer.truncate(len);
                self.devices[at].front.learn(&buffer);
                self.leave(at, port, buffer);
            }
            Disposition::Answer { len } => {
                buffer.truncate(len);
                self.leave(at, came, buffer);
            }
            Disposition::Drop(reason) => self.out.push(Out::Dropped(reason)),
            Disposition::Parked => {
                let before = self.devices[at].parked.insert(id, buffer);
                assert!(before.is_none(), "it waits once");
            }
        }
    }

    fn leave(&mut self, at: usize, port: PortId, frame: Vec<u8>) {
        match port {
            OUT if at + 1 < self.devices.len() => self.arrive(at + 1, IN, frame),
            IN if at > 0 => self.arrive(at - 1, OUT, frame),
            _ => self.out.push(Out::Sent(port, frame)),
        }
    }

    /// Carries effects out until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for at in 0..self.devices.len() {
                while let Some(effect) = self.devices[at].driven.poll_effect() {
                    self.obey(at, effect);
                    moved = true;
                }
            }
            while self.store_up
                && let Some((&asked, _)) = self.asked.first_key_value()
            {
                self.execute(asked);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        self.devices.iter().for_each(|device| device.driven.check());
    }

    fn obey(&mut self, at: usize, effect: Effect) {
        let (now, stages) = (self.now, self.functions / self.devices.len());
        let Device {
            driven,
            front,
            parked,
            ..
        } = &mut self.devices[at];
        match effect {
            Effect::Submit { ticket, op, .. } => {
                // Functions are numbered from inside to outside, and count their own.
                let function = at * stages + (ticket.0 as usize) % stages;
                let asked = (function, ticket.0 / stages as u64);
                assert!(self.asked.insert(asked, op).is_none());
            }
            Effect::Release { frame, parked: of } => {
                let mut buffer = parked.remove(&frame).expect("released once");
                let what = driven.release(now, frame, &of, &mut buffer);
                self.dispose(at, of.port, frame, buffer, what);
            }
            Effect::Discard { frame, reason } => {
                parked.remove(&frame).expect("discarded once");
                self.out.push(Out::Dropped(reason));
            }
            other => front.obey(other),
        }
    }

    fn log_time(&self) -> LogTime {
        // The log's clock is another one.
        LogTime::from_nanos(self.now.as_nanos() + 77_000_000_000)
    }

    /// The store executes an operation.
    pub fn execute(&mut self, asked: Asked) {
        let op = self.asked.remove(&asked).expect("it was asked");
        let mut reply = Vec::new();
        self.store.execute(self.log_time(), &op, &mut reply);
        self.reply(asked, Ok(reply));
    }

    /// Executes what one function asks for until it asks no more.
    pub fn answer(&mut self, function: usize) {
        while let Some((&asked, _)) = self.asked.iter().find(|(asked, _)| asked.0 == function) {
            self.execute(asked);
            self.settle();
        }
    }

    /// No answer comes.
    pub fn fail(&mut self, asked: Asked) {
        self.asked.remove(&asked).expect("it was asked");
        self.reply(asked, Err(StateError::Unavailable));
    }

    fn reply(&mut self, (function, own): Asked, result: Result<Vec<u8>, StateError>) {
        let stages = self.functions / self.devices.len();
        let ticket = Ticket(own * stages as u64 + (function % stages) as u64);
        let device = &mut self.devices[function / stages];
        device.driven.on_reply(self.now, ticket, result);
    }

    /// An operation of somebody else's.
    pub fn ask<O: Operation>(&mut self, op: &O) -> O::Reply {
        let mut reply = Vec::new();
        self.store
            .execute(self.log_time(), &op.encode(), &mut reply);
        O::decode_reply(&reply).expect("the store takes it")
    }

    /// Packets of a subscriber that the store has counted, from it and to it.
    pub fn counted(&mut self, subscriber: [u8; 4]) -> [u64; 2] {
        let from = Ipv4Addr::from(subscriber);
        let page = self.ask(&List { from, limit: 1 });
        let account = page.accounts.first();
        let account = account.filter(|account| account.subscriber == from);
        account.map_or([0; 2], |account| account.passed.packets)
    }

    /// Time passes, in steps of a millisecond while something is due.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let devices = self.devices.iter();
            let due = devices
                .filter_map(|device| device.driven.next_timer())
                .min();
            let step = self.now + Duration::from_millis(1);
            self.now = due.unwrap_or(end).max(step).min(end);
            for Device { driven, front, .. } in &mut self.devices {
                if driven.next_timer().is_some_and(|due| due <= self.now) {
                    driven.on_timer(self.now, front);
                }
            }
            self.settle();
        }
    }

    pub fn parked(&self) -> usize {
        self.devices.iter().map(|device| device.parked.len()).sum()
    }

    pub fn hits(&self) -> u64 {
        self.devices.iter().map(|device| device.front.hits).sum()
    }

    pub fn entries(&self) -> usize {
        let devices = self.devices.iter();
        devices.map(|device| device.front.entries.len()).sum()
    }

    pub fn dropped(&self, reason: Reason) -> u64 {
        let counted = self.devices.iter().map(|device| device.driven.counted());
        counted.map(|counted| counted.dropped(reason)).sum()
    }
}

/// The outside endpoint of what left.
pub fn mapped(frame: &[u8]) -> ([u8; 4], u16) {
    let (from, _) = crate::common::ends(frame);
    assert_eq!(from.0, POOL.octets());
    from
}
