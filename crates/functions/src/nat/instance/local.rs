//! Mappings from the store's committed tables on this machine, instead of a round trip.
//!
//! # Why that is as safe as asking
//!
//! A mapping never changes while it lives, and its outside endpoint rests for
//! [`QUARANTINE`](crate::nat::procedures::QUARANTINE) after its end, in log time. The store answers a
//! request that was sent at our time s with a mapping that is alive at log time N. The answer is used
//! until s plus [`CACHE_LEASE`](super::config::CACHE_LEASE) at most: the log's clock showed N at s or
//! later, so until then it shows at most N plus the lease, which is less than N plus the quarantine.
//!
//! A row of the local copy says: at log time L this mapping was alive; what is final never becomes
//! untrue. Any answer (N, s) of the store tells how log time and ours belong together. The row is
//! treated as the answer, at log time L, to a request that was *sent at s + (L - N)*, and so is used
//! until s + (L - N) plus the lease at most. Until then the log's clock shows at most
//! N + (L - N) plus the lease: L plus the lease, and everything that holds for an answer holds
//! here, whatever the copy's age. If the copy is old, because its replica was cut off or stopped,
//! that moment lies so far back that the row is of no use.
//!
//! What is assumed of the log's clock is what is assumed of it anyway: that between the answer
//! (N, s) and the end of the row's use it does not run ahead of ours by as much as quarantine and
//! lease differ. Answers used for this are [`READING`] old at most.
//!
//! A row does not keep its mapping alive, as `nat.bind` would. So it is used only if it has so long
//! to live, or to be believed, that the usual refresh comes in time.

use core::time::Duration;

use stateplane_base::{LogTime, Time};
use stateplane_flow::{Endpoint, Protocol};

use super::State;
use crate::context::Context;
use crate::nat::ops::Mapping;
use crate::nat::procedures::read;

/// The oldest answer that the log's time is computed from.
const READING: Duration = Duration::from_secs(30);
/// A copy further behind the log is not used: its replica is in trouble.
const BEHIND: Duration = Duration::from_secs(10);
/// What a row must be good for, at least.
const LEFT: Duration = Duration::from_secs(10);

/// The log's clock, as the store's last answer showed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Reading(Option<(Time, LogTime)>);

impl Reading {
    /// The store answered at log time `at` to a request sent at `sent`.
    pub(super) fn note(&mut self, sent: Time, at: LogTime) {
        if self.0.is_none_or(|(last, _)| sent >= last) {
            self.0 = Some((sent, at));
        }
    }

    /// Our own time before which the log's clock did not show `at`.
    fn earliest(self, now: Time, at: LogTime) -> Option<Time> {
        let (sent, shown) = self.0?;
        if now.since(sent) > READING {
            return None;
        }
        if at >= shown {
            return Some(sent + at.since(shown));
        }
        let back = shown.since(at);
        let nanos = sent
            .as_nanos()
            .checked_sub(u64::try_from(back.as_nanos()).ok()?)?;
        Some(Time::from_nanos(nanos))
    }
}

/// How often the local copy was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalTally {
    /// It had the mapping.
    pub hits: u64,
    /// It had not, or nothing of use: the store was asked.
    pub misses: u64,
}

/// An answer that the store did not have to give.
pub(super) struct Answer {
    /// When a request for it would have been sent, and at which log time it would have been answered.
    pub(super) sent: Time,
    pub(super) now: LogTime,
    pub(super) mapping: Mapping,
}

impl State {
    /// The mapping an inside endpoint has.
    pub(super) fn local_by_inside(
        &mut self,
        cx: &Context,
        protocol: Protocol,
        inside: Endpoint,
    ) -> Option<Answer> {
        let tables = cx.local()?;
        let seen = read::by_inside(&*tables, protocol, inside);
        self.judge(cx.now(), seen)
    }

    /// The mapping an outside endpoint belongs to.
    pub(super) fn local_by_outside(
        &mut self,
        cx: &Context,
        protocol: Protocol,
        outside: Endpoint,
    ) -> Option<Answer> {
        let tables = cx.local()?;
        let seen = read::by_outside(&*tables, protocol, outside);
        self.judge(cx.now(), seen)
    }

    fn judge(&mut self, now: Time, seen: Option<read::Seen>) -> Option<Answer> {
        let answer = seen.and_then(|(mapping, at)| {
            let sent = self.reading.earliest(now, at)?.min(now);
            let left = mapping.expires.since(at).min(self.config.cache_lease);
            let enough = LEFT.min(self.config.cache_lease / 2);
            let useful = now.since(sent) <= BEHIND && sent + left >= now + enough;
            useful.then_some(Answer {
                sent,
                now: at,
                mapping,
            })
        });
        match answer {
            Some(_) => self.local.hits += 1,
            None => self.local.misses += 1,
        }
        answer
    }
}
