//! `stateplane region`: a broker as a process, and what it shows of the regions of others.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stateplane_region::{Host, Name, Spec, Writer};
use support::{Node, said};

fn region(dir: &Path, args: &[&str]) -> Command {
    let mut command = support::stateplane(&["region"]);
    command.args(args).arg("--dir").arg(dir);
    command
}

fn start(dir: &Path) -> (Node, Host) {
    let child = region(dir, &["broker"]).spawn().expect("the binary starts");
    let (broker, start) = (Node(child), Instant::now());
    loop {
        match Host::connect(dir) {
            Ok(host) => return (broker, host),
            Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn object(dir: &Path, args: &[&str]) -> Value {
    let output = region(dir, args).output().expect("the binary runs");
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn regions_are_listed_shown_watched_and_compared() {
    let dir = tempfile::tempdir().expect("directory");
    let missing = region(dir.path(), &["ls"]).output().expect("runs");
    assert_eq!(missing.status.code(), Some(3));
    assert!(
        said(&missing).contains("no broker answers in"),
        "{}",
        said(&missing)
    );

    let (_broker, host) = start(dir.path());
    let name: Name = "/edge/gw1/fw/acl".parse().expect("a name");
    let mut writer: Writer<[u8]> = host.create(&name, &Spec::bytes(300)).expect("created");
    writer.bytes_mut(3, 4).copy_from_slice(b"rule");
    writer.publish().expect("in force");

    let list = object(dir.path(), &["ls", "/edge", "--json"]);
    assert_eq!(list["regions"][0]["name"], "/edge/gw1/fw/acl");
    assert_eq!(list["regions"][0]["writer"], std::process::id());
    assert_eq!(
        object(dir.path(), &["ls", "/core", "--json"])["regions"],
        serde_json::json!([])
    );

    let shown = object(
        dir.path(),
        &["show", "/edge/gw1/fw/acl", "--bytes", "8", "--json"],
    );
    assert_eq!(
        (&shown["version"], &shown["bytes"]),
        (&1.into(), &300.into())
    );
    assert_eq!(shown["first_bytes"], "00000072756c6500");
    let text = region(dir.path(), &["show", "/edge/gw1/fw/acl"])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("...rule.") && text.contains("version  1 of writer epoch 1"),
        "{text}"
    );

    // Whoever waits for the next version sees what it changed, and nothing else.
    let mut diff = region(
        dir.path(),
        &["diff", "/edge/gw1/fw/acl", "--wait-s", "20", "--json"],
    );
    let mut watch = region(
        dir.path(),
        &[
            "watch",
            "/edge/gw1/fw/acl",
            "--count",
            "2",
            "--every-ms",
            "1",
            "--json",
        ],
    );
    let children =
        [&mut diff, &mut watch].map(|c| c.stdout(Stdio::piped()).spawn().expect("starts"));
    let [diff, watch] =
        children.map(|child| thread::spawn(move || child.wait_with_output().expect("ends")));
    while !(diff.is_finished() && watch.is_finished()) {
        let byte = writer.bytes()[299] ^ 1;
        writer.bytes_mut(299, 1)[0] = byte;
        writer.publish().expect("in force");
        thread::sleep(Duration::from_millis(200));
    }
    let diff = diff.join().expect("no panic");
    assert!(diff.status.success(), "{}", said(&diff));
    let diff: Value = serde_json::from_slice(&diff.stdout).expect("JSON");
    assert_eq!(diff["changes"].as_array().map(Vec::len), Some(1), "{diff}");
    assert_eq!(diff["changes"][0]["at"], 299);
    let watch = watch.join().expect("no panic");
    let lines: Vec<Value> = String::from_utf8_lossy(&watch.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[1]["version"].as_u64() > lines[0]["version"].as_u64());
    assert_eq!(lines[1]["changed_bytes"], 1, "{lines:?}");
}

#[test]
fn a_wrong_name_and_a_missing_region_are_explained() {
    let dir = tempfile::tempdir().expect("directory");
    let (_broker, _host) = start(dir.path());
    let output = region(dir.path(), &["show", "edge"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("does not begin with a slash"),
        "{}",
        said(&output)
    );
    let output = region(dir.path(), &["show", "/edge"])
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("/edge: there is no such region"),
        "{}",
        said(&output)
    );
    let second = region(dir.path(), &["broker"]).output().expect("runs");
    assert_eq!(second.status.code(), Some(1));
    assert!(
        said(&second).contains("another broker serves"),
        "{}",
        said(&second)
    );
}

#[test]
fn the_benchmark_measures_everything() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
    command.args([
        "bench",
        "region",
        "--rounds",
        "10",
        "--seconds",
        "0.05",
        "--entries",
        "1000",
        "--json",
    ]);
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    assert!(rows.len() > 10, "{report}");
    for row in rows {
        assert!(
            row["p50_ns"].as_f64() > Some(0.0) && row["p99_ns"].as_f64() >= row["p50_ns"].as_f64(),
            "{row}"
        );
    }
    let ratios = report["ratios"].as_object().expect("ratios");
    for name in [
        "update_vs_plain_store",
        "sync_vs_memcpy",
        "read_vs_unix_socket",
        "lookup_vs_unix_socket",
    ] {
        assert!(ratios[name].as_f64() > Some(0.0), "{name} in {ratios:?}");
    }
}
