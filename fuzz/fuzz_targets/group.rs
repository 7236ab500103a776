//! A member of a store group that is alive hears whatever an authentic but broken peer may
//! say: none of the cores panics, and what each does about it stays bounded. (Replicas trust
//! each other's logs, so a peer that lies may lead them astray.)
//!
//! The input is a list of parts, see `parts.rs`: `who 1 | message`. The lowest two bits of
//! `who` say which core hears it, the next two who sent it; the fifth puts the group's own
//! formation into the message, the sixth lets a timer run first.
#![no_main]

#[path = "../parts.rs"]
mod parts;

use std::collections::VecDeque;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use stateplane_base::{ClientId, Incarnation, LogTime, ReplicaId, Time};
use stateplane_group::{Client, Effect, GroupConfig, Message, Peer, Replica, Sequencer};
use stateplane_state::{Limits, Registry, Store};
use stateplane_wire::group::{Address, Body, Ordered, VERSION};
use stateplane_wire::oum::Groups;

/// More effects than one message can be worth.
const MANY: usize = 20_000;

struct World {
    now: Time,
    replicas: Vec<Replica<Store>>,
    sequencer: Sequencer,
    client: Client,
}

impl World {
    /// Three replicas that have formed a group and granted a session, and a client that waits
    /// for an answer.
    fn formed() -> Self {
        let config = GroupConfig::new(3);
        let replica = |n: u8| {
            let store = Store::with_seed(Registry::builtin(), Limits::default(), [1, 2]);
            let life = Incarnation(1 + u64::from(n));
            Replica::new(config.clone(), ReplicaId(n), life, store)
        };
        let mut world = Self {
            now: Time::from_millis(1),
            replicas: (0..3).map(replica).collect(),
            sequencer: Sequencer::new(config.clone(), 0, 1_000),
            client: Client::new(config.clone(), ClientId(1), 1),
        };
        for _ in 0..200 {
            world.tick();
            if world.sequencer.inspect().session != 0 {
                break;
            }
        }
        assert_ne!(world.sequencer.inspect().session, 0, "the group forms");
        let op = stateplane_state::op::encode(stateplane_state::ProcedureId(7), b"x");
        world.client.submit(world.now, op).expect("it is idle");
        world
    }

    /// A millisecond passes; everything said in it is heard.
    fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        for node in 0..5 {
            self.fire(node);
        }
        let mut said = self.said();
        while let Some((from, to, message)) = said.pop_front() {
            self.hear(to, peer(from), message);
            said.extend(self.said());
        }
    }

    fn fire(&mut self, node: usize) {
        let now = self.now;
        match node {
            3 => self.sequencer.on_timer(now),
            4 => self.client.on_timer(now),
            n => self.replicas[n].on_timer(now),
        }
    }

    fn hear(&mut self, node: usize, from: Peer, message: Message) {
        let now = self.now;
        match (node, &message.body) {
            (3, Body::Request(_)) => {
                let stamped = self.sequencer.stamp(now, LogTime::ZERO, &Groups::one(0));
                let Some(stamp) = stamped else { return };
                let Body::Request(request) = message.body else {
                    return;
                };
                let ordered = Message {
                    formation: stamp.formation,
                    body: Body::Ordered(Ordered {
                        session: stamp.session,
                        time: stamp.time,
                        stamps: stamp.stamps,
                        request,
                    }),
                };
                for replica in &mut self.replicas {
                    replica.on_message(now, Peer::Sequencer(0), ordered.clone());
                }
            }
            (3, _) => self.sequencer.on_message(now, from, message),
            (4, _) => self.client.on_message(now, from, message),
            (n, _) => self.replicas[n].on_message(now, from, message),
        }
    }

    /// All that was said since: from whom, to whom.
    fn said(&mut self) -> VecDeque<(usize, usize, Message)> {
        let mut said = VecDeque::new();
        for from in 0..5 {
            for _ in 0..MANY {
                let effect = match from {
                    3 => self.sequencer.poll_effect(),
                    4 => self.client.poll_effect(),
                    n => self.replicas[n].poll_effect(),
                };
                let Some(effect) = effect else { break };
                let Effect::Send { to, msg } = effect else {
                    continue;
                };
                match to {
                    Peer::Replicas => {
                        let others = (0..3).filter(|n| *n != from);
                        said.extend(others.map(|n| (from, n, msg.clone())));
                    }
                    Peer::Replica(ReplicaId(n)) => said.push_back((from, usize::from(n), msg)),
                    Peer::Sequencer(_) => said.push_back((from, 3, msg)),
                    Peer::Client(..) => said.push_back((from, 4, msg)),
                }
            }
        }
        assert!(said.len() < MANY, "what a message leads to is bounded");
        said
    }
}

fn peer(node: usize) -> Peer {
    match node {
        3 => Peer::Sequencer(0),
        4 => Peer::Client(ClientId(1), Address::default()),
        n => Peer::Replica(ReplicaId(u8::try_from(n).expect("few"))),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut world = World::formed();
    let formation = world.replicas[0].inspect().formation;
    for part in parts::split(data).take(64) {
        let Some((&who, bytes)) = part.split_first() else {
            continue;
        };
        let (to, from) = (usize::from(who & 3), usize::from(who >> 2 & 3));
        // The client is the fifth; nobody hears himself.
        let to = if to == from { 4 } else { to };
        if who & 32 != 0 {
            world.now = world.now + Duration::from_millis(u64::from(who >> 6) * 20);
            world.fire(to);
        }
        let mut bytes = bytes.to_vec();
        if let Some(version) = bytes.get_mut(1) {
            *version = VERSION;
        }
        if let Ok(mut message) = Message::decode(&bytes) {
            if who & 16 != 0 {
                message.formation = formation;
            }
            world.hear(to, peer(from), message);
        }
        world.said();
    }
});
