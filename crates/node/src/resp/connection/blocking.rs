//! `BLPOP` and its like: a command that is asked again until there is something to pop.

use std::time::Duration;

use stateplane_base::Time;
use stateplane_state::Refusal;
use stateplane_state::builtin::redis::codec;
use stateplane_state::builtin::redis::{Command, timeout};
use stateplane_state::op::{self, ReplyError};

use super::super::batch::{Batch, TooLarge};
use super::super::reply;
use super::super::waiting;
use super::words::{Words, too_large};
use super::{Connection, Next, Purpose, Sizes};
use crate::client::Missed;

/// Between askings, at first and at last.
const SOON: Duration = Duration::from_millis(5);
const LATE: Duration = Duration::from_millis(100);

/// A command that waits.
#[derive(Debug)]
pub(in super::super) struct Blocked {
    keys: Vec<u64>,
    deadline: Option<Time>,
    /// Its place in the queue, once it has one.
    since: Option<u64>,
    /// When to ask again: nothing is under way.
    again: Option<Time>,
    pause: Duration,
    /// It is asked as a read: it takes a slot only if there is something.
    reads: bool,
}

impl Connection {
    /// Takes a command that may wait. Nothing is taken after it until it is done.
    pub(super) fn ask_waiting(
        &mut self,
        command: Command,
        words: Words<'_>,
        sizes: Sizes,
        now: Time,
    ) -> Next {
        if !self.batch.is_empty() {
            return Next::Wait;
        }
        let last = words.arguments().last().unwrap_or_default();
        let patience = match timeout(last) {
            Ok(patience) => patience,
            Err(text) => return self.refuse(|out| reply::error(text, out)),
        };
        if self.batch.push(command, words.arguments(), sizes.most) == Err(TooLarge) {
            return self.refuse(|out| too_large(sizes, out));
        }
        let sources = match command {
            Command::BLPop | Command::BRPop => words.len() - 2,
            _ => 1,
        };
        let keys = words.arguments().take(sources).map(waiting::number);
        self.purpose = Purpose::Wait(Blocked {
            keys: keys.collect(),
            deadline: (patience > Duration::ZERO).then(|| now + patience),
            since: None,
            again: None,
            pause: SOON,
            reads: false,
        });
        Next::Last
    }

    /// Whether it waits, and nothing is under way.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(&self.purpose, Purpose::Wait(blocked) if blocked.again.is_some())
    }

    /// Whether its operation is asked for as a read.
    pub(super) fn waits_reading(&self) -> bool {
        matches!(&self.purpose, Purpose::Wait(blocked) if blocked.reads)
    }

    /// When it asks again, since when it waits, and for what; `None` if it does not wait.
    pub(in super::super) fn waits(&mut self) -> Option<(Time, &mut Option<u64>, &[u64])> {
        match &mut self.purpose {
            Purpose::Wait(blocked) => Some((blocked.again?, &mut blocked.since, &blocked.keys[..])),
            _ => None,
        }
    }

    /// It is to ask again; at once for a slot if there should be something.
    pub(in super::super) fn awake(&mut self, pushed: bool) {
        if let Purpose::Wait(blocked) = &mut self.purpose {
            blocked.again = None;
            blocked.reads = !pushed;
        }
    }

    /// Whether the command goes on waiting after what the store said; then all is as before.
    pub(super) fn goes_on_waiting(
        &mut self,
        now: Time,
        batch: &mut Batch,
        blocked: &mut Blocked,
        result: Result<&[u8], Missed>,
    ) -> bool {
        let nothing = match result.map(op::decode_reply) {
            Ok(Ok(body)) => codec::split_reply(body)
                .is_some_and(|(_, said)| [&b"_\r\n"[..], b"*-1\r\n"].contains(&said)),
            Ok(Err(ReplyError::Refused(Refusal::NotARead))) => {
                // There is something: now in earnest.
                blocked.reads = false;
                self.wait_on(batch, blocked);
                return true;
            }
            // A read that nobody answered changed nothing.
            Err(_) => blocked.reads,
            Ok(Err(_)) => false,
        };
        if !nothing {
            return false;
        }
        if blocked.deadline.is_some_and(|deadline| deadline <= now) {
            reply::nil_array(self.session.protocol, &mut self.link.output);
            return true;
        }
        // Who has gone must not be given anything.
        self.link.dead |= self.link.ended;
        let again = now + blocked.pause;
        blocked.again = Some(
            blocked
                .deadline
                .map_or(again, |deadline| again.min(deadline)),
        );
        blocked.pause = (blocked.pause * 2).min(LATE);
        blocked.reads = true;
        self.wait_on(batch, blocked);
        true
    }

    fn wait_on(&mut self, batch: &mut Batch, blocked: &mut Blocked) {
        self.batch = std::mem::take(batch);
        self.purpose = Purpose::Wait(Blocked {
            keys: std::mem::take(&mut blocked.keys),
            ..*blocked
        });
    }
}
