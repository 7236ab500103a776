//! The workers' end of the fast path: decisions into entries, and what became of them.
//!
//! The runtime offers decisions and takes them back; [`Fast`] writes them into
//! the tables that the XDP program reads, with what a decision leaves open: the way to the
//! next hop ([`ways`]).
//!
//! * An entry is written *after* the turn's frames were sent: a flow's second packet does not
//!   overtake its first one, which was parked.
//! * An entry ends a little before its decision: the program's clock is coarse.
//! * Entries hang on a lease of the instance's, or on their owner's ([`owners`]). Ending it is one
//!   store, and nothing passes any more without a worker: when routes change, before it drains
//!   and stops, when the lease is lost.
//! * What finds no room stays with the slow path, and is counted.
//! * All workers of an instance write the same tables ([`shared`]), one at a time.

mod owners;
mod shared;
#[cfg(test)]
mod tests;
pub mod ways;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use stateplane_base::Time;
use stateplane_flow::fast::{
    Extent, Key, KeyMask, Memory, Metered, Meters, PortSettings, Pressure, Seed, Settings,
    WrongSize, has_route, seen,
};
use stateplane_flow::{FlowKey, PortId};
use stateplane_functions::{Allow, Decision, Meter, Ownership, Sight};
use stateplane_host::port::Mac;
use stateplane_lease::Partition;
use stateplane_wire::eth;

use super::egress::NextHops;
use super::packets::PORTS;
use shared::{Change, Shared};
pub use ways::{Link, Ways};

/// How far the program's clock may be behind: a tick of the slowest usual kernels.
const COARSE: Duration = Duration::from_millis(10);
/// Changes that a worker notes while others write; beyond it, new flows stay with the slow path.
const NOTED_MAX: usize = 1 << 14;

/// What the program is told about a function's ports, before anything else. `masks`: what of a packet
/// makes its flow there. If that is not said, the program leaves all that is the function's to
/// its sockets.
pub fn settings<M: Memory>(
    memory: M,
    seed: Seed,
    masks: [Option<KeyMask>; 2],
    stations: [Mac; 2],
) -> Result<Settings<M>, WrongSize> {
    let mut settings = Settings::new(memory, seed)?;
    let told = masks.iter().all(Option::is_some);
    for ((port, station), mask) in PORTS.into_iter().zip(stations).zip(masks) {
        let port_settings = PortSettings {
            station: eth::Mac(station.0),
            mask: mask.unwrap_or(KeyMask::ALL),
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
#[derive(Clone, Debug)]
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
    /// Meters.
    pub meters: M,
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
    /// Decisions whose lease was not held any more, or for which there was no room.
    pub unowned: u64,
    /// Turns that another worker was writing in: what was to be written waited for the next one.
    pub waited: u64,
}

impl Done {
    /// What two workers did.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            installed: self.installed + other.installed,
            withdrawn: self.withdrawn + other.withdrawn,
            full: self.full + other.full,
            wayless: self.wayless + other.wayless,
            unowned: self.unowned + other.unowned,
            waited: self.waited + other.waited,
        }
    }
}

/// One worker's hand on the fast path of its instance.
pub struct Fast<M> {
    shared: Arc<Mutex<Shared<M>>>,
    parts: Parts<M>,
    /// Each is one worker's alone.
    meters: Meters<M>,
    seed: Seed,
    worker: usize,
    changes: Vec<Change>,
    done: Done,
    /// How often everything was taken back, as far as this worker has offered its flows anew.
    revoked: u64,
}

impl<M: Memory + Clone> Fast<M> {
    /// One for each of so many workers. Takes the tables' memory and empties it. `links`: what lies
    /// behind each port.
    pub fn for_each(
        workers: usize,
        parts: &Parts<M>,
        seed: Seed,
        links: [Link; 2],
    ) -> Result<Vec<Self>, WrongSize> {
        let shared = Arc::new(Mutex::new(Shared::new(parts.clone(), seed, links)?));
        let of = |worker| Self {
            shared: Arc::clone(&shared),
            parts: parts.clone(),
            meters: Meters::new(parts.meters.clone()),
            seed,
            worker,
            changes: Vec::new(),
            done: Done::default(),
            revoked: 0,
        };
        Ok((0..workers).map(of).collect())
    }
}

impl<M: Memory> Fast<M> {
    /// Notes that this decision may be carried out, for [`Self::apply`]; under which lease, if it
    /// needs one, and where its packets count.
    pub fn install(
        &mut self,
        port: PortId,
        flow: FlowKey,
        decision: Decision,
        ownership: Option<Ownership>,
        meter: Option<Meter>,
    ) {
        if self.changes.len() >= NOTED_MAX {
            self.done.full += 1;
            return;
        }
        let change = Change::Install(port, flow, decision, ownership, meter);
        self.changes.push(change);
    }

    /// What was decided under this epoch of a partition's lease passes until then, and nothing that
    /// was decided under another. At once: the store hears of it next. So this waits for another
    /// worker's changes; a lease is published once in seconds.
    pub fn publish(&mut self, partition: Partition, epoch: u32, until: Time) {
        let place = (self.worker, partition);
        self.shared().publish(place, epoch, until);
    }

    /// What may pass at a meter. At once.
    pub fn allow(&mut self, meter: Meter, allow: Allow) {
        match allow {
            Allow::Nothing => drop(self.meters.clear(meter.0)),
            Allow::Until(bytes) => self.meters.limit(meter.0, bytes),
        }
    }

    /// Notes that this flow's packets must come to a worker.
    pub fn remove(&mut self, port: PortId, flow: FlowKey) {
        self.changes.push(Change::Remove(port, flow));
    }

    /// A packet left for this destination: the next one that finds its next hop by it need not
    /// come here.
    #[inline]
    pub fn learn(&mut self, port: PortId, to: Ipv4Addr) {
        // A crowded set of routes may have lost it.
        if self.changes.len() < NOTED_MAX && !has_route(&self.parts.routes, &self.seed, to, port) {
            self.changes.push(Change::Learn(port, to));
        }
    }

    /// Carries out what was noted. To be called when the frames of this turn were sent. While
    /// another worker does so it stays noted: nobody waits.
    pub fn apply(&mut self, now: Time, hops: &mut impl NextHops) {
        let mut shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(shared)) => shared.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.done.waited += u64::from(!self.changes.is_empty());
                return;
            }
        };
        shared.apply(now, hops, self.worker, &mut self.changes, &mut self.done);
    }

    /// Whether something noted could not be carried out yet.
    pub fn is_behind(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The kernel's routes or neighbours changed. True: this worker's flows have to be offered anew.
    /// Every worker hears of such a change; the first one writes it.
    pub fn ways_changed(&mut self, now: Time, hops: &mut impl NextHops) -> bool {
        let mut shared = self.shared();
        if shared.ways.refresh(now, hops) {
            shared.revoke();
        }
        let revoked = shared.revoked;
        drop(shared);
        std::mem::replace(&mut self.revoked, revoked) != revoked
    }

    /// Nothing passes any more without a worker, until it is offered again.
    pub fn revoke(&mut self) {
        self.shared().revoke();
    }

    /// The same, for good: the instance stops.
    pub fn close(&mut self) {
        self.shared().close();
    }

    /// How full the table of flows is; next hops, destinations, and how often there was no room for
    /// one; how often everything was taken back. Nothing while another worker writes.
    pub fn fill(&self) -> Option<(Pressure, [u64; 3], u64)> {
        let shared = self.shared.try_lock().ok()?;
        Some((shared.flows.pressure(), shared.ways.fill(), shared.revoked))
    }

    /// What this worker did since the start.
    pub fn done(&self) -> Done {
        self.done
    }

    fn shared(&self) -> MutexGuard<'_, Shared<M>> {
        // What a panic left half done is an entry that readers take for busy.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looked up as the program does: no other worker is in the way.
impl<M: Memory> Sight for Fast<M> {
    fn last_seen(&self, now: Time, port: PortId, flow: &FlowKey) -> Option<Time> {
        let (flows, extent) = (&self.parts.flows, &self.parts.extent);
        let seen = seen(flows, extent, &self.seed, &Key::of(flow, port), now)?;
        (seen.packets > 0).then(|| now - seen.idle)
    }

    fn metered(&self, meter: Meter) -> Option<Metered> {
        self.meters.read(meter.0)
    }
}
