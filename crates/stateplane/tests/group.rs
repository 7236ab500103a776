//! A store group of real processes on the loopback: it forms, loses its leader
//! to SIGKILL, elects another, takes the former back, and stops when asked to.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Node;

struct Group {
    config: PathBuf,
}

impl Group {
    /// Three replicas, ordered by a sequencer or by their leader.
    fn new(dir: &Path, sequencer: bool) -> Self {
        // Ports nobody uses now; the race for them is lost too rarely to matter.
        let sockets: Vec<_> = (0..4)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("port"))
            .collect();
        let address = |n: usize| sockets[n].local_addr().expect("address").to_string();
        let mut text = format!(
            "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
             admin-dir = \"{}\"\n[state]\nbackend = \"group\"\n\
             replicas = [\"r1\", \"r2\", \"r3\"]\n",
            dir.display()
        );
        text += &match sequencer {
            true => format!(
                "sequencer = \"seq\"\n[node.seq]\nroles = [\"sequencer\"]\ncontrol = \"{}\"\n",
                address(0)
            ),
            false => "protocol = \"vr\"\n".to_owned(),
        };
        for n in 1..=3 {
            let address = address(n);
            text += &format!("[node.r{n}]\nroles = [\"replica\"]\ncontrol = \"{address}\"\n");
        }
        let config = dir.join("group.toml");
        fs::write(&config, text).expect("write");
        Self { config }
    }

    fn wait(&self, what: &str, mut until: impl FnMut(&[Value]) -> bool) -> Vec<Value> {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let nodes = support::nodes(&self.config);
            if until(&nodes) {
                return nodes;
            }
            assert!(Instant::now() < limit, "waiting until {what}: {nodes:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn ready(nodes: &[Value]) -> usize {
    nodes.iter().filter(|node| node["ready"] == true).count()
}

fn leader(nodes: &[Value]) -> Option<String> {
    let found = nodes
        .iter()
        .find(|node| node["replica"]["leader"] == true)?;
    found["node"].as_str().map(str::to_owned)
}

#[test]
fn a_group_survives_its_leader_and_takes_it_back() {
    loses_its_leader_and_takes_it_back(true);
}

#[test]
fn so_does_a_group_whose_leader_orders() {
    loses_its_leader_and_takes_it_back(false);
}

fn loses_its_leader_and_takes_it_back(sequencer: bool) {
    let dir = tempfile::tempdir().expect("directory");
    let group = Group::new(dir.path(), sequencer);
    let _sequencer = sequencer.then(|| Node::start(&group.config, "seq"));
    let all = 3 + usize::from(sequencer);
    let mut replicas: Vec<(String, Node)> = ["r1", "r2", "r3"]
        .map(|name| (name.to_owned(), Node::start(&group.config, name)))
        .into();
    let nodes = group.wait("the group has formed", |nodes| ready(nodes) == all);
    let first = leader(&nodes).expect("a leader");

    let (_, node) = replicas
        .iter_mut()
        .find(|(name, _)| *name == first)
        .expect("it runs");
    node.0.kill().expect("SIGKILL");
    node.0.wait().expect("it ended");
    let next = |nodes: &[Value]| leader(nodes).is_some_and(|name| name != first);
    group.wait("another leads", |nodes| {
        ready(nodes) == all - 1 && next(nodes)
    });

    *node = Node::start(&group.config, &first);
    group.wait("the former leader is back", |nodes| ready(nodes) == all);

    let (name, node) = &mut replicas[0];
    let pid = rustix::process::Pid::from_child(&node.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
    assert_eq!(node.0.wait().expect("it ended").code(), Some(0));
    assert!(
        !dir.path().join(format!("{name}.sock")).exists(),
        "the socket is removed"
    );
}
