//! What the tests over real interfaces share.

use std::io;
use std::net::Ipv4Addr;

use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;

/// Whether real interfaces can be made here. Prints why not.
pub(crate) fn can_make_interfaces() -> bool {
    match Namespace::create("probe") {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: making a network namespace needs root: {error}");
            false
        }
    }
}

/// One interface of a [`cable`].
pub(crate) struct End<'a> {
    pub namespace: &'a Namespace,
    pub name: &'a str,
    pub mac: [u8; 6],
    pub address: Option<Ipv4Addr>,
}

/// Connects two namespaces by a veth pair whose ends leave no checksum and no
/// segmentation to hardware that is not there.
pub(crate) fn cable(one: &End<'_>, two: &End<'_>) -> io::Result<()> {
    let (name, peer) = (one.name.to_owned(), two.name.to_owned());
    let other = two.namespace.try_clone()?;
    one.namespace.run(move || {
        use std::os::fd::AsFd;
        let netlink = Netlink::open()?;
        netlink.add_veth(&name, &peer)?;
        netlink.move_to(&peer, other.as_fd())
    })?;
    for end in [one, two] {
        let (name, mac, address) = (end.name.to_owned(), end.mac, end.address);
        end.namespace.run(move || {
            let netlink = Netlink::open()?;
            netlink.set_mac(&name, mac)?;
            for offload in [Offload::Tso, Offload::Gso, Offload::TxChecksum] {
                ethtool::set_offload(&name, offload, false)?;
            }
            // The receiving half of a redirect on veth.
            ethtool::set_offload(&name, Offload::Gro, true)?;
            if let Some(address) = address {
                netlink.add_address(&name, address, 24)?;
            }
            netlink.set_up("lo")?;
            netlink.set_up(&name)
        })?;
        end.namespace.set_sysctls(&[("ipv4/ip_forward", "0")])?;
    }
    Ok(())
}
