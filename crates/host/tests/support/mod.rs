//! What the tests over real interfaces share.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use stateplane_host::ethtool::{self, Offload};
use stateplane_host::ifreq;
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;

/// Whether real interfaces can be made here. Prints why not.
pub(crate) fn can_make_interfaces() -> bool {
    if is_root() {
        return true;
    }
    println!("skipped: real interfaces and XDP programs need root");
    false
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = u64::from_str_radix(capabilities.unwrap().trim(), 16).unwrap();
    // CAP_NET_ADMIN and CAP_SYS_ADMIN.
    bits >> 12 & 1 == 1 && bits >> 21 & 1 == 1
}

/// One interface of a [`cable`].
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) address: Option<Ipv4Addr>,
}

/// Makes a veth pair between two namespaces, up, with all settings as the kernel
/// chooses them.
pub(crate) fn plain_cable(one: &End<'_>, two: &End<'_>) -> io::Result<()> {
    one.namespace.run(|| {
        let netlink = Netlink::open()?;
        netlink.add_veth(one.name, two.name)?;
        netlink.move_to(two.name, two.namespace.as_fd())
    })?;
    for end in [one, two] {
        end.namespace.run(|| {
            let netlink = Netlink::open()?;
            netlink.set_mac(end.name, end.mac)?;
            if let Some(address) = end.address {
                netlink.add_address(end.name, address, 24)?;
            }
            netlink.set_up("lo")?;
            netlink.set_up(end.name)
        })?;
        end.namespace.set_sysctls(&[("ipv4/ip_forward", "0")])?;
    }
    for end in [one, two] {
        while !end.namespace.run(|| ifreq::is_running(end.name))? {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    Ok(())
}

/// A [`plain_cable`] whose ends leave no checksum and no segmentation to hardware
/// that is not there, and receive what XDP redirects to them.
pub(crate) fn cable(one: &End<'_>, two: &End<'_>) -> io::Result<()> {
    plain_cable(one, two)?;
    for end in [one, two] {
        end.namespace.run(|| {
            for offload in [Offload::Tso, Offload::Gso, Offload::TxChecksum] {
                ethtool::set_offload(end.name, offload, false)?;
            }
            ethtool::set_offload(end.name, Offload::Gro, true)
        })?;
    }
    Ok(())
}

/// A small generator of its own: the same frames on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}
