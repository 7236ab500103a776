//! Two sequencers of one group, real processes: the one that serves is killed under a
//! client, the other takes over, the first comes back and stands by.

mod support;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Client, Node};

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
    let nodes = support::nodes(config);
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
fn increment(client: &mut Client) -> Option<i64> {
    let reply = client.ask(&["INCR", "c"]);
    reply.strip_prefix(':')?.parse().ok()
}

#[test]
fn the_standby_takes_over_from_a_killed_sequencer_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("directory");
    let (config, port) = write(dir.path());
    let mut first = Some(Node::start(&config, "seq"));
    let _others = ["r1", "r2", "r3", "seq2", "front"].map(|node| Node::start(&config, node));
    wait(&config, "seq", "serves", |s| {
        s["session"] != 0 && !s["session"].is_null()
    });
    wait(&config, "seq2", "stands by", |s| s["stands_by"] == true);

    let mut client = Client::connect(port);
    let mut last = (1..=200)
        .find_map(|_| increment(&mut client))
        .expect("a store");
    let mut unanswered = 0;
    let mut longest = Duration::ZERO;
    for n in 0..4_000 {
        if n == 1_000 {
            first.take().into_iter().for_each(Node::kill);
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

    let _first = Node::start(&config, "seq");
    wait(&config, "seq", "stands by", |s| s["stands_by"] == true);
    wait(&config, "seq2", "serves", |s| {
        s["stands_by"] == false && s["session"] != 0
    });
    assert_eq!(increment(&mut client), Some(last + 1));
}
