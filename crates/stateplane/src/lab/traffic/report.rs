//! What the client's side measured, and how it is summed up.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::live::Moment;
use super::records::{Failure, Kind};

/// Opening, steady state, and a few faults.
pub(crate) const MAX_PHASES: usize = 10;

/// The largest value seen in each phase, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases([u64; MAX_PHASES]);

impl Phases {
    pub(crate) fn note(&mut self, phase: usize, value_ns: u64) {
        let slot = &mut self.0[phase.min(MAX_PHASES - 1)];
        *slot = (*slot).max(value_ns);
    }

    pub(crate) fn get(&self, phase: usize) -> u64 {
        self.0[phase.min(MAX_PHASES - 1)]
    }

    /// The largest after the opening phase.
    pub(crate) fn largest(&self) -> u64 {
        self.0[1..].iter().copied().max().unwrap_or(0)
    }
}

/// The silences of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Silence {
    heard: Option<Moment>,
    /// The longest in each phase.
    pub(crate) whole: Phases,
    /// The same without what our own threads were kept from running.
    pub(crate) beyond: Phases,
}

impl Silence {
    /// The flow is heard.
    pub(crate) fn end(&mut self, moment: &Moment) {
        if let Some(heard) = self.heard.replace(*moment) {
            self.note(moment, moment.since(&heard));
        }
    }

    /// Counts the silence in which the run ended, of a flow that was begun then.
    pub(crate) fn close(&mut self, moment: &Moment, begun_ns: u64) {
        let silence = match &self.heard {
            Some(heard) => moment.since(heard),
            None => [moment.now_ns.saturating_sub(begun_ns); 2],
        };
        self.note(moment, silence);
    }

    fn note(&mut self, moment: &Moment, [whole, beyond]: [u64; 2]) {
        self.whole.note(moment.phase, whole);
        self.beyond.note(moment.phase, beyond);
    }
}

/// One long-lived flow.
#[derive(Clone, Debug)]
pub(crate) struct FlowReport {
    pub(crate) kind: Kind,
    pub(crate) silence: Silence,
    pub(crate) failure: Option<Failure>,
    pub(crate) remapped: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// How a connection of any length ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Completed,
    NotConnected(Failure),
    Broken(Failure),
}

/// One short or kept connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) started_ns: u64,
    pub(crate) ended_ns: u64,
    pub(crate) outcome: Outcome,
}

/// Everything the client's thread hands back.
#[derive(Debug)]
pub(crate) struct ClientReport {
    pub(crate) flows: Vec<FlowReport>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) connect_us: Histogram<u64>,
    pub(crate) answer_us: Histogram<u64>,
    pub(crate) record_us: Histogram<u64>,
    pub(crate) delayed: u64,
    /// How late the generator itself was: no gap below this means anything.
    pub(crate) stall: Phases,
}

/// Connections of one age at the moment of a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct AgeClass {
    pub(crate) age: &'static str,
    pub(crate) connections: u64,
    pub(crate) broken: u64,
}

const AGES: [(&str, u64); 5] = [
    ("<2ms", 2_000_000),
    ("2-10ms", 10_000_000),
    ("10-50ms", 50_000_000),
    ("50-500ms", 500_000_000),
    (">500ms", u64::MAX),
];

impl ClientReport {
    pub(crate) fn new() -> Self {
        // Up to a minute in microseconds.
        let histogram = || Histogram::new_with_max(60_000_000, 3).expect("sound bounds");
        Self {
            flows: Vec::new(),
            connections: Vec::new(),
            connect_us: histogram(),
            answer_us: histogram(),
            record_us: histogram(),
            delayed: 0,
            stall: Phases::default(),
        }
    }

    pub(crate) fn tcp(&self) -> impl Iterator<Item = &FlowReport> {
        self.flows.iter().filter(|f| f.kind != Kind::Datagram)
    }

    pub(crate) fn udp(&self) -> impl Iterator<Item = &FlowReport> {
        self.flows.iter().filter(|f| f.kind == Kind::Datagram)
    }

    pub(crate) fn broken(&self) -> u64 {
        let long = self.flows.iter().filter(|f| f.failure.is_some()).count();
        let fresh = self.connections.iter();
        let fresh = fresh.filter(|c| matches!(c.outcome, Outcome::Broken(_)));
        (long + fresh.count()) as u64
    }

    pub(crate) fn not_connected(&self) -> u64 {
        let fresh = self.connections.iter();
        fresh
            .filter(|c| matches!(c.outcome, Outcome::NotConnected(_)))
            .count() as u64
    }

    pub(crate) fn remapped(&self) -> u64 {
        self.flows.iter().filter(|f| f.remapped).count() as u64
    }

    /// Why flows broke or did not come about, and how often.
    pub(crate) fn failures(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        let fresh = self.connections.iter().filter_map(|c| match c.outcome {
            Outcome::Completed => None,
            Outcome::NotConnected(f) | Outcome::Broken(f) => Some(f),
        });
        for failure in self.flows.iter().filter_map(|f| f.failure).chain(fresh) {
            *counts.entry(failure.name()).or_default() += 1;
        }
        counts
    }

    /// Connections that were open when `fault_ns` struck, by their age then.
    /// Long-lived TCP flows are older than any class boundary.
    pub(crate) fn by_age(&self, fault_ns: u64) -> Vec<AgeClass> {
        let mut classes: Vec<AgeClass> = AGES
            .iter()
            .map(|(age, _)| AgeClass {
                age,
                ..AgeClass::default()
            })
            .collect();
        for connection in &self.connections {
            if connection.started_ns > fault_ns || connection.ended_ns <= fault_ns {
                continue;
            }
            let age = fault_ns - connection.started_ns;
            let class = AGES
                .iter()
                .position(|(_, limit)| age < *limit)
                .unwrap_or(AGES.len() - 1);
            classes[class].connections += 1;
            classes[class].broken += u64::from(connection.outcome != Outcome::Completed);
        }
        let oldest = classes.last_mut().expect("five classes");
        oldest.connections += self.tcp().count() as u64;
        oldest.broken += self.tcp().filter(|f| f.failure.is_some()).count() as u64;
        classes
    }

    /// Median over the flows of one kind of their longest silence in a phase.
    pub(crate) fn median_silence(&self, kind: Kind, phase: usize) -> u64 {
        let flows = self.flows.iter().filter(|f| f.kind == kind);
        let mut gaps: Vec<u64> = flows.map(|f| f.silence.whole.get(phase)).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_classed_by_their_age_when_the_fault_struck() {
        let ms = 1_000_000;
        let connection = |started_ns, ended_ns, outcome| Connection {
            started_ns,
            ended_ns,
            outcome,
        };
        let mut report = ClientReport::new();
        report.connections = vec![
            connection(1000 * ms, 1010 * ms, Outcome::Completed),
            connection(999 * ms, 6000 * ms, Outcome::Broken(Failure::Reset)),
            connection(960 * ms, 1001 * ms, Outcome::Completed),
            connection(10 * ms, 5000 * ms, Outcome::NotConnected(Failure::TimedOut)),
            connection(10 * ms, 1000 * ms, Outcome::Broken(Failure::Reset)),
            connection(1001 * ms, 1002 * ms, Outcome::Broken(Failure::Reset)),
        ];
        let counts: Vec<_> = report
            .by_age(1000 * ms)
            .iter()
            .map(|c| (c.connections, c.broken))
            .collect();
        assert_eq!(counts, [(2, 1), (0, 0), (1, 0), (0, 0), (1, 1)]);
        assert_eq!((report.broken(), report.not_connected()), (3, 1));
    }

    #[test]
    fn the_opening_phase_does_not_count() {
        let mut phases = Phases::default();
        phases.note(0, 900);
        phases.note(1, 5);
        phases.note(3, 30);
        phases.note(3, 20);
        assert_eq!((phases.largest(), phases.get(3)), (30, 30));
    }
}
