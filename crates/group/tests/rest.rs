//! A group at rest says little, and no less than it must.

mod common;

use common::{Node, World};
use stateplane_group::{Mark, Role};
use stateplane_wire::group::Body;

/// How many messages of a kind are sent within so many milliseconds.
fn sent(w: &mut World, kind: &str, ms: u64) -> u64 {
    let count = |w: &World| w.sent.get(kind).copied().unwrap_or(0);
    let before = count(w);
    w.run(ms);
    count(w) - before
}

#[test]
fn a_follower_repeats_what_its_leader_knows_with_every_fourth_heartbeat() {
    let mut w = World::ready(3);
    w.call(b"a").unwrap();
    w.run(100);
    // A heartbeat is two messages, an answer of both followers as well.
    let beats = sent(&mut w, "heartbeat", 400);
    assert!(beats >= 150, "{beats} heartbeats");
    let acks = sent(&mut w, "sync-ack", 400);
    assert!((beats / 5..=beats / 3).contains(&acks), "{acks} of {beats}");
    assert_eq!(w.mark(Mark::Abdicated) + w.mark(Mark::SilentLeader), 0);
}

#[test]
fn an_acknowledgement_that_was_lost_comes_again_with_the_next_heartbeat() {
    let mut w = World::ready(3);
    w.call(b"a").unwrap();
    w.run(100);
    let (mut lost, leader) = ([0u32; 3], w.leader().unwrap());
    // Of each follower the first two that say that they have the second slot.
    w.lose = Box::new(move |from, _, body| match (from, body) {
        (Node::Replica(from), Body::SyncAck { upto: 2, .. }) => {
            let lost = &mut lost[usize::from(from)];
            *lost += 1;
            *lost <= 2
        }
        _ => false,
    });
    w.call(b"b").unwrap();
    w.run_until(20, |w| w.replica(leader).inspect().commit == 2);
    w.run(20);
    w.agree();
    assert!(w.alive().all(|r| r.inspect().executed == 2));
}

#[test]
fn a_sequencer_that_nobody_asks_keeps_its_session_though_half_of_the_words_to_it_are_lost() {
    let mut w = World::ready(3);
    w.call(b"a").unwrap();
    w.run(100);
    let words = sent(&mut w, "session-info", 400);
    assert!((35..=45).contains(&words), "{words} words in 400 ms");
    let leader = w.leader().unwrap();
    let (session, mut turn) = (w.replica(leader).inspect().session, 0);
    w.lose = Box::new(move |_, to, body| {
        let hit = to == Node::Sequencer && matches!(body, Body::SessionInfo { .. });
        turn += u32::from(hit);
        hit && turn.is_multiple_of(2)
    });
    w.run(1000);
    let now = w.replica(leader).inspect();
    assert_eq!((now.session, now.role), (session, Role::Leader));
    assert_eq!(w.mark(Mark::SequencerSilent), 0);
}
