//! Decisions under way: at most one for each flow, with the packets that wait for it.

use alloc::collections::VecDeque;
use core::future::Future;
use core::pin::Pin;
use core::task::{Poll, Waker};

use alloc::boxed::Box;
use stateplane_base::{Reason, Time};
use stateplane_flow::{FlowKey, PortId};
use stateplane_wire::packet::Headers;

use super::deadlines::Deadlines;
use super::in_flight::{Hashed, InFlight};
use super::park::{Parked, Queue, Waiting, Way};
use super::slab::Slab;
use super::{CommitMode, Disposition, Effect, FrameId, Runtime, RuntimeConfig};
use crate::context::{Command, TaskId, Tentative};
use crate::function::{Deciding, Decision, NetworkFunction};
use crate::table::Verdict;

/// A task's future.
enum Work {
    Decide(Deciding),
    Background(Pin<Box<dyn Future<Output = ()>>>),
}

struct Task {
    /// Absent while it is being polled.
    work: Option<Work>,
    /// Of a decision.
    pending: Option<Pending>,
}

/// A decision under way.
struct Pending {
    flow: FlowKey,
    hash: u64,
    queue: Queue,
    tentative: Option<Box<Tentative>>,
    /// When it is given up.
    ends: Time,
    /// Its place in `Tasks::deadlines`.
    deadline: Time,
}

/// All tasks of a runtime.
pub(super) struct Tasks {
    all: Slab<Task>,
    /// How many of them are decisions.
    decisions: usize,
    in_flight: InFlight,
    deadlines: Deadlines,
    parked: usize,
    pub(super) effects: VecDeque<Effect>,
}

impl Tasks {
    pub(super) fn new(hash_key: [u64; 2]) -> Self {
        Self {
            all: Slab::default(),
            decisions: 0,
            in_flight: InFlight::new(hash_key),
            deadlines: Deadlines::default(),
            parked: 0,
            effects: VecDeque::new(),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(due, _)| due)
    }

    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    pub(super) fn check(&self, config: &RuntimeConfig) {
        let pending = || {
            let all = self.all.iter();
            all.filter_map(|(id, task)| Some((id, task.pending.as_ref()?)))
        };
        let waiting: usize = pending().map(|(_, pending)| pending.queue.len()).sum();
        assert_eq!(
            waiting, self.parked,
            "every parked packet waits for one decision"
        );
        assert!(self.parked <= config.park_max, "parking is bounded");
        assert_eq!(self.decisions, pending().count(), "decisions are counted");
        assert!(
            self.decisions <= config.decisions_max,
            "decisions are bounded"
        );
        assert_eq!(
            self.deadlines.len(),
            self.decisions,
            "each decision has a deadline"
        );
        for (task, pending) in pending() {
            let known = self.in_flight.get(self.in_flight.hashed(pending.flow));
            assert_eq!(
                known,
                Some((task, Way::Forward)),
                "a flow knows its decision"
            );
            assert!(
                self.deadlines.contains(pending.deadline, task),
                "deadlines agree"
            );
        }
        assert!(
            self.in_flight.len() <= 2 * self.decisions,
            "no flow waits for nothing"
        );
    }

    fn pending(&mut self, task: TaskId) -> Option<&mut Pending> {
        self.all.get_mut(task)?.pending.as_mut()
    }

    /// A task goes on with this when it is polled next.
    fn resume(&mut self, task: TaskId, work: Work) {
        if let Some(held) = self.all.get_mut(task) {
            held.work = Some(work);
        }
    }

    /// Ends a decision and hands it over with whatever still waits for it.
    fn remove(&mut self, task: TaskId) -> Option<Pending> {
        let pending = self.all.remove(task)?.pending?;
        self.decisions -= 1;
        self.deadlines.remove(pending.deadline, task);
        self.in_flight.remove((pending.flow, pending.hash), task);
        if let Some(tentative) = &pending.tentative {
            let reverse = self.in_flight.hashed(tentative.reverse.0);
            self.in_flight.remove(reverse, task);
        }
        Some(pending)
    }
}

impl<F: NetworkFunction> Runtime<F> {
    /// A packet of a flow without a valid decision.
    pub(super) fn undecided(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        hashed: Hashed,
        buffer: &mut [u8],
        headers: &Headers,
    ) -> Disposition {
        let flow = hashed.0;
        let under_way = self.tasks.in_flight.get(hashed);
        if let Some((task, way)) = under_way
            && let Some(decision) = self.early(task, way)
        {
            self.counters.passed_early += 1;
            return self.pass(now, port, &flow, &decision, buffer, headers);
        }
        if self.tasks.parked >= self.config.park_max {
            return self.drop(Reason::ParkFull);
        }
        let way = under_way.map_or(Way::Forward, |(_, way)| way);
        let waiting = Waiting {
            frame,
            port,
            len: headers.end,
            since: now,
            way,
        };
        let task = match under_way {
            Some((task, _)) => task,
            None => match self.begin(now, hashed) {
                Ok(task) => task,
                Err(reason) => return self.drop(reason),
            },
        };
        let pending = self.tasks.pending(task);
        let pending = pending.expect("a flow in flight has a decision");
        pending.queue.push(waiting);
        self.tasks.parked += 1;
        self.counters.parked += 1;
        self.counters.held_by_barrier += u64::from(way == Way::Reverse);
        self.count_parked();
        if under_way.is_none() {
            self.cx.shared.borrow_mut().now = now;
            let deciding = self.function.decide(self.cx.clone(), flow, headers);
            self.tasks.resume(task, Work::Decide(deciding));
            self.cx.shared.borrow_mut().ready.push_back(task);
            self.run(now);
        } else {
            self.schedule(task);
        }
        Disposition::Parked
    }

    /// What an announcement lets pass before the commit.
    fn early(&self, task: TaskId, way: Way) -> Option<Decision> {
        let pending = self.tasks.all.get(task)?.pending.as_ref()?;
        let tentative = pending.tentative.as_deref()?;
        match (way, self.config.mode) {
            (_, CommitMode::Strict) | (Way::Reverse, CommitMode::ReplyBarrier) => None,
            (Way::Forward, _) => Some(tentative.forward),
            (Way::Reverse, CommitMode::Async) => Some(tentative.reverse.1),
        }
    }

    /// Makes room for one more decision.
    fn begin(&mut self, now: Time, (flow, hash): Hashed) -> Result<TaskId, Reason> {
        let under_way = self.tasks.decisions;
        if under_way >= self.config.decisions_max {
            return Err(Reason::ParkFull);
        }
        // Each may need two places: its flow and the answers'.
        if self.table.len() + 2 * (under_way + 1) > self.config.flows_max {
            return Err(Reason::TableFull);
        }
        let deadline = now + self.config.park_timeout.min(self.config.decision_timeout);
        let ends = now + self.config.decision_timeout;
        let pending = Pending {
            flow,
            hash,
            queue: Queue::default(),
            tentative: None,
            ends,
            deadline,
        };
        let task = self.tasks.all.insert(Task {
            work: None,
            pending: Some(pending),
        });
        self.tasks.decisions += 1;
        self.tasks
            .in_flight
            .insert((flow, hash), task, Way::Forward);
        self.tasks.deadlines.insert(deadline, task);
        self.counters.decisions += 1;
        Ok(task)
    }

    /// Polls whatever can go on until nothing can, and carries out what is asked.
    pub(super) fn run(&mut self, now: Time) {
        loop {
            self.obey();
            let Some(task) = self.cx.shared.borrow_mut().ready.pop_front() else {
                break;
            };
            let held = self.tasks.all.get_mut(task);
            let Some(mut work) = held.and_then(|held| held.work.take()) else {
                continue;
            };
            self.cx.shared.borrow_mut().current = Some(task);
            let mut waker = core::task::Context::from_waker(Waker::noop());
            let polled = match &mut work {
                Work::Decide(future) => future.as_mut().poll(&mut waker).map(Some),
                Work::Background(future) => future.as_mut().poll(&mut waker).map(|()| None),
            };
            self.cx.shared.borrow_mut().current = None;
            match polled {
                Poll::Pending => self.tasks.resume(task, work),
                Poll::Ready(result) => {
                    // What it asked for last comes before its result.
                    self.obey();
                    match result {
                        Some(result) => self.decided(now, task, result),
                        None => drop(self.tasks.all.remove(task)),
                    }
                }
            }
        }
    }

    /// Carries out what tasks asked for.
    fn obey(&mut self) {
        loop {
            let Some(command) = self.cx.shared.borrow_mut().commands.pop_front() else {
                break;
            };
            match command {
                Command::Announce(task, tentative) => self.announced(task, tentative),
                Command::Install(flow, decision) => self.install(flow, decision),
                Command::Forget(flow) => {
                    self.table.forget(&flow);
                    self.withdraw(flow);
                }
                Command::Withdraw(flow) => self.withdraw(flow),
                Command::Publish(partition, epoch, until) => self.publish(partition, epoch, until),
                Command::Meter(meter, allow) => self.meter(meter, allow),
                Command::Spawn(future) => {
                    let task = self.tasks.all.insert(Task {
                        work: Some(Work::Background(future)),
                        pending: None,
                    });
                    self.cx.shared.borrow_mut().ready.push_back(task);
                }
            }
        }
    }

    fn install(&mut self, flow: FlowKey, decision: Decision) {
        let Some(place) = self.table.pass(flow, decision) else {
            self.counters.uncached += 1;
            return;
        };
        if self.config.fast_path {
            self.table.offer(place, self.round);
            self.offer(&flow, &decision);
        }
    }

    fn announced(&mut self, task: TaskId, tentative: Tentative) {
        if self.config.mode == CommitMode::Strict {
            return;
        }
        let Some(pending) = self.tasks.pending(task) else {
            return;
        };
        if pending.tentative.is_some() {
            return; // the first one let packets out; it stands
        }
        pending.tentative = Some(Box::new(tentative));
        let flow = pending.flow;
        let early = pending.queue.take_way(Way::Forward);
        let reverse = self.tasks.in_flight.hashed(tentative.reverse.0);
        self.tasks.in_flight.insert(reverse, task, Way::Reverse);
        self.counters.announced += 1;
        self.counters.passed_early += early.len() as u64;
        for packet in early {
            self.let_go(packet, flow, Ok(tentative.forward));
        }
        self.schedule(task);
    }

    /// A decision is there.
    fn decided(&mut self, now: Time, task: TaskId, result: Result<Decision, Reason>) {
        let Some(mut pending) = self.tasks.remove(task) else {
            return;
        };
        match result {
            Ok(decision) => {
                // Mostly the function has installed it already, with that of the answers.
                let place = self.table.find(pending.hash, &pending.flow);
                let known = place.and_then(|place| self.table.at(place, now));
                if known != Some(Verdict::Pass(decision)) {
                    self.install(pending.flow, decision);
                }
            }
            Err(reason) => {
                self.counters.decisions_refused += 1;
                // Replies overtake each other: this one may be older than what is known.
                let known = self.table.get(&pending.flow, now);
                if reason == Reason::NoMapping && known.is_none() {
                    let until = now + self.config.negative_ttl;
                    if self.table.deny(pending.flow, reason, until) {
                        self.withdraw(pending.flow);
                    }
                }
            }
        }
        let tentative = pending.tentative.as_deref();
        let announced = tentative.map(|tentative| tentative.forward.action);
        if announced.is_some() && announced != result.ok().map(|decision| decision.action) {
            self.counters.misannounced += 1;
        }
        for packet in pending.queue.take() {
            match (packet.way, tentative) {
                (
                    Way::Reverse,
                    Some(Tentative {
                        reverse: (flow, _), ..
                    }),
                ) => {
                    let verdict = match self.table.get(flow, now) {
                        Some(Verdict::Pass(decision)) => Ok(decision),
                        Some(Verdict::Deny(reason)) => Err(reason),
                        None => Err(Reason::NoMapping),
                    };
                    self.let_go(packet, *flow, verdict);
                }
                _ => self.let_go(packet, pending.flow, result),
            }
        }
    }

    /// One packet waits no longer.
    fn let_go(&mut self, packet: Waiting, flow: FlowKey, verdict: Result<Decision, Reason>) {
        self.tasks.parked -= 1;
        self.count_parked();
        let Waiting {
            frame, port, len, ..
        } = packet;
        self.tasks.effects.push_back(match verdict {
            Ok(decision) => {
                self.counters.released += 1;
                Effect::Release {
                    frame,
                    parked: Parked {
                        port,
                        len,
                        stage: 0,
                        flow,
                        decision,
                    },
                }
            }
            Err(reason) => {
                self.counters.drop(reason);
                Effect::Discard { frame, reason }
            }
        });
    }

    /// Drops packets that waited too long and gives up decisions that took too long.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((due, task)) = self.tasks.deadlines.first()
            && due <= now
        {
            let pending = self.tasks.pending(task);
            let pending = pending.expect("a deadline has a decision");
            let (flow, over) = (pending.flow, pending.ends <= now);
            while let Some(pending) = self.tasks.pending(task)
                && let Some(packet) = pending.queue.pop_until(now - self.config.park_timeout)
            {
                self.let_go(packet, flow, Err(Reason::ParkTimeout));
            }
            if over {
                self.counters.decisions_timed_out += 1;
                if let Some(mut pending) = self.tasks.remove(task) {
                    for packet in pending.queue.take() {
                        self.let_go(packet, flow, Err(Reason::StoreUnavailable));
                    }
                }
            } else {
                self.schedule(task);
            }
        }
    }

    /// Sets a decision's deadline: when its oldest packet or it itself has waited
    /// too long.
    fn schedule(&mut self, task: TaskId) {
        let Some(pending) = self.tasks.pending(task) else {
            return;
        };
        let oldest = pending
            .queue
            .oldest()
            .map(|since| since + self.config.park_timeout);
        let deadline = oldest.map_or(pending.ends, |oldest| oldest.min(pending.ends));
        let before = core::mem::replace(&mut pending.deadline, deadline);
        if deadline != before {
            self.tasks.deadlines.remove(before, task);
            self.tasks.deadlines.insert(deadline, task);
        }
    }

    fn count_parked(&mut self) {
        let parked = self.tasks.parked as u64;
        self.counters.park_now = parked;
        self.counters.park_high_water = self.counters.park_high_water.max(parked);
    }
}
