//! The world of the store lab: a machine per process on one bridge, and what is done to
//! the frames between them.
//!
//! ```text
//!   seq  seq2   r1   r2   r3        c1   c2   c3        each a namespace with `ctl0`
//!    │    │     │    │    │          │    │    │
//!   c-seq c-seq2 c-r1 …               …         c-c3     ports
//!    └────┴─────┴────┴────┴── ctl ───┴────┴────┘         bridge in the namespace "hub"
//! ```
//! Frames are dropped in the hub, where all of them pass: one command cuts a network in two
//! at one moment, and no sender is told.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

use crate::lab::clients::find_tool;

/// The hub and the machines around it. Dropping it removes everything.
pub(super) struct Network {
    hub: Namespace,
    machines: Vec<Namespace>,
}

/// Where machine `n` is.
pub(super) fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, u8::try_from(10 + n).expect("a lab is small"))
}

/// Which way frames are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Both,
    /// What it sends is lost.
    From,
    /// What is sent to it is lost.
    To,
}

/// What the network does to all frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Loss,
    Duplicates,
    Reorder,
}

impl Network {
    pub(super) fn build(names: &[String]) -> Result<Self> {
        let hub = Namespace::create("hub")?;
        let machines: io::Result<Vec<_>> = names.iter().map(|n| Namespace::create(n)).collect();
        let network = Self {
            hub,
            machines: machines?,
        };
        network.cable()?;
        network.nft("table bridge fault {\nchain forward {\ntype filter hook forward priority 0\n}\n}")
            .context("partitions are made by nft in a bridge: `apt-get install nftables`, and a kernel with NF_TABLES_BRIDGE")?;
        Ok(network)
    }

    pub(super) fn namespace(&self, name: &str) -> &Namespace {
        let found = self.machines.iter().find(|m| m.name() == name);
        found.expect("only machines of this lab are asked for")
    }

    fn cable(&self) -> io::Result<()> {
        let quiet = [
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ];
        self.hub.set_sysctls(&quiet)?;
        self.hub.run(|| {
            let net = Netlink::open()?;
            net.add_bridge("ctl")?;
            for machine in &self.machines {
                let port = port(machine.name());
                net.add_veth(&port, "ctl0")?;
                net.move_to("ctl0", machine.as_fd())?;
                net.set_up(&port)?;
                net.attach_to_bridge(&port, "ctl")?;
            }
            Ok(())
        })?;
        for (n, machine) in self.machines.iter().enumerate() {
            machine.set_sysctls(&quiet)?;
            machine.run(|| {
                let net = Netlink::open()?;
                net.set_up("lo")?;
                net.add_address("ctl0", address(n), 24)?;
                net.set_up("ctl0")?;
                net.wait_running("ctl0", Duration::from_secs(3))
            })?;
        }
        // A bridge drops what comes before its ports forward.
        self.hub.run(|| {
            let net = Netlink::open()?;
            self.ports()
                .try_for_each(|port| net.wait_running(&port, Duration::from_secs(3)))
        })
    }

    /// Separates `machine` from `others`, or from everybody.
    pub(super) fn cut(&self, machine: &str, others: &[&str], way: Way) -> Result<()> {
        let rule = |from: &str, to: &str| {
            format!("add rule bridge fault forward meta protocol ip {from} {to} drop\n")
        };
        let ports: Vec<String> = others.iter().map(|o| format!("\"{}\"", port(o))).collect();
        let far = |word: &str| match ports.is_empty() {
            true => String::new(),
            false => format!("{word} {{ {} }}", ports.join(", ")),
        };
        let near = |word: &str| format!("{word} \"{}\"", port(machine));
        let mut rules = String::new();
        if way != Way::To {
            rules += &rule(&near("iifname"), &far("oifname"));
        }
        if way != Way::From {
            rules += &rule(&far("iifname"), &near("oifname"));
        }
        self.nft(&rules)
    }

    /// Makes the network rough for everybody; an error where the kernel cannot.
    pub(super) fn roughen(&self, weather: Weather) -> Result<()> {
        match weather {
            Weather::Loss => self.nft(
                "add rule bridge fault forward meta protocol ip numgen random mod 1000 < 30 drop",
            ),
            Weather::Duplicates => {
                let mut rules = String::from("table netdev fault {\n");
                for port in self.ports() {
                    rules += &format!(
                        "chain {port} {{\ntype filter hook egress device \"{port}\" priority 0\n\
                         meta protocol ip numgen random mod 1000 < 50 dup to \"{port}\"\n}}\n"
                    );
                }
                self.nft(&(rules + "}"))
            }
            Weather::Reorder => self.ports().try_for_each(|port| {
                let words = "delay 1ms 1ms reorder 75% 50%";
                let line = format!("qdisc add dev {port} root netem {words}");
                self.tool("tc", line.split(' '))
            }),
        }
    }

    /// Ends whatever was done to the frames.
    pub(super) fn heal(&self) -> Result<()> {
        self.nft("flush chain bridge fault forward")?;
        // What was not there cannot be removed: no error.
        let _ = self.nft("delete table netdev fault");
        for port in self.ports() {
            let line = format!("qdisc del dev {port} root netem");
            let _ = self.tool("tc", line.split(' '));
        }
        Ok(())
    }

    fn ports(&self) -> impl Iterator<Item = String> {
        self.machines.iter().map(|m| port(m.name()))
    }

    fn nft(&self, rules: &str) -> Result<()> {
        self.tool("nft", [rules])
    }

    /// Runs a program in the hub to its end.
    fn tool<'a>(&self, name: &str, words: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let path = find_tool(name).with_context(|| format!("{name} is not installed"))?;
        let mut command = Command::new(path);
        command.args(words).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tool = Process::spawn(name, command, &self.hub)?;
        let status = tool.wait(Duration::from_secs(5))?;
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(mut pipe) = tool.pipes().stderr.take() {
            io::Read::read_to_string(&mut pipe, &mut said)?;
        }
        bail!("{name}: {}", said.lines().next().unwrap_or("no word why"))
    }
}

fn port(machine: &str) -> String {
    format!("c-{machine}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// Whether one of so many datagrams gets from one machine to another.
    fn crosses(network: &Network, (from, to): (usize, usize), datagrams: usize) -> bool {
        let (machine, to) = (&network.machines[to], address(to));
        let receiver = machine.run(|| UdpSocket::bind((to, 7)));
        let receiver = receiver.expect("receiver");
        let patience = Some(Duration::from_millis(20));
        receiver.set_read_timeout(patience).expect("timeout");
        (0..datagrams).any(|_| {
            let send = || UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", (to, 7));
            let _ = network.machines[from].run(send);
            receiver.recv(&mut [0; 8]).is_ok()
        })
    }

    #[test]
    fn a_cut_is_as_wide_and_as_long_as_it_is_meant_to_be() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return;
        }
        let names = ["a", "b", "c"].map(str::to_owned);
        let network = Network::build(&names).expect("network");
        let ways = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2)];
        let expect = |open: [bool; 5], when: &str| {
            for (way, open) in ways.into_iter().zip(open) {
                // The first ones may wait for the neighbour to be found: seconds, at worst.
                let datagrams = if open { 200 } else { 10 };
                let crosses = crosses(&network, way, datagrams);
                assert_eq!(crosses, open, "{way:?} {when}");
            }
        };
        expect([true; 5], "before");
        network.cut("a", &[], Way::From).expect("mute");
        expect([false, true, false, true, true], "a is mute");
        network.heal().expect("heal");
        network.cut("a", &[], Way::To).expect("deaf");
        expect([true, false, true, false, true], "a is deaf");
        network.heal().expect("heal");
        network.cut("a", &["b"], Way::Both).expect("cut");
        expect([false, false, true, true, true], "a and b are apart");
        network.heal().expect("heal");
        expect([true; 5], "after");
    }
}
