//! An instance of the meter: counts what passes of subscribers whose partitions it owns.
//!
//! What a packet counts for is its inside address alone, so that is its flow, with the protocol: all that
//! has no ports, fragments and errors among it, goes by the same flow as echoes.
//!
//! A first packet waits until the lease of its partition is ours and, if the subscriber has an allowance,
//! until a part of it is reserved. An instance whose packets need a partition that another one owns
//! asks for it: who owns it hears of that within an interval, tells the store what passed and lets go.
//!
//! * `accounts.rs`: subscribers that are active here
//! * `decide.rs`: which flow, and what is awaited for it
//! * `counts.rs`: what passed is told to the store
//! * `upkeep.rs`: leases
//! * `budget.rs`: reservations

mod accounts;
mod budget;
mod counts;
mod decide;
mod upkeep;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use fastrand::Rng;
use stateplane_base::{Reason, Time};
use stateplane_flow::{Endpoint, FlowKey, PortId};
use stateplane_lease::holder::HolderView;
use stateplane_lease::{Holder, OnExpiry, Partition};
use stateplane_wire::packet::Headers;

use super::config::MeterConfig;
use super::ops::Tally;
use crate::context::Context;
use crate::function::{Class, Deciding, Meter, NetworkFunction, Ownership, Shape, Token};
use crate::runtime::Sight;
use accounts::Accounts;

/// Counts for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MeterStatus {
    /// Subscribers that are active here.
    pub accounts: usize,
    /// The store was started from another configuration.
    pub mismatch: bool,
    /// The store did not answer what it was asked last.
    pub store_silent: bool,
    /// The store has answered.
    pub heard: bool,
    /// What passed and nobody will ever be told: another owner took over first.
    pub lost: Tally,
}

struct State {
    config: MeterConfig,
    fingerprint: u64,
    holder: Holder,
    accounts: Accounts,
    /// When the upkeep is due.
    tick: Time,
    /// `lease.asked` is under way.
    listening: bool,
    /// When packets last waited for a partition that is not ours.
    wanted: BTreeMap<Partition, Time>,
    /// When a partition was asked back for us last.
    wished: BTreeMap<Partition, Time>,
    /// Partitions that another instance asked back, and when.
    gone: BTreeMap<Partition, Time>,
    /// What writes under way carry.
    written: BTreeMap<u64, Tally>,
    writes: u64,
    /// Subscribers that have nothing left, to be dropped without a look-up by all others.
    empty: BTreeSet<core::net::Ipv4Addr>,
    status: MeterStatus,
    stopped: bool,
}

impl State {
    /// Whether packets of a partition's subscribers may pass that were decided under this epoch.
    fn owns(&self, now: Time, partition: Partition, epoch: u64) -> bool {
        match self.config.lease.on_expiry {
            OnExpiry::Closed => self
                .holder
                .usable(now, partition)
                .is_some_and(|held| held.epoch == epoch),
            // Until another owner is known.
            OnExpiry::Open => self.holder.epoch(partition) == Some(epoch),
        }
    }
}

/// The network function.
pub struct Meter44 {
    /// A copy of what classification needs, so that it borrows nothing.
    config: MeterConfig,
    state: Rc<RefCell<State>>,
}

impl Meter44 {
    /// An instance with these settings.
    pub fn new(mut config: MeterConfig) -> Self {
        let mut rng = Rng::with_seed(config.seed);
        // What passed in front of us is known when nothing passes there any more.
        config.lease.linger = counts::LINGER;
        config.lease.retry = config
            .lease
            .retry
            .min(config.interval / 2)
            .max(counts::LINGER);
        let state = State {
            fingerprint: config.state.fingerprint(),
            holder: Holder::new(config.lease, config.life(), rng.u64(..)),
            accounts: Accounts::new(config.accounts_max, [rng.u64(..), rng.u64(..)]),
            config: config.clone(),
            tick: Time::ZERO,
            listening: false,
            wanted: BTreeMap::new(),
            wished: BTreeMap::new(),
            gone: BTreeMap::new(),
            written: BTreeMap::new(),
            writes: 0,
            empty: BTreeSet::new(),
            status: MeterStatus::default(),
            stopped: false,
        };
        Self {
            config,
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// Counts.
    pub fn status(&self) -> MeterStatus {
        let state = self.state.borrow();
        MeterStatus {
            accounts: state.accounts.len(),
            ..state.status
        }
    }

    /// The leases it holds or wants.
    pub fn leases(&self, now: Time) -> Vec<HolderView> {
        self.state.borrow().holder.inspect(now)
    }

    /// Whether nothing is left to be told or given back.
    pub fn is_settled(&self) -> bool {
        self.state.borrow().holder.is_idle()
    }
}

impl NetworkFunction for Meter44 {
    fn start(&mut self, cx: &Context) {
        self.state.borrow_mut().tick = cx.now();
    }

    fn classify(&mut self, _now: Time, port: PortId, headers: &Headers) -> Class {
        let flow = match decide::flow(&self.config.state, port, headers) {
            Ok(flow) => flow,
            Err(reason) => return Class::Drop(reason),
        };
        let state = self.state.borrow();
        if !state.empty.is_empty() && state.empty.contains(&decide::subscriber(&flow)) {
            return Class::Drop(Reason::Allowance);
        }
        Class::Flow(flow)
    }

    fn decide(&mut self, cx: Context, flow: FlowKey, first: &Headers) -> Deciding {
        let bytes = first.end as u64;
        Box::pin(decide::decide(Rc::clone(&self.state), cx, flow, bytes))
    }

    fn shape(&self, port: PortId) -> Option<Shape> {
        Some(Shape {
            source: port == PortId::INSIDE,
            destination: port == PortId::OUTSIDE,
            ports: false,
        })
    }

    fn port_of(&self, flow: &FlowKey) -> Option<PortId> {
        Some(match flow.source {
            Endpoint::ANY => PortId::OUTSIDE,
            _ => PortId::INSIDE,
        })
    }

    fn ownership(&self, flow: &FlowKey, token: Token) -> Option<Ownership> {
        let state = self.state.borrow();
        let slot = state.accounts.slot_of(token);
        let epoch = slot.and_then(|slot| state.accounts.at(slot));
        let partition = self.config.state.partition(decide::subscriber(flow));
        Some(Ownership {
            partition,
            // Nobody's: it is not written.
            epoch: epoch.map_or(0, |account| account.epoch),
        })
    }

    fn meter(&self, _flow: &FlowKey, token: Token) -> Option<Meter> {
        Some(Meter(token.0 as u32))
    }

    fn admit(&self, now: Time, token: Token, headers: &Headers) -> Result<(), Reason> {
        let state = self.state.borrow();
        let slot = state.accounts.slot_of(token);
        let account = slot.and_then(|slot| state.accounts.at(slot));
        let account = account.ok_or(Reason::StoreUnavailable)?;
        if account.leaving || !state.owns(now, account.partition, account.epoch) {
            return Err(Reason::StoreUnavailable);
        }
        match &account.budget {
            Some(budget) if budget.spendable(now) < headers.end as u64 => Err(Reason::Allowance),
            _ => Ok(()),
        }
    }

    fn observe(&mut self, now: Time, flow: &FlowKey, token: Token, headers: &Headers) {
        let mut state = self.state.borrow_mut();
        let Some(slot) = state.accounts.slot_of(token) else {
            return;
        };
        let Some(account) = state.accounts.at_mut(slot) else {
            return;
        };
        let side = usize::from(flow.source == Endpoint::ANY);
        account.passed.packets[side] += 1;
        account.passed.bytes[side] += headers.end as u64;
        account.active = now;
        if let Some(budget) = &mut account.budget {
            budget.here = budget.here.saturating_sub(headers.end as u64);
        }
    }

    fn next_timer(&self) -> Option<Time> {
        let state = self.state.borrow();
        let lease = state.holder.next_timer().unwrap_or(Time::MAX);
        Some(state.tick.min(lease))
    }

    fn on_timer(&mut self, now: Time, cx: &Context, sight: &dyn Sight) {
        upkeep::on_timer(&self.state, now, cx, sight);
    }

    fn stop(&mut self, cx: &Context) {
        upkeep::stop(&self.state, cx);
    }

    fn describe(&self, _token: Token) -> &'static str {
        "metered"
    }
}
