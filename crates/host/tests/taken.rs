//! Queues that somebody else has, or had a moment ago.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stateplane_host::busy;
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::netns::Namespace;
use stateplane_host::spawn::Process;
use stateplane_host::xsk::{XskConfig, XskPort};
use support::{End, can_make_interfaces, plain_cable};

/// Says to a process of ours which file to make when it has the queue.
const HOLDER: &str = "STATEPLANE_TEST_HOLDS";

fn world() -> (Namespace, Namespace) {
    let host = Namespace::create("host").unwrap();
    let gateway = Namespace::create("gateway").unwrap();
    let end = |namespace, name, last| End {
        namespace,
        name,
        mac: [2, 0, 0, 0, 0, last],
        address: None,
    };
    plain_cable(&end(&host, "host0", 1), &end(&gateway, "gw0", 2)).unwrap();
    (host, gateway)
}

fn small(patience: Duration) -> (FramePool, XskConfig) {
    let pool = PoolConfig {
        frames: 512,
        frame_size: 2048,
    };
    let config = XskConfig {
        ring: 64,
        patience,
        ..XskConfig::default()
    };
    (FramePool::new(pool).unwrap(), config)
}

/// The process that has the queue until it is killed.
#[test]
#[ignore = "a part of other tests: a process of its own"]
fn holder() {
    let Some(ready) = std::env::var_os(HOLDER) else {
        return;
    };
    let (mut pool, config) = small(busy::PATIENCE);
    let _port = XskPort::open(&mut pool, "gw0", &config).unwrap();
    std::fs::write(ready, "").unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

/// Starts it and waits until it has the queue.
fn hold(gateway: &Namespace) -> Process {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "holder", "--ignored"]);
    command.env(HOLDER, &ready);
    let holder = Process::spawn("holder", command, gateway).unwrap();
    let begin = Instant::now();
    while !ready.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never opens");
        std::thread::sleep(Duration::from_millis(5));
    }
    holder
}

#[test]
fn a_queue_is_open_at_once_after_its_owner_was_killed() {
    if !can_make_interfaces() {
        return;
    }
    let (_host, gateway) = world();
    for _ in 0..5 {
        let mut holder = hold(&gateway);
        holder.signal(Signal::KILL).unwrap();
        let opened = gateway.run(|| {
            let (mut pool, config) = small(busy::PATIENCE);
            Ok(XskPort::open(&mut pool, "gw0", &config).map(drop))
        });
        opened.unwrap().unwrap();
    }
}

#[test]
fn who_has_a_queue_is_waited_for_and_named() {
    if !can_make_interfaces() {
        return;
    }
    let (_host, gateway) = world();
    let holder = hold(&gateway);
    let (patience, begin) = (Duration::from_millis(50), Instant::now());
    let error = gateway.run(|| {
        let (mut pool, config) = small(patience);
        Ok(XskPort::open(&mut pool, "gw0", &config).unwrap_err())
    });
    assert!(begin.elapsed() >= patience);
    let (error, holder) = (error.unwrap().to_string(), holder.id());
    let named = format!("(process {holder})");
    assert!(
        error.contains("gw0") && error.contains("queue 0 is taken") && error.contains(&named),
        "{error}"
    );
}

#[test]
fn a_queue_that_is_taken_and_an_interface_that_is_missing_are_named() {
    if !can_make_interfaces() {
        return;
    }
    let (_host, gateway) = world();
    gateway
        .run(|| {
            let (mut pool, config) = small(Duration::from_millis(30));
            let _first = XskPort::open(&mut pool, "gw0", &config).unwrap();
            let error = XskPort::open(&mut pool, "gw0", &config)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("gw0") && error.contains("queue 0 is taken, no other process"),
                "{error}"
            );
            let error = XskPort::open(&mut pool, "gone0", &config)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("gone0") && error.contains("No such device"),
                "{error}"
            );
            let config = XskConfig {
                ring: 100,
                ..config
            };
            let error = XskPort::open(&mut pool, "gw0", &config)
                .unwrap_err()
                .to_string();
            assert!(error.contains("power of two"), "{error}");
            Ok(())
        })
        .unwrap();
}
