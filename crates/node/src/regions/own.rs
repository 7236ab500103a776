//! The regions that nodes write about themselves: what they are called, what lies in them, and
//! how they are written and read.
//!
//! | region | written by | what |
//! | --- | --- | --- |
//! | `/CLUSTER/SWITCH/steering` | the switch, at each change | who gets which packets ([`super::steering`]) |
//! | `/CLUSTER/SWITCH/weights` | the switch, at each change | what share each instance is to have, as far as it knows ([`super::weights`]) |
//! | `/CLUSTER/NODE/config` | every node | which configuration it runs ([`super::running`]) |
//! | `/CLUSTER/NODE/telemetry` | every node, once an interval | what its roles count ([`super::telemetry`]) |
//!
//! All but the last are a JSON text ([`Text`]), so that readers of other versions and languages understand it.
//! Regions of other machines are read here as copies, under the same names.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stateplane_base::Time;
use stateplane_region::{
    Edition, Fenced, Host, Name, ReadError, Reader, Snapshot, Spec, Text, Writer,
};
use tracing::{error, info};

use super::telemetry::COUNTERS;
use crate::config::{Config, Node, Role};

/// How often a region that is not there is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// A region that a node writes about itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// How a switch steers.
    Steering,
    /// What share each instance is to have.
    Weights,
    /// Which configuration a node runs.
    Config,
    /// What a node counts.
    Telemetry,
}

impl Kind {
    /// The last part of its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Steering => "steering",
            Self::Weights => "weights",
            Self::Config => "config",
            Self::Telemetry => "telemetry",
        }
    }

    /// What its bytes mean.
    pub const fn schema(self) -> &'static str {
        match self {
            Self::Steering => "stateplane-steering-v1",
            Self::Weights => "stateplane-weights-v1",
            Self::Config => "stateplane-config-v1",
            Self::Telemetry => "stateplane-counters-v1",
        }
    }

    /// The text in it; empty where something else lies.
    pub const fn text(self) -> Text {
        Text::new(0, self.room())
    }

    /// Bytes of the longest text.
    pub const fn room(self) -> usize {
        match self {
            Self::Steering => 32 << 10,
            Self::Weights => 16 << 10,
            Self::Config => 128 << 10,
            Self::Telemetry => 0,
        }
    }

    /// Its length.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Telemetry => COUNTERS.bytes(),
            text => text.text().bytes(),
        }
    }

    /// Its name.
    ///
    /// # Panics
    /// If `cluster` or `node` is not a (checked) name.
    pub fn name(self, cluster: &str, node: &str) -> Name {
        let name = format!("/{cluster}/{node}/{}", self.word());
        name.parse().expect("checked names are parts of names")
    }

    pub(super) fn spec(self) -> Spec {
        Spec::bytes(self.bytes()).schema(self.schema())
    }
}

/// What `node` writes about itself.
pub fn kinds(nodes: &BTreeMap<String, Node>, node: &str) -> Vec<Kind> {
    let mut kinds = vec![Kind::Config, Kind::Telemetry];
    if nodes.get(node).is_some_and(|node| node.is(Role::Switch)) {
        kinds.extend([Kind::Steering, Kind::Weights]);
    }
    kinds
}

/// A region of this node's own, as soon as a broker lets it be written.
#[derive(Debug)]
pub(super) struct Own {
    name: Name,
    kind: Kind,
    next: Time,
    /// Another process has it, for good.
    fenced: bool,
    told: String,
}

impl Own {
    pub(super) fn new(config: &Config, node: &str, kind: Kind) -> Self {
        Self {
            name: kind.name(&config.cluster.name, node),
            kind,
            next: Time::ZERO,
            fenced: false,
            told: String::new(),
        }
    }

    /// Becomes its writer, if that is possible now and worth a try.
    pub(super) fn claim(&mut self, host: &Host, now: Time) -> Option<Writer<[u8]>> {
        if self.fenced || now < self.next {
            return None;
        }
        self.next = now + LOOK;
        match super::take_over(host, &self.name, &self.kind.spec()) {
            Ok(writer) => {
                info!(region = %self.name, epoch = writer.epoch(), "written by this node");
                Some(writer)
            }
            Err(error) => {
                let text = error.to_string();
                if self.told != text {
                    info!(region = %self.name, "not written yet: {text}");
                    self.told = text;
                }
                None
            }
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether another process has it, for good.
    pub(super) fn is_lost(&self) -> bool {
        self.fenced
    }

    /// Somebody else has become its writer: two processes are this node, and the later one
    /// is right.
    pub(super) fn lost(&mut self, fenced: Fenced) {
        error!(region = %self.name, %fenced, "not written any more");
        self.fenced = true;
    }
}

/// Writes a value as the text of a region, and publishes it if it is another than before.
///
/// # Errors
/// Another process has the region.
pub(crate) fn put(
    kind: Kind,
    region: &mut Writer<[u8]>,
    value: &impl Serialize,
) -> Result<(), Fenced> {
    let text = serde_json::to_string(value).unwrap_or_default();
    match kind.text().put(region, &text) {
        Ok(true) => region.publish().map(|_| ()),
        Ok(false) => Ok(()),
        Err(error) => {
            error!(region = kind.word(), %error, "not published");
            Ok(())
        }
    }
}

/// A region of this or another node, found again as often as it must be.
#[derive(Debug)]
pub struct Follower {
    name: Name,
    kind: Kind,
    reader: Option<Reader<[u8]>>,
    last: Option<Snapshot<[u8]>>,
}

impl Follower {
    /// A follower of `node`'s region of this kind.
    pub fn new(config: &Config, node: &str, kind: Kind) -> Self {
        Self {
            name: kind.name(&config.cluster.name, node),
            kind,
            reader: None,
            last: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Looks: its last version, and whether that is newer than the last look's.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn look(&mut self, host: &Host) -> Result<(&Snapshot<[u8]>, bool), String> {
        let new = match self.refresh(host) {
            // Of a writer that is replaced: the next one's memory is another.
            Err(ReadError::Superseded { .. }) => {
                self.reader = None;
                self.refresh(host)
            }
            read => read,
        };
        match (new, &self.last) {
            (Ok(new), Some(last)) => Ok((last, new)),
            (Err(ReadError::Empty), _) | (Ok(_), None) => Err(self.absent(host)),
            (Err(error), _) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// What it says, and which version that is, if that is new since the last look.
    pub(super) fn news<T: DeserializeOwned>(&mut self, host: &Host) -> Option<(T, Edition)> {
        let text = self.kind.text();
        let (snapshot, _) = self.look(host).ok().filter(|(_, new)| *new)?;
        let value = text.get(snapshot).map(|text| serde_json::from_str(&text));
        Some((value?.ok()?, *snapshot.edition()))
    }

    fn refresh(&mut self, host: &Host) -> Result<bool, ReadError> {
        if self.reader.is_none() {
            let reader = host.attach::<[u8]>(&self.name, self.kind.schema());
            self.reader = reader.ok().filter(|r| r.len() == self.kind.bytes());
        }
        let Some(reader) = &self.reader else {
            return Err(ReadError::Empty);
        };
        match &mut self.last {
            Some(last) => reader.refresh(last),
            None => {
                self.last = Some(reader.snapshot()?);
                Ok(true)
            }
        }
    }

    fn absent(&self, host: &Host) -> String {
        match host.attach::<[u8]>(&self.name, self.kind.schema()) {
            Err(error) => error.to_string(),
            Ok(_) => format!("{}: nothing was published yet", self.name),
        }
    }

    /// What it says: the value of its text, and which version that is.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read<T: DeserializeOwned>(&mut self, host: &Host) -> Result<(T, Edition), String> {
        let (text, name) = (self.kind.text(), self.name.clone());
        let (snapshot, _) = self.look(host)?;
        let value = text.get(snapshot).map(|text| serde_json::from_str(&text));
        match value {
            Some(Ok(value)) => Ok((value, *snapshot.edition())),
            Some(Err(error)) => Err(format!("{name}: {error}")),
            None => Err(format!("{name}: there is no text in it")),
        }
    }
}
