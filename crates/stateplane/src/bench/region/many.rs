//! Many regions and many readers: what each costs when there are a thousand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stateplane_host::epoll;
use stateplane_region::{Broker, Host, Limits, Name, Reader, Spec, Writer};

use super::{KIB, Plan, Row};

const READERS: usize = 100;
/// What each region holds: all of it is one value, over and over.
const LEN: usize = 4 * KIB;
/// A reader rests after it has read them all.
const REST: Duration = Duration::from_millis(2);

/// A thousand regions by name, of which every one is published in turn, while a hundred
/// readers read all of them.
pub(super) fn many(plan: &Plan, rows: &mut Vec<Row>) -> Result<()> {
    // The writer, the broker and every reader of a region hold a file descriptor each.
    epoll::allow_descriptors(8 * plan.regions as u64)?;
    let dir = tempfile::tempdir()?;
    let limits = Limits {
        regions_per_user: plan.regions,
        ..Limits::default()
    };
    let mut broker = Broker::open(dir.path(), limits)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Acquire) {
                broker.turn(Duration::from_millis(5))?;
            }
            Ok(())
        });
        let measured = with_broker(plan, &Host::connect(dir.path())?, rows);
        stop.store(true, Ordering::Release);
        serving.join().expect("the broker does not panic")?;
        measured
    })
}

fn with_broker(plan: &Plan, host: &Host, rows: &mut Vec<Row>) -> Result<()> {
    let count = plan.regions;
    let name = |index: usize| format!("/bench/many/writer/{index}").parse::<Name>();
    let (mut writers, mut created) = (Vec::new(), Vec::new());
    for index in 0..count {
        let name = name(index)?;
        let start = Instant::now();
        let mut writer: Writer<[u8]> = host.create(&name, &Spec::bytes(LEN))?;
        writer.publish()?;
        created.push(start.elapsed().as_nanos() as f64);
        writers.push(writer);
    }
    rows.push(Row::of(format!("create by name, of {count}"), created));
    let (mut readers, mut attached) = (Vec::<Reader<[u8]>>::new(), Vec::new());
    for index in 0..count {
        let name = name(index)?;
        let start = Instant::now();
        let reader = host.attach(&name, "")?;
        reader.snapshot()?;
        attached.push(start.elapsed().as_nanos() as f64);
        readers.push(reader);
    }
    rows.push(Row::of(
        format!("attach by name, first snapshot, of {count}"),
        attached,
    ));
    publish_all(
        plan,
        &mut writers,
        rows,
        format!("publish 4 KiB, each of {count}"),
    )?;
    read_all(plan, &mut writers, &readers, rows)?;
    // Who comes late has the newest version at once.
    let late: Reader<[u8]> = host.attach(&name(count - 1)?, "")?;
    let last = writers.last().context("at least one region")?.version();
    ensure!(
        late.snapshot()?.edition().version == last,
        "a late reader is behind"
    );
    Ok(())
}

/// Every region once, its lines all changed; per region.
fn publish_all(
    plan: &Plan,
    writers: &mut [Writer<[u8]>],
    rows: &mut Vec<Row>,
    what: String,
) -> Result<()> {
    let mut all = Vec::new();
    for round in 0..(plan.rounds / 100).max(3) {
        let start = Instant::now();
        for writer in &mut *writers {
            writer.edit_all().fill(round as u8);
            writer.publish()?;
        }
        all.push(start.elapsed().as_nanos() as f64 / writers.len() as f64);
    }
    rows.push(Row::of(what, all));
    Ok(())
}

/// The same under a hundred readers. What a read takes is processor time: a hundred
/// threads have few processors.
fn read_all(
    plan: &Plan,
    writers: &mut [Writer<[u8]>],
    readers: &[Reader<[u8]>],
    rows: &mut Vec<Row>,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..READERS)
            .map(|_| scope.spawn(|| read_until(readers, &stop)))
            .collect();
        let what = format!(
            "publish 4 KiB, each of {}, {READERS} readers",
            writers.len()
        );
        let published = publish_all(plan, writers, rows, what);
        // Readers that came to nothing yet do now.
        std::thread::sleep(plan.span.min(Duration::from_millis(500)));
        stop.store(true, Ordering::Release);
        let mut reads = Vec::new();
        for reader in reading {
            reads.push(reader.join().expect("a reader does not panic")?);
        }
        published?;
        let what = format!("read 4 KiB, each of {}, {READERS} readers", readers.len());
        rows.push(Row::of(what, reads));
        Ok(())
    })
}

/// Reads every region over and over; processor time of one read.
fn read_until(readers: &[Reader<[u8]>], stop: &AtomicBool) -> Result<f64> {
    let begun = thread_time();
    let mut count = 0;
    let mut buffer = [0; LEN];
    while count == 0 || !stop.load(Ordering::Acquire) {
        for reader in readers {
            reader.read_with(|view| view.load(0, &mut buffer))?;
            ensure!(buffer == [buffer[0]; LEN], "a torn snapshot");
            count += 1;
        }
        std::thread::sleep(REST);
    }
    Ok((thread_time() - begun).as_nanos() as f64 / f64::from(count))
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
