//! What a closed loop yields, whoever is asked.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::bench::process::Child;

/// How long a loop runs before it counts, and while it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    pub(super) warm: Duration,
    pub(super) counted: Duration,
}

/// Longer ones count as this long.
const LONGEST_NS: u64 = 60_000_000_000;

/// Completed operations, timed.
pub(super) struct Tally {
    times: Histogram<u64>,
    failed: u64,
    began: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            times: Histogram::new_with_bounds(1, LONGEST_NS, 3)?,
            failed: 0,
            began: None,
        })
    }

    /// Counts from now on.
    pub(super) fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// An operation that began at `started` has ended, well or not.
    pub(super) fn add(&mut self, started: Instant, well: bool) {
        if self.began.is_none() {
            return;
        }
        if well {
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.times.saturating_record(nanos);
        } else {
            self.failed += 1;
        }
    }
}

/// Processor times at one moment.
pub(super) struct Meter<'a>(&'a [Child], Vec<Duration>);

impl<'a> Meter<'a> {
    /// Reads them.
    pub(super) fn read(children: &'a [Child]) -> Result<Self> {
        let times: Result<Vec<_>> = children.iter().map(Child::cpu).collect();
        Ok(Self(children, times?))
    }

    /// What each child has used since, by name.
    fn since(&self) -> Result<Vec<(String, Duration)>> {
        let pairs = self.0.iter().zip(&self.1);
        pairs
            .map(|(child, before)| Ok((child.name.clone(), child.cpu()?.saturating_sub(*before))))
            .collect()
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) ops_per_s: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Operations without an outcome.
    pub(super) failed: u64,
    /// Processor time of each process for one operation, microseconds.
    pub(super) cpu_us: Vec<(String, f64)>,
}

impl Sample {
    /// What `tally` counted since it began; `meter` was read at that time.
    pub(super) fn take(tally: &Tally, meter: &Meter<'_>) -> Result<Self> {
        let took = tally.began.map_or(Duration::ZERO, |began| began.elapsed());
        let ops = tally.times.len() as f64;
        let micros = |quantile| tally.times.value_at_quantile(quantile) as f64 / 1000.0;
        let cpu_us = meter
            .since()?
            .into_iter()
            .map(|(name, used)| (name, used.as_secs_f64() * 1e6 / ops.max(1.0)))
            .collect();
        Ok(Self {
            ops_per_s: ops / took.as_secs_f64().max(1e-9),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            failed: tally.failed,
            cpu_us,
        })
    }

    /// What one process used for one operation.
    pub(super) fn cpu_of(&self, name: &str) -> Option<f64> {
        self.cpu_us
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, us)| *us)
    }
}
