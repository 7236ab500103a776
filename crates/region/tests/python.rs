//! The reader in Python against a live writer: by name, by path, and whoever writes next.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use std::os::fd::AsRawFd;

use stateplane_region::{Counters, Host, How, Limits, Name, Spec, Tally, Text, Writer};
use support::Running;

const WORDS: usize = 512;
const NAME: &str = "/test/python/writer/numbers";

/// Takes snapshots until it has seen 200 versions, of which at least 3 of the next writer,
/// and says what it saw. A word of a version is the version's number.
const SCRIPT: &str = r#"
import os, sys
from stateplane_region import Region, RegionError, regions

directory, name, path = sys.argv[1:]
assert regions(directory, "/test") == [name], regions(directory, "/test")
assert regions(directory, "/other") == []
for wrong in [lambda: Region.attach(directory, "/test/none"),
              lambda: Region.attach(directory, name, schema="another"),
              lambda: Region.open_path("/proc/self/exe")]:
    try:
        wrong()
    except RegionError:
        continue
    raise AssertionError("it should have been refused")

def whole(snapshot):
    words = snapshot.array("Q")
    assert len(words) == len(set(words)) * 512, f"torn: {set(words)}"
    return words[0]

with Region.open_path(path, schema="numbers") as region:
    assert len(region) == 4096 and region.name == name
    for _ in range(20000):
        whole(region.snapshot())

region = Region.attach(directory, name, schema="numbers")
first, last, versions, later = region.epoch, 0, 0, 0
for snapshot in region.watch(interval=0.0002, timeout=20):
    number = whole(snapshot)
    assert number >= last and snapshot.unpack_from("=Q", 4088) == (number,)
    assert snapshot.age() >= 0
    last, versions, later = number, versions + 1, later + (snapshot.epoch > first)
    if versions == 100:
        print("next", flush=True)
    if versions >= 200 and later >= 3:
        break
else:
    raise AssertionError(f"no more after {versions} versions")
region.close()
print("done", last, flush=True)
"#;

/// Reads a text and counters as they lie in regions.
const STRUCTURES: &str = r#"
import sys
from stateplane_region import Region, RegionError

directory = sys.argv[1]
with Region.attach(directory, "/test/text") as region:
    assert region.snapshot().text() == "grüße", region.snapshot().text()
with Region.attach(directory, "/test/counters") as region:
    counters = region.snapshot().counters(64)
    assert counters == {
        "a.hits": (2**64 - 1, "packets", "count"),
        "a.flows": (-3, "flows", "level"),
        "a.view": (9, "views", "largest"),
    }, counters
    for wrong in [lambda: region.snapshot().counters(), lambda: region.snapshot().text()]:
        try:
            wrong()
        except RegionError:
            continue
        raise AssertionError("it should have been refused")
print("done", flush=True)
"#;

#[test]
fn a_script_reads_texts_and_counters() {
    if !is_there() {
        println!("skipped: python3 of 3.9 or later is not here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    let host = Host::connect(dir.path()).unwrap();
    let name = |text: &str| text.parse::<Name>().unwrap();
    let text = Text::new(0, 100);
    let spec = Spec::bytes(text.bytes());
    let mut greeting: Writer<[u8]> = host.create(&name("/test/text"), &spec).unwrap();
    text.put(&mut greeting, "grüße").unwrap();
    greeting.publish().unwrap();
    let counters = Counters::new(64, 5);
    let spec = Spec::bytes(64 + counters.bytes());
    let mut counted: Writer<[u8]> = host.create(&name("/test/counters"), &spec).unwrap();
    counted.bytes_mut(0, 64).fill(0xff);
    let mut tally = Tally::new(counters, &mut counted, 0);
    let all = [
        ("a.hits", "packets", How::Count, u64::MAX),
        ("a.flows", "flows", How::Level, -3i64 as u64),
        ("a.view", "views", How::Largest, 9),
    ];
    tally.set(&mut counted, all);
    counted.publish().unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", STRUCTURES]).arg(dir.path());
    let done = python.env("PYTHONPATH", bindings()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}

fn bindings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bindings/python")
}

fn is_there() -> bool {
    let mut python = Command::new("python3");
    let asked = python.args(["-c", "import socket; socket.recv_fds"]);
    let there = asked.stderr(Stdio::null()).status();
    there.is_ok_and(|status| status.success())
}

/// The sources' reader, or what an interpreter has that was installed.
enum Module {
    Source,
    Installed(PathBuf),
}

fn script(module: &Module) -> Command {
    let mut python = match module {
        Module::Source => {
            let mut python = Command::new("python3");
            python.env("PYTHONPATH", bindings());
            python
        }
        Module::Installed(python) => {
            let mut python = Command::new(python);
            python.env_remove("PYTHONPATH");
            python
        }
    };
    // Nothing is to be left in the sources.
    python.args(["-B", "-c", SCRIPT]);
    python.stdout(Stdio::piped()).stderr(Stdio::piped());
    python
}

/// Ends with the test.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn can_run() -> bool {
    if !is_there() {
        println!("skipped: there is no python3 of version 3.9 or later");
        return false;
    }
    if !cfg!(target_arch = "x86_64") {
        println!("skipped: the reader in Python is for x86-64");
        return false;
    }
    true
}

fn read_by(module: &Module) {
    let dir = tempfile::tempdir().unwrap();
    let _broker = Running::new(dir.path(), Limits::default());
    write_for(dir.path(), module);
}

#[test]
fn a_script_reads_whole_versions_of_every_writer() {
    if can_run() {
        read_by(&Module::Source);
    }
}

/// The wheel is all that is needed: built, installed where nothing else is, and read with.
#[test]
fn the_wheel_is_complete() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/wheel"))
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    if made.status.code() == Some(77) {
        println!("skipped: {said}");
        return;
    }
    assert!(made.status.success(), "{said}");
    let wheel = format!(
        "stateplane_region-{}-py3-none-any.whl",
        env!("CARGO_PKG_VERSION")
    );
    assert!(dir.path().join(wheel).is_file(), "of this release");
    let installed = dir.path().join("venv/bin");
    read_by(&Module::Installed(installed.join("python")));
    // The command that comes with it says what it needs.
    let mut command = Command::new(installed.join("stateplane-region-watch"));
    let said = command.output().unwrap().stderr;
    assert!(String::from_utf8_lossy(&said).contains("DIRECTORY NAME"));
}

fn write_for(dir: &Path, module: &Module) {
    let name: Name = NAME.parse().unwrap();
    let spec = Spec::array::<u64>(WORDS).schema("numbers");
    let host = Host::connect(dir).unwrap();
    let mut writer: Writer<[u64]> = host.create(&name, &spec).unwrap();
    let mut number = 0;
    let mut publish = |writer: &mut Writer<[u64]>| {
        number += 1;
        writer.edit_all().fill(number);
        writer.publish().unwrap();
        std::thread::sleep(Duration::from_micros(100));
    };
    publish(&mut writer);
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        writer.fd().as_raw_fd()
    );
    let mut reading = Script(
        script(module)
            .args([dir.as_os_str(), NAME.as_ref(), path.as_ref()])
            .spawn()
            .unwrap(),
    );
    let (said, says) = std::sync::mpsc::channel();
    let mut output = reading.0.stdout.take().unwrap();
    let listening = std::thread::spawn(move || {
        use std::io::Read;
        let (mut text, mut byte) = (String::new(), [0]);
        while let Ok(1) = output.read(&mut byte) {
            text.push(char::from(byte[0]));
            if byte[0] == b'\n' {
                let _ = said.send(std::mem::take(&mut text));
            }
        }
    });
    let mut heard = Vec::new();
    while reading.0.try_wait().unwrap().is_none() {
        publish(&mut writer);
        for line in says.try_iter() {
            if line == "next\n" {
                // Another process could: the old writer's memory stays, but nobody reads it.
                writer = host.take_over(&name, &spec).unwrap();
            }
            heard.push(line);
        }
    }
    listening.join().unwrap();
    heard.extend(says.try_iter());
    let mut errors = String::new();
    let mut pipe = reading.0.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut pipe, &mut errors).unwrap();
    assert!(reading.0.wait().unwrap().success(), "{errors}");
    assert_eq!(heard[0], "next\n", "{heard:?}");
    assert!(heard[1].starts_with("done "), "{heard:?}");
}
