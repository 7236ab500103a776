//! One file that is right, and for every class of mistake the exact message.

use std::path::Path;

use super::*;

mod chain;
mod group;
mod meter;
mod workers;

/// A whole and correct configuration; tests break it in one place.
const GOOD: &str = r#"[cluster]
name = "edge"
key = "000102030405060708090a0b0c0d0e0f"

[state]
backend = "group"
sequencer = "seq"
replicas = ["r1", "r2", "r3"]

[detect]
heartbeat-ms = 5
dead-ms = 20

[node.seq]
roles = ["sequencer"]
control = "10.9.0.5:7400"

[node.r1]
roles = ["replica"]
control = "10.9.0.21:7400"

[node.r2]
roles = ["replica"]
control = "10.9.0.22:7400"

[node.r3]
roles = ["replica"]
control = "10.9.0.23:7400"

[node.gw1]
roles = ["function"]
control = "10.9.0.11:7400"
inside = "lan0"
outside = "wan0"

[node.gw2]
roles = ["function"]
control = "10.9.0.12:7400"
inside = "lan0"
outside = "wan0"

[node.sw]
roles = ["switch"]
control = "10.9.0.1:7400"
inside = ["cl0"]
outside = ["sv0"]
instances = [
    { node = "gw1", inside = "g1i", outside = "g1o" },
    { node = "gw2", inside = "g2i", outside = "g2o" },
]

[nat]
inside-prefixes = ["10.0.0.0/16"]
outside-addresses = ["198.51.100.1-198.51.100.16"]
ports = "1024-65535"
commit = "strict"
limit-per-subscriber = 100

[nat.timeouts]
udp = "5m"

[park]
limit = 100
timeout-ms = 50
"#;

fn parse(text: &str) -> Result<(Config, Vec<Problem>), Problems> {
    Config::parse("edge.toml", text, Path::new("."))
}

/// Replaces `old` in the good file and returns what is said about it.
fn said(old: &str, new: &str) -> String {
    assert_eq!(
        GOOD.matches(old).count(),
        1,
        "the test must change one place: {old}"
    );
    match parse(&GOOD.replace(old, new)) {
        Ok((_, warnings)) => Plain(&warnings).to_string(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn a_good_file_is_read_as_written() {
    let (config, warnings) = parse(GOOD).expect("the file is right");
    assert!(warnings.is_empty());
    let replicas = ["r1", "r2", "r3"].map(String::from).to_vec();
    assert_eq!(
        config.state,
        State::Group {
            protocol: Protocol::Nopaxos,
            sequencers: vec!["seq".into()],
            replicas,
            spares: vec![],
            disk: None,
            longest: 4 << 20,
        }
    );
    assert_eq!(config.detect.dead, Duration::from_millis(20));
    assert_eq!(config.cluster.admin_dir, Path::new("/run/stateplane"));
    let switch = config.nodes["sw"].switch.as_ref().expect("is a switch");
    assert_eq!(switch.instances[1].outside, "g2o");
    let steering: Vec<_> = config
        .switches_of("gw2")
        .map(|(n, i)| (n.name.as_str(), i))
        .collect();
    assert_eq!(steering, [("sw", 1)]);
    let nat = config.nat.expect("has nat");
    assert_eq!(
        nat.timeouts,
        Timeouts {
            udp: Duration::from_secs(300),
            ..Timeouts::default()
        }
    );
    assert_eq!(nat.outside_addresses[0].count(), 16);
    assert_eq!(config.park.timeout, Duration::from_millis(50));
    assert_eq!(format!("{:?}", config.cluster.key), "Key(secret)");
}

#[test]
fn omitted_parts_have_their_defaults() {
    let text = r#"
        [cluster]
        name = "one"
        key = "000102030405060708090a0b0c0d0e0f"
        [node.gw]
        roles = ["function"]
        inside = "lan0"
        outside = "wan0"
        [nat]
        inside-prefixes = ["10.0.0.0/16"]
        outside-addresses = ["198.51.100.1"]
    "#;
    let (config, warnings) = parse(text).expect("an embedded NAT needs no more");
    assert!(warnings.is_empty());
    assert_eq!(config.state, State::Embedded);
    let nat = config.nat.expect("has nat");
    assert_eq!((nat.ports, nat.commit), (1024..=65_535, Commit::Strict));
    assert_eq!(config.park.limit, 4096);
    assert_eq!(config.fast_path, FastPath::default());
}

#[test]
fn the_fast_path_is_on_unless_it_is_switched_off() {
    let with = |section: &str| parse(&format!("{GOOD}\n[fast-path]\n{section}\n"));
    let (config, warnings) = with("flows = 100000").expect("a number of flows");
    assert_eq!(
        (config.fast_path.enabled, config.fast_path.flows),
        (true, 1 << 17)
    );
    assert!(warnings.is_empty());
    assert_eq!(config.fast_path.mode, AttachAs::Auto);
    let (config, _) = with("mode = \"generic\"").expect("a mode");
    assert_eq!(config.fast_path.mode, AttachAs::Generic);
    let (config, warnings) = with("enabled = false\nflows = 2048").expect("both may be given");
    assert!(!config.fast_path.enabled);
    assert_eq!(warnings[0].key, "fast-path.flows");
}

#[test]
fn roles_are_bound_to_processors_as_written() {
    let two = "[io]\nbusy-poll-us = 50\n\n[node.r3]\nroles = [\"replica\", \"function\"]\n\
               inside = \"a\"\noutside = \"b\"\ncpu = CPU";
    let read = |cpu| {
        let text = GOOD.replace("[node.r3]\nroles = [\"replica\"]", &two.replace("CPU", cpu));
        let control = "{ replica = \"10.9.0.23:7400\", function = \"10.9.0.23:7401\" }";
        parse(&text.replace("\"10.9.0.23:7400\"", control)).expect("the file is right")
    };
    let (config, warnings) = read("{ replica = 3 }");
    assert_eq!(config.io.busy_poll, Duration::from_micros(50));
    assert_eq!(config.nodes["r3"].cpu, [(Role::Replica, 3)].into());
    assert!(warnings.is_empty() && config.nodes["r1"].cpu.is_empty());
    let (config, warnings) = read("2");
    let both = [(Role::Replica, 2), (Role::Function, 2)];
    assert_eq!(config.nodes["r3"].cpu, both.into());
    let said = Plain(&warnings).to_string();
    assert!(said.contains("node.r3.cpu: several roles look"), "{said}");
}

/// Each class of mistake, as (what is changed, into what, what is said).
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "dead-ms = 20",
        "dead-mz = 20",
        "edge.toml:12:1: error: detect.dead-mz: unknown key; help: did you mean `dead-ms`?",
    ),
    (
        "[park]",
        "[parking-lot]",
        "edge.toml:62:2: error: parking-lot: unknown key; \
         help: known keys here: cluster, state, detect, io, lease, node, nat, meter, park, regions, fast-path, telemetry",
    ),
    (
        "dead-ms = 20",
        "dead-ms = 20\n[io]\nbusy-poll-us = -1",
        "edge.toml:14:16: error: io.busy-poll-us: \
         expected an integer from 0 to 1000000, found -1",
    ),
    (
        "dead-ms = 20",
        "dead-ms = 20\n[io]\nbatch = 1",
        "edge.toml:14:9: error: io.batch: expected true or false, found an integer; help: write it without quotes",
    ),
    (
        "control = \"10.9.0.5:7400\"",
        "control = \"10.9.0.5:7400\"\ncpu = \"1\"",
        "edge.toml:17:7: error: node.seq.cpu: \
         expected an integer from 0 to 1023, found a string",
    ),
    (
        "control = \"10.9.0.5:7400\"",
        "control = \"10.9.0.5:7400\"\ncpu = { replica = 1 }",
        "edge.toml:17:9: error: node.seq.cpu.replica: unknown key; \
         help: known keys here: sequencer",
    ),
    (
        "limit-per-subscriber = 100",
        "flows = 1023",
        "edge.toml:57:9: error: nat.flows: expected an integer from 1024 to 16777216, found 1023",
    ),
    (
        "dead-ms = 20",
        "dead-ms = \"20\"",
        "edge.toml:12:11: error: detect.dead-ms: \
         expected an integer from 2 to 60000, found a string",
    ),
    (
        "dead-ms = 20",
        "dead-ms = 8",
        "edge.toml:12:11: error: detect.dead-ms: an instance would count as dead after 8 ms, \
         before its second heartbeat (5 ms); help: let `dead-ms` be at least twice \
         `heartbeat-ms`; four times rides out lost datagrams",
    ),
    (
        "limit = 100\n",
        "limit = 0\n",
        "edge.toml:63:9: error: park.limit: expected an integer from 1 to 65536, found 0",
    ),
    (
        "[park]",
        "[fast-path]\nflows = 7\n[park]",
        "edge.toml:63:9: error: fast-path.flows: expected an integer from 1024 to 16777216, found 7",
    ),
    (
        "sequencer = \"seq\"",
        "sequencer = \"sec\"",
        "edge.toml:7:13: error: state.sequencer: no node is called \"sec\"; \
         help: did you mean \"seq\"?\n\
         edge.toml:15:10: error: node.seq.roles[0]: \"seq\" is a sequencer that \
         `state.sequencer` does not name; help: name it in `state.sequencer`, or remove the role",
    ),
    (
        "sequencer = \"seq\"\n",
        "",
        "edge.toml:5:1: error: state.sequencer: required key is missing; \
         help: add `sequencer = \"seq\"`",
    ),
    (
        "backend = \"group\"",
        "backend = \"grupp\"",
        "edge.toml:6:11: error: state.backend: expected one of \"embedded\", \"group\", \
         found \"grupp\"; help: did you mean \"group\"?",
    ),
    (
        "[\"r1\", \"r2\", \"r3\"]",
        "[\"r1\", \"r2\", \"r3\", \"r2\"]",
        "edge.toml:8:12: error: state.replicas: expected 1, 3, 5 or 7 replicas, found 4; \
         help: 2f+1 replicas survive the loss of f: 3 survive one, 5 survive two\n\
         edge.toml:8:31: error: state.replicas[3]: \"r2\" is listed twice; \
         help: list each replica once",
    ),
    (
        "\"10.9.0.22:7400\"",
        "\"10.9.0.21:7400\"",
        "edge.toml:24:11: error: node.r2.control: 10.9.0.21:7400 is already the address of \
         \"r1\"; help: give every role its own address or port",
    ),
    (
        "\"10.9.0.22:7400\"",
        "\"0.0.0.0:7400\"",
        "edge.toml:24:11: error: node.r2.control: expected IPv4-ADDRESS:PORT, \
         found \"0.0.0.0:7400\"; help: other nodes send to this address: give a real one \
         and a port that is not 0",
    ),
    (
        "control = \"10.9.0.22:7400\"\n",
        "",
        "edge.toml:22:1: error: node.r2.control: the replica needs an address for datagrams; \
         help: add `control = \"ADDRESS:PORT\"`",
    ),
    (
        "[\"sequencer\"]",
        "[\"sequenser\"]",
        "edge.toml:15:10: error: node.seq.roles[0]: expected one of \"sequencer\", \"replica\", \
         \"function\", \"switch\", \"resp\", \"regions\", found \"sequenser\"; help: did you mean \"sequencer\"?",
    ),
    (
        "[\"sequencer\"]",
        "[\"sequencer\", \"replica\"]",
        "edge.toml:16:11: error: node.seq.control: each role of a node needs a port of its own; \
         help: write `control = { sequencer = \"ADDRESS:PORT\", replica = \"ADDRESS:PORT\" }`",
    ),
    (
        "\"10.0.0.0/16\"",
        "\"10.0.0.1/16\"",
        "edge.toml:53:20: error: nat.inside-prefixes[0]: expected a prefix without host bits, \
         found \"10.0.0.1/16\"; help: did you mean \"10.0.0.0/16\"?",
    ),
    (
        "\"10.0.0.0/16\"",
        "\"10.0.0.0/16\", \"10.0.4.0/24\"",
        "edge.toml:53:35: error: nat.inside-prefixes[1]: 10.0.4.0/24 overlaps 10.0.0.0/16; \
         help: remove the smaller one",
    ),
    (
        "\"198.51.100.1-198.51.100.16\"",
        "\"198.51.100.0/30\", \"198.51.100.3\"",
        "edge.toml:54:41: error: nat.outside-addresses[1]: overlaps 198.51.100.0-198.51.100.3; \
         help: each public address belongs to the pool once",
    ),
    (
        "\"198.51.100.1-198.51.100.16\"",
        "\"10.0.9.1\"",
        "edge.toml:54:22: error: nat.outside-addresses[0]: overlaps the inside prefix \
         10.0.0.0/16; help: inside and outside addresses must differ",
    ),
    (
        "\"198.51.100.1-198.51.100.16\"",
        "\"198.51.100.16-198.51.100.1\"",
        "edge.toml:54:22: error: nat.outside-addresses[0]: expected the lower address first; \
         help: did you mean \"198.51.100.1-198.51.100.16\"?",
    ),
    (
        "\"1024-65535\"",
        "\"1000-65535\"",
        "edge.toml:55:9: error: nat.ports: expected whole blocks of 256 ports above 255, \
         found \"1000-65535\"; help: the nearest range that fits is \"768-65535\"",
    ),
    (
        "udp = \"5m\"",
        "udp = 300",
        "edge.toml:60:7: error: nat.timeouts.udp: expected a duration, found an integer; \
         help: write a number with a unit, e.g. \"300s\", \"5m\", \"2h4m\"",
    ),
    (
        "{ node = \"gw2\", inside = \"g2i\"",
        "{ node = \"r1\", inside = \"g2i\"",
        "edge.toml:49:14: error: node.sw.instances[1].node: \"r1\" does not have the role \
         function; help: add \"function\" to `node.r1.roles`",
    ),
    (
        "{ node = \"gw2\", inside = \"g2i\"",
        "{ node = \"gw2\", inside = \"g1i\"",
        "edge.toml:49:30: error: node.sw.instances[1].inside: \"g1i\" is already used by \
         `node.sw.instances[0].inside`; help: each interface of a switch has one purpose",
    ),
    (
        "instances = [\n",
        "pin = { inside = \"gw1\", outside = \"gw3\" }\ninstances = [\n",
        "edge.toml:47:35: error: node.sw.pin.outside: \"gw3\" is not an instance of this switch; \
         help: did you mean \"gw1\"?",
    ),
    (
        "key = \"000102030405060708090a0b0c0d0e0f\"",
        "key = \"0001\"",
        "edge.toml:3:7: error: cluster.key: expected 32 hexadecimal digits (16 bytes), \
         found 4 characters; help: make one with `openssl rand -hex 16`",
    ),
    (
        "key = \"000102030405060708090a0b0c0d0e0f\"",
        "key-file = \"no/such\"",
        "edge.toml:3:12: error: cluster.key-file: cannot read ./no/such: \
         No such file or directory (os error 2); \
         help: make it with `openssl rand -hex 16`, the same on all nodes, mode 0600",
    ),
];

#[test]
fn every_mistake_is_named_located_and_mended() {
    let mut wrong = String::new();
    for (old, new, expected) in MISTAKES {
        let said = said(old, new);
        if said != *expected {
            wrong += &format!("{old} -> {new}\n  expected {expected}\n  said     {said}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_key_that_every_user_can_read_is_warned_of() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key");
    fs::write(&path, "000102030405060708090a0b0c0d0e0f\n").expect("written");
    let inline = "key = \"000102030405060708090a0b0c0d0e0f\"";
    let text = GOOD.replace(inline, "key-file = \"key\"");
    let warnings = |mode| {
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("our file");
        let (_, warnings) = Config::parse("edge.toml", &text, dir.path()).expect("right");
        Plain(&warnings).to_string()
    };
    assert_eq!((warnings(0o600), warnings(0o640)), Default::default());
    let shown = path.display();
    assert_eq!(
        warnings(0o644),
        format!(
            "edge.toml:3:12: warning: cluster.key-file: {shown} is open to every user of this \
             machine (mode 0644); help: `chmod 0600 {shown}`; if others had access, make a new key"
        )
    );
}

#[test]
fn a_function_needs_something_to_do() {
    let end = GOOD.find("[nat]").expect("has nat");
    let problems = parse(&GOOD[..end])
        .expect_err("functions without nat")
        .to_string();
    assert!(
        problems.contains("node.gw1.roles[0]: a function needs something to do"),
        "{problems}"
    );
}

#[test]
fn all_problems_are_reported_in_one_run_in_the_order_of_the_file() {
    let text = GOOD
        .replace("name = \"edge\"", "name = 7")
        .replace("\"10.9.0.21:7400\"", "\"10.9.0.21\"")
        .replace("node = \"gw1\"", "node = \"gw9\"")
        .replace("limit = 100\n", "limit = 0\n");
    let problems = parse(&text).expect_err("four mistakes");
    let keys: Vec<&str> = problems.list.iter().map(|p| p.key.as_str()).collect();
    let expected = [
        "cluster.name",
        "node.r1.control",
        "node.sw.instances[0].node",
        "park.limit",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn broken_syntax_is_reported_with_its_place() {
    let problems = parse("[cluster]\nname = \"edge\nkey = 1\n").expect_err("no closing quote");
    assert_eq!(
        (problems.list[0].line, problems.list[0].key.as_str()),
        (2, "TOML")
    );
    assert!(parse("").is_err());
}

#[test]
fn several_roles_share_a_node_with_a_port_each() {
    let text = GOOD
        .replace(
            "[node.r1]\nroles = [\"replica\"]",
            "[node.r1]\nroles = [\"replica\", \"function\"]\ninside = \"a\"\noutside = \"b\"",
        )
        .replace(
            "control = \"10.9.0.21:7400\"",
            "control = { replica = \"10.9.0.21:7400\", function = \"10.9.0.21:7401\" }",
        );
    let (config, _) = parse(&text).expect("two roles");
    assert_eq!(config.nodes["r1"].control[&Role::Function].port(), 7401);
}

#[test]
fn the_shipped_example_is_right() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/edge.toml"
    ));
    let (config, warnings) = Config::load(path).unwrap_or_else(|error| panic!("{error}"));
    assert!(warnings.is_empty(), "{}", Plain(&warnings));
    assert!(config.nodes.values().any(|node| node.is(Role::Switch)));
}

#[test]
fn senders_are_told_apart_or_refused() {
    let roles = Role::WORDS.map(|(_, role)| role);
    let mut seen = BTreeMap::new();
    let clash = (0..).map(|n| format!("n{n}")).find_map(|name| {
        let other = seen.insert(sender_id(&name, roles[1]), name.clone())?;
        Some((other, name))
    });
    let (one, two) = clash.expect("16 bits are few");
    let text = GOOD.replace("r1", &one).replace("r2", &two);
    let said = parse(&text)
        .expect_err("two replicas with one number")
        .to_string();
    assert!(said.contains("its number on the wire equals"), "{said}");

    let same = |name: &String| sender_id(name, roles[0]) == sender_id(name, roles[1]);
    let name = (0..).map(|n| format!("n{n}")).find(same);
    let name = name.expect("16 bits are few");
    let text = GOOD.replace("\"seq\"", "\"r1\"").replace("r1", &name);
    let text = text.replace(
        "[node.seq]\nroles = [\"sequencer\"]\ncontrol = \"10.9.0.5:7400\"\n",
        "",
    );
    let text = text.replace(
        &format!("[node.{name}]\nroles = [\"replica\"]\ncontrol = \"10.9.0.21:7400\"\n"),
        &format!(
            "[node.{name}]\nroles = [\"sequencer\", \"replica\"]\n\
             control = {{ sequencer = \"10.9.0.5:7400\", replica = \"10.9.0.21:7400\" }}\n"
        ),
    );
    let said = parse(&text)
        .expect_err("two roles with one number")
        .to_string();
    assert!(
        said.contains("its sequencer and its replica have the same number"),
        "{said}"
    );
}

#[test]
fn leases_are_read_and_what_is_wrong_is_named() {
    let with = |lines: &str| parse(&format!("{GOOD}\n[lease]\n{lines}\n"));
    let (config, _) = parse(GOOD).expect("the file is right");
    assert_eq!(config.lease, Lease::default());
    let (config, warnings) = with("length = \"3s\"\ndrift-ppm = 200").expect("it is right");
    assert!(warnings.is_empty());
    assert_eq!(config.lease.length, Duration::from_secs(3));
    let usable = config.lease.holder().usable(config.lease.length);
    assert!(usable < config.lease.length && usable > Duration::from_millis(2_950));
    let (config, warnings) = with("on-expiry = \"open\"").expect("it is allowed");
    assert_eq!(config.lease.on_expiry, stateplane_lease::OnExpiry::Open);
    assert!(Plain(&warnings).to_string().contains("lease.on-expiry"));
    let line = GOOD.lines().count() + 3;
    for (wrong, words) in [
        ("length = \"10ms\"", "a duration from 1s to 7d"),
        ("length = 10", "expected a duration"),
        ("drift-ppm = 200000", "lease.drift-ppm"),
        ("on-expiry = \"close\"", "did you mean \"closed\"?"),
        ("lenght = \"10s\"", "did you mean `length`?"),
    ] {
        let said = with(wrong).expect_err(wrong).to_string();
        assert!(said.contains(words), "{said}");
        assert!(said.contains(&format!("edge.toml:{line}:")), "{said}");
    }
}
