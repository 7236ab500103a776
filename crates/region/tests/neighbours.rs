//! A process that is stopped, or killed, holds nobody up but its own readers: the regions
//! of all others go on, and so does the broker.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stateplane_region::{Host, Limits, Name, ReadError, Reader, Spec, Writer};
use support::Running;

/// Tell a writer's process where to write, and what.
const DIR: &str = "STATEPLANE_REGION_NEIGHBOUR_DIR";
const WHICH: &str = "STATEPLANE_REGION_NEIGHBOUR";
const WORDS: usize = 64;
/// Versions that every neighbour must get on by.
const VERSIONS: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

fn name(which: usize) -> Name {
    format!("/test/neighbours/{which}").parse().unwrap()
}

/// The process of a writer: it writes until it is killed.
#[test]
#[ignore = "a part of the other test, run by it"]
fn writer_process() {
    let (Some(dir), Ok(which)) = (std::env::var_os(DIR), std::env::var(WHICH)) else {
        return;
    };
    let host = Host::connect(Path::new(&dir)).unwrap();
    let spec = Spec::array::<u64>(WORDS).interval(Duration::from_millis(1));
    let name = name(which.parse().unwrap());
    let mut writer: Writer<[u64]> = host.open(&name, &spec).unwrap();
    for number in 1.. {
        writer.edit_all().fill(number);
        writer.check_in().unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Ends with the test, stopped or not.
struct Process(Child);

impl Process {
    fn new(dir: &Path, which: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "writer_process", "--test-threads=1"]);
        command.env(DIR, dir).env(WHICH, which.to_string());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(process, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attach(host: &Host, which: usize) -> Reader<[u64]> {
    let start = Instant::now();
    loop {
        match host.attach::<[u64]>(&name(which), "") {
            Ok(reader) if reader.version() > 0 => return reader,
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(start.elapsed() < PATIENCE, "writer {which} does not begin");
    }
}

/// Reads the regions until each has got on by so many versions; the ages of what was read.
fn go_on(readers: &[Reader<[u64]>], during: &str) -> Vec<Duration> {
    let begun: Vec<u64> = readers.iter().map(Reader::version).collect();
    let start = Instant::now();
    let mut ages = Vec::new();
    while readers
        .iter()
        .zip(&begun)
        .any(|(reader, begun)| reader.version() < begun + VERSIONS)
    {
        assert!(
            start.elapsed() < PATIENCE,
            "a neighbour stands still: {during}"
        );
        for reader in readers {
            match reader.snapshot() {
                Ok(snapshot) => {
                    assert!(snapshot.iter().all(|word| *word == snapshot[0]), "torn");
                    ages.push(snapshot.edition().age());
                }
                Err(error) => assert_eq!(error, ReadError::Overrun),
            }
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    ages.sort_unstable();
    let at = |share: usize| ages[(ages.len() - 1) * share / 100];
    println!(
        "{during}: age of the others {:?} (median), {:?} (99 %)",
        at(50),
        at(99)
    );
    ages
}

#[test]
fn a_stopped_or_killed_writer_holds_no_neighbour_up() {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    stop_and_kill(dir.path());
}

fn stop_and_kill(dir: &Path) {
    use rustix::process::Signal;
    let host = Host::connect(dir).unwrap();
    let processes: Vec<Process> = (0..4).map(|which| Process::new(dir, which)).collect();
    let mut readers: Vec<_> = (0..4).map(|which| attach(&host, which)).collect();
    let victim = readers.remove(0);
    go_on(&readers, "all live");

    processes[0].signal(Signal::STOP);
    let stopped = Instant::now();
    go_on(&readers, "one is stopped");
    let snapshot = victim.snapshot();
    let long = stopped.elapsed();
    let snapshot = snapshot.expect("its last version stays");
    // The signal takes effect a moment later than it is sent.
    assert!(snapshot.edition().age() >= long / 2, "its age tells");
    assert_eq!(victim.version(), snapshot.edition().version);
    // The broker does not wait for it either.
    assert!(attach(&host, 0).version() >= snapshot.edition().version);

    processes[0].signal(Signal::CONT);
    go_on(std::slice::from_ref(&victim), "it goes on");
    processes[0].signal(Signal::KILL);
    go_on(&readers, "one is killed");
    assert!(victim.snapshot().is_ok(), "its last version stays");
}
