//! What the worker publishes, and the questions it answers between batches.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use stateplane_base::Time;
use stateplane_flow::fast::{COUNTER_BYTES, COUNTER_HITS, Punt};
use stateplane_flow::{Endpoint, PortId, Protocol};
use stateplane_functions::nat::Nat44;
use stateplane_functions::{Counters, Session};
use stateplane_host::bpf::fastpath::{FastCounters, Words};
use stateplane_host::port::Port;
use stateplane_host::xsk::XskPort;
use stateplane_lease::holder::HolderView;

use super::fast::Fast;
use super::front::Front;
use super::hops::KernelHops;
use super::packets::PacketLoop;
use crate::function::{
    FastPathStatus, FunctionStatus, InterfaceStatus, LeaseView, Question, SessionView,
};
use crate::status::Publisher;

type Packets = PacketLoop<Nat44, XskPort, KernelHops, Words>;

/// The worker's publishing end.
pub(super) struct Reporter {
    status: Publisher<FunctionStatus>,
    questions: Receiver<Question>,
    interfaces: [(String, InterfaceStatus); 2],
}

impl Reporter {
    pub(super) fn new(
        status: Publisher<FunctionStatus>,
        questions: Receiver<Question>,
        names: &[String; 2],
        modes: [String; 2],
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
        Self {
            status,
            questions,
            interfaces: [interface(0, "inside"), interface(1, "outside")],
        }
    }

    /// Publishes if it is time, and answers what was asked.
    pub(super) fn turn(&mut self, now: Time, packets: &mut Packets, front: &Front, draining: bool) {
        while let Ok(question) = self.questions.try_recv() {
            match question {
                Question::Sessions { limit, answer } => {
                    // Whoever asked may have gone.
                    let _ = answer.send(sessions(now, packets, limit));
                }
                Question::Store { op, reads, answer } => packets.ask_store(now, op, reads, answer),
            }
        }
        if self.status.due(now) {
            self.publish(now, packets, front, draining);
        }
    }

    fn publish(&mut self, now: Time, packets: &Packets, front: &Front, draining: bool) {
        for ((_, status), port) in self.interfaces.iter_mut().zip(&packets.ports) {
            let stats = port.stats();
            (status.received, status.sent) = (stats.received, stats.sent);
        }
        let counters = packets.runtime.counters();
        let drops = counters.drops().filter(|(_, count)| *count > 0);
        let drops = drops
            .map(|(reason, count)| (reason.name().to_owned(), count))
            .collect();
        let mut named = named(counters);
        add_host_counters(&mut named, packets, front);
        let fast_path = packets.fast.as_ref().map(|fast| fast_path(fast, front));
        let fast_path_off = front.off().map(str::to_owned);
        let interfaces = self.interfaces.iter().cloned().collect();
        let nat = packets.runtime.function().status();
        let leases = packets.runtime.function().lease(now).into_iter();
        let leases = leases.map(|lease| lease_view(&lease, nat.blocks)).collect();
        named.insert("local-hits".to_owned(), nat.local.hits);
        named.insert("local-misses".to_owned(), nat.local.misses);
        self.status.update(|status| {
            *status = FunctionStatus {
                attached: true,
                registered: nat.registered,
                store_silent: nat.store_silent,
                draining,
                interfaces,
                flows: packets.runtime.flows() as u64,
                parked: counters.park_now,
                store_pending: packets.state.pending() as u64,
                leases,
                fast_path,
                fast_path_off,
                drops,
                counters: named,
            };
        });
    }
}

fn lease_view(lease: &HolderView, blocks: usize) -> LeaseView {
    LeaseView {
        covers: format!("{blocks} port blocks"),
        state: lease.state.to_owned(),
        epoch: lease.epoch,
        left_ms: u64::try_from(lease.left.as_millis()).unwrap_or(u64::MAX),
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
        ("announced", counters.announced),
        ("misannounced", counters.misannounced),
        ("passed-early", counters.passed_early),
        ("parked", counters.parked),
        ("held-by-barrier", counters.held_by_barrier),
        ("released", counters.released),
        ("uncached", counters.uncached),
        ("park-high-water", counters.park_high_water),
    ];
    named
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// What happened below and beside the function.
fn add_host_counters(named: &mut BTreeMap<String, u64>, packets: &Packets, front: &Front) {
    let census = packets.pool.census();
    named.insert("frames-free".to_owned(), census.free as u64);
    named.insert("frames-parked".to_owned(), census.parked as u64);
    named.insert(
        "neighbour-waiting".to_owned(),
        packets.egress.waiting() as u64,
    );
    for (side, (port, counted)) in ["inside", "outside"]
        .iter()
        .zip(packets.ports.iter().zip(front.counters()))
    {
        let stats = port.stats();
        named.insert(format!("{side}-no-frame"), stats.dropped_no_frame);
        named.insert(format!("{side}-ring-full"), stats.dropped_ring_full);
        named.insert(format!("{side}-send-full"), stats.send_full);
        if let Some(counted) = counted {
            named.insert(format!("{side}-to-kernel"), counted.kernel);
            named.insert(format!("{side}-no-socket"), counted.no_socket);
        }
    }
}

/// What passed in front of the worker, and what did not.
fn fast_path(fast: &Fast<Words>, front: &Front) -> FastPathStatus {
    let counted: Vec<_> = front.counters().into_iter().flatten().collect();
    let sum = |of: &dyn Fn(&FastCounters) -> u64| counted.iter().map(of).sum::<u64>();
    let hits = sum(&|counted| counted.fast.0[COUNTER_HITS]);
    let whole = hits + sum(&|counted| counted.function);
    let punts = Punt::ALL.iter().filter_map(|&why| {
        let count = sum(&|counted| counted.fast.0[why.counter()]);
        (count > 0).then(|| (why.name().to_owned(), count))
    });
    let (done, pressure) = (fast.done(), fast.pressure());
    let [next_hops, destinations, ways_full] = fast.ways().fill();
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
        revoked: done.revoked,
        unowned: done.unowned,
        wayless: done.wayless,
        next_hops,
        destinations,
        ways_full,
    }
}

fn sessions(now: Time, packets: &Packets, limit: usize) -> Vec<SessionView> {
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
