//! The programs of a function's ports, whichever they are: what both objects have alike.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{DevMap, HashMap, MapError, PerCpuArray, XskMap};
use aya::{Ebpf, EbpfLoader};
use stateplane_flow::PortId;
use stateplane_flow::fast::{COUNTERS, Counters};

use super::super::{
    AttachAs, Attachment, BpfError, TestRunMode, TestRunOutcome, attach_as, load_error, loaded,
    map_error, map_mut, object, test_run, verify,
};
use super::Prefix;
use crate::busy;
use crate::port::{Mac, Port as _};
use crate::xsk::XskPort;

/// Most queues of one interface: what the map of sockets has of each port.
const MAX_QUEUES: u32 = 64;
/// Counters behind those of the fast path's reference, and two words of its clock.
const HOST_COUNTERS: usize = 5;
const ALL_COUNTERS: usize = COUNTERS + HOST_COUNTERS + 2;
/// Those that hand everything over.
const PUNT: [&str; 2] = ["punt_inside", "punt_outside"];

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

/// The programs of a function's ports, and what they know of addresses and sockets.
#[derive(Clone, Debug)]
pub struct Programs {
    ebpf: Arc<Mutex<Ebpf>>,
    names: [&'static str; 2],
}

impl Programs {
    pub(super) fn new(ebpf: Ebpf, names: [&'static str; 2]) -> Self {
        Self {
            ebpf: Arc::new(Mutex::new(ebpf)),
            names,
        }
    }

    /// Programs that hand all of the function's packets to its sockets, for ports with these
    /// hardware addresses.
    pub fn punt(stations: [Mac; 2]) -> Result<Self, BpfError> {
        let words =
            stations.map(|Mac([a, b, c, d, e, f])| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]));
        let mut ebpf = EbpfLoader::new()
            .override_global("stations", &words, true)
            .load(object!("punt"))
            .map_err(|error| BpfError::Load {
                program: "punt",
                source: error.into(),
            })?;
        for program in PUNT {
            verify(&mut ebpf, program)?;
        }
        Ok(Self::new(ebpf, PUNT))
    }

    /// Runs a port's program on a frame of at least 14 bytes, and carries nothing out.
    pub fn try_on(&self, port: PortId, frame: &[u8]) -> Result<TestRunOutcome, BpfError> {
        let program = self.program(port)?;
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

    /// Directs packets that arrive at `port`'s queues to its sockets. [`PortProgram::attach`] does so
    /// for the port it is given; others may have other queues of that interface.
    pub fn set_sockets(&self, id: PortId, port: &XskPort) -> Result<(), BpfError> {
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

    pub(super) fn ebpf(&self) -> MutexGuard<'_, Ebpf> {
        // Nothing in there is left half done by a panic.
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn program(&self, port: PortId) -> Result<&'static str, BpfError> {
        let found = self.names.get(usize::from(port.0)).copied();
        found.ok_or_else(|| {
            let last = self.names.len() - 1;
            BpfError::TooMany(format!("port {}: the last port is {last}", port.0))
        })
    }

    /// Makes the interface that of its port, if packets leave by it without the function.
    fn set_port(&self, id: PortId, port: &XskPort) -> Result<(), BpfError> {
        let mut ebpf = self.ebpf();
        if ebpf.map("devices").is_none() {
            return Ok(());
        }
        map_mut!(ebpf, "devices", DevMap<_>)?
            .set(u32::from(id.0), port.ifindex(), None, 0)
            .map_err(map_error("devices"))
    }
}

/// The program on one port's interface. Dropping it, or the end of the process, detaches.
#[derive(Debug)]
pub struct PortProgram {
    programs: Programs,
    port: PortId,
    attachment: Attachment,
}

impl PortProgram {
    /// Attaches the program of `id` to `port`'s interface, and directs the function's packets to
    /// `port`'s sockets. The port's settings are there already.
    ///
    /// `pool` are the addresses the function owns: packets to them, and ARP requests for those
    /// that are not `locals`, always go to the function. `locals` are the machine's own
    /// addresses: packets to them stay with the kernel. Both hold for all ports. `how`: where in
    /// the kernel it is to run.
    pub fn attach(
        port: &XskPort,
        programs: &Programs,
        id: PortId,
        pool: &[Prefix],
        locals: &[Ipv4Addr],
        how: AttachAs,
    ) -> Result<Self, BpfError> {
        let program = programs.program(id)?;
        programs.set_sockets(id, port)?;
        programs.set_port(id, port)?;
        programs.add_pool(pool)?;
        programs.set_locals(locals)?;
        // Attached last, so that no frame meets half a configuration.
        let mut ebpf = programs.ebpf();
        let program = verify(&mut ebpf, program)?;
        let attachment = busy::wait_while(
            format_args!("{}: XDP", port.name()),
            busy::PATIENCE,
            BpfError::is_busy,
            || attach_as(program, port.name(), how),
        )?;
        drop(ebpf);
        Ok(Self {
            programs: programs.clone(),
            port: id,
            attachment,
        })
    }

    /// Replaces the addresses that stay with the kernel, for all ports.
    pub fn set_locals(&mut self, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
        self.programs.set_locals(locals)
    }

    /// Where the program is attached.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What it has done so far.
    pub fn counters(&self) -> Result<FastCounters, BpfError> {
        self.programs.counters(self.port)
    }
}
