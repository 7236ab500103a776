//! What stands between generator and sink.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use stateplane_host::bpf::bench::{Expected, PORT_FIRST};
use stateplane_host::bpf::limits::{Limit, LimitFlow, LimitHop, LimitProgram};
use stateplane_host::ifreq;
use stateplane_host::port::Mac;

use super::l2fwd::L2fwd;
use super::node::Node;
use super::{Part, rules};
use crate::bench::testbed::{
    DISCARD, FIRST_HOST, HOSTS, MAC_INSIDE, MAC_OUTSIDE, MAC_SINK, POOL, POOL_PREFIX, SERVICE,
    TARGET, Testbed,
};

/// The devices, in the order they are reported in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(super) enum Device {
    /// None: the sink is at the end of the first cable. What generator and cable cost.
    Wire,
    KernelForwarding,
    NftablesSnat,
    NftablesFirewall,
    Ipvs,
    XdpRedirect,
    XdpLookup,
    XdpNat,
    AfxdpL2fwd,
    StateplaneSlow,
    StateplaneFast,
}

/// A device at work. It ends when dropped.
pub(super) enum Running {
    /// In the kernel of the device's namespace, as long as that lives.
    Kernel,
    Limit {
        _program: Box<LimitProgram>,
    },
    L2fwd(L2fwd),
    Node(Node),
}

impl Device {
    pub(super) const ALL: [Device; 11] = [
        Device::Wire,
        Device::KernelForwarding,
        Device::NftablesSnat,
        Device::NftablesFirewall,
        Device::Ipvs,
        Device::XdpRedirect,
        Device::XdpLookup,
        Device::XdpNat,
        Device::AfxdpL2fwd,
        Device::StateplaneSlow,
        Device::StateplaneFast,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::KernelForwarding => "kernel-forwarding",
            Self::NftablesSnat => "nftables-snat",
            Self::NftablesFirewall => "nftables-firewall",
            Self::Ipvs => "ipvs",
            Self::XdpRedirect => "xdp-redirect",
            Self::XdpLookup => "xdp-lookup",
            Self::XdpNat => "xdp-nat",
            Self::AfxdpL2fwd => "afxdp-l2fwd",
            Self::StateplaneSlow => "stateplane-slow",
            Self::StateplaneFast => "stateplane-fast",
        }
    }

    /// Whether a part is about it.
    pub(super) const fn takes_part(self, part: Part) -> bool {
        match part {
            Part::Inline | Part::Cross | Part::Latency => true,
            Part::NewFlows => matches!(
                self,
                Self::NftablesSnat | Self::StateplaneSlow | Self::StateplaneFast
            ),
            Part::Tcp | Part::Http => matches!(
                self,
                Self::KernelForwarding
                    | Self::NftablesSnat
                    | Self::NftablesFirewall
                    | Self::StateplaneSlow
                    | Self::StateplaneFast
            ),
        }
    }

    /// Whether packets wait for a process to have its turn.
    pub(super) const fn is_in_user_space(self) -> bool {
        matches!(self, Self::AfxdpL2fwd | Self::StateplaneSlow)
    }

    /// Whom the generator sends to.
    pub(super) const fn destination(self) -> Ipv4Addr {
        match self {
            Self::Ipvs => SERVICE,
            _ => TARGET,
        }
    }

    /// What must arrive of its frames.
    pub(super) const fn expected(self) -> Expected {
        let (source, source_prefix) = match self {
            Self::NftablesSnat | Self::XdpNat | Self::StateplaneSlow | Self::StateplaneFast => {
                (POOL, POOL_PREFIX)
            }
            _ => (FIRST_HOST, 32 - HOSTS.ilog2() as u8),
        };
        let mac = match self {
            // These leave the frame's addresses alone.
            Self::Wire | Self::XdpRedirect | Self::XdpLookup => MAC_INSIDE,
            _ => MAC_SINK,
        };
        Expected {
            source,
            source_prefix,
            destination: TARGET,
            mac,
        }
    }

    /// The sink's interface, and whether it is the device's own.
    pub(super) const fn sink(self) -> (&'static str, bool) {
        match self {
            Self::Wire => ("lan0", true),
            _ => ("s0", false),
        }
    }

    /// Why it cannot be measured on this machine, if so.
    pub(super) fn missing(self, bed: &Testbed) -> Result<Option<String>> {
        match self {
            Self::NftablesSnat | Self::NftablesFirewall => rules::check_nft().map(|()| None),
            Self::Ipvs => rules::missing_ipvs(bed),
            _ => Ok(None),
        }
    }

    /// Makes the test bed's middle namespace such a device, for so many flows.
    pub(super) fn start(self, bed: &Testbed, dir: &Path, flows: u32) -> Result<Running> {
        match self {
            Self::Wire => Ok(Running::Kernel),
            Self::KernelForwarding => rules::forward(bed).map(|()| Running::Kernel),
            Self::NftablesSnat => rules::snat(bed, dir).map(|()| Running::Kernel),
            Self::NftablesFirewall => rules::firewall(bed, dir).map(|()| Running::Kernel),
            Self::Ipvs => rules::balance(bed).map(|()| Running::Kernel),
            Self::XdpRedirect => limit(Limit::Redirect, bed, flows),
            Self::XdpLookup => limit(Limit::Lookup, bed, flows),
            Self::XdpNat => limit(Limit::Nat, bed, flows),
            Self::AfxdpL2fwd => L2fwd::start(bed).map(Running::L2fwd),
            Self::StateplaneSlow => Node::alone(bed, dir, false, flows).map(Running::Node),
            Self::StateplaneFast => Node::alone(bed, dir, true, flows).map(Running::Node),
        }
    }
}

impl Running {
    /// All that works for it in user space works on `cpu` from now on.
    pub(super) fn pin(&self, cpu: usize) -> Result<()> {
        match self {
            Self::Kernel | Self::Limit { .. } => Ok(()),
            Self::L2fwd(thread) => thread.pin(cpu),
            Self::Node(node) => node.pin(cpu),
        }
    }

    /// Processor time it has used in user space and on its behalf.
    pub(super) fn run_time(&self) -> Result<Duration> {
        match self {
            Self::Kernel | Self::Limit { .. } => Ok(Duration::ZERO),
            Self::L2fwd(thread) => thread.run_time(),
            Self::Node(node) => node.run_time(),
        }
    }

    /// Ends it; an error if it had ended by itself.
    pub(super) fn stop(self, dir: &Path) -> Result<()> {
        match self {
            Self::Kernel | Self::Limit { .. } => Ok(()),
            Self::L2fwd(thread) => thread.stop(),
            Self::Node(node) => node.stop(dir),
        }
    }
}

/// The generator's flows, as a limit program is to know them.
fn limit(limit: Limit, bed: &Testbed, flows: u32) -> Result<Running> {
    let known = if limit == Limit::Redirect { 0 } else { flows };
    let bits = HOSTS.ilog2();
    let flow = move |n: u32| LimitFlow {
        protocol: 17,
        source: SocketAddrV4::new(
            Ipv4Addr::from(FIRST_HOST.to_bits() | (n & (HOSTS - 1))),
            PORT_FIRST + (n >> bits) as u16,
        ),
        destination: SocketAddrV4::new(TARGET, DISCARD),
        replacement: SocketAddrV4::new(
            Ipv4Addr::from(POOL.to_bits() | (1 + n % 62)),
            1024 + (n / 62) as u16,
        ),
    };
    if known / 62 > u32::from(u16::MAX) - 1024 {
        bail!("{known} flows do not fit into the addresses that they are translated to");
    }
    let program = bed.device.run(|| {
        let hop = LimitHop {
            ifindex: ifreq::index("wan0")?,
            source: Mac(MAC_OUTSIDE),
            destination: Mac(MAC_SINK),
        };
        LimitProgram::attach(limit, "lan0", hop, (0..known).map(flow)).map_err(io::Error::other)
    });
    let program = program.context("a limit program")?;
    Ok(Running::Limit {
        _program: Box::new(program),
    })
}
