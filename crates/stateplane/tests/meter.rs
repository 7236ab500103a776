//! The meter with real packets: two instances as processes beside a store of three replicas.
//!
//! ```text
//!   client c0 ──┐ bridge "in"  ┌─ lan0 [ gw1 ] wan0 ─┐ bridge "out" ┌── s0 server
//!   10.0.0.2    ├──────────────┤                     ├──────────────┤   203.0.113.2
//!   10.0.1.5 ───┘              └─ lan0 [ gw2 ] wan0 ─┘              └──
//!                                    bridge "ctl": both, the sequencer and the replicas
//! ```
//! Both hosts have one gateway's address; whose hardware address that is says which instance gets
//! their packets.

mod support;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stateplane_host::bpf::Pass;
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

const FREE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const LIMITED: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);
const ALLOWED: u64 = 300_000;
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const PORT: u16 = 7000;
const STORE: [&str; 4] = ["seq", "r1", "r2", "r3"];
const GATEWAYS: [&str; 2] = ["gw1", "gw2"];

fn mac(gateway: usize, side: u8) -> [u8; 6] {
    [2, 0x53, 0x50, 9, side, gateway as u8]
}

struct Lab {
    client: Namespace,
    server: Namespace,
    hub: Namespace,
    gateways: Vec<Namespace>,
    nodes: Vec<Process>,
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
    /// A world with a running store and instances; nothing without the right to make one.
    fn start(on_expiry: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces and XDP programs need root");
            return None;
        }
        Some(Self::build(on_expiry).expect("root can build it"))
    }

    fn build(on_expiry: &str) -> io::Result<Self> {
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
        fs::write(dir.path().join("edge.toml"), config(dir.path(), on_expiry))?;
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

    fn run(&mut self, name: &str) -> io::Result<()> {
        let log = fs::File::create(self.dir.path().join(format!("{name}.log")))?;
        let mut command = support::stateplane(&["run", "--node", name, "--config"]);
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

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("edge.toml")
    }

    fn ready(&self, nodes: usize) {
        support::until("all nodes are ready", || {
            let ready = support::nodes(&self.file());
            let ready = ready.iter().filter(|node| node["ready"] == true).count();
            (ready == nodes).then_some(())
        });
    }

    /// From now on this instance gets the packets of both hosts.
    fn lead_to(&self, gateway: usize) -> io::Result<()> {
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

    fn socket(&self, from: Ipv4Addr) -> UdpSocket {
        let open = move || {
            let socket = UdpSocket::bind((from, 0))?;
            socket.connect((SERVER, PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(400)))?;
            Ok(socket)
        };
        self.client.run(open).expect("a socket")
    }

    fn show(&self, what: &str) -> Value {
        let mut command = support::stateplane(&["show", what, "--json", "--config"]);
        let output = command.arg(self.file()).output().expect("show");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let nodes = shown["nodes"].as_array().into_iter().flatten();
        let answer = nodes.into_iter().find(|node| node["answers"] == true);
        answer.cloned().unwrap_or_default()
    }

    /// The store's account of a subscriber.
    fn account(&self, subscriber: Ipv4Addr) -> Value {
        let shown = self.show("meter");
        let mut rows = shown["subscribers"].as_array().into_iter().flatten();
        let row = rows.find(|row| row["subscriber"] == subscriber.to_string());
        row.cloned().unwrap_or_default()
    }

    /// Until the account of [`FREE`] holds so many packets from it.
    fn counts(&self, packets: u64) -> Value {
        support::until("all is counted", || {
            let account = self.account(FREE);
            (account["packets_out"] == packets).then_some(account)
        })
    }

    fn fast_path_hits(&self, gateway: usize) -> u64 {
        let nodes = support::nodes(&self.file());
        let mut named = nodes
            .iter()
            .filter(|node| node["node"] == GATEWAYS[gateway]);
        let hits = named
            .next()
            .map(|node| &node["function"]["fast_path"]["hits"]);
        hits.and_then(Value::as_u64).unwrap_or(0)
    }

    /// Cuts an instance off from the store, or not any more.
    fn cut_off(&self, gateway: usize, cut: bool) {
        let port = format!("p-ctl{gateway}");
        let change = move || match cut {
            true => Netlink::open()?.set_down(&port),
            false => Netlink::open()?.set_up(&port),
        };
        self.hub.run(change).expect("the port is there");
    }
}

fn config(dir: &std::path::Path, on_expiry: &str) -> String {
    let mut text = format!(
        "[cluster]\nname = \"meter\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{}\"\n[state]\nbackend = \"group\"\nsequencer = \"seq\"\n\
         replicas = [\"r1\", \"r2\", \"r3\"]\n[lease]\nlength = \"2s\"\n\
         on-expiry = \"{on_expiry}\"\n[park]\ntimeout-ms = 400\n\
         [meter]\ninside-prefixes = [\"10.0.0.0/16\"]\npartitions = 8\n\
         allowances = [ {{ prefix = \"10.0.1.0/24\", allowance = \"{} kB\", period = \"300d\" }} ]\n",
        dir.display(),
        ALLOWED / 1000
    );
    for (n, name) in STORE.iter().enumerate() {
        let role = if n == 0 { "sequencer" } else { "replica" };
        text += &format!("[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"10.9.0.1:74{n:02}\"\n");
    }
    for (n, name) in GATEWAYS.iter().enumerate() {
        text += &format!(
            "[node.{name}]\nroles = [\"function\"]\nfunction = \"meter\"\ncontrol = \"10.9.0.{}:7400\"\n\
             inside = \"lan0\"\noutside = \"wan0\"\n",
            11 + n
        );
    }
    text
}

/// Whether an answer comes.
fn ask(socket: &UdpSocket, payload: &[u8]) -> bool {
    let mut buffer = [0; 2048];
    socket.send(payload).is_ok() && socket.recv(&mut buffer).is_ok()
}

/// Asks until there is an answer; how often it was asked.
fn begin(socket: &UdpSocket) -> u64 {
    let mut asked = 0;
    support::until("somebody answers", || {
        asked += 1;
        ask(socket, b"hello").then_some(())
    });
    asked
}

/// Sends without a pause until told to stop, and says how many were sent and how many came back.
fn stream(socket: &UdpSocket, stop: &AtomicBool) -> (u64, u64) {
    let (mut sent, mut back) = (0, 0);
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        sent += u64::from(socket.send(b"counted").is_ok());
        thread::sleep(Duration::from_millis(2));
    }
    while back < sent && socket.recv(&mut buffer).is_ok() {
        back += 1;
    }
    (sent, back)
}

#[test]
fn subscribers_are_counted_wherever_they_pass_and_stop_when_nobody_owns_them() {
    let Some(mut lab) = Lab::start("closed") else {
        return;
    };
    let free = lab.socket(FREE);
    let mut sent = begin(&free);
    assert_eq!(sent, 1, "the first packet waits for the lease, and passes");

    // In front of the process, both ways.
    let before = lab.fast_path_hits(0);
    sent += (0..300).filter(|_| ask(&free, b"counted")).count() as u64;
    assert_eq!(sent, 301);
    let account = lab.counts(sent);
    assert_eq!(account["packets_in"], sent);
    let bytes = 300 * (14 + 20 + 8 + 7) + (14 + 20 + 8 + 5);
    assert_eq!(
        (&account["bytes_out"], &account["bytes_in"]),
        (&bytes.into(), &bytes.into())
    );
    assert_eq!(account["owner"], "gw1");
    support::until("they passed in the kernel", || {
        (lab.fast_path_hits(0) >= before + 590).then_some(())
    });

    // A planned move under traffic: the packets first, then the lease.
    let stop = AtomicBool::new(false);
    let (more, back) = thread::scope(|scope| {
        let streaming = scope.spawn(|| stream(&free, &stop));
        thread::sleep(Duration::from_millis(100));
        lab.lead_to(1).expect("another gateway");
        let partition = account["partition"].as_str().expect("its number");
        let mut command = support::stateplane(&["lease", "move", partition, "gw2", "--config"]);
        let moved = command.arg(lab.file()).output().expect("lease move");
        assert!(moved.status.success(), "{}", support::said(&moved));
        support::until("gw2 owns it", || {
            (lab.account(FREE)["owner"] == "gw2").then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        streaming.join().expect("it streams")
    });
    assert_eq!(back, more, "no packet was lost");
    sent += more;
    assert_eq!(
        lab.counts(sent)["packets_in"],
        sent,
        "and each was counted once"
    );

    // kill -9 of the owner: another one goes on with what was counted, after the lease.
    let mut gw2 = lab.nodes.pop().expect("it was started last");
    gw2.kill().expect("SIGKILL");
    lab.lead_to(0).expect("another gateway");
    let kept = lab.account(FREE)["packets_out"].as_u64().expect("a number");
    assert_eq!(kept, sent);
    let asked = begin(&free);
    let account = support::until("gw1 owns it", || {
        let account = lab.account(FREE);
        (account["owner"] == "gw1" && account["packets_out"].as_u64() > Some(kept))
            .then_some(account)
    });
    let counted = account["packets_out"].as_u64().expect("a number");
    assert!(counted <= kept + asked, "{account}");

    // Cut off from the store: known flows stop when the lease ends, and go on when it is there again.
    lab.cut_off(0, true);
    let cut = Instant::now();
    support::until("nothing passes", || {
        (!ask(&free, b"anybody?")).then_some(())
    });
    assert!(cut.elapsed() < Duration::from_secs(10));
    assert!(!ask(&free, b"anybody?"));
    lab.cut_off(0, false);
    begin(&free);
}

#[test]
fn an_allowance_stops_its_subscriber_alone() {
    let Some(lab) = Lab::start("closed") else {
        return;
    };
    let (limited, free) = (lab.socket(LIMITED), lab.socket(FREE));
    begin(&limited);
    begin(&free);
    let payload = [7; 1000];
    // Each datagram and its answer are 2,084 bytes; asked for until five in a row get none.
    let (mut answered, mut silent) = (0, 0);
    limited
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    while silent < 5 {
        match ask(&limited, &payload) {
            true => (answered, silent) = (answered + 1, 0),
            false => silent += 1,
        }
        assert!(answered < ALLOWED, "it ends");
    }
    assert!(ask(&free, b"I may"), "others go on");
    let account = support::until("it is told", || {
        let account = lab.account(LIMITED);
        let used = account["bytes_out"].as_u64()? + account["bytes_in"].as_u64()?;
        (account["left"] == 0 && used >= answered * 2 * 1042).then_some(account)
    });
    let used = account["bytes_out"].as_u64().unwrap() + account["bytes_in"].as_u64().unwrap();
    assert!(used <= ALLOWED, "{account}");
    assert!(used > ALLOWED * 9 / 10, "{account}");
    assert_eq!(account["allowance"], ALLOWED);
    let nodes = support::nodes(&lab.file());
    let gw1 = nodes
        .iter()
        .find(|node| node["node"] == "gw1")
        .expect("it answers");
    assert!(
        gw1["function"]["drops"]["allowance"].as_u64() >= Some(1),
        "{gw1:#}"
    );
}

#[test]
fn open_known_flows_go_on_without_the_store() {
    let Some(lab) = Lab::start("open") else {
        return;
    };
    let free = lab.socket(FREE);
    begin(&free);
    assert!(ask(&free, b"known"));
    lab.cut_off(0, true);
    let lapsed = |lab: &Lab| {
        let nodes = support::nodes(&lab.file());
        let gw1 = nodes.into_iter().find(|node| node["node"] == "gw1")?;
        let leases = gw1["function"]["leases"].as_array()?.clone();
        let over = leases.iter().any(|lease| lease["state"] == "lapsed");
        over.then_some(())
    };
    support::until("the lease is over", || lapsed(&lab));
    let answered = (0..50).filter(|_| ask(&free, b"known")).count();
    assert_eq!(answered, 50);
    lab.cut_off(0, false);
    support::until("all of it is counted", || {
        let packets = lab.account(FREE)["packets_out"].as_u64();
        (packets >= Some(52)).then_some(())
    });
}
