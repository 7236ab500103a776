//! A meter whose every packet is witnessed.

use std::cell::RefCell;
use std::rc::Rc;

use stateplane_base::{Reason, Time};
use stateplane_flow::{Endpoint, FlowKey, PortId};
use stateplane_functions::meter::Meter44;
use stateplane_functions::meter::ops::Tally;
use stateplane_functions::{
    Class, Context, Deciding, Meter, NetworkFunction, Ownership, Shape, Sight, Token,
};
use stateplane_wire::packet::Headers;

/// What one meter did.
#[derive(Default)]
pub struct Witnessed {
    /// Packets that it let pass since somebody looked: whose, from it or to it, and how long.
    pub passed: Vec<(std::net::Ipv4Addr, usize, u64)>,
    /// What nobody will ever be told.
    pub lost: Tally,
}

pub type Witness = Rc<RefCell<Witnessed>>;

/// The meter, and who watches it.
pub struct Watched {
    pub meter: Meter44,
    pub witness: Witness,
}

impl Watched {
    fn tell(&self) {
        self.witness.borrow_mut().lost = self.meter.status().lost;
    }
}

impl NetworkFunction for Watched {
    fn start(&mut self, cx: &Context) {
        self.meter.start(cx);
    }

    fn classify(&mut self, now: Time, port: PortId, headers: &Headers) -> Class {
        self.meter.classify(now, port, headers)
    }

    fn decide(&mut self, cx: Context, flow: FlowKey, first: &Headers) -> Deciding {
        self.meter.decide(cx, flow, first)
    }

    fn shape(&self, port: PortId) -> Option<Shape> {
        self.meter.shape(port)
    }

    fn port_of(&self, flow: &FlowKey) -> Option<PortId> {
        self.meter.port_of(flow)
    }

    fn ownership(&self, flow: &FlowKey, token: Token) -> Option<Ownership> {
        self.meter.ownership(flow, token)
    }

    fn meter(&self, flow: &FlowKey, token: Token) -> Option<Meter> {
        self.meter.meter(flow, token)
    }

    fn admit(&self, now: Time, token: Token, headers: &Headers) -> Result<(), Reason> {
        self.meter.admit(now, token, headers)
    }

    fn observe(&mut self, now: Time, flow: &FlowKey, token: Token, headers: &Headers) {
        self.meter.observe(now, flow, token, headers);
        let passed = match flow.source {
            Endpoint::ANY => (flow.destination.addr, 1, headers.end as u64),
            subscriber => (subscriber.addr, 0, headers.end as u64),
        };
        self.witness.borrow_mut().passed.push(passed);
    }

    fn next_timer(&self) -> Option<Time> {
        self.meter.next_timer()
    }

    fn on_timer(&mut self, now: Time, cx: &Context, sight: &dyn Sight) {
        self.meter.on_timer(now, cx, sight);
        self.tell();
    }

    fn stop(&mut self, cx: &Context) {
        self.meter.stop(cx);
        self.tell();
    }
}
