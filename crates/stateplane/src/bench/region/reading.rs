//! What readers pay: copies under a writer, look-ups in place.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stateplane_host::priority;
use stateplane_region::{Map, Reader, Spec, Writer};

use super::{LINE, Plan, Row, each, move_over, next, times};

/// How often the writer that readers are measured under publishes.
const PERIOD: Duration = Duration::from_micros(10);
/// Reads timed as one: a clock costs more than a read.
const READS: usize = 256;
/// Entries of the map.
const ENTRIES: u64 = 1_000_000;
/// Keys looked for together: a burst of packets.
const KEYS: usize = 32;
/// With real time the machine is kept from everybody else for no longer than this.
const BURST: Duration = Duration::from_millis(50);

/// Memory that begins with a cache line, as regions and snapshots do: where it does not,
/// each store of a long copy touches two.
#[repr(align(64))]
struct Aligned<const N: usize>([u8; N]);

/// What the processor needs for a copy at all.
pub(super) fn copies(plan: &Plan, rows: &mut Vec<Row>) {
    let (Aligned(from), Aligned(to)) = &mut (Aligned([1u8; 4096]), Aligned([0u8; 4096]));
    for (len, name) in [(64, "memcpy 64 B"), (4096, "memcpy 4 KiB")] {
        let all = times(plan.rounds, || {
            each(READS, || {
                for _ in 0..READS {
                    black_box(&mut to[..len]).copy_from_slice(black_box(&from[..len]));
                }
            })
        });
        rows.push(Row::of(name, all));
    }
}

/// The share of a writer's periods in which a thread that does nothing but look at the clock
/// gets to look, on the writer's processor: no writer can be on time more often.
pub(super) fn looks_on_time(plan: &Plan) -> Result<f64> {
    let (looked, periods) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| -> Result<(u128, u128)> {
            move_over(plan)?;
            let (start, mut looked, mut last) = (Instant::now(), 0, 0);
            loop {
                let now = start.elapsed();
                let period = now.as_nanos() / PERIOD.as_nanos();
                looked += u128::from(period != last);
                last = period;
                if now >= plan.span {
                    return Ok((looked, last.max(1)));
                }
            }
        });
        looking.join().expect("it does not panic")
    })?;
    Ok((looked as f64 / periods as f64 * 10_000.0).round() / 10_000.0)
}

/// The age of a bare word that one thread stamps with the time, every 10 us, and the other
/// looks at, on the same processors and in the same bursts as what follows: the part of an age
/// that is the machine's, and that of who else works on it. The share of stamps that were on time:
/// no writer beside a busy reader can be on time more often.
pub(super) fn bare_word(plan: &Plan, rows: &mut Vec<Row>) -> Result<f64> {
    let mut ages = Vec::new();
    let on_time = bursts(plan, || stamped(plan, &mut ages))?;
    rows.push(Row::of(BARE, ages));
    Ok(on_time)
}

/// The share of periods that were used in all bursts: each says how many were, and how many there were.
fn bursts(plan: &Plan, mut burst: impl FnMut() -> Result<(u64, u64)>) -> Result<f64> {
    let (mut used, mut periods) = (0, 0);
    let bursts = plan.span.div_duration_f64(BURST).ceil() as usize;
    for _ in 0..bursts.max(1) {
        let (count, of) = burst()?;
        used += count;
        periods += of;
        // Let others have what real time took from them.
        std::thread::sleep(if plan.realtime { BURST } else { Duration::ZERO });
    }
    Ok((used as f64 / periods as f64 * 10_000.0).round() / 10_000.0)
}

/// What [`bare_word`] measures.
pub(super) const BARE: &str = "age of a bare word, stamped every 10 us";

fn stamped(plan: &Plan, ages: &mut Vec<f64>) -> Result<(u64, u64)> {
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let (word, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| -> Result<(u64, u64)> {
            move_over(plan)?;
            priority::set_realtime(plan.realtime).context("--realtime")?;
            let period = PERIOD.as_nanos() as u64;
            let (begun, mut next, mut count) = (now(), 0, 0);
            while !stop.load(Ordering::Relaxed) {
                let at = now();
                if at >= next {
                    word.store(at.max(1), Ordering::Release);
                    next = if next + period > at { next } else { at } + period;
                    count += 1;
                }
            }
            Ok((count, (now() - begun) / period))
        });
        while word.load(Ordering::Acquire) == 0 && !writing.is_finished() {
            std::thread::sleep(Duration::from_micros(50));
        }
        let result = priority::set_realtime(plan.realtime).context("--realtime");
        let end = now() + plan.span.min(BURST).as_nanos() as u64;
        while result.is_ok() && now() < end {
            for _ in 0..READS {
                black_box(word.load(Ordering::Acquire));
            }
            let stamp = word.load(Ordering::Acquire);
            ages.push(now().saturating_sub(stamp) as f64);
        }
        stop.store(true, Ordering::Relaxed);
        let ended = priority::set_realtime(false);
        let counts = writing.join().expect("the writer does not panic")?;
        result?;
        ended?;
        Ok(counts)
    })
}

/// Reads of N bytes under a writer that changes all of them every 10 us. The share of its
/// publishes that were on time.
pub(super) fn under_writer<const N: usize>(
    plan: &Plan,
    name: &str,
    rows: &mut Vec<Row>,
) -> Result<f64> {
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(N).interval(PERIOD))?;
    writer.publish()?;
    let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
    let (mut reads, mut ages) = (Vec::new(), Vec::new());
    let on_time = bursts(plan, || {
        burst::<N>(plan, &mut writer, &reader, &mut reads, &mut ages)
    })?;
    rows.push(Row::of(format!("read {name}"), reads));
    rows.push(Row::of(format!("age of {name}"), ages));
    Ok(on_time)
}

/// One burst: how many versions there were, and how many there should have been.
fn burst<const N: usize>(
    plan: &Plan,
    writer: &mut Writer<[u8]>,
    reader: &Reader<[u8]>,
    reads: &mut Vec<f64>,
    ages: &mut Vec<f64>,
) -> Result<(u64, u64)> {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| -> Result<(u64, u64)> {
            move_over(plan)?;
            priority::set_realtime(plan.realtime).context("--realtime")?;
            writer.check_in()?;
            ready.store(true, Ordering::Release);
            let (start, mut count) = (Instant::now(), 0u64);
            while !stop.load(Ordering::Relaxed) {
                writer.edit_all().fill(count as u8);
                count += u64::from(writer.check_in()?.is_some());
            }
            let periods = start.elapsed().as_nanos() / PERIOD.as_nanos();
            Ok((count, u64::try_from(periods)?))
        });
        // Only then before everybody else: the writer begins on this processor.
        while !ready.load(Ordering::Acquire) && !writing.is_finished() {
            std::thread::sleep(Duration::from_micros(50));
        }
        let result = priority::set_realtime(plan.realtime)
            .context("--realtime")
            .and_then(|()| read_for::<N>(reader, plan.span.min(BURST), reads, ages));
        stop.store(true, Ordering::Relaxed);
        let ended = priority::set_realtime(false);
        let counts = writing.join().expect("the writer does not panic")?;
        result?;
        ended?;
        Ok(counts)
    })
}

fn read_for<const N: usize>(
    reader: &Reader<[u8]>,
    span: Duration,
    reads: &mut Vec<f64>,
    ages: &mut Vec<f64>,
) -> Result<()> {
    let Aligned(buffer) = &mut Aligned([0u8; N]);
    let start = Instant::now();
    while start.elapsed() < span {
        let begun = Instant::now();
        for _ in 0..READS {
            let read = reader.read_with(|view| view.load(0, buffer));
            black_box(read)?;
        }
        reads.push(begun.elapsed().as_nanos() as f64 / READS as f64);
        let ((), edition) = reader.read_with(|view| {
            view.load(0, buffer);
        })?;
        ages.push(edition.age().as_nanos() as f64);
        anyhow::ensure!(
            buffer.iter().all(|byte| *byte == buffer[0]),
            "a torn snapshot"
        );
    }
    Ok(())
}

/// Look-ups in a map of a million entries that another process might write: one after the
/// other, each of which waits for memory, and in bursts.
pub(super) fn lookups(plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let map = Map::<u64, u64>::new(0, ENTRIES as usize);
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(map.bytes()))?;
    for key in 0..ENTRIES {
        map.insert(&mut writer, &key, &(key ^ 1))?;
    }
    writer.publish()?;
    let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
    let mut state = 1;
    let mut found = 0;
    let single = times(plan.rounds, || {
        each(READS, || {
            for _ in 0..READS {
                let key = next(&mut state) as u64 % ENTRIES;
                let value = reader.read_with(|view| map.get(view, &key));
                found += usize::from(value.is_ok_and(|(value, _)| value == Some(key ^ 1)));
            }
        })
    });
    let burst = times(plan.rounds, || {
        each(READS, || {
            for _ in 0..READS / KEYS {
                let mut keys = [0; KEYS];
                keys.fill_with(|| next(&mut state) as u64 % ENTRIES);
                let right = reader.read_with(|view| {
                    let mut right = 0;
                    map.get_each(view, &keys, |index, value| {
                        right += usize::from(value == Some(keys[index] ^ 1));
                    });
                    right
                });
                found += right.map_or(0, |(right, _)| right);
            }
        })
    });
    let wrong = 2 * plan.rounds * READS - found;
    anyhow::ensure!(wrong == 0, "{wrong} look-ups found something else");
    rows.push(Row::of("look-up, 1 M entries in place", single));
    rows.push(Row::of("look-up, 1 M entries in place, in bursts", burst));
    plain_loads(plan, &reader, FLOOR, rows)
}

/// What a plain load costs there.
pub(super) const FLOOR: &str = "plain load from that map's memory";

/// The floor of look-ups: one word of the region's memory at a time, at random, as a program
/// would load it from memory of its own; the next place is known when the last word is there.
pub(super) fn plain_loads(
    plan: &Plan,
    reader: &Reader<[u8]>,
    what: &str,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let lines = reader.len() / LINE;
    let mut state = 1;
    let mut read = || -> Result<f64> {
        let start = Instant::now();
        let (sum, _) = reader.read_with(|view| {
            (0..READS).fold(0u64, |sum, _| {
                let word = view.get::<u64>(next(&mut state) % lines * LINE);
                // Whatever it was: the processor cannot know the next place before.
                state ^= word.unwrap_or(0);
                sum ^ word.unwrap_or(0)
            })
        })?;
        black_box(sum);
        Ok(start.elapsed().as_nanos() as f64 / READS as f64)
    };
    let all: Result<Vec<f64>> = (0..plan.rounds).map(|_| read()).collect();
    rows.push(Row::of(what, all?));
    Ok(())
}
