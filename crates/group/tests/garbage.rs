//! Whatever an authenticated but broken peer sends, a replica does not panic.
//! (It may lose its way: replicas trust each other's logs.)

mod common;

use common::World;
use proptest::prelude::*;
use stateplane_base::{ReplicaId, Time};
use stateplane_group::{Message, Peer};

/// A message of any kind whose fields are mostly small numbers.
fn bytes(kind: u8, formation: u64, words: &[(u8, u64)]) -> Vec<u8> {
    let mut out = vec![kind, 1];
    out.extend_from_slice(&formation.to_be_bytes());
    for (width, word) in words {
        match width % 4 {
            0 => out.push((word & 3) as u8),
            1 => out.extend_from_slice(&(*word as u16 & 7).to_be_bytes()),
            2 => out.extend_from_slice(&(*word as u32 & 7).to_be_bytes()),
            _ => out.extend_from_slice(&word.to_be_bytes()),
        }
    }
    out
}

fn words() -> impl Strategy<Value = Vec<(u8, u64)>> {
    let number = prop_oneof![8 => 0..12u64, 1 => any::<u64>(), 1 => Just(u64::MAX)];
    proptest::collection::vec((prop_oneof![Just(3u8), any::<u8>()], number), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nonsense_is_survived(messages in proptest::collection::vec((7..20u8, words(), 0..3u8), 1..30)) {
        let mut w = World::ready(3);
        w.call(b"x").unwrap();
        let formation = w.replica(0).inspect().formation;
        let mut replica = w.replicas[1].take().unwrap();
        let mut now = w.now;
        for (kind, words, from) in &messages {
            // Fields are read from the front; what is missing is padded.
            let mut raw = bytes(*kind, formation, words);
            for _ in 0..40 {
                if let Ok(msg) = Message::decode(&raw) {
                    let peer = if *kind == 7 { Peer::Sequencer(0) } else { Peer::Replica(ReplicaId(*from)) };
                    replica.on_message(now, peer, msg);
                    break;
                }
                raw.push(0);
            }
            now = now + std::time::Duration::from_millis(1);
            if replica.next_timer().unwrap_or(Time::MAX) <= now {
                replica.on_timer(now);
            }
            let mut effects = 0;
            while replica.poll_effect().is_some() {
                effects += 1;
                prop_assert!(effects < 20_000, "effects are bounded");
            }
        }
    }
}
