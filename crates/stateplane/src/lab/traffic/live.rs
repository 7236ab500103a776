//! What the two traffic threads and their owner share while they run.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::report::MAX_PHASES;

/// Orders to the threads and counters for whoever watches.
#[derive(Debug)]
pub(crate) struct Live {
    start: Instant,
    phase: AtomicUsize,
    fresh: AtomicBool,
    draining: AtomicBool,
    stop: AtomicBool,
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
