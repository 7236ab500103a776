//! When the next publish is due, told for a few nanoseconds.
//!
//! The kernel's clock costs about 20 ns. The processor's counter costs a third; how fast
//! it runs is learned from the pairs of both that publishes need anyway.

use std::time::Duration;

use crate::clock;
use crate::memory::ticks;

/// A rate is believed after this long, and learned anew as often.
const LEARN_NS: u64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Pace {
    every_ns: u64,
    next_ns: u64,
    /// Where the counter stood at some time.
    base: Option<(u64, u64)>,
    /// Counts in a nanosecond, once known.
    rate: Option<f64>,
    /// Before this count nothing is due.
    next_tick: u64,
}

impl Pace {
    pub(crate) fn new(every: Duration) -> Self {
        let now = clock::now();
        Self {
            every_ns: u64::try_from(every.as_nanos()).unwrap_or(u64::MAX),
            next_ns: now,
            base: ticks().map(|count| (count, now)),
            rate: None,
            next_tick: 0,
        }
    }

    /// The time, if something is due. Then the next is due one interval later; intervals
    /// that were missed are not made up for.
    #[inline]
    pub(crate) fn due(&mut self) -> Option<u64> {
        if self.every_ns == 0 {
            return Some(clock::now());
        }
        if self.next_tick != 0 && ticks().is_some_and(|count| count < self.next_tick) {
            return None;
        }
        self.ask_the_clock()
    }

    fn ask_the_clock(&mut self) -> Option<u64> {
        let now = clock::now();
        let due = now >= self.next_ns;
        if due {
            let next = self.next_ns.saturating_add(self.every_ns);
            self.next_ns = if next > now {
                next
            } else {
                now.saturating_add(self.every_ns)
            };
        }
        self.learn(now);
        due.then_some(now)
    }

    fn learn(&mut self, now: u64) {
        let (Some(count), Some((base_count, base_ns))) = (ticks(), self.base) else {
            return;
        };
        let passed = now.saturating_sub(base_ns);
        if passed >= LEARN_NS {
            self.rate = Some(count.saturating_sub(base_count) as f64 / passed as f64);
            self.base = Some((count, now));
        }
        if let Some(rate) = self.rate {
            // Never so far that a wrong rate could silence a writer.
            let wait = self.next_ns.saturating_sub(now).min(100 * LEARN_NS);
            self.next_tick = count + (wait as f64 * rate) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_once_an_interval() {
        let every = Duration::from_micros(200);
        let mut pace = Pace::new(every);
        let start = pace.next_ns;
        let mut times = vec![pace.due().expect("the first is due at once")];
        while times.len() < 50 {
            times.extend(pace.due());
        }
        for (number, time) in (0u64..).zip(&times) {
            let earliest = start + number * 200_000;
            assert!(*time >= earliest, "{number}: {time} < {earliest}");
        }
        let mut eager = Pace::new(Duration::ZERO);
        assert!((0..10).all(|_| eager.due().is_some()));
    }
}
