//! Directed scenarios, one per rule that is easy to get wrong.

mod common;

use common::{Filter, Node, World};
use stateplane_group::{Alarm, Mark, Role};
use stateplane_wire::group::Body;

fn count(reply: &[u8]) -> u64 {
    u64::from_be_bytes(reply.try_into().expect("eight bytes"))
}

#[test]
fn a_group_forms_gets_a_session_and_serves_in_one_round_trip() {
    let mut w = World::ready(3);
    let before = w.now;
    assert_eq!(w.call(b"a").map(|r| count(&r)), Ok(1));
    assert_eq!(
        w.now.since(before).as_micros(),
        150,
        "client, sequencer, replicas, client"
    );
    w.run(30);
    w.agree();
    assert!(
        w.alive()
            .all(|r| r.inspect().commit == 1 && r.inspect().executed == 1),
        "synchronised"
    );
}

#[test]
fn operations_submitted_together_share_a_slot() {
    let mut w = World::ready(3);
    let ids: Vec<_> = (0..20u8).map(|i| w.submit(&[i])).collect();
    w.run(50);
    assert!(ids.iter().all(|id| w.done[id].is_ok()));
    assert_eq!(w.replica(0).inspect().log_len, 1);
}

#[test]
fn a_follower_asks_its_leader_for_what_it_missed() {
    let mut w = World::ready(3);
    let leader = w.leader().unwrap();
    let deaf = Node::Replica((leader + 1) % 3);
    let mut lost = 0;
    w.lose = Box::new(move |_, to, body| {
        let hit = to == deaf && matches!(body, Body::Ordered(_)) && lost < 3;
        lost += u32::from(hit);
        hit
    });
    for i in 0..5u8 {
        w.call(&[i]).unwrap();
    }
    w.run(30);
    w.agree();
    assert!(w.mark(Mark::GapFollower) > 0);
    assert_eq!(w.mark(Mark::GapNoop), 0);
    assert_eq!(w.client.marks().get(Mark::Retransmitted), 0);
}

#[test]
fn a_leader_recovers_a_slot_from_a_follower_in_a_few_milliseconds() {
    let mut w = World::ready(3);
    let deaf = Node::Replica(w.leader().unwrap());
    let mut lost = 0;
    w.lose = Box::new(move |_, to, body| {
        let hit = to == deaf && matches!(body, Body::Ordered(_)) && lost < 1;
        lost += u32::from(hit);
        hit
    });
    let before = w.now;
    w.call(b"x").unwrap();
    assert!(
        w.now.since(before).as_millis() < 5,
        "{:?}: noticed by the tail, not by a retry",
        w.now.since(before)
    );
    assert_eq!(w.mark(Mark::GapRecovered), 1);
}

#[test]
fn what_nobody_received_becomes_a_noop_and_the_retry_executes_once() {
    let mut w = World::ready(3);
    let mut lost = 0;
    w.lose = Box::new(move |_, _, body| {
        let hit = matches!(body, Body::Ordered(_)) && lost < 3;
        lost += u32::from(hit);
        hit
    });
    w.call(b"x").unwrap();
    w.call(b"y").unwrap();
    w.run(30);
    w.agree();
    assert_eq!(w.replica(0).app().ops.len(), 2);
    assert!(w.mark(Mark::GapNoop) > 0);
}

#[test]
fn a_noop_wins_over_the_value_one_follower_received() {
    let mut w = World::ready(3);
    let lucky = Node::Replica((w.leader().unwrap() + 1) % 3);
    let mut lost = 0;
    w.lose = Box::new(move |from, to, body| match body {
        Body::Ordered(_) if to != lucky && lost < 2 => {
            lost += 1;
            true
        }
        // The leader never hears that the lucky one has it.
        Body::Entries(_) => from == lucky,
        _ => false,
    });
    w.call(b"x").unwrap();
    w.run(30);
    w.agree();
    assert!(w.mark(Mark::GapNoop) > 0 && w.mark(Mark::GapOverwrite) > 0);
}

#[test]
fn a_dead_leader_is_replaced_and_nothing_committed_is_lost() {
    let mut w = World::ready(3);
    for i in 0..10u8 {
        w.call(&[i]).unwrap();
    }
    w.kill(w.leader().unwrap());
    let before = w.now;
    assert_eq!(w.call(b"after").map(|r| count(&r)), Ok(11));
    assert!(
        w.now.since(before).as_millis() < 100,
        "{:?}",
        w.now.since(before)
    );
    w.run(50);
    w.agree();
}

#[test]
fn two_dead_leaders_in_a_row_are_escalated_past() {
    let mut w = World::ready(5);
    w.call(b"x").unwrap();
    let leader = w.leader().unwrap();
    w.kill(leader);
    w.kill((leader + 1) % 5);
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(2));
    assert!(w.mark(Mark::ViewChangeEscalated) > 0);
    w.run(30);
    w.agree();
}

#[test]
fn a_restarted_sequencer_gets_a_session_of_its_own() {
    let mut w = World::ready(3);
    w.call(b"x").unwrap();
    let session = w.replica(0).inspect().session;
    w.start_sequencer();
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(2));
    assert!(w.replica(0).inspect().session > session);
    assert_eq!(w.mark(Mark::GapNoop), 0, "a new session wastes no slot");
    w.run(30);
    w.agree();
}

#[test]
fn a_restarted_replica_joins_with_the_state_and_then_counts() {
    for victim in 0..3 {
        let mut w = World::ready(3);
        for i in 0..50u8 {
            w.call(&[i]).unwrap();
        }
        w.start_replica(victim);
        w.run(300);
        assert_ne!(w.replica(victim).inspect().role, Role::Booting);
        let leader = w.leader().unwrap();
        if leader != victim {
            w.kill(leader);
        } else {
            w.kill((victim + 1) % 3);
        }
        assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(51));
        w.run(50);
        w.agree();
    }
}

#[test]
fn a_replica_behind_truncation_gets_a_snapshot() {
    let mut config = stateplane_group::GroupConfig::new(3);
    config.limits.retain = 16;
    let mut w = World::with(config);
    w.run(200);
    let slow = (w.leader().unwrap() + 1) % 3;
    w.lose = Box::new(move |from, to, _| from == Node::Replica(slow) || to == Node::Replica(slow));
    for i in 0..200u8 {
        w.call(&[i]).unwrap();
    }
    w.run(20);
    w.lose = Box::new(|_, _, _| false);
    w.run(500);
    w.call(b"last").unwrap();
    w.run(50);
    w.agree();
    assert!(w.mark(Mark::SnapshotInstalled) > 0);
}

#[test]
fn who_wants_more_than_there_is_takes_no_snapshot_away() {
    let mut config = stateplane_group::GroupConfig::new(3);
    let limits = &mut config.limits;
    (limits.retain, limits.chunk, limits.chunks) = (16, 64, 1);
    let mut w = World::ready_with(config);
    let slow = (w.leader().unwrap() + 1) % 3;
    w.lose = Box::new(move |from, to, _| from == Node::Replica(slow) || to == Node::Replica(slow));
    for i in 0..200u8 {
        w.call(&[i]).unwrap();
    }
    w.lose = Box::new(|_, _, _| false);
    // All the while it receives the snapshot, piece by piece, another one asks for a later one.
    let sources = (0..3).filter(|source| *source != slow);
    for _ in 0..500 {
        for source in sources.clone() {
            let body = Body::SnapshotRequest {
                floor: 1_000,
                at: 0,
                offset: 0,
                chunks: 1,
            };
            w.inject((source + 1) % 3, source, body);
        }
        w.run(1);
    }
    assert!(w.replica(slow).marks().get(Mark::SnapshotInstalled) > 0);
    w.agree();
}

#[test]
fn a_snapshot_that_comes_too_late_takes_nothing_back() {
    let mut config = stateplane_group::GroupConfig::new(3);
    (config.limits.retain, config.limits.sync_every) = (16, 8);
    let mut w = World::ready_with(config);
    let slow = (w.leader().unwrap() + 1) % 3;
    // It has all slots, but is not told that they are its leader's until that one has
    // truncated them: it asks for a snapshot.
    w.hold = Box::new(move |_, to, body| {
        to == Node::Replica(slow) && matches!(body, Body::Heartbeat { .. })
    });
    for i in 0..48u8 {
        w.call(&[i]).unwrap();
    }
    w.hold = Box::new(|_, _, body| matches!(body, Body::SnapshotChunk(_)));
    w.run_until(20, |w| w.sent.contains_key("snapshot-request"));
    // Before it gets one, it is told, and goes on.
    w.release();
    for i in 0..16u8 {
        w.call(&[i]).unwrap();
    }
    w.run(10);
    assert_eq!(w.replica(slow).app().ops.len(), 64);
    w.hold = Box::new(|_, _, _| false);
    assert!(w.release() > 0, "a snapshot is on its way");
    w.run(50);
    assert!(w.replica(slow).marks().get(Mark::SnapshotInstalled) > 0);
    w.agree();
}

#[test]
fn a_deposed_leader_rolls_back_what_did_not_survive() {
    let mut w = World::ready(3);
    w.call(b"kept").unwrap();
    w.run(20);
    let old = w.leader().unwrap();
    // Only the old leader gets the next request, and then it is cut off.
    w.lose = Box::new(move |from, to, body| match body {
        Body::Ordered(_) => to != Node::Replica(old),
        _ => from == Node::Replica(old) || (to == Node::Replica(old) && from != Node::Sequencer),
    });
    let id = w.submit(b"lost");
    w.run(5);
    assert_eq!(w.replica(old).app().ops.len(), 2, "executed ahead");
    w.run_until(500, |w| w.leader() != Some(old));
    // Ordered messages reach the others again; the lost one's retries do not reach anybody.
    w.lose = Box::new(move |from, to, body| {
        let cut = from == Node::Replica(old) || to == Node::Replica(old);
        let client =
            matches!(body, Body::Request(r) if r.batch.iter().any(|(_, op)| op.bytes == b"lost"));
        cut || client
    });
    w.call(b"new").unwrap();
    w.lose = Box::new(
        |_, _, body| matches!(body, Body::Request(r) if r.batch.iter().any(|(_, op)| op.bytes == b"lost")),
    );
    w.run(3000);
    assert!(w.done[&id].is_err(), "its outcome is unknown");
    w.agree();
    assert!(w.mark(Mark::DeposedRollback) > 0 && w.mark(Mark::SnapshotInstalled) > 0);
    assert_eq!(w.replica(old).app().ops.len(), 2);
}

#[test]
fn a_deposed_leader_rolls_back_to_nothing_where_nobody_has_executed_anything() {
    let mut w = World::ready(3);
    let old = w.leader().unwrap();
    // Only the old leader hears of the first request of all, and then it is cut off.
    w.lose = Box::new(move |from, to, body| match body {
        Body::Ordered(_) | Body::Tail { .. } => to != Node::Replica(old),
        _ => from == Node::Replica(old) || (to == Node::Replica(old) && from != Node::Sequencer),
    });
    w.submit(b"first");
    w.run(5);
    assert_eq!(w.replica(old).app().ops.len(), 1, "executed ahead");
    w.run_until(500, |w| w.leader().is_some_and(|leader| leader != old));
    w.run(20);
    // The next leader dies: the group is those two who have executed too much and nothing.
    w.kill(w.leader().unwrap());
    w.lose = Box::new(|_, _, _| false);
    // What the old leader took back was stamped in this session, so it comes again.
    assert_eq!(w.call(b"second").map(|r| count(&r)), Ok(2));
    w.run(50);
    w.agree();
    assert!(w.mark(Mark::DeposedRollback) > 0 && w.mark(Mark::SnapshotInstalled) > 0);
}

#[test]
fn a_leader_that_hears_nobody_steps_down() {
    let mut w = World::ready(3);
    let mute = Node::Replica(w.leader().unwrap());
    w.lose = Box::new(move |_, to, _| to == mute);
    w.run(300);
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(1));
}

/// Only messages between these replicas (and to and from everybody else) pass.
fn only(connected: &'static [u8]) -> Filter {
    let cut = move |node| matches!(node, Node::Replica(i) if !connected.contains(&i));
    Box::new(move |from, to, _| cut(from) || cut(to))
}

/// Michael et al., DISC 2017: a vote sent before a crash must not count after it.
#[test]
fn a_vote_of_a_former_life_does_not_complete_a_quorum() {
    let mut w = World::ready(5);
    w.call(b"first").unwrap();
    w.run(30);
    assert_eq!((w.leader(), w.replica(0).inspect().view), (Some(0), 16));
    // Replica 4, cut off, votes for view after view; its votes for 33 are under way for long.
    w.lose = only(&[0, 1, 2, 3]);
    w.hold = Box::new(|from, to, body| {
        let vote = matches!(body, Body::ViewChange(m) if m.view == 33);
        from == Node::Replica(4) && to == Node::Replica(1) && vote
    });
    w.run(1500);
    w.hold = Box::new(|_, _, _| false);
    // It restarts and joins, while replica 1 is cut off and learns nothing of that.
    w.lose = only(&[0, 2, 3, 4]);
    w.start_replica(4);
    w.run(200);
    assert_eq!(
        (w.leader(), w.replica(4).inspect().role),
        (Some(0), Role::Follower)
    );
    assert_eq!(w.replica(0).inspect().view, 32);
    // Its new life helps to commit an operation that replica 2 does not see.
    w.lose = only(&[0, 3, 4]);
    assert_eq!(w.call(b"second").map(|r| count(&r)), Ok(2));
    // The leader dies. Replicas 1 and 2 meet, and the old vote arrives: three votes, two voters.
    w.kill(0);
    w.lose = only(&[1, 2]);
    w.run_until(500, |w| w.replica(1).inspect().view >= 33);
    assert!(w.release() > 0, "there is a stray vote");
    w.run(20);
    assert!(
        w.replica(1).marks().get(Mark::StaleIncarnation)
            + w.replica(1).marks().get(Mark::VoteRefused)
            > 0
    );
    assert!(
        [1, 2]
            .iter()
            .all(|i| w.replica(*i).inspect().role == Role::Voting),
        "no quorum"
    );
    w.lose = Box::new(|_, _, _| false);
    assert_eq!(
        w.call(b"third").map(|r| count(&r)),
        Ok(3),
        "the second one was not lost"
    );
    w.run(100);
    w.agree();
}

#[test]
fn a_clock_that_went_backwards_does_not_keep_a_replica_out() {
    let mut w = World::ready(3);
    w.call(b"x").unwrap();
    w.lives = 1;
    w.start_replica(2);
    w.run(300);
    assert!(w.alarms.contains(&Alarm::IncarnationReused));
    assert_ne!(w.replica(2).inspect().role, Role::Booting);
    w.run(30);
    w.agree();
}

#[test]
fn a_total_loss_starts_an_empty_group() {
    let mut w = World::ready(3);
    w.call(b"x").unwrap();
    (0..3).for_each(|i| w.start_replica(i));
    assert_eq!(
        w.call(b"y").map(|r| count(&r)),
        Ok(1),
        "nothing is remembered, and the group works"
    );
    w.run(50);
    w.agree();
}

#[test]
fn a_single_replica_is_a_group() {
    let mut w = World::ready(1);
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(1));
    w.run(20);
    assert_eq!(w.replica(0).inspect().commit, 1);
}

#[test]
fn an_unreachable_group_ends_in_an_unknown_outcome() {
    let mut w = World::ready(3);
    (0..3).for_each(|i| w.kill(i));
    assert!(w.call(b"x").is_err());
}

/// Asks without a slot and runs until the outcome.
fn read(w: &mut World, op: &[u8]) -> (bool, Vec<u8>) {
    let id = w.client.submit_read(w.now, op.to_vec()).expect("room");
    w.run_until(3_000, |w| w.done.contains_key(&id));
    (w.places[&id].read, w.done[&id].clone().expect("an answer"))
}

#[test]
fn a_read_needs_no_slot_and_no_sequencer() {
    let mut w = World::ready(3);
    w.call(b"a").unwrap();
    w.call(b"b").unwrap();
    w.sequencer = None;
    let before = w.now;
    let (slotless, reply) = read(&mut w, b"?");
    assert_eq!((slotless, count(&reply)), (true, 2));
    assert_eq!(w.now.since(before).as_micros(), 100, "there and back");
    assert_eq!(w.replica(0).inspect().log_len, 2);
}

#[test]
fn a_read_takes_a_slot_if_its_result_is_long_or_something_is_due() {
    let mut config = stateplane_group::GroupConfig::new(3);
    config.limits.answer_bytes = 4_000;
    let mut w = World::ready_with(config);
    for op in [&b"long"[..], b"due"] {
        let (slotless, _) = read(&mut w, op);
        assert!(!slotless, "{op:?}");
    }
    assert_eq!(w.replica(0).inspect().log_len, 2);
    assert_eq!(w.mark(Mark::ReadTooLong), 1);
    assert_eq!(w.mark(Mark::ReadOutdated), 1);
}

#[test]
fn a_read_waits_for_followers_that_have_what_it_saw() {
    let mut w = World::ready(3);
    let leader = w.leader().unwrap();
    // Followers receive nothing ordered: what the leader executed may yet vanish.
    w.lose = Box::new(move |_, to, body| {
        to != Node::Replica(leader) && matches!(body, Body::Ordered(_) | Body::Entries(_))
            || matches!(body, Body::Heartbeat { .. } | Body::Tail { .. })
    });
    w.submit(b"a");
    w.run(1);
    let id = w.client.submit_read(w.now, b"?".to_vec()).expect("room");
    w.run(8);
    assert!(!w.done.contains_key(&id));
    assert!(w.client.marks().get(Mark::ReadDisagreed) > 0);
    w.lose = Box::new(|_, _, _| false);
    w.run_until(2_000, |w| w.done.contains_key(&id));
    assert!(w.done[&id].as_ref().is_ok_and(|r| count(r) >= 1));
    w.run(30);
    w.agree();
}

/// Its tails would be signs of life although no request reaches it.
#[test]
fn a_sequencer_that_hears_nobody_falls_silent() {
    let mut w = World::ready(3);
    w.call(b"a").unwrap();
    w.run(500);
    assert_eq!(
        w.mark(Mark::SequencerSilent),
        0,
        "idle, it hears the leader"
    );
    w.lose = Box::new(|_, to, _| to == Node::Sequencer);
    w.run(100);
    let sequencer = w.sequencer.as_ref().expect("alive");
    assert!(sequencer.marks().get(Mark::SequencerDeaf) > 0);
    assert!(
        w.mark(Mark::SequencerSilent) > 0,
        "the leader would invite another"
    );
    w.lose = Box::new(|_, _, _| false);
    assert_eq!(w.call(b"b").map(|r| count(&r)), Ok(2));
}

#[test]
fn a_late_proposal_of_a_group_does_not_take_the_place_of_the_one_that_formed() {
    let mut w = World::new(3);
    w.hold = Box::new(|_, _, body| matches!(body, Body::StartView(_)));
    w.run(100);
    w.hold = Box::new(|_, _, _| false);
    // Long enough for the leader to give its first proposal up.
    w.lose = Box::new(|_, _, body| matches!(body, Body::StartView(_)));
    w.run(2_000);
    w.lose = Box::new(|_, _, _| false);
    let acks = |w: &World| w.sent.get("sync-ack").copied().unwrap_or(0);
    let before = acks(&w);
    w.run_until(500, |w| acks(w) >= before + 2);
    assert!(w.release() > 0, "the first ones come just behind the last");
    // The leader goes on to a view with a session before it has repeated this one's start.
    w.lose = Box::new(|_, _, body| matches!(body, Body::StartView(m) if m.view == 0));
    w.run_until(500, |w| {
        (0..3).all(|j| w.replica(j).inspect().role != Role::Booting)
    });
    assert!(w.call(b"x").is_ok());
}
