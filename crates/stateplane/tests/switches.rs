//! Several switches as real processes, on machines of their own (namespaces with a broker each):
//! they steer alike, and go by what an operator said last, whoever of them was told and whatever
//! is killed or lost meanwhile.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use serde_json::Value;
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use support::edge;
use support::machine::Machine;
use support::{said, until};

/// One file for all machines.
fn file() -> String {
    let [first, second, third] = ["10.81.0.1", "10.81.0.2", "10.81.0.3"];
    let switches = edge::switch("sw1", first) + &edge::switch("sw2", second);
    edge::head("pair") + &switches + &edge::instances(third)
}

const NODES: [&str; 4] = ["sw1", "sw2", "gw1", "gw2"];

/// Two machines with the ports of a switch and one with those of two instances, on one network:
/// a bridge in the first.
fn network() -> std::io::Result<[Namespace; 3]> {
    let spaces = [1, 2, 3].map(|n| Namespace::create(&format!("pair{n}")));
    let [first, second, third] = spaces;
    let spaces = [first?, second?, third?];
    let far = [spaces[1].try_clone()?, spaces[2].try_clone()?];
    spaces[0].run(move || {
        let netlink = Netlink::open()?;
        netlink.add_bridge("lan")?;
        for (n, far) in (2..).zip(&far) {
            let near = format!("w{n}");
            netlink.add_veth(&near, "up")?;
            netlink.move_to("up", far.as_fd())?;
            netlink.attach_to_bridge(&near, "lan")?;
            netlink.set_up(&near)?;
        }
        netlink.add_address("lan", Ipv4Addr::new(10, 81, 0, 1), 24)?;
        netlink.set_up("lan")?;
        edge::switch_ports(&netlink)
    })?;
    spaces[1].run(|| {
        let netlink = Netlink::open()?;
        netlink.add_address("up", Ipv4Addr::new(10, 81, 0, 2), 24)?;
        netlink.set_up("up")?;
        edge::switch_ports(&netlink)
    })?;
    spaces[2].run(|| {
        let netlink = Netlink::open()?;
        netlink.add_address("up", Ipv4Addr::new(10, 81, 0, 3), 24)?;
        netlink.set_up("up")?;
        edge::instance_ports(&netlink)
    })?;
    Ok(spaces)
}

/// Waits until both switches steer by these weights, as told on this machine: with the same
/// tables, both instances having their shares.
fn steer_alike(from: &Machine, weights: [u64; 2]) {
    until(&format!("both switches steer by {weights:?}"), || {
        let both = [from.steering(0), from.steering(1)];
        let by = |steering: &Value| {
            let weight = |n: usize| steering["instances"][n]["weight"].as_u64();
            let serves = |n: usize| steering["instances"][n]["serving"] == true;
            steering["source"] == "region"
                && [weight(0), weight(1)] == weights.map(Some)
                && serves(0)
                && serves(1)
        };
        let same = |key: &str| both[0][key].is_array() && both[0][key] == both[1][key];
        let alike = both.iter().all(by) && same("owners") && same("home");
        alike.then_some(())
    });
}

/// Waits until one switch, by itself, steers by these weights.
fn steers(machine: &Machine, switch: usize, weights: [u64; 2]) {
    until(&format!("switch {switch} steers by {weights:?}"), || {
        let steering = machine.steering(switch);
        let weight = |n: usize| steering["instances"][n]["weight"].as_u64();
        let told = steering["source"] == "region" && [weight(0), weight(1)] == weights.map(Some);
        told.then_some(())
    });
}

fn say(machine: &Machine, instance: &str, weight: &str) {
    let done = machine.ask(&["steering", "weight", instance, weight]);
    assert!(done.status.success(), "{}", said(&done));
}

/// All nodes' counters and configurations, seen from a machine.
fn sees_everything(machine: &Machine) {
    until("the telemetry of all nodes is seen", || {
        let told = |node: &&str| {
            machine
                .telemetry(node)
                .is_some_and(|n| n["silent"] == false)
        };
        NODES.iter().all(told).then_some(())
    });
    until("the configurations of all nodes are seen", || {
        let shown = machine.json("config");
        let nodes = shown["nodes"].as_array()?;
        let told = |n: &&Value| n["same"] == true && n["silent"] == false;
        (nodes.iter().filter(told).count() == NODES.len()).then_some(())
    });
}

/// Starts every node on its machine, killing it first where it runs.
fn start_all(machines: &[Machine; 3], running: &mut Vec<Process>) {
    for process in running.iter_mut() {
        process.kill().expect("SIGKILL");
    }
    running.clear();
    let places = [0, 1, 2, 2];
    running.extend(
        places
            .iter()
            .zip(NODES)
            .map(|(at, node)| machines[*at].start_firmly(node)),
    );
}

#[test]
fn switches_agree_on_what_was_said_last_through_kills_and_losses() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let root = tempfile::tempdir().expect("directory");
    let [one, two, three] = network().expect("the network");
    let mut machines = [(1, one), (2, two), (3, three)]
        .map(|(number, space)| Machine::new(root.path(), number, space, &file()));
    let mut running = Vec::new();
    start_all(&machines, &mut running);
    for machine in &machines {
        steer_alike(machine, [100, 50]);
        sees_everything(machine);
    }

    // What the first is told reaches the second, which goes on by it when the first is dead.
    say(&machines[0], "gw1", "30");
    steer_alike(&machines[2], [30, 50]);
    running[0].kill().expect("SIGKILL");
    until("the first switch is known to be silent", || {
        (machines[1].steering(0)["source"] == "configuration").then_some(())
    });
    steers(&machines[1], 1, [30, 50]);
    // And takes an operator's word itself.
    say(&machines[1], "gw2", "60");
    steers(&machines[1], 1, [30, 60]);
    // The first comes back, its machine's memory lost.
    machines[0].lose_memory();
    machines[0].boot();
    running[0] = machines[0].start_firmly("sw1");
    steer_alike(&machines[2], [30, 60]);

    // All at once, with all brokers: what was said is on the disks.
    for process in &mut running {
        process.kill().expect("SIGKILL");
    }
    for machine in &mut machines {
        machine.lose_memory();
        machine.boot();
    }
    start_all(&machines, &mut running);
    for machine in &machines {
        steer_alike(machine, [30, 60]);
        sees_everything(machine);
    }

    // A weight that changes in the file counts; what was said about the other goes on.
    let file = file().replace("weight = 50", "weight = 80");
    for machine in &machines {
        fs::write(machine.dir.join("t.toml"), &file).expect("write");
    }
    start_all(&machines, &mut running);
    steer_alike(&machines[2], [30, 80]);
    drop(running);
}
