//! The log's clock: the time of day, made monotone.

use stateplane_base::LogTime;

/// Follows the time of day but never runs backwards: when the machine's clock is
/// set back, log time creeps on by a nanosecond a reading until the day catches up.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogClock {
    last: LogTime,
}

impl LogClock {
    /// The log time now.
    pub fn now(&mut self) -> LogTime {
        self.read(stateplane_host::clock::wall())
    }

    fn read(&mut self, wall: LogTime) -> LogTime {
        let next = LogTime::from_nanos(self.last.as_nanos().saturating_add(1));
        self.last = wall.max(next);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_time_rises_whatever_the_day_does() {
        let mut clock = LogClock::default();
        let walls = [100, 101, 101, 50, 103, 200].map(LogTime::from_millis);
        let read = walls.map(|wall| clock.read(wall));
        assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
        assert_eq!(read[5], LogTime::from_millis(200));
    }
}
