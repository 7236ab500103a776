//! The outcome of a run: one JSON object for machines, a table for people.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::clients::RealReport;
use super::load::LoadReport;
use super::options::Spec;
use super::topology::Device;
use super::traffic::ServerReport;
use super::traffic::records::Kind;
use super::traffic::report::{AgeClass, ClientReport, FlowReport};

/// The silence we aim at (the usual stack takes 310-380 ms).
const GOAL_MS: f64 = 50.0;

/// One fault.
#[derive(Clone, Debug)]
pub(crate) struct Kill {
    pub(crate) node: String,
    pub(crate) role: &'static str,
    pub(crate) at_ns: u64,
    pub(crate) phase: usize,
}

/// Everything measured in one run.
pub(crate) struct Report {
    pub(crate) spec: Spec,
    pub(crate) client: ClientReport,
    pub(crate) server: ServerReport,
    pub(crate) kills: Vec<Kill>,
    /// Nodes that ended although nobody killed them.
    pub(crate) died: Vec<String>,
    pub(crate) real: Option<RealReport>,
    pub(crate) load: Option<LoadReport>,
    pub(crate) states: Option<Value>,
    pub(crate) duration: Duration,
}

impl Report {
    /// Why the run did not pass; empty when it did.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut fail = |count: u64, what: &str| {
            if count > 0 {
                reasons.push(format!("{count} {what}"));
            }
        };
        fail(self.client.broken(), "connections broke");
        fail(self.client.not_connected(), "connections failed to connect");
        fail(self.client.remapped(), "UDP flows changed their mapping");
        if self.spec.no_delay_allowed {
            fail(self.client.delayed, "connects took 200 ms or more");
        }
        let long = self.client.flows.len() as u64;
        fail(
            u64::from(self.spec.plan.long_flows()).saturating_sub(long),
            "long flows never came up",
        );
        let missing = self.spec.kills.len() - self.kills.len();
        fail(missing as u64, "kills found nobody to kill");
        for name in &self.died {
            reasons.push(format!("node {name} ended by itself"));
        }
        for (count, what) in self.load.iter().flat_map(LoadReport::faults) {
            if count > 0 {
                reasons.push(format!("{count} {what}"));
            }
        }
        if self.load.is_some_and(|load| load.arrived == 0) {
            reasons.push("nothing of the load arrived".to_owned());
        }
        if let Some(real) = &self.real {
            if !real.curl.intact {
                let why = real.curl.error.as_deref().unwrap_or("the checksum differs");
                reasons.push(format!("the download is not intact: {why}"));
            }
            if let Some(error) = &real.iperf3.error {
                reasons.push(format!("iperf3: {error}"));
            }
        }
        reasons
    }

    pub(crate) fn pass(&self) -> bool {
        self.reasons().is_empty()
    }

    pub(crate) fn longest_silence_ms(&self) -> f64 {
        longest(self.client.flows.iter())
    }

    fn connections(&self) -> u64 {
        (self.client.tcp().count() + self.client.connections.len()) as u64
    }

    /// By the age at whichever kill struck, summed over the kills.
    fn by_age(&self) -> Vec<AgeClass> {
        let mut total: Vec<AgeClass> = Vec::new();
        for kill in &self.kills {
            let classes = self.client.by_age(kill.at_ns);
            if total.is_empty() {
                total = classes;
                continue;
            }
            for (sum, class) in total.iter_mut().zip(classes) {
                sum.connections += class.connections;
                sum.broken += class.broken;
            }
        }
        total
    }

    fn kill_json(&self, kill: &Kill) -> Value {
        let phase = |flows: &mut dyn Iterator<Item = &FlowReport>| {
            let silences = flows.map(|f| f.silence.whole.get(kill.phase));
            ms(silences.max().unwrap_or(0))
        };
        json!({
            "node": kill.node,
            "role": kill.role,
            "at_s": seconds(kill.at_ns),
            "longest_silence_ms": phase(&mut self.client.flows.iter()),
            "tcp_silence_ms": phase(&mut self.client.tcp()),
            "udp_silence_ms": phase(&mut self.client.udp()),
            "median_silence_ms": {
                "ask": ms(self.client.median_silence(Kind::Ask, kill.phase)),
                "push": ms(self.client.median_silence(Kind::Push, kill.phase)),
                "udp": ms(self.client.median_silence(Kind::Datagram, kill.phase)),
            },
            "generator_stall_ms": self.stall_ms(kill.phase),
            "silence_beyond_stalls_ms": self.beyond_ms(kill.phase),
        })
    }

    /// The longest silence of any flow without what our own threads slept of it.
    fn beyond_ms(&self, phase: usize) -> f64 {
        let silences = self.client.flows.iter();
        let silences = silences.map(|f| f.silence.beyond.get(phase));
        ms(silences.max().unwrap_or(0))
    }

    /// How late our own threads were: silence below this says nothing.
    fn stall_ms(&self, phase: usize) -> f64 {
        ms(self
            .client
            .stall
            .get(phase)
            .max(self.server.stall.get(phase)))
    }

    /// The one object that `--json` prints.
    pub(crate) fn json(&self) -> Value {
        let steady = self
            .client
            .flows
            .iter()
            .map(|f| f.silence.whole.get(1))
            .max();
        let udp_lost: u64 = self
            .client
            .udp()
            .map(|f| f.sent - f.received.min(f.sent))
            .sum();
        let kills: Vec<Value> = self.kills.iter().map(|k| self.kill_json(k)).collect();
        json!({
            "scenario": self.spec.name,
            "verdict": if self.pass() { "pass" } else { "fail" },
            "reasons": self.reasons(),
            "device": match self.spec.device {
                Device::Stateplane => "stateplane",
                Device::Kernel => "kernel",
            },
            "state": format!("{:?}", self.spec.settings.state).to_lowercase(),
            "commit": format!("{:?}", self.spec.settings.commit).to_lowercase(),
            "connections": self.connections(),
            "long_tcp": self.client.tcp().count(),
            "long_udp": self.client.udp().count(),
            "new_connections": self.client.connections.len(),
            "new_per_s": self.spec.plan.rate,
            "broken": self.client.broken(),
            "failed_connects": self.client.not_connected(),
            "delayed_connects": self.client.delayed,
            "remapped": self.client.remapped(),
            "udp_lost": udp_lost,
            "failures": self.client.failures(),
            "wrong_data_at_server": self.server.wrong_data,
            "longest_silence_ms": self.longest_silence_ms(),
            "tcp_silence_ms": longest(self.client.tcp()),
            "udp_silence_ms": longest(self.client.udp()),
            "steady_silence_ms": ms(steady.unwrap_or(0)),
            "steady_stall_ms": self.stall_ms(1),
            "steady_silence_beyond_stalls_ms": self.beyond_ms(1),
            "silence_goal_ms": GOAL_MS,
            "kills": kills,
            "by_age": self.by_age(),
            "latency": {
                "connect_us": quantiles(&self.client.connect_us),
                "connect_and_answer_us": quantiles(&self.client.answer_us),
                "record_us": quantiles(&self.client.record_us),
            },
            "curl": self.real.as_ref().map(|r| &r.curl),
            "ping": self.real.as_ref().map(|r| &r.ping),
            "iperf3": self.real.as_ref().map(|r| &r.iperf3),
            "fast_path": self.spec.settings.fast_path,
            "load": self.spec.load.zip(self.load).map(|(plan, load)| load.json(plan)),
            "states": self.states,
            "duration_s": (self.duration.as_secs_f64() * 100.0).round() / 100.0,
        })
    }

    /// The table for people.
    pub(crate) fn text(&self) -> String {
        let mut rows = self.count_rows();
        rows.extend(self.real.iter().flat_map(real_rows));
        rows.extend(self.fault_rows());
        let mut out = String::new();
        for (name, value) in rows {
            out.push_str(&format!("  {name:<26}{value}\n"));
        }
        let verdict = if self.pass() { "PASS" } else { "FAIL" };
        let seconds = self.duration.as_secs_f64();
        out.push_str(&format!(
            "\n  {verdict} {} after {seconds:.1} s\n",
            self.spec.name
        ));
        for reason in self.reasons() {
            out.push_str(&format!("    {reason}\n"));
        }
        out
    }

    fn count_rows(&self) -> Vec<Row> {
        let c = &self.client;
        let long = format!("{} TCP, {} UDP", c.tcp().count(), c.udp().count());
        let fresh = format!("{} at {}/s", c.connections.len(), self.spec.plan.rate);
        let quantile = |q| c.answer_us.value_at_quantile(q) as f64 / 1e3;
        let answer = format!("p50 {:.2} ms, p99 {:.2} ms", quantile(0.5), quantile(0.99));
        let mut rows = vec![
            row("long-lived flows", long),
            row("new connections", fresh),
            row("connect + answer", answer),
            row("broken", c.broken()),
            row("failed to connect", c.not_connected()),
            row("connects >= 200 ms", c.delayed),
            row("UDP mappings changed", c.remapped()),
        ];
        if let (Some(plan), Some(load)) = (self.spec.load, &self.load) {
            let (rate, lost) = (load.rate(), load.lost());
            let text = format!("{rate:.0} packets/s of {} flows, {lost} lost", plan.flows);
            rows.push(row("load", text));
            rows.push(row(
                "",
                format!(
                    "silent for {} ms at most, one flow for {} ms",
                    load.silence_ms(),
                    load.flow_silence_ms()
                ),
            ));
        }
        let failures = c.failures();
        rows.extend(
            failures
                .iter()
                .map(|(why, n)| row("", format!("{n} x {why}"))),
        );
        rows
    }

    fn fault_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for class in self.by_age() {
            let counts = format!("{} broken of {}", class.broken, class.connections);
            rows.push(row(&format!("aged {} at a kill", class.age), counts));
        }
        let silence = |phase: usize| {
            let most = |flows: &mut dyn Iterator<Item = &FlowReport>| {
                ms(flows.map(|f| f.silence.whole.get(phase)).max().unwrap_or(0))
            };
            let (tcp, udp) = (most(&mut self.client.tcp()), most(&mut self.client.udp()));
            let (stall, beyond) = (self.stall_ms(phase), self.beyond_ms(phase));
            format!("TCP {tcp} ms, UDP {udp} ms; {beyond} ms beside the generator's own {stall} ms")
        };
        rows.push(row("longest silence", "of any flow"));
        rows.push(row("  before any kill", silence(1)));
        for kill in &self.kills {
            let name = match kill.role.starts_with("weight") {
                true => format!("  {} for {}", kill.role, kill.node),
                false => format!("  SIGKILL {} ({})", kill.node, kill.role),
            };
            rows.push(row(&name, silence(kill.phase)));
        }
        let all = self.longest_silence_ms();
        rows.push(row("  in all", format!("{all} ms (goal < {GOAL_MS} ms)")));
        rows
    }
}

type Row = (String, String);

fn row(name: &str, value: impl ToString) -> Row {
    (name.to_owned(), value.to_string())
}

fn real_rows(real: &RealReport) -> Vec<Row> {
    let curl = &real.curl;
    let intact = if curl.intact {
        "SHA-256 equal"
    } else {
        "NOT INTACT"
    };
    let (mb, iperf) = (curl.bytes as f64 / 1e6, &real.iperf3);
    let rate = iperf.mbit_per_s;
    vec![
        row(
            "curl",
            format!("{mb:.0} MB in {:.1} s, {intact}", curl.seconds),
        ),
        row(
            "ping",
            format!("{} lost of {}", real.ping.lost, real.ping.sent),
        ),
        row(
            "iperf3",
            format!("{rate:.1} Mbit/s, {} retransmits", iperf.retransmits),
        ),
    ]
}

fn longest<'a>(flows: impl Iterator<Item = &'a FlowReport>) -> f64 {
    ms(flows.map(|f| f.silence.whole.largest()).max().unwrap_or(0))
}

/// Tenths of a millisecond are all the clock of a busy machine is good for.
fn ms(ns: u64) -> f64 {
    (ns as f64 / 1e5).round() / 10.0
}

fn seconds(ns: u64) -> f64 {
    (ns as f64 / 1e6).round() / 1e3
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    json!({
        "count": histogram.len(),
        "p50": histogram.value_at_quantile(0.5),
        "p99": histogram.value_at_quantile(0.99),
        "max": histogram.max(),
    })
}
