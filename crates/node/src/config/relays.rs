//! The way of a copied region: a tree for each, from the machine of its writer over relays.

use super::problem::Collector;
use super::{CopiedRegion, Regions};
use stateplane_region::Name;

impl Regions {
    /// The nodes by which a region comes to `node`, its writer's first; none if it does not.
    pub fn path(&self, region: &Name, node: &str) -> Vec<String> {
        let mut path = Vec::new();
        let mut at = node;
        // Not for ever, whatever the file says.
        for _ in 0..self.copies.len() {
            let Some(above) = above(&self.copies, region, at) else {
                break;
            };
            path.insert(0, above.to_owned());
            at = above;
        }
        path
    }

    /// Whether `node` gets a region from another.
    pub fn is_received(&self, region: &Name, node: &str) -> bool {
        above(&self.copies, region, node).is_some()
    }
}

/// Who sends a region to `node`.
fn above<'a>(copies: &'a [CopiedRegion], region: &Name, node: &str) -> Option<&'a str> {
    let mut of = copies.iter().filter(|copy| copy.name == *region);
    let sends = of.find(|copy| copy.to.iter().any(|to| to == node));
    sends.map(|copy| copy.from.as_str())
}

/// Whether the entry at place `n` and the other ones of its region make one tree.
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
        let message = format!("\"{}\" sends {name} in regions.copies[{m}]", copy.from);
        let help = "name all its receivers in one `to`";
        out.error(&format!("{key}.from"), message, help);
        return;
    }
    for (m, to) in copy.to.iter().enumerate() {
        if let Some(sender) = above(&copies[..n], name, to) {
            let message = format!("\"{to}\" gets {name} from \"{sender}\" already");
            let help = format!("name it here, or under \"{sender}\": a machine has one copy");
            out.error(&format!("{key}.to[{m}]"), message, help);
        }
    }
    origin(&key, n, copies, out);
}

/// Whether who sends has something to send.
fn origin(key: &str, n: usize, copies: &[CopiedRegion], out: &mut Collector) {
    let (name, from) = (&copies[n].name, copies[n].from.as_str());
    let begins =
        |copy: &&CopiedRegion| copy.name == *name && above(copies, name, &copy.from).is_none();
    let mut way = vec![from];
    while let Some(next) = above(copies, name, way[way.len() - 1]) {
        let met = way.iter().position(|node| *node == next);
        way.push(next);
        let Some(met) = met else { continue };
        let circle = &way[met..];
        // Once for each circle: with the first entry of those that make it up.
        let part = |copy: &CopiedRegion| copy.name == *name && circle.contains(&copy.from.as_str());
        if met == 0 && !copies[..n].iter().any(part) {
            let shown: Vec<&str> = circle.iter().rev().copied().collect();
            let message = format!("{name} goes in a circle: {}", shown.join(" > "));
            let help = "the node on whose machine it is written is in no `to` of it";
            out.error(&format!("{key}.from"), message, help);
        }
        return;
    }
    let first = copies.iter().find(begins);
    if let Some(first) = first
        && way.len() == 1
        && first.from != from
    {
        let message = format!(
            "\"{from}\" does not have {name}, which begins at \"{}\"",
            first.from
        );
        let help = format!("name \"{from}\" in a `to` of {name}, or a node here that is in one");
        out.error(&format!("{key}.from"), message, help);
    }
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
            writeln!(
                text,
                "{{ region = \"{region}\", {bytes}, from = \"{from}\", to = {to:?} }},"
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
