//! One turn of a function's packet loop: receive, decide, talk to the store, send.
//!
//! Works over any [`Port`] and any [`NextHops`], so that the whole path of a packet
//! is tested without a network; [`super`] runs it on AF_XDP.

use stateplane_base::{Reason, Time};
use stateplane_flow::PortId;
use stateplane_flow::fast::Memory;
use stateplane_functions::{Disposition, Driven, Effect, FrameId, Glance, StateError};
use stateplane_host::frame::{Frame, FrameId as HostFrame, FramePool};
use stateplane_host::port::Port;
use tokio::sync::oneshot;

use super::egress::{Egress, NextHops, destination};
use super::errands::{Errands, Outcome};
use super::fast::Fast;
use crate::client::{Done, StateClient};

/// Frames taken from one port before the other gets its turn.
const BATCH: usize = 64;
/// Rounds between function and store in one turn. An embedded store answers at once,
/// and what it answers may lead to more questions.
const EXCHANGES: usize = 8;

/// The inside and the outside port.
pub const PORTS: [PortId; 2] = [PortId(0), PortId(1)];

/// Everything one worker turns over.
pub struct PacketLoop<R, P, H, M> {
    /// The memory of all frames.
    pub pool: FramePool,
    /// Inside, outside.
    pub ports: [P; 2],
    /// The function at work, or the chain of them.
    pub runtime: R,
    /// The store.
    pub state: StateClient,
    /// What is on its way out.
    pub egress: Egress<H>,
    /// What passes in front of the ports, if anything does.
    pub fast: Option<Fast<M>>,
    batch: Vec<Frame>,
    /// One for each of the batch.
    glances: Vec<Glance>,
    done: Vec<Done>,
    errands: Errands,
}

impl<R: Driven, P: Port, H: NextHops, M: Memory> PacketLoop<R, P, H, M> {
    /// Puts the parts together.
    pub fn new(
        pool: FramePool,
        ports: [P; 2],
        runtime: R,
        state: StateClient,
        hops: H,
        fast: Option<Fast<M>>,
    ) -> Self {
        let egress = Egress::new(hops, [ports[0].mac(), ports[1].mac()]);
        let batch = Vec::with_capacity(BATCH);
        Self {
            pool,
            ports,
            runtime,
            state,
            egress,
            fast,
            batch,
            glances: Vec::with_capacity(BATCH),
            done: Vec::new(),
            errands: Errands::default(),
        }
    }

    /// Does everything that can be done at `now`; how many frames came in.
    pub fn turn(&mut self, now: Time) -> usize {
        let mut received = 0;
        for port in PORTS {
            received += self.receive(now, port);
        }
        if self.runtime.next_timer().is_some_and(|due| due <= now) {
            match &self.fast {
                Some(fast) => self.runtime.on_timer(now, fast),
                None => self.runtime.on_timer(now, &()),
            }
        }
        for _ in 0..EXCHANGES {
            self.carry_out_effects(now);
            if !self.exchange_with_store(now) {
                break;
            }
        }
        self.carry_out_effects(now);
        self.egress
            .retry_waiting(now, &mut self.pool, &mut self.runtime);
        self.send();
        if let Some(fast) = &mut self.fast {
            fast.apply(now, self.egress.hops_mut());
        }
        received
    }

    /// The kernel's routes or neighbours are not what they were.
    pub fn ways_changed(&mut self, now: Time) {
        if let Some(fast) = &mut self.fast
            && fast.ways_changed(now, self.egress.hops_mut())
        {
            self.runtime.offer_again();
        }
    }

    /// Asks the store something for an operator.
    pub fn ask_store(
        &mut self,
        now: Time,
        op: Vec<u8>,
        reads: bool,
        answer: oneshot::Sender<Outcome>,
    ) {
        let ticket = self.errands.begin(answer);
        match reads {
            true => self.state.read(now, ticket, op),
            false => self.state.submit(now, ticket, op),
        }
    }

    /// Every packet comes here from now on.
    pub fn take_all(&mut self) {
        if let Some(fast) = &mut self.fast {
            fast.close();
        }
    }

    /// When [`Self::turn`] must be called even if nothing arrives.
    pub fn next_timer(&self) -> Option<Time> {
        let behind = self.fast.as_ref().is_some_and(Fast::is_behind);
        let due = [
            self.runtime.next_timer(),
            self.state.next_timer(),
            self.egress.next_retry(),
            behind.then_some(Time::ZERO),
        ];
        due.into_iter().flatten().min()
    }

    fn receive(&mut self, now: Time, port: PortId) -> usize {
        let mut batch = std::mem::take(&mut self.batch);
        let count = self.ports[usize::from(port.0)].receive(&mut self.pool, BATCH, &mut batch);
        batch.iter().for_each(|frame| self.pool.fetch(frame));
        let mut glances = std::mem::take(&mut self.glances);
        glances.extend(batch.iter().map(|frame| {
            let (buffer, len) = (self.pool.buffer_mut(frame), frame.len());
            self.runtime.glance(now, port, buffer, len)
        }));
        self.runtime.seek(port, &mut glances);
        for (frame, glance) in batch.drain(..).zip(glances.drain(..)) {
            let id = FrameId(frame.id().0);
            let buffer = self.pool.buffer_mut(&frame);
            let disposition = self.runtime.proceed(now, port, id, buffer, &glance);
            self.dispose(now, port, frame, disposition);
        }
        self.batch = batch;
        self.glances = glances;
        count
    }

    fn dispose(&mut self, now: Time, came: PortId, mut frame: Frame, what: Disposition) {
        match what {
            Disposition::Forward { port, len } => {
                self.pool.set_len(&mut frame, len);
                self.learn(came, port, &frame);
                self.egress
                    .forward(now, port, frame, &mut self.pool, &mut self.runtime);
            }
            Disposition::Answer { len } => {
                self.pool.set_len(&mut frame, len);
                self.egress.answer(came, frame);
            }
            Disposition::Drop(_) => self.pool.give(frame),
            Disposition::Parked => {
                self.pool.park(frame);
            }
        }
    }

    /// Flows that may go anywhere find their next hop by destination: this one's is in use.
    fn learn(&mut self, came: PortId, port: PortId, frame: &Frame) {
        let Some(fast) = &mut self.fast else {
            return;
        };
        let mask = self.runtime.key_mask(came);
        if mask.is_some_and(|mask| !mask.destination)
            && let Some(to) = destination(self.pool.bytes(frame))
        {
            fast.learn(port, to);
        }
    }

    fn carry_out_effects(&mut self, now: Time) {
        while let Some(effect) = self.runtime.poll_effect() {
            match effect {
                Effect::Submit { ticket, op, reads } if reads => self.state.read(now, ticket, op),
                Effect::Submit { ticket, op, .. } => self.state.submit(now, ticket, op),
                Effect::Release { frame: id, parked } => {
                    let Some(frame) = self.pool.unpark(HostFrame(id.0)) else {
                        continue;
                    };
                    let buffer = self.pool.buffer_mut(&frame);
                    let disposition = self.runtime.release(now, id, &parked, buffer);
                    self.dispose(now, parked.port, frame, disposition);
                }
                Effect::Offload {
                    port,
                    flow,
                    decision,
                    ownership,
                    meter,
                } => {
                    if let Some(fast) = &mut self.fast {
                        fast.install(port, flow, decision, ownership, meter);
                    }
                }
                Effect::Meter { meter, allow } => {
                    if let Some(fast) = &mut self.fast {
                        fast.allow(meter, allow);
                    }
                }
                // Before what is sent to the store below: whoever is to own a partition next hears
                // of it when nothing passes here any more.
                Effect::Publish {
                    partition,
                    epoch,
                    until,
                } => {
                    if let Some(fast) = &mut self.fast {
                        fast.publish(partition, epoch, until);
                    }
                }
                Effect::Withdraw { port, flow } => {
                    if let Some(fast) = &mut self.fast {
                        fast.remove(port, flow);
                    }
                }
                Effect::Discard { frame, reason: _ } => {
                    if let Some(frame) = self.pool.unpark(HostFrame(frame.0)) {
                        self.pool.give(frame);
                    }
                }
            }
        }
    }

    /// Sends what was submitted and takes what was answered; whether anything was.
    fn exchange_with_store(&mut self, now: Time) -> bool {
        self.state.flush(now);
        self.state.poll(now, &mut self.done);
        let answered = !self.done.is_empty();
        for (ticket, result) in self.done.drain(..) {
            if self.errands.end(ticket, &result) {
                continue;
            }
            let result = result.map_err(StateError::from);
            self.runtime.on_reply(now, ticket, result);
        }
        answered
    }

    fn send(&mut self) {
        for (port, queue) in self.ports.iter_mut().zip(self.egress.queues()) {
            if !queue.is_empty() {
                port.transmit(&mut self.pool, queue);
                for frame in queue.drain(..) {
                    self.runtime.count_drop(Reason::TxFull);
                    self.pool.give(frame);
                }
            }
            port.flush();
        }
    }
}
