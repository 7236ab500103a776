//! Several functions in one instance, one behind the other.
//!
//! ```text
//!            stage 0          stage 1
//!   inside ─▶ meter ─────────▶ nat ─▶ outside
//!          ◀─ INSIDE  OUTSIDE─INSIDE ◀─
//! ```
//!
//! Each function is a [`Runtime`] of its own, a *stage*: it has its flows, parks packets on its state
//! and asks the store by itself. What one forwards by [`PortId::OUTSIDE`] enters the next one by
//! [`PortId::INSIDE`], or leaves; what it forwards by `INSIDE` (an answer from outside, a packet that turns
//! round at a NAT) enters the one before by its `OUTSIDE`, or leaves. An ICMP error that a stage makes
//! goes by the same ways, so that a NAT translates what the functions inside of it say. To packets
//! the functions do what they would do as instances of their own, cabled one to the other: so each counts
//! as a hop.
//!
//! To its driver a chain is one function ([`Driven`]), to the fast path as well: a packet that all stages
//! let pass straight on, at once or after it has waited, shows by which of their decisions, and these
//! together are one entry (`offers.rs`).
//!
//! * `walk.rs`: packets from stage to stage
//! * `offers.rs`: entries of the fast path

mod offers;
mod walk;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use stateplane_base::{Reason, Time};
use stateplane_flow::fast::{KeyMask, Metered};
use stateplane_flow::{FlowAction, FlowKey, PortId};

use crate::context::{StateError, Ticket};
use crate::counters::Counters;
use crate::driven::Driven;
use crate::function::{Meter, NetworkFunction, key_mask};
use crate::local::LocalTables;
use crate::runtime::{
    Disposition, Effect, FrameId, Glance, Parked, Runtime, RuntimeConfig, Session, Sight,
};
use crate::table::Keyed;
use offers::{Glimpse, Offer, Offers};
use walk::Trail;

/// Most functions of a chain.
pub const STAGES_MAX: usize = 4;

/// A chain at work on one worker.
pub struct Chain<F> {
    /// From inside to outside.
    stages: Vec<Runtime<F>>,
    /// What of a packet makes its flow, by port.
    masks: [Option<KeyMask>; 2],
    /// None: there is no fast path.
    offers: Option<Offers>,
    /// How parked packets came, if they may become entries. There are as many as packets parked, at most.
    trails: HashMap<FrameId, Trail, Keyed>,
    /// The stage whose leases and meters the fast path knows. They are named by numbers of its own,
    /// so there can be one.
    keeper: Option<usize>,
    effects: VecDeque<Effect>,
    /// The time of the last event.
    now: Time,
    /// Most packets that wait at all stages together.
    park_max: usize,
    park_high_water: usize,
}

impl<F: NetworkFunction> Chain<F> {
    /// Starts functions, from inside to outside, each with what it would be given alone. So many packets
    /// may be parked at all of them as at the first; each but the outermost ports have no MTU of their own.
    ///
    /// # Panics
    ///
    /// If there is none, or there are more than [`STAGES_MAX`].
    pub fn new(now: Time, functions: impl IntoIterator<Item = (RuntimeConfig, F)>) -> Self {
        let mut functions: Vec<_> = functions.into_iter().collect();
        let count = functions.len();
        assert!((1..=STAGES_MAX).contains(&count), "a chain has functions");
        let masks = [PortId::INSIDE, PortId::OUTSIDE]
            .map(|port| key_mask(functions.iter().map(|(_, function)| function), port));
        let fast_path = functions[0].0.fast_path && masks.iter().all(Option::is_some);
        for (stage, (config, _)) in functions.iter_mut().enumerate() {
            // Who offers what is never taken would wait for it to be used.
            config.fast_path = fast_path;
            let [inside, outside] = &mut config.ports;
            if stage > 0 {
                inside.mtu = u16::MAX;
            }
            if stage + 1 < count {
                outside.mtu = u16::MAX;
            }
        }
        let first = functions[0].0;
        let flows = functions.iter().map(|(config, _)| config.flows_max).max();
        let stages = functions.into_iter();
        Self {
            stages: stages
                .map(|(config, function)| Runtime::new(now, config, function))
                .collect(),
            masks,
            offers: fast_path.then(|| Offers::new(count, flows.unwrap_or(0), first.hash_key)),
            trails: HashMap::with_hasher(Keyed(first.hash_key)),
            keeper: None,
            effects: VecDeque::new(),
            now,
            park_max: first.park_max,
            park_high_water: 0,
        }
    }

    /// The stages, from inside to outside.
    pub fn stages(&self) -> &[Runtime<F>] {
        &self.stages
    }

    /// Packets parked.
    fn parked(&self) -> usize {
        self.stages.iter().map(Runtime::parked).sum()
    }

    fn note(&mut self, what: Disposition) -> Disposition {
        if what == Disposition::Parked {
            self.park_high_water = self.park_high_water.max(self.parked());
        }
        what
    }

    /// Takes over what the stages ask for, but for what goes to the store.
    fn absorb(&mut self, glimpse: Glimpse<'_>) {
        for stage in 0..self.stages.len() {
            while let Some(effect) = self.stages[stage].next_effect() {
                self.take(stage, effect, glimpse);
            }
        }
    }

    fn take(&mut self, stage: usize, effect: Effect, glimpse: Glimpse<'_>) {
        let effect = match effect {
            Effect::Offload {
                flow,
                decision,
                ownership,
                meter,
                port: _,
            } => {
                let alone = ownership.is_none() && meter.is_none();
                if let Some(offers) = &mut self.offers {
                    let offer = Offer {
                        decision,
                        ownership,
                        meter,
                    };
                    match alone || self.keeper == Some(stage) {
                        true => offers.offer(stage, flow, offer, glimpse, &mut self.effects),
                        false => offers.withdraw(stage, &flow, glimpse, &mut self.effects),
                    }
                }
                return;
            }
            Effect::Withdraw { flow, port: _ } => {
                if let Some(offers) = &mut self.offers {
                    offers.withdraw(stage, &flow, glimpse, &mut self.effects);
                }
                return;
            }
            Effect::Publish { .. } | Effect::Meter { .. }
                if *self.keeper.get_or_insert(stage) != stage =>
            {
                return;
            }
            Effect::Release { frame, parked } => Effect::Release {
                frame,
                parked: Parked { stage, ..parked },
            },
            Effect::Discard { frame, reason } => {
                self.trails.remove(&frame);
                Effect::Discard { frame, reason }
            }
            other => other,
        };
        self.effects.push_back(effect);
    }

    /// The next operation for the store, under a ticket of the chain's.
    fn next_submission(&mut self) -> Option<Effect> {
        let count = self.stages.len() as u64;
        let stages = (0..).zip(&mut self.stages);
        for (stage, runtime) in stages {
            if let Some(Effect::Submit { ticket, op, reads }) = runtime.next_submission() {
                let ticket = Ticket(ticket.0 * count + stage);
                return Some(Effect::Submit { ticket, op, reads });
            }
        }
        None
    }
}

impl<F: NetworkFunction> Driven for Chain<F> {
    type Function = F;

    fn glance(&mut self, now: Time, port: PortId, buffer: &mut [u8], len: usize) -> Glance {
        self.look(now, port, buffer, len)
    }

    fn seek(&self, port: PortId, glances: &mut [Glance]) {
        self.stages[self.outermost(port)].seek(glances);
    }

    fn proceed(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        glance: &Glance,
    ) -> Disposition {
        self.now = now;
        let what = self.pass(now, port, frame, buffer, glance);
        self.note(what)
    }

    fn release(
        &mut self,
        now: Time,
        frame: FrameId,
        parked: &Parked,
        buffer: &mut [u8],
    ) -> Disposition {
        self.now = now;
        let what = self.go_on_after(now, frame, parked, buffer);
        self.note(what)
    }

    fn on_reply(&mut self, now: Time, ticket: Ticket, result: Result<Vec<u8>, StateError>) {
        self.now = now;
        let count = self.stages.len() as u64;
        let stage = (ticket.0 % count) as usize;
        self.stages[stage].on_reply(now, Ticket(ticket.0 / count), result);
    }

    fn next_timer(&self) -> Option<Time> {
        self.stages.iter().filter_map(Runtime::next_timer).min()
    }

    fn on_timer(&mut self, now: Time, sight: &dyn Sight) {
        self.now = now;
        for (stage, runtime) in self.stages.iter_mut().enumerate() {
            if runtime.next_timer().is_some_and(|due| due <= now) {
                let view = View {
                    stage,
                    offers: self.offers.as_ref(),
                    keeps: self.keeper == Some(stage),
                    sight,
                };
                runtime.on_timer(now, &view);
            }
        }
        // What is taken back now leaves behind what it saw.
        let sight = Some(sight);
        self.absorb(Glimpse { now, sight });
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            let (now, sight) = (self.now, None);
            self.absorb(Glimpse { now, sight });
        }
        let effect = self.effects.pop_front();
        effect.or_else(|| self.next_submission())
    }

    fn offer_again(&mut self) {
        if let Some(offers) = &mut self.offers {
            offers.begin_round();
        }
        self.stages.iter_mut().for_each(Runtime::offer_again);
    }

    fn stop(&mut self, now: Time) {
        self.now = now;
        self.stages.iter_mut().for_each(|stage| stage.stop(now));
    }

    fn set_local(&mut self, tables: Rc<dyn LocalTables>) {
        for stage in &mut self.stages {
            stage.set_local(Rc::clone(&tables));
        }
    }

    fn count_drop(&mut self, reason: Reason) {
        self.stages[0].count_drop(reason);
    }

    /// Sums over the functions; but packets forwarded are those that left the chain.
    fn counted(&self) -> Counters {
        let mut sum = Counters::default();
        let (first, last) = (0, self.stages.len() - 1);
        for stage in &self.stages {
            sum.add(stage.counters());
        }
        sum.forwarded = [
            self.stages[first].counters().forwarded[0],
            self.stages[last].counters().forwarded[1],
        ];
        sum.offered = self.offers.as_ref().map_or(0, |offers| offers.offered);
        sum.park_high_water = self.park_high_water as u64;
        sum
    }

    fn flows(&self) -> usize {
        self.stages.iter().map(Runtime::flows).sum()
    }

    fn sessions(
        &self,
        now: Time,
        limit: usize,
        filter: impl Fn(&FlowKey, &FlowAction) -> bool,
    ) -> Vec<Session> {
        let mut sessions = Vec::new();
        for stage in &self.stages {
            let room = limit - sessions.len();
            sessions.extend(stage.sessions(now, room, &filter));
        }
        sessions
    }

    fn functions(&self) -> impl Iterator<Item = &F> {
        self.stages.iter().map(Runtime::function)
    }

    fn functions_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.stages.iter_mut().map(Runtime::function_mut)
    }

    fn key_mask(&self, port: PortId) -> Option<KeyMask> {
        *self.masks.get(usize::from(port.0))?
    }

    fn check(&self) {
        self.stages.iter().for_each(Runtime::check);
        assert!(self.parked() <= self.park_max, "parking is bounded");
        if self.effects.is_empty() {
            assert!(
                self.trails.len() <= self.parked(),
                "trails are of parked packets"
            );
        }
        if let Some(offers) = &self.offers
            && self.effects.is_empty()
        {
            offers.check(|stage, flow| self.stages[stage].knows(flow));
        }
    }
}

/// The stages in the order in which packets from `port` pass them.
fn passing(stages: usize, port: PortId) -> impl Iterator<Item = usize> {
    (0..stages).map(move |n| match port {
        PortId::INSIDE => n,
        _ => stages - 1 - n,
    })
}

/// What the fast path saw of one stage's packets.
struct View<'a> {
    stage: usize,
    offers: Option<&'a Offers>,
    keeps: bool,
    sight: &'a dyn Sight,
}

impl Sight for View<'_> {
    fn last_seen(&self, now: Time, _port: PortId, flow: &FlowKey) -> Option<Time> {
        self.offers?.last_seen(self.stage, flow, now, self.sight)
    }

    fn metered(&self, meter: Meter) -> Option<Metered> {
        self.sight.metered(meter).filter(|_| self.keeps)
    }
}
