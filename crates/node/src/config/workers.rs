//! The workers of an instance: `workers = N`, or a list of processors, one for each worker.

use std::net::SocketAddrV4;

use toml::de::DeValue;

use super::io::MAX_CPU;
use super::problem::Collector;
use super::read::Draft;
use super::section::{Section, Wrong};
use super::{Node, Role, State, values};

/// Workers of one instance at most: an interface has no more queues than this.
const MAX_WORKERS: u64 = 64;

/// One worker of a function: a client of the store in its own right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Of the first, the node's name; no node can have the others'.
    pub name: String,
    /// Where it hears from the store: the function's address, its port and those behind it.
    pub control: Option<SocketAddrV4>,
    /// The processor it is bound to, if any.
    pub cpu: Option<usize>,
}

/// The processor of each worker, or none; one worker where the file says nothing.
pub(super) fn workers(
    section: &Section<'_, '_>,
    out: &mut Collector,
) -> Option<Vec<Option<usize>>> {
    let Some(value) = section.value("workers") else {
        return Some(vec![None]);
    };
    if !matches!(value.get_ref(), DeValue::Array(_)) {
        let count = section.optional("workers", out, values::integer(1..=MAX_WORKERS))?;
        return Some(vec![None; count as usize]);
    }
    let cpus = section.values("workers", out, values::integer(0..=MAX_CPU))?;
    let cpus: Vec<usize> = cpus.into_iter().map(|cpu| cpu as usize).collect();
    let twice = (1..cpus.len()).find(|&n| cpus[..n].contains(&cpus[n]));
    let wrong = match (cpus.len(), twice) {
        (1..=64, None) => return Some(cpus.into_iter().map(Some).collect()),
        (_, Some(n)) => Wrong::new(
            format!("processor {} is listed twice", cpus[n]),
            "two workers on one processor wait for each other: leave one out",
        ),
        _ => Wrong::new(
            format!("expected 1 to {MAX_WORKERS} processors"),
            "write `workers = [2, 3]` for two workers on these processors",
        ),
    };
    out.error(&section.path_of("workers"), wrong.expected, wrong.help);
    None
}

impl Node {
    /// The workers of its function, if it is one.
    pub fn workers(&self) -> Vec<Worker> {
        let control = self.control.get(&Role::Function).copied();
        let cpus = self.function.iter().flat_map(|function| &function.workers);
        let worker = |(n, cpu): (u16, &Option<usize>)| Worker {
            name: match n {
                0 => self.name.clone(),
                n => format!("{}.{}", self.name, n + 1),
            },
            // What is beyond the last port was refused.
            control: control.map(|at| SocketAddrV4::new(*at.ip(), at.port().wrapping_add(n))),
            cpu: cpu.or(self.cpu.get(&Role::Function).copied()),
        };
        (0..).zip(cpus).map(worker).collect()
    }
}

/// What several workers need.
pub(super) fn check(node: &Node, draft: &Draft, out: &mut Collector) {
    let Some(function) = &node.function else {
        return;
    };
    let count = function.workers.len();
    if count < 2 {
        return;
    }
    let key = format!("node.{}.workers", node.name);
    if matches!(draft.state, Some(State::Embedded)) {
        let message =
            "each worker would keep a state of its own, and know none of the others' flows";
        let help = "workers share what is in a group: add `[state] backend = \"group\"`, \
                    or leave `workers` out";
        out.error(&key, message, help);
    }
    if let Some(cpu) = node.cpu.get(&Role::Function) {
        let message = format!("all {count} workers would share processor {cpu}");
        let help =
            "name a processor for each instead, e.g. `workers = [2, 3]`, and leave `cpu` out";
        out.error(&key, message, help);
    }
    if let Some(control) = node.control.get(&Role::Function)
        && usize::from(control.port()) + count - 1 > usize::from(u16::MAX)
    {
        let message = format!("{count} workers need as many ports from {control} on");
        out.error(&key, message, "give the function a lower port");
    }
}
