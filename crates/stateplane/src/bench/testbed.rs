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
/// Many flows come from so many addresses, beginning with this one.
pub(super) const HOSTS: u32 = 1024;
pub(super) const FIRST_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 8, 0);
/// Where a load balancer answers for the sink.
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 80);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(super) const TARGET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// What sources are translated to: room for a million ports that are not shared.
pub(crate) const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
pub(crate) const POOL_PREFIX: u8 = 26;
pub(super) const POOL_RANGE: &str = "198.51.100.1-198.51.100.62";
/// Where frames without a use arrive (RFC 863).
pub(super) const DISCARD: u16 = 9;

const MAC_GENERATOR: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 1];
pub(super) const MAC_INSIDE: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 2];
pub(super) const MAC_OUTSIDE: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 3];
pub(super) const MAC_SINK: [u8; 6] = [0x02, 0x53, 0x50, 0xbe, 0, 4];

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

/// A frame of `bytes`, without the four of the Ethernet checksum, from `source` to the
/// discard port of `destination` by way of the device.
pub(super) fn frame(bytes: u32, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    discarded(bytes, [MAC_INSIDE, MAC_GENERATOR], [source, destination])
}

/// A frame to a discard port. The generator fills checksums in. The first hardware address is
/// the destination's, the second IP address too.
pub(crate) fn discarded(bytes: u32, macs: [[u8; 6]; 2], [from, to]: [Ipv4Addr; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes as usize);
    frame.extend(macs.as_flattened());
    frame.extend([0x08, 0x00]);
    let length = bytes as u16 - 14;
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend([0, 0]);
    frame.extend(DISCARD.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.resize(bytes as usize, 0);
    frame
}
