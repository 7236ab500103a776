//! The client's side: opens every flow, checks every byte, measures silences.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use super::Plan;
use super::datagrams::Datagrams;
use super::flow::{self, Flow, Life, Next, Order};
use super::live::{End, Live};
use super::poll::{Agenda, Poller, Token};
use super::records::{Failure, Kind};
use super::report::{ClientReport, Connection, FlowReport, Outcome};
use super::server::nanos;

/// A connect that took this long lost its first SYN.
const DELAYED_NS: u64 = 200_000_000;
/// New connections opened in one turn of the loop at most, so that catching
/// up after a stall does not starve the flows that are measured.
const BURST: u64 = 64;
/// Long flows opened per second while everything is set up.
const OPENING_RATE: u64 = 1000;

/// Source endpoints, each used once: a mapping is never reused by accident.
struct Endpoints {
    addresses: Vec<Ipv4Addr>,
    next: usize,
}

const FIRST_PORT: usize = 1024;
const LAST_PORT: usize = 59_999;

impl Endpoints {
    fn take(&mut self) -> Option<SocketAddrV4> {
        let port = FIRST_PORT + self.next / self.addresses.len();
        let address = self.addresses[self.next % self.addresses.len()];
        self.next += 1;
        (port <= LAST_PORT)
            .then(|| SocketAddrV4::new(address, u16::try_from(port).expect("below 60000")))
    }
}

pub(super) struct Client {
    plan: Plan,
    live: Arc<Live>,
    poller: Poller,
    agenda: Agenda,
    endpoints: Endpoints,
    flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    generation: u32,
    datagrams: Datagrams,
    long_opened: u32,
    fresh_opened: u64,
    fresh_since_ns: Option<u64>,
    fresh_alive: u64,
    drained_since_ns: Option<u64>,
    scratch: Vec<u8>,
    report: ClientReport,
}

impl Client {
    pub(super) fn new(plan: Plan, live: Arc<Live>) -> io::Result<Self> {
        let endpoints = Endpoints {
            addresses: plan.clients.clone(),
            next: 0,
        };
        Ok(Self {
            plan,
            live,
            poller: Poller::new()?,
            agenda: Agenda::default(),
            endpoints,
            flows: Vec::new(),
            free: Vec::new(),
            generation: 0,
            datagrams: Datagrams::default(),
            long_opened: 0,
            fresh_opened: 0,
            fresh_since_ns: None,
            fresh_alive: 0,
            drained_since_ns: None,
            scratch: vec![0; 64 * 1024],
            report: ClientReport::new(),
        })
    }

    /// Runs until drained or told to stop.
    pub(super) fn run(mut self) -> io::Result<ClientReport> {
        let mut ready = Vec::new();
        let mut woken = self.live.now_ns();
        while !self.finished() {
            let limit = Duration::from_millis(if self.opening_or_fresh() { 1 } else { 10 });
            let idle = self.agenda.idle(self.live.now_ns(), limit);
            self.poller.wait(idle, &mut ready)?;
            let now = self.live.now_ns();
            let late = now.saturating_sub(woken + nanos(idle));
            self.report.stall.note(self.live.phase(), late);
            self.live.note_stall(End::Client, late);
            woken = now;
            for token in &ready {
                if Datagrams::owns(*token) {
                    self.datagrams.receive(*token, &self.live);
                } else {
                    self.on_ready(*token);
                }
            }
            let now = self.live.now_ns();
            while let Some((due, token)) = self.agenda.pop(now) {
                self.on_due(due, token, now);
            }
            self.open_more(now)?;
        }
        Ok(self.close_books())
    }

    fn opening_or_fresh(&self) -> bool {
        self.long_opened < self.plan.long_flows() || self.live.fresh()
    }

    fn finished(&mut self) -> bool {
        if self.live.stopped() {
            return true;
        }
        if !self.live.draining() {
            return false;
        }
        let now = self.live.now_ns();
        let since = *self.drained_since_ns.get_or_insert(now);
        let resumed = |f: &Flow| f.life != Life::Long || f.last_received_ns > since;
        let settled = self.fresh_alive == 0
            && self.flows.iter().flatten().all(resumed)
            && self.datagrams.all_heard_since(since);
        settled || now > since + nanos(self.plan.patience) + 1_000_000_000
    }

    fn on_ready(&mut self, token: Token) {
        let now = self.live.now_ns();
        let Some(flow) = find(&mut self.flows, token) else {
            return;
        };
        if flow.connected_ns.is_none() {
            match flow.check_connected(now) {
                Ok(false) => return,
                Ok(true) => self.on_connected(token, now),
                Err(failure) => return self.end(token, now, Err(failure)),
            }
        }
        let Some(flow) = find(&mut self.flows, token) else {
            return;
        };
        let before = flow.received;
        let (histogram, long) = (&mut self.report.record_us, flow.life == Life::Long);
        let travelled = |ns: u64| {
            if long {
                histogram.saturating_record(ns / 1000);
            }
        };
        let moment = self.live.moment();
        let result = flow.receive(&moment, &mut self.scratch, travelled);
        let news = flow.received - before;
        let complete = flow.complete(now);
        if let Some(answered) = flow.first_answer_ns.filter(|_| before == 0 && !long) {
            let span = answered - flow.started_ns;
            self.report.answer_us.saturating_record(span / 1000);
        }
        self.live
            .delivered
            .fetch_add(news, std::sync::atomic::Ordering::Relaxed);
        match result {
            Ok(()) if complete => self.end(token, now, Ok(())),
            Ok(()) => {}
            Err(failure) => self.end(token, now, Err(failure)),
        }
    }

    fn on_connected(&mut self, token: Token, now: u64) {
        let Some(flow) = find(&mut self.flows, token) else {
            return;
        };
        let span = now - flow.started_ns;
        if flow.life == Life::Long {
            Live::count(&self.live.long_ready);
        } else {
            self.report.connect_us.saturating_record(span / 1000);
        }
        if span >= DELAYED_NS {
            self.report.delayed += 1;
            Live::count(&self.live.delayed);
        }
        self.tick(token, now);
    }

    fn on_due(&mut self, due: u64, token: Token, now: u64) {
        if Datagrams::owns(token) {
            let again = self.datagrams.send(token, now);
            self.agenda.book(again, token);
        } else if find(&mut self.flows, token).is_some_and(|f| f.due_ns == due) {
            self.tick(token, now);
        }
    }

    fn tick(&mut self, token: Token, now: u64) {
        let Some(flow) = find(&mut self.flows, token) else {
            return;
        };
        match flow.tick(now) {
            Ok(Next::At(at)) => flow.due_ns = self.agenda.book(at, token),
            Ok(Next::Done) => self.end(token, now, Ok(())),
            Err(failure) => self.end(token, now, Err(failure)),
        }
    }

    fn open_more(&mut self, now: u64) -> io::Result<()> {
        let budget = (now / 1000 * OPENING_RATE / 1_000_000 + 1)
            .saturating_sub(u64::from(self.long_opened))
            .min(BURST);
        for _ in 0..budget {
            if self.long_opened < self.plan.long_flows() {
                self.open_long(now)?;
            }
        }
        if !self.live.fresh() {
            return Ok(());
        }
        let since = *self.fresh_since_ns.get_or_insert(now);
        let target = (now - since) / 1000 * u64::from(self.plan.rate) / 1_000_000;
        for _ in 0..target.saturating_sub(self.fresh_opened).min(BURST) {
            self.fresh_opened += 1;
            self.open_fresh(now)?;
        }
        Ok(())
    }

    fn open_long(&mut self, now: u64) -> io::Result<()> {
        let number = self.long_opened;
        self.long_opened += 1;
        if number >= self.plan.tcp {
            let from = self.endpoint()?;
            let token = self.datagrams.open(&self.plan, from, &self.poller)?;
            self.agenda.book(now, token);
            Live::count(&self.live.long_ready);
            return Ok(());
        }
        let kind = if number.is_multiple_of(2) {
            Kind::Ask
        } else {
            Kind::Push
        };
        self.open(kind, Life::Long, self.plan.period, now)
    }

    fn open_fresh(&mut self, now: u64) -> io::Result<()> {
        self.fresh_alive += 1;
        Live::count(&self.live.opened);
        // No number above zero is a multiple of zero: then none is kept.
        let kept = self
            .fresh_opened
            .is_multiple_of(u64::from(self.plan.keep_every));
        if !kept {
            return self.open(Kind::Ask, Life::Short, self.plan.period, now);
        }
        let number = self.fresh_opened / u64::from(self.plan.keep_every);
        let kind = if number.is_multiple_of(2) {
            Kind::Ask
        } else {
            Kind::Push
        };
        let until = now + nanos(self.plan.keep_for);
        self.open(kind, Life::Kept(until), self.plan.keep_period, now)
    }

    fn endpoint(&mut self) -> io::Result<SocketAddrV4> {
        self.endpoints
            .take()
            .ok_or_else(|| io::Error::other("the generator has no unused endpoint left"))
    }

    fn open(&mut self, kind: Kind, life: Life, period: Duration, now: u64) -> io::Result<()> {
        let from = self.endpoint()?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            u32::try_from(self.flows.len() - 1).expect("fewer flows than endpoints")
        });
        self.generation = self.generation.wrapping_add(1);
        let token = Token {
            index,
            generation: self.generation,
        };
        let order = Order {
            id: token.generation,
            generation: token.generation,
            kind,
            life,
            period_ns: nanos(period),
            patience_ns: nanos(self.plan.patience),
        };
        let stream = flow::connect(from, self.plan.server)
            .map_err(|e| io::Error::new(e.kind(), format!("connect from {from}: {e}")))?;
        self.poller.add(&stream, token)?;
        let mut flow = Flow::new(&order, stream, now);
        flow.due_ns = self.agenda.book(flow.connect_deadline(), token);
        self.flows[index as usize] = Some(flow);
        Ok(())
    }

    fn end(&mut self, token: Token, now: u64, result: Result<(), Failure>) {
        let Some(mut flow) = self.flows[token.index as usize].take() else {
            return;
        };
        self.free.push(token.index);
        let outcome = match result {
            Ok(()) => Outcome::Completed,
            Err(failure) if flow.connected_ns.is_none() => Outcome::NotConnected(failure),
            Err(failure) => Outcome::Broken(failure),
        };
        Live::count(match outcome {
            Outcome::Completed => &self.live.completed,
            Outcome::NotConnected(_) => &self.live.failed,
            Outcome::Broken(_) => &self.live.broken,
        });
        if flow.life == Life::Long && flow.connected_ns.is_some() {
            flow.close_books(&self.live.moment());
            self.report.flows.push(long_report(&flow, result.err()));
            return;
        }
        if flow.life != Life::Long {
            self.fresh_alive -= 1;
        }
        self.report.connections.push(Connection {
            started_ns: flow.started_ns,
            ended_ns: now,
            outcome,
        });
    }

    /// Whoever has not been heard since the drain began has not resumed.
    fn close_books(mut self) -> ClientReport {
        let moment = self.live.moment();
        let now = moment.now_ns;
        let since = self.drained_since_ns.unwrap_or(now);
        for slot in &mut self.flows {
            let Some(mut flow) = slot.take() else {
                continue;
            };
            if flow.life == Life::Long && flow.connected_ns.is_some() {
                flow.close_books(&moment);
                let silent = flow.last_received_ns <= since;
                let failure = (silent && self.live.draining()).then_some(Failure::Silent);
                self.report.flows.push(long_report(&flow, failure));
            } else if self.live.draining() {
                self.report.connections.push(Connection {
                    started_ns: flow.started_ns,
                    ended_ns: now,
                    outcome: match flow.connected_ns {
                        None => Outcome::NotConnected(Failure::TimedOut),
                        Some(_) => Outcome::Broken(Failure::Silent),
                    },
                });
            }
        }
        let datagrams = self.datagrams.close_books(&moment, since);
        self.report.flows.extend(datagrams);
        self.report
    }
}

fn long_report(flow: &Flow, failure: Option<Failure>) -> FlowReport {
    FlowReport {
        kind: flow.kind,
        silence: flow.silence,
        failure,
        remapped: false,
        sent: flow.sent,
        received: flow.received,
    }
}

fn find(flows: &mut [Option<Flow>], token: Token) -> Option<&mut Flow> {
    let flow = flows.get_mut(token.index as usize)?.as_mut()?;
    (flow.generation == token.generation).then_some(flow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_used_once() {
        let addresses = vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
        let mut endpoints = Endpoints { addresses, next: 0 };
        let mut seen = std::collections::HashSet::new();
        while let Some(endpoint) = endpoints.take() {
            assert!(seen.insert(endpoint), "{endpoint} twice");
        }
        assert_eq!(seen.len(), 2 * (LAST_PORT - FIRST_PORT + 1));
    }
}
