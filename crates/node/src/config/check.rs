//! What no single key shows: names that lead nowhere, addresses used twice,
//! combinations that cannot work.

use std::collections::BTreeMap;

use super::problem::Collector;
use super::read::Draft;
use super::section::closest;
use stateplane_wire::group::{MAX_REPLICAS, MAX_SEQUENCERS};

use super::{Nat, Node, Role, Runs, State, chain, io, meter, regions, sender_id, switch, workers};

/// The pool's size is a limit of the store's tables.
const MAX_OUTSIDE_ADDRESSES: u64 = 4096;
/// Longest path of a unix socket that the kernel takes, less one.
const MAX_SOCKET_PATH: usize = 107;

/// Runs every cross-check on what could be read.
pub(super) fn check(draft: &Draft, out: &mut Collector) {
    detection(draft, out);
    group(draft, out);
    roles(draft, out);
    identities(draft, out);
    addresses(draft, out);
    admin_paths(draft, out);
    regions::check(draft, out);
    for node in draft.nodes.values() {
        io::check(draft.io, node, out);
        workers::check(node, draft, out);
        chain::check(node, draft, out);
        if let Some(switch) = &node.switch {
            switch::check(node, switch, draft, out);
        }
    }
    if let Some(nat) = &draft.nat {
        self::nat(nat, draft, out);
    }
    if let Some(meter) = &draft.meter {
        meter::check(meter, draft, out);
    }
}

/// Reports `name` unless the file declares a node called so.
pub(super) fn declared(key: &str, name: &str, declared: &[String], out: &mut Collector) -> bool {
    if declared.iter().any(|d| d == name) {
        return true;
    }
    let help = match closest(name, declared.iter().map(String::as_str)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!(
            "declare `[node.{name}]`, or name one of: {}",
            declared.join(", ")
        ),
    };
    out.error(key, format!("no node is called \"{name}\""), help);
    false
}

fn detection(draft: &Draft, out: &mut Collector) {
    let detect = draft.detect;
    if detect.dead < detect.heartbeat * 2 {
        let key = if out.has("detect.dead-ms") {
            "detect.dead-ms"
        } else {
            "detect.heartbeat-ms"
        };
        out.error(
            key,
            format!(
                "an instance would count as dead after {} ms, before its second heartbeat ({} ms)",
                detect.dead.as_millis(),
                detect.heartbeat.as_millis()
            ),
            "let `dead-ms` be at least twice `heartbeat-ms`; four times rides out lost datagrams",
        );
    }
}

fn group(draft: &Draft, out: &mut Collector) {
    let Some(State::Group {
        sequencers,
        replicas,
        spares,
        ..
    }) = &draft.state
    else {
        return;
    };
    if out.has("state.sequencers") {
        members("state.sequencers", sequencers, Role::Sequencer, draft, out);
        if sequencers.is_empty() || sequencers.len() > MAX_SEQUENCERS {
            out.error(
                "state.sequencers",
                format!(
                    "expected 1 to {MAX_SEQUENCERS} sequencers, found {}",
                    sequencers.len()
                ),
                "two suffice: one serves, the other stands by",
            );
        }
    } else if let [sequencer] = &sequencers[..] {
        member("state.sequencer", sequencer, Role::Sequencer, draft, out);
    }
    members("state.replicas", replicas, Role::Replica, draft, out);
    members("state.spares", spares, Role::Replica, draft, out);
    for (n, name) in spares.iter().enumerate() {
        if replicas.contains(name) {
            out.error(
                &format!("state.spares[{n}]"),
                format!("\"{name}\" is in `replicas` already"),
                "list in `spares` only replicas that the group forms without",
            );
        }
    }
    let n = replicas.len();
    if n + spares.len() > MAX_REPLICAS {
        out.error(
            "state.spares",
            format!(
                "expected at most {MAX_REPLICAS} replicas and spares together, found {}",
                n + spares.len()
            ),
            "list fewer spares",
        );
    }
    if n % 2 == 0 || n > 7 {
        out.error(
            "state.replicas",
            format!("expected 1, 3, 5 or 7 replicas, found {n}"),
            "2f+1 replicas survive the loss of f: 3 survive one, 5 survive two",
        );
    } else if n == 1 {
        out.warn(
            "state.replicas",
            "one replica survives no failure",
            "use three",
        );
    }
}

/// Each of `names` must be a node with `role`, and another one.
fn members(list: &str, names: &[String], role: Role, draft: &Draft, out: &mut Collector) {
    for (n, name) in names.iter().enumerate() {
        let key = format!("{list}[{n}]");
        if names[..n].contains(name) {
            out.error(
                &key,
                format!("\"{name}\" is listed twice"),
                format!("list each {role} once"),
            );
            continue;
        }
        member(&key, name, role, draft, out);
    }
}

/// `name` must be a node with `role`.
pub(super) fn member(key: &str, name: &str, role: Role, draft: &Draft, out: &mut Collector) {
    if !declared(key, name, &draft.declared, out) {
        return;
    }
    if let Some(node) = draft.nodes.get(name)
        && !node.is(role)
    {
        let help = format!("add \"{role}\" to `node.{name}.roles`, or name another node");
        out.error(
            key,
            format!("node \"{name}\" does not have the role {role}"),
            help,
        );
    }
}

fn roles(draft: &Draft, out: &mut Collector) {
    for node in draft.nodes.values() {
        let key = format!("node.{}.roles", node.name);
        if node.roles.is_empty() {
            out.error(
                &key,
                "a node needs at least one role",
                "for example `[\"function\"]`",
            );
        }
        for (n, role) in node.roles.iter().enumerate() {
            let key = format!("{key}[{n}]");
            if node.roles[..n].contains(role) {
                out.error(
                    &key,
                    format!("\"{role}\" is listed twice"),
                    "list each role once",
                );
                continue;
            }
            self::role(&key, *role, node, draft, out);
        }
    }
}

/// One role of one node against the rest of the file.
fn role(key: &str, role: Role, node: &Node, draft: &Draft, out: &mut Collector) {
    let name = node.name.as_str();
    let listed = match (&draft.state, role) {
        (Some(State::Group { sequencers, .. }), Role::Sequencer) if sequencers.is_empty() => {
            let message = "a group with `protocol = \"vr\"` needs no sequencer";
            out.error(key, message, "remove the role");
            true
        }
        (Some(State::Group { sequencers, .. }), Role::Sequencer) => {
            sequencers.iter().any(|s| s == name)
        }
        (
            Some(State::Group {
                replicas, spares, ..
            }),
            Role::Replica,
        ) => replicas.iter().chain(spares).any(|r| r == name),
        (Some(State::Embedded), Role::Sequencer | Role::Replica) => {
            let help = "add `[state]` with `backend = \"group\"`, `sequencer` and `replicas`";
            out.error(key, format!("the embedded state needs no {role}"), help);
            true
        }
        _ => true,
    };
    if !listed {
        let list = match role {
            Role::Replica => "state.replicas",
            _ if out.has("state.sequencers") => "state.sequencers",
            _ => "state.sequencer",
        };
        let help = format!("name it in `{list}`, or remove the role");
        out.error(
            key,
            format!("\"{name}\" is a {role} that `{list}` does not name"),
            help,
        );
    }
    if node.runs(Runs::Nat) && draft.nat.is_none() && !out.has("nat") {
        let help = "add `[nat]` with `inside-prefixes` and `outside-addresses`";
        out.error(
            key,
            "a function needs something to do: there is no `[nat]`",
            help,
        );
    }
    if node.runs(Runs::Meter) && draft.meter.is_none() && !out.has("meter") {
        let message = "a meter needs somebody to count: there is no `[meter]`";
        out.error(key, message, "add `[meter]` with `inside-prefixes`");
    }
    let needed = match role {
        Role::Function => !matches!(draft.state, Some(State::Embedded)) || steered(name, draft),
        Role::Resp => !matches!(draft.state, Some(State::Embedded)),
        _ => true,
    };
    if needed && !node.control.contains_key(&role) {
        let control = format!("node.{name}.control");
        let help = if node.roles.len() == 1 {
            "add `control = \"ADDRESS:PORT\"`".to_owned()
        } else {
            format!("add `{role} = \"ADDRESS:PORT\"` to it")
        };
        out.error(
            &control,
            format!("the {role} needs an address for datagrams"),
            help,
        );
    }
    if let Some(function) = &node.function
        && role == Role::Function
        && function.inside == function.outside
    {
        let message = format!("inside and outside are both \"{}\"", function.inside);
        let help = "a NAT stands between two interfaces: name two";
        out.error(&format!("node.{name}.outside"), message, help);
    }
}

/// Whether any switch steers to `name`.
fn steered(name: &str, draft: &Draft) -> bool {
    let switches = draft.nodes.values().filter_map(|node| node.switch.as_ref());
    switches
        .flat_map(|switch| &switch.instances)
        .any(|instance| instance.node == name)
}

/// Two senders with one number would take each other for a replay.
fn identities(draft: &Draft, out: &mut Collector) {
    let mut seen = BTreeMap::new();
    for node in draft.nodes.values() {
        let key = format!("node.{}", node.name);
        let workers = node.workers().into_iter().skip(1);
        let workers =
            workers.map(|worker| (sender_id(&worker.name, Role::Function), Role::Function));
        let roles = node.roles.iter();
        let roles = roles.map(|role| (sender_id(&node.name, *role), *role));
        for (number, role) in roles.chain(workers) {
            match seen.insert(number, (&node.name, role)) {
                Some((other, _)) if *other != node.name => {
                    let message = format!("its number on the wire equals that of \"{other}\"");
                    out.error(&key, message, "rename one of the two nodes");
                }
                Some((_, other)) if other != role || node.workers().len() > 1 => {
                    let message =
                        format!("its {other} and its {role} have the same number on the wire");
                    out.error(&key, message, "rename the node");
                }
                _ => {} // a role listed twice is reported elsewhere
            }
        }
    }
}

fn addresses(draft: &Draft, out: &mut Collector) {
    let mut seen = BTreeMap::new();
    for node in draft.nodes.values() {
        let workers = node.workers().into_iter().skip(1);
        let workers = workers.filter_map(|worker| Some((Role::Function, worker.control?)));
        let roles = node.control.iter().map(|(role, address)| (*role, *address));
        for (role, address) in roles.chain(workers) {
            let key = control_key(node, role, out);
            if let Some(other) = seen.insert(address, &node.name) {
                let message = format!("{address} is already the address of \"{other}\"");
                out.error(&key, message, "give every role its own address or port");
            }
            let in_pool = draft.nat.iter().flat_map(|nat| &nat.outside_addresses);
            for range in in_pool {
                if (range.first..=range.last).contains(address.ip()) {
                    let message = format!("{} is also in `nat.outside-addresses`", address.ip());
                    let help = "the pool's addresses belong to the NAT alone";
                    out.error(&key, message, help);
                }
            }
        }
    }
}

/// Where the control address of a role stands.
fn control_key(node: &Node, role: Role, out: &Collector) -> String {
    let table = format!("node.{}.control.{role}", node.name);
    if out.has(&table) {
        table
    } else {
        format!("node.{}.control", node.name)
    }
}

fn admin_paths(draft: &Draft, out: &mut Collector) {
    let Some(cluster) = &draft.cluster else {
        return;
    };
    let longest = draft.declared.iter().map(String::len).max().unwrap_or(0);
    let len = cluster.admin_dir.as_os_str().len() + longest + "/.sock".len();
    if len > MAX_SOCKET_PATH {
        let message = format!("DIR/NODE.sock would be {len} bytes long, {MAX_SOCKET_PATH} fit");
        out.error("cluster.admin-dir", message, "choose a shorter directory");
    }
}

fn nat(nat: &Nat, draft: &Draft, out: &mut Collector) {
    for (key, empty) in [
        ("nat.inside-prefixes", nat.inside_prefixes.is_empty()),
        ("nat.outside-addresses", nat.outside_addresses.is_empty()),
    ] {
        if empty {
            out.error(key, "expected at least one element", "");
        }
    }
    let is_nat = |node: &Node| node.runs(Runs::Nat);
    if !draft.nodes.values().any(is_nat) && draft.nodes.len() == draft.declared.len() {
        let help = "give a node the role \"function\", or remove `[nat]`";
        out.warn("nat", "no node is a NAT", help);
    }
    for (n, prefix) in nat.inside_prefixes.iter().enumerate() {
        let earlier = nat.inside_prefixes[..n].iter();
        let clash = earlier
            .clone()
            .find(|p| p.contains(prefix.first()) || prefix.contains(p.first()));
        if let Some(other) = clash {
            let message = format!("{prefix} overlaps {other}");
            out.error(
                &format!("nat.inside-prefixes[{n}]"),
                message,
                "remove the smaller one",
            );
        }
    }
    let total: u64 = nat
        .outside_addresses
        .iter()
        .map(|range| range.count())
        .sum();
    if total > MAX_OUTSIDE_ADDRESSES {
        let message = format!("expected at most {MAX_OUTSIDE_ADDRESSES} addresses, found {total}");
        out.error("nat.outside-addresses", message, "");
    }
    for (n, range) in nat.outside_addresses.iter().enumerate() {
        let key = format!("nat.outside-addresses[{n}]");
        for other in &nat.outside_addresses[..n] {
            if range.first <= other.last && other.first <= range.last {
                let message = format!("overlaps {}-{}", other.first, other.last);
                out.error(
                    &key,
                    message,
                    "each public address belongs to the pool once",
                );
            }
        }
        for prefix in &nat.inside_prefixes {
            if range.first <= prefix.last() && prefix.first() <= range.last {
                let message = format!("overlaps the inside prefix {prefix}");
                out.error(&key, message, "inside and outside addresses must differ");
            }
        }
    }
}
