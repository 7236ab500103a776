//! A durable group of real processes that loses power while clients write: whatever was
//! answered is there afterwards. What being durable costs is printed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stateplane_wire::wal::{FileHead, encode_frame, scan};
use support::{Client, Node, write_on};

const REPLICAS: [&str; 3] = ["r1", "r2", "r3"];

struct Group {
    // Ends before its directory goes.
    running: BTreeMap<&'static str, Node>,
    dir: tempfile::TempDir,
    config: PathBuf,
    port: u16,
}

impl Group {
    fn new(durable: bool) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        // Ports nobody uses now; the race for them is lost too rarely to matter.
        let sockets: Vec<_> = (0..5)
            .map(|_| UdpSocket::bind("127.0.0.1:0").expect("port"))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = |n: usize| sockets[n].local_addr().expect("address").to_string();
        let listen = listener.local_addr().expect("address");
        let (shown, disks) = (dir.path().display(), dir.path().join("disks"));
        let mut text = format!(
            "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
             admin-dir = \"{shown}\"\n[state]\nbackend = \"group\"\nsequencer = \"seq\"\n\
             replicas = [\"r1\", \"r2\", \"r3\"]\n"
        );
        if durable {
            text += &format!("durable = true\ndir = \"{}\"\n", disks.display());
        }
        text += &format!(
            "[node.seq]\nroles = [\"sequencer\"]\ncontrol = \"{}\"\n\
             [node.front]\nroles = [\"resp\"]\ncontrol = \"{}\"\nlisten = \"{listen}\"\n",
            address(0),
            address(1)
        );
        for (n, name) in (2..).zip(REPLICAS) {
            let address = address(n);
            text += &format!("[node.{name}]\nroles = [\"replica\"]\ncontrol = \"{address}\"\n");
        }
        let config = dir.path().join("group.toml");
        fs::write(&config, text).expect("write");
        let mut group = Self {
            config,
            dir,
            port: listen.port(),
            running: BTreeMap::new(),
        };
        drop((sockets, listener));
        group.power_on();
        group.start("front");
        group
    }

    fn start(&mut self, node: &'static str) {
        self.running.insert(node, Node::start(&self.config, node));
    }

    fn power_on(&mut self) {
        self.start("seq");
        REPLICAS.into_iter().for_each(|name| self.start(name));
    }

    fn kill(&mut self, names: &[&'static str]) {
        for name in names {
            let node = self.running.get_mut(name).expect("runs");
            node.0.kill().expect("SIGKILL");
        }
        for name in names {
            let mut node = self.running.remove(name).expect("runs");
            node.0.wait().expect("it ended");
        }
    }

    fn power_off(&mut self) {
        self.kill(&["r1", "r2", "r3", "seq"]);
    }

    /// What the replicas say, once all of them serve.
    fn wait(&self) -> BTreeMap<String, Value> {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let nodes = support::nodes(&self.config);
            if nodes.iter().filter(|n| n["ready"] == true).count() == 5 {
                let name = |n: &Value| n["node"].as_str().unwrap_or_default().to_owned();
                let replica = |n: Value| (name(&n), n["replica"].clone());
                return nodes.into_iter().map(replica).collect();
            }
            assert!(
                Instant::now() < limit,
                "all serve: {nodes:#?} {}",
                self.logs()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn logs(&self) -> String {
        let read = |name| fs::read_to_string(self.dir.path().join(format!("{name}.log")));
        REPLICAS.map(|name| read(name).unwrap_or_default()).concat()
    }

    /// The last segment of a replica's journal.
    fn segment(&self, replica: &str) -> PathBuf {
        let files = fs::read_dir(self.dir.path().join("disks").join(replica)).expect("list");
        let paths = files.map(|f| f.expect("entry").path());
        let segments = paths.filter(|p| p.extension().is_some_and(|e| e == "wal"));
        segments.max().expect("a segment")
    }
}

/// A record that was being written when the power went: half of it is there.
fn leave_a_torn_record(segment: &Path) {
    let bytes = fs::read(segment).expect("read");
    let (head, start) = FileHead::decode(&bytes).expect("a segment");
    let found = scan(&bytes, start, head.sequence);
    let next = head.sequence + found.records.len() as u64;
    let mut frame = Vec::new();
    encode_frame(next, &[7; 600], &mut frame);
    frame.truncate(frame.len() / 2);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(segment)
        .expect("open");
    file.set_len(found.end as u64).expect("cut");
    file.write_all_at(&frame, found.end as u64).expect("write");
}

#[test]
fn what_was_answered_survives_the_loss_of_all_processes_at_once() {
    let mut group = Group::new(true);
    let first = group.wait();
    let stop = AtomicBool::new(false);
    let port = group.port;
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                scope.spawn({
                    let stop = &stop;
                    move || write_on(port, writer, stop)
                })
            })
            .collect();
        for torn in REPLICAS {
            thread::sleep(Duration::from_millis(400));
            group.power_off();
            leave_a_torn_record(&group.segment(torn));
            group.power_on();
            let nodes = group.wait();
            for name in REPLICAS {
                let disk = &nodes[name]["disk"];
                assert_eq!(disk["found"], "memory", "{name}: {disk}");
                assert_eq!(disk["torn"], name == torn, "{name}: {disk}");
                assert_eq!(nodes[name]["formation"], first[name]["formation"]);
            }
        }
        thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let done = writers.into_iter().map(|w| w.join().expect("a writer"));
        done.flatten().collect()
    });
    assert!(acknowledged.len() > 50, "{} writes", acknowledged.len());
    let mut client = Client::connect(port);
    for key in &acknowledged {
        assert_eq!(&client.ask(&["GET", key]), key, "of {}", acknowledged.len());
    }
    println!(
        "{} acknowledged writes, three power losses",
        acknowledged.len()
    );
}

#[test]
fn a_replica_with_a_damaged_disk_is_taken_in_again() {
    let mut group = Group::new(true);
    group.wait();
    let mut client = Client::connect(group.port);
    for n in 0..50 {
        let key = format!("k{n}");
        assert_eq!(client.ask(&["SET", &key, &key]), "+OK");
    }
    group.kill(&["r2"]);
    let segment = group.segment("r2");
    let (_, start) = FileHead::decode(&fs::read(&segment).expect("read")).expect("a segment");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&segment)
        .expect("open");
    file.write_all_at(b"rot", start as u64 + 50).expect("write");
    group.start("r2");
    let nodes = group.wait();
    assert_eq!(nodes["r2"]["disk"]["found"], "lost");
    assert!(
        group.logs().contains("the journal is damaged"),
        "{}",
        group.logs()
    );
    assert!(group.dir.path().join("disks/r2/damaged-1").is_dir());
    // Its new memory is as good as any.
    group.power_off();
    group.power_on();
    let nodes = group.wait();
    assert_eq!(nodes["r2"]["disk"]["found"], "memory");
    for n in 0..50 {
        let key = format!("k{n}");
        assert_eq!(client.ask(&["GET", &key]), key);
    }
}

#[test]
fn what_durability_costs_is_known() {
    let rate = |durable: bool| {
        let group = Group::new(durable);
        group.wait();
        let (stop, port) = (AtomicBool::new(false), group.port);
        let started = Instant::now();
        let count: usize = thread::scope(|scope| {
            let writer = |n| {
                let stop = &stop;
                scope.spawn(move || write_on(port, n, stop))
            };
            let writers: Vec<_> = (0..16).map(writer).collect();
            thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
            let done = writers
                .into_iter()
                .map(|w| w.join().expect("a writer").len());
            done.sum()
        });
        let rate = count as f64 / started.elapsed().as_secs_f64();
        let nodes = group.wait();
        let syncs = nodes["r1"]["disk"]["syncs"].as_u64().unwrap_or(0);
        assert_eq!(syncs > 0, durable);
        println!("durable {durable}: {rate:.0} writes/s, {syncs} syncs at r1 for {count} writes");
        rate
    };
    let (volatile, durable) = (rate(false), rate(true));
    println!("durable / in memory = {:.2}", durable / volatile);
}
