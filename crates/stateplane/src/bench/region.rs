//! `bench region`: what versioned shared memory costs its writer and its readers, beside
//! plain stores, `memcpy` and a Unix socket in the same run.
//!
//! Writer and reader are two threads, each on a processor of its own if there are two. That
//! they are of one process changes nothing: what they share is the same sealed memory.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use stateplane_host::priority;
use stateplane_region::{Map, Reader, Spec, Writer};

use crate::say::say;

const MIB: usize = 1 << 20;
const LINE: usize = 64;
/// Stores between two publishes.
const BURST: usize = 2_000;
/// How often the writer that readers are measured under publishes.
const PERIOD: Duration = Duration::from_micros(10);
/// Reads timed as one: a clock costs more than a read.
const READS: u32 = 256;
/// Entries of the map.
const ENTRIES: u64 = 1_000_000;

/// Options of `bench region`.
#[derive(Debug, Args)]
pub(crate) struct RegionArgs {
    /// Rounds of each measurement; medians are of all
    #[arg(long, default_value_t = 2_000)]
    rounds: usize,
    /// Seconds that readers are measured under a writer
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    p50_ns: f64,
    p99_ns: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: Machine,
    rows: Vec<Row>,
    ratios: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    kernel: String,
}

pub(super) fn run(args: &RegionArgs) -> Result<()> {
    let cpus = priority::allowed_cpus()?;
    if let Some(cpu) = cpus.first() {
        priority::pin_to(*cpu).context("cannot choose a processor")?;
    }
    let other = cpus.last().copied().filter(|_| cpus.len() > 1);
    let rounds = args.rounds.max(10);
    let mut rows = Vec::new();
    stores(rounds, &mut rows)?;
    publishes(rounds, &mut rows)?;
    whole(rounds / 10 + 1, &mut rows)?;
    check_ins(rounds, &mut rows)?;
    let span = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let mut ratios = BTreeMap::new();
    let small = under_writer::<64>(span, other, ["read 64 B", "age of 64 B"], &mut rows)?;
    let page = under_writer::<4096>(span, other, ["read 4 KiB", "age of 4 KiB"], &mut rows)?;
    ratios.insert("publishes_on_time_64_b", small);
    ratios.insert("publishes_on_time_4_kib", page);
    lookups(rounds, &mut rows)?;
    sockets(rounds, other, &mut rows)?;
    add_ratios(&rows, &mut ratios);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let report = Report {
        bench: "region",
        machine: Machine {
            cpus: cpus.len(),
            kernel: kernel.trim().to_owned(),
        },
        rows,
        ratios,
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report);
    }
    Ok(())
}

/// A row from times in nanoseconds.
fn row(what: &'static str, mut times: Vec<f64>) -> Row {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied()
    };
    let rounded = |ns: Option<f64>| (ns.unwrap_or(f64::NAN) * 100.0).round() / 100.0;
    Row {
        what,
        p50_ns: rounded(at(0.5)),
        p99_ns: rounded(at(0.99)),
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

/// Random stores into 1 MiB: into plain memory, and noted.
fn stores(rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let words = MIB / size_of::<u64>();
    let mut plain = vec![0u64; words];
    let mut writer = Writer::<[u64]>::create(&Spec::array::<u64>(words))?;
    writer.publish()?;
    let mut state = 1;
    rows.push(row(
        "plain store, 1 MiB at random",
        times(rounds, || {
            each(BURST, || {
                for _ in 0..BURST {
                    let at = next(&mut state) % words;
                    black_box(&mut plain)[at] = state;
                }
            })
        }),
    ));
    let mut fenced = Ok(0);
    let noted = times(rounds, || {
        let time = each(BURST, || {
            for _ in 0..BURST {
                let at = next(&mut state) % words;
                let value = state;
                black_box(&mut writer).set(|words| &words[at], value);
            }
        });
        fenced = writer.publish();
        time
    });
    fenced?;
    rows.push(row("noted store, 1 MiB at random", noted));
    Ok(())
}

/// A publish of few lines in a region of 16 MiB.
fn publishes(rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(16 * MIB))?;
    writer.publish()?;
    let mut state = 1;
    for (lines, what) in [
        (16, "publish 16 lines of 16 MiB"),
        (256, "publish 256 lines of 16 MiB"),
    ] {
        let mut all = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            for _ in 0..lines {
                let at = next(&mut state) % (16 * MIB / LINE) * LINE;
                writer
                    .bytes_mut(at, 8)
                    .copy_from_slice(&state.to_ne_bytes());
            }
            let start = Instant::now();
            black_box(writer.publish()?);
            all.push(start.elapsed().as_nanos() as f64);
        }
        rows.push(row(what, all));
    }
    Ok(())
}

/// A publish of all of 1 MiB, and a copy of as much.
fn whole(rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(MIB))?;
    let (from, mut to) = (vec![1u8; MIB], vec![0u8; MIB]);
    let (mut publishes, mut copies) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        writer.edit_all().fill(round as u8);
        let start = Instant::now();
        writer.publish()?;
        publishes.push(start.elapsed().as_nanos() as f64);
        copies.push(each(1, || {
            black_box(&mut to).copy_from_slice(black_box(&from))
        }));
    }
    rows.push(row("publish 1 MiB, all changed", publishes));
    rows.push(row("memcpy 1 MiB", copies));
    Ok(())
}

/// Check-ins between two intervals, with something to publish.
fn check_ins(rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let spec = Spec::of::<u64>().interval(Duration::from_secs(1));
    let mut writer = Writer::<u64>::create(&spec)?;
    writer.check_in()?;
    *writer.edit_all() = 1;
    let start = Instant::now();
    // The rate of the processor's counter is learned meanwhile.
    while start.elapsed() < Duration::from_millis(5) {
        writer.check_in()?;
    }
    let count = READS as usize;
    let all = times(rounds, || {
        each(count, || {
            for _ in 0..count {
                let _ = black_box(writer.check_in());
            }
        })
    });
    rows.push(row("check-in, nothing due", all));
    Ok(())
}

/// Reads of N bytes under a writer that changes all of them every 10 us. The share of its
/// publishes that were on time.
fn under_writer<const N: usize>(
    span: Duration,
    cpu: Option<usize>,
    [read, age]: [&'static str; 2],
    rows: &mut Vec<Row>,
) -> Result<f64> {
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(N).interval(PERIOD))?;
    writer.publish()?;
    let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| -> Result<f64> {
            if let Some(cpu) = cpu {
                priority::pin_to(cpu)?;
            }
            let (start, mut count) = (Instant::now(), 0u64);
            while !stop.load(Ordering::Relaxed) {
                writer.edit_all().fill(count as u8);
                count += u64::from(writer.check_in()?.is_some());
            }
            let periods = start.elapsed().as_nanos() / PERIOD.as_nanos();
            Ok(count as f64 / periods as f64)
        });
        let result = read_for::<N>(&reader, span);
        stop.store(true, Ordering::Relaxed);
        let on_time = writing.join().expect("the writer does not panic")?;
        let (reads, ages) = result?;
        rows.push(row(read, reads));
        rows.push(row(age, ages));
        Ok((on_time * 10_000.0).round() / 10_000.0)
    })
}

fn read_for<const N: usize>(reader: &Reader<[u8]>, span: Duration) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut reads, mut ages) = (Vec::new(), Vec::new());
    let mut buffer = [0u8; N];
    let start = Instant::now();
    while start.elapsed() < span {
        let begun = Instant::now();
        for _ in 0..READS {
            let read = reader.read_with(|view| view.load(0, &mut buffer));
            black_box(read)?;
        }
        reads.push(begun.elapsed().as_nanos() as f64 / f64::from(READS));
        let ((), edition) = reader.read_with(|view| {
            view.load(0, &mut buffer);
        })?;
        ages.push(edition.age().as_nanos() as f64);
        anyhow::ensure!(
            buffer.iter().all(|byte| *byte == buffer[0]),
            "a torn snapshot"
        );
    }
    Ok((reads, ages))
}

/// Look-ups in a map of a million entries that another process might write.
fn lookups(rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let map = Map::<u64, u64>::new(0, ENTRIES as usize);
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(map.bytes()))?;
    for key in 0..ENTRIES {
        map.insert(&mut writer, &key, &(key ^ 1))?;
    }
    writer.publish()?;
    let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
    let mut state = 1;
    let count = READS as usize;
    let mut wrong = 0;
    let all = times(rounds, || {
        each(count, || {
            for _ in 0..count {
                let key = next(&mut state) as u64 % ENTRIES;
                let found = reader.read_with(|view| map.get(view, &key));
                wrong += u32::from(!found.is_ok_and(|(found, _)| found == Some(key ^ 1)));
            }
        })
    });
    anyhow::ensure!(wrong == 0, "{wrong} look-ups found something else");
    rows.push(row("look-up, 1 M entries in place", all));
    Ok(())
}

/// A question and its answer of 64 bytes each over a Unix socket.
fn sockets(rounds: usize, cpu: Option<usize>, rows: &mut Vec<Row>) -> Result<()> {
    let (ours, theirs) = UnixDatagram::pair()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(cpu) = cpu {
                let _ = priority::pin_to(cpu);
            }
            let mut buffer = [0; 64];
            while let Ok(1..) = theirs.recv(&mut buffer) {
                let _ = theirs.send(&buffer);
            }
        });
        let mut buffer = [1; 64];
        let mut all = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let start = Instant::now();
            ours.send(&buffer)?;
            ours.recv(&mut buffer)?;
            all.push(start.elapsed().as_nanos() as f64);
        }
        ours.send(&[])?;
        rows.push(row("ask over a Unix socket, 64 B", all));
        Ok(())
    })
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
        (
            "read_vs_unix_socket",
            "ask over a Unix socket, 64 B",
            "read 64 B",
        ),
        (
            "lookup_vs_unix_socket",
            "ask over a Unix socket, 64 B",
            "look-up, 1 M entries in place",
        ),
    ] {
        ratios.insert(name, (of(base) / of(ours) * 1000.0).round() / 1000.0);
    }
}

fn print_table(report: &Report) {
    let mut table = Table::new();
    table.set_header(["", "p50 ns", "p99 ns"]);
    for row in &report.rows {
        table.add_row([
            row.what.to_owned(),
            row.p50_ns.to_string(),
            row.p99_ns.to_string(),
        ]);
    }
    say!("{table}");
    for (name, ratio) in &report.ratios {
        say!("{name}: {ratio}");
    }
}
