//! What the workers publish, and the questions they answer between batches.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use stateplane_base::Time;
use stateplane_flow::fast::{COUNTER_BYTES, COUNTER_HITS, Pressure, Punt};
use stateplane_flow::{Endpoint, PortId, Protocol};
use stateplane_functions::{Counters, Session};
use stateplane_host::bpf::fastpath::{FastCounters, Words};
use stateplane_host::port::{Port, PortStats};
use stateplane_host::xsk::XskPort;

use super::fast::{Done, Fast};
use super::front::Front;
use super::hops::KernelHops;
use super::packets::PacketLoop;
use super::service::Functions;
use crate::function::{
    FastPathStatus, FunctionStatus, InterfaceStatus, LeaseView, MeterView, Question, SessionView,
    WorkerStatus,
};
use crate::status::{EVERY, Publisher};

type Packets<R> = PacketLoop<R, XskPort, KernelHops, Words>;

const SIDES: [&str; 2] = ["inside", "outside"];
/// The counter that is a largest value.
const HIGH_WATER: &str = "park-high-water";

/// What one worker says of itself; the first one publishes the sum.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    worker: WorkerStatus,
    store_silent: bool,
    parked: u64,
    store_pending: u64,
    leases: Vec<LeaseView>,
    /// Of a meter, which has one worker.
    meter: Option<MeterView>,
    done: Done,
    drops: BTreeMap<String, u64>,
    counters: BTreeMap<String, u64>,
}

/// Where a worker leaves its figures for the first one. Neither waits for the other.
pub(super) type Slot = Arc<Mutex<Figures>>;

/// A worker's publishing end.
pub(super) struct Reporter {
    questions: Receiver<Question>,
    /// What does not change.
    worker: WorkerStatus,
    to: To,
}

/// Where its figures go.
pub(super) enum To {
    /// To the first worker, the next time then.
    First(Slot, Time),
    /// To all the world, with those of the others.
    All(Box<Publication>),
}

/// The first worker's: what the instance publishes.
pub(super) struct Publication {
    pub(super) status: Publisher<FunctionStatus>,
    /// What the instance runs.
    pub(super) runs: Vec<String>,
    pub(super) interfaces: [(String, InterfaceStatus); 2],
    /// Those of the other workers, as they were last seen.
    pub(super) others: Vec<(Slot, Figures)>,
    /// How full the fast path was when it was last seen.
    pub(super) fill: (Pressure, [u64; 3], u64),
}

impl Publication {
    pub(super) fn new(
        status: Publisher<FunctionStatus>,
        runs: Vec<String>,
        names: &[String; 2],
        modes: [String; 2],
        others: &[Slot],
    ) -> Self {
        let interface = |index: usize, side: &str| {
            let mode = modes[index].clone();
            let status = InterfaceStatus {
                side: side.to_owned(),
                mode,
                received: 0,
                sent: 0,
            };
            (names[index].clone(), status)
        };
        let others = others.iter();
        Self {
            status,
            runs,
            interfaces: [interface(0, "inside"), interface(1, "outside")],
            others: others
                .map(|slot| (Arc::clone(slot), Figures::default()))
                .collect(),
            fill: Default::default(),
        }
    }
}

impl Reporter {
    pub(super) fn new(questions: Receiver<Question>, worker: WorkerStatus, to: To) -> Self {
        Self {
            questions,
            worker,
            to,
        }
    }

    /// Publishes if it is time, and answers what was asked. `front`: the first worker's.
    pub(super) fn turn<R: Functions>(
        &mut self,
        now: Time,
        packets: &mut Packets<R>,
        front: Option<&Front>,
        draining: bool,
    ) {
        while let Ok(question) = self.questions.try_recv() {
            match question {
                Question::Sessions { limit, answer } => {
                    // Whoever asked may have gone.
                    let _ = answer.send(sessions(now, packets, limit));
                }
                Question::Store { op, reads, answer } => packets.ask_store(now, op, reads, answer),
            }
        }
        match (&mut self.to, front) {
            (To::First(slot, next), _) if now >= *next => {
                *next = now + EVERY;
                if let Ok(mut slot) = slot.try_lock() {
                    *slot = figures(now, packets, &self.worker);
                }
            }
            (To::All(all), Some(front)) => {
                all.turn(now, packets, &self.worker, front, draining);
            }
            _ => {}
        }
    }
}

impl Publication {
    /// Publishes if it is time.
    fn turn<R: Functions>(
        &mut self,
        now: Time,
        packets: &Packets<R>,
        worker: &WorkerStatus,
        front: &Front,
        draining: bool,
    ) {
        if !self.status.due(now) {
            return;
        }
        let own = figures(now, packets, worker);
        for (slot, last) in &mut self.others {
            if let Ok(figures) = slot.try_lock() {
                last.clone_from(&figures);
            }
        }
        if let Some(fill) = packets.fast.as_ref().and_then(Fast::fill) {
            self.fill = fill;
        }
        let fill = self.fill;
        let workers: Vec<WorkerStatus> = std::iter::once(&own)
            .chain(self.others.iter().map(|(_, figures)| figures))
            .map(|figures| figures.worker.clone())
            .collect();
        let mut sum = own;
        self.others.iter().for_each(|(_, other)| sum.add(other));
        for (side, (_, status)) in self.interfaces.iter_mut().enumerate() {
            (status.received, status.sent) = (sum.worker.received[side], sum.worker.sent[side]);
        }
        add_programs(&mut sum.counters, front);
        let is_on = packets.fast.is_some();
        let fast_path = is_on.then(|| fast_path(sum.done, fill, front));
        let fast_path_off = front.off().map(str::to_owned);
        let interfaces = self.interfaces.iter().cloned().collect();
        let runs = self.runs.clone();
        self.status.update(|status| {
            *status = FunctionStatus {
                runs,
                attached: true,
                registered: workers.iter().all(|worker| worker.registered),
                store_silent: sum.store_silent,
                draining,
                workers,
                interfaces,
                flows: sum.worker.flows,
                parked: sum.parked,
                store_pending: sum.store_pending,
                leases: sum.leases,
                meter: sum.meter,
                fast_path,
                fast_path_off,
                drops: sum.drops,
                counters: sum.counters,
            };
        });
    }
}

impl Figures {
    fn add(&mut self, other: &Self) {
        for side in 0..2 {
            self.worker.received[side] += other.worker.received[side];
            self.worker.sent[side] += other.worker.sent[side];
        }
        self.worker.flows += other.worker.flows;
        self.store_silent |= other.store_silent;
        self.parked += other.parked;
        self.store_pending += other.store_pending;
        self.leases.extend(other.leases.iter().cloned());
        self.done = self.done.and(other.done);
        for (sums, more) in [
            (&mut self.drops, &other.drops),
            (&mut self.counters, &other.counters),
        ] {
            for (name, count) in more {
                let sum = sums.entry(name.clone()).or_default();
                // Each worker's was at another time: their sum never was.
                *sum = match name.as_str() {
                    HIGH_WATER => (*sum).max(*count),
                    _ => *sum + count,
                };
            }
        }
    }
}

fn figures<R: Functions>(now: Time, packets: &Packets<R>, worker: &WorkerStatus) -> Figures {
    let counters = packets.runtime.counted();
    let drops = counters.drops().filter(|(_, count)| *count > 0);
    let drops: BTreeMap<String, u64> = drops
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .collect();
    let mut named = named(&counters);
    let stats = [0, 1].map(|side| packets.ports[side].stats());
    add_host_counters(&mut named, packets, &stats);
    let said = packets.runtime.said(now);
    named.extend(
        said.counters
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n)),
    );
    let done = packets.fast.as_ref().map(Fast::done).unwrap_or_default();
    Figures {
        worker: WorkerStatus {
            registered: said.registered,
            received: stats.map(|stats| stats.received),
            sent: stats.map(|stats| stats.sent),
            flows: packets.runtime.flows() as u64,
            decisions: counters.decisions,
            dropped: drops.values().sum(),
            waited: done.waited,
            ..worker.clone()
        },
        store_silent: said.store_silent,
        parked: counters.park_now,
        store_pending: packets.state.pending() as u64,
        leases: said.leases,
        meter: said.meter,
        done,
        drops,
        counters: named,
    }
}

/// The runtime's counters by name.
fn named(counters: &Counters) -> BTreeMap<String, u64> {
    let [inside, outside] = counters.forwarded;
    let named = [
        ("forwarded-inside", inside),
        ("forwarded-outside", outside),
        ("hits", counters.hits),
        ("answered", counters.answered),
        ("checksums-finished", counters.checksums_finished),
        ("decisions", counters.decisions),
        ("decisions-refused", counters.decisions_refused),
        ("decisions-timed-out", counters.decisions_timed_out),
        ("shared-operations", counters.shared_operations),
        ("shared-items", counters.shared_items),
        ("announced", counters.announced),
        ("misannounced", counters.misannounced),
        ("passed-early", counters.passed_early),
        ("parked", counters.parked),
        ("held-by-barrier", counters.held_by_barrier),
        ("released", counters.released),
        ("uncached", counters.uncached),
        (HIGH_WATER, counters.park_high_water),
    ];
    named
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// What happened below and beside the function.
fn add_host_counters<R>(
    named: &mut BTreeMap<String, u64>,
    packets: &Packets<R>,
    stats: &[PortStats; 2],
) {
    let census = packets.pool.census();
    named.insert("frames-free".to_owned(), census.free as u64);
    named.insert("frames-parked".to_owned(), census.parked as u64);
    named.insert(
        "neighbour-waiting".to_owned(),
        packets.egress.waiting() as u64,
    );
    if let Some(datagrams) = packets.state.counters() {
        named.insert("store-sent".to_owned(), datagrams.sent);
        named.insert("store-received".to_owned(), datagrams.received);
        named.insert("store-calls".to_owned(), datagrams.calls);
    }
    for (side, stats) in SIDES.iter().zip(stats) {
        named.insert(format!("{side}-no-frame"), stats.dropped_no_frame);
        named.insert(format!("{side}-ring-full"), stats.dropped_ring_full);
        named.insert(format!("{side}-send-full"), stats.send_full);
    }
}

/// What the programs in front of all workers left to others.
fn add_programs(named: &mut BTreeMap<String, u64>, front: &Front) {
    for (side, counted) in SIDES.iter().zip(front.counters()) {
        if let Some(counted) = counted {
            named.insert(format!("{side}-to-kernel"), counted.kernel);
            named.insert(format!("{side}-no-socket"), counted.no_socket);
        }
    }
}

/// What passed in front of the workers, and what did not.
fn fast_path(
    done: Done,
    (pressure, ways, revoked): (Pressure, [u64; 3], u64),
    front: &Front,
) -> FastPathStatus {
    let counted: Vec<_> = front.counters().into_iter().flatten().collect();
    let sum = |of: &dyn Fn(&FastCounters) -> u64| counted.iter().map(of).sum::<u64>();
    let hits = sum(&|counted| counted.fast.0[COUNTER_HITS]);
    let whole = hits + sum(&|counted| counted.function);
    let punts = Punt::ALL.iter().filter_map(|&why| {
        let count = sum(&|counted| counted.fast.0[why.counter()]);
        (count > 0).then(|| (why.name().to_owned(), count))
    });
    let [next_hops, destinations, ways_full] = ways;
    FastPathStatus {
        hits,
        bytes: sum(&|counted| counted.fast.0[COUNTER_BYTES]),
        share: (hits as f64 / whole.max(1) as f64 * 1000.0).round() / 10.0,
        punts: punts.collect(),
        slots: pressure.capacity as u64,
        slots_in_use: pressure.in_use as u64,
        flows: pressure.used as u64,
        full: done.full,
        moved: pressure.moved,
        installed: done.installed,
        withdrawn: done.withdrawn,
        revoked,
        unowned: done.unowned,
        wayless: done.wayless,
        next_hops,
        destinations,
        ways_full,
    }
}

fn sessions<R: Functions>(now: Time, packets: &Packets<R>, limit: usize) -> Vec<SessionView> {
    // One line a mapping: the way out names both of its endpoints.
    let outward = packets
        .runtime
        .sessions(now, limit, |_, action| action.out == PortId(1));
    outward.iter().map(view).collect()
}

fn view(session: &Session) -> SessionView {
    let flow = session.flow;
    let outside = session.action.source.map_or_else(String::new, text);
    SessionView {
        protocol: match flow.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::IcmpEcho => "icmp",
        }
        .to_owned(),
        inside: text(flow.source),
        outside,
        // Mapping and filtering are endpoint independent: there is no single remote end.
        remote: None,
        state: session.note.to_owned(),
        idle_ms: None,
        valid_ms: Some(u64::try_from(session.valid_for.as_millis()).unwrap_or(u64::MAX)),
        packets: None,
    }
}

fn text(endpoint: Endpoint) -> String {
    format!("{}:{}", endpoint.addr, endpoint.port)
}
