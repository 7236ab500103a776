//! The lab's world: one network namespace per machine, joined by veth pairs.
//!
//! ```text
//!               ┌─────────────── switch ───────────────┐
//!   client eth0─┤cl0   g1i  g1o      g2i  g2o       sv0├─eth0 server
//!               └──────┬────┬─────────┬────┬───────────┘
//!                    lan0  wan0     lan0  wan0
//!                    ┌─gw1──┐       ┌─gw2──┐      r1 r2 r3 seq
//!                    └─ctl0─┘       └─ctl0─┘       ctl0 …
//!                        └──── bridge "ctl" 10.9.0.0/24 (in switch) ────┘
//! ```
//! Both gateways carry the same addresses and the same MAC addresses inside
//! and outside: to the end hosts they are one router.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;

use stateplane_host::bpf::Pass;
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const OUTSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const POOL: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 51, 100, 0), 27);
pub(crate) const INSIDE_MAC: [u8; 6] = [0x02, 0x53, 0x50, 0, 0x01, 0x01];
const OUTSIDE_MAC: [u8; 6] = [0x02, 0x53, 0x50, 0, 0x02, 0x01];
const INSIDE_PREFIX: u8 = 16;

pub(crate) const GATEWAYS: [&str; 2] = ["gw1", "gw2"];
pub(crate) const REPLICAS: [&str; 3] = ["r1", "r2", "r3"];

/// Where our generator's server listens.
pub(crate) fn traffic_server() -> SocketAddrV4 {
    SocketAddrV4::new(SERVER, 7000)
}

/// The n-th inside address; the first two of the prefix are not for hosts.
pub(crate) fn client_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 2 + n)
}

/// A node's address on the control network.
pub(crate) fn control_address(node: &str) -> Ipv4Addr {
    let last = match node {
        "seq" => 5,
        "gw1" => 11,
        "gw2" => 12,
        "r1" => 21,
        "r2" => 22,
        "r3" => 23,
        _ => 1,
    };
    Ipv4Addr::new(10, 9, 0, last)
}

/// What translates between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// Our nodes behind a steering switch.
    Stateplane,
    /// One machine with the kernel's own NAT: shows that the traffic
    /// generator is right, and what the floor is.
    Kernel,
}

/// All namespaces. Dropping it removes everything it made.
pub(crate) struct Topology {
    namespaces: Vec<Namespace>,
    /// An XDP program that passes everything, on each end host: with one, veth is
    /// sure to take redirected frames. GRO alone is not: now and then the kernel's
    /// note that the interface polls is lost while its peer is being set up.
    receivers: Vec<Pass>,
}

impl Topology {
    /// `sink`: another program will receive at the server. `queues`: those of the gateways' cables.
    pub(crate) fn build(device: Device, clients: u8, sink: bool, queues: u32) -> io::Result<Self> {
        let mut names = vec!["client", "server"];
        match device {
            Device::Kernel => names.push("gw1"),
            Device::Stateplane => {
                names.extend(["switch", "seq"]);
                names.extend(GATEWAYS);
                names.extend(REPLICAS);
            }
        }
        let namespaces: io::Result<Vec<_>> = names.iter().map(|n| Namespace::create(n)).collect();
        let mut topology = Self {
            namespaces: namespaces?,
            receivers: Vec::new(),
        };
        topology.quieten()?;
        match device {
            Device::Kernel => topology.cable_kernel()?,
            Device::Stateplane => topology.cable_switch(queues)?,
        }
        topology.set_up_end_hosts(device, clients)?;
        if device == Device::Stateplane {
            topology.receive_redirected_frames(sink)?;
        }
        Ok(topology)
    }

    /// The namespace of a machine of this lab.
    pub(crate) fn namespace(&self, name: &str) -> &Namespace {
        let found = self.namespaces.iter().find(|n| n.name() == name);
        found.expect("only names of this lab are asked for")
    }

    /// No forwarding by a dead instance's kernel, no IPv6 chatter, no path
    /// filter that distrusts two gateways with one address.
    fn quieten(&self) -> io::Result<()> {
        for namespace in &self.namespaces {
            namespace.set_sysctls(&[
                ("ipv4/ip_forward", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
            ])?;
            namespace.run(|| Netlink::open()?.set_up("lo"))?;
        }
        for host in ["client", "server"] {
            // What one run learnt about a path must not colour the next flow;
            // the ports below are the generator's own.
            self.namespace(host).set_sysctls(&[
                ("ipv4/tcp_no_metrics_save", "1"),
                ("ipv4/ip_local_port_range", "60000 65535"),
            ])?;
        }
        Ok(())
    }

    fn cable_switch(&self, queues: u32) -> io::Result<()> {
        let switch = self.namespace("switch");
        switch.run(|| {
            let net = Netlink::open()?;
            self.connect(&net, "cl0", "client", "eth0")?;
            self.connect(&net, "sv0", "server", "eth0")?;
            for (gateway, ports) in GATEWAYS.iter().zip([("g1i", "g1o"), ("g2i", "g2o")]) {
                self.connect(&net, ports.0, gateway, "lan0")?;
                self.connect(&net, ports.1, gateway, "wan0")?;
                if queues > 1 {
                    // With a program on it, an end takes no more send queues of the other one than
                    // it has receive queues.
                    for end in [ports.0, ports.1] {
                        ethtool::set_queues(end, queues)?;
                    }
                    let ends = ["lan0", "wan0"].into_iter();
                    let set = || {
                        ends.clone()
                            .try_for_each(|end| ethtool::set_queues(end, queues))
                    };
                    self.namespace(gateway).run(set)?;
                }
            }
            net.add_bridge("ctl")?;
            net.add_address("ctl", control_address("switch"), 24)?;
            for node in GATEWAYS.iter().chain(&REPLICAS).chain(&["seq"]) {
                let port = format!("c-{node}");
                self.connect(&net, &port, node, "ctl0")?;
                net.attach_to_bridge(&port, "ctl")?;
            }
            Ok(())
        })?;
        for node in GATEWAYS.iter().chain(&REPLICAS).chain(&["seq"]) {
            self.namespace(node).run(|| {
                let net = Netlink::open()?;
                net.add_address("ctl0", control_address(node), 24)?;
                net.set_up("ctl0")
            })?;
        }
        GATEWAYS.iter().try_for_each(|g| self.set_up_gateway(g))
    }

    fn receive_redirected_frames(&mut self, sink: bool) -> io::Result<()> {
        let hosts = ["client", "server"].into_iter();
        for host in hosts.filter(|host| !(sink && *host == "server")) {
            let pass = || Pass::attach("eth0").map_err(io::Error::other);
            let attached = self.namespace(host).run(pass)?;
            self.receivers.push(attached);
        }
        Ok(())
    }

    fn cable_kernel(&self) -> io::Result<()> {
        self.namespace("gw1").run(|| {
            let net = Netlink::open()?;
            net.add_veth("lan0", "eth0")?;
            net.move_to("eth0", self.namespace("client").as_fd())?;
            net.add_veth("wan0", "eth0")?;
            net.move_to("eth0", self.namespace("server").as_fd())
        })?;
        self.set_up_gateway("gw1")?;
        let forward = [("ipv4/ip_forward", "1")];
        self.namespace("gw1").set_sysctls(&forward)
    }

    /// One cable from a port of the switch, which is up at once.
    fn connect(&self, net: &Netlink, port: &str, machine: &str, interface: &str) -> io::Result<()> {
        net.add_veth(port, interface)?;
        net.move_to(interface, self.namespace(machine).as_fd())?;
        net.set_up(port)
    }

    fn set_up_gateway(&self, name: &str) -> io::Result<()> {
        self.namespace(name).run(|| {
            let net = Netlink::open()?;
            net.set_mac("lan0", INSIDE_MAC)?;
            net.set_mac("wan0", OUTSIDE_MAC)?;
            net.add_address("lan0", INSIDE_GATEWAY, INSIDE_PREFIX)?;
            net.add_address("wan0", OUTSIDE_GATEWAY, 24)?;
            net.set_up("lan0")?;
            net.set_up("wan0")
        })
    }

    fn set_up_end_hosts(&self, device: Device, clients: u8) -> io::Result<()> {
        self.namespace("client").run(|| {
            let net = Netlink::open()?;
            for n in 0..clients {
                net.add_address("eth0", client_address(n), INSIDE_PREFIX)?;
            }
            net.set_up("eth0")?;
            settle_offloads(device)?;
            net.add_route(Ipv4Addr::UNSPECIFIED, 0, INSIDE_GATEWAY)
        })?;
        self.namespace("server").run(|| {
            let net = Netlink::open()?;
            net.add_address("eth0", SERVER, 24)?;
            net.set_up("eth0")?;
            settle_offloads(device)?;
            net.add_route(POOL.0, POOL.1, OUTSIDE_GATEWAY)
        })?;
        let carrier = || Netlink::open()?.wait_running("eth0", Duration::from_secs(3));
        self.namespace("client").run(carrier)?;
        self.namespace("server").run(carrier)
    }
}

/// What a veth needs before real TCP crosses AF_XDP: whole checksums, no
/// segments larger than the wire, and NAPI (through GRO) to receive
/// redirected frames at all. The interface must be up: veth tells its peer
/// that it takes redirected frames only when GRO is turned on in that state.
fn settle_offloads(device: Device) -> io::Result<()> {
    if device == Device::Kernel {
        return Ok(());
    }
    for offload in [Offload::Tso, Offload::Gso, Offload::TxChecksum] {
        ethtool::set_offload("eth0", offload, false)?;
    }
    ethtool::set_offload("eth0", Offload::Gro, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_world_is_made_and_gone_with_its_handle() {
        let Ok(topology) = Topology::build(Device::Kernel, 2, false, 1) else {
            eprintln!("skipped: namespaces need CAP_SYS_ADMIN");
            return;
        };
        let routes = topology
            .namespace("server")
            .run(|| std::fs::read_to_string("/proc/thread-self/net/route"))
            .expect("routes");
        assert!(
            routes.contains("006433C6"),
            "no route to the pool:\n{routes}"
        );
    }
}
