//! A sequencer that stamps in the network: real processes in namespaces, joined by veth.
//!
//! ```text
//!   client c0 ──── lc [ sequencer ] l1 ──── r0 replica 1, l2 ── replica 2, l3 ── replica 3
//! ```
//! The sequencer's namespace forwards everything else between them.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;

const NODES: [&str; 5] = ["seq", "cl", "r1", "r2", "r3"];
const ARRIVES: &str = "l1";

fn address(node: usize) -> Ipv4Addr {
    match node {
        0 => gateway(1),
        n => Ipv4Addr::new(10, 77, n as u8, 2),
    }
}

fn gateway(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, node as u8, 1)
}

struct Lab {
    spaces: Vec<Namespace>,
    dir: tempfile::TempDir,
}

impl Lab {
    /// `stamping` are the sequencer's keys that say how.
    fn build(stamping: &str) -> std::io::Result<Self> {
        let spaces: Result<Vec<_>, _> = NODES.iter().map(|n| Namespace::create(n)).collect();
        let spaces = spaces?;
        spaces[0].set_sysctls(&[("ipv4/ip_forward", "1")])?;
        for (node, space) in spaces.iter().enumerate().skip(1) {
            let (here, there) = (format!("l{node}"), format!("e{node}"));
            let far = space.try_clone()?;
            let (link, end) = (here.clone(), there.clone());
            spaces[0].run(move || {
                let netlink = Netlink::open()?;
                netlink.add_veth(&link, &end)?;
                netlink.move_to(&end, far.as_fd())?;
                netlink.add_address(&link, gateway(node), 24)?;
                netlink.set_up(&link)?;
                ethtool::set_offload(&link, Offload::TxChecksum, false)
            })?;
            space.run(move || {
                let netlink = Netlink::open()?;
                netlink.add_address(&there, address(node), 24)?;
                netlink.set_up("lo")?;
                netlink.set_up(&there)?;
                ethtool::set_offload(&there, Offload::TxChecksum, false)?;
                // Redirected frames are received only by a device that polls.
                ethtool::set_offload(&there, Offload::Gro, true)?;
                netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, gateway(node))
            })?;
        }
        let dir = tempfile::tempdir()?;
        let lab = Self { spaces, dir };
        lab.configure(stamping)?;
        Ok(lab)
    }

    fn configure(&self, stamping: &str) -> std::io::Result<()> {
        let dir = self.dir.path();
        fs::write(dir.join("lab.toml"), config(dir, stamping))
    }

    /// Whether the replicas' ends of the veths take what XDP programs send them.
    fn replicas_take_copies(&self, yes: bool) {
        for node in 2..NODES.len() {
            let end = format!("e{node}");
            let set = move || ethtool::set_offload(&end, Offload::Gro, yes);
            self.spaces[node].run(set).expect("GRO can be switched");
        }
    }

    fn start(&self, node: usize) -> Process {
        let name = NODES[node];
        let log = fs::File::create(self.dir.path().join(format!("{name}.log"))).expect("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
        command
            .args(["run", "--node", name, "--config"])
            .arg(self.dir.path().join("lab.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Process::spawn(name, command, &self.spaces[node]).expect("the binary starts")
    }

    fn wait(&self, what: &str, mut until: impl FnMut(&[Value]) -> bool) -> Vec<Value> {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let nodes = support::nodes(&self.dir.path().join("lab.toml"));
            if until(&nodes) {
                return nodes;
            }
            if Instant::now() >= limit {
                let log = fs::read_to_string(self.dir.path().join("seq.log")).unwrap_or_default();
                panic!("waiting until {what}: {nodes:#?}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `count` increments through the front end, one at a time; the last answer.
    fn increment(&self, count: u32) -> u32 {
        let run = move || {
            let front = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6379);
            let mut stream = TcpStream::connect(front)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut last = String::new();
            for _ in 0..count {
                stream.write_all(b"INCR xdp\r\n")?;
                last.clear();
                let mut byte = [0];
                while !last.ends_with("\r\n") {
                    stream.read_exact(&mut byte)?;
                    last.push(char::from(byte[0]));
                }
                assert!(last.starts_with(':'), "an operation failed: {last}");
            }
            Ok(last
                .trim_matches([':', '\r', '\n'])
                .parse()
                .expect("a number"))
        };
        self.spaces[1].run(run).expect("the front end answers")
    }

    /// Whether an XDP program is on the interface that requests arrive at.
    fn is_stamping(&self) -> bool {
        let mut command = Command::new("ip");
        command
            .args(["link", "show", ARRIVES])
            .stdout(Stdio::piped());
        let mut ip = Process::spawn("ip", command, &self.spaces[0]).expect("ip starts");
        let mut text = String::new();
        let mut output = ip.pipes().stdout.take().expect("piped");
        output.read_to_string(&mut text).expect("text");
        text.contains("prog/xdp")
    }
}

fn config(dir: &Path, stamping: &str) -> String {
    let mut text = format!(
        "[cluster]\nname = \"x\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\nadmin-dir = \"{}\"\n\
         [state]\nbackend = \"group\"\nsequencer = \"seq\"\nreplicas = [\"r1\", \"r2\", \"r3\"]\n\
         [node.seq]\nroles = [\"sequencer\"]\ncontrol = \"{}:7500\"\n{stamping}\
         [node.cl]\nroles = [\"resp\"]\ncontrol = \"{}:7501\"\nlisten = \"127.0.0.1:6379\"\n",
        dir.display(),
        address(0),
        address(1)
    );
    for (n, name) in NODES.iter().enumerate().skip(2) {
        let address = address(n);
        text += &format!("[node.{name}]\nroles = [\"replica\"]\ncontrol = \"{address}:7502\"\n");
    }
    text
}

fn ready(nodes: &[Value]) -> bool {
    nodes.len() == NODES.len() && nodes.iter().all(|node| node["ready"] == true)
}

fn stamped(nodes: &[Value]) -> u64 {
    let offload = |node: &Value| node["sequencer"]["offload"]["stamped"].as_u64();
    nodes.iter().find_map(offload).unwrap_or(0)
}

/// Who stamps, in the sequencer's words.
fn stamping(nodes: &[Value]) -> &str {
    let said = |node: &'_ Value| node["sequencer"]["stamping"].is_string();
    let node = nodes.iter().find(|node| said(node));
    node.map_or("", |node| {
        node["sequencer"]["stamping"].as_str().unwrap_or("")
    })
}

const XDP: &str = "mode = \"xdp\"\ninterface = \"l1\"\n";
const AUTO: &str = "interface = \"l1\"\n";

#[test]
fn operations_stamped_in_the_network_commit_and_a_killed_agent_takes_the_program_with_it() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces and XDP need root");
        return;
    }
    let lab = Lab::build(XDP).expect("the network");
    let _rest: Vec<Process> = (1..5).map(|node| lab.start(node)).collect();
    let mut agent = lab.start(0);
    lab.wait("all are ready, and the program stamps", |nodes| {
        ready(nodes) && stamping(nodes).starts_with("in the network")
    });
    assert!(lab.is_stamping());
    assert_eq!(lab.increment(300), 300);
    let nodes = lab.wait("the program's numbers are told", |nodes| {
        stamped(nodes) >= 300
    });
    let sequencer = nodes.iter().find(|n| n["node"] == "seq").expect("there");
    assert!(
        sequencer["sequencer"]["sequence"].as_u64() >= Some(300),
        "{sequencer}"
    );

    agent.kill().expect("SIGKILL");
    assert!(!lab.is_stamping(), "the program left with its agent");
    let mut agent = lab.start(0);
    lab.wait("the next agent has a session", |nodes| {
        ready(nodes) && stamped(nodes) < 300 && stamping(nodes).starts_with("in the network")
    });
    assert_eq!(lab.increment(100), 400, "each once, before and after");
    agent.stop(Duration::from_secs(10)).expect("it stops");
    assert!(!lab.is_stamping(), "and when it is asked to");
}

/// Left to itself the sequencer stamps where it can, goes over when that changes, and nobody
/// notices but by the words for it: no number is skipped or given twice.
#[test]
fn where_xdp_does_not_work_requests_are_stamped_in_user_space_all_the_same() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces and XDP need root");
        return;
    }
    let lab = Lab::build(AUTO).expect("the network");
    lab.replicas_take_copies(false);
    let _rest: Vec<Process> = (1..5).map(|node| lab.start(node)).collect();
    let mut agent = lab.start(0);
    let nodes = lab.wait("all are ready", |nodes| {
        ready(nodes) && !stamping(nodes).contains("until")
    });
    if stamping(&nodes).starts_with("in the network") {
        println!("skipped: this kernel does not tell which interfaces send copies");
        return;
    }
    assert!(stamping(&nodes).contains("GRO"), "{nodes:#?}");
    assert_eq!(lab.increment(100), 100);
    lab.replicas_take_copies(true);
    lab.wait("the program takes over", |nodes| {
        stamping(nodes) == "in the network: native XDP at l1"
    });
    assert_eq!(lab.increment(100), 200);
    lab.replicas_take_copies(false);
    lab.wait("the agent takes over", |nodes| {
        stamping(nodes).starts_with("in user space")
    });
    assert_eq!(lab.increment(100), 300);
    let nodes = lab.wait("its numbers are told", |nodes| {
        let sequencer = nodes.iter().find(|node| node["node"] == "seq");
        sequencer.is_some_and(|node| node["sequencer"]["sequence"].as_u64() >= Some(300))
    });
    let program = stamped(&nodes);
    assert!((100..300).contains(&program), "{program} by the program");

    agent.stop(Duration::from_secs(10)).expect("it stops");
    lab.configure("interface = \"gone0\"\n").expect("the file");
    let _agent = lab.start(0);
    lab.wait("it stamps without an interface", |nodes| {
        ready(nodes)
            && stamping(nodes).starts_with("in user space")
            && stamping(nodes).contains("gone0")
    });
    assert_eq!(lab.increment(100), 400);
}
