//! What a deciding function can do: call the store, announce, wait, install, spawn.
//!
//! There are no wakers: a task says what it waits for, and the runtime polls it when
//! that is there. A task may wait for several things and be polled in vain; it must
//! then wait on.

mod calls;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::Poll;

use stateplane_base::Time;
use stateplane_flow::FlowKey;
use stateplane_lease::Partition;
use stateplane_state::Refusal;
use stateplane_state::op::{Item, Operation, ReplyError};

use crate::function::{Decision, Meter};
use crate::local::LocalTables;
pub(crate) use calls::Submission;
use calls::{Call, Calls, Joined};

/// Identifies one operation sent to the store, in this runtime's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// Why the store gave no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// No answer in time, or too many operations under way. It may have been executed.
    #[error("the store did not answer in time")]
    Unavailable,
    /// It was not executed, for this reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer is not one of this operation's.
    #[error("the store's reply is malformed")]
    Malformed,
}

impl From<ReplyError> for StateError {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::Refused(refusal) => StateError::Refused(refusal),
            ReplyError::Malformed => StateError::Malformed,
        }
    }
}

/// Something tasks of one function wait for together; the function chooses numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Event(pub u64);

/// One task of one runtime; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct TaskId(pub(crate) u64);

/// A decision that is expected but not yet committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tentative {
    /// For packets of the flow being decided.
    pub forward: Decision,
    /// The flow of the answers, and what will happen to them.
    pub reverse: (FlowKey, Decision),
}

/// What becomes of a meter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allow {
    /// It begins anew: nothing is counted, nothing passes.
    Nothing,
    /// So many bytes may have passed in all since it began.
    Until(u64),
}

/// What tasks ask of the runtime; carried out after each poll, in order.
pub(crate) enum Command {
    Announce(TaskId, Tentative),
    Install(FlowKey, Decision),
    Forget(FlowKey),
    Withdraw(FlowKey),
    Publish(Partition, u32, Time),
    Meter(Meter, Allow),
    Spawn(Pin<Box<dyn Future<Output = ()>>>),
}

/// State shared by the runtime and the contexts it gave out.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) now: Time,
    pub(crate) calls: Calls,
    pub(crate) commands: VecDeque<Command>,
    waiting: BTreeMap<Event, Vec<TaskId>>,
    /// Tasks to poll.
    pub(crate) ready: VecDeque<TaskId>,
    /// The task being polled.
    pub(crate) current: Option<TaskId>,
    /// Whether there is a fast path.
    pub(crate) fast_path: bool,
    /// Whether announcements let packets out: in every mode but strict.
    pub(crate) lets_out_early: bool,
    /// The store's tables on this machine, if there are any.
    pub(crate) local: Option<Rc<dyn LocalTables>>,
}

impl Shared {
    /// A reply arrived: makes those ready who await it.
    pub(crate) fn reply(&mut self, ticket: Ticket, result: Result<Vec<u8>, StateError>) {
        self.calls.reply(ticket, result, &mut self.ready);
    }
}

/// A function's link to its runtime; clones are the same link.
#[derive(Clone, Default)]
pub struct Context {
    pub(crate) shared: Rc<RefCell<Shared>>,
}

impl Context {
    /// The time of the event being processed.
    pub fn now(&self) -> Time {
        self.shared.borrow().now
    }

    /// The store's committed tables on this machine, if there are any. See
    /// [`local`](crate::local) for what may be made of them.
    pub fn local(&self) -> Option<Rc<dyn LocalTables>> {
        self.shared.borrow().local.clone()
    }

    /// Sends an operation to the store, when first polled, and gives its reply.
    pub async fn call<O: Operation>(&self, op: &O) -> Result<O::Reply, StateError> {
        self.call_as(op, O::READS).await
    }

    /// The same, but one that only reads is executed in its place among the others, too.
    pub async fn call_in_order<O: Operation>(&self, op: &O) -> Result<O::Reply, StateError> {
        self.call_as(op, false).await
    }

    async fn call_as<O: Operation>(&self, op: &O, reads: bool) -> Result<O::Reply, StateError> {
        let reply = Call {
            cx: self,
            op: Some(op.encode()),
            reads,
            ticket: None,
        }
        .await?;
        Ok(O::decode_reply(&reply)?)
    }

    /// The same for one item of an operation, which it shares with those that others ask for before
    /// the driver sends anything.
    pub async fn call_together<I: Item>(
        &self,
        common: &I::Common,
        item: &I,
    ) -> Result<I::Answer, StateError> {
        Joined {
            cx: self,
            common,
            item,
            begun: false,
            place: None,
        }
        .await
    }

    /// Tells what the decision will be if the store agrees. What that lets pass before
    /// the commit depends on the [`CommitMode`](crate::CommitMode); strict ignores it.
    /// Whether packets may have left by it, whatever comes of the decision.
    pub fn announce(&self, tentative: Tentative) -> bool {
        let mut shared = self.shared.borrow_mut();
        if let Some(task) = shared.current {
            shared
                .commands
                .push_back(Command::Announce(task, tentative));
        }
        shared.lets_out_early
    }

    /// Whether announcements let packets out before the commit.
    pub fn lets_out_early(&self) -> bool {
        self.shared.borrow().lets_out_early
    }

    /// Caches a decision about a flow, or prolongs it.
    pub fn install(&self, flow: FlowKey, decision: Decision) {
        self.shared
            .borrow_mut()
            .commands
            .push_back(Command::Install(flow, decision));
    }

    /// Removes a cached decision.
    pub fn forget(&self, flow: FlowKey) {
        self.shared
            .borrow_mut()
            .commands
            .push_back(Command::Forget(flow));
    }

    /// Has the packets of a decided flow come here, until its decision is installed again.
    pub fn withdraw(&self, flow: FlowKey) {
        self.shared
            .borrow_mut()
            .commands
            .push_back(Command::Withdraw(flow));
    }

    /// Tells a fast path until when flows of a partition may pass that were decided under this
    /// epoch of its lease, and no others; epoch 0 is nobody's. What a lease's holder wants
    /// published ([`stateplane_lease::holder::Effect::Publish`]).
    pub fn publish(&self, partition: Partition, epoch: u32, until: Time) {
        self.shared
            .borrow_mut()
            .commands
            .push_back(Command::Publish(partition, epoch, until));
    }

    /// Tells a fast path how much may pass at a meter.
    pub fn allow(&self, meter: Meter, allow: Allow) {
        self.shared
            .borrow_mut()
            .commands
            .push_back(Command::Meter(meter, allow));
    }

    /// Whether packets may pass without coming here.
    pub fn has_fast_path(&self) -> bool {
        self.shared.borrow().fast_path
    }

    /// Runs a background task.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared
            .borrow_mut()
            .commands
            .push_back(Command::Spawn(Box::pin(task)));
    }

    /// Waits until somebody signals `event`, or a little less: check the condition in
    /// a loop.
    pub async fn wait(&self, event: Event) {
        let mut registered = false;
        core::future::poll_fn(|_| {
            if registered {
                return Poll::Ready(());
            }
            registered = true;
            let mut shared = self.shared.borrow_mut();
            let task = shared.current;
            shared.waiting.entry(event).or_default().extend(task);
            Poll::Pending
        })
        .await;
    }

    /// Lets everybody go on who waits for `event`.
    pub fn signal(&self, event: Event) {
        let mut shared = self.shared.borrow_mut();
        let tasks = shared.waiting.remove(&event).unwrap_or_default();
        shared.ready.extend(tasks);
    }
}
