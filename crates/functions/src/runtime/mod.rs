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
//! * packets, one by one and in bursts: `packets.rs`
//! * ARP and ICMP errors: `answers.rs`
//! * decisions under way: `tasks.rs`, their places `slab.rs`, their flows `in_flight.rs`, their times
//!   `deadlines.rs`; parked packets: `park.rs`
//! * what a fast path is told: `fast.rs`

mod answers;
mod deadlines;
mod fast;
mod in_flight;
mod packets;
mod park;
mod slab;
mod tasks;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::fast::KeyMask;
use stateplane_flow::{FlowAction, FlowKey, PortId};
use stateplane_lease::Partition;

use crate::context::{Allow, Context, StateError, Submission, Ticket};
use crate::counters::Counters;
use crate::driven::Driven;
use crate::function::{Decision, Meter, NetworkFunction, Ownership, key_mask};
use crate::local::LocalTables;
use crate::table::{Table, Verdict};

use answers::Allowance;
pub use fast::Sight;
pub use packets::Glance;
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
    /// Whether a fast path takes [`Effect::Offload`] and [`Effect::Withdraw`].
    pub fast_path: bool,
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
            fast_path: false,
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
    /// The fast path may carry this decision out, as long as it is valid; or longer, if it
    /// does so already.
    Offload {
        /// By which port the flow's packets come.
        port: PortId,
        /// The flow.
        flow: FlowKey,
        /// What happens to its packets: committed.
        decision: Decision,
        /// The lease without which it is not in force.
        ownership: Option<Ownership>,
        /// Where its packets count.
        meter: Option<Meter>,
    },
    /// Packets that count at this meter may pass, up to so many bytes.
    Meter {
        /// Which one.
        meter: Meter,
        /// What becomes of it.
        allow: Allow,
    },
    /// The fast path may carry out what was decided under this epoch of a partition's lease before
    /// `until`, and what was decided under others never. Epoch 0: nothing.
    Publish {
        /// Which partition.
        partition: Partition,
        /// The epoch's low half.
        epoch: u32,
        /// The end.
        until: Time,
    },
    /// The fast path must leave the flow's packets to the runtime.
    Withdraw {
        /// By which port they come.
        port: PortId,
        /// The flow.
        flow: FlowKey,
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
    /// Counts the rounds of offers to the fast path.
    round: u32,
}

impl<F: NetworkFunction> Runtime<F> {
    /// Starts a function. Whatever it asks of the store at once is in the effects.
    pub fn new(now: Time, config: RuntimeConfig, mut function: F) -> Self {
        let cx = Context::default();
        cx.shared.borrow_mut().now = now;
        cx.shared.borrow_mut().lets_out_early = config.mode != CommitMode::Strict;
        cx.shared.borrow_mut().fast_path = config.fast_path;
        function.start(&cx);
        let mut runtime = Self {
            function,
            cx,
            table: Table::new(config.flows_max, config.hash_key),
            tasks: Tasks::new(config.hash_key),
            errors: Allowance::new(config.icmp_errors_per_s),
            counters: Counters::default(),
            round: 1,
            config,
        };
        runtime.run(now);
        runtime
    }

    /// The same without what is for the store: to ask for that ends what is asked together.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        self.tasks.effects.pop_front()
    }

    pub(crate) fn next_submission(&mut self) -> Option<Effect> {
        let shared = &mut *self.cx.shared.borrow_mut();
        let Submission {
            ticket,
            op,
            reads,
            items,
        } = shared.calls.next(shared.now, !shared.lets_out_early)?;
        if items > 0 {
            self.counters.shared_operations += 1;
            self.counters.shared_items += items as u64;
        }
        Some(Effect::Submit { ticket, op, reads })
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The function.
    pub fn function(&self) -> &F {
        &self.function
    }

    /// The function, to change its configuration or its view of the world.
    pub fn function_mut(&mut self) -> &mut F {
        &mut self.function
    }

    /// The decision that a flow's packets pass by now, if one is committed.
    pub(crate) fn decision(&self, now: Time, flow: &FlowKey) -> Option<Decision> {
        match self.table.get(flow, now)? {
            Verdict::Pass(decision) => Some(decision),
            Verdict::Deny(_) => None,
        }
    }

    /// Whether there is a decision about a flow, be its time over or not.
    pub(crate) fn knows(&self, flow: &FlowKey) -> bool {
        self.table.knows(flow)
    }

    /// Packets parked.
    pub(crate) fn parked(&self) -> usize {
        self.tasks.parked()
    }

    /// Most packets that may be parked from now on.
    pub(crate) fn set_park_max(&mut self, most: usize) {
        self.config.park_max = most;
    }
}

impl<F: NetworkFunction> Driven for Runtime<F> {
    type Function = F;

    #[inline]
    fn glance(&mut self, now: Time, port: PortId, buffer: &mut [u8], len: usize) -> Glance {
        self.glance(now, port, buffer, len)
    }

    #[inline]
    fn seek(&self, _port: PortId, glances: &mut [Glance]) {
        self.seek(glances);
    }

    #[inline]
    fn proceed(
        &mut self,
        now: Time,
        port: PortId,
        frame: FrameId,
        buffer: &mut [u8],
        glance: &Glance,
    ) -> Disposition {
        self.proceed(now, port, frame, buffer, glance)
    }

    #[inline]
    fn release(
        &mut self,
        now: Time,
        _frame: FrameId,
        parked: &Parked,
        buffer: &mut [u8],
    ) -> Disposition {
        self.release(now, parked, buffer)
    }

    fn on_reply(&mut self, now: Time, ticket: Ticket, result: Result<Vec<u8>, StateError>) {
        self.cx.shared.borrow_mut().now = now;
        self.cx.shared.borrow_mut().reply(ticket, result);
        self.run(now);
    }

    fn next_timer(&self) -> Option<Time> {
        let due = [
            self.tasks.next_deadline(),
            self.table.next_sweep(),
            self.function.next_timer(),
            self.cx.shared.borrow().calls.next_due(),
        ];
        due.into_iter().flatten().min()
    }

    fn on_timer(&mut self, now: Time, sight: &dyn Sight) {
        self.cx.shared.borrow_mut().now = now;
        let (fast, function) = (self.config.fast_path, &self.function);
        let effects = &mut self.tasks.effects;
        self.table.sweep(now, |flow| {
            let port = function.port_of(&flow).filter(|_| fast);
            effects.extend(port.map(|port| Effect::Withdraw { port, flow }));
        });
        self.expire(now);
        if self.function.next_timer().is_some_and(|due| due <= now) {
            self.function.on_timer(now, &self.cx, sight);
        }
        self.run(now);
    }

    #[inline]
    fn poll_effect(&mut self) -> Option<Effect> {
        self.next_effect().or_else(|| self.next_submission())
    }

    fn offer_again(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    fn stop(&mut self, now: Time) {
        self.cx.shared.borrow_mut().now = now;
        self.function.stop(&self.cx);
        self.run(now);
    }

    fn set_local(&mut self, tables: Rc<dyn LocalTables>) {
        self.cx.shared.borrow_mut().local = Some(tables);
    }

    fn count_drop(&mut self, reason: Reason) {
        self.counters.drop(reason);
    }

    fn counted(&self) -> Counters {
        self.counters().clone()
    }

    fn flows(&self) -> usize {
        self.table.len()
    }

    fn sessions(
        &self,
        now: Time,
        limit: usize,
        filter: impl Fn(&FlowKey, &FlowAction) -> bool,
    ) -> Vec<Session> {
        let wanted = self
            .table
            .decisions(now)
            .filter(|(flow, decision)| filter(flow, &decision.action));
        let mut sessions: Vec<_> = wanted
            .take(limit)
            .map(|(flow, decision)| Session {
                flow,
                action: decision.action,
                valid_for: decision.valid_until.since(now),
                note: self.function.describe(decision.token),
            })
            .collect();
        sessions.sort_unstable_by_key(|session| session.flow);
        sessions
    }

    fn functions(&self) -> impl Iterator<Item = &F> {
        core::iter::once(self.function())
    }

    fn functions_mut(&mut self) -> impl Iterator<Item = &mut F> {
        core::iter::once(self.function_mut())
    }

    fn key_mask(&self, port: PortId) -> Option<KeyMask> {
        key_mask(self.functions(), port)
    }

    fn check(&self) {
        self.table.check();
        self.tasks.check(&self.config);
        assert_eq!(
            self.counters.park_now,
            self.tasks.parked() as u64,
            "the gauge is right"
        );
    }
}
