//! What share of the flows each instance is to have: at first as the file says, then as the
//! operator does.
//!
//! What was said last counts, wherever it was said. Each switch knows for each instance what was
//! said last and when, and two switches that know different things need only be merged: the later
//! word counts. So any switch takes an operator's word, none has to be up for the others to go
//! on, and one that was away or lost its memory learns from the others
//! ([`super::weighing`]). A weight that was changed in the file counts again.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Switch};
use crate::desk;

/// The largest weight.
pub const MAX_WEIGHT: u32 = 1000;
/// How long one waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The weights of a switch's instances as the file has them, by index.
pub fn configured(switch: &Switch) -> Vec<u32> {
    switch.instances.iter().map(|i| i.weight).collect()
}

/// The weights of all instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weights {
    /// By the instance's node.
    pub instances: BTreeMap<String, Weight>,
}

/// The weight of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weight {
    /// As the file has it.
    pub configured: u32,
    /// In force.
    pub weight: u32,
    /// When it was changed at run time, in nanoseconds since 1970; 0: it was not.
    pub changed_day_ns: u64,
}

impl Weights {
    /// Those of the file.
    pub fn of_file(config: &Config) -> Self {
        let switches = super::steering::switches(&config.nodes);
        let instances = switches.filter_map(|node| node.switch.as_ref());
        let instances = instances.flat_map(|switch| &switch.instances);
        let weight = |weight| Weight {
            configured: weight,
            weight,
            changed_day_ns: 0,
        };
        Self {
            instances: instances
                .map(|i| (i.node.clone(), weight(i.weight)))
                .collect(),
        }
    }

    /// Takes over what `others` were told later than this was, about what the file says the same
    /// of; whether that was anything.
    pub fn merge(&mut self, others: &Self) -> bool {
        let before = self.clone();
        for (instance, mine) in &mut self.instances {
            let other = others.instances.get(instance);
            let other = other.filter(|other| other.configured == mine.configured);
            // Of two words of one moment all take the same.
            let rank = |w: &Weight| (w.changed_day_ns, w.weight);
            if let Some(other) = other.filter(|other| rank(other) > rank(mine))
                && other.weight <= MAX_WEIGHT
            {
                *mine = *other;
            }
        }
        *self != before
    }

    /// Those that are not as the file has them because somebody said so.
    #[must_use]
    pub fn said(&self) -> Self {
        let said = self.instances.iter().filter(|(_, w)| w.changed_day_ns > 0);
        Self {
            instances: said.map(|(name, w)| (name.clone(), *w)).collect(),
        }
    }

    /// Those of a switch's instances, by index; what is not known is as the file says.
    pub fn of(&self, switch: &Switch) -> Vec<u32> {
        let known = |i: &crate::config::Instance| self.instances.get(&i.node).map(|w| w.weight);
        let instances = switch.instances.iter();
        instances
            .map(|i| known(i).unwrap_or(i.weight).min(MAX_WEIGHT))
            .collect()
    }

    /// An operator's word.
    ///
    /// # Errors
    /// There is no such instance, or no such weight.
    pub fn set(&mut self, instance: &str, weight: u32, day_ns: u64) -> Result<Weight, String> {
        if weight > MAX_WEIGHT {
            return Err(format!("a weight is from 0 to {MAX_WEIGHT}"));
        }
        // Whatever the clocks of the machines say: it is later than all that is known here.
        let last = self.instances.values().map(|w| w.changed_day_ns).max();
        let day_ns = day_ns.max(last.unwrap_or(0).saturating_add(1));
        let known: Vec<&str> = self.instances.keys().map(String::as_str).collect();
        let known = known.join(", ");
        let Some(place) = self.instances.get_mut(instance) else {
            return Err(format!(
                "no switch has an instance \"{instance}\"; there are: {known}"
            ));
        };
        (place.weight, place.changed_day_ns) = (weight, day_ns);
        Ok(*place)
    }
}

/// An instance, and the weight that an operator wants it to have.
pub type Wish = desk::Wish<(String, u32), Result<Weight, String>>;
/// Where weights are asked for.
pub type Desk = desk::Desk<(String, u32), Result<Weight, String>>;

/// A desk, and the other end of it.
pub fn desk() -> (Desk, Receiver<Wish>) {
    Desk::new(PATIENCE)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    /// Two switches and two instances, the first with this weight.
    pub(in crate::regions) fn config(weight: u32, state: &Path) -> Config {
        let instances = format!(
            "instances = [ {{ node = \"gw1\", inside = \"g\", outside = \"h\", weight = {weight} }},\n\
             {{ node = \"gw2\", inside = \"i\", outside = \"j\" }} ]\n"
        );
        let text = format!(
            "[cluster]\nname = \"t\"\nkey = \"00112233445566778899aabbccddeeff\"\n\
             [regions]\nstate-dir = \"{}\"\n\
             [nat]\ninside-prefixes = [\"10.0.0.0/8\"]\noutside-addresses = [\"198.51.100.1\"]\n\
             [node.gw1]\nroles = [\"function\"]\ncontrol = \"127.0.0.1:1\"\n\
             inside = \"a\"\noutside = \"b\"\n\
             [node.gw2]\nroles = [\"function\"]\ncontrol = \"127.0.0.1:2\"\n\
             inside = \"c\"\noutside = \"d\"\n\
             [node.sw]\nroles = [\"switch\"]\ncontrol = \"127.0.0.1:3\"\n\
             inside = [\"e\"]\noutside = [\"f\"]\n{instances}\
             [node.sw2]\nroles = [\"switch\"]\ncontrol = \"127.0.0.1:4\"\n\
             inside = [\"e\"]\noutside = [\"f\"]\n{instances}",
            state.display()
        );
        Config::parse("t.toml", &text, Path::new(".")).unwrap().0
    }

    fn file(weight: u32) -> Weights {
        Weights::of_file(&config(weight, Path::new("/nowhere")))
    }

    #[test]
    fn what_was_said_last_counts_unless_the_file_changed() {
        let config = config(40, Path::new("/nowhere"));
        let switch = config.nodes["sw"].switch.as_ref().unwrap();
        let mut weights = Weights::of_file(&config);
        assert_eq!(weights.of(switch), [40, 100]);
        assert_eq!(weights.said(), Weights::default());
        weights.set("gw1", 7, 5).unwrap();
        weights.set("gw2", 0, 5).unwrap();
        assert_eq!(weights.of(switch), [7, 0]);
        let mut again = Weights::of_file(&config);
        assert!(again.merge(&weights.said()));
        assert_eq!(again, weights);
        assert!(!again.merge(&weights), "nothing new");
        let mut changed = file(41);
        assert!(changed.merge(&weights));
        assert_eq!(changed.of(switch), [41, 0]);
        assert_eq!(changed.said().instances.len(), 1, "the other is forgotten");
    }

    #[test]
    fn a_clock_that_lags_does_not_make_a_word_earlier() {
        let (mut ahead, mut behind) = (file(1), file(1));
        ahead.set("gw1", 5, 1000).unwrap();
        assert!(behind.merge(&ahead));
        behind.set("gw1", 6, 10).unwrap();
        assert!(ahead.merge(&behind));
        assert_eq!(ahead, behind);
        assert_eq!(ahead.instances["gw1"].weight, 6);
    }

    #[test]
    fn nobody_unknown_and_nothing_too_large() {
        let mut weights = file(1);
        let before = weights.clone();
        let refused = weights.set("gw3", 5, 1).unwrap_err();
        assert!(refused.contains("gw1, gw2"), "{refused}");
        assert!(weights.set("gw1", MAX_WEIGHT + 1, 1).is_err());
        assert_eq!(weights, before);
        let mut other = before.clone();
        other.instances.get_mut("gw1").unwrap().weight = MAX_WEIGHT + 1;
        other.instances.get_mut("gw1").unwrap().changed_day_ns = 9;
        assert!(!weights.merge(&other), "nor by others");
    }

    fn any_weights() -> impl Strategy<Value = Weights> {
        let weight = (1u32..3, 0u32..3, 0u64..4).prop_map(|(configured, weight, at)| Weight {
            configured,
            weight,
            changed_day_ns: at,
        });
        proptest::collection::btree_map("gw[1-3]", weight, 0..4)
            .prop_map(|instances| Weights { instances })
    }

    proptest! {
        /// Switches that heard the same things go by the same weights, in whatever order and
        /// however often they heard them.
        #[test]
        fn the_order_of_hearing_does_not_matter(
            heard in proptest::collection::vec(any_weights(), 1..5),
        ) {
            let (mut one, mut other) = (file(1), file(1));
            for told in &heard {
                one.merge(told);
            }
            for told in heard.iter().rev().chain(&heard) {
                other.merge(told);
            }
            prop_assert_eq!(one, other);
        }
    }
}
