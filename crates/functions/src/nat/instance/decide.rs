//! Decisions, by awaiting the store.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::time::Duration;

use stateplane_base::{LogTime, Reason, Time};
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId, Protocol};
use stateplane_wire::packet::{Headers, Transport};
use stateplane_wire::tcp::Flags;

use super::known::Known;
use super::{State, local, upkeep};
use crate::context::{Context, StateError, Tentative};
use crate::function::{Decision, Token};
use crate::nat::ops::{Binding, Class, Lookup, NatRefusal, block_of};

/// Proposals before giving up: each was refused as busy.
const ATTEMPTS: usize = 8;
/// How long a proposed port is kept back while the store decides.
const PROPOSAL_HOLD: Duration = Duration::from_secs(5);
/// A port rests at least this long after its mapping's end (RFC 6888 REQ-8), and a
/// little more, since other instances may prolong mappings unknown to us.
const PORT_REST: Duration = Duration::from_secs(125);
/// The store takes a TCP connection for half open until it hears otherwise, which must not
/// be lost with this instance: a new record is looked at after this time.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// A decision without a record: the store is asked again after the cache lease.
pub(super) const UNTRACKED: Token = Token(u64::MAX);

/// What a first packet may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opens {
    /// Nothing: it belongs to a session that exists, or to none.
    Nothing,
    /// A session, unless it belongs to one that exists.
    Perhaps,
    /// A new session for sure, so its mapping may be announced.
    Surely,
}

/// What this first packet of a flow may do.
pub(super) fn opens(first: &Headers) -> Opens {
    match first.transport {
        Transport::Tcp { flags, .. } if flags.has(Flags::RST) => Opens::Nothing,
        Transport::Tcp { flags, .. } if flags.has(Flags::SYN) && !flags.has(Flags::ACK) => {
            Opens::Surely
        }
        Transport::Tcp { .. } | Transport::Udp { .. } | Transport::Echo { request: true, .. } => {
            Opens::Perhaps
        }
        _ => Opens::Nothing,
    }
}

/// From inside, to the world or (hairpin) to another host of ours.
pub(super) async fn outbound(
    state: Rc<RefCell<State>>,
    cx: Context,
    flow: FlowKey,
    opens: Opens,
) -> Result<Decision, Reason> {
    let hairpin = flow.destination != Endpoint::ANY;
    let announce = opens == Opens::Surely && !hairpin;
    let mapped = match opens {
        Opens::Nothing => existing(&state, &cx, flow.protocol, flow.source).await?,
        _ => bind(&state, &cx, flow.protocol, flow.source, announce).await?,
    };
    if !hairpin {
        return Ok(mapped.out);
    }
    let target = lookup(&state, &cx, flow.protocol, flow.destination).await?;
    Ok(Decision {
        action: FlowAction {
            destination: target.back.action.destination,
            out: PortId::INSIDE,
            ..mapped.out.action
        },
        valid_until: mapped.out.valid_until.min(target.back.valid_until),
        token: mapped.out.token,
    })
}

/// From outside.
pub(super) async fn inbound(
    state: Rc<RefCell<State>>,
    cx: Context,
    flow: FlowKey,
) -> Result<Decision, Reason> {
    Ok(lookup(&state, &cx, flow.protocol, flow.destination)
        .await?
        .back)
}

/// A mapping's decisions, outbound and inbound.
pub(super) struct Mapped {
    pub(super) out: Decision,
    pub(super) back: Decision,
}

/// The flow of a mapping's outbound packets.
pub(super) const fn out_flow(protocol: Protocol, inside: Endpoint) -> FlowKey {
    FlowKey {
        protocol,
        source: inside,
        destination: Endpoint::ANY,
    }
}

/// The flow of a mapping's inbound packets.
pub(super) const fn back_flow(protocol: Protocol, outside: Endpoint) -> FlowKey {
    FlowKey {
        protocol,
        source: Endpoint::ANY,
        destination: outside,
    }
}

/// What a mapping does to packets.
pub(super) fn mapped(inside: Endpoint, outside: Endpoint, until: Time, token: Token) -> Mapped {
    let action = |source, destination, out| FlowAction {
        source,
        destination,
        ttl: 1,
        out,
    };
    let decision = |action| Decision {
        action,
        valid_until: until,
        token,
    };
    Mapped {
        out: decision(action(Some(outside), None, PortId::OUTSIDE)),
        back: decision(action(None, Some(inside), PortId::INSIDE)),
    }
}

async fn lookup(
    state: &Rc<RefCell<State>>,
    cx: &Context,
    protocol: Protocol,
    outside: Endpoint,
) -> Result<Mapped, Reason> {
    let known = state.borrow_mut().local_by_outside(cx, protocol, outside);
    if let Some(known) = known {
        return Ok(take(state, cx, &known));
    }
    let lookup = Lookup { protocol, outside };
    let mut sent = cx.now();
    let mut found = cx.call(&lookup).await;
    if cx.lets_out_early() && found.as_ref().is_ok_and(|found| found.mapping.is_none()) {
        // Perhaps it is the answer to a packet that another worker or instance let out before the
        // commit: what that one had sent to the store by then comes before what takes a slot now.
        sent = cx.now();
        found = cx.call_in_order(&lookup).await;
    }
    let found = found.map_err(|_| Reason::StoreUnavailable)?;
    state.borrow_mut().reading.note(sent, found.now);
    let mapping = found.mapping.ok_or(Reason::NoMapping)?;
    Ok(remember(state, cx, sent, found.now, &mapping.into()))
}

/// The mapping an inside endpoint has already. The proposal is one nobody can own, so it
/// creates none.
async fn existing(
    state: &Rc<RefCell<State>>,
    cx: &Context,
    protocol: Protocol,
    inside: Endpoint,
) -> Result<Mapped, Reason> {
    let known = state.borrow_mut().local_by_inside(cx, protocol, inside);
    if let Some(known) = known {
        return Ok(take(state, cx, &known));
    }
    let owner = upkeep::registered(state, cx).await?;
    let addr = state.borrow().config.outside.paired(inside.addr);
    let outside = Endpoint { addr, port: 0 };
    let sent = cx.now();
    let binding = Binding {
        protocol,
        inside,
        outside,
    };
    match cx.call_together(&owner, &binding).await {
        Ok(bound) => Ok(remember(
            state,
            cx,
            sent,
            bound.now,
            &Known::of(&binding, &bound),
        )),
        Err(StateError::Refused(_)) => Err(Reason::NotOurs),
        Err(_) => Err(Reason::StoreUnavailable),
    }
}

/// The mapping an inside endpoint has, or a new one.
async fn bind(
    state: &Rc<RefCell<State>>,
    cx: &Context,
    protocol: Protocol,
    inside: Endpoint,
    mut announce: bool,
) -> Result<Mapped, Reason> {
    let known = state.borrow_mut().local_by_inside(cx, protocol, inside);
    if let Some(known) = known {
        return Ok(take(state, cx, &known));
    }
    let address = state.borrow().config.outside.paired(inside.addr);
    for _ in 0..ATTEMPTS {
        let owner = upkeep::registered(state, cx).await?;
        let Some(port) = upkeep::propose(state, cx, protocol, address, PROPOSAL_HOLD).await else {
            // Perhaps it has a mapping since before.
            let none_free = |reason| {
                if reason == Reason::NotOurs {
                    Reason::NoPort
                } else {
                    reason
                }
            };
            return existing(state, cx, protocol, inside)
                .await
                .map_err(none_free);
        };
        let outside = Endpoint {
            addr: address,
            port,
        };
        let sent = cx.now();
        if core::mem::take(&mut announce) {
            let until = sent + state.borrow().config.cache_lease;
            let Mapped { out, back } = mapped(inside, outside, until, UNTRACKED);
            let tentative = Tentative {
                forward: out,
                reverse: (back_flow(protocol, outside), back),
            };
            if cx.announce(tentative) {
                // Answers may come to this port even if the store binds another, or none.
                let until = sent + PORT_REST;
                state
                    .borrow_mut()
                    .ports
                    .busy_until(protocol, outside, until);
            }
        }
        let binding = Binding {
            protocol,
            inside,
            outside,
        };
        match cx.call_together(&owner, &binding).await {
            Ok(bound) => {
                let known = Known::of(&binding, &bound);
                state.borrow_mut().reading.note(sent, bound.now);
                rest(state, sent, bound.now, &known);
                return Ok(remember(state, cx, sent, bound.now, &known));
            }
            Err(StateError::Refused(refusal)) => match NatRefusal::from_refusal(refusal) {
                Some(NatRefusal::PortBusy | NatRefusal::PortQuarantined) => {
                    let until = cx.now() + PORT_REST;
                    state
                        .borrow_mut()
                        .ports
                        .busy_until(protocol, outside, until);
                }
                Some(NatRefusal::NotBlockOwner) => {
                    state.borrow_mut().ports.remove(address, block_of(port));
                }
                Some(NatRefusal::Fenced) => upkeep::fenced(state, cx, owner),
                Some(NatRefusal::LeaseEnded) => upkeep::ended(state, cx, owner),
                Some(NatRefusal::Quota) => return Err(Reason::Quota),
                _ => return Err(Reason::NoPort),
            },
            Err(_) => return Err(Reason::StoreUnavailable),
        }
    }
    Err(Reason::NoPort)
}

/// Uses what the local copy of the store's tables says, as if it had been asked.
fn take(state: &Rc<RefCell<State>>, cx: &Context, known: &local::Answer) -> Mapped {
    let left = known.mapping.expires.since(known.now);
    let port = (known.mapping.protocol, known.mapping.outside);
    state.borrow_mut().still_used(port, known.sent, left);
    remember(state, cx, known.sent, known.now, &known.mapping.into())
}

/// A port of ours serves a mapping: it is not free until some time after that one ends.
fn rest(state: &Rc<RefCell<State>>, sent: Time, now: LogTime, known: &Known) {
    let until = sent + known.expires.since(now) + PORT_REST;
    let (protocol, outside) = (known.protocol, known.outside);
    state
        .borrow_mut()
        .ports
        .busy_until(protocol, outside, until);
}

/// Tracks a mapping, caches the decisions both ways and gives them.
fn remember(
    state: &Rc<RefCell<State>>,
    cx: &Context,
    sent: Time,
    asked: LogTime,
    known: &Known,
) -> Mapped {
    let &Known {
        protocol,
        inside,
        outside,
        ..
    } = known;
    let mut state = state.borrow_mut();
    let (until, check_at) = state.validity(sent, known.expires.since(asked));
    let first_look = match known.class {
        Class::Transitory => check_at.min(sent + FIRST_LOOK),
        _ => check_at,
    };
    let (token, replaced) = state.records.put(known, until, check_at, first_look);
    let mapped = mapped(inside, outside, until, token.unwrap_or(UNTRACKED));
    if let Some(old) = replaced {
        cx.forget(back_flow(protocol, old));
    }
    cx.install(out_flow(protocol, inside), mapped.out);
    cx.install(back_flow(protocol, outside), mapped.back);
    mapped
}

impl State {
    /// Until when an answer may be believed, and when to ask again if there is traffic.
    pub(super) fn validity(&self, sent: Time, remaining: Duration) -> (Time, Time) {
        let lease = self.config.cache_lease.min(remaining);
        (sent + lease, sent + lease / 4 * 3)
    }

    /// Notes that a mapping on a port of ours lives on.
    pub(super) fn still_used(&mut self, record: (Protocol, Endpoint), sent: Time, left: Duration) {
        self.ports
            .busy_until(record.0, record.1, sent + left + PORT_REST);
    }
}
