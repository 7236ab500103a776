//! An instance of the NAT: decides by asking the store, and remembers for a while.
//!
//! Mapping and filtering are endpoint-independent (RFC 4787 REQ-1, REQ-8): what happens
//! to a packet depends on its inside or outside endpoint alone, so that is its flow.
//!
//! | packet                             | flow                              | decision |
//! |------------------------------------|-----------------------------------|----------|
//! | from inside to the world           | (protocol, inside endpoint, any)  | `nat.bind` |
//! | from outside to a pool address     | (protocol, any, outside endpoint) | `nat.lookup` |
//! | from inside to a pool address      | (protocol, both ends): hairpin    | both |
//! | ICMP error                         | that of the packet it quotes      | none of its own |
//! | inside to inside, foreign sources  | dropped: not ours                 | |
//!
//! A first packet creates a mapping only if it may open a session: TCP resets and echo
//! replies only find mappings that exist, and an ICMP error from inside passes only if
//! its flow is known here, since it must not keep a mapping alive.
//!
//! * settings in [`config`]
//! * `classify.rs`: the table above
//! * `decide.rs`: decisions, by awaiting the store
//! * `local.rs`: decisions from committed tables on this machine
//! * `ports.rs`: blocks owned and ports proposed
//! * `known.rs`, `records.rs`: mappings seen and their TCP phase
//! * `upkeep.rs`: registration, leases, refreshes

mod classify;
pub mod config;
mod decide;
mod known;
mod local;
mod ports;
mod records;
mod upkeep;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use core::cell::RefCell;
use core::future::ready;
use core::hint::black_box;
use core::net::Ipv4Addr;

use fastrand::Rng;
use stateplane_base::{Reason, Time};
use stateplane_flow::steering;
use stateplane_flow::{Endpoint, FlowKey, PortId};
use stateplane_lease::Holder;
use stateplane_lease::holder::HolderView;
use stateplane_wire::arp::Arp;
use stateplane_wire::eth::Mac;
use stateplane_wire::packet::{Headers, Transport};

use crate::context::Context;
use crate::function::{Class, Deciding, NetworkFunction, Shape, Token};
use crate::runtime::Sight;
use config::NatConfig;
pub use local::LocalTally;
use local::Reading;
use ports::Ports;
use records::{Record, Records};

/// Why an instance cannot work, until somebody changes something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Store and instance were started from different configurations.
    ConfigMismatch,
    /// Another process with the same name registered after us.
    Replaced,
}

/// Events that decisions wait for; an outside address' number is its own event.
mod event {
    use crate::context::Event;
    use core::net::Ipv4Addr;

    pub(super) const REGISTRATION: Event = Event(1 << 32);

    pub(super) fn block(address: Ipv4Addr) -> Event {
        Event(u64::from(address.to_bits()))
    }
}

/// What decisions and upkeep share.
struct State {
    config: NatConfig,
    rng: Rng,
    home: Option<(steering::Table, u8)>,
    ports: Ports,
    records: Records,
    /// The lease over all our blocks.
    lease: Holder,
    /// Addresses for which a block is being taken.
    taking: BTreeSet<Ipv4Addr>,
    /// Addresses whose blocks are all taken, and until when not to ask again.
    exhausted: BTreeMap<Ipv4Addr, Time>,
    problem: Option<Problem>,
    /// The store did not answer the last registration or renewal.
    unanswered: bool,
    /// The log's clock, and how the local copy of the store's tables served.
    reading: Reading,
    local: LocalTally,
    /// We were told to stop: only mappings that exist are served.
    stopped: bool,
}

/// Counts of an instance's NAT, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatStatus {
    /// Whether the store knows us.
    pub registered: bool,
    /// Blocks of 256 ports that we own.
    pub blocks: usize,
    /// Mappings tracked here.
    pub mappings: usize,
    /// What keeps us from working.
    pub problem: Option<Problem>,
    /// Whether the store is silent: known flows pass, new ones wait in vain.
    pub store_silent: bool,
    /// How the committed tables on this machine served, if there are any.
    pub local: LocalTally,
}

/// The network function.
pub struct Nat44 {
    /// A copy of what classification needs, so that it borrows nothing.
    config: NatConfig,
    state: Rc<RefCell<State>>,
}

impl Nat44 {
    /// An instance with these settings.
    pub fn new(config: NatConfig) -> Self {
        let mut rng = Rng::with_seed(config.seed);
        let hash_key = [rng.u64(..), rng.u64(..)];
        let lease_seed = rng.u64(..);
        let state = State {
            records: Records::new(config.mappings_max, hash_key),
            config: config.clone(),
            rng,
            home: None,
            ports: Ports::default(),
            lease: Holder::new(config.lease, config.life(), lease_seed),
            taking: BTreeSet::new(),
            exhausted: BTreeMap::new(),
            problem: None,
            unanswered: false,
            reading: Reading::default(),
            local: LocalTally::default(),
            stopped: false,
        };
        Self {
            config,
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// The lease over our blocks, for people.
    pub fn lease(&self, now: Time) -> Option<HolderView> {
        self.state.borrow().lease.inspect(now).pop()
    }

    /// Tells how the switch steers and which instance of its table we are. From now on
    /// blocks whose answers come back to us are preferred.
    pub fn set_home(&mut self, table: steering::Table, me: u8) {
        self.state.borrow_mut().home = Some((table, me));
    }

    /// Counts.
    pub fn status(&self) -> NatStatus {
        let state = self.state.borrow();
        NatStatus {
            registered: state.owner().is_some(),
            blocks: state.ports.len(),
            mappings: state.records.len(),
            problem: state.problem,
            store_silent: state.unanswered,
            local: state.local,
        }
    }
}

impl NetworkFunction for Nat44 {
    fn start(&mut self, cx: &Context) {
        upkeep::start(&self.state, cx);
    }

    fn classify(&mut self, _now: Time, port: PortId, headers: &Headers) -> Class {
        match classify::flow(&self.config, port, headers) {
            Ok(flow) => Class::Flow(flow),
            Err(reason) => Class::Drop(reason),
        }
    }

    fn decide(&mut self, cx: Context, flow: FlowKey, first: &Headers) -> Deciding {
        let state = Rc::clone(&self.state);
        if flow.source == Endpoint::ANY {
            return Box::pin(decide::inbound(state, cx, flow));
        }
        if matches!(first.transport, Transport::Error(_)) {
            // Asking for the mapping would keep it alive, which an error must not do
            // (RFC 5508 REQ-6). The flow's next packet makes it known here.
            return Box::pin(ready(Err(Reason::NotOurs)));
        }
        let opens = decide::opens(first);
        Box::pin(decide::outbound(state, cx, flow, opens))
    }

    fn shape(&self, port: PortId) -> Option<Shape> {
        Some(Shape {
            source: port == PortId::INSIDE,
            destination: port == PortId::OUTSIDE,
            ports: true,
        })
    }

    fn port_of(&self, flow: &FlowKey) -> Option<PortId> {
        match (flow.source, flow.destination) {
            (Endpoint::ANY, _) => Some(PortId::OUTSIDE),
            (_, Endpoint::ANY) => Some(PortId::INSIDE),
            _ => None, // hairpin: told by both ends
        }
    }

    /// Not flows whose next packet tells something: that an idle mapping is used again, or
    /// that what seemed to close goes on.
    fn entrance(&self, flow: &FlowKey, token: Token) -> Option<PortId> {
        let state = self.state.borrow();
        let watched = state.records.get(token).is_some_and(Record::is_watched);
        self.port_of(flow).filter(|_| !watched)
    }

    fn anticipate(&self, token: Token) {
        black_box(self.state.borrow().records.get(token).is_some());
    }

    fn observe(&mut self, _now: Time, flow: &FlowKey, token: Token, headers: &Headers) {
        let outbound = flow.source != Endpoint::ANY;
        self.state
            .borrow_mut()
            .records
            .observe(token, outbound, headers);
    }

    fn answer_arp(&mut self, port: PortId, request: &Arp) -> Option<Mac> {
        let asks_for_pool = port == PortId::OUTSIDE
            && request.sender != request.target
            && self.config.outside.contains(request.target);
        self.config.arp_mac.filter(|_| asks_for_pool)
    }

    fn next_timer(&self) -> Option<Time> {
        let state = self.state.borrow();
        let due = state
            .records
            .next_due()
            .unwrap_or(Time::MAX)
            .min(state.lease.next_timer().unwrap_or(Time::MAX));
        (due < Time::MAX).then_some(due)
    }

    fn on_timer(&mut self, now: Time, cx: &Context, sight: &dyn Sight) {
        self.state.borrow_mut().lease.on_timer(now);
        upkeep::keep(&self.state, cx);
        upkeep::refresh(&self.state, cx, sight);
    }

    fn stop(&mut self, cx: &Context) {
        upkeep::stop(&self.state, cx);
    }

    fn describe(&self, token: Token) -> &'static str {
        self.state
            .borrow()
            .records
            .get(token)
            .map_or("", |record| record.class().name())
    }
}
