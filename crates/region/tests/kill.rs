//! A writer is killed at random points, again and again: readers never see anything but
//! whole versions that were published, and the next writer goes on from the last one.
//!
//! The full run, 10,000 kills: `make kills`.

mod support;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use stateplane_region::{Host, Limits, Name, ReadError, Reader, Spec, Writer};
use support::Running;

/// Tells the writer's process where to write.
const DIR: &str = "STATEPLANE_REGION_KILL_DIR";
const WORDS: usize = 2000;
/// Words that every version changes, each in a line of its own.
const SPARSE: usize = 16;

fn name() -> Name {
    "/test/kill/writer/region".parse().unwrap()
}

fn spec() -> Spec {
    Spec::array::<u64>(WORDS).schema("kill")
}

fn is_sparse(index: usize) -> bool {
    index.is_multiple_of(8) && index / 8 < SPARSE
}

/// A version is whole if its sparse words agree, and its others.
fn assert_whole(words: &[u64], whose: &str) {
    for (index, word) in words.iter().enumerate() {
        let expected = if is_sparse(index) { words[0] } else { words[1] };
        assert_eq!(*word, expected, "{whose} sees a torn version: word {index}");
    }
    assert!(words[0] >= words[1]);
}

/// The process that is killed: it writes as fast as it can until it dies.
#[test]
#[ignore = "a part of the other tests, run by them"]
fn writer_process() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let host = Host::connect(Path::new(&dir)).unwrap();
    let mut writer: Writer<[u64]> = host.open(&name(), &spec()).unwrap();
    assert_whole(writer.get(), "the next writer");
    for number in writer.get()[0] + 1.. {
        if number.is_multiple_of(8) {
            writer.edit_all().fill(number);
        }
        for index in 0..SPARSE {
            writer.set(|words| &words[index * 8], number);
        }
        writer.publish().unwrap();
    }
}

fn spawn(dir: &Path) -> Child {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new(exe);
    command.args([
        "--ignored",
        "--exact",
        "writer_process",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(DIR, dir).stdout(std::process::Stdio::null());
    command.spawn().unwrap()
}

/// Ends with its last writer, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attach(host: &Host, after: u64, child: &mut Child) -> Reader<[u64]> {
    let start = Instant::now();
    loop {
        if let Ok(reader) = host.attach::<[u64]>(&name(), "kill")
            && reader.epoch() > after
            && reader.version() > 0
        {
            return reader;
        }
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "the writer ended by itself"
        );
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "the writer does not begin"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn kills(count: u64) {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    kill_and_read(dir.path(), count);
}

fn kill_and_read(dir: &Path, count: u64) {
    let host = Host::connect(dir).unwrap();
    let (mut newest, mut epoch, mut amid) = (0, 0, 0);
    for _ in 0..count {
        let mut child = Killed(spawn(dir));
        let reader = attach(&host, epoch, &mut child.0);
        assert!(reader.version() > newest, "versions go on");
        epoch = reader.epoch();
        let mut snapshot = reader.snapshot().unwrap();
        let until = Instant::now() + Duration::from_micros(fastrand::u64(..1500));
        while Instant::now() < until {
            match reader.refresh(&mut snapshot) {
                Ok(_) => assert_whole(&snapshot, "a reader"),
                Err(error) => assert_eq!(error, ReadError::Overrun),
            }
            assert!(snapshot.edition().version >= newest, "went back");
            newest = snapshot.edition().version;
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        // Nobody writes any more: what is in force is readable at once, and stays.
        reader.refresh(&mut snapshot).unwrap();
        assert_whole(&snapshot, "a reader after the kill");
        assert!(snapshot.edition().version >= newest);
        newest = snapshot.edition().version;
        let late: Reader<[u64]> = host.attach(&name(), "kill").unwrap();
        assert_eq!(late.snapshot().unwrap().edition().version, newest);
        assert!(!late.is_closed(), "it had no time to say so");
        amid += u64::from(reader.is_amid_publish());
    }
    println!("{count} writers killed, {amid} of them amid a publish, {newest} versions");
    assert!(amid > 0, "no kill hit a publish: the test shows nothing");
}

#[test]
fn a_killed_writer_leaves_the_last_complete_version() {
    kills(100);
}

#[test]
#[ignore = "minutes; `make kills`"]
fn ten_thousand_killed_writers_leave_the_last_complete_version() {
    kills(10_000);
}
