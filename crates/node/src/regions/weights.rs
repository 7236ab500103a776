//! What share of the flows each instance is to have: at first as the file says, then as the
//! operator does.
//!
//! One node writes the weights, the first switch of the file; every switch reads them, where it
//! runs, from the region or its copy. What was said at run time outlives the process that wrote it
//! (the broker keeps the last version) and not the broker: the file alone is for good. A weight
//! that was changed in the file counts again.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stateplane_base::Time;
use stateplane_host::clock;
use stateplane_region::{Host, Writer};
use tracing::info;

use super::keeper::Duty;
use super::own::{Follower, Kind, Own, put};
use crate::config::{Config, Node, Switch};
use crate::desk;

/// The largest weight.
pub const MAX_WEIGHT: u32 = 1000;
/// How long one waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The node that writes the weights.
pub fn writer(nodes: &BTreeMap<String, Node>) -> Option<&str> {
    super::steering::switches(nodes)
        .map(|node| node.name.as_str())
        .next()
}

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
    /// Those of the file, and of `last` what was said at run time about the same.
    pub fn begin(config: &Config, last: &Self) -> Self {
        let mut all = Self::default();
        let switches = super::steering::switches(&config.nodes);
        for instance in switches
            .filter_map(|node| node.switch.as_ref())
            .flat_map(|switch| &switch.instances)
        {
            let configured = instance.weight;
            let said = last.instances.get(&instance.node);
            let said = said.filter(|said| said.configured == configured);
            let weight = said.copied().unwrap_or(Weight {
                configured,
                weight: configured,
                changed_day_ns: 0,
            });
            all.instances.insert(instance.node.clone(), weight);
        }
        all
    }

    /// Those of a switch's instances, by index; what is not known is as the file says.
    pub fn of(&self, switch: &Switch) -> Vec<u32> {
        let known = |i: &crate::config::Instance| self.instances.get(&i.node).map(|w| w.weight);
        let instances = switch.instances.iter();
        instances
            .map(|i| known(i).unwrap_or(i.weight).min(MAX_WEIGHT))
            .collect()
    }

    fn set(&mut self, instance: &str, weight: u32, day_ns: u64) -> Result<Weight, String> {
        if weight > MAX_WEIGHT {
            return Err(format!("a weight is from 0 to {MAX_WEIGHT}"));
        }
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

/// Writes the weights.
pub(super) struct Writing {
    own: Own,
    config: Config,
    region: Option<Writer<[u8]>>,
    weights: Weights,
    wishes: Receiver<Wish>,
}

impl Writing {
    pub(super) fn new(config: &Config, node: &str, wishes: Receiver<Wish>) -> Self {
        Self {
            own: Own::new(config, node, Kind::Weights),
            config: config.clone(),
            region: None,
            weights: Weights::default(),
            wishes,
        }
    }

    fn begin(&mut self, mut region: Writer<[u8]>) {
        let last = Kind::Weights.text().get(region.bytes());
        let last = last.and_then(|text| serde_json::from_str(&text).ok());
        self.weights = Weights::begin(&self.config, &last.unwrap_or_default());
        match put(Kind::Weights, &mut region, &self.weights) {
            Ok(()) => self.region = Some(region),
            Err(fenced) => self.own.lost(fenced),
        }
    }

    fn grant(&mut self, instance: &str, weight: u32) -> Result<Weight, String> {
        let Some(region) = &mut self.region else {
            return Err("the region of the weights is not written yet: is there a broker?".into());
        };
        let mut wanted = self.weights.clone();
        let granted = wanted.set(instance, weight, clock::wall().as_nanos())?;
        put(Kind::Weights, region, &wanted)
            .map_err(|fenced| format!("another process writes the weights: {fenced}"))?;
        info!(instance, weight, "weight changed");
        self.weights = wanted;
        Ok(granted)
    }
}

impl Duty for Writing {
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        if self.region.is_none()
            && let Some(region) = host.and_then(|host| self.own.claim(host, now))
        {
            self.begin(region);
        }
        while let Ok(wish) = self.wishes.try_recv() {
            let (instance, weight) = &wish.wanted;
            let granted = self.grant(instance, *weight);
            // Who asked may have gone.
            let _ = wish.answer.send(granted);
        }
        let Some(region) = &mut self.region else {
            return;
        };
        if let Err(fenced) = region.check_in() {
            self.region = None;
            self.own.lost(fenced);
        }
    }
}

/// The weights for a switch, and where they are from.
pub(crate) type Given = (Vec<u32>, String);

/// Hands a switch the weights, whenever they change.
pub(super) struct Reading {
    follower: Follower,
    switch: Switch,
    given: Vec<u32>,
    to: SyncSender<Given>,
}

impl Reading {
    pub(super) fn new(config: &Config, switch: &Switch) -> Option<(Self, Receiver<Given>)> {
        let (to, weights) = sync_channel(1);
        let reading = Self {
            follower: Follower::new(config, writer(&config.nodes)?, Kind::Weights),
            switch: switch.clone(),
            given: configured(switch),
            to,
        };
        Some((reading, weights))
    }
}

impl Duty for Reading {
    /// What was said last counts, however old it is: nobody said otherwise.
    fn turn(&mut self, host: Option<&Host>, _: Time) {
        let Some(host) = host else { return };
        let Ok((weights, edition)) = self.follower.read::<Weights>(host) else {
            return;
        };
        let weights = weights.of(&self.switch);
        if weights == self.given {
            return;
        }
        let from = format!("{} version {}", self.follower.name(), edition.version);
        // Full: the switch has not taken the last; the next turn tries again.
        if self.to.try_send((weights.clone(), from)).is_ok() {
            self.given = weights;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_region::{Broker, Limits};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::JoinHandle;

    fn config(weight: u32) -> Config {
        let text = format!(
            "[cluster]\nname = \"t\"\nkey = \"00112233445566778899aabbccddeeff\"\n\
             [nat]\ninside-prefixes = [\"10.0.0.0/8\"]\noutside-addresses = [\"198.51.100.1\"]\n\
             [node.gw1]\nroles = [\"function\"]\ncontrol = \"127.0.0.1:1\"\n\
             inside = \"a\"\noutside = \"b\"\n\
             [node.gw2]\nroles = [\"function\"]\ncontrol = \"127.0.0.1:2\"\n\
             inside = \"c\"\noutside = \"d\"\n\
             [node.sw]\nroles = [\"switch\"]\ncontrol = \"127.0.0.1:3\"\n\
             inside = [\"e\"]\noutside = [\"f\"]\n\
             instances = [ {{ node = \"gw1\", inside = \"g\", outside = \"h\", weight = {weight} }},\n\
             {{ node = \"gw2\", inside = \"i\", outside = \"j\" }} ]\n"
        );
        Config::parse("t.toml", &text, Path::new(".")).unwrap().0
    }

    #[test]
    fn what_was_said_outlives_the_writer_unless_the_file_changed() {
        let first = config(40);
        assert_eq!(writer(&first.nodes), Some("sw"));
        let mut weights = Weights::begin(&first, &Weights::default());
        let switch = first.nodes["sw"].switch.as_ref().unwrap();
        assert_eq!(weights.of(switch), [40, 100]);
        weights.set("gw1", 7, 5).unwrap();
        weights.set("gw2", 0, 5).unwrap();
        assert_eq!(weights.of(switch), [7, 0]);
        assert_eq!(Weights::begin(&first, &weights), weights);
        let second = config(41);
        assert_eq!(Weights::begin(&second, &weights).of(switch), [41, 0]);
    }

    #[test]
    fn nobody_unknown_and_nothing_too_large() {
        let mut weights = Weights::begin(&config(1), &Weights::default());
        let before = weights.clone();
        let refused = weights.set("gw3", 5, 1).unwrap_err();
        assert!(refused.contains("gw1, gw2"), "{refused}");
        assert!(weights.set("gw1", MAX_WEIGHT + 1, 1).is_err());
        assert_eq!(weights, before);
    }

    /// A broker in a thread; it ends with the test.
    struct Brokered {
        dir: tempfile::TempDir,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Brokered {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut broker = Broker::open(dir.path(), Limits::default()).unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&stop);
            let thread = std::thread::spawn(move || broker.run(&told).unwrap());
            Self {
                dir,
                stop,
                thread: Some(thread),
            }
        }

        fn host(&self) -> Host {
            Host::connect(self.dir.path()).unwrap()
        }
    }

    impl Drop for Brokered {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }

    #[test]
    fn every_switch_reads_what_the_one_writer_in_force_says() {
        let broker = Brokered::new();
        let (host, config) = (broker.host(), config(40));
        let now = Time::from_millis(1000);
        let switch = config.nodes["sw"].switch.as_ref().unwrap();
        let mut switches = [(); 2].map(|()| Reading::new(&config, switch).unwrap());
        let mut read = || {
            switches.each_mut().map(|(reading, given)| {
                reading.turn(Some(&host), now);
                given.try_recv().ok().map(|(weights, _)| weights)
            })
        };
        assert_eq!(read(), [None, None], "there is no region yet");
        let mut first = Writing::new(&config, "sw", desk().1);
        assert!(
            first.grant("gw1", 5).is_err(),
            "without a broker nothing is promised"
        );
        first.turn(Some(&host), now);
        assert_eq!(read(), [None, None], "as the file says");
        first.grant("gw1", 5).unwrap();
        assert_eq!(read(), [Some(vec![5, 100]), Some(vec![5, 100])]);
        assert_eq!(read(), [None, None], "said once");

        // A later process of the same node goes on from there; the former one is fenced.
        let mut second = Writing::new(&config, "sw", desk().1);
        second.turn(Some(&broker.host()), now);
        let refused = first.grant("gw1", 900).unwrap_err();
        assert!(refused.contains("another process"), "{refused}");
        assert_eq!(read(), [None, None], "nothing of the former one's counts");
        second.grant("gw2", 0).unwrap();
        assert_eq!(read(), [Some(vec![5, 0]), Some(vec![5, 0])]);

        // What it said lasts when it is gone.
        drop(second);
        let mut late = Reading::new(&config, switch).unwrap();
        late.0.turn(Some(&host), now);
        let (weights, from) = late.1.try_recv().unwrap();
        assert_eq!(weights, [5, 0]);
        assert!(from.starts_with("/t/sw/weights version"), "{from}");
    }
}
