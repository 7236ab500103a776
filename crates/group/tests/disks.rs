//! Replicas with disks: what they come back as, and what the group keeps.

mod common;

use common::{Node, World};
use proptest::prelude::*;
use proptest::sample::Index;
use stateplane_base::{Incarnation, ReplicaId, Time};
use stateplane_group::{
    Disk, Effect, GroupConfig, Mark, Memory, Persist, Protocol, Replica, Role, Unreadable,
};
use stateplane_wire::group::Body;

fn count(reply: &[u8]) -> u64 {
    u64::from_be_bytes(reply.try_into().expect("eight bytes"))
}

fn small(n: u8) -> GroupConfig {
    let mut config = GroupConfig::new(n);
    config.limits.retain = 12;
    config.limits.journal_bytes = 600;
    config
}

#[test]
fn a_group_that_loses_power_goes_on_where_it_was() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    let formation = w.replica(0).inspect().formation;
    for i in 0..20u8 {
        w.call(&[i]).unwrap();
    }
    for round in 0..3u8 {
        w.lose_power();
        let reply = w.call(&[100 + round]).map(|r| count(&r));
        assert_eq!(reply, Ok(21 + u64::from(round)), "nothing was lost");
        w.run(50);
        w.agree();
    }
    assert!(w.alive().all(|r| r.inspect().formation == formation));
    assert_eq!(w.mark(Mark::Formed), 0, "nobody formed it anew");
    assert!(w.mark(Mark::RecoveredFollower) > 0);
}

#[test]
fn a_group_whose_leader_orders_survives_a_power_loss_as_well() {
    let mut config = small(3);
    config.protocol = Protocol::Vr { batch: 8 };
    let mut w = World::ready_with_disks(config);
    for i in 0..30u8 {
        w.call(&[i]).unwrap();
    }
    w.lose_power();
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(31));
    w.run(50);
    w.agree();
}

#[test]
fn what_was_answered_outlives_a_power_loss_at_any_moment() {
    // The answer is on its way; nothing was synchronised yet.
    for extra in 0..8 {
        let mut w = World::ready_with_disks(small(3));
        for i in 0..30u8 {
            w.call(&[i]).unwrap();
        }
        w.run(extra);
        let reply = w.call(b"last").map(|r| count(&r));
        w.lose_power();
        assert_eq!(reply, Ok(31));
        assert_eq!(w.call(b"next").map(|r| count(&r)), Ok(32));
        w.run(50);
        w.agree();
    }
}

#[test]
fn a_follower_goes_on_in_its_view_and_a_leader_votes_for_the_next() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    w.call(b"a").unwrap();
    let leader = w.leader().unwrap();
    let (view, life) = {
        let status = w.replica(leader).inspect();
        (
            status.view,
            w.replica((leader + 1) % 3).inspect().incarnation,
        )
    };
    let follower = (leader + 1) % 3;
    w.kill(follower);
    w.call(b"b").unwrap();
    w.start_replica(follower);
    w.call(b"c").unwrap();
    w.run(50);
    let status = w.replica(follower).inspect();
    assert_eq!(
        (status.role, status.view, status.incarnation),
        (Role::Follower, view, life)
    );
    w.agree();

    w.kill(leader);
    w.start_replica(leader);
    w.run(100);
    let status = w.replica(leader).inspect();
    assert_eq!(
        status.role,
        Role::Follower,
        "a leader does not resume its view"
    );
    assert!(status.view > view);
    assert_eq!(w.replica(leader).marks().get(Mark::RecoveredLeader), 1);
    assert_eq!(w.call(b"d").map(|r| count(&r)), Ok(4));
}

#[test]
fn a_voter_does_not_go_below_the_view_it_promised() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    w.call(b"a").unwrap();
    let leader = w.leader().unwrap();
    let (voter, other) = ((leader + 2) % 3, (leader + 1) % 3);
    w.kill(leader);
    w.kill(other);
    w.run(100);
    let promised = w.replica(voter).inspect().view;
    w.kill(voter);
    w.start_replica(voter);
    let status = w.replica(voter).inspect();
    assert_eq!((status.role, status.view), (Role::Voting, promised));
    assert_eq!(w.replica(voter).marks().get(Mark::RecoveredVoter), 1);
    w.start_replica(other);
    assert_eq!(w.call(b"b").map(|r| count(&r)), Ok(2));
}

#[test]
fn checkpoints_bound_the_journal() {
    let mut w = World::ready_with_disks(small(3));
    for i in 0..200u8 {
        w.call(&[i; 20]).unwrap();
    }
    w.run(50);
    for (i, disk) in w.disks.iter().flatten().flatten().enumerate() {
        let bytes: usize = disk.records.iter().map(Vec::len).sum();
        let bound = disk.checkpoint.len().max(600) + 400;
        assert!(
            bytes <= bound,
            "replica {i}: {bytes} bytes after {}",
            disk.checkpoint.len()
        );
    }
    assert!(w.mark(Mark::Checkpointed) > 0);
    w.lose_power();
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(201));
}

/// A replica dies and comes back as another, for its disk was damaged.
fn lose_disk(w: &mut World, hurt: u8) {
    w.kill(hurt);
    let (me, life) = (ReplicaId(hurt), Incarnation(9_000));
    let blank = common::Journal::default();
    let replica = Replica::with_disk(w.config.clone(), me, life, Disk::Lost, blank);
    w.replicas[usize::from(hurt)] = Some(replica);
}

#[test]
fn a_replica_whose_disk_was_damaged_joins_without_a_vote() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    for i in 0..5u8 {
        w.call(&[i]).unwrap();
    }
    let leader = w.leader().unwrap();
    let hurt = (leader + 1) % 3;
    lose_disk(&mut w, hurt);
    w.run(200);
    let status = w.replica(hurt).inspect();
    assert_eq!((status.role, status.incarnation), (Role::Follower, 9_000));
    w.call(b"x").unwrap();
    w.run(50);
    w.agree();
    // What it joined with is on its disk.
    w.lose_power();
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(7));
}

#[test]
fn a_snapshot_from_a_peer_goes_to_disk_as_it_came() {
    let mut w = World::ready_with_disks(small(3));
    for i in 0..100u8 {
        w.call(&[i]).unwrap();
    }
    let hurt = (w.leader().unwrap() + 1) % 3;
    lose_disk(&mut w, hurt);
    w.run(200);
    let marks = w.replica(hurt).marks();
    assert!(marks.get(Mark::SnapshotInstalled) > 0);
    assert_eq!(
        marks.get(Mark::CheckpointTakenOver),
        marks.get(Mark::CheckpointUrgent),
        "the state is never encoded at once"
    );
    w.call(b"x").unwrap();
    w.run(50);
    w.lose_power();
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(102));
    w.run(50);
    w.agree();
}

#[test]
fn replicas_that_lost_their_disks_do_not_form_a_new_group() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    w.call(b"a").unwrap();
    for i in 0..3u8 {
        let blank = common::Journal::default();
        let life = Incarnation(9_000 + u64::from(i));
        let disk = if i == 1 { Disk::Lost } else { Disk::Blank };
        let replica = Replica::with_disk(w.config.clone(), ReplicaId(i), life, disk, blank);
        w.replicas[usize::from(i)] = Some(replica);
    }
    w.run(1000);
    assert!(w.alive().all(|r| r.inspect().role == Role::Booting));
}

#[test]
fn nothing_leaves_before_it_is_on_disk() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    let leader = w.leader().unwrap();
    let follower = (leader + 1) % 3;
    // Only the follower's disk decides: whatever it acknowledged is there.
    w.lose = Box::new(move |_, to, body| {
        to == Node::Replica((leader + 2) % 3) && !matches!(body, Body::Boot { .. })
    });
    for i in 0..10u8 {
        w.call(&[i]).unwrap();
        let memory = w.disks.as_ref().unwrap()[usize::from(follower)]
            .clone()
            .unwrap();
        let found = Replica::recover(
            w.config.clone(),
            ReplicaId(follower),
            &memory,
            common::Journal::default(),
            w.now,
        );
        let found = found.expect("what was written is read").inspect();
        assert_eq!(found.log_len, u64::from(i) + 1, "its reply was needed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Checks on disk keep such bytes away; should they pass, they do no harm.
    #[test]
    fn any_memory_is_read_or_refused(changes in proptest::collection::vec(any::<(Index, u8)>(), 1..4)) {
        let mut w = World::ready_with_disks(small(3));
        for i in 0..4u8 {
            w.call(&[i]).unwrap();
        }
        let memory = w.disks.as_ref().unwrap()[0].clone().unwrap();
        let mut parts = memory.records;
        parts.push(memory.checkpoint);
        for (at, byte) in changes {
            let total = parts.iter().map(Vec::len).sum();
            let mut at = at.index(total);
            for part in &mut parts {
                if at < part.len() {
                    part[at] = byte;
                    break;
                }
                at -= part.len();
            }
        }
        let checkpoint = parts.pop().unwrap();
        let memory = Memory { checkpoint, records: parts };
        let app = common::Journal::default();
        let found = Replica::recover(small(3), ReplicaId(0), &memory, app, Time::ZERO);
        let Ok(mut replica) = found else { return Ok(()) };
        let found = replica.inspect();
        prop_assert!(found.commit <= found.log_len && found.log_base <= found.executed);
        // What it then writes is read again.
        let mut memory = memory;
        while let Some(effect) = replica.poll_effect() {
            match effect {
                Effect::Persist(Persist::Record(bytes)) => memory.records.push(bytes),
                Effect::Persist(Persist::Checkpoint { bytes, .. }) => {
                    memory = Memory { checkpoint: bytes, records: Vec::new() };
                }
                _ => {}
            }
        }
        let app = common::Journal::default();
        let again = Replica::recover(small(3), ReplicaId(0), &memory, app, Time::ZERO);
        prop_assert_eq!(again.map(|r| r.inspect().log_len), Ok(found.log_len));
    }
}

#[test]
fn a_strange_memory_is_refused() {
    let mut w = World::ready_with_disks(GroupConfig::new(3));
    for i in 0..4u8 {
        w.call(&[i]).unwrap();
    }
    let memory = w.disks.as_ref().unwrap()[0].clone().unwrap();
    let recover = |n: u8, memory: &Memory| {
        let app = common::Journal::default();
        Replica::recover(GroupConfig::new(n), ReplicaId(0), memory, app, Time::ZERO)
            .map(|r| r.check())
    };
    assert_eq!(recover(3, &memory), Ok(()));
    let size = Unreadable::Size {
        found: 3,
        configured: 1,
    };
    assert_eq!(recover(1, &memory), Err(size));
    let mut hole = memory.clone();
    hole.records.remove(hole.records.len() - 3);
    assert!(recover(3, &hole).is_err(), "a slot is missing");
    let checkpoint = &memory.checkpoint;
    // Any beginning of any part: an error or a state, never a panic.
    for cut in 0..checkpoint.len() {
        hole.checkpoint.truncate(checkpoint.len() - 1 - cut);
        assert!(recover(3, &hole).is_err());
    }
}
