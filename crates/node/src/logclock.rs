//! The log's clock: begins with the time of day and runs evenly from then on.
//!
//! The time of day may be set while we run, by hours where a machine starts without a
//! clock of its own. What expires by log time would then expire all at once, and ports
//! would come out of quarantine while caches, which count on clocks that do not jump,
//! still believe in their former use.

use stateplane_base::{LogTime, Time};
use stateplane_host::clock;

/// The time of day at its first reading plus what the node's own clock counted since.
/// Every reading is later than the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogClock {
    began: Option<(LogTime, Time)>,
    last: LogTime,
}

impl LogClock {
    /// The log time now.
    pub fn now(&mut self) -> LogTime {
        self.read(clock::wall(), clock::now())
    }

    fn read(&mut self, wall: LogTime, now: Time) -> LogTime {
        let (day, then) = *self.began.get_or_insert((wall, now));
        let next = LogTime::from_nanos(self.last.as_nanos().saturating_add(1));
        self.last = next.max(day + now.since(then));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_runs_evenly_whatever_the_day_does() {
        let mut clock = LogClock::default();
        let days = [100, 101, 50, 102, 9_000_000].map(LogTime::from_millis);
        let nows = [7, 8, 8, 10, 11].map(Time::from_millis);
        let read = [0, 1, 2, 3, 4].map(|i| clock.read(days[i], nows[i]));
        assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
        assert_eq!(read[0], LogTime::from_millis(100));
        assert_eq!(read[4], LogTime::from_millis(104));
    }
}
