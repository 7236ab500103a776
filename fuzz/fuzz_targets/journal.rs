//! Whatever passes for a replica's memory: it becomes a replica, or it is refused. What
//! was recovered writes a checkpoint that is recovered again.
//!
//! The input is a list of parts, `length u16 | bytes` each: the checkpoint, then records.
#![no_main]

#[path = "../parts.rs"]
mod parts;

use libfuzzer_sys::fuzz_target;
use stateplane_base::{ReplicaId, Time};
use stateplane_group::{Effect, GroupConfig, Memory, Persist, Replica};
use stateplane_state::{Limits, Registry, Store};

fn recover(memory: &Memory) -> Option<Replica<Store>> {
    let store = Store::with_seed(Registry::builtin(), Limits::default(), [1, 2]);
    let config = GroupConfig::new(3);
    Replica::recover(config, ReplicaId(1), memory, store, Time::ZERO).ok()
}

fuzz_target!(|data: &[u8]| {
    let mut parts = parts::split(data).map(<[u8]>::to_vec);
    let checkpoint = parts.next().unwrap_or_default();
    let mut memory = Memory {
        checkpoint,
        records: parts.collect(),
    };
    let Some(mut replica) = recover(&memory) else {
        return;
    };
    let log = replica.inspect().log_len;
    while let Some(effect) = replica.poll_effect() {
        match effect {
            Effect::Persist(Persist::Record(bytes)) => memory.records.push(bytes),
            Effect::Persist(Persist::Checkpoint { bytes, .. }) => {
                memory = Memory {
                    checkpoint: bytes,
                    records: Vec::new(),
                };
            }
            _ => {}
        }
    }
    let again = recover(&memory).expect("what a replica wrote is read");
    assert_eq!(again.inspect().log_len, log);
});
