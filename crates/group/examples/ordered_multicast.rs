//! Ordered multicast without a replicated store: packets as they go over a network, a
//! sequencer that stamps them, and three receivers, each of which the network treats
//! differently. They deliver in one order and differ only in what was lost.
//!
//! `cargo run -p stateplane-group --example ordered_multicast`

use std::time::Duration;

use stateplane_base::{ClientId, LogTime, ReplicaId, Time};
use stateplane_group::oum::{Delivery, Receiver, SessionId, Stamped};
use stateplane_group::{GroupConfig, Message, Peer, Sequencer};
use stateplane_wire::envelope::Key;
use stateplane_wire::group::{Address, Batch, Body, Request};
use stateplane_wire::oum::{self, Groups, Keys};

const SESSION: SessionId = SessionId {
    formation: 1,
    session: 16,
};

fn main() {
    let keys = Keys::derive(&Key::new([7; 16]), 1);
    let mut sequencer = Sequencer::new(GroupConfig::new(3), 0, 0);
    // Whoever configures the group grants a session; in the store the replicas do.
    let grant = Body::SessionGrant {
        session: SESSION.session,
        nonce: 0,
        time: LogTime::ZERO,
        runs: false,
    };
    let formation = SESSION.formation;
    let message = Message {
        formation,
        body: grant,
    };
    sequencer.on_message(Time::ZERO, Peer::Replica(ReplicaId(0)), message);

    let words = ["order", "is", "made", "by", "the", "network"];
    let packets: Vec<Vec<u8>> = (1..)
        .zip(words)
        .map(|(n, word)| stamped(&mut sequencer, &keys, n, word))
        .collect();

    // One gets everything, one in another order and twice, one not all of it.
    let arrivals: [&[usize]; 3] = [&[0, 1, 2, 3, 4, 5], &[5, 1, 0, 1, 4, 2, 3, 2], &[0, 2, 4]];
    for (name, arrivals) in ["a", "b", "c"].iter().zip(arrivals) {
        let mut receiver = Receiver::new(Duration::from_millis(10), 1024);
        receiver.begin(SESSION, 0);
        for (ms, index) in (0..).zip(arrivals) {
            let now = Time::from_millis(ms);
            receiver.hear(now, opened(&keys, &packets[*index]));
            deliver(name, now, &mut receiver);
        }
        // The sequencer says how far it got, and time passes.
        for now in [20, 40].map(Time::from_millis) {
            receiver.tail(now, SESSION, packets.len() as u64);
            deliver(name, now, &mut receiver);
        }
    }
}

fn deliver(name: &str, now: Time, receiver: &mut Receiver<String>) {
    while let Some(delivery) = receiver.poll(now) {
        match delivery {
            Delivery::Message { number, message } => println!("{name}: {number} {message}"),
            Delivery::Dropped { from, to } => println!("{name}: {from}..={to} lost"),
            Delivery::SessionEnd(id) => println!("{name}: session {} ended", id.session),
        }
    }
}

/// A client's packet, after the sequencer has stamped it in place.
fn stamped(sequencer: &mut Sequencer, keys: &Keys, counter: u64, word: &str) -> Vec<u8> {
    let mut batch = Batch::default();
    assert!(batch.push(counter, word.as_bytes()), "a word is short");
    let request = Request {
        client: ClientId(5),
        done_below: 0,
        reply_to: Address::default(),
        batch,
    };
    let mut packet = Vec::new();
    oum::seal_request(keys, counter, Groups::one(0), &request, &mut packet);
    let asked = oum::open_request(keys, &packet).expect("it was sealed with this key");
    let stamp = sequencer.stamp(Time::ZERO, LogTime::ZERO, &asked.groups);
    let stamp = stamp.expect("it has a session");
    oum::stamp(keys, &stamp, &mut packet);
    packet
}

fn opened(keys: &Keys, packet: &[u8]) -> Stamped<String> {
    let (_, formation, m) = oum::open_ordered(keys, packet).expect("the sequencer stamped it");
    let (_, word) = m.request.batch.iter().next().expect("it has a word");
    Stamped {
        session: SessionId {
            formation,
            session: m.session,
        },
        number: m.stamps.sequence(0).expect("it is for this group"),
        message: String::from_utf8_lossy(word.bytes).into_owned(),
    }
}
