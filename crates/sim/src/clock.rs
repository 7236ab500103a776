//! A node's own clock: another origin and another rate than true time.
use stateplane_base::Time;

/// Turns true (virtual) nanoseconds into one node's [`Time`] and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeClock {
    origin: u64,
    /// Local nanoseconds per 2^20 true nanoseconds.
    rate: u64,
}

const UNIT: u64 = 1 << 20;

impl NodeClock {
    /// A clock that shows `origin` at true time zero and runs at `rate` times
    /// true speed.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    pub(crate) fn new(origin: u64, rate: f64) -> Self {
        let rate = (rate * UNIT as f64) as u64;
        assert!(rate > 0, "a clock that stands still fires no timer");
        Self { origin, rate }
    }

    /// The clock goes forward at once.
    pub(crate) fn leap(&mut self, by: u64) {
        self.origin += by;
    }

    /// What the node reads at true time `now`.
    pub(crate) fn local(&self, now: u64) -> Time {
        let passed = match now.checked_mul(self.rate) {
            Some(product) => product / UNIT,
            None => u64::try_from(u128::from(now) * u128::from(self.rate) / u128::from(UNIT))
                .expect("a run is short"),
        };
        Time::from_nanos(self.origin + passed)
    }

    /// The first true time at which the node reads `at` or later; `None` for
    /// a time that never comes.
    pub(crate) fn truth(&self, at: Time) -> Option<u64> {
        let wait = at.as_nanos().saturating_sub(self.origin);
        // Nearly all waits are short, and a division of 64 bits is much the cheaper.
        if let Some(product) = wait.checked_mul(UNIT) {
            return Some(product.div_ceil(self.rate));
        }
        let product = u128::from(wait) * u128::from(UNIT);
        let true_time = product.div_ceil(u128::from(self.rate));
        u64::try_from(true_time).ok().filter(|t| *t < u64::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_fires_early_and_at_most_a_tick_late() {
        for rate in [0.5, 0.999, 1.0, 1.25, 2.0] {
            let clock = NodeClock::new(77, rate);
            for at in [77, 78, 1_000_077, 123_456_789] {
                let due = clock.truth(Time::from_nanos(at)).expect("soon");
                assert!(clock.local(due).as_nanos() >= at);
                assert!(due == 0 || clock.local(due - 1).as_nanos() < at);
            }
        }
        assert_eq!(NodeClock::new(0, 1.0).truth(Time::MAX), None);
    }
}
