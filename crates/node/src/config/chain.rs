//! What an instance runs: `function = "nat"`, or several from inside to outside,
//! `function = ["meter", "nat"]`.

use toml::de::DeValue;

use super::problem::Collector;
use super::read::Draft;
use super::section::Section;
use super::{Meter, Nat, Node, Prefix, Runs, values};

/// What the functions are called.
const WORDS: [(&str, Runs); 2] = [("nat", Runs::Nat), ("meter", Runs::Meter)];

/// The functions of an instance; a NAT where the file says nothing.
pub(super) fn runs(section: &Section<'_, '_>, out: &mut Collector) -> Option<Vec<Runs>> {
    let Some(value) = section.value("function") else {
        return Some(vec![Runs::default()]);
    };
    if !matches!(value.get_ref(), DeValue::Array(_)) {
        let only = section.optional("function", out, values::word(&WORDS))?;
        return Some(vec![only]);
    }
    let runs = section.values("function", out, values::word(&WORDS))?;
    let path = section.path_of("function");
    if runs.is_empty() {
        let help = "write `function = \"nat\"`, or several from inside to outside, \
                    `function = [\"meter\", \"nat\"]`";
        out.error(&path, "expected at least one function", help);
        return None;
    }
    if let Some(n) = (1..runs.len()).find(|&n| runs[..n].contains(&runs[n])) {
        let word = WORDS.iter().find(|(_, one)| *one == runs[n]);
        let word = word.map_or("", |(word, _)| word);
        let message = format!("\"{word}\" is listed twice");
        let help = "an instance runs each function once: leave one out";
        out.error(&format!("{path}[{n}]"), message, help);
        return None;
    }
    Some(runs)
}

impl Node {
    /// Whether this is one of its functions.
    pub fn runs(&self, what: Runs) -> bool {
        let function = self.function.as_ref();
        function.is_some_and(|function| function.runs.contains(&what))
    }
}

/// What functions behind one another need.
pub(super) fn check(node: &Node, draft: &Draft, out: &mut Collector) {
    let (Some(function), Some(nat), Some(meter)) = (&node.function, &draft.nat, &draft.meter)
    else {
        return;
    };
    let key = format!("node.{}.function", node.name);
    match function.runs[..] {
        [Runs::Meter, Runs::Nat] if !counts_inside(meter, nat) => {
            let message = "no address that the NAT translates is one that the meter counts";
            let help = "inside of the NAT subscribers have addresses of `nat.inside-prefixes`: name \
                        these in `meter.inside-prefixes`, too";
            out.error(&key, message, help);
        }
        [Runs::Nat, Runs::Meter] if !counts_outside(meter, nat) => {
            let message = "outside of the NAT nobody has an address that the meter counts";
            let help = "write `[\"meter\", \"nat\"]` to count subscribers, or name those of \
                        `nat.outside-addresses` in `meter.inside-prefixes`";
            out.error(&key, message, help);
        }
        _ => {}
    }
}

fn counts_inside(meter: &Meter, nat: &Nat) -> bool {
    let overlap = |a: &Prefix, b: &Prefix| a.contains(b.first()) || b.contains(a.first());
    let mut counted = meter.inside_prefixes.iter();
    counted.any(|counted| nat.inside_prefixes.iter().any(|one| overlap(counted, one)))
}

fn counts_outside(meter: &Meter, nat: &Nat) -> bool {
    let mut counted = meter.inside_prefixes.iter();
    counted.any(|counted| {
        let mut ranges = nat.outside_addresses.iter();
        ranges.any(|range| range.first <= counted.last() && counted.first() <= range.last)
    })
}
