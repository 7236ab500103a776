//! `[regions] exchange = true`: machines get copies of all that nodes write about themselves.
//!
//! Which nodes share a machine is seen from their addresses: those with the role `regions` send
//! what the nodes at their address write, to those with that role at other addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::problem::Collector;
use super::read::Draft;
use super::{CopiedRegion, Node, Role};
use crate::regions::own::{Kind, kinds};

/// How far apart versions are copied. They are few; this bounds how late a change is seen.
const INTERVAL: Duration = Duration::from_millis(10);

/// Adds the copies of the exchange to those that the file lists.
pub(super) fn add(draft: &mut Draft, out: &mut Collector) {
    let (Some(regions), Some(cluster)) = (&draft.regions, &draft.cluster) else {
        return;
    };
    // What is wrong inside a node is told there.
    if !regions.exchange || draft.nodes.len() < draft.declared.len() {
        return;
    }
    let copiers = || draft.nodes.values().filter(|node| node.is(Role::Regions));
    if copiers().count() < 2 {
        let help = "give the role \"regions\" to a node of each machine";
        let message = "there are no two nodes that copy regions";
        out.error("regions.exchange", message, help);
        return;
    }
    let mut added: Vec<CopiedRegion> = Vec::new();
    for node in draft.nodes.values() {
        let Some(from) = copiers().find(|copier| share_a_machine(copier, node)) else {
            let message = format!(
                "what \"{}\" writes stays on its machine: no node with its address has the role \
                 \"regions\"",
                node.name
            );
            let help = "give that role to a node of the same machine, or to this one";
            out.warn(&format!("node.{}", node.name), message, help);
            continue;
        };
        let others = copiers().filter(|copier| !share_a_machine(copier, from));
        let to: Vec<String> = others.map(|node| node.name.clone()).collect();
        let copy = |kind: Kind| CopiedRegion {
            name: kind.name(&cluster.name, &node.name),
            bytes: kind.bytes(),
            schema: kind.schema().to_owned(),
            from: vec![from.name.clone()],
            to: to.clone(),
            interval: INTERVAL,
            multicast: None,
        };
        added.extend(kinds(&draft.nodes, &node.name).into_iter().map(copy));
    }
    added.retain(|copy| {
        let listed = regions.copies.iter().any(|other| other.name == copy.name);
        !listed && !copy.to.is_empty()
    });
    if let Some(regions) = &mut draft.regions {
        regions.copies.extend(added);
    }
}

fn share_a_machine(one: &Node, other: &Node) -> bool {
    let addresses =
        |node: &Node| -> BTreeSet<Ipv4Addr> { node.control.values().map(|at| *at.ip()).collect() };
    one.name == other.name || !addresses(one).is_disjoint(&addresses(other))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Plain};
    use std::path::Path;

    const FILE: &str = r#"
[cluster]
name = "edge"
key = "00112233445566778899aabbccddeeff"
[regions]
exchange = true
[nat]
inside-prefixes = ["10.0.0.0/8"]
outside-addresses = ["198.51.100.1"]
[node.gw1]
roles = ["function"]
control = "10.9.0.2:1"
inside = "a"
outside = "b"
[node.site1]
roles = ["regions"]
control = "10.9.0.1:7000"
[node.site2]
roles = ["regions"]
control = "10.9.0.2:7000"
[node.sw]
roles = ["switch"]
control = "10.9.0.1:1"
inside = ["c"]
outside = ["d"]
instances = [ { node = "gw1", inside = "e", outside = "f", weight = 7 } ]
"#;

    fn parse(text: &str) -> (Result<Config, String>, String) {
        match Config::parse("edge.toml", text, Path::new(".")) {
            Ok((config, warnings)) => (Ok(config), Plain(&warnings).to_string()),
            Err(problems) => (Err(problems.to_string()), String::new()),
        }
    }

    #[test]
    fn what_nodes_write_goes_from_their_machine_to_all_others() {
        let (config, warnings) = parse(FILE);
        let copies = config.unwrap().regions.unwrap().copies;
        let find = |name: &str| {
            let found = copies.iter().find(|copy| copy.name.as_str() == name);
            found.map(|copy| (copy.from[0].as_str(), copy.to.join(" ")))
        };
        let near = Some(("site1", "site2".to_owned()));
        assert_eq!(find("/edge/sw/steering"), near);
        assert_eq!(find("/edge/sw/weights"), near);
        assert_eq!(find("/edge/gw1/steering"), None);
        assert_eq!(warnings, "");
    }

    #[test]
    fn what_the_file_lists_itself_is_left_alone() {
        let own = "copies = [ { region = \"/edge/sw/steering\", bytes = 9, from = \"site1\", \
                   to = [\"site2\"] } ]\n[nat]";
        let copies = parse(&FILE.replace("[nat]", own))
            .0
            .unwrap()
            .regions
            .unwrap()
            .copies;
        let same = copies
            .iter()
            .filter(|copy| copy.name.as_str() == "/edge/sw/steering");
        let bytes: Vec<usize> = same.map(|copy| copy.bytes).collect();
        assert_eq!(bytes, [9]);
    }

    #[test]
    fn who_is_left_out_is_told_with_the_line() {
        let (config, warnings) = parse(&FILE.replace("10.9.0.1:1\"", "10.9.0.7:1\""));
        assert!(
            config.is_ok() && warnings.contains("edge.toml:21:"),
            "{warnings}"
        );
        assert!(warnings.contains("what \"sw\" writes stays"), "{warnings}");
        let second = "[node.site2]\nroles = [\"regions\"]\ncontrol = \"10.9.0.2:7000\"\n";
        let alone = FILE.replace(second, "");
        assert_ne!(alone, FILE);
        let error = parse(&alone).0.unwrap_err();
        assert!(
            error.contains("edge.toml:6:") && error.contains("no two nodes"),
            "{error}"
        );
    }

    #[test]
    fn a_weight_is_a_number_and_the_same_behind_all_switches() {
        let error = parse(&FILE.replace("weight = 7", "weight = 1001"))
            .0
            .unwrap_err();
        assert!(error.contains("edge.toml:26:"), "{error}");
        let second = "[node.sx]\nroles = [\"switch\"]\ncontrol = \"10.9.0.1:2\"\ninside = [\"g\"]\n\
            outside = [\"h\"]\ninstances = [ { node = \"gw1\", inside = \"i\", outside = \"j\" } ]\n";
        let error = parse(&format!("{FILE}{second}")).0.unwrap_err();
        assert!(error.contains("is 100 here and 7 behind \"sw\""), "{error}");
        assert!(error.contains("edge.toml:32:"), "{error}");
        let same = second.replace("outside = \"j\"", "outside = \"j\", weight = 7");
        assert!(parse(&format!("{FILE}{same}")).0.is_ok());
    }
}
