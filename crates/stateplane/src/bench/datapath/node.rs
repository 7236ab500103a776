//! Stateplane as a device: real processes, the store in the worker's or in three others.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use stateplane_host::link::Netlink;

use crate::bench::Place;
use crate::bench::device::{SLOW, node_config};
use crate::bench::process::{Child, Used};
use crate::bench::testbed::Testbed;
use crate::lab::nodes::http_get;

pub(super) const GATEWAY: &str = "gw";
pub(super) const SEQUENCER: &str = "seq";
pub(super) const REPLICAS: [&str; 3] = ["r1", "r2", "r3"];
/// How long the nodes may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// Slots of the fast path's table at least: the usual number.
const FEWEST: u32 = 1 << 18;

/// The gateway and what it works with.
pub(super) struct Node {
    gateway: Child,
    others: Vec<Child>,
}

impl Node {
    /// With a store in its own process.
    pub(super) fn alone(bed: &Testbed, dir: &Path, fast: bool, flows: u32) -> Result<Self> {
        let config = node_config(dir, flows, &fast_path(fast, flows));
        let started = Self::start(bed, dir, &config, &[])?;
        started.wait(dir)
    }

    /// With three replicas and a sequencer, which work on the generator's processor.
    pub(super) fn replicated(
        bed: &Testbed,
        dir: &Path,
        fast: bool,
        flows: u32,
        place: Place,
    ) -> Result<Self> {
        let mut config = node_config(dir, flows, &fast_path(fast, flows));
        writeln!(
            config,
            "[state]\nbackend = \"group\"\nreplicas = {REPLICAS:?}\nsequencer = \"{SEQUENCER}\""
        )?;
        let others = [SEQUENCER].into_iter().chain(REPLICAS);
        let others: Vec<&str> = others.collect();
        for (name, port) in others.iter().zip(7410..) {
            let role = if *name == SEQUENCER {
                "sequencer"
            } else {
                "replica"
            };
            writeln!(
                config,
                "[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"127.0.0.1:{port}\""
            )?;
        }
        bed.device.run(|| Netlink::open()?.set_up("lo"))?;
        let started = Self::start(bed, dir, &config, &others)?;
        for other in &started.others {
            other.pin(place.generator)?;
        }
        started.wait(dir)
    }

    fn start(bed: &Testbed, dir: &Path, config: &str, others: &[&str]) -> Result<Self> {
        let file = dir.join("bench.toml");
        std::fs::write(&file, config)?;
        let child = |name: &&str| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["run", "--node", name, "--config"]).arg(&file);
            Child::start_in(&bed.device, name, command, dir)
        };
        Ok(Self {
            others: others.iter().map(child).collect::<Result<_>>()?,
            gateway: child(&GATEWAY)?,
        })
    }

    /// Until all of them are ready.
    fn wait(mut self, dir: &Path) -> Result<Self> {
        let until = Instant::now() + READY;
        while !self.children().all(|child| is_ready(dir, &child.name)) {
            let ended = self.ended(dir)?;
            if let Some(said) = ended.or_else(|| (Instant::now() > until).then(|| said(dir))) {
                bail!("Stateplane does not start:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self)
    }

    fn children(&self) -> impl Iterator<Item = &Child> {
        self.others.iter().chain([&self.gateway])
    }

    fn ended(&mut self, dir: &Path) -> Result<Option<String>> {
        for child in self.others.iter_mut().chain([&mut self.gateway]) {
            if child.has_ended()? {
                return Ok(Some(said(dir)));
            }
        }
        Ok(None)
    }

    /// The gateway works on `cpu` from now on.
    pub(super) fn pin(&self, cpu: usize) -> Result<()> {
        self.gateway.pin(cpu)
    }

    /// Processor time of all its processes.
    pub(super) fn run_time(&self) -> Result<Duration> {
        self.children().map(Child::run_time).sum()
    }

    /// What each of its processes has used, by name.
    pub(super) fn used(&self) -> Result<BTreeMap<String, Used>> {
        let used = |child: &Child| Ok((child.name.clone(), child.used()?));
        self.children().map(used).collect()
    }

    /// Ends all of it; an error if one had ended by itself.
    pub(super) fn stop(mut self, dir: &Path) -> Result<()> {
        if let Some(said) = self.ended(dir)? {
            bail!("a process of Stateplane ended by itself:\n{said}");
        }
        self.gateway.stop()?;
        self.others.into_iter().try_for_each(Child::stop)
    }
}

/// Slots for every flow, there and back.
fn fast_path(on: bool, flows: u32) -> String {
    if !on {
        return SLOW.to_owned();
    }
    let slots = flows.saturating_mul(2).max(FEWEST);
    format!("[fast-path]\nflows = {}\n", slots.next_power_of_two())
}

fn is_ready(dir: &Path, name: &str) -> bool {
    let answer = http_get(&dir.join(format!("{name}.sock")), "/v1/status");
    let answer = answer
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    answer.is_some_and(|status: serde_json::Value| status["ready"] == true)
}

/// The ends of what the nodes wrote.
fn said(dir: &Path) -> String {
    let mut text = String::new();
    for name in [SEQUENCER, GATEWAY].into_iter().chain(REPLICAS) {
        let log = std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(8)..] {
            text += &format!("{name}: {line}\n");
        }
    }
    text
}
