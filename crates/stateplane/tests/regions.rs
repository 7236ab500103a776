//! Regions in use, by real processes: tables of replicas read in place, and copies of regions
//! between two namespaces.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use stateplane_committed::{Committed, Found};
use stateplane_host::spawn::Process;
use stateplane_region::{Host, Name, ReadError, Spec};
use support::sites::{BYTES, Original, REGION, broker, read, said, site, sites, start};
use support::{Client, LIMIT, Node, nodes, stateplane, until};

/// A group of three replicas, with a front end, all on this machine.
fn group(dir: &Path) -> (PathBuf, u16) {
    let sockets: Vec<_> = (0..5)
        .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("port"))
        .collect();
    let at = |n: usize| sockets[n].local_addr().expect("address");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = port.local_addr().expect("address").port();
    let dir_text = dir.display();
    let mut text = format!(
        "[cluster]\nname = \"t\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         admin-dir = \"{dir_text}\"\n\
         [state]\nbackend = \"group\"\nreplicas = [\"r1\", \"r2\", \"r3\"]\nsequencer = \"seq\"\n\
         [regions]\ndir = \"{dir_text}/regions\"\n\
         tables = [ {{ name = \"redis.keys\", rows = 5000, key-bytes = 20, value-bytes = 80 }} ]\n\
         [node.seq]\nroles = [\"sequencer\"]\ncontrol = \"{}\"\n\
         [node.front]\nroles = [\"resp\"]\ncontrol = \"{}\"\nlisten = \"127.0.0.1:{port}\"\n",
        at(0),
        at(4)
    );
    for n in 1..=3 {
        text += &format!(
            "[node.r{n}]\nroles = [\"replica\"]\ncontrol = \"{}\"\n",
            at(n)
        );
    }
    let config = dir.join("t.toml");
    fs::write(&config, text).expect("write");
    (config, port)
}

/// One replica's tables, of whichever process shares them.
struct Tables {
    host: Host,
    name: Name,
    open: Option<Committed>,
    last: u64,
}

impl Tables {
    fn new(host: &Host, replica: u8) -> Self {
        Self {
            host: host.clone(),
            name: format!("/t/r{replica}/tables").parse().expect("a name"),
            open: None,
            last: 0,
        }
    }

    /// What the copy says about a key.
    fn look(&mut self, key: &str) -> Option<bool> {
        let attach = |host: &Host, name: &Name| {
            let reader = host.attach(name, stateplane_committed::SCHEMA).ok()?;
            Committed::open(reader).ok()
        };
        if self.open.is_none() {
            self.open = Some(attach(&self.host, &self.name)?);
        }
        let open = self.open.as_ref()?;
        let table = open.table("redis.keys")?;
        let mut value = [0; 80];
        match open.get(table, key.as_bytes(), &mut value) {
            Err(ReadError::Superseded { .. }) => {
                self.open = None;
                None
            }
            Err(_) => None,
            Ok(answer) => {
                assert!(answer.at.slot >= self.last, "{} went back", self.name);
                self.last = answer.at.slot;
                match answer.found {
                    Found::Value(len) => Some(value[..len].ends_with(key.as_bytes())),
                    Found::Absent => Some(false),
                    Found::Unknown => panic!("there is room for all"),
                }
            }
        }
    }

    fn wait(&mut self, key: &str) {
        until(&format!("{} has {key}", self.name), || {
            self.look(key).filter(|there| *there)
        });
    }
}

#[test]
fn tables_of_replicas_are_read_in_place_through_kills() {
    let dir = tempfile::tempdir().expect("directory");
    let (_broker, host) = broker(&dir.path().join("regions"));
    let (config, port) = group(dir.path());
    let mut rest: Vec<Node> = ["seq", "r2", "r3", "front"]
        .iter()
        .map(|name| Node::start(&config, name))
        .collect();
    let first = Node::start(&config, "r1");
    until("all are ready", || {
        let nodes = nodes(&config);
        let ready = nodes.iter().filter(|node| node["ready"] == true).count();
        (ready == 5).then_some(())
    });
    let mut client = Client::connect(port);
    let mut tables = [1, 2, 3].map(|replica| Tables::new(&host, replica));
    let mut set = |from: usize, to: usize| {
        for n in from..to {
            let key = format!("key:{n}");
            assert_eq!(client.ask(&["SET", &key, &key]), "+OK");
        }
    };
    set(0, 300);
    for table in &mut tables {
        table.wait("key:299");
        for n in 0..300 {
            assert_eq!(table.look(&format!("key:{n}")), Some(true), "{n}");
        }
        assert_eq!(table.look("key:300"), Some(false));
    }

    // Whoever leads: r1 does at first, and is killed. Its last version stays to be read.
    first.kill();
    set(300, 400);
    tables[1].wait("key:399");
    tables[2].wait("key:399");
    assert_eq!(
        tables[0].look("key:299"),
        Some(true),
        "what a dead process left"
    );

    // It comes back without memory, and shares what it gets from the others.
    rest.push(Node::start(&config, "r1"));
    tables[0].wait("key:399");
    for n in 0..400 {
        assert_eq!(tables[0].look(&format!("key:{n}")), Some(true), "{n}");
    }
    // A node publishes what it says of itself a few times a second.
    until("all three tables are shown", || {
        let mut show = stateplane(&["show", "regions", "--config"]);
        let shown = show.arg(&config).output().expect("show").stdout;
        let shown = String::from_utf8_lossy(&shown);
        (shown.matches("redis.keys").count() == 3).then_some(())
    });
    drop(rest);
}

/// One entry: from the first of `sites` to all others. `how`: more that is said of the region.
fn copied(sites: u8, how: &str) -> String {
    let to: Vec<String> = (2..=sites).map(|n| format!("\"site{n}\"")).collect();
    format!("from = \"site1\", to = [{}]{how}", to.join(", "))
}

#[test]
fn a_region_is_copied_to_another_machine_through_loss_and_restarts() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let spaces = sites::<2>().expect("the network");
    let configs = [1, 2].map(|n| site(dir.path(), n, 2, &[copied(2, "")]));
    let brokers = [1, 2].map(|n| broker(&dir.path().join(format!("site{n}"))));
    let mut source = start(&configs[0], 1, &spaces[0]);

    let spec = Spec::bytes(BYTES).schema("w1");
    let region = brokers[0].1.create(&REGION.parse().expect("a name"), &spec);
    let mut original = Original(region.expect("created"), 0);
    let mut reader = None;
    let mut follow = |original: &mut Original, span: Duration| {
        let (start, before) = (Instant::now(), original.1);
        let mut seen = 0;
        while start.elapsed() < span || (seen <= before && start.elapsed() < LIMIT) {
            original.publish();
            seen = read(&brokers[1].1, &mut reader).unwrap_or(0).max(seen);
            thread::sleep(Duration::from_millis(2));
        }
        assert!(seen > before, "nothing new came: {seen}, {before}");
    };
    // One that comes late, in a network that loses a tenth, both ways.
    (0..100).for_each(|_| original.publish());
    let mut copy = start(&configs[1], 2, &spaces[1]);
    follow(&mut original, Duration::from_secs(2));
    // Either end is killed and comes back.
    copy.kill().expect("SIGKILL");
    let copy = start(&configs[1], 2, &spaces[1]);
    follow(&mut original, Duration::from_secs(1));
    source.kill().expect("SIGKILL");
    let source = start(&configs[0], 1, &spaces[0]);
    follow(&mut original, Duration::from_secs(1));

    until("the copy is the original", || {
        let seen = read(&brokers[1].1, &mut reader)?;
        (seen == original.1).then_some(())
    });
    let shown = until("it says so", || {
        let nodes = nodes(&configs[1]);
        let here = nodes.iter().find(|node| node["node"] == "site2")?;
        let received = here["regions"]["received"][0].clone();
        (received["version"].as_u64()? > 0).then_some(received)
    });
    assert!(shown["lost"].as_u64() > Some(0), "{shown}");
    assert!(shown["age_ms"].as_f64() > Some(0.0), "{shown}");
    drop((source, copy));
}

#[test]
fn a_region_is_multicast_to_several_machines_through_loss() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let spaces = sites::<3>().expect("the network");
    let group = ", multicast = \"239.192.78.1:7900\"";
    let configs = [1, 2, 3].map(|n| site(dir.path(), n, 3, &[copied(3, group)]));
    let brokers = [1, 2, 3].map(|n| broker(&dir.path().join(format!("site{n}"))));
    let running: Vec<Process> = (1..)
        .zip(configs.iter().zip(&spaces))
        .map(|(n, (config, space))| start(config, n, space))
        .collect();
    let spec = Spec::bytes(BYTES).schema("w1");
    let region = brokers[0].1.create(&REGION.parse().expect("a name"), &spec);
    let mut original = Original(region.expect("created"), 0);
    let mut readers = [None, None];
    // Until both have heard the group, and something that one of them lost was repaired.
    until("the group was heard, and repaired", || {
        original.publish();
        for (reader, (_, host)) in readers.iter_mut().zip(&brokers[1..]) {
            read(host, reader);
        }
        let heard = |n: u8| said(&configs[usize::from(n) - 1], n, "received", "by_group");
        let repaired = said(&configs[0], 1, "sent", "repairs")? > 0;
        let grouped = said(&configs[0], 1, "sent", "to_group")? > 0;
        (grouped && repaired && heard(2)? > 0 && heard(3)? > 0).then_some(())
    });
    until("both copies are the original", || {
        let pairs = readers.iter_mut().zip(&brokers[1..]);
        let seen: Vec<_> = pairs.map(|(r, (_, host))| read(host, r)).collect();
        (seen == [Some(original.1); 2]).then_some(())
    });
    drop(running);
}
