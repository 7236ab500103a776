//! How a switch steers, as its region tells it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stateplane_flow::steering::{BLOCK_SHIFT, BUCKETS, NOBODY, Table};

use super::weights;
use crate::config::{Node, Pin, Switch};

/// What is older than this does not count: a switch checks in fifty times a second, and
/// copies on other machines hear of it three times.
pub const TOO_OLD: Duration = Duration::from_secs(3);
/// The rules by which packets meet buckets, and buckets instances: `flow::steering`.
const RULES: &str = "stateplane-1";

/// What a switch tells about its steering.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Posted {
    /// The switch.
    pub switch: String,
    /// The rules by which packets meet buckets.
    pub rules: String,
    /// Buckets of a side.
    pub buckets: usize,
    /// Outside ports of one block of `1 << block_shift` share a bucket.
    pub block_shift: u32,
    /// When it changed last, in nanoseconds since 1970.
    pub changed_day_ns: u64,
    /// Changes since the switch started.
    pub changes: u64,
    /// Where the weights are from.
    pub weights_from: String,
    /// Those for packets from inside and from outside, if they are fixed.
    pub pin: Option<[String; 2]>,
    /// The instances, by index.
    pub instances: Vec<PostedInstance>,
    /// The owner of each bucket now, inside and outside: two hexadecimal digits each.
    pub owners: [String; 2],
    /// The same if all instances lived.
    pub home: [String; 2],
}

/// One instance behind a switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostedInstance {
    /// Its node.
    pub node: String,
    /// Its share is as this among those of all.
    pub weight: u32,
    /// `live`, `draining`, `dead`, ...
    pub health: String,
    /// It gets packets.
    pub serving: bool,
}

impl Posted {
    /// A switch that gives `live` their shares; all instances have `weights`.
    pub fn new(switch: &str, of: &Switch, weights: &[u32], live: &[u8]) -> Self {
        let all: Vec<(u8, u32)> = (0..).zip(weights.iter().copied()).collect();
        let serving: Vec<(u8, u32)> = all
            .iter()
            .filter(|(n, _)| live.contains(n))
            .copied()
            .collect();
        let name = |n: usize| of.instances[n].node.clone();
        let instances = of.instances.iter().zip(&all);
        let owners = table(&serving, of.pin);
        Self {
            switch: switch.to_owned(),
            rules: RULES.to_owned(),
            buckets: BUCKETS,
            block_shift: BLOCK_SHIFT,
            pin: of.pin.map(|pin| [name(pin.inside), name(pin.outside)]),
            instances: instances
                .map(|(instance, (n, weight))| PostedInstance {
                    node: instance.node.clone(),
                    weight: *weight,
                    health: String::new(),
                    serving: owners.inside.contains(n) || owners.outside.contains(n),
                })
                .collect(),
            owners: digits(&owners),
            home: digits(&table(&all, of.pin)),
            ..Self::default()
        }
    }

    /// As the configuration alone has it: all instances of `node`, a switch, live.
    pub fn of_config(node: &Node) -> Option<Self> {
        let switch = node.switch.as_ref()?;
        let weights = weights::configured(switch);
        let all: Vec<u8> = (0..).take(weights.len()).collect();
        let mut posted = Self::new(&node.name, switch, &weights, &all);
        for instance in &mut posted.instances {
            "unknown".clone_into(&mut instance.health);
        }
        "the configuration".clone_into(&mut posted.weights_from);
        Some(posted)
    }

    /// Of all buckets, inside and outside, those of each instance, by index: from 0 to 1.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.instances.len()];
        for owner in self.owners.iter().filter_map(|text| owners(text)).flatten() {
            if let Some(share) = shares.get_mut(usize::from(owner)) {
                *share += 1.0 / (2 * BUCKETS) as f64;
            }
        }
        shares
    }

    /// Which buckets are whose while all instances live, and which instance `node` is. None
    /// if that switch steers by other rules, or not to `node`.
    pub fn home_of(&self, node: &str) -> Option<(Table, u8)> {
        if self.rules != RULES || self.block_shift != BLOCK_SHIFT {
            return None;
        }
        let me = self.instances.iter().position(|i| i.node == node)?;
        let [inside, outside] = &self.home;
        let table = Table {
            inside: owners(inside)?,
            outside: owners(outside)?,
        };
        Some((table, u8::try_from(me).ok()?))
    }
}

/// The switches among the nodes of a file.
pub fn switches(nodes: &BTreeMap<String, Node>) -> impl Iterator<Item = &Node> {
    nodes.values().filter(|node| node.switch.is_some())
}

/// The table for the live instances and their weights; a pinned side falls back to the first
/// live instance when its own is not.
pub fn table(live: &[(u8, u32)], pin: Option<Pin>) -> Table {
    let Some(pin) = pin else {
        return Table::weighted(live);
    };
    let choose = |wanted: usize| {
        let found = live.iter().find(|(n, _)| usize::from(*n) == wanted);
        found.or(live.first()).map_or(NOBODY, |(n, _)| *n)
    };
    Table::pinned(choose(pin.inside), choose(pin.outside))
}

fn digits(table: &Table) -> [String; 2] {
    [&table.inside, &table.outside].map(|owners| {
        let mut text = String::with_capacity(2 * BUCKETS);
        for owner in owners {
            // Writing to a string does not fail.
            let _ = write!(text, "{owner:02x}");
        }
        text
    })
}

fn owners(text: &str) -> Option<[u8; BUCKETS]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut owners = [NOBODY; BUCKETS];
    if text.len() != 2 * BUCKETS {
        return None;
    }
    for (owner, pair) in owners.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *owner = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Instance;

    fn switch(weights: &[u32], pin: Option<Pin>) -> Switch {
        let instance = |(n, weight): (usize, &u32)| Instance {
            node: format!("gw{n}"),
            inside: format!("i{n}"),
            outside: format!("o{n}"),
            weight: *weight,
        };
        Switch {
            inside: vec!["in".to_owned()],
            outside: vec!["out".to_owned()],
            instances: weights.iter().enumerate().map(instance).collect(),
            pin,
        }
    }

    #[test]
    fn a_pinned_side_falls_back_while_its_instance_is_dead() {
        let pin = Some(Pin {
            inside: 0,
            outside: 1,
        });
        let owners = |table: Table| (table.inside[0], table.outside[0]);
        assert_eq!(owners(table(&[(0, 1), (1, 1)], pin)), (0, 1));
        assert_eq!(owners(table(&[(1, 1)], pin)), (1, 1));
        assert_eq!(owners(table(&[], pin)), (NOBODY, NOBODY));
    }

    #[test]
    fn without_a_pin_every_live_instance_has_a_share() {
        let table = table(&[(0, 100), (2, 100)], None);
        for n in [0, 2] {
            assert!(table.inside.contains(&n) && table.outside.contains(&n));
        }
        assert!(!table.inside.contains(&1));
    }

    #[test]
    fn what_is_posted_is_what_an_instance_finds() {
        let weights = [100, 50, 0];
        let posted = Posted::new("sw", &switch(&weights, None), &weights, &[1]);
        let serving: Vec<bool> = posted.instances.iter().map(|i| i.serving).collect();
        assert_eq!(serving, [false, true, false]);
        // Home is as if all lived, and survives the way through a text.
        let text = serde_json::to_string(&posted).unwrap();
        assert!(text.len() < 20 << 10, "{}", text.len());
        let read: Posted = serde_json::from_str(&text).unwrap();
        assert_eq!(read, posted);
        assert_eq!(read.shares(), [0.0, 1.0, 0.0]);
        let (table, me) = read.home_of("gw1").unwrap();
        assert_eq!(me, 1);
        assert_eq!(table, Table::weighted(&[(0, 100), (1, 50), (2, 0)]));
        assert_eq!(read.home_of("gw9"), None);
    }

    #[test]
    fn what_is_damaged_or_of_other_rules_counts_for_nothing() {
        let posted = Posted::new("sw", &switch(&[1, 1], None), &[1, 1], &[0, 1]);
        for change in [
            (|p: &mut Posted| p.rules = "other".into()) as fn(&mut Posted),
            |p| p.block_shift = 3,
            |p| p.home[1].truncate(5),
            |p| p.home[0].replace_range(0..2, "zz"),
            |p| p.instances.clear(),
        ] {
            let mut other = posted.clone();
            change(&mut other);
            assert_eq!(other.home_of("gw0"), None);
        }
        let empty: Posted = serde_json::from_str("{\"later\": 1}").unwrap();
        assert_eq!(empty, Posted::default());
    }
}
