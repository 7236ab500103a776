//! A group of real processes that changes its members while clients write: a dead replica
//! is replaced by a spare one, and nothing that was answered is lost.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Client, Node, said, stateplane, write_on};

struct Group {
    // Ends before its directory goes.
    running: BTreeMap<String, Node>,
    _dir: tempfile::TempDir,
    config: PathBuf,
    port: u16,
}

impl Group {
    /// Three members, one spare replica, and a front end for clients.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        // Ports nobody uses now; the race for them is lost too rarely to matter.
        let sockets: Vec<_> = (0..6)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("port"))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = |n: usize| sockets[n].local_addr().expect("address");
        let listen = listener.local_addr().expect("address");
        let mut text = format!(
            "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
             admin-dir = \"{}\"\n[state]\nbackend = \"group\"\nsequencer = \"seq\"\n\
             replicas = [\"r1\", \"r2\", \"r3\"]\nspares = [\"r4\"]\n\
             [node.seq]\nroles = [\"sequencer\"]\ncontrol = \"{}\"\n\
             [node.front]\nroles = [\"resp\"]\ncontrol = \"{}\"\nlisten = \"{listen}\"\n",
            dir.path().display(),
            address(0),
            address(1)
        );
        for n in 1..=4 {
            let address = address(n + 1);
            text += &format!("[node.r{n}]\nroles = [\"replica\"]\ncontrol = \"{address}\"\n");
        }
        let config = dir.path().join("group.toml");
        fs::write(&config, text).expect("write");
        let mut group = Self {
            config,
            _dir: dir,
            port: listen.port(),
            running: BTreeMap::new(),
        };
        drop((sockets, listener));
        for node in ["seq", "r1", "r2", "r3", "r4", "front"] {
            group.start(node);
        }
        group
    }

    fn start(&mut self, node: &str) {
        let started = Node::start(&self.config, node);
        self.running.insert(node.to_owned(), started);
    }

    fn kill(&mut self, node: &str) {
        self.running.remove(node).expect("runs").kill();
    }

    fn ask(&self, words: &[&str]) -> Output {
        let mut command = stateplane(&["group"]);
        command.args(words).arg("--config").arg(&self.config);
        command.output().expect("the command runs")
    }

    fn change(&self, words: &[&str]) -> Value {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let output = self.ask(&words);
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn refused(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        said(&output)
    }

    /// Who leads, once somebody does.
    fn leader(&self) -> String {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let output = self.ask(&["show", "--json"]);
            let group: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if let Some(leader) = group["leader"].as_str() {
                return leader.to_owned();
            }
            assert!(Instant::now() < limit, "a leader: {group:#}");
            thread::sleep(Duration::from_millis(30));
        }
    }
}

#[test]
fn a_replica_is_replaced_under_load_and_nothing_is_lost() {
    let mut group = Group::new();
    let leader = group.leader();
    let mut client = Client::connect(group.port);
    assert_eq!(client.ask(&["SET", "first", "1"]), "+OK");
    let others: Vec<String> = ["r1", "r2", "r3"]
        .map(String::from)
        .into_iter()
        .filter(|name| *name != leader)
        .collect();
    assert!(
        group
            .refused(&["add", &leader])
            .contains("a member already")
    );
    assert!(group.refused(&["remove", "r4"]).contains("not a member"));
    assert!(group.refused(&["add", "r9"]).contains("no node \"r9\""));

    let stop = AtomicBool::new(false);
    let port = group.port;
    let written: Vec<String> = thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> = (0..2)
            .map(|n| scope.spawn(move || write_on(port, n, stop)))
            .collect();
        thread::sleep(Duration::from_millis(200));
        // One dies and is replaced; then its successor helps to survive the leader.
        group.kill(&others[0]);
        let changed = group.change(&["replace", &others[0], "r4"]);
        let members: Vec<&str> = changed["members"]
            .as_array()
            .expect("members")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(members.contains(&"r4") && !members.contains(&others[0].as_str()));
        println!("replaced after {} ms", changed["took_ms"]);
        thread::sleep(Duration::from_millis(200));
        let leader = group.leader();
        group.kill(&leader);
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let joined = writers
            .into_iter()
            .map(|writer| writer.join().expect("wrote"));
        joined.flatten().collect()
    });
    assert!(written.len() > 100, "{} writes", written.len());
    for key in &written {
        assert_eq!(client.ask(&["GET", key]), *key, "an answered write is lost");
    }
}
