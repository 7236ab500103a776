//! Directed scenarios of reconfiguration.

mod common;

use common::{Node, World};
use stateplane_base::{ReplicaId, Time};
use stateplane_group::{Alarm, Answer, Change, GroupConfig, Mark, Message, Mutation, Peer, Role};
use stateplane_wire::group::{Body, Hint};

fn count(reply: &[u8]) -> u64 {
    u64::from_be_bytes(reply.try_into().expect("eight bytes"))
}

fn replace(out: u8, into: u8) -> Change {
    Change {
        out: Some(out),
        into: Some(into),
    }
}

fn add(into: u8) -> Change {
    Change {
        out: None,
        into: Some(into),
    }
}

fn remove(out: u8) -> Change {
    Change {
        out: Some(out),
        into: None,
    }
}

/// A formed group of `n` with spare seats and some history.
fn ready(n: u8, spares: u8) -> World {
    with_history(GroupConfig::new(n).with_spares(spares))
}

fn with_history(config: GroupConfig) -> World {
    let mut w = World::ready_with(config);
    for i in 0..5u8 {
        w.call(&[i]).unwrap();
    }
    w.run(30);
    w
}

fn ask(w: &mut World, of: u8, change: Change) -> Answer {
    let before = w.answers.len();
    let now: Time = w.now;
    let replica = w.replicas[usize::from(of)].as_mut().expect("alive");
    replica.reconfigure(now, 7, change);
    w.run_until(50, |w| w.answers.len() > before);
    w.answers.last().expect("an answer").1
}

/// Asks whoever leads until the members are these, and have entered their view.
fn change(w: &mut World, change: Change, members: &[u8]) {
    for _ in 0..10 {
        let leader = w.leader().expect("a leader");
        ask(w, leader, change);
        w.run(100);
        if complete(w, members) {
            return;
        }
    }
    panic!(
        "{change} is not complete: {:?}",
        w.replica(members[0]).inspect()
    );
}

fn complete(w: &World, members: &[u8]) -> bool {
    entered(w, members, members)
}

/// Those who are here have entered a view of these members.
fn entered(w: &World, here: &[u8], members: &[u8]) -> bool {
    let set = members.iter().fold(0, |set, seat| set | 1 << seat);
    here.iter().all(|seat| {
        let replica = w.replica(*seat);
        let normal = matches!(replica.inspect().role, Role::Leader | Role::Follower);
        let now = replica.members();
        normal && now.seats() == set && !now.joint()
    })
}

fn agree(w: &World, members: &[u8]) {
    let journal = |seat: &u8| &w.replica(*seat).app().ops;
    let first = journal(&members[0]);
    assert!(members.iter().all(|seat| journal(seat) == first));
}

#[test]
fn a_spare_seat_stays_out_until_it_is_added() {
    let mut w = ready(3, 1);
    assert_eq!(w.replica(3).inspect().role, Role::Booting);
    change(&mut w, add(3), &[0, 1, 2, 3]);
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    w.run(30);
    agree(&w, &[0, 1, 2, 3]);
    // Four members: one may die, two may not.
    w.kill(w.leader().unwrap());
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(7));
    w.kill(w.leader().unwrap());
    assert!(w.call(b"z").is_err(), "two of four are no majority");
}

#[test]
fn a_dead_replica_is_replaced_and_the_group_survives_another_death() {
    let mut w = ready(3, 1);
    let leader = w.leader().unwrap();
    let dead = (leader + 1) % 3;
    w.kill(dead);
    let members: Vec<u8> = (0..4).filter(|seat| *seat != dead).collect();
    change(&mut w, replace(dead, 3), &members);
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    w.run(30);
    agree(&w, &members);
    w.kill(w.leader().unwrap());
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(7));
}

#[test]
fn a_leader_that_leaves_hands_over_and_forgets() {
    let mut w = ready(3, 1);
    let leader = w.leader().unwrap();
    assert_eq!(ask(&mut w, leader, replace(leader, 3)), Answer::HandsOver);
    w.run(50);
    let members: Vec<u8> = (0..4).filter(|seat| *seat != leader).collect();
    change(&mut w, replace(leader, 3), &members);
    w.run(50);
    assert_eq!(w.replica(leader).inspect().role, Role::Booting);
    assert!(w.alarms.contains(&Alarm::Dismissed));
    assert!(w.replica(leader).app().ops.is_empty());
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    // It may come back, as a new life.
    change(&mut w, add(leader), &[0, 1, 2, 3]);
    w.run(30);
    agree(&w, &[0, 1, 2, 3]);
}

#[test]
fn a_group_shrinks_to_one_and_grows_again() {
    let mut w = ready(3, 0);
    for (out, left) in [(2, &[0, 1][..]), (1, &[0][..])] {
        if w.leader() == Some(out) {
            let leader = w.leader().unwrap();
            ask(&mut w, leader, remove(out));
            w.run(50);
        }
        change(&mut w, remove(out), left);
        w.call(b"x").unwrap();
    }
    assert_eq!(ask(&mut w, 0, remove(0)), Answer::NoMajority);
    change(&mut w, add(2), &[0, 2]);
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(8));
    change(&mut w, add(1), &[0, 1, 2]);
    w.run(30);
    agree(&w, &[0, 1, 2]);
}

#[test]
fn impossible_changes_are_refused_with_the_reason() {
    let mut w = ready(3, 1);
    let leader = w.leader().unwrap();
    let follower = (leader + 1) % 3;
    assert_eq!(ask(&mut w, leader, Change::default()), Answer::Nothing);
    assert_eq!(ask(&mut w, leader, add(4)), Answer::UnknownSeat);
    assert_eq!(ask(&mut w, leader, add(follower)), Answer::AlreadyMember);
    assert_eq!(ask(&mut w, leader, remove(3)), Answer::NotAMember);
    assert_eq!(ask(&mut w, 3, add(3)), Answer::NotTheLeader);
    // A follower passes it on.
    assert_eq!(ask(&mut w, follower, remove(3)), Answer::NotAMember);
    w.kill(3);
    w.run(300);
    assert_eq!(ask(&mut w, leader, add(3)), Answer::NotHeard);
    w.kill(follower);
    w.run(120);
    let other = (leader + 2) % 3;
    assert_eq!(ask(&mut w, leader, remove(other)), Answer::NoMajority);
}

/// One that left and does not know it moves nobody, and is told.
#[test]
fn who_left_unawares_deposes_nobody() {
    let mut w = ready(3, 1);
    let leader = w.leader().unwrap();
    let away = (leader + 1) % 3;
    w.lose = Box::new(move |from, to, _| from == Node::Replica(away) || to == Node::Replica(away));
    w.run(2000);
    let members: Vec<u8> = (0..4).filter(|seat| *seat != away).collect();
    change(&mut w, replace(away, 3), &members);
    let view = w.replica(leader).inspect().view;
    assert_eq!(w.replica(away).inspect().role, Role::Voting);
    assert!(
        w.replica(away).inspect().view > view,
        "it has voted on and on"
    );
    w.lose = Box::new(|_, _, _| false);
    w.run(100);
    assert_eq!(w.replica(away).inspect().role, Role::Booting, "it knows");
    assert_eq!(w.replica(leader).inspect().view, view, "nobody followed it");
    assert!(w.mark(Mark::OutsiderRefused) > 0 && w.mark(Mark::Dismissed) > 0);
}

/// Between joint and final view nobody is answered, and the next leader completes it.
#[test]
fn a_change_half_way_is_completed_by_the_next_leader() {
    let mut w = ready(3, 1);
    let leader = w.leader().unwrap();
    let out = (leader + 1) % 3;
    // No one of the former members but the leader enters the joint view.
    w.lose = Box::new(move |from, to, body| {
        let start = matches!(body, Body::StartView(m) if m.members.joint());
        start && from == Node::Replica(leader) && to == Node::Replica(out)
    });
    w.hold = Box::new(move |from, _, body| {
        matches!(body, Body::SyncAck { .. }) && from != Node::Replica(leader)
    });
    assert_eq!(ask(&mut w, leader, replace(out, 3)), Answer::Accepted);
    w.run_until(100, |w| w.replica(leader).members().joint());
    let id = w.submit(b"x");
    w.run(10);
    assert!(!w.done.contains_key(&id), "a joint view answers nobody");
    // The leader dies; two of three former and two of three new members are left.
    w.kill(leader);
    w.lose = Box::new(|_, _, _| false);
    w.hold = Box::new(|_, _, _| false);
    let members: Vec<u8> = (0..4).filter(|s| *s != out).collect();
    let rest: Vec<u8> = members.iter().copied().filter(|s| *s != leader).collect();
    w.run_until(2000, |w| entered(w, &rest, &members));
    w.run_until(2000, |w| w.done.contains_key(&id));
    assert!(w.done[&id].is_ok());
    assert!(w.mark(Mark::ChangeEstablished) > 0);
}

/// The joint view has reached only who is to leave when its leader dies. To go on takes the
/// newcomer, which has entered nothing, and a member that knows of no change; that member is
/// who will lead, because it belongs to both memberships and views pass it by in neither.
#[test]
fn a_member_that_missed_a_change_counts_the_newcomer() {
    let mut w = ready(3, 1);
    let leader = w.leader().expect("a leader");
    let (missed, out) = ((leader + 1) % 3, (leader + 2) % 3);
    w.lose = Box::new(move |_, to, body| {
        matches!(body, Body::StartView(_)) && [missed, 3].map(Node::Replica).contains(&to)
    });
    assert_eq!(ask(&mut w, leader, replace(out, 3)), Answer::Accepted);
    w.run_until(100, |w| w.replica(out).members().joint());
    w.kill(leader);
    w.lose = Box::new(|_, _, _| false);
    assert!(!w.replica(missed).members().joint());
    let members: Vec<u8> = (0..4).filter(|s| *s != out).collect();
    w.run_until(2000, |w| entered(w, &[missed, 3], &members));
    assert_eq!(w.leader(), Some(missed));
    assert!(w.mark(Mark::NewcomerVoted) > 0);
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    w.run(100);
    agree(&w, &[missed, 3]);
}

#[test]
fn a_vote_from_afar_does_not_undo_a_change() {
    let mut w = ready(3, 2);
    let leader = w.leader().unwrap();
    let (asleep, out) = ((leader + 1) % 3, (leader + 2) % 3);
    // One former member sleeps through the change of another.
    let cut = Node::Replica(asleep);
    w.lose = Box::new(move |from, to, _| from == cut || to == cut);
    let members: Vec<u8> = (0..4).filter(|seat| *seat != out).collect();
    let awake: Vec<u8> = members.iter().copied().filter(|s| *s != asleep).collect();
    ask(&mut w, leader, replace(out, 3));
    w.run_until(500, |w| entered(w, &awake, &members));
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    // It wakes beside the one that left; the two were a majority once.
    let gone = [Node::Replica(leader), Node::Replica(3)];
    w.lose = Box::new(move |from, to, _| gone.contains(&from) || gone.contains(&to));
    w.run(500);
    let leads = |seat: u8| w.replica(seat).inspect().role == Role::Leader;
    assert!(!leads(asleep) && !leads(out), "no second group");
    w.lose = Box::new(|_, _, _| false);
    assert_eq!(w.call(b"y").map(|r| count(&r)), Ok(7));
    w.run(100);
    agree(&w, &members);
    let replica = w.replicas[usize::from(leader)].as_ref().expect("alive");
    assert!(replica.members().has(ReplicaId(3).0));
}

#[test]
fn a_newcomer_that_falls_silent_is_given_up() {
    let mut w = ready(3, 1);
    let leader = w.leader().expect("a leader");
    // It is heard, and never hears what it should learn.
    w.lose = Box::new(|_, to, _| to == Node::Replica(3));
    ask(&mut w, leader, add(3));
    w.run(5);
    w.kill(3);
    w.run(1_000);
    assert_eq!(w.mark(Mark::ChangeGivenUp), 1);
    assert!(complete(&w, &[0, 1, 2]));
    w.call(b"x").unwrap();
}

/// What a leader said before it admitted a newcomer comes late, when the newcomer's vote is
/// what the rest of the group depends on. The group, who leads it and who leaves.
fn a_newcomer_hears_an_old_dismissal(config: GroupConfig) -> (World, u8, u8) {
    let mut w = with_history(config);
    let leader = w.leader().expect("a leader");
    let out = (leader + 1) % 3;
    let before = w.replica(leader).inspect();
    w.lose = Box::new(|_, to, body| matches!(body, Body::StartView(_)) && to == Node::Replica(3));
    ask(&mut w, leader, replace(out, 3));
    w.run_until(100, |w| w.replica(3).inspect().role == Role::Voting);
    let hint = Message {
        formation: before.formation,
        body: Body::Hint(Hint {
            view: before.view,
            members: before.members,
            settled: true,
        }),
    };
    let newcomer = w.replicas[3].as_mut().expect("alive");
    newcomer.on_message(w.now, Peer::Replica(ReplicaId(leader)), hint);
    (w, leader, out)
}

#[test]
fn who_voted_before_it_was_in_a_view_is_not_dismissed_by_an_older_one() {
    let config = || GroupConfig::new(3).with_spares(1);
    let (mut w, leader, out) = a_newcomer_hears_an_old_dismissal(config());
    assert_eq!(w.replica(3).inspect().role, Role::Voting);
    w.kill(leader);
    w.lose = Box::new(|_, _, _| false);
    let members: Vec<u8> = (0..4).filter(|s| *s != out).collect();
    let rest: Vec<u8> = members.iter().copied().filter(|s| *s != leader).collect();
    w.run_until(2000, |w| entered(w, &rest, &members));
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    if let Some(broken) = config().breaking(Mutation::StaleDismissal) {
        let (w, ..) = a_newcomer_hears_an_old_dismissal(broken);
        assert_eq!(
            w.replica(3).inspect().role,
            Role::Booting,
            "the rule is needed"
        );
    }
}

/// An operation is answered that one follower misses. A newcomer replaces the other, without
/// the first, and the leader dies: what the group knows then is what the newcomer took over.
/// How many operations it knows.
fn what_a_newcomer_took_over(config: GroupConfig) -> u64 {
    let mut w = with_history(config);
    let leader = w.leader().expect("a leader");
    let (out, late) = ((leader + 1) % 3, (leader + 2) % 3);
    w.lose = Box::new(move |_, to, _| to == Node::Replica(late));
    assert_eq!(w.call(b"x").map(|r| count(&r)), Ok(6));
    let members: Vec<u8> = (0..4).filter(|seat| *seat != out).collect();
    ask(&mut w, leader, replace(out, 3));
    w.run_until(100, |w| w.replica(3).inspect().role == Role::Follower);
    // From now on it learns nothing more of what was before.
    w.lose = Box::new(move |_, to, body| {
        let old = matches!(body, Body::Entries(_) | Body::SnapshotChunk(_));
        to == Node::Replica(late) || to == Node::Replica(3) && old
    });
    w.run_until(100, |w| entered(w, &[leader, 3], &members));
    w.kill(leader);
    w.lose = Box::new(|_, _, _| false);
    count(&w.call(b"y").expect("a majority is alive")) - 1
}

#[test]
fn a_newcomer_has_the_state_before_it_counts() {
    let config = || GroupConfig::new(3).with_spares(1);
    assert_eq!(what_a_newcomer_took_over(config()), 6);
    if let Some(broken) = config().breaking(Mutation::NewcomerWithoutState) {
        assert!(what_a_newcomer_took_over(broken) < 6, "the rule is needed");
    }
}
