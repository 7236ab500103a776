use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use stateplane_region::{Broker, Limits};

use super::*;
use crate::regions::weights::desk;
use crate::regions::weights::tests::config;

/// A broker in a thread, until it is dropped.
struct Brokered {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Brokered {
    fn new(dir: &Path) -> Self {
        let mut broker = Broker::open(dir, Limits::default()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || broker.run(&told).unwrap());
        Self {
            dir: dir.to_owned(),
            stop,
            thread: Some(thread),
        }
    }

    fn host(&self) -> Host {
        Host::connect(&self.dir).unwrap()
    }
}

impl Drop for Brokered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A switch's process.
struct Process {
    weighing: Weighing,
    given: Receiver<Given>,
    weights: Vec<u32>,
    now: Time,
}

impl Process {
    fn new(node: &str, weight: u32, state: &Path) -> Self {
        let config = config(weight, state);
        let switch = config.nodes[node].switch.as_ref().unwrap();
        let (weighing, given) = Weighing::new(&config, node, switch, desk().1).unwrap();
        Self {
            weighing,
            given,
            weights: configured(switch),
            now: Time::from_millis(1000),
        }
    }

    /// The weights that its switch has after a turn.
    fn turn(&mut self, host: Option<&Host>) -> &[u32] {
        self.now = self.now + Duration::from_secs(2);
        self.weighing.turn(host, self.now);
        if let Ok((weights, _)) = self.given.try_recv() {
            self.weights = weights;
        }
        &self.weights
    }
}

#[test]
fn what_was_said_at_any_switch_counts_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Brokered::new(&dir.path().join("regions"));
    let host = broker.host();
    let mut one = Process::new("sw", 40, dir.path());
    let mut two = Process::new("sw2", 40, dir.path());
    assert_eq!(one.turn(Some(&host)), [40, 100]);
    assert_eq!(two.turn(Some(&host)), [40, 100]);
    one.weighing.grant("gw1", 5).unwrap();
    assert_eq!(one.turn(Some(&host)), [5, 100]);
    assert_eq!(two.turn(Some(&host)), [5, 100]);
    two.weighing.grant("gw2", 0).unwrap();
    two.weighing.grant("gw1", 6).unwrap();
    assert_eq!(two.turn(Some(&host)), [6, 0]);
    assert_eq!(one.turn(Some(&host)), [6, 0]);
    assert!(one.weighing.from.starts_with("/t/sw2/weights version"));

    // A later process of the same node goes on from there; the former one is fenced.
    let mut next = Process::new("sw", 40, dir.path());
    assert_eq!(next.turn(Some(&broker.host())), [6, 0]);
    one.turn(Some(&host));
    let refused = one.weighing.grant("gw1", 900).unwrap_err();
    assert!(refused.contains("another process"), "{refused}");
    assert_eq!(next.turn(Some(&host)), [6, 0]);
    assert_eq!(two.turn(Some(&host)), [6, 0]);
}

#[test]
fn what_was_said_outlives_processes_brokers_and_disks() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["one", "two"].map(|name| dir.path().join(name));
    let regions = dir.path().join("regions");
    let broker = Brokered::new(&regions);
    let host = broker.host();
    let mut one = Process::new("sw", 40, &first);
    let mut two = Process::new("sw2", 40, &second);
    one.turn(Some(&host));
    one.weighing.grant("gw1", 5).unwrap();
    assert_eq!(two.turn(Some(&host)), [5, 100]);

    // All at once: processes, broker, and what lay in memory.
    drop((one, two, host, broker));
    std::fs::remove_dir_all(&regions).unwrap();
    for (node, state) in [("sw", &first), ("sw2", &second)] {
        assert_eq!(Process::new(node, 40, state).turn(None), [5, 100], "{node}");
    }

    // The disk of the one that was told, too: the other knows.
    std::fs::remove_dir_all(&first).unwrap();
    let broker = Brokered::new(&regions);
    let host = broker.host();
    let mut one = Process::new("sw", 40, &first);
    let mut two = Process::new("sw2", 40, &second);
    assert_eq!(one.turn(Some(&host)), [40, 100]);
    assert_eq!(two.turn(Some(&host)), [5, 100], "not unlearned");
    assert_eq!(one.turn(Some(&host)), [5, 100]);

    // It gives way to the file, and does not come back with the former file.
    drop((one, two));
    let mut one = Process::new("sw", 41, &first);
    let mut two = Process::new("sw2", 41, &second);
    for weight in [41, 40] {
        assert_eq!(one.turn(Some(&host)), [weight, 100]);
        assert_eq!(two.turn(Some(&host)), [weight, 100]);
        drop((one, two));
        one = Process::new("sw", 40, &first);
        two = Process::new("sw2", 40, &second);
    }
}

#[test]
fn a_word_that_cannot_be_kept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = Process::new("sw", 40, dir.path());
    // A file where the directory should be.
    std::fs::write(dir.path().join("sw"), "").unwrap();
    let refused = one.weighing.grant("gw1", 5).unwrap_err();
    assert!(refused.contains("could not be kept"), "{refused}");
    assert_eq!(one.turn(None), [40, 100]);
    std::fs::remove_file(dir.path().join("sw")).unwrap();
    one.weighing.grant("gw1", 5).unwrap();
    assert_eq!(one.turn(None), [5, 100], "without a broker, too");
}
