//! Opening an instance: its interfaces, their programs, and a seat for each worker.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use stateplane_functions::{PortConfig, RuntimeConfig, key_mask};
use stateplane_host::bpf::fastpath::Words;
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::guard::InterfaceGuard;
use stateplane_host::neigh::{Neighbours, Reader};
use stateplane_host::port::Port;
use stateplane_host::xsk::{Share, XskConfig, XskPort};
use stateplane_host::{ethtool, ifreq, priority};
use tracing::info;

use super::fast::Fast;
use super::front::{self, Front, Pair};
use super::missing;
use super::packets::PORTS;
use super::report::{Publication, Slot};
use super::service::{Plan, Service};
use super::team::{Homes, Pulse};
use crate::client::StateClient;
use crate::config;
use crate::failure::Failure;
use crate::function::{FunctionSetup, Question, Work, WorkerSetup, WorkerStatus};
use crate::heartbeat::Heartbeat;
use crate::regions::keeper::Home;
use crate::regions::local::Local;
use crate::stop::Stop;

/// Frames besides those that wait to be filled and those parked: in send rings, or in our
/// hands.
const IN_HAND: u32 = 8192;
/// With more receive queues than this together each gets shorter rings.
const MANY_QUEUES: u32 = 16;

/// What one worker takes to its thread.
pub(super) struct Seat {
    pub(super) status: WorkerStatus,
    pub(super) pool: FramePool,
    pub(super) ports: Pair,
    /// What it runs, from inside to outside.
    pub(super) stages: Vec<(RuntimeConfig, Plan)>,
    pub(super) home: Option<Home>,
    pub(super) local: Option<Local>,
    pub(super) state: StateClient,
    pub(super) reader: Reader,
    pub(super) fast: Option<Fast<Words>>,
    pub(super) questions: Receiver<Question>,
    pub(super) slot: Slot,
    pub(super) pulse: Arc<Pulse>,
    pub(super) homes: Option<Receiver<Home>>,
}

/// What belongs to the instance as a whole, and the first worker looks after.
pub(super) struct Instance {
    pub(super) front: Front,
    pub(super) guards: Vec<InterfaceGuard>,
    pub(super) neighbours: Neighbours,
    pub(super) heartbeat: Heartbeat,
    pub(super) stop: Stop,
}

/// An instance that is ready to start.
pub(super) struct Opened {
    pub(super) instance: Instance,
    pub(super) publication: Publication,
    pub(super) homes: Homes,
    /// The first one's comes first.
    pub(super) seats: Vec<Seat>,
}

/// Memory and ports of one worker.
type Memory = (FramePool, Pair);

impl Opened {
    /// Opens everything: from here on packets come to the workers' sockets.
    pub(super) fn new(setup: FunctionSetup) -> Result<Self, Failure> {
        let names = [
            setup.interfaces.inside.clone(),
            setup.interfaces.outside.clone(),
        ];
        let addresses = [usable(&names[0])?, usable(&names[1])?];
        let count = setup.workers.len();
        enough_queues(&names, count)?;
        processors(&setup.workers)?;
        let guards = names.iter().map(|n| InterfaceGuard::for_raw_frames(n));
        let guards = guards.collect::<Result<Vec<_>, _>>().map_err(missing)?;
        for guard in guards.iter().filter(|g| g.has_changes()) {
            info!("changed until the end of this process: {guard}");
        }
        let neighbours = Neighbours::follow().map_err(missing)?;
        let ports = (0..count).map(|n| open_ports(&names, n, count, setup.park.limit / count));
        let ports = ports.collect::<Result<Vec<Memory>, Failure>>()?;
        let mac = ports[0].1[1].mac();
        let plans = setup.workers.iter();
        let plans = plans.map(|worker| Plan::of(&setup, worker, mac));
        let plans = plans.collect::<Result<Vec<_>, Failure>>()?;
        let addresses_of = front::Addresses {
            pool: setup.work.iter().flat_map(Work::pool).collect(),
            locals: neighbours.local_addresses(),
        };
        let pairs: Vec<&Pair> = ports.iter().map(|(_, pair)| pair).collect();
        // What makes its flows is the same for all workers.
        let functions = plans[0].iter();
        let functions = functions.map(|plan| Service::new(plan.clone(), None));
        let functions: Vec<Service> = functions.collect();
        let masks = PORTS.map(|port| key_mask(&functions, port));
        let meters = setup.work.iter().map(Work::meters).max().unwrap_or(1);
        let (front, fast) = Front::open(&pairs, masks, &addresses_of, setup.fast_path, meters)?;
        let modes = front.modes(&ports[0].1);
        let slots: Vec<Slot> = (0..count).map(|_| Slot::default()).collect();
        let runs = setup.work.iter().map(|work| work.name().to_owned());
        let publication =
            Publication::new(setup.status, runs.collect(), &names, modes, &slots[1..]);
        let (homes, ends) = Homes::new(setup.homes, count - 1);
        let mut ends = std::iter::once(None).chain(ends.into_iter().map(Some));
        let mut seats = Vec::with_capacity(count);
        let parts = setup.workers.into_iter().zip(ports).zip(plans);
        for ((((worker, (pool, ports)), plans), fast), slot) in parts.zip(fast).zip(slots) {
            let limits = Limits {
                park: setup.park,
                workers: count,
                addresses,
                mtus: [ports[0].mtu(), ports[1].mtu()],
                fast_path: fast.is_some(),
            };
            let limits = setup.work.iter().map(|work| limits.of(work, worker.seed));
            seats.push(Seat {
                status: status(&worker, &ports),
                pool,
                ports,
                stages: limits.zip(plans).collect(),
                home: setup.home.clone(),
                local: worker.local,
                state: worker.state,
                reader: neighbours.reader(),
                fast,
                questions: worker.questions,
                slot,
                pulse: Arc::default(),
                homes: ends.next().flatten(),
            });
        }
        let instance = Instance {
            front,
            guards,
            neighbours,
            heartbeat: setup.heartbeat,
            stop: setup.stop,
        };
        Ok(Self {
            instance,
            publication,
            homes,
            seats,
        })
    }
}

/// What does not change of what a worker says of itself.
fn status(worker: &WorkerSetup, ports: &Pair) -> WorkerStatus {
    let queues = |side: usize| ports[side].sockets().map(|(queue, _)| queue).collect();
    WorkerStatus {
        name: worker.name.clone(),
        queues: [queues(0), queues(1)],
        cpu: worker.cpu,
        ..WorkerStatus::default()
    }
}

/// The ports of worker `n` of `count`, on memory of their own: every `count`-th queue.
fn open_ports(
    names: &[String; 2],
    n: usize,
    count: usize,
    parked: usize,
) -> Result<Memory, Failure> {
    let number = |n| u32::try_from(n).expect("a checked instance has few workers");
    let share = Share {
        first: number(n),
        of: number(count),
    };
    let (mut queues, mut mtu) = (0, 0);
    for name in names {
        let all = ethtool::receive_queues(name).map_err(missing)?;
        queues += share.queues(all).count();
        mtu = ifreq::mtu(name).map_err(missing)?.max(mtu);
    }
    let (memory, xsk) = memory_for(number(queues), mtu, parked);
    let xsk = XskConfig { share, ..xsk };
    let mut pool = FramePool::new(memory).map_err(missing)?;
    let inside = XskPort::open(&mut pool, &names[0], &xsk).map_err(missing)?;
    let outside = XskPort::open(&mut pool, &names[1], &xsk).map_err(missing)?;
    Ok((pool, [inside, outside]))
}

/// A worker receives from queues of its own and sends by one.
fn enough_queues(names: &[String; 2], workers: usize) -> Result<(), Failure> {
    for name in names {
        let receive = ethtool::receive_queues(name).map_err(missing)?;
        let send = ethtool::send_queues(name).map_err(missing)?;
        let queues = receive.min(send) as usize;
        if queues < workers {
            let what = format!("interface {name} has {queues} queue(s) for {workers} workers");
            let help = format!(
                "ethtool -L {name} combined {workers} (or rx and tx, on a veth at both of its ends), \
                 or fewer `workers`"
            );
            return Err(Failure::missing(what, help));
        }
    }
    Ok(())
}

/// Processors that are named must be ours to use.
fn processors(workers: &[WorkerSetup]) -> Result<(), Failure> {
    let allowed = priority::allowed_cpus().map_err(Failure::running)?;
    for cpu in workers.iter().filter_map(|worker| worker.cpu) {
        if !allowed.contains(&cpu) {
            let names: Vec<String> = allowed.iter().map(usize::to_string).collect();
            let what = format!("processor {cpu}: this process may not run there");
            let help = format!("here it may use: {}", names.join(", "));
            return Err(Failure::missing(what, help));
        }
    }
    Ok(())
}

/// All fill rings can be full and all packets parked that may be, and frames are left for
/// what is on its way out: otherwise the last queue to be opened would receive nothing.
pub(super) fn memory_for(queues: u32, mtu: u32, parked: usize) -> (PoolConfig, XskConfig) {
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

/// What bounds a worker: its share of what bounds the instance.
struct Limits {
    park: config::Park,
    workers: usize,
    addresses: [Ipv4Addr; 2],
    mtus: [u32; 2],
    fast_path: bool,
}

impl Limits {
    /// What bounds one of its functions.
    fn of(&self, work: &Work, seed: u64) -> RuntimeConfig {
        let port = |side: usize| PortConfig {
            address: self.addresses[side],
            mtu: u16::try_from(self.mtus[side]).unwrap_or(u16::MAX),
        };
        let hash_key = [seed, seed.rotate_left(17) ^ 0x5370_a9e5_7a7e_f10e];
        let mut config = RuntimeConfig::new([port(0), port(1)], hash_key);
        config.mode = work.mode();
        config.flows_max = work.flows().div_ceil(self.workers);
        config.fast_path = self.fast_path;
        config.park_max = (self.park.limit / self.workers).max(1);
        config.park_timeout = self.park.timeout;
        config
    }
}
