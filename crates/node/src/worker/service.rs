//! The functions a worker can run.

use std::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::{FlowKey, PortId, steering};
use stateplane_functions::meter::{Meter44, MeterConfig};
use stateplane_functions::nat::{Nat44, NatConfig, Problem};
use stateplane_functions::{
    Chain, Class, CommitMode, Context, Deciding, Driven, Meter, NetworkFunction, Ownership,
    Runtime, RuntimeConfig, Shape, Sight, Token,
};
use stateplane_host::bpf::fastpath::Prefix;
use stateplane_host::port::Mac;
use stateplane_lease::InstanceId;
use stateplane_lease::holder::HolderView;
use stateplane_wire::arp::Arp;
use stateplane_wire::eth;
use stateplane_wire::packet::Headers;

use crate::config::Commit;
use crate::failure::Failure;
use crate::function::{FunctionSetup, LeaseView, MeterView, Work, WorkerSetup};
use crate::regions::keeper::Home;
use crate::{meter, nat};

/// One of them.
pub(super) enum Service {
    /// A NAT.
    Nat(Nat44),
    /// Accounting.
    Meter(Meter44),
}

/// What is said of either.
#[derive(Default)]
pub(super) struct Said {
    /// The store knows us.
    pub(super) registered: bool,
    pub(super) store_silent: bool,
    pub(super) leases: Vec<LeaseView>,
    pub(super) meter: Option<MeterView>,
    /// Further counters.
    pub(super) counters: Vec<(&'static str, u64)>,
}

/// What one is started with, on whichever thread.
#[derive(Clone)]
pub(super) enum Plan {
    Nat(NatConfig),
    Meter(MeterConfig),
}

impl Plan {
    /// A worker's part of what was configured, from inside to outside.
    pub(super) fn of(
        setup: &FunctionSetup,
        worker: &WorkerSetup,
        outside: Mac,
    ) -> Result<Vec<Self>, Failure> {
        let (name, life) = (InstanceId::of(&worker.name), setup.incarnation);
        let (lease, seed) = (&setup.lease, worker.seed);
        let plan = |work: &Work| {
            Ok(match work {
                Work::Nat(nat) => {
                    Self::Nat(nat::instance_config(nat, lease, name, life, outside, seed)?)
                }
                Work::Meter(of) => Self::Meter(meter::instance_config(of, lease, name, life, seed)),
            })
        };
        setup.work.iter().map(plan).collect()
    }
}

/// What a worker drives: one of them, or a chain.
pub(super) trait Functions: Driven<Function = Service> + Sized + 'static {
    /// Starts them, from inside to outside.
    fn start(now: Time, stages: Vec<(RuntimeConfig, Service)>) -> Self;

    /// What all of them say.
    fn said(&self, now: Time) -> Said {
        let said = self.functions().map(|function| function.said(now));
        said.reduce(Said::and).unwrap_or_default()
    }
}

impl Functions for Runtime<Service> {
    fn start(now: Time, mut stages: Vec<(RuntimeConfig, Service)>) -> Self {
        let (limits, only) = stages.pop().expect("a checked instance has a function");
        Self::new(now, limits, only)
    }
}

impl Functions for Chain<Service> {
    fn start(now: Time, stages: Vec<(RuntimeConfig, Service)>) -> Self {
        Self::new(now, stages)
    }
}

impl Said {
    /// What this one and the next one say together.
    fn and(mut self, next: Self) -> Self {
        self.leases.extend(next.leases);
        self.counters.extend(next.counters);
        Self {
            registered: self.registered && next.registered,
            store_silent: self.store_silent || next.store_silent,
            meter: self.meter.or(next.meter),
            ..self
        }
    }
}

impl Service {
    /// As planned.
    pub(super) fn new(plan: Plan, home: Option<Home>) -> Self {
        let mut service = match plan {
            Plan::Nat(config) => Self::Nat(Nat44::new(config)),
            Plan::Meter(config) => Self::Meter(Meter44::new(config)),
        };
        if let Some((table, me)) = home {
            service.set_home(table, me);
        }
        service
    }

    /// The switch says how it steers.
    pub(super) fn set_home(&mut self, table: steering::Table, me: u8) {
        if let Self::Nat(nat) = self {
            nat.set_home(table, me);
        }
    }

    /// Whether the store knows us.
    pub(super) fn is_registered(&self) -> bool {
        match self {
            Self::Nat(nat) => nat.status().registered,
            Self::Meter(meter) => meter.status().heard,
        }
    }

    /// The part of the file in which the store's is another, if one is.
    pub(super) fn mismatch(&self) -> Option<&'static str> {
        match self {
            Self::Nat(nat) => {
                (nat.status().problem == Some(Problem::ConfigMismatch)).then_some("nat")
            }
            Self::Meter(meter) => meter.status().mismatch.then_some("meter"),
        }
    }

    /// Whether nothing is left to be given back, after the end.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::Nat(_) => true,
            Self::Meter(meter) => meter.is_settled(),
        }
    }

    pub(super) fn said(&self, now: Time) -> Said {
        match self {
            Self::Nat(nat) => {
                let status = nat.status();
                let covers = format!("{} port blocks", status.blocks);
                let lease = nat.lease(now).into_iter();
                Said {
                    registered: status.registered,
                    store_silent: status.store_silent,
                    leases: lease.map(|lease| view(&lease, covers.clone())).collect(),
                    meter: None,
                    counters: vec![
                        ("local-hits", status.local.hits),
                        ("local-misses", status.local.misses),
                    ],
                }
            }
            Self::Meter(meter) => {
                let status = meter.status();
                let leases = meter.leases(now).into_iter();
                let covers = |of: &HolderView| format!("partition {:#x}", of.partition.0);
                Said {
                    registered: status.heard,
                    store_silent: status.store_silent,
                    leases: leases.map(|lease| view(&lease, covers(&lease))).collect(),
                    meter: Some(MeterView {
                        active: status.accounts as u64,
                        lost_packets: status.lost.packets.iter().sum(),
                        lost_bytes: status.lost.bytes.iter().sum(),
                    }),
                    counters: Vec::new(),
                }
            }
        }
    }
}

fn view(lease: &HolderView, covers: String) -> LeaseView {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    LeaseView {
        covers,
        state: lease.state.to_owned(),
        epoch: lease.epoch,
        left_ms: millis(lease.left),
    }
}

impl Work {
    /// What it is called.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Nat(_) => "nat",
            Self::Meter(_) => "meter",
        }
    }

    /// Addresses that are the function's even where they are the machine's, too.
    pub(super) fn pool(&self) -> Vec<Prefix> {
        let Self::Nat(nat) = self else {
            return Vec::new();
        };
        let ranges = nat.outside_addresses.iter();
        ranges
            .flat_map(|range| Prefix::cover(range.first, range.last))
            .collect()
    }

    /// When packets may leave. The meter announces nothing.
    pub(super) fn mode(&self) -> CommitMode {
        match self {
            Self::Nat(nat) => match nat.commit {
                Commit::Strict => CommitMode::Strict,
                Commit::ReplyBarrier => CommitMode::ReplyBarrier,
                Commit::Async => CommitMode::Async,
            },
            Self::Meter(_) => CommitMode::Strict,
        }
    }

    /// Flows known at once: a subscriber has one each way for each protocol.
    pub(super) fn flows(&self) -> usize {
        match self {
            Self::Nat(nat) => nat.flows as usize,
            Self::Meter(meter) => 6 * meter.active as usize,
        }
    }

    /// Meters in the fast path.
    pub(super) fn meters(&self) -> u32 {
        match self {
            Self::Nat(_) => 1,
            Self::Meter(meter) => meter.active,
        }
    }
}

/// Passes a call on.
macro_rules! each {
    ($self:ident, $one:ident => $call:expr) => {
        match $self {
            Service::Nat($one) => $call,
            Service::Meter($one) => $call,
        }
    };
}

impl NetworkFunction for Service {
    fn start(&mut self, cx: &Context) {
        each!(self, one => one.start(cx));
    }

    #[inline]
    fn classify(&mut self, now: Time, port: PortId, headers: &Headers) -> Class {
        each!(self, one => one.classify(now, port, headers))
    }

    fn decide(&mut self, cx: Context, flow: FlowKey, first: &Headers) -> Deciding {
        each!(self, one => one.decide(cx, flow, first))
    }

    fn shape(&self, port: PortId) -> Option<Shape> {
        each!(self, one => one.shape(port))
    }

    fn port_of(&self, flow: &FlowKey) -> Option<PortId> {
        each!(self, one => one.port_of(flow))
    }

    fn entrance(&self, flow: &FlowKey, token: Token) -> Option<PortId> {
        each!(self, one => one.entrance(flow, token))
    }

    fn ownership(&self, flow: &FlowKey, token: Token) -> Option<Ownership> {
        each!(self, one => one.ownership(flow, token))
    }

    fn meter(&self, flow: &FlowKey, token: Token) -> Option<Meter> {
        each!(self, one => one.meter(flow, token))
    }

    #[inline]
    fn admit(&self, now: Time, token: Token, headers: &Headers) -> Result<(), Reason> {
        each!(self, one => one.admit(now, token, headers))
    }

    #[inline]
    fn anticipate(&self, token: Token) {
        each!(self, one => one.anticipate(token));
    }

    #[inline]
    fn observe(&mut self, now: Time, flow: &FlowKey, token: Token, headers: &Headers) {
        each!(self, one => one.observe(now, flow, token, headers));
    }

    fn answer_arp(&mut self, port: PortId, request: &Arp) -> Option<eth::Mac> {
        each!(self, one => one.answer_arp(port, request))
    }

    fn next_timer(&self) -> Option<Time> {
        each!(self, one => one.next_timer())
    }

    fn on_timer(&mut self, now: Time, cx: &Context, sight: &dyn Sight) {
        each!(self, one => one.on_timer(now, cx, sight));
    }

    fn stop(&mut self, cx: &Context) {
        each!(self, one => one.stop(cx));
    }

    fn describe(&self, token: Token) -> &'static str {
        each!(self, one => one.describe(token))
    }
}
