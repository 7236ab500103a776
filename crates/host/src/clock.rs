//! The two clocks: the node's own, and the world's.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
use stateplane_base::{LogTime, Time};

/// This node's monotonic clock. It also runs while the machine is being debugged,
/// but not while it sleeps.
pub fn now() -> Time {
    Time::from_nanos(nanos(clock_gettime(ClockId::Monotonic)))
}

/// The time of day. May jump.
pub fn wall() -> LogTime {
    LogTime::from_nanos(nanos(clock_gettime(ClockId::Realtime)))
}

/// The steps in which the kernel's coarse clocks advance.
pub fn tick() -> Duration {
    Duration::from_nanos(nanos(clock_getres(ClockId::MonotonicCoarse)))
}

/// A clock set before 1970 counts as 1970; 64 bits last until 2554.
fn nanos(at: Timespec) -> u64 {
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let rest = u64::try_from(at.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = now();
        assert!((0..1000).map(|_| now()).is_sorted());
        assert!(now() >= first);
    }

    #[test]
    fn ticks_are_those_of_a_kernel() {
        let usual = Duration::from_micros(900)..=Duration::from_millis(10);
        assert!(usual.contains(&tick()), "{:?}", tick());
    }

    #[test]
    fn the_wall_clock_agrees_with_the_standard_library() {
        let ours = wall().as_nanos();
        let theirs = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        assert!(theirs.abs_diff(u128::from(ours)) < 1_000_000_000);
    }
}
