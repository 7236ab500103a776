//! The XDP programs in front of an instance's ports, and the tables they share with its workers.

use std::net::Ipv4Addr;

use stateplane_flow::fast::{KeyMask, Seed, Settings};
use stateplane_host::bpf::BpfError;
use stateplane_host::bpf::fastpath::{
    FastCounters, FastPath, Part, PortProgram, Prefix, Programs, Sizes, Words,
};
use stateplane_host::port::{Mac, Port};
use stateplane_host::xsk::XskPort;
use tracing::{info, warn};

use super::fast::{Fast, Link, Parts, settings};
use super::missing;
use super::packets::PORTS;
use crate::config;
use crate::failure::Failure;
use crate::sequencer::random;

/// Next hops: neighbours that packets of known flows go to.
const HOPS: u32 = 1 << 14;
/// Destinations of flows that may go anywhere.
const ROUTES: u32 = 1 << 16;

/// Which addresses are whose.
pub(super) struct Addresses {
    /// The function's.
    pub(super) pool: Vec<Prefix>,
    /// The machine's.
    pub(super) locals: Vec<Ipv4Addr>,
}

/// The programs. Dropping them detaches.
pub(super) struct Front {
    ports: [PortProgram; 2],
    programs: Programs,
    /// Why nothing passes without the worker, if so.
    off: Option<String>,
    _settings: Option<Settings<Words>>,
}

/// The fast path's programs and tables, and the workers' ends of them.
struct Opened {
    path: FastPath,
    settings: Settings<Words>,
    fast: Vec<Fast<Words>>,
}

/// Each worker's hand on the fast path, if there is one.
pub(super) type Hands = Vec<Option<Fast<Words>>>;

/// The ports of one worker.
pub(super) type Pair = [XskPort; 2];

impl Front {
    /// Loads and attaches the programs for all workers' ports; each worker's end of the fast path, if
    /// there is one. `masks`: what of a packet makes its flow, by port. Where the kernel does
    /// not take it, all packets come to the workers.
    pub(super) fn open(
        pairs: &[&Pair],
        masks: [Option<KeyMask>; 2],
        addresses: &Addresses,
        config: config::FastPath,
        meters: u32,
    ) -> Result<(Self, Hands), Failure> {
        let ports = pairs[0];
        let opened = match config.enabled {
            true => open_tables(ports, pairs.len(), masks, config, meters),
            false => Err("the configuration says so".to_owned()),
        };
        let (programs, settings, fast, off) = match opened {
            Ok(Opened {
                path,
                settings,
                fast,
            }) => {
                let fast = fast.into_iter().map(Some).collect();
                (path.programs(), Some(settings), fast, None)
            }
            Err(why) => {
                if config.enabled {
                    warn!("no fast path: all packets take the way through this process: {why}");
                }
                let programs = Programs::punt(stations(ports)).map_err(missing)?;
                // What the kernel's verifier says fills pages.
                let why = why.lines().next().unwrap_or_default().to_owned();
                let none = pairs.iter().map(|_| None).collect();
                (programs, None, none, Some(why))
            }
        };
        for pair in &pairs[1..] {
            for (port, id) in pair.iter().zip(PORTS) {
                programs.set_sockets(id, port).map_err(missing)?;
            }
        }
        let attach = |side: usize| {
            let Addresses { pool, locals } = addresses;
            let (port, id) = (&ports[side], PORTS[side]);
            PortProgram::attach(port, &programs, id, pool, locals, config.mode)
        };
        let front = Self {
            ports: [attach(0).map_err(missing)?, attach(1).map_err(missing)?],
            programs,
            off,
            _settings: settings,
        };
        for (port, mode) in ports.iter().zip(front.modes(ports)) {
            info!("{}: {mode}", port.name());
        }
        Ok((front, fast))
    }

    /// Who forwards on each port, and how the worker gets its packets.
    pub(super) fn modes(&self, ports: &Pair) -> [String; 2] {
        std::array::from_fn(|side| {
            let (xdp, copy) = (self.ports[side].attachment().mode(), ports[side].mode());
            match &self.off {
                None => format!("fast path in XDP {xdp}, others by AF_XDP {copy}"),
                Some(_) => format!("AF_XDP {copy}, behind XDP {xdp}"),
            }
        })
    }

    /// Why there is no fast path, if there is none.
    pub(super) fn off(&self) -> Option<&str> {
        self.off.as_deref()
    }

    /// The machine got or lost an address.
    pub(super) fn set_locals(&self, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
        self.programs.set_locals(locals)
    }

    /// What the programs have done; none where the kernel does not say.
    pub(super) fn counters(&self) -> [Option<FastCounters>; 2] {
        std::array::from_fn(|side| self.ports[side].counters().ok())
    }
}

fn stations(ports: &Pair) -> [Mac; 2] {
    [ports[0].mac(), ports[1].mac()]
}

/// The fast path, or why there cannot be one here.
fn open_tables(
    ports: &Pair,
    workers: usize,
    masks: [Option<KeyMask>; 2],
    config: config::FastPath,
    meters: u32,
) -> Result<Opened, String> {
    let sizes = Sizes {
        flows4: config.flows,
        hops: HOPS,
        routes4: ROUTES,
        meters,
        ..Sizes::default()
    };
    let path = FastPath::new(&sizes).map_err(|error| error.to_string())?;
    // Senders choose keys: nobody may know which ones collide.
    let seed = Seed::new(std::array::from_fn(|_| random()));
    let stations = stations(ports);
    let memory = path.words(Part::Settings);
    let settings = settings(memory, seed, masks, stations).map_err(|error| error.to_string())?;
    let parts = Parts {
        flows: path.words(Part::Flows4),
        extent: settings.extent::<Ipv4Addr>(),
        hops: path.words(Part::Hops),
        routes: path.words(Part::Routes4),
        leases: path.words(Part::Leases),
        meters: path.words(Part::Meters),
    };
    let link = |side: usize| Link {
        mac: stations[side],
        mtu: u16::try_from(ports[side].mtu()).unwrap_or(u16::MAX),
        device: u16::from(PORTS[side].0),
    };
    let fast = Fast::for_each(workers, &parts, seed, [link(0), link(1)]);
    let fast = fast.map_err(|error| error.to_string())?;
    Ok(Opened {
        path,
        settings,
        fast,
    })
}
