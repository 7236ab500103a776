//! Packets at a high rate beside the generator's flows: the kernel makes them in the client's
//! namespace, another program counts them at the server.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stateplane_host::bpf::BpfError;
use stateplane_host::bpf::bench::{self, Heard};
use stateplane_host::{ifreq, priority};

use super::topology::{INSIDE_MAC, SERVER, Topology, client_address};
use crate::bench::testbed::{POOL, POOL_PREFIX, discarded};

/// Nobody answers to this address, as nobody answers such packets.
const SENDER: [u8; 6] = [0x02, 0x53, 0x50, 0, 0x03, 0x01];
/// One call of the kernel's makes packets for about as long. Each begins and ends with a wait for
/// all processors, so short ones would spend their time on that.
const CALL: Duration = Duration::from_millis(100);
/// The nodes come first.
const NICE: i32 = 5;
/// Runs of the generator in the first call.
const RUNS: u32 = 1 << 14;
/// Packets under way at most: fewer than any queue between the ends holds.
const WINDOW: u32 = 192;
/// Packets that have not arrived after as long make room for others.
const LATE: Duration = Duration::from_millis(2);
/// Packets still on their way at the end have this long to arrive.
const SETTLE: Duration = Duration::from_millis(100);
/// First packets of flows come at this rate, and the next ones only when all flows are there.
const FIRST_RATE: u32 = 5_000;
/// The first packets of all flows take so long at most.
const FIRST_LIMIT: Duration = Duration::from_secs(60);
/// At the end every flow is called at this rate, so often at most until it is heard.
const CALL_RATE: u32 = 20_000;
const CALLS: u32 = 3;
/// How much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadPlan {
    /// Packets a second.
    pub(crate) rate: u32,
    /// Flows, in turn.
    pub(crate) flows: u32,
}

/// What came of it, once all flows were there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    /// Packets that were not what the instances had to make of them.
    pub(crate) wrong: u64,
    /// The longest time in which none arrived, less what the generator was kept from running.
    pub(crate) silence: Duration,
    /// The same with that.
    pub(crate) whole: Duration,
    pub(crate) took: Duration,
    pub(crate) flows: FlowsReport,
}

/// The same, flow by flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlowsReport {
    /// Flows that nothing was heard of, ever or at the end.
    pub(crate) silent: u64,
    /// Flows that came from two endpoints.
    pub(crate) remapped: u64,
    /// Flows that came from an endpoint that another one had.
    pub(crate) shared: u64,
    /// The longest time between two packets of one flow.
    pub(crate) silence: Duration,
}

impl FlowsReport {
    /// `before`: what was heard until the load ended; `after`: until every flow was called once more.
    fn of(before: &[Heard], after: &[Heard]) -> Self {
        let mut report = Self::default();
        let mut sources = HashSet::new();
        for (before, after) in before.iter().zip(after) {
            report.silent += u64::from(after.frames == before.frames);
            report.remapped += u64::from(after.strays > 0);
            report.shared += u64::from(after.frames > 0 && !sources.insert(after.source));
            report.silence = report.silence.max(before.silence);
        }
        report
    }
}

impl LoadReport {
    pub(crate) fn rate(&self) -> f64 {
        (self.sent as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)).round()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }

    /// What no load may show, by name.
    pub(crate) fn faults(&self) -> [(u64, &'static str); 4] {
        [
            (self.wrong, "packets of the load were rewritten wrongly"),
            (self.flows.silent, "flows of the load fell silent"),
            (
                self.flows.remapped,
                "flows of the load changed their mapping",
            ),
            (self.flows.shared, "flows of the load share a mapping"),
        ]
    }

    pub(crate) fn silence_ms(&self) -> f64 {
        tenths(self.silence)
    }

    pub(crate) fn flow_silence_ms(&self) -> f64 {
        tenths(self.flows.silence)
    }

    pub(crate) fn json(&self, plan: LoadPlan) -> Value {
        json!({
            "flows": plan.flows,
            "wanted_per_s": plan.rate,
            "sent_per_s": self.rate(),
            "sent": self.sent,
            "lost": self.lost(),
            "wrong": self.wrong,
            "longest_silence_ms": self.silence_ms(),
            "longest_silence_with_generator_ms": tenths(self.whole),
            "flow_longest_silence_ms": self.flow_silence_ms(),
            "flows_silent": self.flows.silent,
            "flows_remapped": self.flows.remapped,
            "flows_sharing": self.flows.shared,
        })
    }
}

fn tenths(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e4).round() / 10.0
}

/// A running load.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<io::Result<LoadReport>>>,
}

impl Load {
    /// Makes the flows by their first packets, one after the other, then begins.
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
            let mut range = bench::Range::new(load).map_err(io::Error::other)?;
            range.set_numbered().map_err(io::Error::other)?;
            Ok(range)
        })?;
        topology
            .namespace("server")
            .run(|| range.attach_sink("eth0").map_err(io::Error::other))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let (ready, is_ready) = mpsc::channel();
        let thread = client.spawn_thread("load", move || {
            // The generator looks for what is due all the time: nobody else is to wait for that.
            priority::set_nice(NICE)?;
            establish(&mut range, plan, &asked).map_err(io::Error::other)?;
            // Who began us waits for it.
            let _ = ready.send(());
            drive(&mut range, plan, &asked).map_err(io::Error::other)
        })?;
        // An error is told at the end.
        let _ = is_ready.recv();
        Ok(Self { stop, thread })
    }

    /// Ends it; what it came to.
    pub(crate) fn finish(self) -> io::Result<LoadReport> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| io::Error::other("the load's thread panicked"))??
    }
}

/// Packets at a rate.
struct Pace {
    begun: Instant,
    /// What had been sent before.
    before: u64,
    sent: u64,
    runs: u32,
}

impl Pace {
    fn new(range: &mut bench::Range, rate: u32) -> Result<Self, BpfError> {
        range.set_rate(rate, LATE)?;
        Ok(Self {
            begun: Instant::now(),
            before: range.sent()?,
            sent: 0,
            runs: RUNS,
        })
    }

    /// Sends what is due during one call.
    fn call(&mut self, range: &bench::Range) -> Result<(), BpfError> {
        let took = range.run(self.runs)?.max(Duration::from_micros(1));
        self.sent = range.sent()? - self.before;
        let wanted = CALL.as_secs_f64() / took.as_secs_f64();
        self.runs = (f64::from(self.runs) * wanted.clamp(0.25, 4.0)) as u32;
        self.runs = self.runs.clamp(RUNS, 1 << 26);
        Ok(())
    }
}

/// Until something of each flow has arrived.
fn establish(range: &mut bench::Range, plan: LoadPlan, stop: &AtomicBool) -> Result<(), BpfError> {
    let mut pace = Pace::new(range, plan.rate.min(FIRST_RATE))?;
    while pace.begun.elapsed() < FIRST_LIMIT && !stop.load(Ordering::Relaxed) {
        pace.call(range)?;
        if range.heard()?.iter().all(|flow| flow.frames > 0) {
            break;
        }
    }
    std::thread::sleep(SETTLE);
    range.forget_silence()
}

/// Calls every flow until all have been heard once more, or have not come after all.
fn roll_call(
    range: &mut bench::Range,
    plan: LoadPlan,
    before: &[Heard],
) -> Result<Vec<Heard>, BpfError> {
    let mut heard = range.heard()?;
    for _ in 0..CALLS {
        let mut pace = Pace::new(range, plan.rate.min(CALL_RATE))?;
        while pace.sent < u64::from(plan.flows) {
            pace.call(range)?;
        }
        std::thread::sleep(SETTLE);
        heard = range.heard()?;
        let mut pairs = heard.iter().zip(before);
        if pairs.all(|(now, before)| now.frames > before.frames) {
            break;
        }
    }
    Ok(heard)
}

fn drive(
    range: &mut bench::Range,
    plan: LoadPlan,
    stop: &AtomicBool,
) -> Result<LoadReport, BpfError> {
    let before = range.arrived()?;
    let mut pace = Pace::new(range, plan.rate)?;
    let mut report = LoadReport::default();
    while !stop.load(Ordering::Relaxed) {
        pace.call(range)?;
    }
    let pause = range.pause()?;
    (report.silence, report.whole) = (pause.silence, pause.whole);
    (report.sent, report.took) = (pace.sent, pace.begun.elapsed());
    std::thread::sleep(SETTLE);
    let arrived = range.arrived()?;
    report.arrived = arrived.right - before.right;
    report.wrong = arrived.wrong - before.wrong;
    let heard = range.heard()?;
    report.flows = FlowsReport::of(&heard, &roll_call(range, plan, &heard)?);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_base::Time;
    use std::net::{Ipv4Addr, SocketAddrV4};

    fn heard(port: u16, frames: u64, strays: u16) -> Heard {
        Heard {
            frames,
            last: Time::ZERO,
            silence: Duration::from_millis(u64::from(port)),
            source: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            strays,
        }
    }

    #[test]
    fn what_is_wrong_with_a_flow_is_told() {
        let of = |after: [Heard; 2]| {
            let before = [heard(1, 8, 0), heard(2, 0, 0)];
            let flows = FlowsReport::of(&before, &after);
            assert_eq!(flows.silence, Duration::from_millis(2));
            [flows.silent, flows.remapped, flows.shared]
        };
        assert_eq!(of([heard(1, 9, 0), heard(2, 9, 0)]), [0; 3]);
        assert_eq!(of([heard(1, 8, 0), heard(0, 0, 0)]), [2, 0, 0]);
        assert_eq!(of([heard(1, 9, 1), heard(1, 9, 0)]), [0, 1, 1]);
    }
}
