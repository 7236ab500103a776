//! The author's trait: a function decides once per flow, by awaiting state.

use alloc::boxed::Box;
use core::future::Future;
use core::pin::Pin;

use stateplane_base::{Reason, Time};
use stateplane_flow::fast::KeyMask;
use stateplane_flow::{FlowAction, FlowKey, PortId};
use stateplane_lease::Partition;
use stateplane_wire::arp::Arp;
use stateplane_wire::eth::Mac;
use stateplane_wire::icmp_error;
use stateplane_wire::packet::Headers;

use crate::context::Context;
use crate::runtime::Sight;

/// A pending decision. It owns what it needs: functions keep what several decisions
/// share behind a reference count.
pub type Deciding = Pin<Box<dyn Future<Output = Result<Decision, Reason>>>>;

/// What the packet itself says, before any state is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// It belongs to this flow, whose decision is cached or has to be made.
    Flow(FlowKey),
    /// It does not pass.
    Drop(Reason),
    /// It does not pass and its sender is told, if the rate limit allows.
    Reject(icmp_error::Error, Reason),
}

/// The function's own handle for a flow; comes back in [`NetworkFunction::observe`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Token(pub u64);

/// What happens to a flow's packets, and for how long that may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What to do with each packet.
    pub action: FlowAction,
    /// Last moment, on this node's clock, at which the action may be used without
    /// asking again. A lease is counted from when the request was *sent*.
    pub valid_until: Time,
    /// The function's handle for the flow.
    pub token: Token,
}

/// The lease without which a decision must not be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ownership {
    /// What the function owns.
    pub partition: Partition,
    /// The grant's epoch: of another, the decision is not in force.
    pub epoch: u64,
}

/// Where several flows' packets count together, and how many bytes of theirs may pass without a look:
/// a number that the function chooses, as small as can be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Meter(pub u32);

/// What of a packet makes its flow, besides the protocol. An end that does not is
/// [`Endpoint::ANY`](stateplane_flow::Endpoint::ANY) in the flow's key; without ports, ports are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Where it comes from.
    pub source: bool,
    /// Where it goes to.
    pub destination: bool,
    /// Of the ends that do, the port too.
    pub ports: bool,
}

impl From<Shape> for KeyMask {
    fn from(shape: Shape) -> Self {
        Self {
            source: shape.source,
            source_port: shape.source && shape.ports,
            destination: shape.destination,
            destination_port: shape.destination && shape.ports,
        }
    }
}

/// What of a packet that comes by `port` makes its flow for these functions, one behind the other.
/// `None`: that cannot be said.
pub fn key_mask<'f, F: NetworkFunction + 'f>(
    functions: impl IntoIterator<Item = &'f F>,
    port: PortId,
) -> Option<KeyMask> {
    let mut masks = functions
        .into_iter()
        .map(|function| function.shape(port).map(KeyMask::from));
    let first = masks.next()??;
    masks.try_fold(first, |mask, next| Some(mask.and_then(next?)))
}

/// A network function: what is particular to a NAT, a firewall, a load balancer. The
/// [`Runtime`](crate::Runtime) does the rest: flow table, parking, commit modes, time to
/// live, MTU, ICMP errors.
pub trait NetworkFunction {
    /// Called once before the first packet; a place to register with the store.
    fn start(&mut self, _cx: &Context) {}

    /// Which flow does a packet belong to? Reads the packet and the configuration, no
    /// state. Called for every packet.
    fn classify(&mut self, now: Time, port: PortId, headers: &Headers) -> Class;

    /// Decides about a flow, given its first packet. Called only when no valid decision
    /// is cached and none is being made; polled when something it awaits is there.
    /// An error drops the waiting packets; [`Reason::NoMapping`] is remembered briefly.
    fn decide(&mut self, cx: Context, flow: FlowKey, first: &Headers) -> Deciding;

    /// What of a packet that comes by `port` makes its flow, whatever the packet. `None`: that
    /// cannot be said, so no fast path finds this function's flows.
    fn shape(&self, _port: PortId) -> Option<Shape> {
        None
    }

    /// By which port this flow's packets come, if [`Self::shape`] tells them from others
    /// there.
    fn port_of(&self, _flow: &FlowKey) -> Option<PortId> {
        None
    }

    /// The same, if the function need not see its packets now: they may pass without
    /// [`Self::observe`]. Asked when a decision is cached or prolonged.
    fn entrance(&self, flow: &FlowKey, _token: Token) -> Option<PortId> {
        self.port_of(flow)
    }

    /// The lease that a flow's decision hangs on, if its state has an owner: a fast path lets the
    /// flow's packets pass only while that is published ([`Context::publish`]). Asked when the
    /// decision is offered.
    fn ownership(&self, _flow: &FlowKey, _token: Token) -> Option<Ownership> {
        None
    }

    /// The meter at which packets count that a fast path lets pass by this decision. Asked when it is
    /// offered.
    fn meter(&self, _flow: &FlowKey, _token: Token) -> Option<Meter> {
        None
    }

    /// Whether a packet of a decided flow may pass at this moment. If not, it waits for a new
    /// decision, or is dropped for this reason where it comes from one. Called for every packet that
    /// comes this way: must be cheap.
    #[inline]
    fn admit(&self, _now: Time, _token: Token, _headers: &Headers) -> Result<(), Reason> {
        Ok(())
    }

    /// A packet of a decided flow is about to pass: a place to touch the memory that
    /// [`Self::admit`] and [`Self::observe`] will need, while others of its burst are looked for.
    #[inline]
    fn anticipate(&self, _token: Token) {}

    /// A packet of a decided flow passes. Called for every packet that comes this way:
    /// must be cheap. Of TCP, segments that open, close or reset always do.
    fn observe(&mut self, _now: Time, _flow: &FlowKey, _token: Token, _headers: &Headers) {}

    /// The hardware address to answer this ARP request with, if the function has the
    /// address that is asked for.
    fn answer_arp(&mut self, _port: PortId, _request: &Arp) -> Option<Mac> {
        None
    }

    /// When [`Self::on_timer`] wants to be called.
    fn next_timer(&self) -> Option<Time> {
        None
    }

    /// Regular work; may spawn background tasks. `sight` knows of packets that passed
    /// without [`Self::observe`].
    fn on_timer(&mut self, _now: Time, _cx: &Context, _sight: &dyn Sight) {}

    /// Called when no more packets will come, while the store still answers: a place to
    /// give back what it took.
    fn stop(&mut self, _cx: &Context) {}

    /// One word about a flow for people, such as its TCP phase.
    fn describe(&self, _token: Token) -> &'static str {
        ""
    }
}

/// Passes a call on.
macro_rules! pass_on {
    ($($name:ident(&mut self $(, $arg:ident: $of:ty)*) $(-> $gives:ty)?;)*) => {
        $(fn $name(&mut self $(, $arg: $of)*) $(-> $gives)? { (**self).$name($($arg),*) })*
    };
    ($($name:ident(&self $(, $arg:ident: $of:ty)*) $(-> $gives:ty)?;)*) => {
        $(fn $name(&self $(, $arg: $of)*) $(-> $gives)? { (**self).$name($($arg),*) })*
    };
}

/// Functions of several kinds can be one chain.
impl<F: NetworkFunction + ?Sized> NetworkFunction for Box<F> {
    pass_on! {
        start(&mut self, cx: &Context);
        classify(&mut self, now: Time, port: PortId, headers: &Headers) -> Class;
        decide(&mut self, cx: Context, flow: FlowKey, first: &Headers) -> Deciding;
        observe(&mut self, now: Time, flow: &FlowKey, token: Token, headers: &Headers);
        answer_arp(&mut self, port: PortId, request: &Arp) -> Option<Mac>;
        on_timer(&mut self, now: Time, cx: &Context, sight: &dyn Sight);
        stop(&mut self, cx: &Context);
    }
    pass_on! {
        shape(&self, port: PortId) -> Option<Shape>;
        port_of(&self, flow: &FlowKey) -> Option<PortId>;
        entrance(&self, flow: &FlowKey, token: Token) -> Option<PortId>;
        ownership(&self, flow: &FlowKey, token: Token) -> Option<Ownership>;
        meter(&self, flow: &FlowKey, token: Token) -> Option<Meter>;
        admit(&self, now: Time, token: Token, headers: &Headers) -> Result<(), Reason>;
        next_timer(&self) -> Option<Time>;
        anticipate(&self, token: Token);
        describe(&self, token: Token) -> &'static str;
    }
}
