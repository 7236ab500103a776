//! Directed scenarios where the leader orders: VR, and one replica of it.

mod common;

use common::{Node, World};
use stateplane_base::LogTime;
use stateplane_group::{GroupConfig, Mark, Mutation};
use stateplane_wire::group::Body;

/// A group without a sequencer.
fn config(n: u8, batch: u16) -> GroupConfig {
    let mut config = GroupConfig::new(n).vr(batch);
    config.sequencers = 0;
    config
}

fn vr(n: u8, batch: u16) -> World {
    World::ready_with(config(n, batch))
}

#[test]
fn an_operation_is_answered_when_a_majority_has_it() {
    let mut w = vr(3, 1);
    let before = w.now;
    w.call(b"a").unwrap();
    let took = w.now.since(before).as_micros();
    assert_eq!(took, 200, "request, Prepare, PrepareOk, reply");
    w.run(30);
    w.agree();
    let (at, _) = &w.replica(2).app().ops[0];
    let day = LogTime::from_nanos(w.now.as_nanos()) + std::time::Duration::from_secs(5);
    assert!(
        *at > LogTime::from_millis(5000) && *at < day,
        "the leader's day: {at:?}"
    );
}

#[test]
fn one_replica_answers_in_a_round_trip_and_talks_to_nobody() {
    let mut w = vr(1, 1);
    let before = w.now;
    w.call(b"a").unwrap();
    assert_eq!(w.now.since(before).as_micros(), 100);
    w.run(100);
    assert_eq!(w.sent.get("prepare"), None);
}

/// Sends ten requests in ten datagrams at once and counts the Prepares.
fn prepares_for_ten(batch: u16) -> u64 {
    let mut config = config(3, batch);
    config.limits.batch_bytes = 1;
    let mut w = World::ready_with(config);
    for i in 0..10u8 {
        w.submit(&[i]);
    }
    w.run_until(100, |w| w.done.len() == 10);
    w.run(30);
    w.agree();
    w.sent["prepare"] / 2
}

#[test]
fn what_arrives_while_a_prepare_is_out_forms_the_next() {
    assert_eq!(prepares_for_ten(1), 10, "no batching");
    assert_eq!(prepares_for_ten(64), 2, "the first, and all the others");
    assert_eq!(prepares_for_ten(3), 4, "full ones do not wait");
}

#[test]
fn lost_prepares_are_repeated() {
    let mut w = vr(3, 8);
    let mut lost = 0;
    w.lose = Box::new(move |_, _, body| {
        let hit = matches!(body, Body::Prepare(_)) && lost < 2;
        lost += u32::from(hit);
        hit
    });
    let before = w.now;
    w.call(b"x").unwrap();
    assert!(
        w.now.since(before).as_millis() < 8,
        "{:?}",
        w.now.since(before)
    );
    assert_eq!(w.client.marks().get(Mark::Retransmitted), 0);
    w.run(30);
    w.agree();
}

#[test]
fn prepares_whose_acknowledgements_are_slow_are_not_repeated_again_and_again() {
    let mut w = vr(3, 1);
    w.hold = Box::new(|_, _, body| matches!(body, Body::SyncAck { .. }));
    for i in 0..50u8 {
        w.submit(&[i]);
        w.run(8);
        w.release();
        w.run_until(1, |w| w.done.len() == usize::from(i) + 1);
    }
    assert!(w.mark(Mark::PrepareRepeated) <= 4 * 2, "learns how slow");
    w.hold = Box::new(|_, _, _| false);
    w.run(30);
    w.agree();
}

#[test]
fn a_follower_that_missed_a_prepare_asks_for_it() {
    let mut w = vr(3, 1);
    let deaf = Node::Replica((w.leader().unwrap() + 1) % 3);
    let mut lost = 0;
    w.lose = Box::new(move |_, to, body| {
        let hit = to == deaf && matches!(body, Body::Prepare(_)) && lost < 2;
        lost += u32::from(hit);
        hit
    });
    for i in 0..5u8 {
        w.call(&[i]).unwrap();
    }
    w.run(30);
    w.agree();
    assert!(w.mark(Mark::PrepareAhead) > 0 && w.mark(Mark::GapFollower) > 0);
}

#[test]
fn a_dead_leader_is_replaced_and_the_client_finds_its_successor() {
    let mut w = vr(3, 8);
    for i in 0..5u8 {
        w.call(&[i]).unwrap();
    }
    let dead = w.leader().unwrap();
    // The last operation reaches one follower, and nobody hears that it did.
    let witness = Node::Replica((dead + 2) % 3);
    w.lose = Box::new(move |from, to, body| match body {
        Body::Prepare(_) => to != witness,
        _ => from == witness && matches!(body, Body::SyncAck { .. }),
    });
    let last = w.submit(b"last");
    w.run(2);
    w.kill(dead);
    w.lose = Box::new(|_, _, _| false);
    w.run_until(500, |w| w.done.contains_key(&last));
    assert!(w.done[&last].is_ok());
    let sought = w.client.marks().get(Mark::LeaderSought);
    assert!(sought > 0);
    w.call(b"next").unwrap();
    let marks = w.client.marks();
    assert_eq!(marks.get(Mark::LeaderSought), sought, "it is known by now");
    w.start_replica(dead);
    w.run(300);
    w.agree();
    assert_eq!(
        w.replica(dead).app().ops.len(),
        7,
        "and nothing is executed twice"
    );
}

/// A vote for a view waits in the network while its voter decides in a later view, with a replica
/// that then loses its memory. Nobody else could know of that view.
fn a_stale_vote_and_a_newcomer(config: GroupConfig) -> World {
    let mut w = World::ready_with(config);
    let stale = |from: Node, to: Node, body: &Body| {
        let way = (from, to) == (Node::Replica(2), Node::Replica(0));
        way && matches!(body, Body::ViewChange(vote) if vote.view == 16)
    };
    w.lose = Box::new(move |from, to, body| {
        let alone = [from, to].contains(&Node::Replica(0)) && !stale(from, to, body);
        alone || matches!(body, Body::ViewChange(vote) if vote.view < 16)
    });
    w.hold = Box::new(stale);
    w.run_until(1_000, |w| w.leader() == Some(1));
    w.call(b"decided in view 17").unwrap();

    // Now only the first replica remembers anything, and the other's vote arrives.
    w.lose = Box::new(|from, to, _| [from, to].contains(&Node::Replica(2)));
    w.hold = Box::new(|_, _, _| false);
    w.kill(1);
    w.start_replica(1);
    // The newcomer is heard.
    w.run(5);
    assert_eq!(
        w.replica(0).inspect().view,
        16,
        "its leader waits for votes"
    );
    assert!(w.release() > 0);
    w
}

#[test]
fn a_vote_from_before_a_loss_of_memory_admits_nobody() {
    let mut w = a_stale_vote_and_a_newcomer(config(3, 8));
    assert!(w.call(b"lost?").is_err(), "no majority can know");
    assert!(w.mark(Mark::JoinDeferred) > 0);
    w.lose = Box::new(|_, _, _| false);
    w.run_until(2_000, |w| w.leader().is_some());
    w.run(300);
    w.call(b"next").unwrap();
    w.run(50);
    w.agree();
    let (_, first) = &w.replica(1).app().ops[0];
    assert_eq!(first, b"decided in view 17");

    // Without the rule, two operations are final in one slot.
    if let Some(broken) = config(3, 8).breaking(Mutation::JoinUnvouched) {
        let mut w = a_stale_vote_and_a_newcomer(broken);
        w.call(b"in its place").unwrap();
        let (_, first) = &w.replica(0).app().ops[0];
        assert_eq!(first, b"in its place");
    }
}

#[test]
fn who_was_told_to_want_a_later_snapshot_takes_an_earlier_one_when_there_is_no_other() {
    let mut config = config(3, 64);
    config.limits.retain = 0;
    let mut w = World::ready_with(config);
    let leader = w.leader().unwrap();
    let (next, slow) = ((leader + 1) % 3, (leader + 2) % 3);
    w.lose = Box::new(move |from, to, _| from == Node::Replica(slow) || to == Node::Replica(slow));
    for i in 0..20u8 {
        w.call(&[i]).unwrap();
    }
    w.run(20);
    // What comes now is final at the leader, which truncates it; the next one has it, but does not
    // hear that it is final.
    w.lose = Box::new(move |from, to, body| {
        let cut = from == Node::Replica(slow) || to == Node::Replica(slow);
        cut || to == Node::Replica(next) && matches!(body, Body::Heartbeat { .. })
    });
    w.call(b"21").unwrap();
    // The slow one hears of the leader's truncation, and of nothing else, before that one dies.
    let asked = w.sent.get("snapshot-request").copied().unwrap_or(0);
    w.lose = Box::new(move |_, to, body| {
        let heartbeat = matches!(body, Body::Heartbeat { .. });
        to == Node::Replica(next) && heartbeat || matches!(body, Body::SnapshotChunk(_))
    });
    w.run_until(35, |w| {
        w.sent.get("snapshot-request").copied().unwrap_or(0) > asked
    });
    w.kill(leader);
    w.lose = Box::new(|_, _, _| false);
    w.call(b"22").unwrap();
    w.run(50);
    w.agree();
    assert_eq!(w.replica(slow).app().ops.len(), 22);
}
