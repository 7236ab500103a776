//! `xdp/steering.c`: the switch. Its rules are those of
//! [`stateplane_flow::steering`], the reference both are tested against.

use aya::Ebpf;
use aya::maps::{Array, DevMap, HashMap, MapError};
use stateplane_flow::steering::{BUCKETS, NOBODY, Side, Table};

use super::{
    Attachment, BpfError, TestRunMode, attach, counters, load, load_error, loaded, map_error,
    map_mut, object, test_run, verify,
};
use crate::ifreq;

/// Most host ports of one side.
const MAX_HOSTS: u32 = 64;

/// Where in the maps of all ports of a side the host ports begin.
const HOSTS_BEGIN: u32 = 256;

/// What is connected to a port of the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Hosts, or the network that leads to them.
    Host,
    /// An instance, by its number in the [`Table`].
    Instance(u8),
}

/// A port of the switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchPort {
    /// The interface's name.
    pub interface: String,
    /// Which side of the functions it is on.
    pub side: Side,
    /// What is connected.
    pub role: Role,
}

/// What the switch has done with frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SteeringCounters {
    /// Sent to the instance that owns their bucket.
    pub steered: u64,
    /// ARP sent to all ports of a side.
    pub flooded: u64,
    /// Sent to hosts.
    pub to_host: u64,
    /// Left to the switch's kernel.
    pub passed: u64,
    /// Dropped as malformed.
    pub malformed: u64,
    /// Dropped because no instance owns their bucket.
    pub nobody: u64,
    /// Dropped because the redirect failed: no such instance or host port.
    pub failed: u64,
    /// Dropped because sender and receiver are behind the same port.
    pub filtered: u64,
}

/// A running switch. Dropping it, or the end of the process, stops it.
#[derive(Debug)]
pub struct Steering {
    ebpf: Ebpf,
    attachments: Vec<Attachment>,
    active: u32,
}

impl Steering {
    /// Attaches the switch to all of `ports`. Until [`Steering::set_table`] it steers
    /// to nobody.
    pub fn new(ports: &[SwitchPort]) -> Result<Self, BpfError> {
        let mut ebpf = load("steering", object!("steering"))?;
        let mut hosts = [0u32; 2];
        for port in ports {
            configure(&mut ebpf, port, &mut hosts)?;
        }
        for (side, count) in (0..).zip(hosts) {
            map_mut!(ebpf, "host_count", Array<_, u32>)?
                .set(side, count, 0)
                .map_err(map_error::<MapError>("host_count"))?;
        }
        let mut steering = Self {
            ebpf,
            attachments: Vec::new(),
            active: 0,
        };
        steering.set_table(&Table {
            inside: [NOBODY; BUCKETS],
            outside: [NOBODY; BUCKETS],
        })?;
        let xdp = verify(&mut steering.ebpf, "steering")?;
        for port in ports {
            steering.attachments.push(attach(xdp, &port.interface)?);
        }
        Ok(steering)
    }

    /// Makes `table` the one in use, for every frame that arrives from now on: two
    /// system calls, whatever the difference.
    pub fn set_table(&mut self, table: &Table) -> Result<(), BpfError> {
        let mut owners = [0u8; 2 * BUCKETS];
        owners[..BUCKETS].copy_from_slice(&table.inside);
        owners[BUCKETS..].copy_from_slice(&table.outside);
        let next = 1 - self.active;
        map_mut!(self.ebpf, "tables", Array<_, [u8; 2 * BUCKETS]>)?
            .set(next, owners, 0)
            .map_err(map_error::<MapError>("tables"))?;
        map_mut!(self.ebpf, "active", Array<_, u32>)?
            .set(0, next, 0)
            .map_err(map_error::<MapError>("active"))?;
        self.active = next;
        Ok(())
    }

    /// Where it is attached, in the order of the ports.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// What it has done so far.
    pub fn counters(&self) -> Result<SteeringCounters, BpfError> {
        let [
            steered,
            flooded,
            to_host,
            passed,
            malformed,
            nobody,
            failed,
            filtered,
        ] = counters(&self.ebpf)?;
        Ok(SteeringCounters {
            steered,
            flooded,
            to_host,
            passed,
            malformed,
            nobody,
            failed,
            filtered,
        })
    }
}

/// Enters a port into the maps; `hosts` counts the host ports of each side.
fn configure(ebpf: &mut Ebpf, port: &SwitchPort, hosts: &mut [u32; 2]) -> Result<(), BpfError> {
    let interface = &port.interface;
    let ifindex = ifreq::index(interface).map_err(|source| BpfError::Interface {
        interface: interface.clone(),
        source,
    })?;
    let (side, instances, host_ports, all) = match port.side {
        Side::Inside => (0u8, "inside_instances", "inside_hosts", "inside_all"),
        Side::Outside => (1u8, "outside_instances", "outside_hosts", "outside_all"),
    };
    let (role, index) = match port.role {
        Role::Instance(NOBODY) => {
            let text = format!("{interface}: instances are numbered 0 to {}", NOBODY - 1);
            return Err(BpfError::TooMany(text));
        }
        Role::Instance(index) => {
            set_device(ebpf, instances, u32::from(index), ifindex)?;
            set_device(ebpf, all, u32::from(index), ifindex)?;
            (1u8, index)
        }
        Role::Host => {
            let count = &mut hosts[usize::from(side)];
            let index = *count;
            if index >= MAX_HOSTS {
                let text = format!("{interface}: more than {MAX_HOSTS} host ports on one side");
                return Err(BpfError::TooMany(text));
            }
            *count += 1;
            set_device(ebpf, host_ports, index, ifindex)?;
            set_device(ebpf, all, HOSTS_BEGIN + index, ifindex)?;
            (0u8, index as u8)
        }
    };
    map_mut!(ebpf, "roles", HashMap<_, u32, [u8; 4]>)?
        .insert(ifindex, [side, role, index, 0], 0)
        .map_err(map_error::<MapError>("roles"))
}

fn set_device(
    ebpf: &mut Ebpf,
    map: &'static str,
    index: u32,
    ifindex: u32,
) -> Result<(), BpfError> {
    map_mut!(ebpf, map, DevMap<_>)?
        .set(index, ifindex, None, 0)
        .map_err(map_error(map))
}

/// The program's bare decisions, for comparison with the reference core.
#[derive(Debug)]
pub struct SteeringProbe {
    ebpf: Ebpf,
}

impl SteeringProbe {
    /// Loads the decision of both sides, attached to nothing.
    pub fn load() -> Result<Self, BpfError> {
        let mut ebpf = load("steering", object!("steering"))?;
        verify(&mut ebpf, "probe_inside")?;
        verify(&mut ebpf, "probe_outside")?;
        Ok(Self { ebpf })
    }

    /// What the program decides about a frame of at least 14 bytes, as a
    /// [`Steer::code`](stateplane_flow::steering::Steer::code).
    pub fn decide(&self, frame: &[u8], side: Side) -> Result<u32, BpfError> {
        let name = match side {
            Side::Inside => "probe_inside",
            Side::Outside => "probe_outside",
        };
        let outcome = test_run(loaded(&self.ebpf, name)?, frame, 1, TestRunMode::Dry)
            .map_err(load_error(name))?;
        Ok(outcome.action)
    }
}
