//! The XDP programs in front of the worker's ports, and the tables they share with it.

use std::net::Ipv4Addr;

use stateplane_flow::fast::{Seed, Settings};
use stateplane_functions::NetworkFunction;
use stateplane_host::bpf::BpfError;
use stateplane_host::bpf::fastpath::{
    FastCounters, FastPath, FastPathProgram, Part, Prefix, Sizes, Words,
};
use stateplane_host::port::Port;
use stateplane_host::xsk::XskPort;
use tracing::info;

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
    programs: [FastPathProgram; 2],
    path: FastPath,
    /// Whether anything passes without the worker.
    fast: bool,
    _settings: Settings<Words>,
}

impl Front {
    /// Loads and attaches the programs; the worker's end of the fast path, if it is on.
    pub(super) fn open(
        ports: &[XskPort; 2],
        function: &impl NetworkFunction,
        addresses: &Addresses,
        config: config::FastPath,
    ) -> Result<(Self, Option<Fast<Words>>), Failure> {
        let sizes = match config.enabled {
            true => Sizes {
                flows4: config.flows,
                hops: HOPS,
                routes4: ROUTES,
                ..Sizes::default()
            },
            false => Sizes::LEAST,
        };
        let path = FastPath::new(&sizes).map_err(missing)?;
        // Senders choose keys: nobody may know which ones collide.
        let seed = Seed::new(std::array::from_fn(|_| random()));
        let stations = [ports[0].mac(), ports[1].mac()];
        let memory = path.words(Part::Settings);
        let settings =
            settings(memory, seed, function, stations, config.enabled).map_err(missing)?;
        let fast = config.enabled.then(|| {
            let parts = Parts {
                flows: path.words(Part::Flows4),
                hops: path.words(Part::Hops),
                routes: path.words(Part::Routes4),
                leases: path.words(Part::Leases),
            };
            let link = |side: usize| Link {
                mac: stations[side],
                mtu: u16::try_from(ports[side].mtu()).unwrap_or(u16::MAX),
                device: u16::from(PORTS[side].0),
            };
            Fast::new(parts, seed, [link(0), link(1)])
        });
        let fast = fast.transpose().map_err(missing)?;
        let attach = |side: usize| {
            let Addresses { pool, locals } = addresses;
            FastPathProgram::attach(&ports[side], &path, PORTS[side], pool, locals)
        };
        let programs = [attach(0).map_err(missing)?, attach(1).map_err(missing)?];
        let front = Self {
            programs,
            path,
            fast: config.enabled,
            _settings: settings,
        };
        for (port, mode) in ports.iter().zip(front.modes(ports)) {
            info!("{}: {mode}", port.name());
        }
        Ok((front, fast))
    }

    /// Who forwards on each port, and how the worker gets its packets.
    pub(super) fn modes(&self, ports: &[XskPort; 2]) -> [String; 2] {
        std::array::from_fn(|side| {
            let (xdp, copy) = (self.programs[side].attachment().mode(), ports[side].mode());
            match self.fast {
                true => format!("fast path in XDP {xdp}, others by AF_XDP {copy}"),
                false => format!("AF_XDP {copy}, behind XDP {xdp}"),
            }
        })
    }

    /// The machine got or lost an address.
    pub(super) fn set_locals(&self, locals: &[Ipv4Addr]) -> Result<(), BpfError> {
        self.path.set_locals(locals)
    }

    /// What the programs have done; none where the kernel does not say.
    pub(super) fn counters(&self) -> [Option<FastCounters>; 2] {
        std::array::from_fn(|side| self.programs[side].counters().ok())
    }
}
