//! What the two traffic threads and their owner share while they run.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::report::MAX_PHASES;

/// A thread that was to run and did not for as long was kept from it: by whoever had the processor.
const STALL_NS: u64 = 2_000_000;

/// The two threads, by whom stalls are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Client,
    Server,
}

/// A moment, and how long each thread had been stalled until then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) now_ns: u64,
    pub(crate) phase: usize,
    stalled_ns: [u64; 2],
}

impl Moment {
    /// The time since `earlier`, and what is left of it without our own stalls: those of the thread
    /// that was stalled longer, since both may have been at once.
    pub(crate) fn since(&self, earlier: &Moment) -> [u64; 2] {
        let whole = self.now_ns.saturating_sub(earlier.now_ns);
        let stalls = self.stalled_ns.iter().zip(earlier.stalled_ns);
        let stalled = stalls.map(|(now, then)| now - then).max().unwrap_or(0);
        [whole, whole.saturating_sub(stalled)]
    }
}

/// Orders to the threads and counters for whoever watches.
#[derive(Debug)]
pub(crate) struct Live {
    start: Instant,
    phase: AtomicUsize,
    fresh: AtomicBool,
    draining: AtomicBool,
    stop: AtomicBool,
    stalled_ns: [AtomicU64; 2],
    pub(crate) delivered: AtomicU64,
    pub(crate) long_ready: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) broken: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) remapped: AtomicU64,
    pub(crate) delayed: AtomicU64,
}

impl Live {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            start: Instant::now(),
            phase: AtomicUsize::new(0),
            fresh: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            stalled_ns: [zero(), zero()],
            delivered: zero(),
            long_ready: zero(),
            opened: zero(),
            completed: zero(),
            broken: zero(),
            failed: zero(),
            remapped: zero(),
            delayed: zero(),
        }
    }

    /// The clock of all traffic: nanoseconds since its start.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A thread runs again, so much later than it was to.
    pub(crate) fn note_stall(&self, end: End, late_ns: u64) {
        if late_ns >= STALL_NS {
            self.stalled_ns[end as usize].fetch_add(late_ns, Relaxed);
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            now_ns: self.now_ns(),
            phase: self.phase(),
            stalled_ns: [0, 1].map(|end: usize| self.stalled_ns[end].load(Relaxed)),
        }
    }

    /// 0 = opening, 1 = steady, n + 1 = after the n-th fault.
    pub(crate) fn phase(&self) -> usize {
        self.phase.load(Relaxed)
    }

    /// A fault is about to happen: gaps that end later belong to it.
    pub(crate) fn next_phase(&self) {
        let _ = self
            .phase
            .fetch_update(Relaxed, Relaxed, |p| Some((p + 1).min(MAX_PHASES - 1)));
    }

    pub(crate) fn set_fresh(&self, on: bool) {
        self.fresh.store(on, Relaxed);
    }

    pub(crate) fn fresh(&self) -> bool {
        self.fresh.load(Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.set_fresh(false);
        self.draining.store(true, Relaxed);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Silence;
    use super::*;

    #[test]
    fn our_own_stalls_are_no_silence_of_the_device() {
        const MS: u64 = 1_000_000;
        let live = Live::new();
        let at = |now_ns: u64| Moment {
            now_ns,
            phase: 1,
            ..live.moment()
        };
        let mut silence = Silence::default();
        silence.end(&at(10 * MS));
        // A turn that is a little late is none; the longer of two that may have been at once counts.
        live.note_stall(End::Client, MS);
        live.note_stall(End::Client, 30 * MS);
        live.note_stall(End::Server, 20 * MS);
        silence.end(&at(60 * MS));
        assert_eq!(
            (silence.whole.get(1), silence.beyond.get(1)),
            (50 * MS, 20 * MS)
        );
        // More than the whole: they began before.
        live.note_stall(End::Server, 20 * MS);
        silence.end(&at(70 * MS));
        assert_eq!(
            (silence.whole.get(1), silence.beyond.get(1)),
            (50 * MS, 20 * MS)
        );
        silence.close(&at(125 * MS), 0);
        assert_eq!(
            (silence.whole.get(1), silence.beyond.get(1)),
            (55 * MS, 55 * MS)
        );
    }
}
