//! What time it is in the log while nobody stamps.
//!
//! Each stamp says what the time is; between stamps a replica's own clock goes on from
//! the last one. The leader's clock is what a new session begins with, so that log time
//! runs evenly through a change of sequencer, whatever the time of day is at the new one;
//! and it tells whether something that a read would see should have ended meanwhile.
//! Heartbeats carry it, for replicas that have not heard a stamp yet.

use stateplane_base::{LogTime, Time};
use stateplane_state::Application;
use stateplane_wire::group::Entry;

use super::Replica;

/// The last stamp, and when it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Clock {
    last: Option<(LogTime, Time)>,
    /// Our log comes from disk: nobody knows how long ago it was stamped.
    slept: bool,
}

impl Clock {
    /// A stamp of the session in force.
    pub(super) fn stamped(&mut self, now: Time, time: LogTime) {
        if self.last.is_none_or(|(last, _)| time > last) {
            self.last = Some((time, now));
        }
    }

    /// The leader's clock.
    pub(super) fn told(&mut self, now: Time, time: LogTime) {
        if self.read(now).is_none_or(|own| time > own) {
            self.last = Some((time, now));
            self.slept = false;
        }
    }

    /// Another leads, whose clock is the log's from here on: ours may have been told by one
    /// of whom nothing remained.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Our log comes from disk.
    pub(super) fn wake(&mut self) {
        self.slept = true;
    }

    /// The log came from live peers, and this is its time.
    pub(super) fn received(&mut self, now: Time, time: LogTime) {
        if self.last.is_none() && !self.slept && time > LogTime::ZERO {
            self.last = Some((time, now));
        }
    }

    /// The time now, if a stamp was ever heard.
    pub(super) fn read(&self, now: Time) -> Option<LogTime> {
        self.last.map(|(last, then)| last + now.since(then))
    }
}

impl<A: Application> Replica<A> {
    /// The latest time in the log, executed or not.
    pub(super) fn last_stamp(&self) -> LogTime {
        let ahead = (self.executed + 1..=self.log.len()).filter_map(|slot| self.log.get(slot));
        ahead.fold(self.log_time, |latest, entry| match entry {
            Entry::Noop => latest,
            Entry::Value { time, .. } => latest.max(*time),
        })
    }

    /// What the log's time is by our clock; `None` if it is not known.
    pub(super) fn clock(&self, now: Time) -> Option<LogTime> {
        // Who orders without a sequencer sets out from the time of day if nobody knows better.
        let day = || self.config.leader_orders().then(|| self.day(now));
        let clock = self.clock.read(now).or_else(day);
        clock.map(|time| time.max(self.log_time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_last_stamp_and_never_back() {
        let mut clock = Clock::default();
        let (now, log) = (Time::from_millis, LogTime::from_millis);
        assert_eq!(clock.read(now(5)), None);
        clock.told(now(5), log(100));
        clock.stamped(now(10), log(103));
        assert_eq!(clock.read(now(12)), Some(log(105)));
        clock.stamped(now(20), log(102));
        assert_eq!(
            clock.read(now(20)),
            Some(log(113)),
            "an old stamp that was late"
        );
        clock.told(now(20), log(110));
        assert_eq!(clock.read(now(21)), Some(log(114)), "ours is ahead");
    }

    #[test]
    fn the_time_of_a_log_from_disk_is_not_the_time_now() {
        let mut clock = Clock::default();
        clock.wake();
        clock.received(Time::from_millis(1), LogTime::from_millis(7));
        assert_eq!(clock.read(Time::from_millis(2)), None);
        clock.told(Time::from_millis(2), LogTime::from_millis(9));
        assert_eq!(
            clock.read(Time::from_millis(2)),
            Some(LogTime::from_millis(9))
        );
    }
}
