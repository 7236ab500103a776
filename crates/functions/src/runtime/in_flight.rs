//! Which flows are being decided.

use core::hash::BuildHasher;

use hashbrown::HashTable;
use stateplane_flow::FlowKey;

use super::park::Way;
use crate::context::TaskId;
use crate::table::Keyed;

/// A flow with its hash, which is the same as in the flow table: computed once for a packet.
pub(super) type Hashed = (FlowKey, u64);

/// The flows of decisions, and the announced reverse flows.
#[derive(Debug)]
pub(super) struct InFlight {
    flows: HashTable<(FlowKey, (TaskId, Way))>,
    hasher: Keyed,
}

impl InFlight {
    pub(super) fn new(hash_key: [u64; 2]) -> Self {
        Self {
            flows: HashTable::new(),
            hasher: Keyed(hash_key),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn hashed(&self, flow: FlowKey) -> Hashed {
        (flow, self.hasher.hash_one(flow))
    }

    pub(super) fn get(&self, (flow, hash): Hashed) -> Option<(TaskId, Way)> {
        Some(self.flows.find(hash, |known| known.0 == flow)?.1)
    }

    /// Notes whose flow this is, unless somebody has it.
    pub(super) fn insert(&mut self, (flow, hash): Hashed, task: TaskId, way: Way) {
        let hasher = self.hasher;
        let rehash = |known: &(FlowKey, _)| hasher.hash_one(known.0);
        let place = self.flows.entry(hash, |known| known.0 == flow, rehash);
        place.or_insert((flow, (task, way)));
    }

    /// Forgets a flow of this task.
    pub(super) fn remove(&mut self, (flow, hash): Hashed, task: TaskId) {
        let is_it = |known: &(FlowKey, (TaskId, Way))| known.0 == flow && known.1.0 == task;
        if let Ok(place) = self.flows.find_entry(hash, is_it) {
            place.remove();
        }
    }
}
