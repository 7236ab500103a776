//! A packet's way through the stages.

use core::slice;

use stateplane_base::{Reason, Time};
use stateplane_flow::fast::KeyMask;
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId, Protocol};
use stateplane_wire::eth;
use stateplane_wire::packet::{Fragment, Headers};

use super::offers::Glimpse;
use super::{Chain, STAGES_MAX};
use crate::driven::Driven;
use crate::function::NetworkFunction;
use crate::runtime::{Disposition, FrameId, Glance, Parked};

/// Stages that a packet may enter: there and, if it turns round at the last one, back, and the
/// same for what is answered.
const ENTERED_MAX: usize = 4 * STAGES_MAX;

/// Its flow at each stage that a packet passed, and what was done to it there. No action yet: what the stage
/// has decided about the flow at this moment.
pub(super) type Steps = [Option<(FlowKey, Option<FlowAction>)>; STAGES_MAX];

/// How a packet came through the stages so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trail {
    /// How it came to the chain.
    port: PortId,
    /// What the fast path would know it by, if it can pass there.
    key: Option<FlowKey>,
    steps: Steps,
}

impl Trail {
    fn new(port: PortId, key: Option<FlowKey>) -> Self {
        let steps = Steps::default();
        Self { port, key, steps }
    }

    /// The packet's flow at a stage.
    fn note(&mut self, stage: usize, glance: &Glance) {
        self.steps[stage] = glance.packet().map(|(_, flow)| (*flow, None));
    }
}

/// Where a stage's port leads: to a port of another one, or out of the chain.
fn behind(stages: usize, stage: usize, port: PortId) -> Option<(usize, PortId)> {
    match port {
        PortId::OUTSIDE if stage + 1 < stages => Some((stage + 1, PortId::INSIDE)),
        PortId::INSIDE if stage > 0 => Some((stage - 1, PortId::OUTSIDE)),
        _ => None,
    }
}

impl<F: NetworkFunction> Chain<F> {
    /// The stage that has a port of the chain.
    pub(super) fn outermost(&self, port: PortId) -> usize {
        match port {
            PortId::INSIDE => 0,
            _ => self.stages.len() - 1,
        }
    }

    /// A first look at a frame: at the stage that it enters, or if it asks for an address, at the one
    /// that has it.
    pub(super) fn look(
        &mut self,
        now: Time,
        port: PortId,
        buffer: &mut [u8],
        len: usize,
    ) -> Glance {
        let frame = buffer.get(..len).unwrap_or(buffer);
        let mut stage = self.outermost(port);
        if eth::payload(frame).is_some_and(|(kind, _)| kind == eth::ARP) {
            let mut stages = 0..self.stages.len();
            let asked = stages.find(|&stage| self.stages[stage].has_asked_address(port, frame));
            stage = asked.unwrap_or(stage);
        }
        self.stages[stage].glance(now, port, buffer, len)
    }

    /// A frame passes as many stages as it can.
    pub(super) fn pass(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        glance: &Glance,
    ) -> Disposition {
        let stage = self.outermost(port);
        let mut trail = Trail::new(port, self.key(port, glance));
        trail.note(stage, glance);
        self.share_room(stage);
        let what = self.stages[stage].proceed(now, port, frame, buffer, glance);
        self.straight_on(now, stage, frame, buffer, what, trail)
    }

    /// A frame that waited at a stage goes on, as it came.
    pub(super) fn go_on_after(
        &mut self,
        now: Time,
        frame: FrameId,
        parked: &Parked,
        buffer: &mut [u8],
    ) -> Disposition {
        let (stage, port) = (parked.stage, parked.port);
        let trail = self.trails.remove(&frame);
        let mut trail = trail.unwrap_or(Trail::new(port, None));
        // It passes by this decision, whatever the stage thinks of the flow by now.
        trail.steps[stage] = Some((parked.flow, Some(parked.decision.action)));
        let what = self.stages[stage].release(now, parked, buffer);
        self.straight_on(now, stage, frame, buffer, what, trail)
    }

    /// What became of a frame at a stage is carried on from there, with its trail as long as it goes
    /// straight on.
    fn straight_on(
        &mut self,
        now: Time,
        mut stage: usize,
        frame: FrameId,
        buffer: &mut [u8],
        mut what: Disposition,
        mut trail: Trail,
    ) -> Disposition {
        let port = trail.port;
        while let Disposition::Forward { port: out, len } = what
            && out != port
        {
            let Some((next, entrance)) = behind(self.stages.len(), stage, out) else {
                self.passed(now, trail);
                return what;
            };
            if entrance != port {
                break;
            }
            stage = next;
            let mut glance = self.stages[stage].glance(now, port, buffer, len);
            self.stages[stage].seek(slice::from_mut(&mut glance));
            trail.note(stage, &glance);
            self.share_room(stage);
            what = self.stages[stage].proceed(now, port, frame, buffer, &glance);
        }
        if what == Disposition::Parked && trail.key.is_some() {
            let so_far = self.filled(now, trail);
            self.trails.insert(frame, so_far);
            return what;
        }
        self.go_on(now, stage, port, frame, buffer, what)
    }

    /// What became of a frame at a stage that it had entered by `port` is carried on from there.
    pub(super) fn go_on(
        &mut self,
        now: Time,
        mut stage: usize,
        mut port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        mut what: Disposition,
    ) -> Disposition {
        for _ in 0..ENTERED_MAX {
            let (out, len) = match what {
                Disposition::Forward { port, len } => (port, len),
                // It goes back by the port that the frame came by.
                Disposition::Answer { len } => (port, len),
                Disposition::Drop(_) | Disposition::Parked => return what,
            };
            let Some(next) = behind(self.stages.len(), stage, out) else {
                return what;
            };
            (stage, port) = next;
            self.share_room(stage);
            what = self.stages[stage].on_frame(now, port, frame, buffer, len);
        }
        // To and fro, as if between routers that each take the other for the way.
        self.stages[stage].count_drop(Reason::TtlExpired);
        Disposition::Drop(Reason::TtlExpired)
    }

    /// A stage may park what others leave it.
    fn share_room(&mut self, stage: usize) {
        let room = self.park_max.saturating_sub(self.parked());
        let runtime = &mut self.stages[stage];
        runtime.set_park_max(runtime.parked() + room);
    }

    /// What the fast path would know the packet by, if it can pass there.
    fn key(&self, port: PortId, glance: &Glance) -> Option<FlowKey> {
        self.offers.as_ref()?;
        let mask = (*self.masks.get(usize::from(port.0))?)?;
        key(mask, glance.packet()?.0)
    }

    /// A packet passed all stages, each by a decision that it had: so may the next ones in front of us.
    fn passed(&mut self, now: Time, trail: Trail) {
        let Some(key) = trail.key else {
            return;
        };
        // What the stages think of it now.
        let sight = None;
        self.absorb(Glimpse { now, sight });
        let place = (trail.port, key);
        let done = self
            .offers
            .as_ref()
            .is_none_or(|offers| offers.is_done(place));
        if done {
            return;
        }
        let steps = self.filled(now, trail).steps;
        if let Some(offers) = &mut self.offers {
            offers.make(place, &steps, &mut self.effects);
        }
    }

    /// With what the stages have just done to the packet.
    fn filled(&self, now: Time, mut trail: Trail) -> Trail {
        let steps = trail.steps.iter_mut().zip(&self.stages);
        for (step, stage) in steps {
            if let Some((flow, action @ None)) = step {
                *action = stage.decision(now, flow).map(|decision| decision.action);
            }
        }
        trail
    }
}

/// What of a packet makes its flow. `None`: its kind is left to the functions.
fn key(mask: KeyMask, headers: &Headers) -> Option<FlowKey> {
    if headers.fragment != Fragment::Whole {
        return None;
    }
    let (from, to) = headers.ports()?;
    let end = |of: bool, addr, port: Option<u16>| Endpoint {
        addr: if of { addr } else { Endpoint::ANY.addr },
        port: port.unwrap_or(0),
    };
    Some(FlowKey {
        protocol: Protocol::from_number(headers.protocol)?,
        source: end(
            mask.source,
            headers.source,
            mask.source_port.then_some(from),
        ),
        destination: end(
            mask.destination,
            headers.destination,
            mask.destination_port.then_some(to),
        ),
    })
}
