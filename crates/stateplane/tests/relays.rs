//! A region over a relay, by real processes: from its writer's machine to that of a rack, and from
//! there to the others of it, in namespaces of their own, a tenth of all datagrams lost.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use stateplane_region::{Host, Reader, Spec, Writer};
use support::sites::{BYTES, Original, REGION, broker, read, said, site, sites, start};
use support::{LIMIT, nodes, until};

const ORIGIN: u8 = 1;
const RELAY: u8 = 2;
const LEAVES: [u8; 2] = [3, 4];

/// What is read at one leaf: only forwards.
struct Leaf<'a> {
    host: &'a Host,
    reader: Option<Reader<[u64]>>,
    seen: u64,
}

impl Leaf<'_> {
    fn look(&mut self) -> u64 {
        if let Some(seen) = read(self.host, &mut self.reader) {
            assert!(seen >= self.seen, "from {} back to {seen}", self.seen);
            self.seen = seen;
        }
        self.seen
    }
}

/// Publishes for a while, and until all of these leaves saw something of it.
fn stream(original: &mut Original, leaves: &mut [Leaf<'_>]) {
    let (begun, before) = (Instant::now(), original.1);
    while begun.elapsed() < Duration::from_secs(1) || leaves.iter().any(|leaf| leaf.seen <= before)
    {
        assert!(begun.elapsed() < LIMIT, "nothing new comes");
        original.publish();
        for leaf in &mut *leaves {
            leaf.look();
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn all_have_it(original: &Original, leaves: &mut [Leaf<'_>]) {
    until("all have the newest version", || {
        let all = leaves.iter_mut().all(|leaf| leaf.look() == original.1);
        all.then_some(())
    });
}

#[test]
fn a_relay_serves_its_rack_through_its_death_and_a_new_writer() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let spaces = sites::<4>().expect("the network");
    let ways = [
        "from = \"site1\", to = [\"site2\"]",
        "from = \"site2\", to = [\"site3\", \"site4\"]",
    ];
    let configs = [1, 2, 3, 4].map(|n| site(dir.path(), n, 4, &ways));
    let brokers = [1, 2, 3, 4].map(|n| broker(&dir.path().join(format!("site{n}"))));
    let run = |number: u8| -> Process {
        let index = usize::from(number) - 1;
        let space: &Namespace = &spaces[index];
        start(&configs[index], number, space)
    };
    let running = [run(ORIGIN), run(LEAVES[0])];
    let mut relay = run(RELAY);
    let (name, spec) = (
        REGION.parse().expect("a name"),
        Spec::bytes(BYTES).schema("w1"),
    );
    let home = &brokers[0].1;
    let mut original = Original(home.create(&name, &spec).expect("created"), 0);
    let mut leaves = LEAVES.map(|n| Leaf {
        host: &brokers[usize::from(n) - 1].1,
        reader: None,
        seen: 0,
    });
    stream(&mut original, &mut leaves[..1]);

    // One that comes late gets all of it from the relay.
    let late = run(LEAVES[1]);
    stream(&mut original, &mut leaves);

    // The relay dies in mid-stream: what leaves have stays whole, and says how old it grows.
    let dead = original.1;
    relay.kill().expect("SIGKILL");
    let age = |leaf: &Leaf<'_>| {
        leaf.reader
            .as_ref()?
            .snapshot()
            .ok()
            .map(|s| s.edition().age())
    };
    until("the leaves know that they are cut off", || {
        original.publish();
        let old = |leaf: &mut Leaf<'_>| {
            leaf.look();
            age(leaf) > Some(Duration::from_secs(1))
        };
        leaves.iter_mut().all(old).then_some(())
    });
    assert!(original.1 > dead && leaves.iter().all(|leaf| leaf.seen < original.1));
    // It comes back without memory of whom it served.
    let relay = run(RELAY);
    stream(&mut original, &mut leaves);
    all_have_it(&original, &mut leaves);

    // Another process takes the region over: leaves follow that one, and the former is fenced.
    let heir: Writer<[u64]> = home.take_over(&name, &spec).expect("taken over");
    let former = std::mem::replace(&mut original.0, heir);
    let (epoch, mut former) = (original.0.epoch(), former);
    former.edit_all().fill(7);
    assert!(former.publish().is_err() && former.epoch() < epoch);
    stream(&mut original, &mut leaves);
    all_have_it(&original, &mut leaves);

    for n in LEAVES {
        let config = &configs[usize::from(n) - 1];
        until("the leaf names the writer's epoch", || {
            (said(config, n, "received", "epoch") == Some(epoch)).then_some(())
        });
        let row = shown(config, n, "received");
        assert_eq!(row["path"], serde_json::json!(["site1", "site2"]), "{row}");
        assert!(row["age_ms"].as_f64() > Some(0.0), "{row}");
    }
    // What a leaf lost came from the relay; the origin knows of nobody else.
    until("a loss below the relay was repaired there", || {
        original.publish();
        (said(&configs[1], RELAY, "sent", "repairs")? > 0).then_some(())
    });
    let row = shown(&configs[0], ORIGIN, "sent");
    let direct = row["receivers"].as_object().expect("receivers");
    assert_eq!(direct.keys().collect::<Vec<_>>(), ["site2"], "{row}");
    drop((running, relay, late));
}

/// A rack of two, with two relays, each sending to the rack's group while it is asked: one is
/// killed, and the rack goes on by the other, until the first is back.
#[test]
fn a_rack_has_a_second_relay_and_a_group() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    const LEAVES: [u8; 2] = [4, 5];
    let dir = tempfile::tempdir().expect("directory");
    let spaces = sites::<5>().expect("the network");
    let ways = [
        "from = \"site1\", to = [\"site2\", \"site3\"]",
        "from = [\"site2\", \"site3\"], to = [\"site4\", \"site5\"], \
         multicast = \"239.192.78.2:7900\"",
    ];
    let configs = [1, 2, 3, 4, 5].map(|n| site(dir.path(), n, 5, &ways));
    let brokers = [1, 2, 3, 4, 5].map(|n| broker(&dir.path().join(format!("site{n}"))));
    let run = |number: u8| -> Process {
        let index = usize::from(number) - 1;
        start(&configs[index], number, &spaces[index])
    };
    let running = [1, 3, 4, 5].map(run);
    let mut relay = run(2);
    let name = REGION.parse().expect("a name");
    let original = brokers[0].1.create(&name, &Spec::bytes(BYTES).schema("w1"));
    let mut original = Original(original.expect("created"), 0);
    let mut leaves = LEAVES.map(|n| Leaf {
        host: &brokers[usize::from(n) - 1].1,
        reader: None,
        seen: 0,
    });
    // By the group of whoever is asked, and what one leaf lost from there to that one alone.
    let mut come_by = |relay: u8, leaves: &mut [Leaf<'_>; 2]| {
        stream(&mut original, leaves);
        let path = serde_json::json!(["site1", format!("site{relay}")]);
        let config = |n: u8| configs[usize::from(n) - 1].as_path();
        let before = LEAVES.map(|n| said(config(n), n, "received", "by_group"));
        until(
            &format!("all comes by site{relay}, and by its group"),
            || {
                original.publish();
                for leaf in &mut *leaves {
                    leaf.look();
                }
                let grouped = LEAVES.iter().zip(before).all(|(n, before)| {
                    shown(config(*n), *n, "received")["path"] == path
                        && said(config(*n), *n, "received", "by_group") > before
                });
                let sent = |what| said(config(relay), relay, "sent", what) > Some(0);
                (grouped && sent("to_group") && sent("repairs")).then_some(())
            },
        );
        all_have_it(&original, leaves);
    };
    come_by(2, &mut leaves);
    relay.kill().expect("SIGKILL");
    come_by(3, &mut leaves);
    let relay = run(2);
    come_by(2, &mut leaves);
    drop((running, relay));
}

/// What a node says of the region.
fn shown(config: &std::path::Path, number: u8, way: &str) -> Value {
    let nodes = nodes(config);
    let name = format!("site{number}");
    let here = nodes
        .iter()
        .find(|node| node["node"] == *name)
        .expect("it answers");
    here["regions"][way][0].clone()
}
