//! What a fast path in front of the driver is told, and asked.
//!
//! ```text
//!   decision committed, prolonged ──▶ Offload{port, flow, decision}
//!   forgotten, over, for our eyes ──▶ Withdraw{port, flow}
//!   a lease granted, prolonged, lost ──▶ Publish{partition, epoch, until}
//!   what may pass at a meter      ──▶ Meter{meter, allow}
//!   function asks in `on_timer`   ──▶ Sight::last_seen(now, port, flow)
//! ```
//!
//! A driver that has none never asks for these effects. What the fast path lacks room
//! for, or has lost, comes here packet by packet and is served as ever: an offer is a
//! permission. Offers hold until their decision does; nothing tentative is ever offered. What a
//! function with owners offers holds as long as its lease is published, too: losing that
//! is one word, however many flows it has.

use stateplane_base::Time;
use stateplane_flow::fast::Metered;
use stateplane_flow::{FlowKey, PortId};
use stateplane_lease::Partition;

use super::{Effect, Runtime};
use crate::context::Allow;
use crate::function::{Decision, Meter, NetworkFunction};
use crate::table::Place;

/// What the fast path saw of the packets that did not come here.
pub trait Sight {
    /// When it last served a packet of this flow, which comes by `port`. `None`: never, as
    /// far as it still knows.
    fn last_seen(&self, now: Time, port: PortId, flow: &FlowKey) -> Option<Time>;

    /// What passed at a meter since it began, if there is such a one.
    fn metered(&self, _meter: Meter) -> Option<Metered> {
        None
    }
}

/// Without a fast path.
impl Sight for () {
    fn last_seen(&self, _now: Time, _port: PortId, _flow: &FlowKey) -> Option<Time> {
        None
    }
}

impl<F: NetworkFunction> Runtime<F> {
    /// A packet of a decided flow came here: offers it if it was not, this round.
    #[inline]
    pub(super) fn offer_once(&mut self, place: Place, flow: &FlowKey, decision: &Decision) {
        if self.config.fast_path && self.table.offer(place, self.round) {
            self.offer(flow, decision);
        }
    }

    /// Offers a flow whose decision is committed.
    pub(super) fn offer(&mut self, flow: &FlowKey, decision: &Decision) {
        if let Some(port) = self.function.entrance(flow, decision.token) {
            self.counters.offered += 1;
            self.tasks.effects.push_back(Effect::Offload {
                port,
                flow: *flow,
                decision: *decision,
                ownership: self.function.ownership(flow, decision.token),
                meter: self.function.meter(flow, decision.token),
            });
        }
    }

    pub(super) fn publish(&mut self, partition: Partition, epoch: u32, until: Time) {
        if self.config.fast_path {
            self.tasks.effects.push_back(Effect::Publish {
                partition,
                epoch,
                until,
            });
        }
    }

    pub(super) fn meter(&mut self, meter: Meter, allow: Allow) {
        if self.config.fast_path {
            self.tasks.effects.push_back(Effect::Meter { meter, allow });
        }
    }

    pub(super) fn withdraw(&mut self, flow: FlowKey) {
        if !self.config.fast_path {
            return;
        }
        if let Some(port) = self.function.port_of(&flow) {
            let effect = Effect::Withdraw { port, flow };
            self.tasks.effects.push_back(effect);
        }
    }
}
