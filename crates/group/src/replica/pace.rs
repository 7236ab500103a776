//! How long a gap is waited for before it is asked about, and how long before that is
//! repeated. Both are learned. A fixed wait is either too short for a network that reorders
//! or, after each loss, holds up everything behind it: at 1 % loss, waiting a millisecond costs
//! three quarters of the throughput. (TCP learns the same two things: RFC 8985, section 6.2;
//! RFC 6298.)

use core::time::Duration;

use stateplane_base::Time;
use stateplane_wire::group::Slot;

use crate::Timing;
use crate::round_trip::RoundTrip;

/// A question about a gap that was asked once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Question {
    at: Time,
    /// Repeated, its answer measures nothing (Karn).
    repeated: bool,
}

/// What was learned of gaps.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Pace {
    /// How long a missing slot is waited for. Begins with nothing: then it is asked for as soon
    /// as all that arrived together was looked at.
    wait: Duration,
    /// The last gap: since when, its first slot and the last known then.
    gap: Option<(Time, Slot, Slot)>,
    asked: Option<Question>,
    /// The last slot that was asked for.
    upto: Slot,
    round_trip: RoundTrip,
}

impl Pace {
    /// Slots are missing. Says how long to wait for them.
    pub(super) fn notice(&mut self, now: Time, from: Slot, to: Slot) -> Duration {
        self.gap = Some((now, from, to));
        self.wait
    }

    /// A slot came from the sequencer: was it late?
    pub(super) fn arrived(&mut self, now: Time, slot: Slot, timing: &Timing) {
        let Some((since, from, to)) = self.gap else {
            return;
        };
        let late = now.since(since);
        if (from..=to).contains(&slot) && late <= timing.reorder {
            self.wait = self.wait.max((late * 2).min(timing.reorder));
        }
    }

    /// The gap is asked about, up to a slot. Says when to ask again.
    pub(super) fn ask(&mut self, now: Time, upto: Slot, timing: &Timing) -> Time {
        let repeated = self.asked.is_some() && self.upto == upto;
        self.upto = upto;
        if !repeated {
            // It was waited for in vain, perhaps.
            self.wait -= self.wait / 16;
        }
        self.asked = Some(Question { at: now, repeated });
        self.again(now, timing)
    }

    /// An answer came.
    pub(super) fn answer(&mut self, now: Time) {
        if let Some(question) = self.asked.take().filter(|q| !q.repeated) {
            self.round_trip.measured(now.since(question.at));
        }
    }

    /// When what was asked now is to be repeated.
    pub(super) fn again(&self, now: Time, timing: &Timing) -> Time {
        let most = timing.gap_retry;
        let late = self.round_trip.late();
        now + late.map_or(most, |late| late.clamp(most / 16, most))
    }

    /// Whether all that was asked for lies before `slot`.
    pub(super) const fn passed(&self, slot: Slot) -> bool {
        slot > self.upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn at(n: u64) -> Time {
        Time::ZERO + us(n)
    }

    #[test]
    fn waits_as_long_as_messages_are_late_and_no_longer() {
        let timing = Timing::default();
        let mut pace = Pace::default();
        assert_eq!(
            pace.notice(at(0), 5, 6),
            us(0),
            "nothing is known to be late"
        );
        pace.arrived(at(40), 7, &timing);
        assert_eq!(pace.notice(at(100), 8, 9), us(0), "7 came in its turn");
        pace.arrived(at(130), 9, &timing);
        assert_eq!(pace.notice(at(200), 11, 11), us(60), "9 was 30 us late");
        pace.arrived(at(5_000), 11, &timing);
        assert_eq!(
            pace.notice(at(6_000), 12, 12),
            us(60),
            "too late to be waited for"
        );
        for n in 0..200 {
            pace.notice(at(n), n, n);
            pace.ask(at(n), n, &timing);
        }
        assert!(pace.notice(at(0), 1, 1) < us(1), "all were lost");
    }

    #[test]
    fn asks_again_after_some_round_trips() {
        let timing = Timing::default();
        let mut pace = Pace::default();
        let patience = |pace: &mut Pace, now, upto| pace.ask(now, upto, &timing).since(now);
        assert_eq!(patience(&mut pace, at(0), 5), timing.gap_retry);
        assert_eq!(patience(&mut pace, at(3_000), 5), timing.gap_retry);
        pace.answer(at(3_001));
        assert_eq!(patience(&mut pace, at(4_000), 9), timing.gap_retry, "Karn");
        pace.answer(at(4_200));
        assert_eq!(patience(&mut pace, at(5_000), 12), us(600));
        assert!(pace.passed(13) && !pace.passed(12));
    }
}
