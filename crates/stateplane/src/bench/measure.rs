//! Two measurements: how many packets a second pass without loss, and how long an
//! established flow's packets take.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use stateplane_host::bpf::BpfError;
use stateplane_host::bpf::bench::{Load, Range};
use stateplane_host::link::Netlink;
use stateplane_host::priority;

use super::device::Device;
use super::testbed::{SOURCE, TARGET, Testbed, frame};

/// Frames under way at most. Small enough for every queue on the path, so that what is
/// measured is work and not loss.
const WINDOW: u32 = 192;
/// Time after which frames that have not arrived never will.
const SETTLE: Duration = Duration::from_millis(50);
const ECHO_PORT: u16 = 7;

/// Packets through the device in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rate {
    /// Packets a second that arrived at the sink.
    pub(super) pps: f64,
    /// Packets that did not.
    pub(super) lost: u64,
}

/// Sends from `flows` source ports for about `span`, never more than a window at once.
pub(super) fn rate(
    bed: &Testbed,
    device: Device,
    flows: u32,
    span: Duration,
    cpu: usize,
) -> Result<Rate> {
    let mut range = bed.generator.run(move || {
        let ifindex = Netlink::open()?.index("g0")?;
        let load = Load {
            frame: frame(60, SOURCE, TARGET),
            flows,
            hosts: 1,
            window: WINDOW,
            ifindex,
            expected: device.expected(),
        };
        Range::new(load).map_err(io::Error::other)
    })?;
    bed.sink
        .run(|| range.attach_sink("s0").map_err(io::Error::other))?;
    bed.generator
        .run(move || {
            priority::pin_to(cpu)?;
            drive(&mut range, flows, span).map_err(io::Error::other)
        })
        .map_err(Into::into)
}

fn drive(range: &mut Range, flows: u32, span: Duration) -> Result<Rate, BpfError> {
    // The first packet of every flow is not what is measured here: warm up until each
    // has been seen, some rounds of windows at least.
    let enough = u64::from(flows.max(WINDOW)) * 2;
    let (until, mut runs) = (Instant::now() + Duration::from_secs(10), 100_000);
    let mut pace = Duration::from_nanos(500);
    while range.arrived()?.right < enough && Instant::now() < until {
        pace = range.run(runs)? / runs;
        thread::sleep(SETTLE);
        range.give_up()?;
    }
    runs = u32::try_from(span.as_nanos() / pace.as_nanos().max(1)).unwrap_or(u32::MAX);
    let (sent, arrived) = (range.sent()?, range.arrived()?.right);
    let took = range.run(runs.max(1))?;
    thread::sleep(SETTLE);
    let (sent, arrived) = (range.sent()? - sent, range.arrived()?.right - arrived);
    Ok(Rate {
        pps: arrived as f64 / took.as_secs_f64(),
        lost: sent.saturating_sub(arrived),
    })
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
        let mut times = Histogram::<u64>::new(3).map_err(io::Error::other)?;
        let mut buffer = [0; 64];
        for number in 0..count + count / 10 {
            let sent = Instant::now();
            socket.send(&number.to_be_bytes())?;
            socket.recv(&mut buffer)?;
            if number >= count / 10 {
                let nanos = sent.elapsed().as_nanos() as u64;
                times.record(nanos).map_err(io::Error::other)?;
            }
        }
        Ok(times)
    })?;
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Latency {
        p50_us: micros(0.5),
        p99_us: micros(0.99),
    })
}

fn client(timeout: Duration) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SocketAddrV4::new(TARGET, ECHO_PORT))?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket)
}
