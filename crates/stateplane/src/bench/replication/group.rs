//! Our own groups: processes of this binary on the loopback, and the load on them.

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stateplane_functions::Ticket;
use stateplane_host::{clock, poll};
use stateplane_node::channel::{Channel, Identity, new_incarnation};
use stateplane_node::client::{GroupClient, StateClient};
use stateplane_node::config::{Config, Role};
use stateplane_state::builtin::kv::Put;
use stateplane_state::op::Operation;

use super::measure::{Meter, Sample, Spans, Tally};
use super::network::{ARRIVES, At, Network};
use super::systems::System;
use crate::bench::process::Child;
use crate::lab::nodes::http_get;

/// The node the load comes from.
const LOAD: &str = "load";
/// Keys the operations are spread over.
const KEYS: u64 = 1024;

/// A running group.
pub(super) struct Group {
    pub(super) children: Vec<Child>,
    /// Which of them leads.
    pub(super) leader: usize,
    names: Vec<String>,
    dir: PathBuf,
    system: System,
    config: Config,
    /// What it runs in, if not on the loopback. Goes with the group.
    network: Option<Network>,
}

/// The configuration of a group in a network of its own, or on ports of the loopback that are
/// free now.
fn render(system: System, lose_one_in: Option<u32>, dir: &Path) -> Result<String> {
    let replicas: Vec<String> = (1..=system.replicas()).map(|n| format!("r{n}")).collect();
    let mut text = String::from("[cluster]\nname = \"bench\"\n");
    writeln!(text, "key = \"{:032x}\"", fastrand::u128(..))?;
    writeln!(text, "admin-dir = \"{}\"", dir.display())?;
    writeln!(
        text,
        "[state]\nbackend = \"group\"\nreplicas = {replicas:?}"
    )?;
    match system.batch() {
        Some(batch) => writeln!(text, "protocol = \"vr\"\nbatch = {batch}")?,
        None => writeln!(text, "sequencer = \"seq\"")?,
    }
    writeln!(text, "[io]\nbatch = {}", !system.is_single())?;
    if let Some(n) = lose_one_in {
        writeln!(text, "lose-one-in = {n}")?;
    }
    let nodes = replicas.iter().map(|r| (r.as_str(), "replica"));
    let sequencer = system.batch().is_none().then_some(("seq", "sequencer"));
    let load = (LOAD, "function");
    let mut held = Vec::new();
    for (name, role) in nodes.chain(sequencer).chain([load]) {
        let address = if system.has_network() {
            SocketAddr::V4(place(name).address())
        } else {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            let address = socket.local_addr()?;
            held.push(socket); // so that each gets another
            address
        };
        writeln!(
            text,
            "[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"{address}\""
        )?;
        if role == "sequencer" && system == System::NopaxosXdp {
            writeln!(text, "mode = \"xdp\"\ninterface = \"{ARRIVES}\"")?;
        }
    }
    // Store clients are function instances. This one has no interfaces to serve.
    text += "inside = \"none0\"\noutside = \"none1\"\n[nat]\n\
             inside-prefixes = [\"10.0.0.0/16\"]\noutside-addresses = [\"198.51.100.1\"]\n";
    Ok(text)
}

/// Where a node of the configuration is.
fn place(name: &str) -> At {
    match name.strip_prefix('r').and_then(|n| n.parse().ok()) {
        Some(number) => At::Replica(number),
        None if name == LOAD => At::Load,
        None => At::Sequencer,
    }
}

impl Group {
    /// Starts it and waits until it serves.
    pub(super) fn start(system: System, lose_one_in: Option<u32>, dir: &Path) -> Result<Self> {
        let text = render(system, lose_one_in, dir)?;
        let path = dir.join("bench.toml");
        std::fs::write(&path, &text)?;
        let (config, _) = Config::load(&path).context("the benchmark's own configuration")?;
        let names: Vec<String> = config
            .nodes
            .keys()
            .filter(|n| *n != LOAD)
            .cloned()
            .collect();
        let network = system.has_network().then(Network::build).transpose();
        let network = network.context("its network needs root and network namespaces")?;
        let mut children = Vec::new();
        for name in &names {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["run", "--node", name, "--config"]).arg(&path);
            children.push(match &network {
                Some(network) => Child::start_in(network.space(place(name)), name, command, dir)?,
                None => Child::start(name, command, dir)?,
            });
        }
        let mut group = Self {
            children,
            leader: 0,
            names,
            dir: dir.to_owned(),
            system,
            config,
            network,
        };
        group.find_leader()?;
        Ok(group)
    }

    /// Waits until all serve, and learns who leads.
    pub(super) fn find_leader(&mut self) -> Result<()> {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.statuses();
            let leader = leader(&said).filter(|_| said.iter().all(|s| s["ready"] == true));
            if let Some(leader) = leader {
                let stamps = |s: &Value| s["sequencer"]["offload"].is_object();
                if self.system == System::NopaxosXdp && !said.iter().any(stamps) {
                    bail!("no XDP program stamps here");
                }
                self.leader = leader;
                return Ok(());
            }
            if Instant::now() > limit {
                bail!("the group {} does not serve: {said:?}", self.system.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn statuses(&self) -> Vec<Value> {
        let names = self.names.iter();
        names.map(|name| status(&self.dir, name)).collect()
    }

    /// Which view the leader is in; none if it leads no more.
    pub(super) fn view(&self) -> Option<u64> {
        let replica = &status(&self.dir, &self.names[self.leader])["replica"];
        replica["view"]
            .as_u64()
            .filter(|_| replica["leader"] == true)
    }

    /// Keeps `outstanding` operations under way for a while.
    pub(super) fn load(&self, outstanding: usize, spans: Spans) -> Result<Sample> {
        let node = self.config.node(LOAD).context("the load's node")?;
        let address = *node.control.get(&Role::Function).context("its address")?;
        let identity = Identity::new(&self.config, LOAD, Role::Function, new_incarnation());
        let id = identity.client_id();
        let bind = move || Channel::bind(address, identity);
        let mut channel = match &self.network {
            Some(network) => network.space(At::Load).run(bind)?,
            None => bind()?,
        };
        if self.config.io.one_by_one {
            channel.one_by_one();
        }
        let mut client = GroupClient::new(&self.config, LOAD, id, channel);
        if !self.system.shares_datagrams() {
            client.send_each_alone();
        }
        let mut client = StateClient::Group(Box::new(client));
        let mut tally = Tally::new()?;
        run(&mut client, outstanding, spans.warm, &mut tally)?;
        let meter = Meter::read(&self.children)?;
        tally.begin();
        run(&mut client, outstanding, spans.counted, &mut tally)?;
        Sample::take(&tally, &meter)
    }
}

/// Which of them leads.
fn leader(said: &[Value]) -> Option<usize> {
    said.iter().position(|s| s["replica"]["leader"] == true)
}

fn status(dir: &Path, name: &str) -> Value {
    let answer = http_get(&dir.join(format!("{name}.sock")), "/v1/status");
    let answer = answer
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    answer.unwrap_or_default()
}

/// The closed loop: an operation that ends is followed by the next. What is under way at
/// the end is waited for, so that runs do not overlap.
fn run(
    client: &mut StateClient,
    outstanding: usize,
    span: Duration,
    tally: &mut Tally,
) -> Result<()> {
    let until = Instant::now() + span;
    let mut started = vec![Instant::now(); outstanding];
    let mut free: Vec<usize> = (0..outstanding).collect();
    let mut done = Vec::new();
    let mut serial = 0_u64;
    loop {
        let now = clock::now();
        let go_on = Instant::now() < until;
        for place in free.drain(..).filter(|_| go_on) {
            serial += 1;
            let (key, value) = ((serial % KEYS).to_be_bytes(), serial.to_be_bytes());
            let op = Put {
                key: &key,
                value: &value,
                ttl: None,
            };
            started[place] = Instant::now();
            client.submit(now, Ticket(place as u64), op.encode());
        }
        client.flush(now);
        if !go_on && client.pending() == 0 {
            return Ok(());
        }
        client.poll(clock::now(), &mut done);
        if done.is_empty() {
            let due = client.next_timer().map(|due| due.since(clock::now()));
            let fd = client.fd().context("a group's client has a socket")?;
            poll::wait(&[fd], due)?;
        }
        for (Ticket(place), outcome) in done.drain(..) {
            let place = usize::try_from(place)?;
            tally.add(started[place], outcome.is_ok());
            free.push(place);
        }
    }
}
