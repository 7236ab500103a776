//! Waiting for sockets and for points in time, for one thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// Names a socket and the user of its slot, so that a late event of a closed
/// socket is not taken for one of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Token {
    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    fn unpack(data: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self {
            index: data as u32,
            generation: (data >> 32) as u32,
        }
    }
}

/// An edge-triggered epoll set (epoll(7)).
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(512),
        })
    }

    /// Watches for input, and once for the end of a connection attempt.
    pub(crate) fn add(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(token.pack()), flags)?;
        Ok(())
    }

    /// Waits at most `limit` and returns who has something to say.
    pub(crate) fn wait(&mut self, limit: Duration, ready: &mut Vec<Token>) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        self.events.clear();
        ready.clear();
        let space = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, space, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        ready.extend(self.events.iter().map(|e| Token::unpack(e.data.u64())));
        Ok(())
    }
}

/// What is due when, in whole milliseconds: many flows share one wake-up.
#[derive(Default)]
pub(crate) struct Agenda {
    entries: BinaryHeap<Reverse<(u64, Token)>>,
}

const TICK_NS: u64 = 1_000_000;

impl Agenda {
    /// Rounds up to the tick; returns the time under which it is booked.
    pub(crate) fn book(&mut self, at_ns: u64, token: Token) -> u64 {
        let due = at_ns.div_ceil(TICK_NS) * TICK_NS;
        self.entries.push(Reverse((due, token)));
        due
    }

    /// The next entry due by now.
    pub(crate) fn pop(&mut self, now_ns: u64) -> Option<(u64, Token)> {
        let Reverse(first) = self.entries.peek()?;
        if first.0 > now_ns {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| entry)
    }

    /// How long nothing is due, at most `limit`.
    pub(crate) fn idle(&self, now_ns: u64, limit: Duration) -> Duration {
        match self.entries.peek() {
            Some(Reverse((due, _))) => Duration::from_nanos(due.saturating_sub(now_ns)).min(limit),
            None => limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_due_in_order_and_on_ticks() {
        let token = |index| Token {
            index,
            generation: u32::MAX,
        };
        let mut agenda = Agenda::default();
        assert_eq!(agenda.book(2_500_000, token(2)), 3_000_000);
        agenda.book(1_000_000, token(1));
        assert_eq!(
            agenda.idle(0, Duration::from_secs(1)),
            Duration::from_millis(1)
        );
        assert_eq!(agenda.pop(999_999), None);
        assert_eq!(agenda.pop(3_000_000), Some((1_000_000, token(1))));
        assert_eq!(agenda.pop(3_000_000), Some((3_000_000, token(2))));
        assert_eq!(agenda.pop(u64::MAX), None);
        assert_eq!(Token::unpack(token(5).pack()), token(5));
    }
}
