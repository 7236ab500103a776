//! Holders, the store, and messages between them.

use std::collections::BTreeSet;

use stateplane_base::{Incarnation, LogTime, Time};
use stateplane_lease::holder::{Reply, Request, RequestId};
use stateplane_lease::ops::Lent;
use stateplane_lease::{Grant, Holder, HolderConfig, InstanceId, Life, Owner, Refused, Terms};

/// What a partition holds: the writes made, in their order.
pub(super) type Value = Vec<u8>;

/// What must hold.
pub(super) const INVARIANTS: &[&str] = &[
    "Exclusive",
    "FastPath",
    "FreshReads",
    "NothingLost",
    "OutputCommit",
];

/// One instance, in its present life.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Node {
    pub(super) core: Holder,
    /// Its copy of the partition, and the epoch in which it got it.
    pub(super) copy: Value,
    pub(super) epoch: u64,
    /// What the fast path was told last. It outlives the process.
    pub(super) published: (u32, Time),
    /// Requests without an answer.
    pub(super) asks: BTreeSet<RequestId>,
}

impl Node {
    pub(super) fn new(config: HolderConfig, life: Life, published: (u32, Time)) -> Self {
        Self {
            core: Holder::new(config, life, 0),
            copy: Value::new(),
            epoch: 0,
            published,
            asks: BTreeSet::new(),
        }
    }
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Body {
    Ask(Request),
    Answer(Reply, Value),
}

/// A message on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Packet {
    /// Whose request it is or answers, which life's, and which.
    pub(super) id: (usize, Incarnation, RequestId),
    pub(super) body: Body,
}

/// The store: one partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Store {
    pub(super) grant: Option<Grant>,
    epochs: u64,
    pub(super) value: Value,
}

impl Store {
    /// Executes a request. The error is a write that does not go on where the last one ended.
    pub(super) fn execute(
        &mut self,
        terms: &Terms,
        now: LogTime,
        life: Life,
        request: &Request,
    ) -> Result<(Reply, Value), String> {
        let owner = |epoch| Owner {
            instance: life.instance,
            epoch,
        };
        let one = |answer: Result<Grant, Refused>| Reply::One(answer.map(|g| Lent::of(&g, now)));
        Ok(match request {
            Request::Acquire(_) => {
                let last = &mut self.epochs;
                let epoch = || {
                    *last += 1;
                    Ok::<u64, Refused>(*last)
                };
                let answer = Grant::request(self.grant.as_ref(), terms, now, life, epoch);
                self.grant = answer.ok().or(self.grant);
                (one(answer), self.value.clone())
            }
            Request::Renew(holdings) => {
                let each = holdings.iter().map(|(_, epoch)| {
                    let grant = self.grant.as_mut().ok_or(Refused::Fenced)?;
                    grant.renew(terms, now, owner(*epoch))?;
                    Ok(Lent::of(grant, now))
                });
                (Reply::Each(each.collect()), Value::new())
            }
            Request::Release((_, epoch)) => {
                if let Some(grant) = &mut self.grant {
                    grant.release(owner(*epoch));
                }
                (Reply::Released, Value::new())
            }
            Request::Write {
                holding: (_, epoch),
                sequence,
                state,
            } => {
                let Some(grant) = &mut self.grant else {
                    return Ok((Reply::One(Err(Refused::Fenced)), Value::new()));
                };
                let mut after = *grant;
                let answer = after.write(terms, now, owner(*epoch), *sequence);
                if answer.is_ok() {
                    *grant = after;
                }
                if answer == Ok(stateplane_lease::grant::Write::Apply) {
                    let before = std::mem::replace(&mut self.value, state.clone());
                    if state.len() != before.len() + 1 || !state.starts_with(&before) {
                        return Err(format!("{state:?} is written over {before:?}"));
                    }
                }
                (one(answer.map(|_| after)), Value::new())
            }
        })
    }
}

/// What may still happen, see [`Bounds`](super::Bounds).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Budget {
    pub(super) left: super::Bounds,
    /// The second holder has begun.
    pub(super) joined: bool,
}

/// The world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    /// The holders' clock and the log's.
    pub(super) clock: Time,
    pub(super) log: LogTime,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    /// In the order of their requests.
    pub(super) net: Vec<Packet>,
    /// What each output must find in the store when it leaves.
    pub(super) outputs: Vec<Value>,
    /// Writes made; each is its number.
    pub(super) writes: u8,
    pub(super) budget: Budget,
    pub(super) broken: Option<(&'static str, String)>,
}

impl State {
    pub(super) fn fail(&mut self, invariant: &'static str, how: String) {
        self.broken.get_or_insert((invariant, how));
    }

    /// Puts a message on its way. One that is on it already is not put twice.
    pub(super) fn send(&mut self, packet: Packet) {
        if !self.net.contains(&packet) {
            let place = self.net.partition_point(|other| other.id <= packet.id);
            self.net.insert(place, packet);
        }
    }
}

/// A life of a node.
pub(super) fn life(node: usize, incarnation: u64) -> Life {
    Life {
        instance: InstanceId(node as u64 + 1),
        incarnation: Incarnation(incarnation),
    }
}
