//! What no single key of a switch shows.

use super::problem::Collector;
use super::read::Draft;
use super::{Instance, Node, Role, State, Switch};
use crate::detect::MAX_INSTANCES;

/// Checks a switch against the rest of the file.
pub(super) fn check(node: &Node, switch: &Switch, draft: &Draft, out: &mut Collector) {
    let base = format!("node.{}", node.name);
    for (list, ports) in [("inside", &switch.inside), ("outside", &switch.outside)] {
        if ports.is_empty() {
            let key = format!("{base}.{list}");
            out.error(
                &key,
                "expected at least one interface",
                "name the ports to the hosts",
            );
        }
    }
    let n = switch.instances.len();
    if n == 0 || n > MAX_INSTANCES {
        let message = format!("expected 1 to {MAX_INSTANCES} instances, found {n}");
        out.error(
            &format!("{base}.instances"),
            message,
            "list the function nodes behind it",
        );
    }
    for (n, instance) in switch.instances.iter().enumerate() {
        let key = format!("{base}.instances[{n}].node");
        if switch.instances[..n]
            .iter()
            .any(|other| other.node == instance.node)
        {
            let message = format!("\"{}\" is listed twice", instance.node);
            out.error(&key, message, "list each instance once");
        }
        same_weight(
            &format!("{base}.instances[{n}]"),
            &node.name,
            instance,
            draft,
            out,
        );
        let node = draft.nodes.get(&instance.node);
        if node.is_some_and(|node| !node.is(Role::Function)) {
            let message = format!("\"{}\" does not have the role function", instance.node);
            let help = format!("add \"function\" to `node.{}.roles`", instance.node);
            out.error(&key, message, help);
        }
    }
    interfaces_once(&base, switch, out);
    if switch.instances.len() > 1 && matches!(draft.state, Some(State::Embedded)) {
        out.warn(
            &format!("{base}.instances"),
            "each instance keeps its own state: connections break when one dies",
            "add `[state]` with `backend = \"group\"`",
        );
    }
}

/// Weights are those of instances, whichever switch steers to them.
fn same_weight(base: &str, switch: &str, instance: &Instance, draft: &Draft, out: &mut Collector) {
    let others = draft.nodes.values().filter(|node| *node.name < *switch);
    for other in others {
        let instances = other.switch.iter().flat_map(|switch| &switch.instances);
        let mut same = instances.filter(|i| i.node == instance.node);
        if let Some(before) = same.find(|i| i.weight != instance.weight) {
            let message = format!(
                "the weight of \"{}\" is {} here and {} behind \"{}\"",
                instance.node, instance.weight, before.weight, other.name
            );
            let key = format!("{base}.weight");
            let key = if out.has(&key) {
                key
            } else {
                format!("{base}.node")
            };
            out.error(
                &key,
                message,
                "give it the same `weight` behind all switches",
            );
        }
    }
}

/// An interface of a switch has one purpose.
fn interfaces_once(base: &str, switch: &Switch, out: &mut Collector) {
    let hosts = [("inside", &switch.inside), ("outside", &switch.outside)];
    let mut uses: Vec<(String, &str)> = Vec::new();
    for (list, names) in hosts {
        for (n, name) in names.iter().enumerate() {
            uses.push((format!("{base}.{list}[{n}]"), name));
        }
    }
    for (n, instance) in switch.instances.iter().enumerate() {
        uses.push((format!("{base}.instances[{n}].inside"), &instance.inside));
        uses.push((format!("{base}.instances[{n}].outside"), &instance.outside));
    }
    for (n, (key, name)) in uses.iter().enumerate() {
        if let Some((other, _)) = uses[..n].iter().find(|(_, used)| used == name) {
            let message = format!("\"{name}\" is already used by `{other}`");
            out.error(key, message, "each interface of a switch has one purpose");
        }
    }
}
