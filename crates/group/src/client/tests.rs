use super::*;
use alloc::vec;
use stateplane_wire::group::{OpResult, Outcome, ReadReply, Reply, ResultPart, Slot, Whole};

/// Replicas 0 (the leader) and 1 report `id` in `slot` of a group's life.
fn both_reply(client: &mut Client, formation: Formation, slot: Slot, id: u64) {
    for replica in [0, 1] {
        let results = OpResult {
            id,
            outcome: Outcome::Done {
                earlier: None,
                result: vec![7].into(),
            },
        };
        let reply = Reply {
            view: 0,
            session: 1,
            slot,
            replica,
            sequencer: 0,
            quorum: 2,
            client: client.id,
            results: (replica == 0).then_some(results).into_iter().collect(),
        };
        let msg = Message {
            formation,
            body: Body::Reply(reply),
        };
        client.on_message(Time::ZERO, Peer::Replica(ReplicaId(replica)), msg);
    }
}

#[test]
fn a_group_that_formed_anew_with_its_clock_behind_is_heard() {
    let mut client = Client::new(GroupConfig::new(3), ClientId(1), 0);
    let slots = client.config.limits.window * 3;
    for slot in 1..=slots {
        both_reply(&mut client, 1_000, slot, 0);
    }
    client.check();
    let id = client.submit(Time::ZERO, vec![1]).expect("room");
    both_reply(&mut client, 999, 1, id.0);
    let (done, outcome) = client.poll_done().expect("an outcome");
    let committed = outcome.expect("known");
    let place = Place {
        formation: 999,
        view: 0,
        slot: 1,
        read: false,
    };
    assert_eq!((done, committed.reply), (id, vec![7]));
    assert_eq!(committed.place, place);
    client.check();
}

/// What the client wants said.
fn said(client: &mut Client) -> Vec<Body> {
    let effects = core::iter::from_fn(|| client.poll_effect());
    let bodies = effects.filter_map(|effect| match effect {
        Effect::Send { msg, .. } => Some(msg.body),
        _ => None,
    });
    bodies.collect()
}

/// A read whose long answer is on its way is not asked for in another way as well: the log might
/// answer something else.
#[test]
fn a_read_has_one_answer() {
    let mut client = Client::new(GroupConfig::new(3), ClientId(1), 0);
    let id = client.submit_read(Time::ZERO, vec![1]).expect("room");
    let mut asked = said(&mut client).len();
    for _ in 0..2 {
        let due = client.next_timer().expect("it is asked again");
        client.on_timer(due);
        asked += said(&mut client).len();
    }
    assert_eq!(asked, 3, "no answer came in time");
    let now = Time::from_millis(50);
    let answer = vec![9; 2_000];
    let whole = Whole::of(&answer);
    let mut hear = |serial, replica, view, long: bool| {
        let earlier = None;
        let outcome = Outcome::Long { earlier, whole };
        let results = vec![OpResult { id: id.0, outcome }];
        let reply = ReadReply {
            view,
            session: 1,
            slot: 5,
            replica,
            quorum: 2,
            client: ClientId(1),
            serial,
            results: results.into_iter().filter(|_| long).collect(),
        };
        let msg = Message {
            formation: 1,
            body: Body::ReadReply(reply),
        };
        client.on_message(now, Peer::Replica(ReplicaId(replica)), msg);
    };
    hear(1, 0, 0, true);
    hear(1, 1, 0, false);
    // The other askings find replicas in three views.
    for serial in [2, 3] {
        (0..3).for_each(|n| hear(serial, n, 17 * u64::from(n), false));
    }
    assert!(matches!(&said(&mut client)[..], [Body::ResultRequest(_)]));
    for (offset, bytes) in (0..).step_by(1152).zip(answer.chunks(1152)) {
        let part = ResultPart {
            client: ClientId(1),
            id: id.0,
            slot: 5,
            whole,
            offset,
            bytes: bytes.to_vec(),
        };
        let msg = Message {
            formation: 1,
            body: Body::ResultPart(part),
        };
        client.on_message(now, Peer::Replica(ReplicaId(0)), msg);
    }
    let (done, outcome) = client.poll_done().expect("an outcome");
    let committed = outcome.expect("known");
    assert_eq!(
        (done, committed.reply, committed.place.read),
        (id, answer, true)
    );
    client.check();
}
