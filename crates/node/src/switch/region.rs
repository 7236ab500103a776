//! The switch's region: what others learn there about its steering.

use std::sync::mpsc::Receiver;

use stateplane_host::clock;
use stateplane_region::Writer;
use tracing::error;

use crate::config;
use crate::regions::keeper::SwitchEnds;
use crate::regions::own::{Kind, put};
use crate::regions::steering::Posted;
use crate::regions::weighing::Given;

/// What a switch tells, and is told.
#[derive(Debug)]
pub(super) struct Region {
    switch: String,
    inbox: Option<Receiver<Writer<[u8]>>>,
    weights: Option<Receiver<Given>>,
    weights_from: String,
    writer: Option<Writer<[u8]>>,
    /// What was told last: weights, who gets packets, what is thought of each.
    last: Option<(Vec<u32>, Vec<u8>, Vec<String>)>,
}

impl Region {
    pub(super) fn new(switch: &str, ends: Option<SwitchEnds>) -> Self {
        let (inbox, weights) = ends.map(|ends| (ends.region, ends.weights)).unzip();
        Self {
            switch: switch.to_owned(),
            inbox,
            weights,
            weights_from: "the configuration".to_owned(),
            writer: None,
            last: None,
        }
    }

    /// The weights, if there are others than before.
    pub(super) fn weights(&mut self) -> Option<Vec<u32>> {
        let (weights, from) = self.weights.as_ref()?.try_recv().ok()?;
        self.weights_from = from;
        Some(weights)
    }

    /// Tells how the switch steers, if that is new; else that it is still so. Called in
    /// every turn that publishes, so that silence means that the switch is gone or stuck.
    pub(super) fn post(
        &mut self,
        of: &config::Switch,
        weights: &[u32],
        live: &[u8],
        health: &[&str],
        changes: u64,
    ) {
        if let Some(Ok(writer)) = self.inbox.as_ref().map(Receiver::try_recv) {
            (self.writer, self.last) = (Some(writer), None);
        }
        let Some(writer) = &mut self.writer else {
            return;
        };
        let same = self.last.as_ref().is_some_and(|(w, l, h)| {
            w == weights && l == live && h.iter().map(String::as_str).eq(health.iter().copied())
        });
        let told = if same {
            writer.check_in().map(|_| ())
        } else {
            let mut posted = Posted::new(&self.switch, of, weights, live);
            for (instance, health) in posted.instances.iter_mut().zip(health) {
                instance.health = (*health).to_owned();
            }
            posted.weights_from.clone_from(&self.weights_from);
            posted.changed_day_ns = clock::wall().as_nanos();
            posted.changes = changes;
            let health = health.iter().map(|&h| h.to_owned()).collect();
            self.last = Some((weights.to_vec(), live.to_vec(), health));
            put(Kind::Steering, writer, &posted)
        };
        if let Err(fenced) = told {
            // Another process is this node, and the later one is right.
            error!(%fenced, "the steering is not told any more");
            (self.writer, self.inbox) = (None, None);
        }
    }

    /// The region's version, for people.
    pub(super) fn told(&self) -> Option<String> {
        let writer = self.writer.as_ref()?;
        Some(format!(
            "epoch {} version {}",
            writer.epoch(),
            writer.version()
        ))
    }
}
