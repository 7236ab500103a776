//! Two instances as processes beside a store of three replicas, between two hosts, with real packets.
//!
//! ```text
//!   client c0 ──┐ bridge "in"  ┌─ lan0 [ gw1 ] wan0 ─┐ bridge "out" ┌── s0 server
//!   10.0.0.2    ├──────────────┤                     ├──────────────┤   203.0.113.2
//!   10.0.1.5 ───┘              └─ lan0 [ gw2 ] wan0 ─┘              └──
//!                                    bridge "ctl": both, the sequencer and the replicas
//! ```
//! Both hosts have one gateway's address; whose hardware address that is says which instance gets
//! their packets.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;
use stateplane_host::bpf::Pass;
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

pub const FREE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const LIMITED: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const PORT: u16 = 7000;
const STORE: [&str; 4] = ["seq", "r1", "r2", "r3"];
const GATEWAYS: [&str; 2] = ["gw1", "gw2"];

fn mac(gateway: usize, side: u8) -> [u8; 6] {
    [2, 0x53, 0x50, 9, side, gateway as u8]
}

pub struct Lab {
    pub client: Namespace,
    pub server: Namespace,
    hub: Namespace,
    gateways: Vec<Namespace>,
    pub nodes: Vec<Process>,
    dir: tempfile::TempDir,
    _receivers: Vec<Pass>,
}

/// A cable from a port of a bridge of the hub to a machine's interface.
fn cable(
    hub: &Namespace,
    bridge: &str,
    port: &str,
    far: &Namespace,
    end: &str,
) -> io::Result<Pass> {
    let (bridge, port, end) = (bridge.to_owned(), port.to_owned(), end.to_owned());
    let space = far.try_clone()?;
    hub.run(move || {
        let netlink = Netlink::open()?;
        netlink.add_veth(&port, &end)?;
        netlink.move_to(&end, space.as_fd())?;
        netlink.attach_to_bridge(&port, &bridge)?;
        netlink.set_up(&port)?;
        // With a program of its own, a veth is sure to take redirected frames.
        Pass::attach(&port).map_err(io::Error::other)
    })
}

impl Lab {
    /// A world with a running store and instances of this function, of which the file says more;
    /// nothing without the right to make one.
    pub fn start(function: &str, sections: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces and XDP programs need root");
            return None;
        }
        Some(Self::build(function, sections).expect("root can build it"))
    }

    fn build(function: &str, sections: &str) -> io::Result<Self> {
        let [client, server, hub] = ["client", "server", "hub"].map(Namespace::create);
        let (client, server, hub) = (client?, server?, hub?);
        let gateways: Result<Vec<_>, _> = GATEWAYS.iter().map(|n| Namespace::create(n)).collect();
        let gateways = gateways?;
        hub.run(|| {
            let netlink = Netlink::open()?;
            ["in", "out", "ctl"]
                .iter()
                .try_for_each(|name| netlink.add_bridge(name))?;
            // The store's nodes hear each other by it.
            netlink.set_up("lo")?;
            netlink.add_address("ctl", Ipv4Addr::new(10, 9, 0, 1), 24)
        })?;
        let mut receivers = vec![
            cable(&hub, "in", "p-c", &client, "c0")?,
            cable(&hub, "out", "p-s", &server, "s0")?,
        ];
        for (n, gateway) in gateways.iter().enumerate() {
            gateway.set_sysctls(&[("ipv4/ip_forward", "0")])?;
            for (bridge, end) in [("in", "lan0"), ("out", "wan0"), ("ctl", "ctl0")] {
                let port = format!("p-{bridge}{n}");
                receivers.push(cable(&hub, bridge, &port, gateway, end)?);
            }
            let last = n as u8;
            gateway.run(move || {
                let netlink = Netlink::open()?;
                for (end, side, address, prefix) in [
                    ("lan0", 1, Ipv4Addr::new(10, 0, 255, last), 16),
                    ("wan0", 2, Ipv4Addr::new(203, 0, 113, 100 + last), 24),
                    ("ctl0", 3, Ipv4Addr::new(10, 9, 0, 11 + last), 24),
                ] {
                    netlink.set_mac(end, mac(n, side))?;
                    netlink.add_address(end, address, prefix)?;
                    netlink.set_up(end)?;
                }
                Ok(())
            })?;
        }
        let end = |space: &Namespace,
                   name: &'static str,
                   addresses: &'static [Ipv4Addr],
                   prefix,
                   gateway| {
            space.run(move || {
                let netlink = Netlink::open()?;
                for address in addresses {
                    netlink.add_address(name, *address, prefix)?;
                }
                // Checksums are whole, as on a cable.
                ethtool::set_offload(name, Offload::TxChecksum, false)?;
                netlink.set_up(name)?;
                netlink.wait_running(name, Duration::from_secs(5))?;
                netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, gateway)
            })
        };
        end(&client, "c0", &[FREE, LIMITED], 16, INSIDE)?;
        end(&server, "s0", &[SERVER], 24, OUTSIDE)?;
        let dir = tempfile::tempdir()?;
        let text = config(dir.path(), function, sections);
        fs::write(dir.path().join("edge.toml"), text)?;
        let mut lab = Self {
            client,
            server,
            hub,
            gateways,
            nodes: Vec::new(),
            dir,
            _receivers: receivers,
        };
        for name in STORE.into_iter().chain(GATEWAYS) {
            lab.run(name)?;
        }
        lab.lead_to(0)?;
        lab.serve()?;
        lab.ready(6);
        Ok(lab)
    }

    pub fn run(&mut self, name: &str) -> io::Result<()> {
        let log = fs::File::create(self.dir.path().join(format!("{name}.log")))?;
        let mut command = super::stateplane(&["run", "--node", name, "--config"]);
        command
            .arg(self.file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let at = GATEWAYS.iter().position(|gateway| *gateway == name);
        let space = at.map_or(&self.hub, |at| &self.gateways[at]);
        self.nodes.push(Process::spawn(name, command, space)?);
        Ok(())
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("edge.toml")
    }

    pub fn ready(&self, nodes: usize) {
        super::until("all nodes are ready", || {
            let ready = super::nodes(&self.file());
            let ready = ready.iter().filter(|node| node["ready"] == true).count();
            (ready == nodes).then_some(())
        });
    }

    /// From now on this instance gets the packets of both hosts.
    pub fn lead_to(&self, gateway: usize) -> io::Result<()> {
        let learn = |space: &Namespace, end: &'static str, address, side| {
            space.run(move || Netlink::open()?.add_neighbour(end, address, mac(gateway, side)))
        };
        learn(&self.client, "c0", INSIDE, 1)?;
        learn(&self.server, "s0", OUTSIDE, 2)
    }

    /// A server that gives datagrams back.
    fn serve(&self) -> io::Result<()> {
        let (ready, is_ready) = channel();
        self.server.spawn_thread("datagrams", move || {
            let socket = UdpSocket::bind((SERVER, PORT))?;
            let _ = ready.send(());
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..len], from)?;
            }
            Ok::<(), io::Error>(())
        })?;
        is_ready.recv().expect("the server starts");
        Ok(())
    }

    pub fn socket(&self, from: Ipv4Addr) -> UdpSocket {
        let open = move || {
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect((SERVER, PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(400)))?;
            Ok(socket)
        };
        self.client.run(open).expect("a socket")
    }

    pub fn show(&self, what: &str) -> Value {
        let mut command = super::stateplane(&["show", what, "--json", "--config"]);
        let output = command.arg(self.file()).output().expect("show");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let nodes = shown["nodes"].as_array().into_iter().flatten();
        let answer = nodes.into_iter().find(|node| node["answers"] == true);
        answer.cloned().unwrap_or_default()
    }

    /// The store's account of a subscriber.
    pub fn account(&self, subscriber: Ipv4Addr) -> Value {
        let shown = self.show("meter");
        let mut rows = shown["subscribers"].as_array().into_iter().flatten();
        let row = rows.find(|row| row["subscriber"] == subscriber.to_string());
        row.cloned().unwrap_or_default()
    }

    /// Until the account of [`FREE`] holds so many packets from it.
    pub fn counts(&self, packets: u64) -> Value {
        super::until("all is counted", || {
            let account = self.account(FREE);
            (account["packets_out"] == packets).then_some(account)
        })
    }

    /// After a first packet of [`FREE`] that passed at gw1: further ones pass in front of the process,
    /// both ways, and are counted to the byte; how many those were.
    pub fn passes_counted(&self, free: &UdpSocket) -> u64 {
        let before = self.fast_path_hits(0);
        let sent = (0..300).filter(|_| ask(free, b"counted")).count() as u64;
        assert_eq!(sent, 300);
        let account = self.counts(1 + sent);
        assert_eq!(account["packets_in"], 1 + sent);
        let bytes = 300 * (14 + 20 + 8 + 7) + (14 + 20 + 8 + 5);
        assert_eq!(
            (&account["bytes_out"], &account["bytes_in"]),
            (&bytes.into(), &bytes.into())
        );
        assert_eq!(account["owner"], "gw1");
        super::until("they passed in the kernel", || {
            (self.fast_path_hits(0) >= before + 590).then_some(())
        });
        sent
    }

    /// Until the account of [`LIMITED`] holds all that was answered to it, of `most` bytes allowed, and
    /// nothing is left.
    pub fn used_up(&self, answered: u64, most: u64) -> Value {
        let used = |account: &Value| {
            let way = |bytes: &str| account[bytes].as_u64();
            Some(way("bytes_out")? + way("bytes_in")?)
        };
        let account = super::until("it is told", || {
            let account = self.account(LIMITED);
            // Each datagram of `exhaust` and each answer have 1,042 bytes.
            let told = account["left"] == 0 && used(&account)? >= answered * 2 * 1042;
            told.then_some(account)
        });
        let used = used(&account).expect("it was told");
        assert!(used <= most, "{account}");
        assert!(used > most * 9 / 10, "{account}");
        account
    }

    pub fn fast_path_hits(&self, gateway: usize) -> u64 {
        let nodes = super::nodes(&self.file());
        let mut named = nodes
            .iter()
            .filter(|node| node["node"] == GATEWAYS[gateway]);
        let hits = named
            .next()
            .map(|node| &node["function"]["fast_path"]["hits"]);
        hits.and_then(Value::as_u64).unwrap_or(0)
    }

    /// Cuts an instance off from the store, or not any more.
    pub fn cut_off(&self, gateway: usize, cut: bool) {
        let port = format!("p-ctl{gateway}");
        let change = move || match cut {
            true => Netlink::open()?.set_down(&port),
            false => Netlink::open()?.set_up(&port),
        };
        self.hub.run(change).expect("the port is there");
    }
}

fn config(dir: &Path, function: &str, sections: &str) -> String {
    let mut text = format!(
        "[cluster]\nname = \"lab\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{}\"\n[state]\nbackend = \"group\"\nsequencer = \"seq\"\n\
         replicas = [\"r1\", \"r2\", \"r3\"]\n{sections}\n",
        dir.display(),
    );
    for (n, name) in STORE.iter().enumerate() {
        let role = if n == 0 { "sequencer" } else { "replica" };
        text += &format!("[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"10.9.0.1:74{n:02}\"\n");
    }
    for (n, name) in GATEWAYS.iter().enumerate() {
        text += &format!(
            "[node.{name}]\nroles = [\"function\"]\nfunction = {function}\n\
             control = \"10.9.0.{}:7400\"\ninside = \"lan0\"\noutside = \"wan0\"\n",
            11 + n
        );
    }
    text
}

/// Whether an answer comes.
pub fn ask(socket: &UdpSocket, payload: &[u8]) -> bool {
    let mut buffer = [0; 2048];
    socket.send(payload).is_ok() && socket.recv(&mut buffer).is_ok()
}

/// Asks until there is an answer; how often it was asked.
pub fn begin(socket: &UdpSocket) -> u64 {
    let mut asked = 0;
    super::until("somebody answers", || {
        asked += 1;
        ask(socket, b"hello").then_some(())
    });
    asked
}

/// Asks, with 1,000 bytes each, until five in a row get no answer; how many did. More than `most`
/// would be for ever.
pub fn exhaust(socket: &UdpSocket, most: u64) -> u64 {
    let (mut answered, mut silent) = (0, 0);
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    while silent < 5 {
        match ask(socket, &[7; 1000]) {
            true => (answered, silent) = (answered + 1, 0),
            false => silent += 1,
        }
        assert!(answered < most, "it ends");
    }
    answered
}
