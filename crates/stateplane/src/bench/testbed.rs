//! Three namespaces in a row: generator, device under test, sink.
//!
//! ```text
//!   generator g0 ──── lan0 device wan0 ──── s0 sink
//!   10.0.0.2       10.0.0.1    203.0.113.1   203.0.113.2
//! ```
//! Neighbours are fixed, so that no ARP disturbs a measurement.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;

pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const TARGET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
const POOL_PREFIX: u8 = 27;

const MAC_GENERATOR: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 1];
const MAC_INSIDE: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 2];
const MAC_OUTSIDE: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 3];
const MAC_SINK: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 4];

/// The namespaces. Dropping them removes everything in them.
pub(super) struct Testbed {
    pub(super) generator: Namespace,
    pub(super) device: Namespace,
    pub(super) sink: Namespace,
}

impl Testbed {
    pub(super) fn build() -> io::Result<Self> {
        let bed = Self {
            generator: Namespace::create("generator")?,
            device: Namespace::create("device")?,
            sink: Namespace::create("sink")?,
        };
        for namespace in [&bed.generator, &bed.device, &bed.sink] {
            namespace.set_sysctls(&[("ipv6/conf/all/disable_ipv6", "1")])?;
        }
        bed.wire()?;
        bed.address_hosts()?;
        Ok(bed)
    }

    fn wire(&self) -> io::Result<()> {
        let (generator, sink) = (self.generator.try_clone()?, self.sink.try_clone()?);
        self.device.run(move || {
            let netlink = Netlink::open()?;
            netlink.add_veth("lan0", "g0")?;
            netlink.add_veth("wan0", "s0")?;
            netlink.set_mac("lan0", MAC_INSIDE)?;
            netlink.set_mac("wan0", MAC_OUTSIDE)?;
            netlink.move_to("g0", generator.as_fd())?;
            netlink.move_to("s0", sink.as_fd())?;
            for (name, address, prefix) in [("lan0", INSIDE, 16), ("wan0", OUTSIDE, 24)] {
                netlink.add_address(name, address, prefix)?;
                netlink.set_up(name)?;
                // Redirected frames are received only by a device that polls.
                ethtool::set_offload(name, Offload::Gro, true)?;
            }
            netlink.add_neighbour("lan0", SOURCE, MAC_GENERATOR)?;
            netlink.add_neighbour("wan0", TARGET, MAC_SINK)
        })
    }

    fn address_hosts(&self) -> io::Result<()> {
        self.generator.run(|| {
            let netlink = Netlink::open()?;
            end_host(&netlink, "g0", MAC_GENERATOR, (SOURCE, 16))?;
            netlink.add_neighbour("g0", INSIDE, MAC_INSIDE)?;
            netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, INSIDE)
        })?;
        self.sink.run(|| {
            let netlink = Netlink::open()?;
            end_host(&netlink, "s0", MAC_SINK, (TARGET, 24))?;
            netlink.add_neighbour("s0", OUTSIDE, MAC_OUTSIDE)?;
            netlink.add_route(POOL, POOL_PREFIX, OUTSIDE)?;
            netlink.add_route(Ipv4Addr::new(10, 0, 0, 0), 16, OUTSIDE)
        })
    }
}

/// An end host hands whole checksums to the wire, as a real link would deliver them.
fn end_host(
    netlink: &Netlink,
    name: &str,
    mac: [u8; 6],
    (address, prefix): (Ipv4Addr, u8),
) -> io::Result<()> {
    netlink.set_mac(name, mac)?;
    netlink.add_address(name, address, prefix)?;
    netlink.set_up(name)?;
    ethtool::set_offload(name, Offload::TxChecksum, false)?;
    ethtool::set_offload(name, Offload::Gro, true)
}

/// From the generator to the sink.
pub(super) fn frame() -> Vec<u8> {
    discarded([MAC_INSIDE, MAC_GENERATOR], [SOURCE, TARGET])
}

/// A 64-byte frame (60 without the Ethernet checksum) to a discard port, with a UDP checksum
/// of 0: not computed (RFC 768). The first hardware address is the destination's, the second IP
/// address too.
pub(crate) fn discarded(macs: [[u8; 6]; 2], [from, to]: [Ipv4Addr; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend(macs.as_flattened());
    frame.extend([0x08, 0x00]);
    let length = 60 - 14u16;
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let checksum = stateplane_wire::checksum::internet(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ip);
    frame.extend(10_000u16.to_be_bytes());
    frame.extend(9u16.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.resize(60, 0);
    frame
}
