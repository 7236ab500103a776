//! From one thread to another and back, by halves: through regions, a Unix socket,
//! iceoryx2.

use std::hint::spin_loop;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use stateplane_host::priority;
use stateplane_region::{Reader, Snapshot, Spec, Writer};

use super::{Plan, Row, move_over};

/// Two regions, one each way: a side writes all of its own and looks at the other's until
/// there is a new version.
pub(super) fn regions<const N: usize>(plan: &Plan, name: &str, rows: &mut Vec<Row>) -> Result<()> {
    let (mut ask, asked) = side::<N>()?;
    let (mut answer, answered) = side::<N>()?;
    let stop = AtomicBool::new(false);
    let all = std::thread::scope(|scope| -> Result<Vec<f64>> {
        // Taken before the first question: a peer that starts late must not miss it.
        let (mut seen, mut heard) = (answered.snapshot()?, asked.snapshot()?);
        let (asked, answer, stop) = (&asked, &mut answer, &stop);
        let peer = scope.spawn(move || -> Result<()> {
            let done = (|| -> Result<()> {
                move_over(plan)?;
                while wait(asked, &mut heard, stop)? {
                    answer.edit_all().fill(heard[0]);
                    answer.publish()?;
                }
                Ok(())
            })();
            // Nobody answers any more: whoever waits must not wait for ever.
            stop.store(true, Ordering::Relaxed);
            done
        });
        let measured = (|| {
            let mut all = Vec::with_capacity(plan.rounds);
            for round in 0..plan.rounds {
                let start = Instant::now();
                ask.edit_all().fill(round as u8);
                ask.publish()?;
                if !wait(&answered, &mut seen, stop)? {
                    break;
                }
                all.push(start.elapsed().as_nanos() as f64 / 2.0);
                ensure!(seen.bytes() == [round as u8; N], "not the answer");
            }
            Ok(all)
        })();
        stop.store(true, Ordering::Relaxed);
        peer.join().expect("the peer does not panic")?;
        measured
    })?;
    rows.push(Row::of(format!("region {name}, one way"), all));
    Ok(())
}

type Side = (Writer<[u8]>, Reader<[u8]>);

fn side<const N: usize>() -> Result<Side> {
    let mut writer = Writer::<[u8]>::create(&Spec::bytes(N))?;
    writer.publish()?;
    let reader = Reader::open(writer.fd().try_clone_to_owned()?, "")?;
    Ok((writer, reader))
}

/// Until there is a new version; false: no more will come.
fn wait(reader: &Reader<[u8]>, seen: &mut Snapshot<[u8]>, stop: &AtomicBool) -> Result<bool> {
    while !reader.refresh(seen)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        spin_loop();
    }
    Ok(true)
}

/// The same over a pair of datagram sockets, where a side sleeps until there is something.
pub(super) fn sockets<const N: usize>(plan: &Plan, name: &str, rows: &mut Vec<Row>) -> Result<()> {
    let (ours, theirs) = UnixDatagram::pair()?;
    let all = std::thread::scope(|scope| -> Result<Vec<f64>> {
        scope.spawn(move || {
            // Where it runs is measured too, but nothing depends on it.
            let _ = move_over(plan);
            let mut buffer = [0; N];
            while let Ok(1..) = theirs.recv(&mut buffer) {
                let _ = theirs.send(&buffer);
            }
        });
        let mut buffer = [1; N];
        let mut all = Vec::with_capacity(plan.rounds);
        for _ in 0..plan.rounds {
            let start = Instant::now();
            ours.send(&buffer)?;
            ours.recv(&mut buffer)?;
            all.push(start.elapsed().as_nanos() as f64 / 2.0);
        }
        ours.send(&[])?;
        Ok(all)
    })?;
    rows.push(Row::of(format!("Unix socket {name}, one way"), all));
    Ok(())
}

/// By a program of its own, in the same run: see `peers/iceoryx2/README.md`.
pub(super) fn iceoryx2(
    plan: &Plan,
    program: Option<&Path>,
    rows: &mut Vec<Row>,
    skipped: &mut Vec<String>,
) -> Result<()> {
    let Some(program) = program else {
        skipped.push(
            "iceoryx2: --iceoryx2 names no program (`make bench-region` builds one)".to_owned(),
        );
        return Ok(());
    };
    // It would inherit the one processor of this thread for both of its own.
    let own = priority::allowed_cpus()?.first().copied().unwrap_or(0);
    let output = Command::new(program)
        .args([plan.rounds, own, plan.other.unwrap_or(own)].map(|n| n.to_string()))
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let measured: Vec<Row> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("what {} printed", program.display()))?;
    rows.extend(measured);
    Ok(())
}
