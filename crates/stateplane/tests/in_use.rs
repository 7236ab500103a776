//! What nodes write about themselves in regions, by real processes on two machines (namespaces
//! with a broker each): how the switch steers, weights, configurations, telemetry.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use support::edge;
use support::machine::Machine;
use support::until;

/// One file for both machines.
fn file() -> String {
    let (near, far) = ("10.79.0.1", "10.79.0.2");
    edge::head("use") + &edge::switch("sw", near) + &edge::instances(far)
}

/// The ports of the switch, those of two instances, and a wire between the machines.
fn machines() -> std::io::Result<[Namespace; 2]> {
    let spaces = [Namespace::create("use1")?, Namespace::create("use2")?];
    let far = spaces[1].try_clone()?;
    spaces[0].run(move || {
        let netlink = Netlink::open()?;
        netlink.add_veth("w1", "w2")?;
        netlink.move_to("w2", far.as_fd())?;
        netlink.add_address("w1", Ipv4Addr::new(10, 79, 0, 1), 24)?;
        netlink.set_up("w1")?;
        edge::switch_ports(&netlink)
    })?;
    spaces[1].run(|| {
        let netlink = Netlink::open()?;
        netlink.add_address("w2", Ipv4Addr::new(10, 79, 0, 2), 24)?;
        netlink.set_up("w2")?;
        edge::instance_ports(&netlink)
    })?;
    Ok(spaces)
}

fn instance(steering: &Value, number: usize) -> (u64, bool, f64) {
    let instance = &steering["instances"][number];
    (
        instance["weight"].as_u64().unwrap_or(u64::MAX),
        instance["serving"] == true,
        instance["share"].as_f64().unwrap_or(-1.0),
    )
}

#[test]
fn steering_weights_configurations_and_telemetry_are_regions_on_all_machines() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let root = tempfile::tempdir().expect("directory");
    let [near, far] = machines().expect("the network");
    let (near, far) = (
        Machine::new(root.path(), 1, near, &file()),
        Machine::new(root.path(), 2, far, &file()),
    );

    // Without any region: by the configuration, and it says so.
    let steering = far.steering(0);
    assert_eq!(steering["source"], "configuration", "{steering}");
    assert!(
        steering["why"]
            .as_str()
            .is_some_and(|why| why.contains("/use/sw/steering"))
    );
    assert_eq!(
        (instance(&steering, 0).0, instance(&steering, 1).0),
        (100, 50)
    );

    let mut switch = near.start("sw");
    let mut gateway = far.start("gw1");
    let first = until("the far machine knows that gw1 serves", || {
        let steering = far.steering(0);
        let serves = instance(&steering, 0) == (100, true, 1.0);
        (steering["source"] == "region" && serves).then_some(steering)
    });
    assert_eq!(instance(&first, 1), (50, false, 0.0));
    until("gw1 knows it from there", || {
        let known = far.uses("gw1")["steering"].as_str()?.to_owned();
        known.starts_with("/use/sw/steering").then_some(())
    });
    // At rest it does not age. (On a busy machine a heartbeat may be late, which is a change.)
    let rested = until("nothing changes for a while", || {
        let version = far.steering(0)["version"].clone();
        thread::sleep(Duration::from_millis(2500));
        let rested = far.steering(0);
        (rested["version"] == version).then_some(rested)
    });
    assert!(rested["age_ms"].as_f64() < Some(2000.0), "{rested}");

    weights(&near, &far);
    telemetry(&far);
    configurations(&near, &far, &mut gateway);

    // The switch is killed: what it told grows old, and then the configuration counts.
    switch.kill().expect("SIGKILL");
    until("what a dead switch told does not count", || {
        let steering = far.steering(0);
        let why = steering["why"].as_str()?.to_owned();
        (steering["source"] == "configuration" && why.contains("said nothing")).then_some(())
    });
    until("gw1 goes by the configuration", || {
        let known = far.uses("gw1")["steering"].as_str()?.to_owned();
        known.starts_with("the configuration").then_some(())
    });
    let silent = until("its telemetry is silent", || {
        let node = far.telemetry("sw")?;
        (node["silent"] == true).then_some(node)
    });
    let counted = &silent["counters"]["switch.resteered"]["value"];
    assert!(counted.as_u64() > Some(0), "it counts on: {silent}");

    // It comes back: a later epoch, and the weight that was said at run time.
    let switch = near.start("sw");
    let again = until("the switch tells again", || {
        let steering = far.steering(0);
        (instance(&steering, 0) == (30, true, 1.0)).then_some(steering)
    });
    assert_eq!(again["source"], "region");
    assert!(again["epoch"].as_u64() > first["epoch"].as_u64(), "{again}");
    let counted = until("it counts anew", || {
        let node = far.telemetry("sw")?;
        (node["silent"] == false).then_some(node)
    });
    assert!(counted["since_day_ns"].as_u64() > silent["since_day_ns"].as_u64());
    drop((switch, gateway));
}

/// The operator changes weights where the switch runs; all machines see it.
fn weights(near: &Machine, far: &Machine) {
    let refused = near.ask(&["steering", "weight", "gw9", "5"]);
    let said = support::said(&refused);
    assert!(
        !refused.status.success() && said.contains("gw1, gw2"),
        "{said}"
    );
    let elsewhere = far.ask(&["steering", "weight", "gw1", "30"]);
    let said = support::said(&elsewhere);
    assert!(
        !elsewhere.status.success() && said.contains("no switch runs here"),
        "{said}"
    );
    let done = near.ask(&["steering", "weight", "gw1", "30"]);
    assert!(done.status.success(), "{}", support::said(&done));
    let steering = until("the weight is known everywhere", || {
        let steering = far.steering(0);
        (instance(&steering, 0).0 == 30).then_some(steering)
    });
    // Alone it has everything, whatever its weight.
    assert_eq!(instance(&steering, 0), (30, true, 1.0));
    let from = steering["weights_from"].as_str().unwrap_or_default();
    assert!(from.starts_with("/use/sw/weights version"), "{steering}");
}

/// All nodes' counters, on any machine.
fn telemetry(far: &Machine) {
    let all = until("both nodes tell what they count", || {
        let all = far.json("telemetry");
        (all["nodes"].as_array()?.len() == 2).then_some(all)
    });
    let counter = |name: &str| all["all"][name].clone();
    assert_eq!(counter("switch.serving")["value"], 1, "{all}");
    assert_eq!(counter("switch.frames.steered")["unit"], "frames");
    assert_eq!(counter("function.flows")["is"], "level");
    let received = |all: &Value| all["all"]["switch.datagrams.received"]["value"].as_u64();
    let before = received(&all);
    until("heartbeats are counted", || {
        (received(&far.json("telemetry")) > before).then_some(())
    });
    let one = far.ask(&["show", "telemetry", "--node", "sw"]);
    let one = String::from_utf8_lossy(&one.stdout).into_owned();
    assert!(
        one.contains("switch.resteered") && !one.contains("function."),
        "{one}"
    );
}

/// A node that runs another file is named, with what differs.
fn configurations(near: &Machine, far: &Machine, gateway: &mut Process) {
    let node = |shown: &Value, name: &str| {
        let nodes = shown["nodes"].as_array().cloned().unwrap_or_default();
        nodes
            .into_iter()
            .find(|n| n["node"] == name)
            .unwrap_or_default()
    };
    let same = until("both tell what they run", || {
        let shown = near.json("config");
        let both = ["sw", "gw1"]
            .iter()
            .all(|name| node(&shown, name)["same"] == true);
        both.then_some(shown)
    });
    assert_eq!(same["same"], true);
    assert!(near.ask(&["show", "config"]).status.success());
    let since = node(&same, "gw1")["since_day_ns"].clone();

    far.restart(gateway);
    until("a restart with the same file changes nothing", || {
        let shown = near.json("config");
        let told = node(&shown, "gw1");
        (told["silent"] == false && told["since_day_ns"] == since).then_some(())
    });

    let path = far.dir.join("t.toml");
    fs::write(&path, file() + "[park]\nlimit = 77\n").expect("write");
    far.restart(gateway);
    until("the switch names who runs another file", || {
        let others = near.uses("sw")["other_configurations"].clone();
        (others["gw1"] == "park.limit").then_some(())
    });
    let shown = near.ask(&["show", "config"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("differs: park.limit"), "{shown}");
    let log = fs::read_to_string(near.dir.join("sw.log")).expect("log");
    assert!(log.contains("runs another configuration"), "{log}");

    fs::write(&path, file()).expect("write");
    far.restart(gateway);
    until("all run the same again", || {
        (near.json("config")["same"] == true).then_some(())
    });
}
