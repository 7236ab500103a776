//! Instances of the NAT over one embedded store, and frames to send through them.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use stateplane_base::{Incarnation, LogTime, Reason, Time};
use stateplane_flow::{Endpoint, FlowKey, PortId, Protocol};
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::procedures::{self, NatStateConfig};
use stateplane_functions::nat::{Nat44, NatConfig, Prefix};
use stateplane_functions::{
    CommitMode, Decision, Disposition, Effect, FrameId, PortConfig, Runtime, RuntimeConfig, Sight,
    StateError, Ticket,
};
use stateplane_state::{Application, Limits, Registry, Store};
use stateplane_wire::packet::{Fragment, Headers, Transport};
use stateplane_wire::tcp::Flags;

/// Flags that open, close or reset a connection.
const TCP_EVENTS: u8 = Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0;

pub const IN: PortId = PortId::INSIDE;
pub const OUT: PortId = PortId::OUTSIDE;
/// Whether packets meet a fast path first.
const FAST: &str = "nat_fast";
pub const CLIENT: [u8; 4] = [10, 0, 0, 5];
pub const SERVER: [u8; 4] = [203, 0, 113, 9];
pub const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Room of a frame buffer.
const ROOM: usize = 2048;

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

/// A fast path: does what it was told, and says what it saw.
#[derive(Default)]
pub struct FastPath {
    pub entries: BTreeMap<(PortId, FlowKey), Decision>,
    pub seen: BTreeMap<(PortId, FlowKey), Time>,
    /// Where the slow path sent packets to.
    routes: BTreeSet<Ipv4Addr>,
    pub hits: u64,
}

impl FastPath {
    /// The flow of a packet that need not be seen by the function.
    fn flow(&self, port: PortId, frame: &[u8]) -> Option<(FlowKey, Headers)> {
        let headers = Headers::parse(frame).ok()?;
        match headers.transport {
            Transport::Tcp { flags, .. } if flags.0 & TCP_EVENTS == 0 => {}
            Transport::Udp { .. } | Transport::Echo { .. } => {}
            _ => return None,
        }
        let (from, to) = headers.ports()?;
        let end = |addr, port| Endpoint { addr, port };
        let (source, destination) = match port {
            IN => (end(headers.source, from), Endpoint::ANY),
            _ => (Endpoint::ANY, end(headers.destination, to)),
        };
        let protocol = Protocol::from_number(headers.protocol)?;
        let known = port == OUT || self.routes.contains(&headers.destination);
        let flow = FlowKey {
            protocol,
            source,
            destination,
        };
        (known && headers.ttl > 1 && headers.fragment == Fragment::Whole).then_some((flow, headers))
    }

    /// Carries out what it knows about the packet.
    fn pass(&mut self, now: Time, port: PortId, frame: &[u8]) -> Option<Out> {
        let (flow, headers) = self.flow(port, frame)?;
        let decision = self.entries.get(&(port, flow))?;
        let out = decision.action.out;
        let fits = headers.packet_len() <= usize::from(ports()[usize::from(out.0)].mtu);
        if decision.valid_until < now || !fits {
            return None;
        }
        let mut frame = frame[..headers.end].to_vec();
        decision.action.apply(&mut frame, &headers).ok()?;
        self.seen.insert((port, flow), now);
        self.hits += 1;
        Some(Out::Sent(out, frame))
    }
}

impl Sight for FastPath {
    fn last_seen(&self, _now: Time, port: PortId, flow: &FlowKey) -> Option<Time> {
        self.seen.get(&(port, *flow)).copied()
    }
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
        runtime,
        parked: HashMap::new(),
        next_frame: 0,
        submitted: VecDeque::new(),
        out: Vec::new(),
        fast: FastPath::default(),
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
            && let Some(out) = self.nodes[node].fast.pass(now, port, frame)
        {
            return vec![out];
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
                let destination: [u8; 4] = buffer[30..34].try_into().expect("four bytes");
                self.fast.routes.insert(destination.into());
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
                Effect::Offload {
                    port,
                    flow,
                    decision,
                    ownership,
                    meter,
                } => {
                    assert_eq!(ownership, None, "a mapping needs no owner");
                    assert_eq!(meter, None, "nothing is metered");
                    self.fast.entries.insert((port, flow), decision);
                }
                Effect::Withdraw { port, flow } => {
                    self.fast.entries.remove(&(port, flow));
                    self.fast.seen.remove(&(port, flow));
                }
                Effect::Publish { .. } => panic!("no flow hangs on a lease"),
                Effect::Meter { .. } => panic!("no flow has a meter"),
                Effect::Discard { frame, reason } => {
                    self.parked.remove(&frame).expect("discarded once");
                    self.out.push(Out::Dropped(reason));
                }
            }
        }
        moved
    }

    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

fn written(size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    write(&mut bytes);
    bytes
}

pub fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let packet = ethernet().ipv4(from.0, to.0, 64).udp(from.1, to.1);
    written(payload.len(), |out| packet.write(out, payload).unwrap())
}

/// TCP with the flags named by letters: S, A, F, R.
pub fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = ethernet()
        .ipv4(from.0, to.0, 64)
        .tcp(from.1, to.1, 1000, 4096);
    for flag in flags.chars() {
        packet = match flag {
            'S' => packet.syn(),
            'A' => packet.ack(2000),
            'F' => packet.fin(),
            'R' => packet.rst(),
            other => panic!("flag {other}"),
        };
    }
    written(payload.len(), |out| packet.write(out, payload).unwrap())
}

pub fn echo(from: [u8; 4], to: [u8; 4], request: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let packet = ethernet().ipv4(from, to, 64);
    let packet = if request {
        packet.icmpv4_echo_request(id, 1)
    } else {
        packet.icmpv4_echo_reply(id, 1)
    };
    written(payload.len(), |out| packet.write(out, payload).unwrap())
}

/// An ICMP error from `from` to `to` about the IPv4 packet in `frame`, of which it quotes
/// `quoted` bytes.
pub fn icmp_error(
    from: [u8; 4],
    to: [u8; 4],
    kind: (u8, u8),
    frame: &[u8],
    quoted: usize,
) -> Vec<u8> {
    let quote = &frame[14..frame.len().min(14 + quoted)];
    let packet = ethernet()
        .ipv4(from, to, 60)
        .icmpv4_raw(kind.0, kind.1, [0; 4]);
    written(quote.len(), |out| packet.write(out, quote).unwrap())
}

/// Source and destination of a frame, as another implementation reads them.
pub fn ends(frame: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else {
        panic!("not IPv4")
    };
    let (source, destination) = match headers.transport {
        Some(TransportHeader::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(TransportHeader::Icmpv4(_)) => {
            let id = u16::from_be_bytes([frame[38], frame[39]]);
            (id, id)
        }
        _ => panic!("no ports"),
    };
    ((ip.source, source), (ip.destination, destination))
}

/// All checksums are right, as another implementation computes them.
pub fn verify(frame: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else {
        panic!("not IPv4")
    };
    assert_eq!(
        ip.header_checksum,
        ip.calc_header_checksum(),
        "IPv4 header checksum"
    );
    let payload = headers.payload.slice();
    match headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            assert_eq!(
                tcp.checksum,
                tcp.calc_checksum_ipv4(ip, payload).unwrap(),
                "TCP"
            );
        }
        Some(TransportHeader::Udp(udp)) if udp.checksum != 0 => {
            let right = udp.calc_checksum_ipv4(ip, payload).unwrap();
            assert_eq!(udp.checksum, right, "UDP");
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload), "ICMP");
        }
        _ => {}
    }
}
