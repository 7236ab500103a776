//! The meter with real packets: two instances as processes beside a store of three replicas.

mod support;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::instances::{FREE, LIMITED, Lab, ask, begin, exhaust};

const ALLOWED: u64 = 300_000;

/// What the file says of the meter.
fn lab(on_expiry: &str) -> Option<Lab> {
    let sections = format!(
        "[lease]\nlength = \"2s\"\non-expiry = \"{on_expiry}\"\n[park]\ntimeout-ms = 400\n\
         [meter]\ninside-prefixes = [\"10.0.0.0/16\"]\npartitions = 8\n\
         allowances = [ {{ prefix = \"10.0.1.0/24\", allowance = \"{} kB\", period = \"300d\" }} ]",
        ALLOWED / 1000
    );
    Lab::start("\"meter\"", &sections)
}

/// Sends without a pause until told to stop, and says how many were sent and how many came back.
fn stream(socket: &UdpSocket, stop: &AtomicBool) -> (u64, u64) {
    let (mut sent, mut back) = (0, 0);
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        sent += u64::from(socket.send(b"counted").is_ok());
        thread::sleep(Duration::from_millis(2));
    }
    while back < sent && socket.recv(&mut buffer).is_ok() {
        back += 1;
    }
    (sent, back)
}

#[test]
fn subscribers_are_counted_wherever_they_pass_and_stop_when_nobody_owns_them() {
    let Some(mut lab) = lab("closed") else {
        return;
    };
    let free = lab.socket(FREE);
    let mut sent = begin(&free);
    assert_eq!(sent, 1, "the first packet waits for the lease, and passes");

    // In front of the process, both ways.
    sent += lab.passes_counted(&free);
    let account = lab.account(FREE);

    // A planned move under traffic: the packets first, then the lease.
    let stop = AtomicBool::new(false);
    let (more, back) = thread::scope(|scope| {
        let streaming = scope.spawn(|| stream(&free, &stop));
        thread::sleep(Duration::from_millis(100));
        lab.lead_to(1).expect("another gateway");
        let partition = account["partition"].as_str().expect("its number");
        let mut command = support::stateplane(&["lease", "move", partition, "gw2", "--config"]);
        let moved = command.arg(lab.file()).output().expect("lease move");
        assert!(moved.status.success(), "{}", support::said(&moved));
        support::until("gw2 owns it", || {
            (lab.account(FREE)["owner"] == "gw2").then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        streaming.join().expect("it streams")
    });
    assert_eq!(back, more, "no packet was lost");
    sent += more;
    assert_eq!(
        lab.counts(sent)["packets_in"],
        sent,
        "and each was counted once"
    );

    // kill -9 of the owner: another one goes on with what was counted, after the lease.
    let mut gw2 = lab.nodes.pop().expect("it was started last");
    gw2.kill().expect("SIGKILL");
    lab.lead_to(0).expect("another gateway");
    let kept = lab.account(FREE)["packets_out"].as_u64().expect("a number");
    assert_eq!(kept, sent);
    let asked = begin(&free);
    let account = support::until("gw1 owns it", || {
        let account = lab.account(FREE);
        (account["owner"] == "gw1" && account["packets_out"].as_u64() > Some(kept))
            .then_some(account)
    });
    let counted = account["packets_out"].as_u64().expect("a number");
    assert!(counted <= kept + asked, "{account}");

    // Cut off from the store: known flows stop when the lease ends, and go on when it is there again.
    lab.cut_off(0, true);
    let cut = Instant::now();
    support::until("nothing passes", || {
        (!ask(&free, b"anybody?")).then_some(())
    });
    assert!(cut.elapsed() < Duration::from_secs(10));
    assert!(!ask(&free, b"anybody?"));
    lab.cut_off(0, false);
    begin(&free);
}

#[test]
fn an_allowance_stops_its_subscriber_alone() {
    let Some(lab) = lab("closed") else {
        return;
    };
    let (limited, free) = (lab.socket(LIMITED), lab.socket(FREE));
    begin(&limited);
    begin(&free);
    let answered = exhaust(&limited, ALLOWED);
    assert!(ask(&free, b"I may"), "others go on");
    let account = lab.used_up(answered, ALLOWED);
    assert_eq!(account["allowance"], ALLOWED);
    let nodes = support::nodes(&lab.file());
    let gw1 = nodes
        .iter()
        .find(|node| node["node"] == "gw1")
        .expect("it answers");
    assert!(
        gw1["function"]["drops"]["allowance"].as_u64() >= Some(1),
        "{gw1:#}"
    );
}

#[test]
fn open_known_flows_go_on_without_the_store() {
    let Some(lab) = lab("open") else {
        return;
    };
    let free = lab.socket(FREE);
    begin(&free);
    assert!(ask(&free, b"known"));
    lab.cut_off(0, true);
    let lapsed = |lab: &Lab| {
        let nodes = support::nodes(&lab.file());
        let gw1 = nodes.into_iter().find(|node| node["node"] == "gw1")?;
        let leases = gw1["function"]["leases"].as_array()?.clone();
        let over = leases.iter().any(|lease| lease["state"] == "lapsed");
        over.then_some(())
    };
    support::until("the lease is over", || lapsed(&lab));
    let answered = (0..50).filter(|_| ask(&free, b"known")).count();
    assert_eq!(answered, 50);
    lab.cut_off(0, false);
    support::until("all of it is counted", || {
        let packets = lab.account(FREE)["packets_out"].as_u64();
        (packets >= Some(52)).then_some(())
    });
}
