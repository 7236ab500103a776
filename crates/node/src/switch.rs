//! The switch: listens for heartbeats and keeps the XDP steering table pointed
//! at live instances.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde::Serialize;
use stateplane_base::{Incarnation, Time};
use stateplane_flow::steering::Side;
use stateplane_host::bpf::BpfError;
use stateplane_host::bpf::steering::{Role as PortRole, Steering, SteeringCounters, SwitchPort};
use stateplane_host::clock;
use stateplane_wire::envelope::Kind;
use stateplane_wire::heartbeat::Beat;
use tracing::{error, info};

use crate::channel::{self, Channel, Heard};
use crate::config::{self, Config, Io, Role, sender_id};
use crate::detect::{Detector, Instances};
use crate::failure::Failure;
use crate::regions::keeper::SwitchEnds;
use crate::regions::steering;
use crate::regions::telemetry::Sheet;
use crate::regions::weights::configured;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;
use crate::turn::{self, Turn};

/// Heartbeats heard before silence is judged; more than can wait in one beat.
const BATCH: usize = 1024;
/// Between attempts to change the table when the kernel refuses.
const RETRY: Duration = Duration::from_millis(100);
/// Changes of the table remembered for `show`.
const HISTORY: usize = 16;

mod region;

use region::Region;

/// What a switch publishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SwitchStatus {
    /// A table that gives packets to somebody is in use.
    pub steering: bool,
    /// Its instances by index.
    pub instances: Vec<InstanceStatus>,
    /// How each port is attached: `native` or `generic`.
    pub ports: BTreeMap<String, String>,
    /// The last changes of the table, newest last.
    pub resteers: VecDeque<Resteer>,
    /// Changes of the table since the start.
    pub resteered: u64,
    /// Frames, by what became of them.
    pub frames: BTreeMap<&'static str, u64>,
    /// The region in which it tells how it steers; none while nobody can read it.
    pub region: Option<String>,
    /// Heartbeats that named another index than this switch's configuration.
    pub misconfigured: u64,
    /// Datagrams.
    pub datagrams: channel::Counters,
}

/// One instance behind the switch.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceStatus {
    /// The function node's name.
    pub node: String,
    /// `live`, `dead`, ...
    pub health: &'static str,
    /// It gets packets.
    pub serving: bool,
    /// Its share is as this among those of all that serve.
    pub weight: u32,
    /// Since its last heartbeat.
    pub silent_ms: Option<u64>,
}

/// One change of the steering table.
#[derive(Clone, Debug, Serialize)]
pub struct Resteer {
    /// Time of day, nanoseconds since 1970.
    pub at_ns: u64,
    /// Who got packets from then on.
    pub serving: Vec<String>,
    /// Who no longer did, and how long each had been silent when the new table
    /// was in use.
    pub lost: BTreeMap<String, u64>,
    /// How long computing and installing the table took.
    pub install_ns: u64,
}

impl RoleStatus for SwitchStatus {
    fn readiness(&self) -> Result<(), String> {
        if self.steering {
            Ok(())
        } else {
            Err("no instance is live".to_owned())
        }
    }

    fn count(&self, out: &mut Sheet) {
        out.counts("frames", "frames", &self.frames);
        let serving = self.instances.iter().filter(|i| i.serving).count();
        out.level("serving", "instances", serving as u64);
        out.count("resteered", "changes", self.resteered);
        out.count("misconfigured", "heartbeats", self.misconfigured);
        out.datagrams(&self.datagrams);
    }
}

/// A switch ready to run.
pub struct Switch {
    config: config::Switch,
    channel: Channel,
    steering: Steering,
    /// Instance index by the sender's number on the wire.
    senders: BTreeMap<u16, usize>,
    detector: Detector,
    serving: Instances,
    /// What share each instance is to have, and that which the table in use gives it.
    weights: Vec<u32>,
    weighed: Vec<u32>,
    region: Region,
    /// Not before this is a failed change tried again.
    retry: Time,
    misconfigured: u64,
    resteered: u64,
    history: VecDeque<Resteer>,
    status: Publisher<SwitchStatus>,
}

impl Switch {
    /// Attaches the steering program to every port; it steers to nobody yet.
    pub(crate) fn new(
        config: &Config,
        name: &str,
        switch: &config::Switch,
        channel: Channel,
        ends: Option<SwitchEnds>,
        status: Publisher<SwitchStatus>,
    ) -> Result<Self, Failure> {
        let steering = Steering::new(&ports(switch)).map_err(missing)?;
        let attached = steering.attachments().iter();
        let ports: BTreeMap<String, String> = attached
            .map(|a| (a.interface().to_owned(), a.mode().to_string()))
            .collect();
        for (interface, mode) in &ports {
            info!(interface, mode, "steering attached");
        }
        status.update(|s| s.ports = ports);
        let numbered = switch.instances.iter().enumerate();
        let senders = numbered
            .map(|(n, i)| (sender_id(&i.node, Role::Function), n))
            .collect();
        let weights = configured(switch);
        Ok(Self {
            region: Region::new(name, ends),
            weighed: weights.clone(),
            weights,
            config: switch.clone(),
            channel,
            steering,
            senders,
            detector: Detector::new(switch.instances.len(), config.detect.dead),
            serving: Instances::default(),
            retry: Time::ZERO,
            misconfigured: 0,
            resteered: 0,
            history: VecDeque::new(),
            status,
        })
    }

    /// Steers until asked to stop.
    pub fn run(mut self, io: Io, stop: &Stop) -> Result<(), Failure> {
        turn::serve(&mut self, io, stop)
    }

    fn resteer(&mut self, noticed: Time) -> Result<(), BpfError> {
        let serving = self.detector.serving(self.serving);
        let live: Vec<u8> = serving.iter().collect();
        let weighted: Vec<(u8, u32)> = serving
            .iter()
            .map(|n| (n, self.weights[usize::from(n)]))
            .collect();
        let table = steering::table(&weighted, self.config.pin);
        self.steering.set_table(&table)?;
        let done = clock::now();
        let name = |n: u8| self.config.instances[usize::from(n)].node.clone();
        let lost = self
            .serving
            .iter()
            .filter(|n| !serving.contains(usize::from(*n)));
        let silence = |n: u8| {
            let last = self.detector.last_heard(usize::from(n)).unwrap_or(done);
            done.since(last).as_nanos() as u64
        };
        let change = Resteer {
            at_ns: clock::wall().as_nanos(),
            serving: live.iter().map(|n| name(*n)).collect(),
            lost: lost.map(|n| (name(n), silence(n))).collect(),
            install_ns: done.since(noticed).as_nanos() as u64,
        };
        info!(serving = ?change.serving, lost_ns = ?change.lost, "steering changed");
        self.serving = serving;
        self.weighed.clone_from(&self.weights);
        self.resteered += 1;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(change);
        self.publish(done);
        Ok(())
    }

    /// Whether an instance that serves gets packets: not with weight 0, unless all have that.
    fn has_share(&self, n: usize) -> bool {
        let serving = self.serving.iter();
        self.weighed[n] > 0 || serving.map(usize::from).all(|n| self.weighed[n] == 0)
    }

    /// Tells in its region how it steers, if that is new, and that it still does.
    fn post(&mut self) {
        let health: Vec<&str> = (0..self.weighed.len())
            .map(|n| self.detector.health(n).word())
            .collect();
        let live: Vec<u8> = self.serving.iter().collect();
        self.region
            .post(&self.config, &self.weighed, &live, &health, self.resteered);
    }

    fn publish(&mut self, now: Time) {
        self.post();
        let numbered = self.config.instances.iter().enumerate();
        let instances = numbered.map(|(n, instance)| InstanceStatus {
            node: instance.node.clone(),
            health: self.detector.health(n).word(),
            serving: self.serving.contains(n) && self.has_share(n),
            weight: self.weighed[n],
            silent_ms: self
                .detector
                .last_heard(n)
                .map(|t| now.since(t).as_millis() as u64),
        });
        let instances: Vec<_> = instances.collect();
        // Figures that cannot be read are no reason to stop steering.
        let frames = self.steering.counters().ok();
        self.status.update(|s| {
            s.steering = !self.serving.is_empty();
            s.instances = instances;
            s.resteers.clone_from(&self.history);
            s.resteered = self.resteered;
            s.frames = frames.map_or_else(BTreeMap::new, by_name);
            s.misconfigured = self.misconfigured;
            s.region = self.region.told();
            s.datagrams = self.channel.counters();
        });
    }
}

impl Turn for Switch {
    const NAME: &'static str = "switch";
    const NICE: i32 = -10;

    fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    fn next(&self) -> Time {
        let core = self.detector.next_timer().unwrap_or(Time::MAX);
        core.min(self.status.next())
    }

    fn hear(&mut self, now: Time) -> io::Result<usize> {
        let Self {
            channel,
            detector,
            senders,
            misconfigured,
            ..
        } = self;
        channel.receive(BATCH, |heard| {
            let Heard::Body(header, body) = heard else {
                return;
            };
            let instance = senders.get(&header.sender).copied();
            let (Kind::Heartbeat, Some(instance), Some(beat)) =
                (header.kind, instance, Beat::decode(body))
            else {
                return;
            };
            if usize::from(beat.instance) != instance {
                *misconfigured += 1;
                return;
            }
            let life = Incarnation(header.incarnation);
            detector.on_heartbeat(now, instance, life, beat.state);
        })
    }

    fn act(&mut self, now: Time) -> io::Result<()> {
        self.detector.on_timer(now);
        if let Some(weights) = self.region.weights() {
            self.weights = weights;
        }
        if self.serving.is_empty() {
            // There is no table yet that they could change.
            self.weighed.clone_from(&self.weights);
        }
        let changed =
            self.detector.serving(self.serving) != self.serving || self.weights != self.weighed;
        if changed
            && now >= self.retry
            && let Err(error) = self.resteer(now)
        {
            // The old table stays in use: better than none.
            error!(%error, "the steering table could not be changed; trying again");
            self.retry = now + RETRY;
        }
        if self.status.due(now) {
            self.publish(now);
        }
        Ok(())
    }
}

fn by_name(frames: SteeringCounters) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("steered", frames.steered),
        ("flooded", frames.flooded),
        ("to-host", frames.to_host),
        ("passed", frames.passed),
        ("malformed", frames.malformed),
        ("nobody", frames.nobody),
        ("failed", frames.failed),
        ("filtered", frames.filtered),
    ])
}

fn missing(error: BpfError) -> Failure {
    let help = match &error {
        BpfError::Interface { .. } => "`ip link` lists this machine's interfaces",
        BpfError::Load { .. } | BpfError::Attach { .. } => {
            "steering needs root (or CAP_BPF and CAP_NET_ADMIN) and a kernel with XDP"
        }
        _ => "",
    };
    Failure::missing(format!("switch: {error}"), help)
}

fn ports(switch: &config::Switch) -> Vec<SwitchPort> {
    let port = |interface: &String, side, role| SwitchPort {
        interface: interface.clone(),
        side,
        role,
    };
    let mut ports = Vec::new();
    ports.extend(
        switch
            .inside
            .iter()
            .map(|i| port(i, Side::Inside, PortRole::Host)),
    );
    ports.extend(
        switch
            .outside
            .iter()
            .map(|i| port(i, Side::Outside, PortRole::Host)),
    );
    for (instance, n) in switch.instances.iter().zip(0..) {
        ports.push(port(&instance.inside, Side::Inside, PortRole::Instance(n)));
        ports.push(port(
            &instance.outside,
            Side::Outside,
            PortRole::Instance(n),
        ));
    }
    ports
}
