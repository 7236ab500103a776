//! The worker's end of the fast path: decisions into entries, and what became of them.
//!
//! The runtime offers decisions and takes them back; [`Fast`] writes them into
//! the tables that the XDP program reads, with what a decision leaves open: the way to the
//! next hop ([`ways`]).
//!
//! * An entry is written *after* the turn's frames were sent: a flow's second packet does not
//!   overtake its first one, which was parked.
//! * An entry ends a little before its decision: the program's clock is coarse.
//! * Entries hang on a lease of this worker's, or on their owner's ([`owners`]). Ending it is one
//!   store, and nothing passes any more without the worker: when routes change, before it drains
//!   and stops, when the lease is lost.
//! * What finds no room stays with the slow path, and is counted.

mod owners;
#[cfg(test)]
mod tests;
pub mod ways;

use std::net::Ipv4Addr;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_flow::fast::{
    Action, Entry, Extent, Guard, Hop, Key, KeyMask, Leases, Memory, PortSettings, Pressure, Seed,
    Settings, Table, WrongSize,
};
use stateplane_flow::{Endpoint, FlowKey, PortId};
use stateplane_functions::{Decision, NetworkFunction, Ownership, Sight};
use stateplane_host::port::Mac;
use stateplane_lease::Partition;
use stateplane_wire::eth;

use super::egress::NextHops;
use super::packets::PORTS;
use owners::Owners;
pub use ways::{Link, Ways};

/// How far the program's clock may be behind: a tick of the slowest usual kernels.
const COARSE: Duration = Duration::from_millis(10);

/// Slots that a table of flows begins with; it grows with them.
const FEW_FLOWS: usize = 1024;
/// Slots by which each turn brings that on.
const TENDED: usize = 64;

/// What the program is told about a function's ports, before anything else. If the function does
/// not say what makes its flows, the program leaves all that is the function's to its sockets.
pub fn settings<F: NetworkFunction, M: Memory>(
    memory: M,
    seed: Seed,
    function: &F,
    stations: [Mac; 2],
) -> Result<Settings<M>, WrongSize> {
    let mut settings = Settings::new(memory, seed)?;
    let mut told = true;
    for (port, station) in PORTS.into_iter().zip(stations) {
        let shape = function.shape(port);
        told &= shape.is_some();
        let mask = shape.map_or(KeyMask::ALL, |shape| KeyMask {
            source: shape.source,
            source_port: shape.source,
            destination: shape.destination,
            destination_port: shape.destination,
        });
        let port_settings = PortSettings {
            station: eth::Mac(station.0),
            mask,
            ipv4: true,
            ipv6: false,
            tagged: false,
            partial_checksums: true,
        };
        settings.set_port(port, Some(&port_settings));
    }
    settings.enable(told);
    Ok(settings)
}

/// The memory of each table.
#[derive(Debug)]
pub struct Parts<M> {
    /// Flows.
    pub flows: M,
    /// What tells the program how many of the flows' slots are in use.
    pub extent: Extent<M>,
    /// Next hops.
    pub hops: M,
    /// Routes by destination.
    pub routes: M,
    /// Leases.
    pub leases: M,
}

/// What was done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Decisions written, or prolonged.
    pub installed: u64,
    /// Entries taken back.
    pub withdrawn: u64,
    /// Decisions for which there was no slot.
    pub full: u64,
    /// Decisions for which there was no way out, or no room for it.
    pub wayless: u64,
    /// Times that everything was taken back at once.
    pub revoked: u64,
    /// Decisions whose lease was not held any more, or for which there was no room.
    pub unowned: u64,
}

enum Change {
    Install(PortId, FlowKey, Decision, Option<Ownership>),
    Remove(PortId, FlowKey),
}

/// The fast path of one worker.
pub struct Fast<M> {
    flows: Table<M, Ipv4Addr>,
    ways: Ways<M>,
    owners: Owners<M>,
    changes: Vec<Change>,
    done: Done,
}

impl<M: Memory> Fast<M> {
    /// Takes the tables' memory and empties it. `links`: what lies behind each port.
    pub fn new(parts: Parts<M>, seed: Seed, links: [Link; 2]) -> Result<Self, WrongSize> {
        Ok(Self {
            flows: Table::growing(parts.flows, seed, parts.extent, FEW_FLOWS)?,
            ways: Ways::new(parts.hops, parts.routes, seed, links)?,
            owners: Owners::new(Leases::new(parts.leases)),
            changes: Vec::new(),
            done: Done::default(),
        })
    }

    /// Notes that this decision may be carried out, for [`Self::apply`]; and under which lease, if
    /// it needs one.
    pub fn install(
        &mut self,
        port: PortId,
        flow: FlowKey,
        decision: Decision,
        ownership: Option<Ownership>,
    ) {
        let change = Change::Install(port, flow, decision, ownership);
        self.changes.push(change);
    }

    /// What was decided under this epoch of a partition's lease passes until then, and nothing that
    /// was decided under another. At once.
    pub fn publish(&mut self, partition: Partition, epoch: u32, until: Time) {
        self.owners.publish(partition, epoch, until);
    }

    /// Notes that this flow's packets must come to the worker.
    pub fn remove(&mut self, port: PortId, flow: FlowKey) {
        self.changes.push(Change::Remove(port, flow));
    }

    /// Carries out what was noted. To be called when the frames of this turn were sent.
    pub fn apply(&mut self, now: Time, hops: &mut impl NextHops) {
        let mut changes = std::mem::take(&mut self.changes);
        for change in changes.drain(..) {
            match change {
                Change::Install(port, flow, decision, ownership) => {
                    match self.owners.guard(ownership) {
                        Some(guard) => self.write(now, hops, port, &flow, &decision, guard),
                        None => {
                            self.done.unowned += 1;
                            self.flows.remove(&Key::of(&flow, port));
                        }
                    }
                }
                Change::Remove(port, flow) => {
                    self.done.withdrawn += u64::from(self.flows.remove(&Key::of(&flow, port)));
                }
            }
        }
        self.changes = changes;
        self.flows.tend(TENDED);
    }

    fn write(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        port: PortId,
        flow: &FlowKey,
        decision: &Decision,
        guard: Guard,
    ) {
        let (key, until) = (Key::of(flow, port), decision.valid_until - COARSE);
        let Some(hop) = self.hop(now, hops, flow, decision) else {
            self.done.wayless += 1;
            self.flows.remove(&key);
            return;
        };
        let action = Action::of(&decision.action, hop, guard);
        // Most are prolonged, which disturbs no packet.
        let same = self.flows.get(&key).is_some_and(|old| old.action == action);
        if same {
            self.flows.prolong(&key, until);
        } else if self
            .flows
            .insert(now, &key, &Entry { action, until })
            .is_err()
        {
            self.done.full += 1;
            return;
        }
        self.done.installed += 1;
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

    /// The kernel's routes or neighbours changed. True: flows have to be offered anew.
    pub fn ways_changed(&mut self, now: Time, hops: &mut impl NextHops) -> bool {
        let stale = self.ways.refresh(now, hops);
        if stale {
            self.revoke();
        }
        stale
    }

    /// Nothing passes any more without the worker, until it is offered again.
    pub fn revoke(&mut self) {
        self.done.revoked += 1;
        self.owners.revoke();
    }

    /// The ways to next hops.
    pub fn ways_mut(&mut self) -> &mut Ways<M> {
        &mut self.ways
    }

    /// The ways to next hops.
    pub fn ways(&self) -> &Ways<M> {
        &self.ways
    }

    /// How full the table of flows is.
    pub fn pressure(&self) -> Pressure {
        self.flows.pressure()
    }

    /// What was done since the start.
    pub fn done(&self) -> Done {
        self.done
    }
}

impl<M: Memory> Sight for Fast<M> {
    fn last_seen(&self, now: Time, port: PortId, flow: &FlowKey) -> Option<Time> {
        let seen = self.flows.seen(&Key::of(flow, port), now)?;
        (seen.packets > 0).then(|| now - seen.idle)
    }
}
