//! An edge of switches and two instances: what their configurations share, and their ports.

use std::io;
use std::net::Ipv4Addr;

use stateplane_host::link::Netlink;

/// The file's head. Its directories are those of whoever runs.
pub fn head(cluster: &str) -> String {
    format!(
        r#"
[cluster]
name = "{cluster}"
key = "000102030405060708090a0b0c0d0e0f"
admin-dir = "."
[regions]
dir = "regions"
state-dir = "state"
exchange = true
[telemetry]
interval-ms = 50
[fast-path]
enabled = false
[nat]
inside-prefixes = ["10.0.0.0/16"]
outside-addresses = ["198.51.100.1"]
"#
    )
}

/// A switch with two instances, the second of which weighs half as much.
pub fn switch(name: &str, address: &str) -> String {
    format!(
        r#"
[node.{name}]
roles = ["switch", "regions"]
control = {{ switch = "{address}:7000", regions = "{address}:7100" }}
inside = ["cl0"]
outside = ["sv0"]
instances = [
    {{ node = "gw1", inside = "g1i", outside = "g1o" }},
    {{ node = "gw2", inside = "g2i", outside = "g2o", weight = 50 }},
]
"#
    )
}

/// The two instances, on one machine.
pub fn instances(address: &str) -> String {
    format!(
        r#"
[node.gw1]
roles = ["function", "regions"]
control = {{ function = "{address}:7200", regions = "{address}:7100" }}
inside = "lan0"
outside = "wan0"
[node.gw2]
roles = ["function"]
control = "{address}:7300"
inside = "lan1"
outside = "wan1"
"#
    )
}

/// The ports of a switch.
pub fn switch_ports(netlink: &Netlink) -> io::Result<()> {
    for port in ["cl0", "sv0", "g1i", "g1o", "g2i", "g2o"] {
        netlink.add_veth(port, &format!("{port}p"))?;
        netlink.set_up(port)?;
    }
    Ok(())
}

/// Those of the instances.
pub fn instance_ports(netlink: &Netlink) -> io::Result<()> {
    for (number, port) in (1..).zip(["lan0", "wan0", "lan1", "wan1"]) {
        netlink.add_veth(port, &format!("{port}p"))?;
        netlink.add_address(port, Ipv4Addr::new(10, number, 0, 1), 24)?;
        netlink.set_up(port)?;
    }
    Ok(())
}
