//! Two measurements: how many packets a second pass without loss, and how long an
//! established flow's packets take.

use std::net::{SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use stateplane_host::bpf::bench::{Generator, Sink};
use stateplane_host::link::Netlink;

use super::testbed::{TARGET, Testbed, frame};

/// Frames under way at most. Small enough for every queue on the path, so that what is
/// measured is work and not loss.
const WINDOW: u64 = 512;
const BURST: u32 = 128;
/// Frames that have not arrived after this time are counted as lost.
const LOST_AFTER: Duration = Duration::from_millis(20);
const ECHO_PORT: u16 = 7;

/// Packets through the device in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rate {
    /// Packets a second that arrived at the sink.
    pub(super) pps: f64,
    /// Packets that did not.
    pub(super) lost: u64,
}

/// Sends from `flows` source ports for `span`, never more than a window at once.
pub(super) fn rate(bed: &Testbed, sink: &Sink, flows: u32, span: Duration) -> Result<Rate> {
    let generator = bed.generator.run(move || {
        let index = Netlink::open()?.index("g0")?;
        Generator::new(index, flows).map_err(std::io::Error::other)
    })?;
    let frame = frame();
    // The first packet of every flow is not what is measured here.
    let warm_up = Duration::from_millis(300) + Duration::from_micros(60) * flows;
    drive(&generator, sink, &frame, warm_up)?;
    drive(&generator, sink, &frame, span)
}

fn drive(generator: &Generator, sink: &Sink, frame: &[u8], span: Duration) -> Result<Rate> {
    let first = sink.counted()?;
    let (mut sent, mut lost) = (0u64, 0u64);
    let (mut arrived, mut progress) = (0u64, Instant::now());
    let start = Instant::now();
    while start.elapsed() < span {
        let now_arrived = sink.counted()? - first;
        if now_arrived > arrived {
            (arrived, progress) = (now_arrived, Instant::now());
        }
        if sent.saturating_sub(arrived + lost) + u64::from(BURST) <= WINDOW {
            generator.send(frame, BURST)?;
            sent += u64::from(BURST);
        } else if progress.elapsed() > LOST_AFTER {
            lost = sent - arrived;
        } else {
            thread::yield_now();
        }
    }
    let elapsed = start.elapsed();
    thread::sleep(LOST_AFTER);
    let arrived = sink.counted()? - first;
    Ok(Rate { pps: arrived as f64 / elapsed.as_secs_f64(), lost: sent.saturating_sub(arrived) })
}

/// Round-trip times of one established UDP flow, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// Starts the echo server in the sink; it ends with the process.
pub(super) fn start_echo(bed: &Testbed) -> Result<()> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    bed.sink.spawn_thread("echo", move || {
        let socket = UdpSocket::bind(SocketAddrV4::new(TARGET, ECHO_PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let _ = ready.send(());
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from)?;
        }
        Ok::<(), std::io::Error>(())
    })?;
    is_ready.recv().context("the echo server did not start")
}

/// Waits until a datagram makes it through the device and back.
pub(super) fn wait_until_forwarding(bed: &Testbed, limit: Duration) -> Result<()> {
    let answered = bed.generator.run(move || {
        let socket = client(Duration::from_millis(100))?;
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let _ = socket.send(b"are you there?");
            if socket.recv(&mut [0; 64]).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    if !answered {
        bail!("the device did not forward within {limit:?}");
    }
    Ok(())
}

/// Measures `count` round trips, one at a time.
pub(super) fn latency(bed: &Testbed, count: u32) -> Result<Latency> {
    let times = bed.generator.run(move || {
        let socket = client(Duration::from_millis(500))?;
        let mut times = Histogram::<u64>::new(3).map_err(std::io::Error::other)?;
        let mut buffer = [0; 64];
        for number in 0..count + count / 10 {
            let sent = Instant::now();
            socket.send(&number.to_be_bytes())?;
            socket.recv(&mut buffer)?;
            if number >= count / 10 {
                times.saturating_record(sent.elapsed().as_nanos() as u64);
            }
        }
        Ok(times)
    })?;
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Latency { p50_us: micros(0.5), p99_us: micros(0.99) })
}

fn client(timeout: Duration) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SocketAddrV4::new(TARGET, ECHO_PORT))?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket)
}
