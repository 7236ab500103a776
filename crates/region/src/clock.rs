//! The two clocks of a version: this machine's, and the day's.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of the clock that all processes of a machine share and nobody sets.
#[inline]
pub(crate) fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds of the time of day; comparable between machines as far as their clocks are.
pub(crate) fn day() -> u64 {
    nanos(clock_gettime(ClockId::Realtime))
}

#[inline]
fn nanos(at: Timespec) -> u64 {
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let rest = u64::try_from(at.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
