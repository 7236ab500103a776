//! Plays one run: build the world, start nodes and traffic, kill, collect.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stateplane_host::spawn::Process;

use super::clients::{self, Running, Servers};
use super::load::{Load, LoadReport};
use super::nodes::Nodes;
use super::options::{Spec, Target};
use super::patience::Patience;
use super::report::{Kill, Report};
use super::topology::{Device, Topology};
use super::traffic::Traffic;
use super::traffic::live::Live;
use super::view::Watcher;

/// The user asked to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The machine lacks something a lab needs.
#[derive(Debug)]
pub(crate) struct Lacking(String);

impl Lacking {
    pub(crate) fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacking {}

/// How long nodes may take until they serve.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// A supervisor restarts what died; ours waits this long.
const RESTART_AFTER: Duration = Duration::from_millis(700);
const FRAME: Duration = Duration::from_millis(25);

/// Plays `spec`. Everything it starts ends with it, however it ends.
pub(crate) fn play(spec: &Spec, watcher: &mut dyn Watcher) -> Result<Report> {
    let stop = stop_at_signals()?;
    if spec.real.is_some() {
        clients::check_tools().map_err(|missing| Lacking(missing.to_string()))?;
    }
    raise_file_limit();
    let dir = make_dir()?;
    let started = Instant::now();
    let result = Stage::set(spec, dir.path(), watcher, &stop).and_then(|stage| stage.play());
    if spec.keep {
        keep(dir)?;
    }
    let mut report = result?;
    report.duration = started.elapsed();
    Ok(report)
}

/// Raised by SIGINT and SIGTERM; an error for who may not make namespaces.
pub(crate) fn stop_at_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Lacking::new("a lab makes network namespaces: run it as root").into());
    }
    Ok(stop)
}

/// Leaves a lab's directory to the user.
pub(crate) fn keep(dir: tempfile::TempDir) -> Result<()> {
    // Without the process in its name, no later run takes it for litter.
    let kept = std::env::temp_dir().join(format!("stateplane-kept-{}", std::process::id()));
    std::fs::rename(dir.keep(), &kept)?;
    eprintln!("kept: {}", kept.display());
    Ok(())
}

const DIR_PREFIX: &str = "stateplane-lab-";

/// The lab's one directory, named after the process. Files are all that a lab
/// can leave when it is killed with SIGKILL, so the next one sweeps them up.
pub(crate) fn make_dir() -> Result<tempfile::TempDir> {
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(DIR_PREFIX));
        let owner = owner.and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Somebody else's leftover that we may not remove stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{DIR_PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// Thousands of flows, both ends of each here, need as many descriptors.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 200_000;
    let old = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(WANTED),
        maximum: old.maximum.map(|m| m.max(WANTED)),
    };
    let most = Rlimit {
        current: old.maximum,
        maximum: old.maximum,
    };
    // What is not allowed shows later as "too many open files".
    let _ = setrlimit(Resource::Nofile, wanted).or_else(|_| setrlimit(Resource::Nofile, most));
}

struct Stage<'a> {
    spec: &'a Spec,
    watcher: &'a mut dyn Watcher,
    stop: &'a AtomicBool,
    // Dropped in this order: clients before servers before nodes before cables.
    servers: Option<Servers>,
    nodes: Option<Nodes>,
    topology: Topology,
    died: Vec<String>,
    kills: Vec<Kill>,
    /// Killed nodes that a later kill needs, and when they start again.
    restarts: Vec<(String, Instant)>,
    /// The instance that gets no flows at present.
    parked: Option<String>,
}

impl<'a> Stage<'a> {
    fn set(
        spec: &'a Spec,
        dir: &Path,
        watcher: &'a mut dyn Watcher,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        watcher.say("building the network");
        let topology = {
            let queues = spec.settings.workers;
            Topology::build(spec.device, spec.clients, spec.load.is_some(), queues)?
        };
        let mut stage = Self {
            spec,
            watcher,
            stop,
            servers: None,
            nodes: None,
            topology,
            died: Vec::new(),
            kills: Vec::new(),
            restarts: Vec::new(),
            parked: None,
        };
        match spec.device {
            Device::Kernel => load_kernel_nat(&stage.topology)?,
            Device::Stateplane => stage.start_nodes(dir)?,
        }
        if let Some(real) = spec.real {
            stage
                .watcher
                .say(&format!("preparing a file of {} MB", real.download_mb));
            stage.servers = Some(Servers::start(&stage.topology, dir, real)?);
        }
        Ok(stage)
    }

    fn start_nodes(&mut self, dir: &Path) -> Result<()> {
        let mut nodes = Nodes::start(&self.topology, &self.spec.settings, dir)?;
        let names = nodes.names();
        self.watcher.nodes(&names);
        self.watcher.say(&format!("starting {}", names.join(" ")));
        let (stop, watcher) = (self.stop, &mut self.watcher);
        nodes.wait_ready(READY_LIMIT, || {
            watcher.frame(None);
            check(stop, *watcher)
        })?;
        self.watcher.say("all nodes are ready");
        self.nodes = Some(nodes);
        Ok(())
    }

    fn play(mut self) -> Result<Report> {
        let plan = self.spec.plan.clone();
        let (client, server) = (
            self.topology.namespace("client"),
            self.topology.namespace("server"),
        );
        let load = self.spec.load;
        let load = load.map(|plan| Load::start(plan, &self.topology));
        let load = load.transpose()?;
        let traffic = Traffic::start(plan, client, server)?;
        let performed = self.perform(&traffic);
        let load = load.map(Load::finish).transpose()?;
        match performed {
            Ok(running) => self.collect(traffic, running, load),
            // Whoever ended by itself says why.
            Err(error) if traffic.ended() => match traffic.finish() {
                Ok(_) => Err(error),
                Err(cause) => Err(error.context(cause)),
            },
            Err(error) => {
                traffic.abandon();
                Err(error)
            }
        }
    }

    fn perform(&mut self, traffic: &Traffic) -> Result<Option<Running>> {
        let live = Arc::clone(traffic.live());
        let long = u64::from(self.spec.plan.long_flows());
        self.watcher
            .say(&format!("opening {long} long-lived flows"));
        let until = Instant::now() + Duration::from_secs(10);
        while Live::read(&live.long_ready) < long && Instant::now() < until {
            self.pause(traffic, FRAME)?;
        }
        self.watcher.say(&format!(
            "{} long-lived flows; {} new connections/s from now on",
            Live::read(&live.long_ready),
            self.spec.plan.rate
        ));
        live.set_fresh(true);
        self.pause(traffic, Duration::from_millis(500))?;
        live.next_phase();
        let mut running = match (&self.servers, self.spec.real) {
            (Some(servers), Some(real)) => {
                let duration = self.spec.duration();
                Some(Running::start(&self.topology, servers, real, duration)?)
            }
            _ => None,
        };
        for (number, target) in self.spec.kills.iter().enumerate() {
            self.pause(traffic, self.spec.pace)?;
            self.await_restarts(traffic)?;
            match target {
                Target::Weight => self.weigh(&live)?,
                target => self.kill(*target, &live)?,
            }
            self.plan_restart(*target, &self.spec.kills[number + 1..]);
        }
        self.pause(traffic, self.spec.tail)?;
        if let Some(running) = &mut running {
            let until = Instant::now() + Duration::from_secs(15);
            while running.downloading() && Instant::now() < until {
                self.pause(traffic, FRAME)?;
            }
        }
        Ok(running)
    }

    /// Lets `span` pass, watching everything.
    fn pause(&mut self, traffic: &Traffic, span: Duration) -> Result<()> {
        let until = Instant::now() + span;
        loop {
            check(self.stop, self.watcher)?;
            if traffic.ended() {
                bail!("the traffic generator stopped by itself");
            }
            self.look_after_nodes()?;
            self.watcher.frame(Some(traffic.live()));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(FRAME));
        }
    }

    fn look_after_nodes(&mut self) -> Result<()> {
        let Some(nodes) = &mut self.nodes else {
            return Ok(());
        };
        if let Some(name) = nodes.first_dead()?
            && !self.died.contains(&name)
        {
            let tail = nodes.log_tail(&name);
            self.watcher
                .say(&format!("node {name} ended by itself:\n{tail}"));
            self.watcher.down(&name);
            self.died.push(name);
        }
        let now = Instant::now();
        let due = self.restarts.iter().position(|(_, at)| *at <= now);
        if let Some(index) = due {
            let (name, _) = self.restarts.swap_remove(index);
            self.watcher.say(&format!("{name} starts again, empty"));
            self.watcher.up(&name);
            nodes.start_one(&name, self.topology.namespace(&name))?;
        }
        Ok(())
    }

    fn kill(&mut self, target: Target, live: &Live) -> Result<()> {
        let nodes = self
            .nodes
            .as_mut()
            .context("the kernel's NAT has no nodes to kill")?;
        let (name, role) = match target {
            Target::Nf => (nodes.busiest_gateway(), "instance"),
            Target::Leader => (nodes.leader(), "leader"),
            Target::Replica => (nodes.follower(), "replica"),
            Target::Weight => (None, "instance"),
        };
        let Some(name) = name else {
            self.watcher
                .say(&format!("no {role} to kill under these settings"));
            return Ok(());
        };
        let mut at_ns = 0;
        nodes.kill(&name, || {
            live.next_phase();
            at_ns = live.now_ns();
        })?;
        self.watcher.down(&name);
        self.watcher.say(&format!("SIGKILL {name} ({role})"));
        self.kills.push(Kill {
            node: name,
            role,
            at_ns,
            phase: live.phase(),
        });
        Ok(())
    }

    /// Takes all flows from the busiest instance, or lets the one that lost them have its
    /// share again.
    fn weigh(&mut self, live: &Live) -> Result<()> {
        let nodes = self
            .nodes
            .as_ref()
            .context("the kernel's NAT has no weights")?;
        let (node, weight, role) = match self.parked.take() {
            Some(parked) => (parked, 100, "weight 100"),
            None => {
                let busiest = nodes.busiest_gateway().context("no instance runs")?;
                self.parked = Some(busiest.clone());
                (busiest, 0, "weight 0")
            }
        };
        live.next_phase();
        let at_ns = live.now_ns();
        nodes.weigh(&node, weight)?;
        self.watcher.say(&format!("{role} for {node}"));
        self.kills.push(Kill {
            node,
            role,
            at_ns,
            phase: live.phase(),
        });
        Ok(())
    }

    /// A group of three bears one loss at a time, a pair of instances too.
    fn plan_restart(&mut self, killed: Target, later: &[Target]) {
        if killed == Target::Weight {
            return;
        }
        let kin = |t: &Target| (*t == Target::Nf) == (killed == Target::Nf);
        if let Some(kill) = self.kills.last()
            && later.iter().any(kin)
        {
            self.restarts
                .push((kill.node.clone(), Instant::now() + RESTART_AFTER));
        }
    }

    fn await_restarts(&mut self, traffic: &Traffic) -> Result<()> {
        let nodes = self.nodes.as_ref();
        let mut patience = nodes.map(|nodes| Patience::begin(READY_LIMIT, nodes));
        let killed: Vec<String> = self.kills.iter().map(|k| k.node.clone()).collect();
        loop {
            let nodes = self.nodes.as_ref();
            let restarted = |name: &String| nodes.is_some_and(|n| n.runs(name));
            let waiting = killed
                .iter()
                .filter(|n| restarted(n))
                .find(|n| nodes.is_some_and(|nodes| !nodes.ready(n)));
            if self.restarts.is_empty() && waiting.is_none() {
                return Ok(());
            }
            if let (Some(patience), Some(nodes)) = (&mut patience, nodes)
                && patience.is_over(nodes)
            {
                let name = waiting.cloned().unwrap_or_default();
                bail!("{name} was restarted and is not ready after {patience}");
            }
            self.pause(traffic, Duration::from_millis(50))?;
        }
    }

    fn collect(
        mut self,
        traffic: Traffic,
        running: Option<Running>,
        load: Option<LoadReport>,
    ) -> Result<Report> {
        self.watcher
            .say("no new connections; waiting for every flow to be heard once more");
        let real = running
            .map(|r| r.finish(Duration::from_secs(10)))
            .transpose()?;
        let (client, server) = traffic.finish()?;
        check(self.stop, self.watcher)?;
        self.look_after_nodes()?;
        let states = self.nodes.as_ref().map(Nodes::states);
        if let Some(nodes) = self.nodes.take() {
            nodes.stop();
        }
        Ok(Report {
            spec: self.spec.clone(),
            client,
            server,
            kills: self.kills,
            died: self.died,
            real,
            load,
            states,
            duration: Duration::ZERO,
        })
    }
}

fn check(stop: &AtomicBool, watcher: &mut dyn Watcher) -> Result<()> {
    if stop.load(Ordering::Relaxed) || watcher.wants_stop() {
        return Err(Interrupted.into());
    }
    Ok(())
}

/// Random ports, as behind a carrier's NAT; `nft` is the one tool for it.
fn load_kernel_nat(topology: &Topology) -> Result<()> {
    const RULES: &str = "table ip nat {\nchain post {\n\
        type nat hook postrouting priority 100\n\
        oifname \"wan0\" snat to 198.51.100.1-198.51.100.16 fully-random\n}\n}";
    let path = clients::find_tool("nft")
        .context("the kernel's NAT is set up with nft: `apt-get install nftables`")?;
    let mut command = Command::new(path);
    command.arg(RULES).stdin(Stdio::null());
    let mut nft = Process::spawn("nft", command, topology.namespace("gw1"))?;
    match nft.wait(Duration::from_secs(5))? {
        Some(status) if status.success() => Ok(()),
        _ => bail!("nft refused the rules of the kernel's NAT"),
    }
}
