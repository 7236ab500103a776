//! How the switches agree on weights: each tells in a region, and keeps on its disk, what it
//! knows to have been said last; each hears what the others tell.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use stateplane_base::Time;
use stateplane_host::clock;
use stateplane_region::{Host, Writer};
use tracing::{info, warn};

use super::keeper::Duty;
use super::kept::Kept;
use super::own::{Follower, Kind, Own, put};
use super::steering;
use super::weights::{Weight, Weights, Wish, configured};
use crate::config::{Config, Switch};
use crate::failure::Failure;

/// How often a disk that refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The weights for a switch, and where they are from.
pub(crate) type Given = (Vec<u32>, String);

/// What a switch does about weights.
pub(super) struct Weighing {
    own: Own,
    region: Option<Writer<[u8]>>,
    others: Vec<Follower>,
    kept: Kept,
    /// When the disk may be tried again.
    retry: Time,
    weights: Weights,
    /// Where the last word is from.
    from: String,
    wishes: Receiver<Wish>,
    switch: Switch,
    given: Vec<u32>,
    to: SyncSender<Given>,
}

impl Weighing {
    /// That of `node`, a switch, which takes the weights from the other end.
    pub(super) fn new(
        config: &Config,
        node: &str,
        switch: &Switch,
        wishes: Receiver<Wish>,
    ) -> Result<(Self, Receiver<Given>), Failure> {
        let state = config.regions.as_ref().map(|r| r.state_dir.clone());
        let kept = Kept::open(&state.unwrap_or_default(), &config.cluster.name, node);
        let kept = kept.map_err(|error| {
            let help = "what operators said about weights is kept there";
            Failure::missing(error, help)
        })?;
        let others = steering::switches(&config.nodes).filter(|other| other.name != node);
        let (to, given) = sync_channel(1);
        let mut weights = Weights::of_file(config);
        weights.merge(kept.said());
        let weighing = Self {
            own: Own::new(config, node, Kind::Weights),
            region: None,
            others: others
                .map(|other| Follower::new(config, &other.name, Kind::Weights))
                .collect(),
            retry: Time::ZERO,
            weights,
            from: "what was said before".to_owned(),
            kept,
            wishes,
            switch: switch.clone(),
            given: configured(switch),
            to,
        };
        Ok((weighing, given))
    }

    /// Goes on from what a former process of this node told.
    fn begin(&mut self, region: Writer<[u8]>) {
        let last = Kind::Weights.text().get(region.bytes());
        let last = last.and_then(|text| serde_json::from_str::<Weights>(&text).ok());
        self.weights.merge(&last.unwrap_or_default());
        self.region = Some(region);
        self.tell();
    }

    fn hear(&mut self, host: &Host) {
        let mut heard = false;
        for other in &mut self.others {
            let Some((told, edition)) = other.news::<Weights>(host) else {
                continue;
            };
            if self.weights.merge(&told) {
                self.from = format!("{} version {}", other.name(), edition.version);
                heard = true;
            }
        }
        if heard {
            info!(from = self.from, "weights changed");
            self.tell();
        }
    }

    /// Whether no later process has taken this one's place. That what it told is all there
    /// is, readers are told by the way.
    fn is_this_node(&mut self) -> bool {
        if let Some(region) = &mut self.region
            && let Err(fenced) = region.publish()
        {
            self.region = None;
            self.own.lost(fenced);
        }
        !self.own.is_lost()
    }

    /// Others are told what is known here.
    fn tell(&mut self) {
        if let Some(region) = &mut self.region
            && let Err(fenced) = put(Kind::Weights, region, &self.weights)
        {
            self.region = None;
            self.own.lost(fenced);
        }
    }

    fn grant(&mut self, instance: &str, weight: u32) -> Result<Weight, String> {
        if !self.is_this_node() {
            return Err("another process is this node: ask that one".into());
        }
        let mut wanted = self.weights.clone();
        let granted = wanted.set(instance, weight, clock::wall().as_nanos())?;
        // On the disk before anybody goes by it: what was answered lasts.
        let kept = self.kept.put(wanted.said());
        kept.map_err(|error| format!("it could not be kept, so nothing is changed: {error}"))?;
        self.weights = wanted;
        self.tell();
        self.from = match &self.region {
            Some(region) => format!("{} version {}", self.own.name(), region.version()),
            None => "an operator here; other switches are not told: is there a broker?".to_owned(),
        };
        info!(instance, weight, "weight changed");
        Ok(granted)
    }

    /// What was heard lasts here, too; steering does not wait for the disk.
    fn keep(&mut self, now: Time) {
        if now < self.retry || self.own.is_lost() {
            return;
        }
        if let Err(error) = self.kept.put(self.weights.said()) {
            warn!(%error, "what was said about weights is not kept; trying again");
            self.retry = now + RETRY;
        }
    }

    fn give(&mut self) {
        let weights = self.weights.of(&self.switch);
        let given = (weights.clone(), self.from.clone());
        // Full: the switch has not taken the last; the next turn tries again.
        if weights != self.given && self.to.try_send(given).is_ok() {
            self.given = weights;
        }
    }
}

impl Duty for Weighing {
    /// What was said last counts, however old it is: nobody said otherwise.
    fn turn(&mut self, host: Option<&Host>, now: Time) {
        if let Some(host) = host.filter(|_| self.is_this_node()) {
            if self.region.is_none()
                && let Some(region) = self.own.claim(host, now)
            {
                self.begin(region);
            }
            self.hear(host);
        }
        while let Ok(wish) = self.wishes.try_recv() {
            let (instance, weight) = &wish.wanted;
            let granted = self.grant(instance, *weight);
            // Who asked may have gone.
            let _ = wish.answer.send(granted);
        }
        self.keep(now);
        self.give();
    }
}

#[cfg(test)]
mod tests;
