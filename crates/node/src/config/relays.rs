//! The ways of a copied region: from the machine of its writer over relays, with no circle.

use std::collections::BTreeSet;

use super::problem::Collector;
use super::{CopiedRegion, Regions};
use stateplane_region::Name;

impl Regions {
    /// The nodes by which a region comes to `node` if all are alive, its writer's first; none if
    /// it does not.
    pub fn path(&self, region: &Name, node: &str) -> Vec<String> {
        let mut path = Vec::new();
        let mut at = node;
        // Not for ever, whatever the file says.
        for _ in 0..self.copies.len() {
            let Some(above) = above(&self.copies, region, at).first() else {
                break;
            };
            path.insert(0, above.clone());
            at = above;
        }
        path
    }

    /// The same for each node that may send it to `node`.
    pub fn paths(&self, region: &Name, node: &str) -> Vec<Vec<String>> {
        let by = |above: &String| {
            let mut path = self.path(region, above);
            path.push(above.clone());
            path
        };
        above(&self.copies, region, node).iter().map(by).collect()
    }

    /// Whether `node` gets a region from another.
    pub fn is_received(&self, region: &Name, node: &str) -> bool {
        !above(&self.copies, region, node).is_empty()
    }
}

/// Who may send a region to `node`.
fn above<'a>(copies: &'a [CopiedRegion], region: &Name, node: &str) -> &'a [String] {
    let mut of = copies.iter().filter(|copy| copy.name == *region);
    let sends = of.find(|copy| copy.is_to(node));
    sends.map_or(&[], |copy| &copy.from)
}

/// Where the file names the sender at place `m` of the entry at place `n`.
pub(super) fn sender(n: usize, m: usize, copy: &CopiedRegion) -> String {
    match copy.from.len() {
        1 => format!("regions.copies[{n}].from"),
        _ => format!("regions.copies[{n}].from[{m}]"),
    }
}

/// Whether the entry at place `n` and the other ones of its region lead from one machine to others.
pub(super) fn check(n: usize, copies: &[CopiedRegion], out: &mut Collector) {
    let (copy, key) = (&copies[n], format!("regions.copies[{n}]"));
    let name = &copy.name;
    let mut earlier = copies[..n].iter().enumerate();
    let same = |(_, other): &(usize, &CopiedRegion)| other.name == *name;
    if let Some((m, first)) = earlier.clone().find(same) {
        let mut differs = |what: &str, there: String, here: String| {
            let message = format!("{name} has {there} in regions.copies[{m}], {here} here");
            let help = "a region has one length and one schema, on whatever machine";
            out.error(&format!("{key}.{what}"), message, help);
        };
        if first.bytes != copy.bytes {
            let bytes = |copy: &CopiedRegion| format!("{} bytes", copy.bytes);
            differs("bytes", bytes(first), bytes(copy));
        }
        if first.schema != copy.schema {
            let schema = |copy: &CopiedRegion| format!("the schema \"{}\"", copy.schema);
            differs("schema", schema(first), schema(copy));
        }
    }
    if let Some((m, _)) = earlier.find(|entry| same(entry) && entry.1.from == copy.from) {
        let from = copy.from.join("\", \"");
        let message = format!("\"{from}\" sends {name} in regions.copies[{m}]");
        let help = "name all its receivers in one `to`";
        out.error(&format!("{key}.from"), message, help);
        return;
    }
    for (m, to) in copy.to.iter().enumerate() {
        let sender = above(&copies[..n], name, to).join("\", \"");
        if !sender.is_empty() {
            let message = format!("\"{to}\" gets {name} from \"{sender}\" already");
            let help =
                "a machine has one copy: name all that may send it in one `from`, the best first";
            out.error(&format!("{key}.to[{m}]"), message, help);
        }
    }
    for (m, from) in copy.from.iter().enumerate() {
        origin(&sender(n, m, copy), n, from, copies, out);
    }
}

/// Whether who sends has something to send.
fn origin(key: &str, n: usize, from: &str, copies: &[CopiedRegion], out: &mut Collector) {
    let name = &copies[n].name;
    if let Some(circle) = circle(copies, name, from) {
        // Once for each circle: with the first entry of those that make it up.
        let part = |copy: &CopiedRegion| {
            copy.name == *name && copy.from.iter().any(|from| circle.contains(&from.as_str()))
        };
        if !copies[..n].iter().any(part) {
            let shown: Vec<&str> = circle.iter().chain([&from]).rev().copied().collect();
            let message = format!("{name} goes in a circle: {}", shown.join(" > "));
            let help = "the node on whose machine it is written is in no `to` of it";
            out.error(key, message, help);
        }
        return;
    }
    let begins = |from: &&String| above(copies, name, from).is_empty();
    let of = copies.iter().filter(|copy| copy.name == *name);
    let first = of.flat_map(|copy| &copy.from).find(begins);
    if let Some(first) = first
        && begins(&&from.to_owned())
        && first != from
    {
        let message = format!("\"{from}\" does not have {name}, which begins at \"{first}\"");
        let help = format!("name \"{from}\" in a `to` of {name}, or a node here that is in one");
        out.error(key, message, help);
    }
}

/// A way from `node` to who may send to it, and so on, that leads back to it.
fn circle<'a>(copies: &'a [CopiedRegion], name: &Name, node: &'a str) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut way = vec![(node, above(copies, name, node).iter())];
    while let Some((_, rest)) = way.last_mut() {
        match rest.next() {
            None => drop(way.pop()),
            Some(next) if next == node => return Some(way.iter().map(|(n, _)| *n).collect()),
            Some(next) if seen.insert(next) => {
                way.push((next, above(copies, name, next).iter()));
            }
            Some(_) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Plain};
    use std::fmt::Write;
    use std::path::Path;

    /// A file with the copies that are told, each on a line of its own, from line 7 on.
    fn parse(copies: &[(&str, &[&str], &str)]) -> Result<Config, String> {
        let mut text = String::from(
            "[cluster]\nname = \"edge\"\nkey = \"00112233445566778899aabbccddeeff\"\n\
             [regions]\ndir = \"/tmp/regions\"\ncopies = [\n",
        );
        for (from, to, more) in copies {
            let (region, more) = more.split_once(' ').unwrap_or((more, ""));
            let region = if region.is_empty() { "/edge/w" } else { region };
            let bytes = if more.is_empty() { "bytes = 64" } else { more };
            let senders: Vec<&str> = from.split(' ').collect();
            let from = match senders.len() {
                1 => format!("{from:?}"),
                _ => format!("{senders:?}"),
            };
            writeln!(
                text,
                "{{ region = \"{region}\", {bytes}, from = {from}, to = {to:?} }},"
            )
            .unwrap();
        }
        text += "]\n";
        for (n, node) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            let port = 7000 + n * 100;
            writeln!(
                text,
                "[node.{node}]\nroles = [\"regions\"]\ncontrol = \"127.0.0.1:{port}\""
            )
            .unwrap();
        }
        let parsed = Config::parse("edge.toml", &text, Path::new("."));
        parsed
            .map(|(config, warnings)| {
                assert!(warnings.is_empty(), "{}", Plain(&warnings));
                config
            })
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn relays_make_a_tree() {
        let config = parse(&[
            ("b", &["c", "d"], ""),
            ("a", &["b"], ""),
            ("d", &["e"], ""),
            ("e", &["a"], "/edge/other"),
        ]);
        let regions = config.unwrap().regions.unwrap();
        let name = "/edge/w".parse().unwrap();
        assert_eq!(regions.path(&name, "e"), ["a", "b", "d"]);
        assert_eq!(regions.path(&name, "b"), ["a"]);
        assert!(regions.path(&name, "a").is_empty());
        assert!(regions.is_received(&name, "d") && !regions.is_received(&name, "a"));
        let other = "/edge/other".parse().unwrap();
        assert_eq!(regions.path(&other, "a"), ["e"]);
    }

    #[test]
    fn a_rack_has_a_second_relay() {
        let config = parse(&[
            ("a", &["b", "c"], ""),
            ("b c", &["d"], ""),
            ("c b a", &["e"], ""),
        ]);
        let regions = config.unwrap().regions.unwrap();
        let name = "/edge/w".parse().unwrap();
        assert_eq!(regions.path(&name, "d"), ["a", "b"]);
        assert_eq!(regions.paths(&name, "d"), [["a", "b"], ["a", "c"]]);
        let last = regions.paths(&name, "e");
        assert_eq!(last[..2], [["a", "c"], ["a", "b"]]);
        assert_eq!(last[2], ["a"]);
        assert!(regions.paths(&name, "a").is_empty());
    }

    #[test]
    fn the_shipped_example_is_right() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/racks.toml");
        let loaded = Config::load(Path::new(path));
        let (config, warnings) = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert!(warnings.is_empty(), "{}", Plain(&warnings));
        let regions = config.regions.unwrap();
        let name = regions.copies[0].name.clone();
        assert_eq!(regions.path(&name, "h21"), ["host1", "rack2"]);
    }

    #[test]
    fn what_is_no_tree_is_told_with_its_line() {
        let all: &[&str] = &["c", "d", "e"];
        for (copies, line, what) in [
            (
                vec![("a", all, ""), ("b", &["a"], ""), ("c", &["b"], "")],
                7,
                "/edge/w goes in a circle: a > c > b > a",
            ),
            (
                vec![
                    ("a", &["b", "c"], ""),
                    ("b c", &["d"], ""),
                    ("c d", &["e"], ""),
                    ("e", &["b"], ""),
                ],
                10,
                "\"b\" gets /edge/w from \"a\" already",
            ),
            (
                vec![
                    ("a e", &["b"], ""),
                    ("b", &["c", "d"], ""),
                    ("c a", &["e"], ""),
                ],
                7,
                "/edge/w goes in a circle: e > b > c > e",
            ),
            (
                vec![("a", &["b"], ""), ("b c", &["d"], "")],
                8,
                "\"c\" does not have /edge/w, which begins at \"a\"",
            ),
            (
                vec![("a", &["b"], ""), ("a b", &["b"], "")],
                8,
                "\"b\" has the region already",
            ),
            (
                vec![("a", &["b"], ""), ("a b a", &["c"], "")],
                8,
                "\"a\" is listed twice",
            ),
            (
                vec![("a", &["b"], ""), ("c", all, "/edge/x"), ("d", &["c"], "")],
                9,
                "\"d\" does not have /edge/w, which begins at \"a\"",
            ),
            (
                vec![("a", all, ""), ("c", &["b", "e"], "")],
                8,
                "\"e\" gets /edge/w from \"a\" already",
            ),
            (
                vec![("a", &["b"], ""), ("a", all, "")],
                8,
                "\"a\" sends /edge/w in regions.copies[0]",
            ),
            (
                vec![("a", all, ""), ("c", &["b"], " bytes = 65")],
                8,
                "/edge/w has 64 bytes in regions.copies[0], 65 bytes here",
            ),
            (
                vec![
                    ("a", all, ""),
                    ("c", &["b"], " bytes = 64, schema = \"w2\""),
                ],
                8,
                "the schema \"\" in regions.copies[0], the schema \"w2\" here",
            ),
            (
                vec![("a", all, ""), ("x", &["b"], "")],
                8,
                "no node is called \"x\"",
            ),
        ] {
            let error = parse(&copies).expect_err(what);
            let told = error.lines().find(|told| told.contains(what));
            let told = told.unwrap_or_else(|| panic!("{what}: {error}"));
            assert!(told.starts_with(&format!("edge.toml:{line}:")), "{told}");
        }
    }
}
