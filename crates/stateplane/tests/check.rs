//! `stateplane check` and the ways a start can fail, as a user meets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOOD: &str = r#"
[cluster]
name = "one"
key = "000102030405060708090a0b0c0d0e0f"
admin-dir = "ADMIN"

[state]
backend = "group"
sequencer = "seq"
replicas = ["r1", "r2", "r3"]

[node.seq]
roles = ["sequencer"]
control = "127.0.0.1:17400"

[node.r1]
roles = ["replica"]
control = "127.0.0.1:17401"

[node.r2]
roles = ["replica"]
control = "127.0.0.1:17402"

[node.r3]
roles = ["replica"]
control = "127.0.0.1:17403"
"#;

fn stateplane(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stateplane"));
    command.args(args).env_remove("STATEPLANE_LOG");
    command.output().expect("the binary starts")
}

/// The file in a directory of its own, with its admin directory.
fn file(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("test.toml");
    let admin = dir.join("admin");
    fs::write(&path, text.replace("ADMIN", &admin.display().to_string())).expect("write");
    path
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn a_good_file_is_ok() {
    let dir = tempfile::tempdir().expect("directory");
    let path = file(dir.path(), GOOD);
    let output = stateplane(&["check", path.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        out.contains("ok, cluster \"one\", 4 nodes: r1, r2, r3, seq"),
        "{out}"
    );
}

#[test]
fn a_wrong_file_is_explained_line_by_line() {
    let dir = tempfile::tempdir().expect("directory");
    let text = GOOD
        .replace("replicas = ", "replicsa = ")
        .replace("17401", "0");
    let path = file(dir.path(), &text);
    let path = path.to_str().expect("text");
    let output = stateplane(&["check", path]);
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    let expected = [
        format!("{path}:7:1: error: state.replicas: required key is missing"),
        format!("{path}:10:1: error: state.replicsa: unknown key; help: did you mean `replicas`?"),
        format!("{path}:18:11: error: node.r1.control: expected IPv4-ADDRESS:PORT"),
    ];
    for line in expected {
        assert!(said.contains(&line), "{line}\nis not in\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "no colours for a pipe");
}

#[test]
fn json_names_every_problem_with_its_place() {
    let dir = tempfile::tempdir().expect("directory");
    let path = file(dir.path(), &GOOD.replace("name = \"one\"", "name = 1"));
    let output = stateplane(&["check", path.to_str().expect("text"), "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["verdict"], "fail");
    let problem = &value["problems"][0];
    assert_eq!(
        (&problem["key"], problem["line"].as_u64()),
        (&"cluster.name".into(), Some(3))
    );
}

#[test]
fn a_missing_file_and_an_unknown_node_are_usage_errors() {
    let output = stateplane(&["check", "/no/such/file.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("cannot read /no/such/file.toml"),
        "{}",
        said(&output)
    );
    let dir = tempfile::tempdir().expect("directory");
    let path = file(dir.path(), GOOD);
    let output = stateplane(&[
        "run",
        "--config",
        path.to_str().expect("text"),
        "--node",
        "r9",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("no node \"r9\"; it declares: r1, r2, r3, seq"));
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_left_behind() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("address").port();
    let dir = tempfile::tempdir().expect("directory");
    let path = file(dir.path(), &GOOD.replace("17401", &port.to_string()));
    let output = stateplane(&[
        "run",
        "--config",
        path.to_str().expect("text"),
        "--node",
        "r1",
    ]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains(&format!("the replica cannot listen at 127.0.0.1:{port}")),
        "{said}"
    );
    assert!(
        said.contains("help: another process uses this port"),
        "{said}"
    );
    assert!(!dir.path().join("admin/r1.sock").exists());
}

#[test]
fn show_says_who_does_not_answer() {
    let dir = tempfile::tempdir().expect("directory");
    let path = file(dir.path(), GOOD);
    let output = stateplane(&["show", "nodes", "--config", path.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("r1: no answer: not running here"), "{out}");
}

#[test]
fn help_teaches_by_example() {
    for verb in ["run", "check", "show", "sim"] {
        let output = stateplane(&[verb, "--help"]);
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(
            out.contains("Examples:") && out.contains("Exit codes:"),
            "{verb}: {out}"
        );
    }
}
