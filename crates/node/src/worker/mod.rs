//! The function's packet loop on AF_XDP: one thread that runs to completion.
//!
//! * [`packets`]: one turn of the loop
//! * [`egress`]: next hops, and packets that wait for a neighbour
//! * [`fast`]: what passes in front of the worker; `front.rs`: the XDP programs there
//! * [`hops`]: the kernel's routes and neighbours
//! * [`report`]: what the worker publishes and answers; `errands.rs`: what operators ask the store
//!
//! Whatever this changes on an interface goes back when it ends: offloads by
//! [`InterfaceGuard`], XDP programs by their links, which the kernel drops even after
//! SIGKILL.

pub mod egress;
mod errands;
pub mod fast;
mod front;
mod hops;
pub mod packets;
mod report;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use stateplane_base::Time;
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::{Nat44, Problem};
use stateplane_functions::{CommitMode, PortConfig, Runtime, RuntimeConfig};
use stateplane_host::bpf::fastpath::{Prefix, Words};
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::guard::InterfaceGuard;
use stateplane_host::neigh::Neighbours;
use stateplane_host::port::Port;
use stateplane_host::xsk::{XskConfig, XskPort};
use stateplane_host::{clock, ethtool, ifreq, poll, priority};
use tracing::{info, warn};

use crate::config::{self, Commit};
use crate::failure::Failure;
use crate::function::WorkerSetup;
use crate::nat;
use crate::regions::keeper::Home;
pub use errands::Outcome;
use front::Front;
use hops::KernelHops;
use packets::PacketLoop;
use report::Reporter;

/// Packets are more urgent than most of what runs on the machine; a late heartbeat looks
/// like death.
const NICE: i32 = -10;
/// Idle turns look at signals this often.
const GLANCE: Duration = Duration::from_millis(20);
/// Longest time to give the ports back to the store at the end.
const GIVE_BACK: Duration = Duration::from_millis(100);
/// After the farewell to the switches, packets on their way are still served this long.
const DRAIN: Duration = Duration::from_millis(50);

/// Frames besides those that wait to be filled and those parked: in send rings, or in our
/// hands.
const IN_HAND: u32 = 8192;
/// With more receive queues than this together each gets shorter rings.
const MANY_QUEUES: u32 = 16;

/// Serves packets until asked to stop.
pub fn run(setup: WorkerSetup) -> Result<(), Failure> {
    let mut worker = Worker::open(setup)?;
    // Not before: having programs verified is much work and not urgent.
    if let Err(error) = priority::set_nice(NICE) {
        warn!("cannot raise the worker's priority: {error}");
    }
    let result = worker.serve();
    worker.close();
    result
}

type Packets = PacketLoop<Nat44, XskPort, KernelHops, Words>;

struct Worker {
    packets: Packets,
    front: Front,
    guards: Vec<InterfaceGuard>,
    neighbours: Neighbours,
    heartbeat: crate::heartbeat::Heartbeat,
    reporter: Reporter,
    homes: Option<Receiver<Home>>,
    stop: crate::stop::Stop,
}

impl Worker {
    fn open(setup: WorkerSetup) -> Result<Self, Failure> {
        let names = [
            setup.interfaces.inside.clone(),
            setup.interfaces.outside.clone(),
        ];
        let addresses = [usable(&names[0])?, usable(&names[1])?];
        let guards = names.iter().map(|n| InterfaceGuard::for_raw_frames(n));
        let guards = guards.collect::<Result<Vec<_>, _>>().map_err(missing)?;
        for guard in guards.iter().filter(|g| g.has_changes()) {
            info!("changed until the end of this process: {guard}");
        }
        let neighbours = Neighbours::follow().map_err(missing)?;
        let (memory, xsk) = memory(&names, setup.park.limit).map_err(missing)?;
        let mut pool = FramePool::new(memory).map_err(missing)?;
        let inside = XskPort::open(&mut pool, &names[0], &xsk).map_err(missing)?;
        let outside = XskPort::open(&mut pool, &names[1], &xsk).map_err(missing)?;

        let config = nat::instance_config(
            &setup.nat,
            &setup.lease,
            InstanceId::of(&setup.node),
            setup.incarnation,
            outside.mac(),
            setup.seed,
        )?;
        let mut function = Nat44::new(config);
        if let Some((table, me)) = setup.home.clone() {
            function.set_home(table, me);
        }
        let addresses_of = front::Addresses {
            pool: public_prefixes(&setup.nat),
            locals: neighbours.local_addresses(),
        };
        let ports = [inside, outside];
        let (front, fast) = Front::open(&ports, &function, &addresses_of, setup.fast_path)?;
        let mtus = [ports[0].mtu(), ports[1].mtu()];
        let mut limits = runtime_config(&setup, addresses, mtus);
        limits.fast_path = fast.is_some();
        let mut runtime = Runtime::new(clock::now(), limits, function);
        if let Some(local) = setup.local {
            runtime.set_local(Rc::new(local));
        }
        let hops = KernelHops::new(
            neighbours.reader(),
            [ports[0].ifindex(), ports[1].ifindex()],
        );
        let modes = front.modes(&ports);
        let reporter = Reporter::new(setup.status, setup.questions, &names, modes);
        Ok(Self {
            packets: PacketLoop::new(pool, ports, runtime, setup.state, hops, fast),
            front,
            guards,
            neighbours,
            heartbeat: setup.heartbeat,
            reporter,
            homes: setup.homes,
            stop: setup.stop,
        })
    }

    fn serve(&mut self) -> Result<(), Failure> {
        while !self.stop.is_raised() {
            self.turn(clock::now())?;
            self.complain()?;
        }
        self.heartbeat.drain();
        self.turn_for(DRAIN, |_| true)?;
        // From here on nothing passes that the function does not see.
        self.packets.take_all();
        self.packets.runtime.stop(clock::now());
        self.turn_for(GIVE_BACK, |packets| packets.state.pending() > 0)
    }

    /// Serves on for at most `span`, as long as there is something to wait for.
    fn turn_for(
        &mut self,
        span: Duration,
        goes_on: impl Fn(&Packets) -> bool,
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
        if self.packets.runtime.function().status().problem != Some(Problem::ConfigMismatch) {
            return Ok(());
        }
        Err(Failure::Usage(
            "the store was started with another [nat] section: give all nodes the same file \
             and restart those that run with the old one"
                .to_owned(),
        ))
    }

    /// One turn, and the wait for the next.
    fn turn(&mut self, now: Time) -> Result<(), Failure> {
        if self.packets.egress.hops_mut().refresh() {
            self.update_locals();
            self.packets.ways_changed(now);
        }
        if let Some(Ok((table, me))) = self.homes.as_ref().map(Receiver::try_recv) {
            self.packets.runtime.function_mut().set_home(table, me);
        }
        let received = self.packets.turn(now);
        if self.packets.runtime.function().status().registered {
            self.heartbeat.due(now);
        }
        let draining = self.stop.is_raised();
        self.reporter
            .turn(now, &mut self.packets, &self.front, draining);
        if received > 0 {
            return Ok(());
        }
        self.wait()
    }

    fn wait(&self) -> Result<(), Failure> {
        let now = clock::now();
        let due = [self.packets.next_timer(), Some(self.heartbeat.next())];
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
        let locals = self.neighbours.local_addresses();
        if let Err(error) = self.front.set_locals(&locals) {
            warn!("cannot update the local addresses: {error}");
        }
    }

    /// Detaches the programs first, so that no frame meets a closed socket.
    fn close(self) {
        let Self {
            packets,
            front,
            guards,
            ..
        } = self;
        drop(front);
        let PacketLoop {
            mut pool, ports, ..
        } = packets;
        for port in ports {
            port.close(&mut pool);
        }
        drop(guards);
    }
}

/// The memory that these interfaces need, and their rings.
fn memory(names: &[String; 2], parked: usize) -> io::Result<(PoolConfig, XskConfig)> {
    let (mut queues, mut mtu) = (0, 0);
    for name in names {
        queues += ethtool::receive_queues(name)?;
        mtu = ifreq::mtu(name)?.max(mtu);
    }
    Ok(memory_for(queues, mtu, parked))
}

/// All fill rings can be full and all packets parked that may be, and frames are left for
/// what is on its way out: otherwise the last queue to be opened would receive nothing.
fn memory_for(queues: u32, mtu: u32, parked: usize) -> (PoolConfig, XskConfig) {
    let xsk = XskConfig {
        ring: if queues <= MANY_QUEUES { 2048 } else { 512 },
        ..XskConfig::default()
    };
    let parked = u32::try_from(parked).unwrap_or(u32::MAX);
    let filled = queues.saturating_mul(xsk.ring);
    let pool = PoolConfig {
        frames: filled.saturating_add(parked).saturating_add(IN_HAND),
        frame_size: if mtu <= 1700 { 2048 } else { 4096 },
    };
    (pool, xsk)
}

fn missing(error: impl std::fmt::Display) -> Failure {
    Failure::missing(error, "")
}

/// The interface's own address, which it needs to forward: our ICMP errors come from it.
fn usable(interface: &str) -> Result<Ipv4Addr, Failure> {
    let up = ifreq::is_up(interface).map_err(|error| {
        let help = "`ip link` lists the interfaces; the file names them under [node.NAME]";
        Failure::missing(format!("interface {interface}: {error}"), help)
    })?;
    if !up {
        let help = format!("ip link set {interface} up");
        return Err(Failure::missing(
            format!("interface {interface} is down"),
            help,
        ));
    }
    ifreq::address(interface).map_err(|error| {
        let help = format!("ip address add ADDRESS/PREFIX dev {interface}");
        Failure::missing(
            format!("interface {interface} has no IPv4 address: {error}"),
            help,
        )
    })
}

fn runtime_config(setup: &WorkerSetup, addresses: [Ipv4Addr; 2], mtus: [u32; 2]) -> RuntimeConfig {
    let port = |side: usize| PortConfig {
        address: addresses[side],
        mtu: u16::try_from(mtus[side]).unwrap_or(u16::MAX),
    };
    let hash_key = [
        setup.seed,
        setup.seed.rotate_left(17) ^ 0x5370_a9e5_7a7e_f10e,
    ];
    let mut config = RuntimeConfig::new([port(0), port(1)], hash_key);
    config.mode = match setup.nat.commit {
        Commit::Strict => CommitMode::Strict,
        Commit::ReplyBarrier => CommitMode::ReplyBarrier,
        Commit::Async => CommitMode::Async,
    };
    config.flows_max = setup.nat.flows as usize;
    config.park_max = setup.park.limit;
    config.park_timeout = setup.park.timeout;
    config
}

fn public_prefixes(nat: &config::Nat) -> Vec<Prefix> {
    nat.outside_addresses
        .iter()
        .flat_map(|range| Prefix::cover(range.first, range.last))
        .collect()
}
