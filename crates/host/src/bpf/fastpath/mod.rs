//! `xdp/fastpath.c`: forwards the packets of decided flows, hands the others to the function's
//! AF_XDP sockets, and leaves everything else to the kernel. Its reference is
//! [`stateplane_flow::fast`].
//!
//! [`FastPath`] owns the tables, which the programs of all ports share and which lie in memory
//! that the worker writes ([`Words`]): no entry costs a system call. A [`FastPathProgram`] is the
//! program on one port. With the fast path off in the settings, as it is at first, every packet
//! of the function goes to its sockets.

mod words;

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{DevMap, HashMap, Map, MapError, PerCpuArray, XskMap};
use aya::{Ebpf, EbpfLoader};
use stateplane_flow::PortId;
use stateplane_flow::fast::{COUNTERS, Counters, Tables, layout};

use super::{
    Attachment, BpfError, TestRunMode, TestRunOutcome, attach, load_error, loaded, map_error,
    map_mut, object, test_run, verify,
};
use crate::clock;
use crate::port::Port as _;
use crate::xsk::XskPort;

pub use super::prefix::Prefix;
pub use words::Words;

/// Ports of a function, each with a program of its own.
const PROGRAMS: [&str; 2] = ["fastpath_inside", "fastpath_outside"];
/// Most queues of one interface: what the program's map of sockets has of each port.
const MAX_QUEUES: u32 = 64;
/// The program's own counters, behind those of the reference, and two words of its clock.
const HOST_COUNTERS: usize = 5;
const ALL_COUNTERS: usize = COUNTERS + HOST_COUNTERS + 2;
/// Ticks of the kernel up to which the program's clock may be behind by two of them.
const SHORT_TICK: Duration = Duration::from_millis(5);

/// How many of each there is room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// IPv4 flows: a power of two, eight at least.
    pub flows4: u32,
    /// IPv6 flows: the same.
    pub flows6: u32,
    /// IPv4 routes by destination: a power of two, four at least.
    pub routes4: u32,
    /// IPv6 routes by destination: the same.
    pub routes6: u32,
    /// Next hops, up to 65,280.
    pub hops: u32,
    /// Leases, the unused one included, up to 65,536.
    pub leases: u32,
    /// Tunnels, the unused one included, up to 256.
    pub tunnels: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows4: 1 << 18,
            flows6: 1 << 12,
            routes4: 1 << 14,
            routes6: 1 << 10,
            hops: 1024,
            leases: 1024,
            tunnels: 64,
        }
    }
}

impl Sizes {
    /// As small as it can be: for who has the fast path switched off.
    pub const LEAST: Sizes = Sizes {
        flows4: 8,
        flows6: 8,
        routes4: 4,
        routes6: 4,
        hops: 1,
        leases: 1,
        tunnels: 1,
    };

    /// Why no tables of these sizes can be made.
    fn check(&self) -> Result<(), BpfError> {
        let powers = [
            ("flows4", self.flows4, 8),
            ("flows6", self.flows6, 8),
            ("routes4", self.routes4, 4),
            ("routes6", self.routes6, 4),
        ];
        for (name, size, least) in powers {
            if !size.is_power_of_two() || size < least {
                let text = format!("{name} = {size}: a power of two is needed, {least} at least");
                return Err(BpfError::TooMany(text));
            }
        }
        let limits = [
            ("hops", self.hops, u32::from(layout::HOP_BY_DESTINATION)),
            ("leases", self.leases, 1 << 16),
            ("tunnels", self.tunnels, 1 << 8),
        ];
        for (name, size, most) in limits {
            if size == 0 || size > most {
                return Err(BpfError::TooMany(format!(
                    "{name} = {size}: 1 to {most} fit"
                )));
            }
        }
        Ok(())
    }
}

/// One of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// IPv4 flows.
    Flows4,
    /// IPv6 flows.
    Flows6,
    /// IPv4 routes by destination.
    Routes4,
    /// IPv6 routes by destination.
    Routes6,
    /// Next hops.
    Hops,
    /// Leases.
    Leases,
    /// Tunnels.
    Tunnels,
    /// Settings.
    Settings,
}

impl Part {
    const ALL: [Part; 8] = [
        Part::Flows4,
        Part::Flows6,
        Part::Routes4,
        Part::Routes6,
        Part::Hops,
        Part::Leases,
        Part::Tunnels,
        Part::Settings,
    ];

    const fn map(self) -> &'static str {
        match self {
            Part::Flows4 => "flows4",
            Part::Flows6 => "flows6",
            Part::Routes4 => "routes4",
            Part::Routes6 => "routes6",
            Part::Hops => "hops",
            Part::Leases => "leases",
            Part::Tunnels => "tunnels",
            Part::Settings => "settings",
        }
    }

    /// Values of the map, and words of each: a bucket, or a set of routes, is one value.
    fn shape(self, sizes: &Sizes) -> (u32, usize) {
        let (bucket, ways) = (layout::BUCKET_SLOTS, layout::ROUTE_WAYS);
        match self {
            Part::Flows4 => (sizes.flows4 / bucket as u32, bucket * layout::SLOT4_WORDS),
            Part::Flows6 => (sizes.flows6 / bucket as u32, bucket * layout::SLOT6_WORDS),
            Part::Routes4 => (sizes.routes4 / ways as u32, ways * layout::ROUTE4_WORDS),
            Part::Routes6 => (sizes.routes6 / ways as u32, ways * layout::ROUTE6_WORDS),
            Part::Hops => (sizes.hops, layout::HOP_WORDS),
            Part::Leases => (sizes.leases, layout::LEASE_WORDS),
            Part::Tunnels => (sizes.tunnels, layout::TUNNEL_WORDS),
            Part::Settings => (1, layout::SETTINGS_WORDS),
        }
    }
}

/// What the program has done with a port's frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FastCounters {
    /// Packets forwarded, and left to the function by reason.
    pub fast: Counters,
    /// IP packets given to the function.
    pub function: u64,
    /// Frames left to the kernel.
    pub kernel: u64,
    /// ARP requests given to the function.
    pub arp: u64,
    /// Frames for the function dropped because their queue has no socket.
    pub no_socket: u64,
    /// Packets lost because their next hop names a device that is not there.
    pub no_device: u64,
}

/// The tables, and the programs that use them.
#[derive(Clone, Debug)]
pub struct FastPath {
    ebpf: Arc<Mutex<Ebpf>>,
    words: [Words; Part::ALL.len()],
}

impl FastPath {
    /// Makes tables of these sizes and has the kernel verify the programs.
    pub fn new(sizes: &Sizes) -> Result<Self, BpfError> {
        sizes.check()?;
        let masks = [
            ("flows4_mask", sizes.flows4 - 1),
            ("flows6_mask", sizes.flows6 - 1),
            (
                "routes4_mask",
                sizes.routes4 / layout::ROUTE_WAYS as u32 - 1,
            ),
            (
                "routes6_mask",
                sizes.routes6 / layout::ROUTE_WAYS as u32 - 1,
            ),
        ];
        let short_ticks = u8::from(clock::tick() <= SHORT_TICK);
        let mut loader = EbpfLoader::new();
        loader.override_global("short_ticks", &short_ticks, true);
        for (name, mask) in &masks {
            loader.override_global(name, mask, true);
        }
        for part in Part::ALL {
            loader.map_max_entries(part.map(), part.shape(sizes).0);
        }
        let mut ebpf = loader
            .load(object!("fastpath"))
            .map_err(|error| BpfError::Load {
                program: "fastpath",
                source: error.into(),
            })?;
        for program in PROGRAMS {
            verify(&mut ebpf, program)?;
        }
        let mut words = Vec::with_capacity(Part::ALL.len());
        for part in Part::ALL {
            let (values, each) = part.shape(sizes);
            words.push(map_words(&ebpf, part.map(), values as usize * each)?);
        }
        Ok(Self {
            ebpf: Arc::new(Mutex::new(ebpf)),
            words: words.try_into().expect("one for each part"),
        })
    }

    /// The memory of a table, for its one writer.
    pub fn words(&self, part: Part) -> Words {
        self.words[part as usize].clone()
    }

    /// The memory of all tables, for readers.
    pub fn tables(&self) -> Tables<'_> {
        let part = |part: Part| -> &[_] { &self.words[part as usize] };
        Tables {
            flows4: part(Part::Flows4),
            flows6: part(Part::Flows6),
            hops: part(Part::Hops),
            routes4: part(Part::Routes4),
            routes6: part(Part::Routes6),
            leases: part(Part::Leases),
            tunnels: part(Part::Tunnels),
            settings: part(Part::Settings),
        }
    }

    /// Makes the interface what next hops call `device`, in the calling thread's network
    /// namespace. Ports have their own numbers from the start.
    pub fn set_device(&self, device: u16, ifindex: u32) -> Result<(), BpfError> {
        map_mut!(self.ebpf(), "devices", DevMap<_>)?
            .set(u32::from(device), ifindex, None, 0)
            .map_err(map_error("devices"))
    }

    /// Runs a port's program on a frame of at least 14 bytes, and carries nothing out.
    pub fn try_on(&self, port: PortId, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        let program = program(port)?;
        let ebpf = self.ebpf();
        test_run(loaded(&ebpf, program)?, frame, 1, TestRunMode::Dry).map_err(load_error(program))
    }

    /// What a port's program has done so far.
    pub fn counters(&self, port: PortId) -> Result<FastCounters, BpfError> {
        let ebpf = self.ebpf();
        let map = ebpf.map("counters").expect("the object has the map");
        let failed = map_error::<MapError>;
        let array: PerCpuArray<_, [u64; ALL_COUNTERS]> =
            PerCpuArray::try_from(map).map_err(failed("counters"))?;
        let values = array
            .get(&u32::from(port.0), 0)
            .map_err(failed("counters"))?;
        let mut sums = [0; ALL_COUNTERS];
        for value in values.iter() {
            for (sum, count) in sums.iter_mut().zip(value) {
                *sum = u64::wrapping_add(*sum, *count);
            }
        }
        let mut fast = Counters::default();
        fast.0.copy_from_slice(&sums[..COUNTERS]);
        let [.., function, kernel, arp, no_socket, no_device, _, _] = sums;
        Ok(FastCounters {
            fast,
            function,
            kernel,
            arp,
            no_socket,
            no_device,
        })
    }

    /// Replaces the addresses whose packets stay with the kernel.
    pub fn set_locals(&self, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
        let failed = map_error::<MapError>;
        let mut ebpf = self.ebpf();
        let mut map = map_mut!(ebpf, "locals", HashMap<_, [u8; 4], u8>)?;
        for address in locals {
            map.insert(address.octets(), 1, 0)
                .map_err(failed("locals"))?;
        }
        let old: Vec<[u8; 4]> = map
            .keys()
            .collect::<Result<_, _>>()
            .map_err(failed("locals"))?;
        for address in old {
            if !locals.contains(&Ipv4Addr::from(address)) {
                map.remove(&address).map_err(failed("locals"))?;
            }
        }
        Ok(())
    }

    /// Adds to the addresses that the function owns.
    pub fn add_pool(&self, pool: &[Prefix]) -> Result<(), BpfError> {
        let mut ebpf = self.ebpf();
        let mut trie = map_mut!(ebpf, "pool", LpmTrie<_, [u8; 4], u8>)?;
        for prefix in pool {
            let key = Key::new(u32::from(prefix.length), prefix.address.octets());
            trie.insert(&key, 1, 0)
                .map_err(map_error::<MapError>("pool"))?;
        }
        Ok(())
    }

    fn set_sockets(&self, id: PortId, port: &XskPort) -> Result<(), BpfError> {
        let mut ebpf = self.ebpf();
        let mut sockets = map_mut!(ebpf, "sockets", XskMap<_>)?;
        for (queue, socket) in port.sockets() {
            if queue >= MAX_QUEUES {
                let text = format!("{}: more than {MAX_QUEUES} receive queues", port.name());
                return Err(BpfError::TooMany(text));
            }
            sockets
                .set(u32::from(id.0) * MAX_QUEUES + queue, socket.as_raw_fd(), 0)
                .map_err(map_error::<MapError>("sockets"))?;
        }
        Ok(())
    }

    fn ebpf(&self) -> MutexGuard<'_, Ebpf> {
        // Nothing in there is left half done by a panic.
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program(port: PortId) -> Result<&'static str, BpfError> {
    PROGRAMS.get(usize::from(port.0)).copied().ok_or_else(|| {
        let last = PROGRAMS.len() - 1;
        BpfError::TooMany(format!("port {}: the last port is {last}", port.0))
    })
}

fn map_words(ebpf: &Ebpf, name: &'static str, count: usize) -> Result<Words, BpfError> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        unreachable!("the embedded object has the array {name}");
    };
    Words::map(map.fd().as_fd(), count).map_err(map_error(name))
}

/// The program on one port's interface. Dropping it, or the end of the process, detaches.
#[derive(Debug)]
pub struct FastPathProgram {
    fast_path: FastPath,
    port: PortId,
    attachment: Attachment,
}

impl FastPathProgram {
    /// Attaches the program of `id` to `port`'s interface, and directs the function's packets to
    /// `port`'s sockets. The port's settings are there already.
    ///
    /// `pool` are the addresses the function owns: packets to them, and ARP requests for those
    /// that are not `locals`, always go to the function. `locals` are the machine's own
    /// addresses: packets to them stay with the kernel. Both hold for all ports.
    pub fn attach(
        port: &XskPort,
        fast_path: &FastPath,
        id: PortId,
        pool: &[Prefix],
        locals: &[Ipv4Addr],
    ) -> Result<Self, BpfError> {
        let program = program(id)?;
        fast_path.set_sockets(id, port)?;
        fast_path.set_device(u16::from(id.0), port.ifindex())?;
        fast_path.add_pool(pool)?;
        fast_path.set_locals(locals)?;
        // Attached last, so that no frame meets half a configuration.
        let attachment = attach(verify(&mut fast_path.ebpf(), program)?, port.name())?;
        Ok(Self {
            fast_path: fast_path.clone(),
            port: id,
            attachment,
        })
    }

    /// Replaces the addresses that stay with the kernel, for all ports.
    pub fn set_locals(&mut self, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
        self.fast_path.set_locals(locals)
    }

    /// Where the program is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What it has done so far.
    pub fn counters(&self) -> Result<FastCounters, BpfError> {
        self.fast_path.counters(self.port)
    }
}
