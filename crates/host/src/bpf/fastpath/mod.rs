//! `xdp/fastpath.c`: forwards the packets of decided flows, hands the others to the function's
//! AF_XDP sockets, and leaves everything else to the kernel. Its reference is
//! [`stateplane_flow::fast`].
//!
//! [`FastPath`] owns the tables, which the programs of all ports share and which lie in memory
//! that the worker writes ([`Words`]): no entry costs a system call. With the fast path off in the
//! settings, as it is at first, every packet of the function goes to its sockets.
//!
//! Where the kernel takes no such program, or none is wanted, `xdp/punt.c` hands all of the
//! function's packets to its sockets. Both are [`Programs`]; a [`PortProgram`] is that on one port.

mod programs;
mod words;

use std::ops::Deref;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::maps::{DevMap, Map};
use aya::{Ebpf, EbpfLoader};
use stateplane_flow::fast::{Tables, layout};

use super::{BpfError, map_error, map_mut, object, verify};
use crate::clock;

pub use super::prefix::Prefix;
pub use programs::{FastCounters, PortProgram, Programs};
pub use words::Words;

/// Of a function's ports.
const PROGRAMS: [&str; 2] = ["fastpath_inside", "fastpath_outside"];
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
    /// Meters.
    pub meters: u32,
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
            meters: 1,
            tunnels: 64,
        }
    }
}

impl Sizes {
    /// As small as it can be.
    pub const LEAST: Sizes = Sizes {
        flows4: 8,
        flows6: 8,
        routes4: 4,
        routes6: 4,
        hops: 1,
        leases: 1,
        meters: 1,
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
            ("meters", self.meters, 1 << 24),
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
    /// Meters.
    Meters,
    /// Tunnels.
    Tunnels,
    /// Settings.
    Settings,
}

impl Part {
    const ALL: [Part; 9] = [
        Part::Flows4,
        Part::Flows6,
        Part::Routes4,
        Part::Routes6,
        Part::Hops,
        Part::Leases,
        Part::Meters,
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
            Part::Meters => "meters",
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
            Part::Meters => (sizes.meters, layout::METER_WORDS),
            Part::Tunnels => (sizes.tunnels, layout::TUNNEL_WORDS),
            Part::Settings => (1, layout::SETTINGS_WORDS),
        }
    }
}

/// The tables, and the programs that use them.
#[derive(Clone, Debug)]
pub struct FastPath {
    programs: Programs,
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
            programs: Programs::new(ebpf, PROGRAMS),
            words: words.try_into().expect("one for each part"),
        })
    }

    /// The programs by themselves; the tables last as long as they do.
    pub fn programs(&self) -> Programs {
        self.programs.clone()
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
            meters: part(Part::Meters),
            tunnels: part(Part::Tunnels),
            settings: part(Part::Settings),
        }
    }

    /// Makes the interface what next hops call `device`, in the calling thread's network
    /// namespace. Ports have their own numbers from the start.
    pub fn set_device(&self, device: u16, ifindex: u32) -> Result<(), BpfError> {
        map_mut!(self.programs.ebpf(), "devices", DevMap<_>)?
            .set(u32::from(device), ifindex, None, 0)
            .map_err(map_error("devices"))
    }
}

impl Deref for FastPath {
    type Target = Programs;

    fn deref(&self) -> &Programs {
        &self.programs
    }
}

fn map_words(ebpf: &Ebpf, name: &'static str, count: usize) -> Result<Words, BpfError> {
    let Some(Map::Array(map)) = ebpf.map(name) else {
        unreachable!("the embedded object has the array {name}");
    };
    Words::map(map.fd().as_fd(), count).map_err(map_error(name))
}
