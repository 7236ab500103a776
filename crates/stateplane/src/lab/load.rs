//! Packets at a high rate beside the generator's flows: the kernel makes them in the client's
//! namespace, another program counts them at the server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stateplane_host::bpf::bench;
use stateplane_host::ifreq;

use super::topology::{INSIDE_MAC, SERVER, Topology, client_address};
use crate::bench::testbed::{POOL, POOL_PREFIX, discarded};

/// Nobody answers to this address, as nobody answers such packets.
const SENDER: [u8; 6] = [0x02, 0x53, 0x50, 0, 0x03, 0x01];
/// Packets are made in slices of this length; silence is known as exactly.
const SLICE: Duration = Duration::from_millis(2);
/// Packets under way at most: fewer than any queue between the ends holds.
const WINDOW: u32 = 192;
/// Packets still on their way at the end have this long to arrive.
const SETTLE: Duration = Duration::from_millis(100);

/// How much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadPlan {
    /// Packets a second.
    pub(crate) rate: u32,
    /// Flows, in turn.
    pub(crate) flows: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    pub(crate) silence: Duration,
    pub(crate) took: Duration,
}

impl LoadReport {
    pub(crate) fn rate(&self) -> f64 {
        (self.sent as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)).round()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }

    pub(crate) fn silence_ms(&self) -> f64 {
        (self.silence.as_secs_f64() * 1e4).round() / 10.0
    }

    pub(crate) fn json(&self, plan: LoadPlan) -> Value {
        json!({
            "flows": plan.flows,
            "wanted_per_s": plan.rate,
            "sent_per_s": self.rate(),
            "sent": self.sent,
            "lost": self.lost(),
            "longest_silence_ms": self.silence_ms(),
        })
    }
}

/// A running load.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<io::Result<LoadReport>>>,
}

impl Load {
    /// Begins; the first packets make the flows.
    pub(crate) fn start(plan: LoadPlan, topology: &Topology) -> io::Result<Self> {
        let client = topology.namespace("client");
        let server = topology.namespace("server").run(|| ifreq::mac("eth0"))?;
        let mut range = client.run(move || {
            let load = bench::Load {
                frame: discarded(60, [INSIDE_MAC, SENDER], [client_address(0), SERVER]),
                flows: plan.flows,
                hosts: 1,
                window: WINDOW,
                ifindex: ifreq::index("eth0")?,
                expected: bench::Expected {
                    source: POOL,
                    source_prefix: POOL_PREFIX,
                    destination: SERVER,
                    mac: server.0,
                },
            };
            bench::Range::new(load).map_err(io::Error::other)
        })?;
        topology
            .namespace("server")
            .run(|| range.attach_sink("eth0").map_err(io::Error::other))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = client.spawn_thread("load", move || {
            drive(&mut range, plan.rate, &asked).map_err(io::Error::other)
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it; what it came to.
    pub(crate) fn finish(self) -> io::Result<LoadReport> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| io::Error::other("the load's thread panicked"))??
    }
}

fn drive(
    range: &mut bench::Range,
    rate: u32,
    stop: &AtomicBool,
) -> Result<LoadReport, stateplane_host::bpf::BpfError> {
    let (begun, mut heard, mut last) = (Instant::now(), 0, Instant::now());
    let mut report = LoadReport::default();
    while !stop.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        // Whoever was late does not make up for it in one go.
        let most = u64::from(rate) / 100;
        let now_due = due.saturating_sub(report.sent).min(most.max(1));
        if now_due > 0 {
            range.run(now_due as u32)?;
        }
        report.sent = range.sent()?;
        // What has not arrived by the next slice is lost, and makes room.
        range.give_up()?;
        let arrived = range.arrived()?.right;
        if arrived != heard {
            // Before the first one there is nothing to go silent.
            if heard > 0 {
                report.silence = report.silence.max(last.elapsed());
            }
            (heard, last) = (arrived, Instant::now());
        }
        std::thread::sleep(SLICE.min(begun.elapsed()));
    }
    report.silence = report.silence.max(last.elapsed());
    report.took = begun.elapsed();
    std::thread::sleep(SETTLE);
    report.arrived = range.arrived()?.right;
    Ok(report)
}
