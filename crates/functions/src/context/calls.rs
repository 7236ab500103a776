//! Operations on their way to the store, and who awaits them.
//!
//! Items of one operation ([`Item`]) are collected until the driver asks what to send, after all
//! packets of its burst were seen: tasks that ask in one burst share operations. As long as fewer
//! than [`UNDER_WAY`] such operations are without an answer, nobody waits for others to come. With
//! as many, an operation leaves when it is full, or with the next answer (what Nagle did for small
//! segments, RFC 896), or when it is [`LONGEST`] old: an operation costs every node of a group much
//! the same whatever it holds, so the busier they are, the more share one.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{self, Poll};
use core::time::Duration;

use stateplane_base::{Ring, Time};
use stateplane_state::op::{self, Item};

use super::{Context, StateError, TaskId, Ticket};

/// Operations of items without an answer with which others, not full, wait: one is executed while
/// the next one fills.
const UNDER_WAY: usize = 2;
/// The longest that an operation is kept open: answers may be lost.
const LONGEST: Duration = Duration::from_millis(2);

/// An operation on its way to the store.
pub(crate) struct Submission {
    pub(crate) ticket: Ticket,
    pub(crate) op: Vec<u8>,
    /// It only reads.
    pub(crate) reads: bool,
    /// How many items it has, if it is of such.
    pub(crate) items: usize,
}

/// What the store said.
type Reply = Result<Vec<u8>, StateError>;

/// What is known of an operation under way.
enum Awaited {
    /// This task awaits its reply.
    By(TaskId),
    /// The reply, which that task has yet to take.
    Reply(Reply),
    /// Several tasks share it.
    Together(Together),
}

/// An operation of items.
struct Together {
    /// Who awaits the answer to each item, unless that one gave up.
    tasks: Vec<Option<TaskId>>,
    /// How many still do.
    awaiting: usize,
    reply: Option<Reply>,
}

/// An operation that takes more items.
struct Open {
    ticket: Ticket,
    op: Vec<u8>,
    /// Bytes before the items.
    head: usize,
    /// How many items it has, and how many more fit.
    items: usize,
    room: usize,
    /// When it leaves at the latest.
    until: Time,
}

/// All operations under way.
#[derive(Default)]
pub(crate) struct Calls {
    next: u64,
    submissions: VecDeque<Submission>,
    open: Vec<Open>,
    /// Operations of items that have left and have no answer.
    under_way: usize,
    awaited: Ring<Awaited>,
    /// Where an operation's head is written, to be compared.
    head: Vec<u8>,
}

impl Calls {
    fn ticket(&mut self, awaited: Awaited) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.awaited.insert(ticket.0, awaited);
        ticket
    }

    fn submit(&mut self, task: TaskId, op: Vec<u8>, reads: bool) -> Ticket {
        let ticket = self.ticket(Awaited::By(task));
        let items = 0;
        self.submissions.push_back(Submission {
            ticket,
            op,
            reads,
            items,
        });
        ticket
    }

    /// Adds an item to an operation that has room; which, and at which place.
    fn join<I: Item>(
        &mut self,
        now: Time,
        task: TaskId,
        common: &I::Common,
        item: &I,
    ) -> (Ticket, usize) {
        self.head.clear();
        self.head.extend_from_slice(&I::PROCEDURE.0.to_be_bytes());
        I::common(common, &mut self.head);
        let fits = |open: &Open| open.room > 0 && open.op[..open.head] == self.head;
        let at = self.open.iter().position(fits).unwrap_or_else(|| {
            let (op, head) = (self.head.clone(), self.head.len());
            let together = Together {
                tasks: Vec::new(),
                awaiting: 0,
                reply: None,
            };
            let ticket = self.ticket(Awaited::Together(together));
            self.open.push(Open {
                ticket,
                op,
                head,
                items: 0,
                room: I::MOST,
                until: now + LONGEST,
            });
            self.open.len() - 1
        });
        let open = &mut self.open[at];
        (open.items, open.room) = (open.items + 1, open.room - 1);
        item.write(&mut open.op);
        let Some(Awaited::Together(together)) = self.awaited.get_mut(&open.ticket.0) else {
            unreachable!("what is open is awaited");
        };
        together.tasks.push(Some(task));
        together.awaiting += 1;
        (open.ticket, together.tasks.len() - 1)
    }

    /// The next operation to be sent. Of those that could take more items, those that need not wait
    /// are closed; all of them unless they `may_wait`: their packets may have left.
    pub(crate) fn next(&mut self, now: Time, may_wait: bool) -> Option<Submission> {
        let Self {
            open,
            under_way,
            submissions,
            ..
        } = self;
        let leaves = |open: &mut Open| {
            let at_once = !may_wait || *under_way < UNDER_WAY;
            let leaves = at_once || open.room == 0 || open.until <= now;
            *under_way += usize::from(leaves);
            leaves
        };
        submissions.extend(open.extract_if(.., leaves).map(|open| Submission {
            ticket: open.ticket,
            op: open.op,
            reads: false,
            items: open.items,
        }));
        self.submissions.pop_front()
    }

    /// When an operation that waits for others to share it leaves at the latest.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.open.iter().map(|open| open.until).min()
    }

    /// A reply arrived: if somebody still awaits it, keeps it and makes those tasks ready.
    pub(crate) fn reply(&mut self, ticket: Ticket, reply: Reply, ready: &mut VecDeque<TaskId>) {
        match self.awaited.get_mut(&ticket.0) {
            Some(Awaited::Together(together)) if together.reply.is_none() => {
                self.under_way -= 1;
                together.reply = Some(reply);
                ready.extend(together.tasks.iter().flatten());
                if together.awaiting == 0 {
                    self.awaited.remove(&ticket.0);
                }
            }
            Some(awaited @ Awaited::By(_)) => {
                let by = core::mem::replace(awaited, Awaited::Reply(reply));
                if let Awaited::By(task) = by {
                    ready.push_back(task);
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, ticket: Ticket) -> Option<Reply> {
        if !matches!(self.awaited.get(&ticket.0), Some(Awaited::Reply(_))) {
            return None;
        }
        match self.awaited.remove(&ticket.0) {
            Some(Awaited::Reply(reply)) => Some(reply),
            _ => None,
        }
    }

    /// What the reply to an operation of items says of the item at `at`.
    fn answer<I: Item>(
        &mut self,
        ticket: Ticket,
        at: usize,
    ) -> Option<Result<I::Answer, StateError>> {
        let Some(Awaited::Together(Together { reply, .. })) = self.awaited.get(&ticket.0) else {
            return None;
        };
        let answer = match reply.as_ref()? {
            Ok(reply) => match op::decode_reply(reply) {
                Ok(body) => match I::answer(body, at) {
                    Some(answer) => answer.map_err(StateError::Refused),
                    None => Err(StateError::Malformed),
                },
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(*error),
        };
        self.leave(ticket, at);
        Some(answer)
    }

    /// Nobody awaits the answer to this item any more.
    fn leave(&mut self, ticket: Ticket, at: usize) {
        let Some(Awaited::Together(together)) = self.awaited.get_mut(&ticket.0) else {
            return;
        };
        let left = together.tasks.get_mut(at).and_then(Option::take);
        together.awaiting -= usize::from(left.is_some());
        if together.awaiting == 0 && together.reply.is_some() {
            self.awaited.remove(&ticket.0);
        }
    }
}

/// The future of [`Context::call`]. Dropped early, it forgets its ticket.
pub(super) struct Call<'a> {
    pub(super) cx: &'a Context,
    pub(super) op: Option<Vec<u8>>,
    pub(super) reads: bool,
    /// As long as its reply was not taken.
    pub(super) ticket: Option<Ticket>,
}

impl Future for Call<'_> {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Reply> {
        let shared = &mut *self.cx.shared.borrow_mut();
        if let Some(op) = self.op.take() {
            // Only tasks are polled.
            if let Some(task) = shared.current {
                self.ticket = Some(shared.calls.submit(task, op, self.reads));
            }
            return Poll::Pending;
        }
        match self.ticket.and_then(|ticket| shared.calls.take(ticket)) {
            Some(reply) => {
                self.ticket = None;
                Poll::Ready(reply)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.cx.shared.borrow_mut().calls.awaited.remove(&ticket.0);
        }
    }
}

/// The future of [`Context::call_together`]. Dropped early, it awaits its answer no more.
pub(super) struct Joined<'a, I: Item> {
    pub(super) cx: &'a Context,
    pub(super) common: &'a I::Common,
    pub(super) item: &'a I,
    /// As long as its answer was not taken: the operation, and its place in it.
    pub(super) place: Option<(Ticket, usize)>,
    pub(super) begun: bool,
}

impl<I: Item> Future for Joined<'_, I> {
    type Output = Result<I::Answer, StateError>;

    fn poll(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<Self::Output> {
        let shared = &mut *self.cx.shared.borrow_mut();
        if !self.begun {
            self.begun = true;
            let now = shared.now;
            let joined = |task| shared.calls.join(now, task, self.common, self.item);
            self.place = shared.current.map(joined);
            return Poll::Pending;
        }
        let answer = self
            .place
            .and_then(|(ticket, at)| shared.calls.answer::<I>(ticket, at));
        match answer {
            Some(answer) => {
                self.place = None;
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }
}

impl<I: Item> Drop for Joined<'_, I> {
    fn drop(&mut self) {
        if let Some((ticket, at)) = self.place {
            self.cx.shared.borrow_mut().calls.leave(ticket, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_state::{ProcedureId, Refusal};

    /// Three of them fill an operation.
    struct Byte(u8);

    impl Item for Byte {
        const PROCEDURE: ProcedureId = ProcedureId(7);
        const MOST: usize = 3;
        type Common = ();
        type Answer = u8;

        fn common((): &(), _: &mut Vec<u8>) {}

        fn write(&self, out: &mut Vec<u8>) {
            out.push(self.0);
        }

        fn answer(body: &[u8], at: usize) -> Option<Result<u8, Refusal>> {
            Some(Ok(*body.get(at)?))
        }
    }

    fn join(calls: &mut Calls, at: u64, items: core::ops::Range<u8>) {
        for item in items {
            calls.join(Time::from_millis(at), TaskId(item.into()), &(), &Byte(item));
        }
    }

    /// What leaves at that time: of each operation its ticket and its items.
    fn leave(calls: &mut Calls, at: u64) -> Vec<(u64, Vec<u8>)> {
        let next = || calls.next(Time::from_millis(at), true);
        let all = core::iter::from_fn(next);
        all.map(|one| {
            assert_eq!(one.items, one.op.len() - 4);
            (one.ticket.0, one.op[4..].to_vec())
        })
        .collect()
    }

    #[test]
    fn what_is_asked_while_others_are_under_way_shares_operations() {
        let mut calls = Calls::default();
        join(&mut calls, 1, 0..1);
        assert_eq!(
            leave(&mut calls, 1),
            [(0, [0].into())],
            "nobody is waited for"
        );
        join(&mut calls, 1, 1..2);
        assert_eq!(leave(&mut calls, 1), [(1, [1].into())]);
        join(&mut calls, 1, 2..4);
        assert_eq!(leave(&mut calls, 1), [], "two are under way");
        join(&mut calls, 2, 4..9);
        let full = [(2, [2, 3, 4].into()), (3, [5, 6, 7].into())];
        assert_eq!(leave(&mut calls, 2), full, "what is full does not wait");
        let mut ready = VecDeque::new();
        for ticket in 0..3 {
            calls.reply(Ticket(ticket), Ok(Vec::new()), &mut ready);
            assert_eq!(leave(&mut calls, 2).len(), usize::from(ticket == 2));
        }
        assert!(ready.iter().eq(&[0, 1, 2, 3, 4].map(TaskId)));
    }

    #[test]
    fn answers_that_do_not_come_hold_others_up_for_a_moment_only() {
        let mut calls = Calls::default();
        for item in 0..2 {
            join(&mut calls, 1, item..item + 1);
            assert_eq!(leave(&mut calls, 1).len(), 1);
        }
        join(&mut calls, 5, 2..3);
        assert_eq!(leave(&mut calls, 6), []);
        assert_eq!(calls.next_due(), Some(Time::from_millis(5) + LONGEST));
        assert_eq!(leave(&mut calls, 7), [(2, [2].into())]);
        assert_eq!(calls.next_due(), None);
        join(&mut calls, 7, 3..4);
        let at_once = calls.next(Time::from_millis(7), false);
        assert_eq!(at_once.map(|one| one.ticket), Some(Ticket(3)));
    }
}
