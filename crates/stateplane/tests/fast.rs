//! The fast path with real packets: hosts and an instance as a process, joined by veth.
//!
//! ```text
//!   client c0 ──── lan0 [ gw ] wan0 ──── s0 server
//!   10.0.0.2     10.0.0.1    203.0.113.1   203.0.113.2
//! ```

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use stateplane_host::bpf::Pass;
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
const PORT: u16 = 7000;

struct Lab {
    client: Namespace,
    device: Namespace,
    server: Namespace,
    dir: tempfile::TempDir,
    node: Process,
    _receivers: [Pass; 2],
}

impl Lab {
    /// A world with a running instance; nothing without the right to make one. `more`: further
    /// lines of its configuration.
    fn start(more: &str) -> Option<Self> {
        Self::with_queues(1, more)
    }

    /// The same, in so much address space, in KiB.
    fn within(memory: u64, more: &str) -> Option<Self> {
        Some(Self::build(1, Some(memory), more).expect("root can build it"))
    }

    /// The same, with so many queues each way on every interface.
    fn with_queues(queues: u32, more: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces and XDP programs need root");
            return None;
        }
        Some(Self::build(queues, None, more).expect("root can build it"))
    }

    fn build(queues: u32, memory: Option<u64>, more: &str) -> io::Result<Self> {
        let [client, device, server] = ["client", "device", "server"].map(Namespace::create);
        let (client, device, server) = (client?, device?, server?);
        let (left, right) = (client.try_clone()?, server.try_clone()?);
        device.run(move || {
            let netlink = Netlink::open()?;
            for (here, there, space, address, prefix) in [
                ("lan0", "c0", &left, INSIDE, 16),
                ("wan0", "s0", &right, OUTSIDE, 24),
            ] {
                netlink.add_veth(here, there)?;
                ethtool::set_queues(here, queues)?;
                ethtool::set_queues(there, queues)?;
                netlink.move_to(there, space.as_fd())?;
                netlink.add_address(here, address, prefix)?;
                netlink.set_up(here)?;
            }
            Ok(())
        })?;
        let end = |space: &Namespace, name: &'static str, address, prefix, gateway| {
            space.run(move || {
                let netlink = Netlink::open()?;
                netlink.add_address(name, address, prefix)?;
                // Checksums are whole, as on a cable.
                ethtool::set_offload(name, Offload::TxChecksum, false)?;
                netlink.set_up(name)?;
                netlink.wait_running(name, Duration::from_secs(5))?;
                netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, gateway)?;
                // With a program of its own, a veth is sure to take redirected frames.
                Pass::attach(name).map_err(io::Error::other)
            })
        };
        let receivers = [
            end(&client, "c0", CLIENT, 16, INSIDE)?,
            end(&server, "s0", SERVER, 24, OUTSIDE)?,
        ];
        let dir = tempfile::tempdir()?;
        let path = dir.path();
        fs::write(
            path.join("gw.toml"),
            format!(
                "[cluster]\nname = \"fast\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
                 admin-dir = \"{}\"\n[node.gw]\nroles = [\"function\"]\ninside = \"lan0\"\n\
                 outside = \"wan0\"\n[nat]\ninside-prefixes = [\"10.0.0.0/16\"]\n\
                 outside-addresses = [\"{POOL}-198.51.100.3\"]\n{more}",
                path.display()
            ),
        )?;
        let log = fs::File::create(path.join("gw.log"))?;
        let limit = memory.map_or_else(String::new, |kib| format!("ulimit -v {kib} && "));
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\"")])
            .args([
                env!("CARGO_BIN_EXE_stateplane"),
                "run",
                "--node",
                "gw",
                "--config",
            ])
            .arg(path.join("gw.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let node = Process::spawn("gw", command, &device)?;
        let lab = Self {
            client,
            device,
            server,
            dir,
            node,
            _receivers: receivers,
        };
        lab.until("it is ready", |status| status["ready"] == true);
        lab.serve()?;
        Ok(lab)
    }

    /// Servers that give everything back: of datagrams, and of one connection at a time.
    fn serve(&self) -> io::Result<()> {
        let (ready, is_ready) = channel();
        let told = ready.clone();
        self.server.spawn_thread("datagrams", move || {
            let socket = UdpSocket::bind((SERVER, PORT))?;
            let _ = told.send(());
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                // The answer says as whom the client is seen.
                socket.send_to(format!("{from} {len}").as_bytes(), from)?;
            }
            Ok::<(), io::Error>(())
        })?;
        self.server.spawn_thread("connections", move || {
            let listener = TcpListener::bind((SERVER, PORT))?;
            let _ = ready.send(());
            for stream in listener.incoming() {
                let mut stream = stream?;
                let mut buffer = [0; 2048];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..len])?;
                }
            }
            Ok::<(), io::Error>(())
        })?;
        for _ in 0..2 {
            is_ready.recv().expect("the servers start");
        }
        Ok(())
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let nodes = support::nodes(&self.dir.path().join("gw.toml"));
            if let Some(node) = nodes.first()
                && holds(node)
            {
                return node.clone();
            }
            if Instant::now() >= limit {
                let log = fs::read_to_string(self.dir.path().join("gw.log")).unwrap_or_default();
                panic!("waiting until {what}: {nodes:#?}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the instance has seen of the one connection.
    fn tcp_state(&self) -> String {
        let mut command = support::stateplane(&["show", "sessions", "--json", "--config"]);
        let output = command.arg(self.dir.path().join("gw.toml")).output();
        let shown: Value = serde_json::from_slice(&output.expect("show").stdout).expect("JSON");
        let sessions = shown["nodes"][0]["sessions"].as_array();
        let mut tcp = sessions.into_iter().flatten();
        let tcp = tcp.find(|session| session["protocol"] == "tcp");
        tcp.and_then(|tcp| tcp["state"].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    /// A flow's first packets, until there is an answer.
    fn begin(&self, flow: &Flow) -> SocketAddr {
        let mut seen = None;
        self.until("somebody answers", |_| {
            seen = flow.ask();
            seen.is_some()
        });
        seen.expect("there was an answer")
    }

    fn socket(&self) -> Flow {
        let open = || {
            let socket = UdpSocket::bind((CLIENT, 0))?;
            socket.connect((SERVER, PORT))?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(socket)
        };
        Flow(self.client.run(open).expect("a socket"))
    }
}

/// A client's socket.
struct Flow(UdpSocket);

impl Flow {
    /// As whom the server sees us; nothing if no answer comes.
    fn ask(&self) -> Option<SocketAddr> {
        let mut buffer = [0; 64];
        self.0.send(b"who?").ok()?;
        let len = self.0.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        text.split(' ').next()?.parse().ok()
    }
}

fn received(status: &Value) -> u64 {
    let interfaces = status["function"]["interfaces"].as_object();
    let counts = interfaces.into_iter().flatten();
    counts.filter_map(|(_, i)| i["received"].as_u64()).sum()
}

fn fast(status: &Value, what: &str) -> u64 {
    status["function"]["fast_path"][what].as_u64().unwrap_or(0)
}

#[test]
fn packets_of_a_known_flow_do_not_reach_the_process() {
    let Some(lab) = Lab::start("") else { return };
    let flow = lab.socket();
    let seen = lab.begin(&flow);
    let answered = (0..300).filter(|_| flow.ask() == Some(seen)).count();
    assert_eq!(answered, 300);
    let status = lab.until("it says so", |status| fast(status, "hits") >= 600);
    assert!(received(&status) < 60, "{status:#?}");
    assert!(fast(&status, "flows") >= 2, "{status:#?}");

    // Of a connection, its beginning and its end do.
    let echo = || {
        let mut stream = TcpStream::connect(SocketAddrV4::new(SERVER, PORT))?;
        let mut back = [0; 4];
        for _ in 0..100 {
            stream.write_all(b"data")?;
            stream.read_exact(&mut back)?;
        }
        Ok(back)
    };
    let back = lab.client.run(echo).expect("a connection");
    assert_eq!(&back, b"data");
    let limit = Instant::now() + Duration::from_secs(10);
    while lab.tcp_state() != "closing" {
        assert!(Instant::now() < limit, "{} sees no end", lab.tcp_state());
    }
    let status = lab.until("it says so", |status| fast(status, "hits") >= 800);
    let events = &status["function"]["fast_path"]["punts"]["tcp-event"];
    assert!(events.as_u64() >= Some(2), "{status:#?}");
    assert!(received(&status) < 80, "{status:#?}");
}

#[test]
fn a_changed_neighbour_is_followed_and_a_stopped_process_does_no_harm() {
    let Some(mut lab) = Lab::start("") else {
        return;
    };
    let flow = lab.socket();
    let seen = lab.begin(&flow);
    assert_eq!(flow.ask(), Some(seen));
    let before = lab.until("it counts", |status| fast(status, "hits") > 0);

    // The kernel learns another address of the same host.
    const NEW: [u8; 6] = [0x02, 0x53, 0x50, 0x77, 0, 9];
    let change = || Netlink::open()?.set_mac("s0", NEW);
    lab.server.run(change).expect("another address");
    let learn = || Netlink::open()?.add_neighbour("wan0", SERVER, NEW);
    lab.device.run(learn).expect("the kernel takes it");
    std::thread::sleep(Duration::from_millis(200));
    let answered = (0..50).filter(|_| flow.ask() == Some(seen)).count();
    assert_eq!(answered, 50);
    let after = lab.until("it counts", |status| {
        fast(status, "hits") >= fast(&before, "hits") + 90
    });
    assert!(received(&after) < received(&before) + 20, "{after:#?}");

    lab.node.signal(Signal::STOP).expect("SIGSTOP");
    let answered = (0..100).filter(|_| flow.ask() == Some(seen)).count();
    lab.node.signal(Signal::CONT).expect("SIGCONT");
    assert_eq!(answered, 100, "immutable mappings go on");
    assert_eq!(
        lab.begin(&lab.socket()).ip(),
        seen.ip(),
        "and so does the process"
    );
}

#[test]
fn a_mapping_used_in_the_kernel_alone_lives_on_and_an_idle_one_ends() {
    let timeouts = "[nat.timeouts]\nudp = \"8s\"\n";
    let Some(lab) = Lab::start(timeouts) else {
        return;
    };
    let (used, idle) = (lab.socket(), lab.socket());
    let (seen, gone) = (lab.begin(&used), lab.begin(&idle));
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        assert_eq!(used.ask(), Some(seen), "its mapping never changes");
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = lab.until("it counts", |status| fast(status, "hits") >= 300);
    assert!(received(&status) < 100, "{status:#?}");
    // Nobody keeps the other: what comes for it reaches nobody.
    let strange = move || {
        let socket = UdpSocket::bind((SERVER, PORT + 1))?;
        socket.send_to(b"anybody?", gone)?;
        socket.send_to(b"anybody?", seen)
    };
    lab.server.run(strange).expect("sent");
    // Connected sockets take what their server sends alone; so ask the instance.
    let status = lab.until("the stranger was refused once", |status| {
        status["function"]["drops"]["no-mapping"].as_u64() == Some(1)
    });
    assert_eq!(status["function"]["fast_path"]["wayless"], 0);
}

/// Where the driver's own mode cannot be had or is not wanted, the stack's does the same.
#[test]
fn generic_mode_forwards_too() {
    let Some(lab) = Lab::start("[fast-path]\nmode = \"generic\"\n") else {
        return;
    };
    let flow = lab.socket();
    let seen = lab.begin(&flow);
    let answered = (0..200).filter(|_| flow.ask() == Some(seen)).count();
    assert_eq!(answered, 200);
    let status = lab.until("it says so", |status| fast(status, "hits") >= 400);
    assert!(received(&status) < 60, "{status:#?}");
    let mode = &status["function"]["interfaces"]["lan0"]["mode"];
    assert_eq!(mode, "fast path in XDP generic, others by AF_XDP copy");
}

/// The packets of many flows arrive on all queues: each is served, in the kernel and before.
#[test]
fn several_queues_are_served() {
    let queues = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4));
    let Some(lab) = Lab::with_queues(queues as u32, "") else {
        return;
    };
    let flows: Vec<Flow> = (0..64).map(|_| lab.socket()).collect();
    let seen: Vec<SocketAddr> = flows.iter().map(|flow| lab.begin(flow)).collect();
    for _ in 0..10 {
        for (flow, seen) in flows.iter().zip(&seen) {
            assert_eq!(flow.ask(), Some(*seen));
        }
    }
    let status = lab.until("it counts", |status| fast(status, "hits") >= 2 * 10 * 64);
    assert!(received(&status) < 64 * 6, "{status:#?}");
    for side in ["inside", "outside"] {
        let missed = &status["function"]["counters"][format!("{side}-no-socket")];
        assert_eq!(missed.as_u64(), Some(0), "{status:#?}");
    }
}

/// Where its tables cannot be had the node goes on without them, and says why.
#[test]
fn without_memory_for_its_tables_the_process_forwards_everything() {
    const LARGE: &str = "[fast-path]\nflows = 4194304\n";
    /// The tables alone are 256 MiB.
    const LACKING: u64 = 150_000;
    let Some(lab) = Lab::start(LARGE) else { return };
    let status = lab.until("it has them", |status| {
        !status["function"]["fast_path"].is_null()
    });
    let file = fs::read_to_string(format!("/proc/{}/status", status["pid"])).expect("its status");
    let peak = file.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let peak = peak.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    drop(lab);
    let Some(lab) = Lab::within(peak.expect("a number") - LACKING, LARGE) else {
        return;
    };
    let flow = lab.socket();
    let seen = lab.begin(&flow);
    assert_eq!((0..50).filter(|_| flow.ask() == Some(seen)).count(), 50);
    let status = lab.until("it says so", |status| received(status) >= 100);
    assert!(status["function"]["fast_path"].is_null(), "{status:#?}");
    let why = status["function"]["fast_path_off"]
        .as_str()
        .unwrap_or_default();
    assert!(why.contains("flows4") && why.contains("memory"), "{why}");
}

/// Without the fast path all packets come to the process, which says why.
#[test]
fn without_it_the_process_forwards_everything() {
    let Some(lab) = Lab::with_queues(1, "[fast-path]\nenabled = false\n") else {
        return;
    };
    let flow = lab.socket();
    let seen = lab.begin(&flow);
    let answered = (0..100).filter(|_| flow.ask() == Some(seen)).count();
    assert_eq!(answered, 100);
    let status = lab.until("it says so", |status| received(status) >= 200);
    assert!(status["function"]["fast_path"].is_null(), "{status:#?}");
    let why = &status["function"]["fast_path_off"];
    assert_eq!(why, "the configuration says so");
}
