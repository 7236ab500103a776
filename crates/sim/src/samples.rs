//! Some of what is said and written in a simulated world: real messages of all kinds, as
//! seeds for fuzzers.
use crate::guard::caught;
use crate::plan::Profile;
use crate::world::{self, Setup};
use stateplane_group::Memory;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What was heard so far. Of each kind a short and a long one are kept.
#[derive(Clone, Default, Debug)]
pub struct Samples {
    /// Encoded messages of the store group, by the name of their kind.
    pub messages: BTreeMap<&'static str, Vec<Vec<u8>>>,
    /// What replicas found on their disks: a checkpoint and the records after it.
    pub memories: Vec<Vec<Vec<u8>>>,
}

/// Longer ones are of no use to a fuzzer.
const LONGEST: usize = 360;
const LONGEST_MEMORY: usize = 1_800;

impl Samples {
    pub(crate) fn hear(&mut self, kind: &'static str, message: &[u8]) {
        if message.len() <= LONGEST {
            let kept = self.messages.entry(kind).or_default();
            keep(kept, message.to_vec(), Vec::len);
        }
    }

    pub(crate) fn remember(&mut self, memory: &Memory) {
        let parts = [vec![memory.checkpoint.clone()], memory.records.clone()].concat();
        let size = |parts: &Vec<Vec<u8>>| parts.iter().map(Vec::len).sum();
        if size(&parts) <= LONGEST_MEMORY {
            keep(&mut self.memories, parts, size);
        }
    }
}

/// Keeps the shortest and the longest.
fn keep<T>(kept: &mut Vec<T>, new: T, size: impl Fn(&T) -> usize) {
    match kept.as_mut_slice() {
        [] => kept.push(new),
        [one] if size(&new) < size(one) => kept.insert(0, new),
        [one] if size(&new) > size(one) => kept.push(new),
        [short, _] if size(&new) < size(short) => *short = new,
        [_, long] if size(&new) > size(long) => *long = new,
        _ => {}
    }
}

/// Adds what is heard in the world of a seed.
pub fn samples(seed: u64, profile: Profile, heard: &mut Samples) {
    let setup = Setup::plain(seed, profile);
    let cell = RefCell::new(std::mem::take(heard));
    caught(|| world::listen(&setup, &cell));
    *heard = cell.into_inner();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_said() {
        let mut heard = Samples::default();
        for profile in [Profile::Gaps, Profile::Durable] {
            samples(1, profile, &mut heard);
        }
        for kind in [
            "reply",
            "heartbeat",
            "view-change",
            "start-view",
            "session-grant",
        ] {
            let messages = heard.messages.get(kind).expect(kind);
            for message in messages {
                let read = stateplane_group::Message::decode(message).expect(kind);
                assert_eq!(read.body.name(), kind);
            }
        }
        assert!(heard.memories.iter().all(|memory| !memory.is_empty()));
    }
}
