//! The file's tables into the configuration's types.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::problem::Collector;
use super::section::{Section, closest};
use super::{
    Cluster, Commit, Config, Detect, FastPath, Function, Instance, Io, Key, Lease, Meter, Nat,
    Node, Park, Pin, Problem, Problems, Regions, Role, Running, Stamping, State, Switch, Timeouts,
    chain, check, exchange, fast, io, lease, meter, regions, resp, sequencer, state, values,
    workers,
};
use crate::regions::weights::MAX_WEIGHT;

/// The weight of an instance unless the file says otherwise.
const WEIGHT: u32 = 100;

/// What was read, with gaps where something was wrong, so that the
/// cross-checks can go on with the rest.
pub(super) struct Draft {
    pub(super) cluster: Option<Cluster>,
    pub(super) state: Option<State>,
    pub(super) detect: Detect,
    pub(super) io: Io,
    pub(super) lease: Lease,
    /// Names of all nodes the file declares, also those that are wrong inside.
    pub(super) declared: Vec<String>,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) nat: Option<Nat>,
    pub(super) meter: Option<Meter>,
    pub(super) park: Park,
    pub(super) regions: Option<Regions>,
    pub(super) fast_path: FastPath,
    pub(super) telemetry: Duration,
}

/// Reads, cross-checks and returns the configuration and its warnings.
pub(super) fn read(file: &str, text: &str, dir: &Path) -> Result<(Config, Vec<Problem>), Problems> {
    let mut out = Collector::new(file, text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // With broken syntax the recovered tables are guesses: report only it.
        for error in syntax {
            out.error_at(error.span().unwrap_or(0..0), "TOML", error.message(), "");
        }
        return Err(out.finish().expect_err("syntax errors were reported"));
    }
    let root = Section::root(&document);
    root.only(
        &[
            "cluster",
            "state",
            "detect",
            "io",
            "lease",
            "node",
            "nat",
            "meter",
            "park",
            "regions",
            "fast-path",
            "telemetry",
        ],
        &mut out,
    );
    let mut draft = Draft {
        cluster: cluster(&root, dir, &mut out),
        state: state::read(&root, &mut out),
        detect: detect(&root, &mut out),
        io: io::io(&root, &mut out),
        lease: lease::read(&root, &mut out),
        declared: Vec::new(),
        nodes: BTreeMap::new(),
        nat: root
            .section("nat", &mut out)
            .and_then(|s| nat(&s, &mut out)),
        meter: meter::read(&root, &mut out),
        park: park(&root, &mut out),
        regions: regions::read(&root, &mut out),
        fast_path: fast::fast_path(&root, &mut out),
        telemetry: regions::telemetry(&root, &mut out),
    };
    nodes(&root, &mut draft, &mut out);
    exchange::add(&mut draft, &mut out);
    check::check(&draft, &mut out);
    let warnings = out.finish()?;
    let whole = "a draft without problems is complete";
    let cluster = draft.cluster.expect(whole);
    let config = Config {
        running: Running::of(text, cluster.key),
        telemetry: draft.telemetry,
        cluster,
        state: draft.state.expect(whole),
        detect: draft.detect,
        io: draft.io,
        lease: draft.lease,
        nodes: draft.nodes,
        nat: draft.nat,
        meter: draft.meter,
        park: draft.park,
        regions: draft.regions,
        fast_path: draft.fast_path,
    };
    Ok((config, warnings))
}

fn cluster(root: &Section<'_, '_>, dir: &Path, out: &mut Collector) -> Option<Cluster> {
    if root.value("cluster").is_none() {
        let help = "add `[cluster]` with `name`, `key` (or `key-file`) and `admin-dir`";
        out.error("cluster", "required table is missing", help);
        return None;
    }
    let section = root.section("cluster", out)?;
    section.only(&["name", "key", "key-file", "admin-dir"], out);
    let name = section.required("name", "\"edge\"", out, values::name);
    let key = key(&section, dir, out);
    let admin_dir = section.optional("admin-dir", out, values::string);
    Some(Cluster {
        name: name?,
        key: key?,
        admin_dir: admin_dir.map_or_else(|| "/run/stateplane".into(), Into::into),
    })
}

/// The shared key: in the file, or in a file of its own.
fn key(section: &Section<'_, '_>, dir: &Path, out: &mut Collector) -> Option<Key> {
    let inline = section.value("key").is_some();
    if inline && section.value("key-file").is_some() {
        let help = "keep one of `key` and `key-file`";
        out.error("cluster.key", "the key is given twice", help);
        return None;
    }
    if inline {
        return section.optional("key", out, |v| values::key(&values::string(v)?));
    }
    if section.value("key-file").is_none() {
        let help = "add `key = \"...\"` or `key-file = \"PATH\"`; \
                    make one with `openssl rand -hex 16`";
        out.error("cluster.key", "required key is missing", help);
        return None;
    }
    let path = dir.join(section.optional("key-file", out, values::string)?);
    open_to_others(&path, out);
    match std::fs::read_to_string(&path) {
        Ok(text) => match values::key(text.trim()) {
            Ok(key) => Some(key),
            Err(wrong) => {
                let message = format!("{}: {}", path.display(), wrong.expected);
                out.error("cluster.key-file", message, wrong.help);
                None
            }
        },
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            let help = "make it with `openssl rand -hex 16`, the same on all nodes, mode 0600";
            out.error("cluster.key-file", message, help);
            None
        }
    }
}

/// Who can read the key can speak for every node.
fn open_to_others(path: &Path, out: &mut Collector) {
    let Ok(meta) = std::fs::metadata(path) else {
        return; // reading it will tell
    };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        let shown = path.display();
        let message = format!("{shown} is open to every user of this machine (mode {mode:04o})");
        let help = format!("`chmod 0600 {shown}`; if others had access, make a new key");
        out.warn("cluster.key-file", message, help);
    }
}

fn detect(root: &Section<'_, '_>, out: &mut Collector) -> Detect {
    let mut detect = Detect {
        heartbeat: Duration::from_millis(5),
        dead: Duration::from_millis(20),
    };
    let Some(section) = root.section("detect", out) else {
        return detect;
    };
    section.only(&["heartbeat-ms", "dead-ms"], out);
    if let Some(span) = section.optional("heartbeat-ms", out, values::millis(1..=10_000)) {
        detect.heartbeat = span;
    }
    if let Some(span) = section.optional("dead-ms", out, values::millis(2..=60_000)) {
        detect.dead = span;
    }
    detect
}

fn park(root: &Section<'_, '_>, out: &mut Collector) -> Park {
    let mut park = Park {
        limit: 4096,
        timeout: Duration::from_millis(200),
    };
    let Some(section) = root.section("park", out) else {
        return park;
    };
    section.only(&["limit", "timeout-ms"], out);
    if let Some(limit) = section.optional("limit", out, values::integer(1..=65_536)) {
        park.limit = limit as usize;
    }
    if let Some(span) = section.optional("timeout-ms", out, values::millis(1..=60_000)) {
        park.timeout = span;
    }
    park
}

/// Rows that an instance's table of flows can have.
const NAT_FLOWS: RangeInclusive<u64> = 1024..=1 << 24;

fn nat(section: &Section<'_, '_>, out: &mut Collector) -> Option<Nat> {
    let known = [
        "inside-prefixes",
        "outside-addresses",
        "ports",
        "commit",
        "limit-per-subscriber",
        "flows",
        "timeouts",
    ];
    section.only(&known, out);
    section.required("inside-prefixes", "[\"10.0.0.0/16\"]", out, |_| Ok(()));
    let inside_prefixes = section.values("inside-prefixes", out, values::prefix);
    section.required(
        "outside-addresses",
        "[\"198.51.100.1-198.51.100.16\"]",
        out,
        |_| Ok(()),
    );
    let outside_addresses = section.values("outside-addresses", out, values::addresses);
    let words = [
        ("strict", Commit::Strict),
        ("reply-barrier", Commit::ReplyBarrier),
        ("async", Commit::Async),
    ];
    let ports = section.optional("ports", out, values::ports);
    let commit = section.optional("commit", out, values::word(&words));
    let limit = section.optional("limit-per-subscriber", out, values::integer(1..=65_536));
    let flows = section.optional("flows", out, values::integer(NAT_FLOWS));
    let timeouts = timeouts(section, out);
    Some(Nat {
        inside_prefixes: inside_prefixes?,
        outside_addresses: outside_addresses?,
        ports: ports.unwrap_or(1024..=65_535),
        commit: commit.unwrap_or(Commit::Strict),
        limit_per_subscriber: limit.map_or(8192, |n| n as u32),
        flows: flows.map_or(1 << 20, |n| n as u32),
        timeouts,
    })
}

fn timeouts(nat: &Section<'_, '_>, out: &mut Collector) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(section) = nat.section("timeouts", out) else {
        return timeouts;
    };
    section.only(&["udp", "icmp", "tcp-transitory", "tcp-established"], out);
    for (key, slot) in [
        ("udp", &mut timeouts.udp),
        ("icmp", &mut timeouts.icmp),
        ("tcp-transitory", &mut timeouts.tcp_transitory),
        ("tcp-established", &mut timeouts.tcp_established),
    ] {
        if let Some(span) = section.optional(key, out, values::timeout) {
            *slot = span;
        }
    }
    timeouts
}

fn nodes(root: &Section<'_, '_>, draft: &mut Draft, out: &mut Collector) {
    let Some(all) = root.section("node", out) else {
        if root.value("node").is_none() {
            out.error(
                "node",
                "no node is declared",
                "add `[node.NAME]` with its `roles`",
            );
        }
        return;
    };
    for (name, span) in all.keys() {
        draft.declared.push(name.to_owned());
        if !values::is_name(name) {
            let help = "use 1 to 32 letters, digits, `-` or `_`";
            out.error_at(span, &all.path_of(name), "not a node name", help);
        }
    }
    let declared = draft.declared.clone();
    for name in &declared {
        let Some(section) = all.section(name, out) else {
            continue;
        };
        if let Some(node) = node(name, &section, &declared, out) {
            draft.nodes.insert(name.clone(), node);
        }
    }
}

fn node(
    name: &str,
    section: &Section<'_, '_>,
    declared: &[String],
    out: &mut Collector,
) -> Option<Node> {
    section.required("roles", "[\"function\"]", out, |_| Ok(()))?;
    let roles = section.values("roles", out, values::word(&Role::WORDS));
    let is = |role| roles.as_ref().is_some_and(|roles| roles.contains(&role));
    // With unreadable roles any node key may be meant.
    let unsure = roles.is_none();
    let mut known = vec!["roles", "control", "cpu"];
    if is(Role::Function) || is(Role::Switch) || unsure {
        known.extend(["inside", "outside"]);
    }
    if is(Role::Function) || unsure {
        known.extend(["function", "workers"]);
    }
    if is(Role::Switch) || unsure {
        known.extend(["instances", "pin"]);
    }
    if is(Role::Resp) || unsure {
        known.extend(resp::KEYS);
    }
    if is(Role::Sequencer) || unsure {
        known.extend(sequencer::KEYS);
    }
    section.only(&known, out);
    let control = control(section, roles.as_deref().unwrap_or(&[]), out);
    let cpu = io::cpus(section, roles.as_deref().unwrap_or(&[]), out);
    if is(Role::Function) && is(Role::Switch) {
        let help = "declare two nodes; they may run on one machine";
        out.error(
            &section.path_of("roles"),
            "a node cannot be function and switch: both own the packets of their interfaces",
            help,
        );
        return None;
    }
    let function = if is(Role::Function) {
        Some(function(section, out))
    } else {
        None
    };
    let switch = if is(Role::Switch) {
        Some(switch(section, declared, out))
    } else {
        None
    };
    let stamping = if is(Role::Sequencer) {
        sequencer::stamping(section, out)
    } else {
        Some(Stamping::UserSpace)
    };
    let resp = is(Role::Resp).then(|| resp::resp(section, out));
    Some(Node {
        name: name.to_owned(),
        roles: roles?,
        control: control?,
        cpu,
        function: match function {
            Some(read) => Some(read?),
            None => None,
        },
        switch: match switch {
            Some(read) => Some(read?),
            None => None,
        },
        stamping: stamping?,
        resp: match resp {
            Some(read) => Some(read?),
            None => None,
        },
    })
}

/// One address for a node with one role, or a table of them by role.
fn control(
    section: &Section<'_, '_>,
    roles: &[Role],
    out: &mut Collector,
) -> Option<BTreeMap<Role, std::net::SocketAddrV4>> {
    let Some(value) = section.value("control") else {
        return Some(BTreeMap::new());
    };
    let path = section.path_of("control");
    if let DeValue::Table(_) = value.get_ref() {
        let by_role = Section::of(&path, value, out)?;
        let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
        by_role.only(&words, out);
        let mut read = BTreeMap::new();
        for role in roles {
            if by_role.value(role.word()).is_some() {
                read.insert(*role, by_role.optional(role.word(), out, values::socket)?);
            }
        }
        return Some(read);
    }
    let address = section.optional("control", out, values::socket)?;
    if roles.len() > 1 {
        let each: Vec<String> = roles
            .iter()
            .map(|role| format!("{role} = \"ADDRESS:PORT\""))
            .collect();
        let help = format!("write `control = {{ {} }}`", each.join(", "));
        out.error(&path, "each role of a node needs a port of its own", help);
        return None;
    }
    Some(roles.iter().map(|role| (*role, address)).collect())
}

fn function(section: &Section<'_, '_>, out: &mut Collector) -> Option<Function> {
    let inside = section.required("inside", "\"lan0\"", out, values::interface);
    let outside = section.required("outside", "\"wan0\"", out, values::interface);
    let workers = workers::workers(section, out);
    let runs = chain::runs(section, out);
    Some(Function {
        runs: runs?,
        inside: inside?,
        outside: outside?,
        workers: workers?,
    })
}

fn switch(section: &Section<'_, '_>, declared: &[String], out: &mut Collector) -> Option<Switch> {
    section.required("inside", "[\"cl0\"]", out, |_| Ok(()));
    let inside = section.values("inside", out, values::interface);
    section.required("outside", "[\"sv0\"]", out, |_| Ok(()));
    let outside = section.values("outside", out, values::interface);
    let example = "[ { node = \"gw1\", inside = \"g1i\", outside = \"g1o\" } ]";
    section.required("instances", example, out, |_| Ok(()));
    let instances = section.list("instances", out, |path, value, out| {
        let instance = Section::of(path, value, out)?;
        instance.only(&["node", "inside", "outside", "weight"], out);
        let node = instance.required("node", "\"gw1\"", out, values::name);
        let inside = instance.required("inside", "\"g1i\"", out, values::interface);
        let outside = instance.required("outside", "\"g1o\"", out, values::interface);
        let most = u64::from(MAX_WEIGHT);
        let weight = instance.optional("weight", out, values::integer(0..=most));
        let node = node?;
        check::declared(&format!("{path}.node"), &node, declared, out);
        Some(Instance {
            node,
            inside: inside?,
            outside: outside?,
            weight: weight.map_or(WEIGHT, |weight| weight as u32),
        })
    });
    let pin = match section.value("pin") {
        Some(_) => Some(pin(section, instances.as_deref(), out)?),
        None => None,
    };
    Some(Switch {
        inside: inside?,
        outside: outside?,
        instances: instances?,
        pin,
    })
}

fn pin(
    switch: &Section<'_, '_>,
    instances: Option<&[Instance]>,
    out: &mut Collector,
) -> Option<Pin> {
    let section = switch.section("pin", out)?;
    section.only(&["inside", "outside"], out);
    let mut index = |key: &str| {
        let name = section.required(key, "\"gw1\"", out, values::name)?;
        let instances = instances?;
        let found = instances.iter().position(|i| i.node == name);
        if found.is_none() {
            let near = closest(&name, instances.iter().map(|i| i.node.as_str()));
            let help = near
                .map(|n| format!("did you mean \"{n}\"?"))
                .unwrap_or_default();
            let message = format!("\"{name}\" is not an instance of this switch");
            out.error(&section.path_of(key), message, help);
        }
        found
    };
    let inside = index("inside");
    let outside = index("outside");
    Some(Pin {
        inside: inside?,
        outside: outside?,
    })
}
