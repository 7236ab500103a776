//! A fast path for tests: does what it was told, and says what it saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use stateplane_base::Time;
use stateplane_flow::fast::{KeyMask, Metered, TCP_EVENTS};
use stateplane_flow::{Endpoint, FlowKey, PortId, Protocol};
use stateplane_functions::{Allow, Decision, Driven, Effect, Meter, Ownership, Sight};
use stateplane_lease::Partition;
use stateplane_wire::packet::{Fragment, Headers, Transport};

use super::ports;

/// What packets undergo, under which lease, and where they count.
pub type Entry = (Decision, Option<Ownership>, Option<Meter>);

/// What became of a packet.
pub struct Passed {
    pub port: PortId,
    pub frame: Vec<u8>,
    /// It was counted there.
    pub meter: Option<Meter>,
}

/// In front of one instance.
pub struct FastPath {
    masks: [Option<KeyMask>; 2],
    pub entries: BTreeMap<(PortId, FlowKey), Entry>,
    leases: BTreeMap<Partition, (u32, Time)>,
    meters: BTreeMap<Meter, (u64, Metered)>,
    seen: BTreeMap<(PortId, FlowKey), Time>,
    /// Where the slow path sent packets to.
    routes: BTreeSet<Ipv4Addr>,
    /// It takes no more entries.
    closed: bool,
    pub hits: u64,
}

impl FastPath {
    /// One that knows nothing yet.
    pub fn before(driven: &impl Driven) -> Self {
        Self {
            masks: [PortId::INSIDE, PortId::OUTSIDE].map(|port| driven.key_mask(port)),
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            meters: BTreeMap::new(),
            seen: BTreeMap::new(),
            routes: BTreeSet::new(),
            closed: false,
            hits: 0,
        }
    }

    /// From now on nothing passes.
    pub fn close(&mut self) {
        self.entries.clear();
        self.closed = true;
    }

    /// The slow path sent this.
    pub fn learn(&mut self, sent: &[u8]) {
        let to: [u8; 4] = sent[30..34].try_into().expect("four bytes");
        self.routes.insert(to.into());
    }

    /// Carries out what is meant for a fast path.
    pub fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Offload {
                port,
                flow,
                decision,
                ownership,
                meter,
            } => {
                if !self.closed {
                    let entry = (decision, ownership, meter);
                    self.entries.insert((port, flow), entry);
                }
            }
            Effect::Withdraw { port, flow } => {
                self.entries.remove(&(port, flow));
                self.seen.remove(&(port, flow));
            }
            Effect::Publish {
                partition,
                epoch,
                until,
            } => drop(self.leases.insert(partition, (epoch, until))),
            Effect::Meter { meter, allow } => {
                let known = self.meters.entry(meter).or_default();
                match allow {
                    Allow::Nothing => *known = Default::default(),
                    Allow::Until(limit) => known.0 = limit,
                }
            }
            other => panic!("{other:?} is not for a fast path"),
        }
    }

    /// The flow of a packet that need not be seen by the function.
    fn flow(&self, port: PortId, frame: &[u8]) -> Option<(FlowKey, Headers)> {
        let mask = self.masks[usize::from(port.0)]?;
        let headers = Headers::parse(frame).ok()?;
        match headers.transport {
            Transport::Tcp { flags, .. } if flags.0 & TCP_EVENTS == 0 => {}
            Transport::Udp { .. } | Transport::Echo { .. } => {}
            _ => return None,
        }
        let (from, to) = headers.ports()?;
        let end = |addr: Option<Ipv4Addr>, port: Option<u16>| Endpoint {
            addr: addr.unwrap_or(Ipv4Addr::UNSPECIFIED),
            port: port.unwrap_or(0),
        };
        let flow = FlowKey {
            protocol: Protocol::from_number(headers.protocol)?,
            source: end(
                mask.source.then_some(headers.source),
                mask.source_port.then_some(from),
            ),
            destination: end(
                mask.destination.then_some(headers.destination),
                mask.destination_port.then_some(to),
            ),
        };
        (headers.fragment == Fragment::Whole).then_some((flow, headers))
    }

    /// Whether the lease that an entry hangs on is in force.
    fn holds(&self, now: Time, ownership: Option<Ownership>) -> bool {
        ownership.is_none_or(|Ownership { partition, epoch }| {
            let (published, until) = self.leases[&partition];
            published != 0 && u64::from(published) == epoch && now < until
        })
    }

    /// Carries out what it knows about the packet.
    pub fn pass(&mut self, now: Time, port: PortId, frame: &[u8]) -> Option<Passed> {
        let (flow, headers) = self.flow(port, frame)?;
        let (decision, ownership, meter) = self.entries.get(&(port, flow)).copied()?;
        let (action, out) = (decision.action, decision.action.out);
        let to = action.destination.map(|end| end.addr);
        let known = to.is_some() || self.routes.contains(&headers.destination);
        let fits = headers.packet_len() <= usize::from(ports()[usize::from(out.0)].mtu);
        let lives = headers.ttl > action.ttl.max(1) && now <= decision.valid_until;
        if !(known && fits && lives && self.holds(now, ownership)) {
            return None;
        }
        let mut sent = frame[..headers.end].to_vec();
        if let Some(meter) = meter {
            let (limit, counted) = self.meters.get_mut(&meter).expect("it was begun");
            if counted.used() + frame.len() as u64 > *limit {
                return None;
            }
            counted.packets[usize::from(port.0)] += 1;
            counted.bytes[usize::from(port.0)] += frame.len() as u64;
        }
        action.apply(&mut sent, &headers).ok()?;
        self.seen.insert((port, flow), now);
        self.hits += 1;
        Some(Passed {
            port: out,
            frame: sent,
            meter,
        })
    }
}

impl Sight for FastPath {
    fn last_seen(&self, _now: Time, port: PortId, flow: &FlowKey) -> Option<Time> {
        self.seen.get(&(port, *flow)).copied()
    }

    fn metered(&self, meter: Meter) -> Option<Metered> {
        self.meters.get(&meter).map(|(_, counted)| *counted)
    }
}
