//! A network for a group whose sequencer may be a program on an interface: a namespace for each
//! node, joined by veth with the sequencer's, which forwards everything else between them.
//!
//! ```text
//!   load e1 ──── l1 [ sequencer ] l2 ──── e2 replica 1, l3 ── replica 2, l4 ── replica 3
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;

/// Where requests arrive at the sequencer.
pub(super) const ARRIVES: &str = "l1";
const PORT: u16 = 7500;

/// The sequencer, the load, and as many replicas as a group has.
const NODES: u8 = 5;

/// The namespaces. Dropping them removes everything in them.
pub(super) struct Network {
    spaces: Vec<Namespace>,
}

/// A node's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    Sequencer,
    Load,
    /// Counted from 1.
    Replica(u8),
}

impl At {
    const fn number(self) -> u8 {
        match self {
            Self::Sequencer => 0,
            Self::Load => 1,
            Self::Replica(n) => 1 + n,
        }
    }

    /// Where it hears.
    pub(super) fn address(self) -> SocketAddrV4 {
        let ip = match self.number() {
            0 => gateway(1),
            n => Ipv4Addr::new(10, 79, n, 2),
        };
        SocketAddrV4::new(ip, PORT)
    }
}

const fn gateway(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, node, 1)
}

impl Network {
    pub(super) fn build() -> io::Result<Self> {
        let spaces: io::Result<Vec<_>> = (0..NODES)
            .map(|n| Namespace::create(&format!("bench{n}")))
            .collect();
        let network = Self { spaces: spaces? };
        network.spaces[0].set_sysctls(&[("ipv4/ip_forward", "1")])?;
        (1..NODES).try_for_each(|node| network.wire(node))?;
        Ok(network)
    }

    fn wire(&self, node: u8) -> io::Result<()> {
        let (link, end) = (format!("l{node}"), format!("e{node}"));
        let space = &self.spaces[usize::from(node)];
        let (far, there) = (space.try_clone()?, end.clone());
        self.spaces[0].run(move || {
            let netlink = Netlink::open()?;
            netlink.add_veth(&link, &end)?;
            netlink.move_to(&end, far.as_fd())?;
            netlink.add_address(&link, gateway(node), 24)?;
            netlink.set_up(&link)?;
            ethtool::set_offload(&link, Offload::TxChecksum, false)
        })?;
        space.run(move || {
            let netlink = Netlink::open()?;
            netlink.add_address(&there, Ipv4Addr::new(10, 79, node, 2), 24)?;
            netlink.set_up("lo")?;
            netlink.set_up(&there)?;
            ethtool::set_offload(&there, Offload::TxChecksum, false)?;
            // Redirected frames are received only by a device that polls.
            ethtool::set_offload(&there, Offload::Gro, true)?;
            netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, gateway(node))
        })
    }

    /// The namespace of a node.
    pub(super) fn space(&self, at: At) -> &Namespace {
        &self.spaces[usize::from(at.number())]
    }
}
