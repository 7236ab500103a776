//! Two sequencers of one group, real processes: the one that serves is killed under a
//! client, the other takes over, the first comes back and stands by.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Kills what is left when a test ends early.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(config: &Path, node: &str) -> Node {
    let dir = config.parent().expect("a directory");
    let log = fs::File::create(dir.join(format!("{node}.log"))).expect("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
    command
        .args(["run", "--node", node, "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Node(command.spawn().expect("the binary starts"))
}

/// Two sequencers, three replicas and a front end, which listens on the port.
fn write(dir: &Path) -> (PathBuf, u16) {
    // Ports nobody uses now; the race for them is lost too rarely to matter.
    let sockets: Vec<_> = (0..6)
        .map(|_| UdpSocket::bind("127.0.0.1:0").expect("port"))
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let listen = listener.local_addr().expect("address");
    let mut text = format!(
        "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{}\"\n[state]\nbackend = \"group\"\n\
         sequencers = [\"seq\", \"seq2\"]\nreplicas = [\"r1\", \"r2\", \"r3\"]\n",
        dir.display()
    );
    let roles = [
        ("seq", "sequencer"),
        ("seq2", "sequencer"),
        ("r1", "replica"),
        ("r2", "replica"),
        ("r3", "replica"),
        ("front", "resp"),
    ];
    for ((name, role), socket) in roles.iter().zip(&sockets) {
        let control = socket.local_addr().expect("address");
        text += &format!("[node.{name}]\nroles = [\"{role}\"]\ncontrol = \"{control}\"\n");
    }
    text += &format!("listen = \"{listen}\"\n");
    let config = dir.join("standby.toml");
    fs::write(&config, text).expect("write");
    (config, listen.port())
}

/// What a node says, by `show nodes --json`.
fn status(config: &Path, node: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
    command
        .args(["show", "nodes", "--json", "--config"])
        .arg(config);
    let output = command.output().expect("show");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let nodes = value["nodes"].as_array().cloned().unwrap_or_default();
    let found = nodes.into_iter().find(|n| n["node"] == node);
    found.unwrap_or_default()
}

fn wait(config: &Path, node: &str, what: &str, until: impl Fn(&Value) -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = status(config, node);
        if until(&seen["sequencer"]) {
            return;
        }
        assert!(
            Instant::now() < limit,
            "waiting until {node} {what}: {seen:#}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Adds one to a counter; its new value, unless the store did not answer in time.
fn increment(client: &mut BufReader<TcpStream>) -> Option<i64> {
    let request = b"*2\r\n$4\r\nINCR\r\n$1\r\nc\r\n";
    client.get_mut().write_all(request).expect("write");
    let mut line = String::new();
    client.read_line(&mut line).expect("a reply");
    line.strip_prefix(':')?.trim_end().parse().ok()
}

fn connect(port: u16) -> BufReader<TcpStream> {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return BufReader::new(stream),
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_standby_takes_over_from_a_killed_sequencer_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("directory");
    let (config, port) = write(dir.path());
    let mut first = start(&config, "seq");
    let _others = ["r1", "r2", "r3", "seq2", "front"].map(|node| start(&config, node));
    wait(&config, "seq", "serves", |s| {
        s["session"] != 0 && !s["session"].is_null()
    });
    wait(&config, "seq2", "stands by", |s| s["stands_by"] == true);

    let mut client = connect(port);
    let mut last = (1..=200)
        .find_map(|_| increment(&mut client))
        .expect("a store");
    let mut unanswered = 0;
    let mut longest = Duration::ZERO;
    for n in 0..4_000 {
        if n == 1_000 {
            first.0.kill().expect("SIGKILL");
            first.0.wait().expect("it ended");
        }
        let before = Instant::now();
        match increment(&mut client) {
            // Each once, none lost: what was answered is there, and at most what was not
            // answered has been added besides.
            Some(sum) => {
                assert!(
                    sum > last && sum <= last + 1 + unanswered,
                    "{last} then {sum}"
                );
                (last, unanswered) = (sum, 0);
            }
            None => unanswered += 1,
        }
        longest = longest.max(before.elapsed());
    }
    println!("longest time without an answer: {} ms", longest.as_millis());
    assert_eq!(unanswered, 0, "the standby serves");

    let _first = start(&config, "seq");
    wait(&config, "seq", "stands by", |s| s["stands_by"] == true);
    wait(&config, "seq2", "serves", |s| {
        s["stands_by"] == false && s["session"] != 0
    });
    assert_eq!(increment(&mut client), Some(last + 1));
}
