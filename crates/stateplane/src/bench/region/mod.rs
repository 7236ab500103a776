//! `bench region`: what versioned shared memory costs its writer and its readers, beside
//! plain stores, `memcpy`, a Unix socket and iceoryx2 in the same run.
//!
//! Writer and reader are two threads, each on a processor of its own if there are two. That
//! they are of one process changes nothing: what they share is the same sealed memory.

mod local;
mod many;
mod peers;
mod reading;
mod writing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::Table;
use serde::{Deserialize, Serialize};
use stateplane_host::priority;

use crate::say::say;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LINE: usize = 64;

/// Options of `bench region`.
#[derive(Debug, Args)]
pub(crate) struct RegionArgs {
    /// Rounds of each measurement; minima and medians are of all
    #[arg(long, default_value_t = 2_000)]
    rounds: usize,
    /// Seconds that readers are measured under a writer
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Regions of the measurement of many; a hundred readers read them all
    #[arg(long, default_value_t = 1_000)]
    regions: usize,
    /// Rows of the store that are read in place, and asked of a replica group
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Readers under a writer run before everything else on the machine (SCHED_FIFO), in
    /// bursts of 50 ms: shows what a processor of one's own gives, where others work
    #[arg(long)]
    realtime: bool,
    /// The program that measures iceoryx2; `make bench-region` builds it
    #[arg(long)]
    iceoryx2: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What one operation takes, in nanoseconds.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    what: String,
    min_ns: f64,
    p50_ns: f64,
    p99_ns: f64,
    /// What Tasvir took for the like, quoted: see [`TASVIR`].
    #[serde(default)]
    tasvir_ns: Option<f64>,
}

/// Tasvir's figures, measured elsewhere: its commit 2b765cb on DPDK 22.11, two processors
/// at 2.6 GHz with AVX-512, best of three rounds. They are the time that every thread of
/// the host stands still for a synchronisation: the copy, and the wait for the last thread
/// to check in.
const TASVIR: [(&str, f64); 3] = [
    ("publish 10 KiB, all changed", 520.0 + 2_200.0),
    ("publish 100 KiB, all changed", 2_400.0 + 4_000.0),
    ("publish 1 MiB, all changed", 38_000.0 + 7_100.0),
];

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: Machine,
    rows: Vec<Row>,
    ratios: BTreeMap<&'static str, f64>,
    /// Why something was not measured.
    skipped: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    kernel: String,
    realtime: bool,
    /// What others wanted of the processors when this began.
    load: f64,
}

/// Where and how long to measure.
struct Plan {
    rounds: usize,
    span: Duration,
    regions: usize,
    /// The other thread's processor.
    other: Option<usize>,
    realtime: bool,
}

pub(super) fn run(args: &RegionArgs) -> Result<()> {
    let cpus = priority::allowed_cpus()?;
    if let Some(cpu) = cpus.first() {
        priority::pin_to(*cpu).context("cannot choose a processor")?;
    }
    let plan = Plan {
        rounds: args.rounds.max(10),
        span: Duration::try_from_secs_f64(args.seconds).context("--seconds")?,
        regions: args.regions.clamp(1, 2_000),
        other: cpus.last().copied().filter(|_| cpus.len() > 1),
        realtime: args.realtime,
    };
    let mut report = Report {
        bench: "region",
        machine: machine(cpus.len(), args.realtime),
        rows: Vec::new(),
        ratios: BTreeMap::new(),
        skipped: Vec::new(),
    };
    measure(&plan, args, &mut report)?;
    for row in &mut report.rows {
        let quoted = TASVIR.iter().find(|(what, _)| *what == row.what);
        row.tasvir_ns = quoted.map(|(_, ns)| *ns);
    }
    add_ratios(&report.rows, &mut report.ratios);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report);
    }
    Ok(())
}

fn machine(cpus: usize, realtime: bool) -> Machine {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let load = text("/proc/loadavg");
    Machine {
        cpus,
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        realtime,
        load: load
            .split(' ')
            .next()
            .and_then(|l| l.parse().ok())
            .unwrap_or(f64::NAN),
    }
}

fn measure(plan: &Plan, args: &RegionArgs, report: &mut Report) -> Result<()> {
    let Report {
        rows,
        ratios,
        skipped,
        ..
    } = report;
    writing::stores(plan, rows)?;
    writing::publishes(plan, rows)?;
    writing::whole(plan, rows)?;
    writing::check_ins(plan, rows)?;
    reading::copies(plan, rows);
    let bare = reading::bare_word(plan, rows)?;
    let small = reading::under_writer::<64>(plan, "64 B", rows)?;
    let page = reading::under_writer::<4096>(plan, "4 KiB", rows)?;
    ratios.insert("looks_at_the_clock_on_time", reading::looks_on_time(plan)?);
    ratios.insert("bare_word_on_time", bare);
    ratios.insert("publishes_on_time_64_b", small);
    ratios.insert("publishes_on_time_4_kib", page);
    reading::lookups(plan, rows)?;
    many::many(plan, rows)?;
    if let Err(error) = local::measure(plan, args.entries.clamp(1, 4_000_000), rows) {
        skipped.push(format!("the store, asked and in place: {error:#}"));
    }
    peers::regions::<64>(plan, "64 B", rows)?;
    peers::regions::<4096>(plan, "4 KiB", rows)?;
    peers::sockets::<64>(plan, "64 B", rows)?;
    peers::sockets::<4096>(plan, "4 KiB", rows)?;
    peers::iceoryx2(plan, args.iceoryx2.as_deref(), rows, skipped)
}

impl Row {
    /// From times in nanoseconds.
    fn of(what: impl Into<String>, mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            let time = times.get(index.min(times.len().saturating_sub(1)));
            (time.copied().unwrap_or(f64::NAN) * 100.0).round() / 100.0
        };
        Self {
            what: what.into(),
            min_ns: at(0.0),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            tasvir_ns: None,
        }
    }
}

/// Nanoseconds that one of `count` takes.
fn each(count: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / count as f64
}

fn times(rounds: usize, mut round: impl FnMut() -> f64) -> Vec<f64> {
    (0..rounds).map(|_| round()).collect()
}

/// Where the next store goes: cheap, and nothing that a processor could foresee.
fn next(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    (*state >> 33) as usize
}

/// Lets the calling thread run on the other processor.
fn move_over(plan: &Plan) -> Result<()> {
    match plan.other {
        Some(cpu) => priority::pin_to(cpu).context("cannot choose a processor"),
        None => Ok(()),
    }
}

fn add_ratios(rows: &[Row], ratios: &mut BTreeMap<&'static str, f64>) {
    let of = |what: &str| {
        let found = rows.iter().find(|row| row.what == what);
        found.map_or(f64::NAN, |row| row.p50_ns)
    };
    for (name, base, ours) in [
        (
            "update_vs_plain_store",
            "plain store, 1 MiB at random",
            "noted store, 1 MiB at random",
        ),
        (
            "sync_vs_memcpy",
            "memcpy 1 MiB",
            "publish 1 MiB, all changed",
        ),
        ("read_vs_memcpy_4_kib", "memcpy 4 KiB", "read 4 KiB"),
        (
            "read_vs_unix_socket",
            "Unix socket 64 B, one way",
            "read 64 B",
        ),
        (
            "lookup_vs_unix_socket",
            "Unix socket 64 B, one way",
            "look-up, 1 M entries in place",
        ),
        (
            "lookup_vs_plain_load",
            reading::FLOOR,
            "look-up, 1 M entries in place",
        ),
        ("local_read_vs_plain_load", local::FLOOR, local::LOCAL),
        ("local_burst_vs_plain_load", local::FLOOR, local::BURSTS),
        ("local_read_vs_remote", local::REMOTE, local::LOCAL),
        (
            "hand_over_vs_unix_socket",
            "Unix socket 64 B, one way",
            "region 64 B, one way",
        ),
        (
            "hand_over_vs_iceoryx2",
            "iceoryx2 64 B, one way",
            "region 64 B, one way",
        ),
    ] {
        let ratio = of(base) / of(ours);
        if ratio.is_finite() {
            ratios.insert(name, (ratio * 1000.0).round() / 1000.0);
        }
    }
}

fn print_table(report: &Report) {
    let mut table = Table::new();
    table.set_header(["", "min ns", "p50 ns", "p99 ns", "Tasvir, quoted"]);
    for row in &report.rows {
        table.add_row([
            row.what.clone(),
            row.min_ns.to_string(),
            row.p50_ns.to_string(),
            row.p99_ns.to_string(),
            row.tasvir_ns.map_or_else(String::new, |ns| ns.to_string()),
        ]);
    }
    say!("{table}");
    for (name, ratio) in &report.ratios {
        say!("{name}: {ratio}");
    }
    let Machine {
        cpus,
        realtime,
        load,
        ..
    } = &report.machine;
    say!("{cpus} processors, load {load} at the start, real time: {realtime}");
    for reason in &report.skipped {
        say!("skipped: {reason}");
    }
}
