//! Leases: any operations of `lease.*` at a store, and any answers to a holder. Nothing panics, and
//! a holder never uses what it was not granted.
//!
//! The input is a list of steps, one opcode byte each, see [`step`].
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use stateplane_base::{Incarnation, LogTime, Time};
use stateplane_lease::holder::{Effect, Reply, Request, RequestId};
use stateplane_lease::ops::{Acquire, List, Migrate, Operation, Release, Renew, Write};
use stateplane_lease::{Holder, HolderConfig, InstanceId, Life, Partition, Terms, procedures};
use stateplane_state::{Application, Limits, Registry, Store, op};

struct World {
    now: Time,
    store: Store,
    holder: Holder,
    asked: Vec<(RequestId, Request)>,
    /// What was granted, and until when at most: from the question, the whole length.
    granted: Option<Time>,
}

const LENGTH: Duration = Duration::from_secs(10);
const LIFE: Life = Life {
    instance: InstanceId(1),
    incarnation: Incarnation(1),
};
const P: Partition = Partition(1);

impl World {
    fn new() -> Self {
        let mut registry = Registry::builtin();
        procedures::register(&mut registry, Terms::new(LENGTH)).expect("names are free");
        Self {
            now: Time::from_millis(1_000),
            store: Store::new(registry, Limits::default()),
            holder: Holder::new(HolderConfig::default(), LIFE, 1),
            asked: Vec::new(),
            granted: None,
        }
    }

    /// Executes an operation whose arguments may be anything.
    fn execute(&mut self, op: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        let at = LogTime::from_nanos(self.now.as_nanos());
        self.store.execute(at, op, &mut reply);
        reply
    }

    fn collect(&mut self) {
        self.holder.check();
        while let Some(effect) = self.holder.poll_effect() {
            if let Effect::Ask { id, request } = effect {
                self.asked.push((id, request));
            }
        }
    }

    /// What the store says to a request, cut off after `keep` of 255 parts.
    fn answer(&mut self, request: &Request, keep: u8) -> Reply {
        let cut = |mut reply: Vec<u8>| {
            reply.truncate(reply.len() * usize::from(keep) / 255);
            reply
        };
        let instance = LIFE.instance;
        let reply = match request {
            Request::Acquire(partition) => {
                let (life, partition) = (LIFE, *partition);
                let reply = self.execute(&Acquire { life, partition }.encode());
                Acquire::decode_reply(&cut(reply))
                    .ok()
                    .map(|got| Reply::One(got.answer))
            }
            Request::Renew(holdings) => {
                let holdings = holdings.clone();
                let reply = self.execute(&Renew { instance, holdings }.encode());
                Renew::decode_reply(&cut(reply)).ok().map(Reply::Each)
            }
            Request::Release(holding) => {
                let holdings = vec![*holding];
                let reply = self.execute(&Release { instance, holdings }.encode());
                Release::decode_reply(&cut(reply))
                    .ok()
                    .map(|()| Reply::Released)
            }
            Request::Write {
                holding: (partition, epoch),
                sequence,
                state,
            } => {
                let owner = stateplane_lease::Owner {
                    instance,
                    epoch: *epoch,
                };
                let write = Write {
                    owner,
                    partition: *partition,
                    sequence: *sequence,
                    state,
                };
                let reply = self.execute(&write.encode());
                Write::decode_reply(&cut(reply)).ok().map(Reply::One)
            }
        };
        reply.unwrap_or(Reply::Nothing)
    }
}

/// One step: arguments for a procedure, an answer, time, or a wish.
fn step(world: &mut World, data: &mut &[u8]) {
    let Some((&opcode, rest)) = data.split_first() else {
        return;
    };
    let (&argument, rest) = rest.split_first().unwrap_or((&0, rest));
    *data = rest;
    match opcode % 8 {
        0 => {
            let ids = [
                Acquire::PROCEDURE,
                Renew::PROCEDURE,
                Release::PROCEDURE,
                Write::PROCEDURE,
                Migrate::PROCEDURE,
                List::PROCEDURE,
            ];
            let len = usize::from(argument).min(data.len());
            let (arguments, rest) = data.split_at(len);
            *data = rest;
            let id = ids[usize::from(opcode / 8) % ids.len()];
            let reply = world.execute(&op::encode(id, arguments));
            let _ = Acquire::decode_reply(&reply);
            let _ = Renew::decode_reply(&reply);
            let _ = Write::decode_reply(&reply);
            let _ = List::decode_reply(&reply);
            // The same bytes as an answer of a store that lies.
            let _ = Acquire::read(arguments);
            let _ = Renew::read(arguments);
            let _ = Write::read(arguments);
            let _ = List::read(arguments);
        }
        1 => {
            world.holder.acquire(world.now, P);
        }
        2 => world.holder.give_up(world.now, P),
        3 => {
            let _ = world
                .holder
                .write(world.now, P, vec![argument], argument.into());
        }
        4 => {
            let _ = world.holder.read(world.now, P, argument.into());
        }
        5 => world.now = world.now + Duration::from_millis(u64::from(argument) * 100),
        6 => world.holder.on_timer(world.now),
        _ if world.asked.is_empty() => {}
        _ => {
            let at = usize::from(argument) % world.asked.len();
            let (id, request) = world.asked.swap_remove(at);
            let keep = if opcode & 8 == 0 { 255 } else { argument };
            let reply = world.answer(&request, keep);
            world.holder.on_reply(world.now, id, reply);
            // The store lends for one length from now at most.
            world.granted = Some(world.now + LENGTH);
        }
    }
    world.collect();
    if let Some(held) = world.holder.usable(world.now, P) {
        assert!(world.granted.is_some_and(|until| held.until <= until));
        assert!(world.now < held.until);
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut world, mut data) = (World::new(), data);
    for _ in 0..128 {
        if data.is_empty() {
            break;
        }
        step(&mut world, &mut data);
    }
});
