//! Faults that public implementations of these protocols had, one test each, beside those
//! in `group.rs`: (there) a deposed leader that had executed ahead, two dead leaders in a
//! row, a restarted sequencer, votes of former lives; (here) the others.

mod common;

use common::{Node, World};
use stateplane_base::{ClientId, Time};
use stateplane_group::{Effect, GroupConfig, Mark, Message, Peer, Replica, Role};
use stateplane_wire::group::{Address, Batch, Body, Entry, Request, Summary};

/// A follower alone received more than the view that starts without it knows of. Its log is
/// cut exactly where the new view's ends: one entry more, and a hole is left at the end.
#[test]
fn a_log_is_cut_where_the_new_view_ends_and_not_one_entry_before() {
    let mut w = World::ready(5);
    for i in 0..3u8 {
        w.call(&[i]).unwrap();
    }
    w.run(30);
    let leader = w.leader().unwrap();
    let lucky = (leader + 4) % 5;
    // The others never get these, and the leader dies before it asks anybody.
    w.lose = Box::new(move |from, to, body| {
        let mine = to == Node::Replica(lucky) || from == Node::Replica(lucky);
        match body {
            Body::Ordered(_) => to != Node::Replica(lucky),
            Body::Tail { .. } => true,
            _ => mine && !matches!(to, Node::Client),
        }
    });
    for i in 10..13u8 {
        w.submit(&[i]);
        w.run(1);
    }
    let more = w.replica(lucky).inspect().log_len;
    assert!(more >= 6, "it alone has {more}");
    w.kill(leader);
    w.run_until(1_000, |w| w.leader().is_some_and(|now| now != leader));
    w.lose = Box::new(|_, _, _| false);
    w.run(3_000);
    assert!(w.replica(lucky).marks().get(Mark::StartViewTruncates) > 0);
    w.call(b"after").unwrap();
    w.run(50);
    w.agree();
}

/// A sync message that one follower does not get is made up for by the next one.
#[test]
fn a_lost_sync_message_does_no_harm() {
    for lost in 1..=3 {
        let mut w = World::ready(3);
        let leader = w.leader().unwrap();
        let deaf = Node::Replica((leader + 1) % 3);
        let mut left = lost;
        w.lose = Box::new(move |_, to, body| {
            let hit = to == deaf && matches!(body, Body::Heartbeat { .. }) && left > 0;
            left -= u32::from(hit);
            hit
        });
        for i in 0..5u8 {
            w.call(&[i]).unwrap();
        }
        w.run(60);
        assert_eq!(w.leader(), Some(leader));
        w.agree();
    }
}

/// A follower that restarts empty while clients ask as fast as they can catches up, and has
/// no say before.
#[test]
fn a_follower_restarted_empty_at_full_load_catches_up() {
    let mut config = GroupConfig::new(3);
    (config.limits.retain, config.limits.chunks) = (16, 2);
    let mut w = World::ready_with(config);
    let victim = (w.leader().unwrap() + 1) % 3;
    let ask = |w: &mut World| {
        for i in 0..20u8 {
            w.submit(&[i; 40]);
        }
    };
    for _ in 0..20 {
        ask(&mut w);
        w.run(1);
    }
    w.start_replica(victim);
    let mut voted_empty = false;
    for _ in 0..300 {
        ask(&mut w);
        w.run(1);
        let seen = w.replica(victim).inspect();
        voted_empty |= seen.role == Role::Voting && seen.log_len == 0;
    }
    let seen = w.replica(victim).inspect();
    assert!(!voted_empty && seen.role != Role::Booting, "{seen:?}");
    w.run(200);
    w.agree();
    assert!(w.replica(victim).inspect().executed > 0);
}

/// What a leader says of its no-ops stays bounded, however many there have been.
#[test]
fn the_list_of_gaps_does_not_grow() {
    let mut w = World::ready(3);
    let mut longest = 0;
    for round in 0..60u8 {
        // Nobody gets this one; it becomes a no-op and its retry is executed.
        let mut left = 3;
        w.lose = Box::new(move |_, _, body| {
            let hit = matches!(body, Body::Ordered(_)) && left > 0;
            left -= u32::from(hit);
            hit
        });
        w.call(&[round]).unwrap();
        w.run(20);
        let heartbeat = |summary| Message {
            formation: 0,
            body: Body::Heartbeat {
                view: 0,
                clock: stateplane_base::LogTime::ZERO,
                summary,
            },
        };
        let seen = w.replica(0).inspect();
        let noops = (seen.log_base + 1..=seen.log_len)
            .filter(|slot| w.replica(0).entry(*slot).is_some_and(Entry::is_noop));
        let noops = stateplane_wire::group::NoopSet::from_rising(noops);
        let mut bytes = Vec::new();
        heartbeat(Summary {
            commit: seen.commit,
            len: seen.log_len,
            known_from: seen.log_base,
            noops,
        })
        .encode(&mut bytes);
        longest = longest.max(bytes.len());
    }
    assert!(w.mark(Mark::GapNoop) >= 60);
    assert!(longest < 200, "{longest} bytes for sixty gaps");
    w.agree();
}

/// A request of a client, as it reaches a replica that orders.
fn ask(replica: &mut Replica<common::Journal>, now: Time, client: u64, id: u64) {
    let mut batch = Batch::default();
    assert!(batch.push(id, b"x"));
    let request = Request {
        client: ClientId(client),
        done_below: id,
        reply_to: Address::default(),
        batch,
    };
    let from = Peer::Client(ClientId(client), Address::default());
    let message = Message {
        formation: 0,
        body: Body::Request(request),
    };
    replica.on_message(now, from, message);
    while replica.poll_effect().is_some() {}
}

/// A full client table refuses a newcomer, until somebody has been idle for long enough.
#[test]
fn a_full_client_table_makes_room_for_the_idle_only() {
    let mut config = GroupConfig::new(1).vr(1);
    config.limits.clients = 1;
    let mut w = World::ready_with(config.clone());
    let replica = w.replicas[0].as_mut().unwrap();
    ask(replica, w.now, 1, 1);
    ask(replica, w.now, 2, 1);
    assert_eq!(
        replica.marks().get(Mark::TableRefused),
        2,
        "client, operation"
    );
    let later = w.now + config.limits.client_idle;
    ask(replica, later, 2, 1);
    assert_eq!(replica.marks().get(Mark::TableEvicted), 1);
    replica.check();
}

/// What belongs to another life of the group is answered with a hint and changes nothing.
#[test]
fn another_life_of_the_group_is_not_listened_to() {
    let mut w = World::ready(3);
    w.call(b"x").unwrap();
    let (now, leader) = (w.now, w.leader().unwrap());
    let follower = (leader + 1) % 3;
    let replica = w.replicas[usize::from(follower)].as_mut().unwrap();
    let before = replica.inspect();
    let body = Body::GapCommit {
        view: before.view,
        from: 1,
        to: 1,
    };
    let formation = before.formation + 1;
    let from = Peer::Replica(stateplane_base::ReplicaId(leader));
    replica.on_message(now, from, Message { formation, body });
    assert_eq!(replica.inspect(), before);
    assert_eq!(replica.marks().get(Mark::OtherFormation), 1);
    let hint = |e| matches!(e, Effect::Send { msg, .. } if matches!(msg.body, Body::Hint(_)));
    assert!(std::iter::from_fn(|| replica.poll_effect()).any(hint));
}
