//! Frames through the device: how many a second, and how long one takes.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stateplane_host::bpf::bench::{Load, Range};
use stateplane_host::{ifreq, priority};

use super::device::Running;
use super::placement::{LeftOver, Placement};
use super::report::{Case, Figures};
use crate::bench::Place;
use crate::bench::testbed::{FIRST_HOST, HOSTS, Testbed, frame};

/// Frames under way at most. Small enough for every queue of the kernel's on the path, so
/// that what is measured is work and not loss.
const WINDOW: u32 = 192;
/// The same where frames wait in the rings of a process that has its turn afterwards. Fewer
/// than a worker parks.
const BURST: u32 = 1024;
/// First packets sent at once, where each burst is waited for: as many as there may be. To prepare
/// a call takes the kernel tens of milliseconds, in which the store's nodes have their idle work.
const FIRST: u32 = BURST;
/// Runs of the generator between two looks at the clock, at first.
const RUNS: u32 = 65_536;
/// A call of the kernel's that lasts as long is not worth making longer.
const LONG: Duration = Duration::from_millis(40);
/// Frames that have not arrived after as long never will.
const GONE: Duration = Duration::from_millis(50);
/// The first packets of all flows take so long at most.
const WARM_UP: Duration = Duration::from_secs(90);

/// Generator and sink around a device.
pub(super) struct Drive<'a> {
    bed: &'a Testbed,
    running: &'a Running,
    line: Line,
    flows: u32,
    cpu: usize,
    left_over: LeftOver,
}

/// What the generator's thread works with.
struct Line {
    range: Range,
    /// Runs at once.
    runs: u32,
    /// Every burst is waited for before the next.
    in_bursts: bool,
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        bed: &'a Testbed,
        running: &'a Running,
        case: &Case,
        place: Place,
    ) -> Result<Self> {
        let inline = case.placement == Placement::Inline;
        let waits = inline && case.device.is_in_user_space();
        let (window, runs) = if waits {
            (BURST, BURST)
        } else {
            (WINDOW, RUNS)
        };
        let mut range = bed.generator.run(|| {
            let load = Load {
                frame: frame(case.bytes - 4, FIRST_HOST, case.device.destination()),
                flows: case.flows,
                hosts: HOSTS,
                window,
                ifindex: ifreq::index("g0")?,
                expected: case.device.expected(),
            };
            Range::new(load).map_err(io::Error::other)
        })?;
        let (sink, devices_own) = case.device.sink();
        let space = if devices_own { &bed.device } else { &bed.sink };
        space.run(|| range.attach_sink(sink).map_err(io::Error::other))?;
        Ok(Self {
            bed,
            running,
            line: Line {
                range,
                runs,
                in_bursts: inline,
            },
            flows: case.flows,
            cpu: place.generator,
            left_over: LeftOver::on(place.generator)?,
        })
    }

    /// Sends until every flow is established, twice over.
    pub(super) fn warm_up(&mut self) -> Result<()> {
        let enough = u64::from(self.flows.max(WINDOW)) * 2;
        let until = Instant::now() + WARM_UP;
        self.on_thread(move |line| {
            while line.range.arrived()?.right < enough {
                line.range.run(line.runs.min(enough as u32))?;
                line.settle()?;
                if Instant::now() > until {
                    let arrived = line.range.arrived()?;
                    bail!("{enough} frames should have arrived, but there came {arrived:?}");
                }
            }
            Ok(())
        })
    }

    /// Sends for about `span`.
    pub(super) fn rate(&mut self, span: Duration) -> Result<Figures> {
        let passed = match self.line.in_bursts {
            true => self.with_others(move |line| line.bursts(span))?,
            false => self.on_thread(move |line| line.stream(span))?,
        };
        let Passed {
            right,
            wrong,
            lost,
            time,
        } = passed;
        ensure!(right > 0, "no frame came through; {wrong} were wrong");
        let pps = right as f64 / time.as_secs_f64();
        Ok(Figures::from([
            ("pps", pps),
            ("ns_per_packet", 1e9 / pps),
            ("lost", lost as f64),
            ("wrong", wrong as f64),
        ]))
    }

    /// Everything on one processor: the time that counts is that which it worked for the
    /// packets, in the generator's runs and elsewhere.
    fn with_others(
        &mut self,
        pass: impl FnOnce(&mut Line) -> Result<Passed> + Send,
    ) -> Result<Passed> {
        let (running, left_over) = (self.running, self.left_over);
        let others = move || Ok::<_, anyhow::Error>(running.run_time()? + left_over.run_time()?);
        let before = others()?;
        let mut passed = self.on_thread(pass)?;
        passed.time += others()?.saturating_sub(before);
        Ok(passed)
    }

    /// Sends the first packets of flows, each flow's one, for `span` or until there are no
    /// more flows.
    pub(super) fn first_packets(&mut self, flows: u32, span: Duration) -> Result<Passed> {
        let flows = u64::from(flows);
        if self.line.in_bursts {
            return self.with_others(move |line| line.first_packets(flows, span));
        }
        let begun = Instant::now();
        let passed = self.on_thread(move |line| {
            // While the window is full the generator looks at it again and again. That is no work of
            // anybody's, and must not keep the store's nodes on its processor from theirs.
            priority::set_idle()?;
            line.first_packets(flows, span)
        })?;
        Ok(Passed {
            time: begun.elapsed(),
            ..passed
        })
    }

    /// Sends `count` packets, one at a time.
    pub(super) fn latency(&mut self, count: u32) -> Result<Figures> {
        let mut times = self.on_thread(move |line| {
            line.range.set_timed(true)?;
            for _ in 0..count + count / 10 {
                line.range.run(1)?;
                line.settle()?;
            }
            let times = line.range.times()?;
            line.range.set_timed(false)?;
            Ok(times)
        })?;
        times.drain(..times.len() / 11); // until everything has its place in the caches
        ensure!(!times.is_empty(), "no packet came through");
        times.sort_unstable();
        let at = |share: f64| f64::from(times[(times.len() as f64 * share) as usize]);
        Ok(Figures::from([("p50_ns", at(0.5)), ("p99_ns", at(0.99))]))
    }

    /// Works with the generator on its processor.
    fn on_thread<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Line) -> Result<T> + Send,
    ) -> Result<T> {
        let (line, cpu) = (&mut self.line, self.cpu);
        self.bed
            .generator
            .run(move || {
                priority::pin_to(cpu)?;
                Ok(work(line))
            })
            .context("the generator's thread")?
    }
}

/// Frames that went through, and in which time.
pub(super) struct Passed {
    pub(super) right: u64,
    wrong: u64,
    lost: u64,
    time: Duration,
}

impl Passed {
    /// Of first packets.
    pub(super) fn figures(&self) -> Figures {
        Figures::from([
            ("flows_per_s", self.right as f64 / self.time.as_secs_f64()),
            ("flows_passed", self.right as f64),
            ("lost", self.lost as f64),
        ])
    }
}

impl Line {
    /// Each burst is over before the next begins.
    fn bursts(&mut self, span: Duration) -> Result<Passed> {
        let start = self.range.arrived()?;
        let (mut time, mut lost) = (Duration::ZERO, 0);
        let end = Instant::now() + span;
        while Instant::now() < end {
            time += self.range.run(self.runs)?;
            lost += self.settle()?;
        }
        let end = self.range.arrived()?;
        Ok(Passed {
            right: end.right - start.right,
            wrong: end.wrong - start.wrong,
            lost,
            time,
        })
    }

    /// Every frame is its flow's first. The time is that of the generator's runs.
    fn first_packets(&mut self, flows: u64, span: Duration) -> Result<Passed> {
        self.range
            .set_window(if self.in_bursts { BURST } else { WINDOW })?;
        self.range.set_most(flows)?;
        let (start, given_up) = (self.range.arrived()?, self.range.given_up());
        let until = Instant::now() + span;
        let time = match self.in_bursts {
            true => self.first_bursts(flows, until)?,
            false => self.first_stream(flows, until)?,
        };
        self.settle()?;
        let end = self.range.arrived()?;
        Ok(Passed {
            right: end.right - start.right,
            wrong: end.wrong - start.wrong,
            lost: self.range.given_up() - given_up,
            time,
        })
    }

    /// As many as may be under way, and again when all have arrived.
    fn first_bursts(&mut self, flows: u64, until: Instant) -> Result<Duration> {
        let (mut sent, mut time) = (self.range.sent()?, Duration::ZERO);
        while sent < flows && Instant::now() < until {
            let there = self.range.arrived()?.right + self.range.given_up();
            if sent.saturating_sub(there) + u64::from(FIRST) <= u64::from(BURST) {
                time += self.range.run(FIRST)?;
            } else {
                thread::yield_now();
            }
            sent = self.range.sent()?;
        }
        Ok(time)
    }

    /// The window is kept full. The kernel prepares each call for tens of milliseconds, in which
    /// nothing is sent: few calls, and after a first one as long as there is time.
    fn first_stream(&mut self, flows: u64, until: Instant) -> Result<Duration> {
        let (mut time, mut runs) = (Duration::ZERO, RUNS);
        while self.range.sent()? < flows && Instant::now() < until {
            let begun = Instant::now();
            time += self.range.run(runs)?;
            let left = until.saturating_duration_since(Instant::now());
            let times = left.as_secs_f64() / begun.elapsed().as_secs_f64();
            runs = (f64::from(runs) * times).max(1.0) as u32;
        }
        Ok(time)
    }

    /// The window is kept full, but for the kernel's preparations between calls.
    fn stream(&mut self, span: Duration) -> Result<Passed> {
        while self.range.run(self.runs)? < LONG && self.runs < u32::MAX / 2 {
            self.runs *= 2;
        }
        let (start, given_up) = (self.range.arrived()?, self.range.given_up());
        let begun = Instant::now();
        while begun.elapsed() < span {
            self.range.run(self.runs)?;
        }
        let (end, time) = (self.range.arrived()?, begun.elapsed());
        self.settle()?;
        Ok(Passed {
            right: end.right - start.right,
            wrong: end.wrong - start.wrong,
            lost: self.range.given_up() - given_up,
            time,
        })
    }

    /// Waits until what is under way has arrived, or never will: how many frames that is.
    fn settle(&mut self) -> Result<u64> {
        let sent = self.range.sent()?;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let there = self.range.arrived()?.right + self.range.given_up();
            if there >= sent {
                return Ok(0);
            }
            if there != last {
                (last, since) = (there, Instant::now());
            } else if since.elapsed() > GONE {
                return Ok(self.range.give_up()?);
            }
            thread::yield_now();
        }
    }
}
