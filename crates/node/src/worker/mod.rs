//! The function's packet loop on AF_XDP: threads that run to completion, each on queues of its own.
//!
//! * [`packets`]: one turn of the loop
//! * [`egress`]: next hops, and packets that wait for a neighbour
//! * [`fast`]: what passes in front of the workers; `front.rs`: the XDP programs there
//! * [`hops`]: the kernel's routes and neighbours
//! * [`report`]: what the workers publish and answer; `errands.rs`: what operators ask the store
//! * `service.rs`: the functions they can run, alone or as a chain
//! * `instance.rs`: opening interfaces; `team.rs`: several workers
//!
//! Whatever this changes on an interface goes back when it ends: offloads by guards
//! ([`stateplane_host::guard`]), XDP programs by their links, which the kernel drops even after
//! SIGKILL.

pub mod egress;
mod errands;
pub mod fast;
mod front;
mod hops;
mod instance;
pub mod packets;
mod report;
mod service;
mod team;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_functions::{Chain, Runtime};
use stateplane_host::bpf::fastpath::Words;
use stateplane_host::port::Port;
use stateplane_host::xsk::XskPort;
use stateplane_host::{clock, poll, priority};
use tracing::warn;

use crate::failure::Failure;
use crate::function::FunctionSetup;
use crate::regions::keeper::Home;
use crate::stop::Stop;
pub use errands::Outcome;
use hops::KernelHops;
use instance::{Instance, Opened, Seat};
use packets::PacketLoop;
use report::{Publication, Reporter, To};
use service::{Functions, Service};
use team::{Pulse, Remains, Team, pin};

/// Packets are more urgent than most of what runs on the machine; a late heartbeat looks
/// like death.
const NICE: i32 = -10;
/// Idle turns look at signals this often.
const GLANCE: Duration = Duration::from_millis(20);
/// Longest time to give the ports back to the store at the end.
const GIVE_BACK: Duration = Duration::from_millis(100);
/// After the farewell to the switches, packets on their way are still served this long.
const DRAIN: Duration = Duration::from_millis(50);

/// Serves packets until asked to stop.
pub fn run(setup: FunctionSetup) -> Result<(), Failure> {
    // One function alone pays nothing for chains.
    match setup.work.len() {
        1 => serve::<Runtime<Service>>(setup),
        _ => serve::<Chain<Service>>(setup),
    }
}

fn serve<R: Functions>(setup: FunctionSetup) -> Result<(), Failure> {
    let dead = setup.dead;
    let Opened {
        instance,
        publication,
        homes,
        mut seats,
    } = Opened::new(setup)?;
    let own = seats.remove(0);
    let stop = instance.stop.clone();
    let team = Team::start::<R>(seats, homes, dead)?;
    let lead = Lead {
        instance,
        team,
        publication: Some(publication),
    };
    let mut worker = Worker::<R>::sit(own, Some(lead), stop)?;
    let result = worker.serve();
    result.and(worker.close())
}

type Packets<R> = PacketLoop<R, XskPort, KernelHops, Words>;

/// What the first worker looks after.
struct Lead {
    instance: Instance,
    team: Team,
    /// Until the worker has it.
    publication: Option<Publication>,
}

struct Worker<R> {
    packets: Packets<R>,
    reporter: Reporter,
    homes: Option<Receiver<Home>>,
    pulse: Arc<Pulse>,
    /// The first worker's.
    lead: Option<Lead>,
    stop: Stop,
}

impl<R: Functions> Worker<R> {
    /// Takes a seat, on the thread that is to serve it.
    fn sit(seat: Seat, mut lead: Option<Lead>, stop: Stop) -> Result<Self, Failure> {
        pin(seat.status.cpu)?;
        // Not before: having programs verified is much work and not urgent.
        if let Err(error) = priority::set_nice(NICE) {
            warn!("cannot raise the worker's priority: {error}");
        }
        let stages = seat.stages.into_iter();
        let stages = stages.map(|(limits, plan)| (limits, Service::new(plan, seat.home.clone())));
        let mut runtime = R::start(clock::now(), stages.collect());
        if let Some(local) = seat.local {
            runtime.set_local(Rc::new(local));
        }
        let ifindexes = [seat.ports[0].ifindex(), seat.ports[1].ifindex()];
        let hops = KernelHops::new(seat.reader, ifindexes);
        let publication = lead.as_mut().and_then(|lead| lead.publication.take());
        let to = match publication {
            Some(all) => To::All(Box::new(all)),
            None => To::First(seat.slot, Time::ZERO),
        };
        let packets = PacketLoop::new(seat.pool, seat.ports, runtime, seat.state, hops, seat.fast);
        Ok(Self {
            packets,
            reporter: Reporter::new(seat.questions, seat.status, to),
            homes: seat.homes,
            pulse: seat.pulse,
            lead,
            stop,
        })
    }

    /// A worker that is not the first: serves until the first one ends it.
    fn run_beside(mut self) -> Result<Remains, Failure> {
        self.serve()?;
        let PacketLoop { pool, ports, .. } = self.packets;
        Ok((pool, ports))
    }

    fn serve(&mut self) -> Result<(), Failure> {
        while !self.stop.is_raised() && !self.is_alone() {
            self.turn(clock::now())?;
            self.complain()?;
        }
        if let Some(lead) = &mut self.lead {
            lead.instance.heartbeat.drain();
            lead.team.dismiss();
        }
        self.turn_for(DRAIN, |_| true)?;
        // From here on nothing passes that the function does not see.
        self.packets.take_all();
        self.packets.runtime.stop(clock::now());
        self.turn_for(GIVE_BACK, |packets| {
            packets.state.pending() > 0 || !packets.runtime.functions().all(Service::is_settled)
        })
    }

    /// Another worker ended, which it says itself.
    fn is_alone(&self) -> bool {
        let lead = self.lead.as_ref();
        lead.is_some_and(|lead| lead.team.has_lost_one())
    }

    /// Serves on for at most `span`, as long as there is something to wait for.
    fn turn_for(
        &mut self,
        span: Duration,
        goes_on: impl Fn(&Packets<R>) -> bool,
    ) -> Result<(), Failure> {
        let end = clock::now() + span;
        self.turn(clock::now())?;
        while clock::now() < end && goes_on(&self.packets) {
            self.turn(clock::now())?;
        }
        Ok(())
    }

    /// A store of another configuration would translate differently: nothing works until
    /// somebody changes something. A store that does not know us any more (it lost
    /// everything, or another process took our name) is asked again by the function.
    fn complain(&self) -> Result<(), Failure> {
        match self.packets.runtime.functions().find_map(Service::mismatch) {
            None => Ok(()),
            Some(section) => Err(Failure::Usage(format!(
                "the store was started with another [{section}] section: give all nodes the same \
                 file and restart those that run with the old one"
            ))),
        }
    }

    /// One turn, and the wait for the next.
    fn turn(&mut self, now: Time) -> Result<(), Failure> {
        if self.packets.egress.hops_mut().refresh() {
            self.update_locals();
            self.packets.ways_changed(now);
        }
        if let Some((table, me)) = self.home() {
            for function in self.packets.runtime.functions_mut() {
                function.set_home(table.clone(), me);
            }
        }
        let received = self.packets.turn(now);
        let registered = self.packets.runtime.functions().all(Service::is_registered);
        self.pulse.beat(now, registered);
        if let Some(lead) = &mut self.lead
            && registered
            && lead.team.serves(now)
        {
            lead.instance.heartbeat.due(now);
        }
        let draining = self.stop.is_raised();
        let front = self.lead.as_ref().map(|lead| &lead.instance.front);
        self.reporter.turn(now, &mut self.packets, front, draining);
        if received > 0 {
            return Ok(());
        }
        self.wait()
    }

    fn home(&mut self) -> Option<Home> {
        match &mut self.lead {
            Some(lead) => lead.team.home(),
            None => self.homes.as_ref()?.try_recv().ok(),
        }
    }

    fn wait(&self) -> Result<(), Failure> {
        let now = clock::now();
        let beat = self
            .lead
            .as_ref()
            .map(|lead| lead.instance.heartbeat.next());
        let due = [self.packets.next_timer(), beat];
        let due = due.into_iter().flatten().min().unwrap_or(Time::MAX);
        let span = due.since(now).min(GLANCE);
        let [inside, outside] = &self.packets.ports;
        let waited = match (inside.fd(), outside.fd(), self.packets.state.fd()) {
            (Some(inside), Some(outside), Some(store)) => {
                poll::wait(&[inside, outside, store], Some(span))
            }
            (Some(inside), Some(outside), None) => poll::wait(&[inside, outside], Some(span)),
            // A port that cannot be waited for is asked again and again.
            _ => return Ok(()),
        };
        waited.map_err(Failure::running)?;
        Ok(())
    }

    /// The machine got or lost an address: packets to its own stay with the kernel.
    fn update_locals(&mut self) {
        let Some(Lead { instance, .. }) = &self.lead else {
            return;
        };
        let locals = instance.neighbours.local_addresses();
        if let Err(error) = instance.front.set_locals(&locals) {
            warn!("cannot update the local addresses: {error}");
        }
    }

    /// Ends the other workers, then detaches the programs, so that no frame meets a closed socket.
    fn close(self) -> Result<(), Failure> {
        let Self { packets, lead, .. } = self;
        let PacketLoop { pool, ports, .. } = packets;
        let Some(Lead { instance, team, .. }) = lead else {
            return Ok(());
        };
        let (mut remains, result) = team.part();
        remains.push((pool, ports));
        drop(instance.front);
        for (mut pool, ports) in remains {
            for port in ports {
                port.close(&mut pool);
            }
        }
        drop(instance.guards);
        result
    }
}

fn missing(error: impl std::fmt::Display) -> Failure {
    Failure::missing(error, "")
}
