//! The thread of a node that keeps the regions it writes about itself, and follows those of
//! others that its roles want to know.
//!
//! Roles never wait for a broker, nor for memory: what they write they are handed when it can be
//! written, and what they are to know they are told through channels of their own. Without a
//! broker, or without the regions of others, everything goes on by the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::Serialize;
use stateplane_base::Time;
use stateplane_flow::steering::Table;
use stateplane_host::clock;
use stateplane_region::{Host, Writer};
use tracing::info;

use super::own::{Follower, Kind, Own};
use super::steering::{Posted, TOO_OLD};
use super::telemetry::Sheet;
use super::weighing::{Given, Weighing};
use super::{running, telemetry, weights};
use crate::config::{Config, Node, Role};
use crate::failure::Failure;
use crate::status::{Publisher, RoleStatus};
use crate::stop::Stop;

/// How often everything is looked at.
const TURN: Duration = Duration::from_millis(20);
/// How often a broker that is not there is looked for.
const SEARCH: Duration = Duration::from_secs(1);
/// How often an instance looks how its switch steers.
const LOOK: Duration = Duration::from_millis(100);

/// Something to be done now and then.
pub(super) trait Duty: Send {
    /// Does what there is to do; `host`: the regions of this machine, if there is a broker.
    fn turn(&mut self, host: Option<&Host>, now: Time);
}

/// What a node says about the regions it uses.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UseStatus {
    /// Why there are no regions, if there are none.
    pub broker: Option<String>,
    /// How an instance knows the way its switch steers.
    pub steering: Option<String>,
    /// Nodes that run another configuration, and where it differs.
    pub other_configurations: BTreeMap<String, String>,
}

impl RoleStatus for UseStatus {
    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, _: &mut Sheet) {}
}

/// Which buckets are whose while all instances live, and which instance one is.
pub(crate) type Home = (Table, u8);

/// What the roles of a node have to do with regions.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// For the switch.
    pub(crate) switch: Option<SwitchEnds>,
    /// For the function: how its switch steers.
    pub(crate) home: Option<Receiver<Home>>,
}

/// The switch's: its region, as soon as it can write that, and its instances' weights.
#[derive(Debug)]
pub(crate) struct SwitchEnds {
    pub(crate) region: Receiver<Writer<[u8]>>,
    pub(crate) weights: Receiver<Given>,
}

/// The thread, before it runs.
pub(crate) struct Keeper {
    dir: PathBuf,
    duties: Vec<Box<dyn Duty>>,
    status: Publisher<UseStatus>,
}

impl Keeper {
    /// What `node` has to do with regions; none if the file has none.
    ///
    /// # Errors
    /// What was kept about weights cannot be read.
    pub(crate) fn new(
        config: &Config,
        node: &Node,
        wishes: Receiver<weights::Wish>,
        status: impl FnOnce() -> Publisher<UseStatus>,
    ) -> Result<Option<(Self, Ends)>, Failure> {
        let Some(regions) = &config.regions else {
            return Ok(None);
        };
        let (mut duties, mut ends) = (Vec::<Box<dyn Duty>>::new(), Ends::default());
        let status = status();
        if let Some(switch) = &node.switch {
            let (weighing, weights) = Weighing::new(config, &node.name, switch, wishes)?;
            let (to, region) = sync_channel(1);
            let own = Own::new(config, &node.name, Kind::Steering);
            duties.push(Box::new(Handing { own, to: Some(to) }));
            duties.push(Box::new(weighing));
            ends.switch = Some(SwitchEnds { region, weights });
        }
        if node.is(Role::Function)
            && let Some((knowing, home)) = Knowing::new(config, &node.name, status.share())
        {
            duties.push(Box::new(knowing));
            ends.home = Some(home);
        }
        duties.push(Box::new(running::Telling::new(config, &node.name)));
        let comparing = running::Comparing::new(config, &node.name, status.share());
        duties.push(Box::new(comparing));
        let keeper = Self {
            dir: regions.dir.clone(),
            duties,
            status,
        };
        Ok(Some((keeper, ends)))
    }

    /// Runs until asked to stop, on a thread of its own.
    pub(crate) fn start(
        mut self,
        counting: telemetry::Telling,
        stop: &Stop,
    ) -> Result<JoinHandle<()>, Failure> {
        self.duties.push(Box::new(counting));
        let stop = stop.clone();
        thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || self.run(&stop))
            .map_err(|error| Failure::running(format!("cannot start a thread: {error}")))
    }

    fn run(mut self, stop: &Stop) {
        let (mut host, mut search) = (None, Time::ZERO);
        while !stop.is_raised() {
            let now = clock::now();
            if host.is_none() && now >= search {
                search = now + SEARCH;
                host = self.connect();
            }
            for duty in &mut self.duties {
                duty.turn(host.as_ref(), now);
            }
            thread::sleep(TURN);
        }
    }

    fn connect(&self) -> Option<Host> {
        let connected = Host::connect(&self.dir);
        let why = connected.as_ref().err().map(ToString::to_string);
        self.status.amend(|status| {
            if let Some(why) = &why
                && status.broker.as_ref() != Some(why)
            {
                info!("regions wait: {why}");
            }
            status.broker = why;
        });
        connected.ok()
    }
}

/// Has a region written by a role, on the role's own thread.
struct Handing {
    own: Own,
    /// None: it was handed over.
    to: Option<SyncSender<Writer<[u8]>>>,
}

impl Duty for Handing {
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        let Some(to) = &self.to else { return };
        if let Some(region) = host.and_then(|host| self.own.claim(host, now)) {
            // If the role is gone, its region is given up.
            let _ = to.try_send(region);
            self.to = None;
        }
    }
}

/// Tells an instance how its switch steers: as that switch says, or as the file does.
struct Knowing {
    node: String,
    /// The switches that steer to it; the first that says something counts.
    switches: Vec<Follower>,
    configured: Home,
    told: Home,
    to: SyncSender<Home>,
    next: Time,
    status: Publisher<UseStatus>,
}

impl Knowing {
    fn new(
        config: &Config,
        node: &str,
        status: Publisher<UseStatus>,
    ) -> Option<(Self, Receiver<Home>)> {
        let (to, home) = sync_channel(1);
        let configured = configured_home(config, node)?;
        let switches = config.switches_of(node);
        let knowing = Self {
            node: node.to_owned(),
            switches: switches
                .map(|(switch, _)| Follower::new(config, &switch.name, Kind::Steering))
                .collect(),
            told: configured.clone(),
            configured,
            to,
            next: Time::ZERO,
            status,
        };
        Some((knowing, home))
    }

    fn look(&mut self, host: &Host) -> Result<(Home, String), String> {
        let mut why = String::new();
        for switch in &mut self.switches {
            let name = switch.name().clone();
            match switch.read::<Posted>(host) {
                Ok((_, edition)) if edition.age() > TOO_OLD => {
                    why = format!("{name} is {:.0} s old", edition.age().as_secs_f64());
                }
                Ok((posted, edition)) => match posted.home_of(&self.node) {
                    Some(home) => {
                        return Ok((home, format!("{name} version {}", edition.version)));
                    }
                    None => why = format!("{name} steers otherwise than this release knows"),
                },
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

impl Duty for Knowing {
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        if now < self.next {
            return;
        }
        self.next = now + LOOK;
        let looked = host.map_or_else(|| Err("there is no broker".to_owned()), |h| self.look(h));
        let (home, from) = looked.unwrap_or_else(|why| {
            let from = format!("the configuration: {why}");
            (self.configured.clone(), from)
        });
        self.status.amend(|status| status.steering = Some(from));
        // Full: the worker has not taken the last; the next turn tries again.
        if home != self.told && self.to.try_send(home.clone()).is_ok() {
            self.told = home;
        }
    }
}

/// How a switch steers to `node` by the configuration alone; none if no switch does. Ports
/// chosen accordingly have their answers come back to where the mapping is known.
pub(crate) fn configured_home(config: &Config, node: &str) -> Option<Home> {
    let (switch, _) = config.switches_of(node).next()?;
    Posted::of_config(switch)?.home_of(node)
}
