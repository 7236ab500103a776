//! What the workers of an instance share of its fast path.
//!
//! Any worker may get any packet of a flow, so all of them write the same tables, and readers want
//! one writer at a time: a lock, taken once a turn by who has something to write, and never waited
//! for there. What the tables hold is the same whoever writes it: a flow that two workers know is
//! one entry, which neither has to change for the other.

use std::net::Ipv4Addr;

use stateplane_base::Time;
use stateplane_flow::fast::{
    Action, Entry, Guard, Hop, Key, Leases, Memory, Seed, Table, WrongSize,
};
use stateplane_flow::{Endpoint, FlowKey, PortId};
use stateplane_functions::{Decision, Meter, Ownership};

use super::super::egress::NextHops;
use super::owners::{Owners, Place};
use super::{COARSE, Done, Link, Parts, Ways};

/// Slots that a table of flows begins with; it grows with them.
const FEW_FLOWS: usize = 1024;
/// Slots by which each turn brings that on.
const TENDED: usize = 64;

/// Changes whose slots are fetched together: as many as a processor's nearest memory holds.
const TOGETHER: usize = 16;

/// What a worker wants written.
pub(super) enum Change {
    Install(PortId, FlowKey, Decision, Option<Ownership>, Option<Meter>),
    Remove(PortId, FlowKey),
    Learn(PortId, Ipv4Addr),
}

/// What an entry hangs on.
#[derive(Clone, Copy)]
struct Hangs {
    guard: Guard,
    meter: Option<Meter>,
}

/// The tables as their one writer has them, whichever worker that is.
pub(super) struct Shared<M> {
    pub(super) flows: Table<M, Ipv4Addr>,
    pub(super) ways: Ways<M>,
    pub(super) owners: Owners<M>,
    /// Times that everything was taken back at once.
    pub(super) revoked: u64,
    /// Nothing is installed any more.
    closed: bool,
}

impl<M: Memory> Shared<M> {
    pub(super) fn new(parts: Parts<M>, seed: Seed, links: [Link; 2]) -> Result<Self, WrongSize> {
        Ok(Self {
            flows: Table::growing(parts.flows, seed, parts.extent, FEW_FLOWS)?,
            ways: Ways::new(parts.hops, parts.routes, seed, links)?,
            owners: Owners::new(Leases::new(parts.leases)),
            revoked: 0,
            closed: false,
        })
    }

    pub(super) fn apply(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        worker: usize,
        changes: &mut Vec<Change>,
        done: &mut Done,
    ) {
        for some in changes.chunks(TOGETHER) {
            for change in some {
                if let Change::Install(port, flow, ..) | Change::Remove(port, flow) = change {
                    self.flows.fetch(&Key::of(flow, *port));
                }
            }
            for change in some {
                self.carry_out(now, hops, worker, change, done);
            }
        }
        changes.clear();
        self.flows.tend(TENDED);
    }

    fn carry_out(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        worker: usize,
        change: &Change,
        done: &mut Done,
    ) {
        match change {
            Change::Install(..) if self.closed => {}
            Change::Install(port, flow, decision, ownership, meter) => {
                match self.owners.guard(worker, *ownership) {
                    Some(guard) => {
                        let hangs = Hangs {
                            guard,
                            meter: *meter,
                        };
                        self.write(now, hops, *port, flow, decision, hangs, done);
                    }
                    None => {
                        done.unowned += 1;
                        self.flows.remove(&Key::of(flow, *port));
                    }
                }
            }
            Change::Remove(port, flow) => {
                done.withdrawn += u64::from(self.flows.remove(&Key::of(flow, *port)));
            }
            Change::Learn(port, to) => self.ways.learn(now, hops, *port, *to),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an entry is made of all of it")]
    fn write(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        port: PortId,
        flow: &FlowKey,
        decision: &Decision,
        Hangs { guard, meter }: Hangs,
        done: &mut Done,
    ) {
        let (key, until) = (Key::of(flow, port), decision.valid_until - COARSE);
        let Some(hop) = self.hop(now, hops, flow, decision) else {
            done.wayless += 1;
            self.flows.remove(&key);
            return;
        };
        let mut action = Action::of(&decision.action, hop, guard);
        action.meter = meter.map(|meter| meter.0);
        // Most are prolonged, which disturbs no packet.
        if self.flows.set(now, &key, &Entry { action, until }).is_err() {
            done.full += 1;
            return;
        }
        done.installed += 1;
    }

    /// Where the flow's packets go: one next hop if all have one destination.
    fn hop(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        flow: &FlowKey,
        decision: &Decision,
    ) -> Option<Hop> {
        let out = decision.action.out;
        let kept = (flow.destination != Endpoint::ANY).then_some(flow.destination);
        match decision.action.destination.or(kept) {
            Some(end) => self.ways.hop(now, hops, out, end.addr).map(Hop::Index),
            None => Some(Hop::ByDestination(out)),
        }
    }

    /// A lease was granted, prolonged or lost.
    pub(super) fn publish(&mut self, place: Place, epoch: u32, until: Time) {
        if !self.closed {
            self.owners.publish(place, epoch, until);
        }
    }

    /// Nothing passes any more by what was written so far.
    pub(super) fn revoke(&mut self) {
        self.revoked += 1;
        self.owners.revoke();
    }

    /// The same, and nothing is written any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.revoke();
    }
}
