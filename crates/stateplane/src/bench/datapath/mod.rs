//! `stateplane bench datapath`: what a packet costs, beside the kernel's own devices and
//! beside what programs of our kind can reach at most, in one run.
//!
//! ```text
//!   generator g0 ──── lan0 [ device ] wan0 ──── s0 sink
//! ```
//! * `device`, `rules`, `l2fwd`, `node`: what stands in the middle
//! * `placement`, `drive`: which processor does what; frames through the device
//! * `flows`, `profile`: new flows, and what each process does for one; `traffic`: TCP and HTTP
//! * `ratios`, `report`, `plot`: what is wanted; medians, table, picture

mod conntrack;
mod device;
mod drive;
mod flows;
mod l2fwd;
mod node;
mod placement;
mod plot;
mod profile;
mod ratios;
mod report;
mod rules;
mod traffic;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::conntrack::Conntrack;
use self::device::Device;
use self::drive::Drive;
use self::placement::Placement;
use self::report::{Case, Report, Results};
use super::testbed::Testbed;
use super::{Place, goals};

/// Options of `bench datapath`.
#[derive(Debug, Args)]
pub(crate) struct DatapathArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each rate measurement.
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Measure these parts only.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure these devices only.
    #[arg(long, value_enum, value_delimiter = ',')]
    devices: Vec<Device>,
    /// Few, some and many flows.
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [1, 10_000, 1_000_000])]
    flows: Vec<u32>,
    /// One short round with fewer flows, to see that everything works: the figures mean
    /// nothing.
    #[arg(long)]
    quick: bool,
    /// Draw packets a second over flows into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    /// Packets a second of processor time: generator, device and sink on one processor.
    Inline,
    /// Packets a second of a device on a processor of its own.
    Cross,
    /// The way of one packet of an established flow.
    Latency,
    /// First packets of flows a second.
    NewFlows,
    /// TCP goodput by iperf3.
    Tcp,
    /// HTTP requests a second by wrk.
    Http,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Cross => "cross",
            Self::Latency => "latency",
            Self::NewFlows => "new-flows",
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

/// Bytes of a frame on a wire, with the four of its checksum.
const SMALL: u32 = 64;
const LARGE: u32 = 1400;

/// How much is measured.
#[derive(Clone, Debug)]
struct Scale {
    rounds: u32,
    span: Duration,
    /// Few, some, many.
    flows: Vec<u32>,
    /// Packets of a latency measurement.
    pings: u32,
    /// Seconds of TCP and HTTP.
    traffic: Duration,
}

impl Scale {
    fn of(args: &DatapathArgs) -> Result<Self> {
        if args.quick {
            return Ok(Self {
                rounds: 1,
                span: Duration::from_millis(40),
                flows: vec![1, 500, 4_000],
                pings: 200,
                traffic: Duration::from_secs(1),
            });
        }
        // Ports of 1,024 addresses from 10,000 on.
        const MOST: u32 = 32_000_000;
        if args.flows.is_empty() || args.flows.iter().any(|n| !(1..=MOST).contains(n)) {
            bail!("--flows: 1 to {MOST} flows are possible");
        }
        Ok(Self {
            rounds: args.rounds.max(1),
            span: Duration::try_from_secs_f64(args.seconds).context("--seconds")?,
            flows: args.flows.clone(),
            pings: 4_000,
            traffic: Duration::from_secs(3),
        })
    }

    /// At which number of flows large frames are measured, too: the middle one.
    fn middle(&self) -> u32 {
        self.flows[self.flows.len() / 2]
    }
}

/// Measures and prints.
pub(super) fn run(args: &DatapathArgs) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first ends the run in good order, the second at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut bench = Bench {
        place: Place::choose()?,
        scale: Scale::of(args)?,
        parts: args.only.clone(),
        devices: args.devices.clone(),
        results: Results::default(),
        stop,
    };
    bench.check()?;
    let most = bench.scale.flows.iter().copied().max().unwrap_or(1);
    let _conntrack = Conntrack::make_room(most)?;
    bench.measure()?;
    let report = Report::new(&bench.results, bench.place, &bench.scale.flows, args.quick)?;
    if let Some(path) = &args.plot {
        plot::draw(&report, path)?;
    }
    goals::show(&report, args.json, Report::print)?;
    if !bench.results.failed.is_empty() {
        bail!("not everything could be measured; the report says what");
    }
    Ok(())
}

struct Bench {
    place: Place,
    scale: Scale,
    parts: Vec<Part>,
    devices: Vec<Device>,
    results: Results,
    stop: Arc<AtomicBool>,
}

impl Bench {
    /// Says what is missing before anything is measured.
    fn check(&mut self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!("bench datapath needs root: it makes network namespaces and loads XDP programs");
        }
        let bed = Testbed::build().context("cannot build the network")?;
        for device in Device::ALL {
            if let Some(why) = device.missing(&bed)? {
                self.results.skipped.insert(device.name(), why);
            }
        }
        for (part, tool) in [(Part::Tcp, "iperf3"), (Part::Http, "wrk")] {
            if let Some(why) = traffic::missing(part) {
                self.results.skipped.insert(tool, why);
            }
        }
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// The devices of a part that are there. What a device adds to a packet's way is more than the
    /// wire's share, so latency always takes the wire's, too.
    fn devices(&self, part: Part) -> Vec<Device> {
        let wanted = |d: &Device| {
            let reference = part == Part::Latency && *d == Device::Wire;
            self.devices.is_empty() || self.devices.contains(d) || reference
        };
        let there = |d: &Device| !self.results.skipped.contains_key(d.name());
        let all = Device::ALL.into_iter();
        all.filter(|d| d.takes_part(part) && wanted(d) && there(d))
            .collect()
    }

    /// What of established flows is measured: rates with any number of them, latency with few.
    fn packet_parts(&self, device: Device, flows: u32) -> Vec<Part> {
        let parts = [Part::Inline, Part::Cross, Part::Latency].into_iter();
        let few = flows == self.scale.flows[0];
        parts
            .filter(|part| self.wants(*part) && (few || *part != Part::Latency))
            .filter(|part| self.devices(*part).contains(&device))
            .collect()
    }

    /// All there is to do in a round; devices take turns.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for &flows in &self.scale.flows {
            let devices = Device::ALL.into_iter();
            let measured = devices.filter(|d| !self.packet_parts(*d, flows).is_empty());
            steps.extend(measured.map(|device| Step::Packets(device, flows)));
        }
        for part in [Part::NewFlows, Part::Tcp, Part::Http] {
            if self.wants(part) && traffic::missing(part).is_none() {
                let devices = self.devices(part).into_iter();
                steps.extend(devices.map(|device| Step::Whole(device, part)));
            }
        }
        steps
    }

    /// Everything, round by round.
    fn measure(&mut self) -> Result<()> {
        let (steps, rounds) = (self.steps(), self.scale.rounds);
        let mut progress = Progress::new(steps.len() * rounds as usize);
        for _ in 0..rounds {
            for step in &steps {
                self.go_on()?;
                let what = step.name();
                progress.begin(&what);
                let measured = match *step {
                    Step::Packets(device, flows) => self.packets(device, flows),
                    Step::Whole(device, part) => self.whole(device, part),
                };
                self.note(measured, || what);
            }
        }
        self.results.seconds = progress.end().as_secs_f64();
        Ok(())
    }

    fn whole(&mut self, device: Device, part: Part) -> Result<()> {
        if part == Part::NewFlows {
            for (case, figures, profile) in flows::measure(device, &self.scale, self.place)? {
                self.results.add(case, figures);
                self.results.add_profile(case, profile);
            }
            return Ok(());
        }
        for (case, figures) in traffic::measure(part, device, &self.scale, self.place)? {
            self.results.add(case, figures);
        }
        Ok(())
    }

    /// What fails is reported; the rest is measured all the same.
    fn note(&mut self, measured: Result<()>, what: impl FnOnce() -> String) {
        if let Err(error) = measured {
            let what = what();
            eprintln!("{what}: {error:#}");
            self.results.failed.insert(what, format!("{error:#}"));
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("stopped by a signal; everything is put back");
        }
        Ok(())
    }

    /// Rates and, with one flow, latency.
    fn packets(&mut self, device: Device, flows: u32) -> Result<()> {
        let dir = tempfile::tempdir()?;
        let bed = Testbed::build()?;
        let running = device.start(&bed, dir.path(), flows)?;
        let parts = self.packet_parts(device, flows);
        for (part, placement) in [
            (Part::Inline, Placement::Inline),
            (Part::Cross, Placement::Cross),
        ] {
            let rates = parts.contains(&part);
            let latency = parts.contains(&Part::Latency);
            if !rates && !latency {
                continue;
            }
            placement.arrange(&bed, &running, self.place)?;
            let mut sizes = vec![SMALL];
            if flows == self.scale.middle() && rates {
                sizes.push(LARGE);
            }
            for bytes in sizes {
                let case = Case {
                    part,
                    device,
                    placement,
                    bytes,
                    flows,
                };
                let mut drive = Drive::new(&bed, &running, &case, self.place)?;
                drive.warm_up()?;
                if rates {
                    self.results.add(case, drive.rate(self.scale.span)?);
                }
                if latency {
                    let part = Part::Latency;
                    let found = drive.latency(self.scale.pings)?;
                    self.results.add(Case { part, ..case }, found);
                }
            }
        }
        running.stop(dir.path())
    }
}

/// One device at one thing.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Rates and latency with so many established flows.
    Packets(Device, u32),
    /// A whole part.
    Whole(Device, Part),
}

impl Step {
    fn name(self) -> String {
        match self {
            Self::Packets(device, flows) => format!("{}, {flows} flows", device.name()),
            Self::Whole(device, part) => format!("{}, {}", device.name(), part.name()),
        }
    }
}

/// Tells how far the measurement is, and how long it will take if it goes on like that.
struct Progress {
    done: usize,
    all: usize,
    begun: Instant,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self {
            done: 0,
            all,
            begun: Instant::now(),
        }
    }

    fn begin(&mut self, what: &str) {
        let each = self.begun.elapsed().as_secs_f64() / self.done as f64;
        let left = each * (self.all - self.done) as f64;
        self.done += 1;
        let left = match left.is_finite() {
            true => format!(", about {:.0} min left", (left / 60.0).ceil()),
            false => String::new(),
        };
        eprintln!("{} of {}{left}: {what}", self.done, self.all);
    }

    fn end(self) -> Duration {
        self.begun.elapsed()
    }
}
