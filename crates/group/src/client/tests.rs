use super::*;
use alloc::vec;
use stateplane_wire::group::{OpResult, Outcome, Reply, Slot};

/// Replicas 0 (the leader) and 1 report `id` in `slot` of a group's life.
fn both_reply(client: &mut Client, formation: Formation, slot: Slot, id: u64) {
    for replica in [0, 1] {
        let results = vec![OpResult {
            id,
            outcome: Outcome::Done {
                earlier: None,
                result: vec![7],
            },
        }];
        let reply = Reply {
            view: 0,
            session: 1,
            slot,
            replica,
            sequencer: 0,
            quorum: 2,
            client: client.id,
            results: if replica == 0 { results } else { vec![] },
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
