//! What a deciding function can do: call the store, announce, wait, install, spawn.
//!
//! There are no wakers: a task says what it waits for, and the runtime polls it when
//! that is there. A task may wait for several things and be polled in vain; it must
//! then wait on.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::Poll;

use hashbrown::HashMap;
use stateplane_base::Time;
use stateplane_flow::FlowKey;
use stateplane_lease::Partition;
use stateplane_state::Refusal;
use stateplane_state::op::{Operation, ReplyError};

use crate::function::Decision;
use crate::local::LocalTables;

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

/// What tasks ask of the runtime; carried out after each poll, in order.
pub(crate) enum Command {
    Announce(TaskId, Tentative),
    Install(FlowKey, Decision),
    Forget(FlowKey),
    Withdraw(FlowKey),
    Publish(Partition, u32, Time),
    Spawn(Pin<Box<dyn Future<Output = ()>>>),
}

/// An operation on its way to the store.
pub(crate) struct Submission {
    pub(crate) ticket: Ticket,
    pub(crate) op: Vec<u8>,
    /// It only reads.
    pub(crate) reads: bool,
}

/// What is known of an operation under way.
enum Awaited {
    /// This task awaits its reply.
    By(TaskId),
    /// The reply, which that task has yet to take.
    Reply(Result<Vec<u8>, StateError>),
}

/// State shared by the runtime and the contexts it gave out.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) now: Time,
    next_ticket: u64,
    pub(crate) submissions: VecDeque<Submission>,
    pub(crate) commands: VecDeque<Command>,
    awaited: HashMap<Ticket, Awaited>,
    waiting: BTreeMap<Event, Vec<TaskId>>,
    /// Tasks to poll.
    pub(crate) ready: VecDeque<TaskId>,
    /// The task being polled.
    pub(crate) current: Option<TaskId>,
    /// Whether announcements let packets out: in every mode but strict.
    pub(crate) lets_out_early: bool,
    /// The store's tables on this machine, if there are any.
    pub(crate) local: Option<Rc<dyn LocalTables>>,
}

impl Shared {
    /// A reply arrived: if somebody still awaits it, keeps it and makes that task ready.
    pub(crate) fn reply(&mut self, ticket: Ticket, result: Result<Vec<u8>, StateError>) {
        if let Some(awaited) = self.awaited.get_mut(&ticket)
            && let Awaited::By(task) = *awaited
        {
            *awaited = Awaited::Reply(result);
            self.ready.push_back(task);
        }
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
        let reply = Call {
            cx: self,
            op: Some(op.encode()),
            reads: O::READS,
            ticket: None,
        }
        .await?;
        Ok(O::decode_reply(&reply)?)
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

/// The future of [`Context::call`]. Dropped early, it forgets its ticket.
struct Call<'a> {
    cx: &'a Context,
    op: Option<Vec<u8>>,
    reads: bool,
    /// As long as its reply was not taken.
    ticket: Option<Ticket>,
}

impl Future for Call<'_> {
    type Output = Result<Vec<u8>, StateError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut core::task::Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.cx.shared.borrow_mut();
        let (Some(ticket), None) = (self.ticket, &self.op) else {
            let ticket = Ticket(shared.next_ticket);
            shared.next_ticket += 1;
            if let Some(task) = shared.current {
                shared.awaited.insert(ticket, Awaited::By(task));
            }
            drop(shared);
            let op = self.op.take().unwrap_or_default();
            self.ticket = Some(ticket);
            let submission = Submission {
                ticket,
                op,
                reads: self.reads,
            };
            let mut shared = self.cx.shared.borrow_mut();
            shared.submissions.push_back(submission);
            return Poll::Pending;
        };
        if !matches!(shared.awaited.get(&ticket), Some(Awaited::Reply(_))) {
            return Poll::Pending;
        }
        match shared.awaited.remove(&ticket) {
            Some(Awaited::Reply(reply)) => {
                drop(shared);
                self.ticket = None;
                Poll::Ready(reply)
            }
            _ => Poll::Pending,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut shared = self.cx.shared.borrow_mut();
            shared.awaited.remove(&ticket);
        }
    }
}
