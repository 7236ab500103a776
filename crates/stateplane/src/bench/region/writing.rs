//! What the writer pays: stores, publishes, check-ins.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use stateplane_region::{Reader, Spec, Writer};

use super::reading::plain_loads;
use super::{KIB, LINE, MIB, Plan, Row, each, next, times};

/// Stores between two publishes.
const BURST: usize = 2_000;
/// Check-ins timed as one: a clock costs more than one.
const CHECK_INS: usize = 256;

/// Random stores into 1 MiB: into plain memory, and noted. Between bursts both sides copy
/// what changed into another image, of two in turns, untimed: the caches are as full for
/// one as for the other.
pub(super) fn stores(plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let words = MIB / size_of::<u64>();
    let mut plain = vec![0u64; words];
    let mut images = [vec![0u64; words], vec![0u64; words]];
    let mut writer = Writer::<[u64]>::create(&Spec::array::<u64>(words))?;
    writer.publish()?;
    let mut state = 1;
    let (mut plain_times, mut noted_times) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let begun = state;
        plain_times.push(each(BURST, || store_plainly(&mut plain, &mut state)));
        images.reverse();
        for image in &mut images {
            let mut again = begun;
            for _ in 0..BURST {
                let line = next(&mut again) % words / 8 * 8..;
                image[line.clone()][..8].copy_from_slice(&plain[line][..8]);
            }
        }
        black_box(&images);
        noted_times.push(each(BURST, || store_noted(&mut writer, &mut state)));
        writer.publish()?;
    }
    rows.push(Row::of("plain store, 1 MiB at random", plain_times));
    rows.push(Row::of("noted store, 1 MiB at random", noted_times));
    Ok(())
}

// Functions of their own, as the loops of a program would be.

#[inline(never)]
fn store_plainly(memory: &mut [u64], state: &mut u64) {
    for _ in 0..BURST {
        let at = next(state) % memory.len();
        memory[at] = *state;
    }
}

#[inline(never)]
fn store_noted(writer: &mut Writer<[u64]>, state: &mut u64) {
    let len = writer.get().len();
    for _ in 0..BURST {
        let at = next(state) % len;
        writer.set(|words| &words[at], *state);
    }
}

/// A publish of few lines, chosen at random: of regions that fit into the processor's
/// caches and of such that do not. With what the stores before it cost, beside plain ones, and
/// both together: nothing is saved by waiting elsewhere.
pub(super) fn publishes(plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    rows.push(Row::of(
        "two looks at the clock, in all that follows",
        times(plan.rounds, || each(1, || {})),
    ));
    for size in [1, 16, 256] {
        let mut writer = Writer::<[u8]>::create(&Spec::bytes(size * MIB))?;
        writer.publish()?;
        let reader = Reader::<[u8]>::open(writer.fd().try_clone_to_owned()?, "")?;
        plain_loads(plan, &reader, &format!("plain load from {size} MiB"), rows)?;
        // Memory of the same kind, but nothing is noted any more.
        let mut other = Writer::<[u64]>::create(&Spec::bytes(size * MIB))?;
        let plain = other.edit_all();
        for lines in [16, 256] {
            let mut state = 1;
            let plainly = times(plan.rounds, || {
                each(lines, || {
                    for _ in 0..lines {
                        plain[next(&mut state) % plain.len()] = state;
                    }
                })
            });
            rows.push(Row::of(
                format!("plain store, one of {lines} into {size} MiB"),
                plainly,
            ));
            publish_few(plan, &mut writer, &format!("{size} MiB"), lines, rows)?;
        }
    }
    Ok(())
}

fn publish_few(
    plan: &Plan,
    writer: &mut Writer<[u8]>,
    size: &str,
    lines: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let (mut state, len) = (1, writer.bytes().len());
    let (mut stores, mut publishes, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let begun = Instant::now();
        for _ in 0..lines {
            let at = next(&mut state) % (len / LINE) * LINE;
            let word = writer.bytes_mut(at, size_of::<u64>());
            word.copy_from_slice(&state.to_ne_bytes());
        }
        let stored = Instant::now();
        black_box(writer.publish()?);
        let done = Instant::now();
        stores.push((stored - begun).as_nanos() as f64 / lines as f64);
        publishes.push((done - stored).as_nanos() as f64);
        both.push((done - begun).as_nanos() as f64);
    }
    for (what, all) in [
        (format!("noted store, one of {lines} into {size}"), stores),
        (format!("publish {lines} lines of {size}"), publishes),
        (format!("{lines} noted stores and publish, {size}"), both),
    ] {
        rows.push(Row::of(what, all));
    }
    Ok(())
}

/// A publish of everything, and a copy of as much.
pub(super) fn whole(plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    for (len, name) in [(10 * KIB, "10 KiB"), (100 * KIB, "100 KiB"), (MIB, "1 MiB")] {
        let mut writer = Writer::<[u8]>::create(&Spec::bytes(len))?;
        let (from, mut to) = (vec![1u8; len], vec![0u8; len]);
        let (mut publishes, mut copies) = (Vec::new(), Vec::new());
        for round in 0..plan.rounds / 10 + 1 {
            writer.edit_all().fill(round as u8);
            let start = Instant::now();
            writer.publish()?;
            publishes.push(start.elapsed().as_nanos() as f64);
            copies.push(each(1, || {
                black_box(&mut to).copy_from_slice(black_box(&from));
            }));
        }
        rows.push(Row::of(format!("publish {name}, all changed"), publishes));
        rows.push(Row::of(format!("memcpy {name}"), copies));
    }
    Ok(())
}

/// Check-ins between two intervals, with something to publish.
pub(super) fn check_ins(plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    let spec = Spec::of::<u64>().interval(Duration::from_secs(1));
    let mut writer = Writer::<u64>::create(&spec)?;
    writer.check_in()?;
    *writer.edit_all() = 1;
    let start = Instant::now();
    // The rate of the processor's counter is learned meanwhile.
    while start.elapsed() < Duration::from_millis(5) {
        writer.check_in()?;
    }
    let all = times(plan.rounds, || {
        each(CHECK_INS, || {
            for _ in 0..CHECK_INS {
                let _ = black_box(writer.check_in());
            }
        })
    });
    rows.push(Row::of("check-in, nothing due", all));
    Ok(())
}
