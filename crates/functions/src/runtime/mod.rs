//! The runtime of a function: flow table, parking, commit modes, ICMP errors.
//!
//! Sans-IO: frames stay with the driver, which names them by [`FrameId`]; the runtime
//! says what to do with each. The driver's loop, for every burst of frames:
//!
//! ```text
//!   frame ──▶ on_frame ──▶ Forward{port,len} | Answer{len} | Drop(reason) | Parked
//!   reply ──▶ on_reply ─┐                                                    │
//!   time  ──▶ on_timer ─┤                                                    ▼
//!                       └▶ poll_effect ──▶ Submit{ticket,op}      to the store
//!                                          Release{frame,parked}  ──▶ release(frame bytes) ──▶ as on_frame
//!                                          Discard{frame,reason}  frame is free again
//! ```
//!
//! # Commit modes
//!
//! | mode          | the packet that causes a write | the answer to it          |
//! |---------------|--------------------------------|---------------------------|
//! | strict        | waits for the commit           | cannot come before it     |
//! | reply barrier | leaves at once                 | waits for the commit      |
//! | async         | leaves at once                 | passes at once            |
//!
//! Only decisions that a function announces leave early. With strict, whatever anybody
//! outside saw survives any failure the store survives. With the reply barrier, every
//! flow that delivered an answer does. With async, a flow created within the last round
//! trip before a failure may be lost.
//!
//! * [`tasks`](self): decisions under way, in `tasks.rs`
//! * parked packets, in `park.rs`

mod park;
mod tasks;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::{FlowAction, FlowKey, PortId};
use stateplane_wire::arp::{Arp, Operation};
use stateplane_wire::checksum::finish_partial_checksum;
use stateplane_wire::eth::{self, Mac};
use stateplane_wire::icmp_error;
use stateplane_wire::packet::{Headers, Malformed};

use crate::context::{Context, StateError, Submission, Ticket};
use crate::counters::Counters;
use crate::function::{Class, Decision, NetworkFunction};
use crate::local::LocalTables;
use crate::table::{Table, Verdict};

pub use park::Parked;
use tasks::Tasks;

/// The driver's name for a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameId(pub u32);

/// When may a packet leave whose processing wrote state? See the module's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CommitMode {
    /// When the write is committed.
    #[default]
    Strict,
    /// At once, but answers wait for the commit.
    ReplyBarrier,
    /// At once, and answers pass too.
    Async,
}

/// What the runtime must know about a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// Our own address there: the source of our ICMP errors.
    pub address: Ipv4Addr,
    /// Longest IPv4 packet that leaves by it.
    pub mtu: u16,
}

/// Settings and limits of a [`Runtime`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuntimeConfig {
    /// When packets may leave.
    pub mode: CommitMode,
    /// Inside and outside.
    pub ports: [PortConfig; 2],
    /// Most flows whose decision is cached.
    pub flows_max: usize,
    /// Most decisions under way.
    pub decisions_max: usize,
    /// Most packets parked.
    pub park_max: usize,
    /// Longest time a packet is parked.
    pub park_timeout: Duration,
    /// Longest time a decision may take; then the next packet begins a new one.
    pub decision_timeout: Duration,
    /// How long it is remembered that nobody has a mapping.
    pub negative_ttl: Duration,
    /// ICMP errors a second; a tenth of it may come in one burst.
    pub icmp_errors_per_s: u32,
    /// Whether TCP and UDP checksums that hold only the pseudo-header's sum are
    /// completed. Needed wherever senders on this machine offload checksums.
    pub finish_checksums: bool,
    /// Key of the flow table's hash; random, so that nobody can predict it.
    pub hash_key: [u64; 2],
}

impl RuntimeConfig {
    /// Usual limits.
    pub const fn new(ports: [PortConfig; 2], hash_key: [u64; 2]) -> Self {
        Self {
            mode: CommitMode::Strict,
            ports,
            flows_max: 1 << 20,
            decisions_max: 1 << 14,
            park_max: 4096,
            park_timeout: Duration::from_millis(200),
            decision_timeout: Duration::from_secs(2),
            negative_ttl: Duration::from_millis(100),
            icmp_errors_per_s: 100,
            finish_checksums: true,
            hash_key,
        }
    }
}

/// What the driver does with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// Send its first `len` bytes by this port, after setting the hardware addresses.
    Forward {
        /// Where it leaves.
        port: PortId,
        /// Bytes to send.
        len: usize,
    },
    /// Send its first `len` bytes back by the port it came from; it is complete.
    Answer {
        /// Bytes to send.
        len: usize,
    },
    /// Free it.
    Drop(Reason),
    /// Keep it until an effect names it.
    Parked,
}

/// What the driver is asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send an operation to the store and report the result with
    /// [`Runtime::on_reply`].
    Submit {
        /// To be named in the reply.
        ticket: Ticket,
        /// The operation.
        op: Vec<u8>,
        /// It only reads: a replicated store may answer it without a slot.
        reads: bool,
    },
    /// Pass the parked frame to [`Runtime::release`] and do as that says.
    Release {
        /// Which frame.
        frame: FrameId,
        /// What `release` needs.
        parked: Parked,
    },
    /// Free a parked frame. The drop is counted already.
    Discard {
        /// Which frame.
        frame: FrameId,
        /// Why.
        reason: Reason,
    },
}

/// A cached decision, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// The flow.
    pub flow: FlowKey,
    /// What happens to its packets.
    pub action: FlowAction,
    /// How long the cache holds.
    pub valid_for: Duration,
    /// The function's word about it.
    pub note: &'static str,
}

/// One function at work on one worker.
pub struct Runtime<F> {
    config: RuntimeConfig,
    function: F,
    cx: Context,
    table: Table,
    tasks: Tasks,
    errors: Allowance,
    counters: Counters,
}

impl<F: NetworkFunction> Runtime<F> {
    /// Starts a function. Whatever it asks of the store at once is in the effects.
    pub fn new(now: Time, config: RuntimeConfig, mut function: F) -> Self {
        let cx = Context::default();
        cx.shared.borrow_mut().now = now;
        cx.shared.borrow_mut().lets_out_early = config.mode != CommitMode::Strict;
        function.start(&cx);
        let mut runtime = Self {
            function,
            cx,
            table: Table::new(config.flows_max, config.hash_key),
            tasks: Tasks::new(config.hash_key),
            errors: Allowance::new(config.icmp_errors_per_s),
            counters: Counters::default(),
            config,
        };
        runtime.run(now);
        runtime
    }

    /// Gives the function the store's committed tables that lie on this machine.
    pub fn set_local(&mut self, tables: Rc<dyn LocalTables>) {
        self.cx.shared.borrow_mut().local = Some(tables);
    }

    /// A frame arrived on `port`: the first `len` bytes of `buffer`, whose whole room
    /// may be used for an answer.
    pub fn on_frame(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        len: usize,
    ) -> Disposition {
        self.cx.shared.borrow_mut().now = now;
        let bytes = buffer.get(..len).unwrap_or(buffer);
        let headers = match Headers::parse(bytes) {
            Ok(headers) => headers,
            Err(Malformed::EtherType(eth::ARP)) => return self.on_arp(port, buffer, len),
            Err(Malformed::EtherType(_)) => return self.drop(Reason::Unsupported),
            Err(Malformed::Checksum) => return self.drop(Reason::BadChecksum),
            Err(_) => return self.drop(Reason::Malformed),
        };
        if self.config.finish_checksums && finish_partial_checksum(buffer, &headers) {
            self.counters.checksums_finished += 1;
        }
        let flow = match self.function.classify(now, port, &headers) {
            Class::Flow(flow) => flow,
            Class::Drop(reason) => return self.drop(reason),
            Class::Reject(error, reason) => {
                return self.reject(now, port, buffer, &headers, error, reason);
            }
        };
        if headers.ttl <= 1 {
            let error = icmp_error::Error::TimeExceeded;
            return self.reject(now, port, buffer, &headers, error, Reason::TtlExpired);
        }
        match self.table.get(&flow, now) {
            Some(Verdict::Pass(decision)) => {
                self.counters.hits += 1;
                self.pass(now, port, &flow, &decision, buffer, &headers)
            }
            Some(Verdict::Deny(reason)) => self.drop(reason),
            None => self.undecided(now, port, frame, flow, buffer, &headers),
        }
    }

    /// A parked frame was released: rewrites it now. `buffer` as in [`Self::on_frame`],
    /// with the bytes it had when it was parked.
    pub fn release(&mut self, now: Time, parked: &Parked, buffer: &mut [u8]) -> Disposition {
        self.cx.shared.borrow_mut().now = now;
        let bytes = buffer.get(..parked.len).unwrap_or(buffer);
        let Ok(headers) = Headers::parse(bytes) else {
            return self.drop(Reason::Malformed);
        };
        self.pass(
            now,
            parked.port,
            &parked.flow,
            &parked.decision,
            buffer,
            &headers,
        )
    }

    /// The store answered, or did not in time.
    pub fn on_reply(&mut self, now: Time, ticket: Ticket, result: Result<&[u8], StateError>) {
        self.cx.shared.borrow_mut().now = now;
        self.cx.shared.borrow_mut().reply(ticket, result);
        self.run(now);
    }

    /// No more packets will come. What the function still asks of the store is in the
    /// effects.
    pub fn stop(&mut self, now: Time) {
        self.cx.shared.borrow_mut().now = now;
        self.function.stop(&self.cx);
        self.run(now);
    }

    /// When [`Self::on_timer`] wants to be called.
    pub fn next_timer(&self) -> Option<Time> {
        let due = [
            self.tasks.next_deadline(),
            self.table.next_sweep(),
            self.function.next_timer(),
        ];
        due.into_iter().flatten().min()
    }

    /// Time passed.
    pub fn on_timer(&mut self, now: Time) {
        self.cx.shared.borrow_mut().now = now;
        self.table.sweep(now);
        self.expire(now);
        if self.function.next_timer().is_some_and(|due| due <= now) {
            self.function.on_timer(now, &self.cx);
        }
        self.run(now);
    }

    /// The next thing to do, if there is one.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(effect) = self.tasks.effects.pop_front() {
            return Some(effect);
        }
        let submission = self.cx.shared.borrow_mut().submissions.pop_front()?;
        let Submission { ticket, op, reads } = submission;
        Some(Effect::Submit { ticket, op, reads })
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// For drops that the driver decides about (no route, no neighbour, full ring).
    pub fn count_drop(&mut self, reason: Reason) {
        self.counters.drop(reason);
    }

    /// The function.
    pub fn function(&self) -> &F {
        &self.function
    }

    /// The function, to change its configuration or its view of the world.
    pub fn function_mut(&mut self) -> &mut F {
        &mut self.function
    }

    /// Cached flows.
    pub fn flows(&self) -> usize {
        self.table.len()
    }

    /// Up to `limit` cached decisions that satisfy `filter`, sorted by flow.
    pub fn sessions(
        &self,
        now: Time,
        limit: usize,
        filter: impl Fn(&FlowKey, &FlowAction) -> bool,
    ) -> Vec<Session> {
        let wanted = self
            .table
            .decisions(now)
            .filter(|(flow, d)| filter(flow, &d.action));
        let mut sessions: Vec<_> = wanted
            .take(limit)
            .map(|(flow, decision)| Session {
                flow: *flow,
                action: decision.action,
                valid_for: decision.valid_until.since(now),
                note: self.function.describe(decision.token),
            })
            .collect();
        sessions.sort_unstable_by_key(|session| session.flow);
        sessions
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        self.table.check();
        self.tasks.check(&self.config);
        assert_eq!(
            self.counters.park_now,
            self.tasks.parked() as u64,
            "the gauge is right"
        );
    }

    fn on_arp(&mut self, port: PortId, buffer: &mut [u8], len: usize) -> Disposition {
        let bytes = buffer.get(..len).unwrap_or(buffer);
        let request = match Arp::parse(bytes) {
            Ok(arp) if arp.operation == Operation::Request => arp,
            Ok(_) => return self.drop(Reason::NotOurs),
            Err(_) => return self.drop(Reason::Malformed),
        };
        let answer = self.function.answer_arp(port, &request);
        match answer.and_then(|mac: Mac| request.reply(mac).write(buffer)) {
            Some(len) => {
                self.counters.answered += 1;
                Disposition::Answer { len }
            }
            None => self.drop(Reason::NotOurs),
        }
    }

    /// Carries a decision out.
    fn pass(
        &mut self,
        now: Time,
        port: PortId,
        flow: &FlowKey,
        decision: &Decision,
        buffer: &mut [u8],
        headers: &Headers,
    ) -> Disposition {
        let action = &decision.action;
        let Some(out) = self.config.ports.get(usize::from(action.out.0)) else {
            return self.drop(Reason::Unsupported);
        };
        if headers.packet_len() > usize::from(out.mtu) {
            if !headers.dont_fragment {
                // To fragment it is left undone: hosts set the flag nearly always.
                return self.drop(Reason::TooBig);
            }
            let error = icmp_error::Error::FragmentationNeeded { mtu: out.mtu };
            return self.reject(now, port, buffer, headers, error, Reason::TooBig);
        }
        if action.apply(buffer, headers).is_err() {
            return self.drop(Reason::Unsupported);
        }
        self.function.observe(now, flow, decision.token, headers);
        self.counters.forwarded[usize::from(action.out.0)] += 1;
        Disposition::Forward {
            port: action.out,
            len: headers.end,
        }
    }

    fn drop(&mut self, reason: Reason) -> Disposition {
        self.counters.drop(reason);
        Disposition::Drop(reason)
    }

    /// Drops the packet and tells its sender, if that is allowed.
    fn reject(
        &mut self,
        now: Time,
        port: PortId,
        buffer: &mut [u8],
        headers: &Headers,
        error: icmp_error::Error,
        reason: Reason,
    ) -> Disposition {
        let Some(port) = self.config.ports.get(usize::from(port.0)) else {
            return self.drop(reason);
        };
        if !icmp_error::allowed(buffer, headers) {
            return self.drop(reason);
        }
        if !self.errors.take(now) {
            return self.drop(Reason::IcmpLimited);
        }
        match icmp_error::build(buffer, headers, error, port.address) {
            Some(len) => {
                self.counters.drop(reason);
                self.counters.answered += 1;
                Disposition::Answer { len }
            }
            None => self.drop(reason),
        }
    }
}

/// A token bucket: so many a second, a tenth of it at once.
#[derive(Debug)]
struct Allowance {
    /// The moment up to which everything is used, or earlier.
    used_until: Time,
    interval: Duration,
    burst: Duration,
}

impl Allowance {
    fn new(per_s: u32) -> Self {
        let interval = Duration::from_secs(1)
            .checked_div(per_s)
            .unwrap_or(Duration::MAX);
        Self {
            used_until: Time::ZERO,
            interval,
            burst: Duration::from_millis(100).max(interval),
        }
    }

    fn take(&mut self, now: Time) -> bool {
        let next = self.used_until.max(now - self.burst) + self.interval;
        let allowed = next <= now;
        if allowed {
            self.used_until = next;
        }
        allowed
    }
}
