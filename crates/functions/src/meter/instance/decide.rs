//! Which flow a packet belongs to, and what is awaited before its packets may pass.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::net::Ipv4Addr;
use core::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::fast::Metered;
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId, Protocol};
use stateplane_lease::holder::Held;
use stateplane_wire::packet::{Fragment, Headers};

use super::State;
use super::accounts::Account;
use super::budget::{self, Budget};
use super::upkeep;
use crate::context::{Context, Event};
use crate::function::Decision;
use crate::meter::config::MeterStateConfig;
use crate::meter::ops::Tally;

/// How long a decision holds: the lease says whether it does.
const HOLDS: Duration = Duration::from_secs(3600);

/// A partition was granted, or an account is gone.
pub(super) const GRANTED: Event = Event(u64::MAX);

/// Something came of a reservation for the account of this number.
pub(super) fn reserved(slot: u32) -> Event {
    Event(u64::from(slot))
}

/// The flow, or why the packet is dropped.
pub(super) fn flow(
    config: &MeterStateConfig,
    port: PortId,
    headers: &Headers,
) -> Result<FlowKey, Reason> {
    let to = headers.destination;
    if to.is_multicast() || to.is_broadcast() || to.is_unspecified() {
        return Err(Reason::NotOurs);
    }
    let subscriber = match port {
        PortId::INSIDE => headers.source,
        _ => headers.destination,
    };
    if !config.is_subscriber(subscriber) {
        return Err(Reason::NotOurs);
    }
    let whole = headers.fragment == Fragment::Whole && headers.ports().is_some();
    let protocol = match Protocol::from_number(headers.protocol) {
        Some(protocol) if whole => protocol,
        _ => Protocol::IcmpEcho,
    };
    Ok(flow_of(protocol, port, subscriber))
}

fn flow_of(protocol: Protocol, port: PortId, subscriber: Ipv4Addr) -> FlowKey {
    let end = Endpoint {
        addr: subscriber,
        port: 0,
    };
    let (source, destination) = match port {
        PortId::INSIDE => (end, Endpoint::ANY),
        _ => (Endpoint::ANY, end),
    };
    FlowKey {
        protocol,
        source,
        destination,
    }
}

/// Whose packets these are.
pub(super) fn subscriber(flow: &FlowKey) -> Ipv4Addr {
    match flow.source {
        Endpoint::ANY => flow.destination.addr,
        end => end.addr,
    }
}

/// All flows that a subscriber can have.
pub(super) fn flows(subscriber: Ipv4Addr) -> impl Iterator<Item = FlowKey> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::IcmpEcho];
    let ports = [PortId::INSIDE, PortId::OUTSIDE];
    protocols
        .into_iter()
        .flat_map(move |protocol| ports.map(move |port| flow_of(protocol, port, subscriber)))
}

/// Waits until the lease is ours and there is enough to spend.
pub(super) async fn decide(
    state: Rc<RefCell<State>>,
    cx: Context,
    flow: FlowKey,
    bytes: u64,
) -> Result<Decision, Reason> {
    let subscriber = subscriber(&flow);
    loop {
        let now = cx.now();
        let waits_for = match step(&state, &cx, now, subscriber, bytes)? {
            Step::Pass(slot, until) => return Ok(decision(&state, &flow, slot, until)),
            Step::Wait(event) => event,
        };
        upkeep::keep(&state, &cx);
        cx.wait(waits_for).await;
    }
}

enum Step {
    /// It may pass, by this account, until then.
    Pass(u32, Time),
    Wait(Event),
}

fn step(
    state: &Rc<RefCell<State>>,
    cx: &Context,
    now: Time,
    subscriber: Ipv4Addr,
    bytes: u64,
) -> Result<Step, Reason> {
    let mut shared = state.borrow_mut();
    if shared.stopped {
        return Err(Reason::StoreUnavailable);
    }
    let partition = shared.config.state.partition(subscriber);
    let Some(held) = shared.holder.usable(now, partition) else {
        shared.wanted.insert(partition, now);
        let room = shared.holder.acquire(now, partition);
        return room.then_some(Step::Wait(GRANTED)).ok_or(Reason::TableFull);
    };
    let slot = match shared.accounts.find(subscriber) {
        Some(slot) => slot,
        None => open(&mut shared, cx, now, subscriber, held)?,
    };
    let account = shared
        .accounts
        .at_mut(slot)
        .ok_or(Reason::StoreUnavailable)?;
    if account.leaving || account.epoch != held.epoch {
        return Ok(Step::Wait(GRANTED));
    }
    let Some(budget) = &account.budget else {
        return Ok(Step::Pass(slot, now + HOLDS));
    };
    if budget.spendable(now) >= bytes {
        return Ok(Step::Pass(slot, budget.ends));
    }
    if now < budget.empty_until {
        return Err(Reason::Allowance);
    }
    if now < budget.pause_until {
        return Ok(Step::Wait(reserved(slot)));
    }
    drop(shared);
    budget::reserve(state, cx, slot, bytes);
    Ok(Step::Wait(reserved(slot)))
}

fn open(
    state: &mut State,
    cx: &Context,
    now: Time,
    subscriber: Ipv4Addr,
    held: Held,
) -> Result<u32, Reason> {
    let budget = state.config.state.allowance(subscriber).map(Budget::new);
    let account = Account {
        subscriber,
        partition: state.config.state.partition(subscriber),
        epoch: held.epoch,
        passed: Tally::default(),
        seen: Metered::default(),
        limit: if budget.is_none() { u64::MAX } else { 0 },
        budget,
        active: now,
        leaving: false,
    };
    let opened = state.accounts.insert(account, cx);
    opened.ok_or(Reason::TableFull)
}

fn decision(state: &Rc<RefCell<State>>, flow: &FlowKey, slot: u32, until: Time) -> Decision {
    let out = match flow.source {
        Endpoint::ANY => PortId::INSIDE,
        _ => PortId::OUTSIDE,
    };
    Decision {
        action: FlowAction {
            source: None,
            destination: None,
            ttl: 1,
            out,
        },
        valid_until: until,
        token: state.borrow().accounts.token(slot),
    }
}
