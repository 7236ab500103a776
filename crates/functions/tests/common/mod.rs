//! Instances of the NAT over one embedded store, and frames to send through them.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test uses its part"
)]

mod fast;
mod frames;

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use stateplane_base::{Incarnation, LogTime, Reason, Time};
use stateplane_flow::PortId;
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::procedures::{self, NatStateConfig};
use stateplane_functions::nat::{Nat44, NatConfig, Prefix};
use stateplane_functions::{
    CommitMode, Disposition, Effect, FrameId, PortConfig, Runtime, RuntimeConfig, StateError,
    Ticket,
};
use stateplane_state::{Application, Limits, Registry, Store};

pub use fast::FastPath;
pub use frames::{echo, ends, icmp_error, tcp, udp, verify};
pub use stateplane_functions::Driven;

pub const IN: PortId = PortId::INSIDE;
pub const OUT: PortId = PortId::OUTSIDE;
/// Whether packets meet a fast path first.
const FAST: &str = "nat_fast";
pub const CLIENT: [u8; 4] = [10, 0, 0, 5];
pub const SERVER: [u8; 4] = [203, 0, 113, 9];
pub const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Room of a frame buffer.
pub const ROOM: usize = 2048;

/// What came out of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Out {
    Sent(PortId, Vec<u8>),
    Dropped(Reason),
}

/// One instance with its driver.
pub struct Node {
    pub runtime: Runtime<Nat44>,
    parked: HashMap<FrameId, Vec<u8>>,
    next_frame: u32,
    /// Operations not yet executed.
    pub submitted: VecDeque<(Ticket, Vec<u8>)>,
    pub out: Vec<Out>,
    /// What a fast path would carry out.
    pub fast: FastPath,
}

/// Instances, their store and the time.
pub struct World {
    pub now: Time,
    pub store: Store,
    pub nodes: Vec<Node>,
    /// Whether operations are executed at once.
    pub store_up: bool,
}

pub fn ports() -> [PortConfig; 2] {
    [
        PortConfig {
            address: Ipv4Addr::new(10, 0, 0, 1),
            mtu: 1500,
        },
        PortConfig {
            address: Ipv4Addr::new(198, 51, 100, 254),
            mtu: 1400,
        },
    ]
}

pub fn store_config() -> NatStateConfig {
    NatStateConfig {
        limit_per_subscriber: 2000,
        ..NatStateConfig::new(vec![POOL..=POOL])
    }
}

pub fn node(now: Time, name: &str, mode: CommitMode) -> Node {
    node_with(now, name, mode, |_| ())
}

pub fn node_with(
    now: Time,
    name: &str,
    mode: CommitMode,
    change: impl FnOnce(&mut NatConfig),
) -> Node {
    let inside = vec![Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 16).unwrap()];
    let seed = name.bytes().map(u64::from).sum();
    let mut config = NatConfig::new(
        &store_config(),
        InstanceId::of(name),
        Incarnation(seed),
        inside,
        seed,
    )
    .unwrap();
    change(&mut config);
    let runtime = RuntimeConfig {
        mode,
        fast_path: true,
        ..RuntimeConfig::new(ports(), [1, 2])
    };
    let runtime = Runtime::new(now, runtime, Nat44::new(config));
    Node {
        fast: FastPath::before(&runtime),
        runtime,
        parked: HashMap::new(),
        next_frame: 0,
        submitted: VecDeque::new(),
        out: Vec::new(),
    }
}

impl World {
    pub fn new(nodes: usize, mode: CommitMode) -> World {
        Self::with(nodes, mode, &store_config())
    }

    pub fn with(nodes: usize, mode: CommitMode, config: &NatStateConfig) -> World {
        let mut registry = Registry::builtin();
        procedures::register(&mut registry, config).unwrap();
        let store = Store::new(registry, Limits::default());
        let now = Time::from_millis(5_000);
        let fingerprint = config.fingerprint();
        let node = |i| {
            node_with(now, &format!("gw{i}"), mode, |c| {
                c.fingerprint = fingerprint
            })
        };
        let nodes = (0..nodes).map(node).collect();
        let mut world = World {
            now,
            store,
            nodes,
            store_up: true,
        };
        world.settle();
        world
    }

    /// A frame arrives; what came out of that instance until nothing moves any more.
    pub fn send(&mut self, node: usize, port: PortId, frame: &[u8]) -> Vec<Out> {
        let now = self.now;
        if env!("CARGO_CRATE_NAME") == FAST
            && let Some(passed) = self.nodes[node].fast.pass(now, port, frame)
        {
            return vec![Out::Sent(passed.port, passed.frame)];
        }
        self.nodes[node].receive(now, port, frame);
        self.settle();
        std::mem::take(&mut self.nodes[node].out)
    }

    /// The one frame that comes out for this one.
    pub fn pass(&mut self, node: usize, port: PortId, frame: &[u8]) -> Vec<u8> {
        let out = self.send(node, port, frame);
        match out.as_slice() {
            [Out::Sent(to, bytes)] if *to != port => {
                verify(bytes);
                bytes.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Executes operations and effects until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for node in &mut self.nodes {
                moved |= node.drain(self.now);
                if !self.store_up {
                    continue;
                }
                while let Some((ticket, op)) = node.submitted.pop_front() {
                    let reply = execute(&mut self.store, self.now, &op);
                    node.runtime.on_reply(self.now, ticket, Ok(reply));
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        for node in &self.nodes {
            node.runtime.check();
        }
    }

    /// Executes one operation.
    pub fn execute(&mut self, op: &[u8]) -> Vec<u8> {
        execute(&mut self.store, self.now, op)
    }

    /// Time passes, second by second at most.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let step = self.now + Duration::from_secs(1);
            let timers = self
                .nodes
                .iter()
                .filter_map(|node| node.runtime.next_timer());
            let due = timers
                .min()
                .unwrap_or(end)
                .max(self.now + Duration::from_millis(1));
            self.now = step.min(end).min(due);
            for node in &mut self.nodes {
                if node.runtime.next_timer().is_some_and(|due| due <= self.now) {
                    node.runtime.on_timer(self.now, &node.fast);
                }
            }
            self.settle();
        }
    }

    pub fn fail_submitted(&mut self, node: usize) {
        let now = self.now;
        let node = &mut self.nodes[node];
        for (ticket, _) in std::mem::take(&mut node.submitted) {
            node.runtime
                .on_reply(now, ticket, Err(StateError::Unavailable));
        }
        self.settle();
    }
}

fn execute(store: &mut Store, now: Time, op: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    // The log's clock is another one.
    let at = LogTime::from_nanos(now.as_nanos() + 77_000_000_000);
    store.execute(at, op, &mut reply);
    reply
}

impl Node {
    pub fn receive(&mut self, now: Time, port: PortId, frame: &[u8]) {
        let mut buffer = vec![0u8; ROOM.max(frame.len())];
        buffer[..frame.len()].copy_from_slice(frame);
        let id = FrameId(self.next_frame);
        self.next_frame += 1;
        let disposition = self
            .runtime
            .on_frame(now, port, id, &mut buffer, frame.len());
        self.dispose(port, id, buffer, disposition);
    }

    fn dispose(&mut self, port: PortId, id: FrameId, mut buffer: Vec<u8>, what: Disposition) {
        match what {
            Disposition::Forward { port, len } => {
                buffer.truncate(len);
                self.fast.learn(&buffer);
                self.out.push(Out::Sent(port, buffer));
            }
            Disposition::Answer { len } => {
                buffer.truncate(len);
                self.out.push(Out::Sent(port, buffer));
            }
            Disposition::Drop(reason) => self.out.push(Out::Dropped(reason)),
            Disposition::Parked => assert!(self.parked.insert(id, buffer).is_none()),
        }
    }

    fn drain(&mut self, now: Time) -> bool {
        let mut moved = false;
        while let Some(effect) = self.runtime.poll_effect() {
            moved = true;
            match effect {
                Effect::Submit { ticket, op, .. } => self.submitted.push_back((ticket, op)),
                Effect::Release { frame, parked } => {
                    let mut buffer = self.parked.remove(&frame).expect("released once");
                    let what = self.runtime.release(now, &parked, &mut buffer);
                    assert_ne!(what, Disposition::Parked, "a released packet does not park");
                    self.dispose(parked.port, frame, buffer, what);
                }
                Effect::Discard { frame, reason } => {
                    self.parked.remove(&frame).expect("discarded once");
                    self.out.push(Out::Dropped(reason));
                }
                Effect::Publish { .. } | Effect::Meter { .. } => {
                    panic!("a mapping needs no owner, and nothing is metered")
                }
                other => self.fast.obey(other),
            }
        }
        moved
    }

    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}
