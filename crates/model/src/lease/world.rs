//! What may happen next, and what it leads to.

use std::time::Duration;

use stateplane_base::{LogTime, Time};
use stateplane_lease::holder::{Effect, Reply, Request, RequestId};
use stateplane_lease::{HolderConfig, Partition, Terms};
use stateright::{Model, Property};

use super::bounds::Bounds;
use super::state::{Body, Budget, INVARIANTS, Node, Packet, State, Store, Value, life};
use crate::report::World;

const P: Partition = Partition(1);
/// A lease, a tick of the holders' clock, and a tick of the log's at its fastest: a quarter faster.
const LENGTH: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(4);
const FAST: Duration = Duration::from_millis(5);
const DRIFT_PPM: u32 = 250_000;

/// Two holders and a store within bounds.
#[derive(Clone)]
pub(super) struct Leases {
    bounds: Bounds,
    terms: Terms,
    config: HolderConfig,
}

/// Something that may happen.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Action {
    /// Time passes; the log's as fast as it may, or as the holders'.
    Tick {
        fast: bool,
    },
    /// The second holder wants the partition.
    Join,
    /// A holder does what is due.
    Timer(usize),
    /// The message at this place arrives.
    Deliver(usize),
    /// It arrives, and will again.
    Repeat(usize),
    /// A request counts as unanswered.
    Silence(usize, RequestId),
    /// A holder that may, writes or reads.
    Write(usize),
    Read(usize),
    /// It gives the partition up.
    GiveUp(usize),
    /// It loses its memory and begins anew.
    Crash(usize),
    /// The partition is to move to this holder.
    Migrate(usize),
}

impl Leases {
    pub(super) fn new(bounds: Bounds) -> Self {
        let terms = Terms::new(LENGTH);
        let mut config = HolderConfig::new(DRIFT_PPM);
        config.margin = Duration::ZERO;
        (config.retry, config.rest) = (Duration::from_millis(1), Duration::from_millis(1));
        let (terms, config) = match bounds.mutation {
            None => (terms, config),
            Some(rule) => (
                terms.breaking(rule).expect("built to break rules"),
                config.breaking(rule).expect("built to break rules"),
            ),
        };
        Self {
            bounds,
            terms,
            config,
        }
    }

    /// Lets a holder do something, and carries out what it wants.
    fn step(&self, state: &mut State, n: usize, act: impl FnOnce(&mut Node, Time)) {
        let clock = state.clock;
        act(&mut state.nodes[n], clock);
        state.nodes[n].core.check();
        while let Some(effect) = state.nodes[n].core.poll_effect() {
            let node = &mut state.nodes[n];
            match effect {
                Effect::Ask { id, request } => {
                    node.asks.insert(id);
                    let id = (n, node.core.life().incarnation, id);
                    let body = Body::Ask(request);
                    state.send(Packet { id, body });
                }
                Effect::Publish { epoch, until, .. } => node.published = (epoch, until),
                Effect::Release(output) => {
                    let needs = &state.outputs[output as usize];
                    if !state.store.value.starts_with(needs) {
                        let how = format!(
                            "holder {n} let out what follows {needs:?}, stored is {:?}",
                            state.store.value
                        );
                        state.fail("OutputCommit", how);
                    }
                }
                Effect::Granted { .. } | Effect::Lost { .. } | Effect::Discard(_) => {}
            }
        }
    }

    fn deliver(&self, state: &mut State, packet: &Packet) {
        let (n, incarnation, id) = packet.id;
        let alive = state.nodes[n].core.life().incarnation == incarnation;
        match &packet.body {
            Body::Ask(request) => {
                let life = life(n, incarnation.0);
                let answer = state.store.execute(&self.terms, state.log, life, request);
                match answer {
                    Err(how) => state.fail("NothingLost", how),
                    Ok((reply, value)) if alive && state.nodes[n].asks.contains(&id) => {
                        let (id, body) = (packet.id, Body::Answer(reply, value));
                        state.send(Packet { id, body });
                    }
                    Ok(_) => {}
                }
            }
            Body::Answer(reply, value) => self.answer(state, n, id, reply, value),
        }
    }

    fn answer(&self, state: &mut State, n: usize, id: RequestId, reply: &Reply, value: &Value) {
        if !state.nodes[n].asks.remove(&id) {
            return;
        }
        let lives = state.nodes[n].core.life().incarnation;
        state
            .net
            .retain(|p| p.id != (n, lives, id) || matches!(p.body, Body::Ask(_)));
        self.step(state, n, |node, now| {
            let held = node.core.epoch(P);
            node.core.on_reply(now, id, reply.clone());
            // A lease that is new to us comes with the newest state.
            if let (Reply::One(Ok(lent)), None, Some(epoch)) = (reply, held, node.core.epoch(P))
                && lent.epoch == epoch
                && epoch != node.epoch
            {
                node.copy.clone_from(value);
                node.epoch = epoch;
            }
        });
    }

    /// A holder uses its copy; the output must find in the store what it saw.
    fn touch(&self, state: &mut State, n: usize, writes: bool) {
        let copy = &mut state.nodes[n].copy;
        if !copy.starts_with(&state.store.value) {
            let how = format!(
                "holder {n} uses {copy:?}, but {:?} is stored",
                state.store.value
            );
            state.fail("FreshReads", how);
            return;
        }
        if writes {
            state.writes += 1;
            copy.push(state.writes);
        }
        let copy = copy.clone();
        let output = state.outputs.len() as u64;
        state.outputs.push(copy.clone());
        self.step(state, n, |node, now| {
            let used = match writes {
                true => node.core.write(now, P, copy, output).map(|_| ()),
                false => node.core.read(now, P, output),
            };
            used.expect("it is usable");
        });
    }

    /// Nobody shares what is owned, neither in a process nor in the fast path.
    fn audit(state: &mut State) {
        let now = state.clock;
        let using = |node: &&Node| node.core.usable(now, P).is_some();
        let passing = |node: &&Node| node.published.0 != 0 && now < node.published.1;
        if state.nodes.iter().filter(using).count() > 1 {
            state.fail("Exclusive", format!("both may use it at {now:?}"));
        }
        if state.nodes.iter().filter(passing).count() > 1 {
            state.fail("FastPath", format!("both let packets pass at {now:?}"));
        }
    }

    fn crash(&self, state: &mut State, n: usize) {
        let former = &state.nodes[n];
        let (lives, published) = (former.core.life().incarnation.0, former.published);
        state
            .net
            .retain(|p| p.id.0 != n || matches!(p.body, Body::Ask(_)));
        state.nodes[n] = Node::new(self.config, life(n, lives + 1), published);
        self.step(state, n, |node, now| {
            node.core.acquire(now, P);
        });
    }
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nobody = (0, Time::ZERO);
        let nodes = (0..2).map(|n| Node::new(self.config, life(n, 1), nobody));
        let mut state = State {
            clock: Time::from_millis(50),
            log: LogTime::from_millis(100),
            nodes: nodes.collect(),
            store: Store::default(),
            net: Vec::new(),
            outputs: Vec::new(),
            writes: 0,
            budget: Budget {
                left: self.bounds,
                joined: false,
            },
            broken: None,
        };
        self.step(&mut state, 0, |node, now| {
            node.core.acquire(now, P);
        });
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let left = &state.budget.left;
        if left.ticks > 0 {
            actions.push(Action::Tick { fast: true });
            if left.uneven {
                actions.push(Action::Tick { fast: false });
            }
        }
        if !state.budget.joined {
            actions.push(Action::Join);
        }
        for at in 0..state.net.len() {
            actions.push(Action::Deliver(at));
            if left.duplicates > 0 {
                actions.push(Action::Repeat(at));
            }
        }
        if left.migrations > 0 && state.store.grant.is_some() {
            actions.push(Action::Migrate(1));
        }
        for (n, node) in state.nodes.iter().enumerate() {
            if node.core.next_timer().is_some_and(|due| due <= state.clock) {
                actions.push(Action::Timer(n));
            }
            if left.silences > 0 {
                let asks = node.asks.iter();
                actions.extend(asks.map(|id| Action::Silence(n, *id)));
            }
            if left.crashes > 0 {
                actions.push(Action::Crash(n));
            }
            if node.core.usable(state.clock, P).is_none() {
                continue;
            }
            let uses = [
                (left.writes, Action::Write(n)),
                (left.reads, Action::Read(n)),
                (left.give_ups, Action::GiveUp(n)),
            ];
            let uses = uses.into_iter().filter(|(times, _)| *times > 0);
            actions.extend(uses.map(|(_, action)| action));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let left = &mut state.budget.left;
        match action {
            Action::Tick { fast } => {
                left.ticks -= 1;
                state.clock = state.clock + TICK;
                state.log = state.log + if fast { FAST } else { TICK };
            }
            Action::Join => {
                state.budget.joined = true;
                self.step(&mut state, 1, |node, now| {
                    node.core.acquire(now, P);
                });
            }
            Action::Timer(n) => self.step(&mut state, n, |node, now| node.core.on_timer(now)),
            Action::Deliver(at) => {
                let packet = state.net.remove(at);
                self.deliver(&mut state, &packet);
            }
            Action::Repeat(at) => {
                left.duplicates -= 1;
                let packet = state.net[at].clone();
                self.deliver(&mut state, &packet);
            }
            Action::Silence(n, id) => {
                left.silences -= 1;
                self.answer(&mut state, n, id, &Reply::Nothing, &Value::new());
            }
            Action::Write(n) => {
                left.writes -= 1;
                self.touch(&mut state, n, true);
            }
            Action::Read(n) => {
                left.reads -= 1;
                self.touch(&mut state, n, false);
            }
            Action::GiveUp(n) => {
                left.give_ups -= 1;
                self.step(&mut state, n, |node, now| node.core.give_up(now, P));
            }
            Action::Crash(n) => {
                left.crashes -= 1;
                self.crash(&mut state, n);
            }
            Action::Migrate(heir) => {
                left.migrations -= 1;
                let heir = life(heir, 1).instance;
                let grant = state.store.grant.as_mut()?;
                grant.migrate(&self.terms, state.log, heir, Duration::ZERO);
            }
        }
        Self::audit(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // Conditions are plain functions, so each name needs one of its own.
        macro_rules! invariants {
            ($($index:literal)*) => {
                vec![$(Property::always(INVARIANTS[$index], |_, s: &State| {
                    s.broken.as_ref().is_none_or(|(name, _)| *name != INVARIANTS[$index])
                }),)*]
            };
        }
        let mut properties = invariants!(0 1 2 3 4);
        properties.push(Property::sometimes("takes over", |_, s: &State| {
            s.nodes[1].core.usable(s.clock, P).is_some()
        }));
        properties
    }
}

impl World for Leases {
    const INVARIANTS: &'static [&'static str] = INVARIANTS;

    fn broken(state: &State) -> Option<(&'static str, String)> {
        state.broken.clone()
    }

    fn tell(&self, state: &State, action: &Action) -> String {
        let message = |at: usize| {
            let Packet {
                id: (n, life, id),
                body,
            } = &state.net[at];
            let who = format!("holder {n} (life {}), request {}", life.0, id.0);
            match body {
                Body::Ask(Request::Acquire(_)) => format!("{who} reaches the store: acquire"),
                Body::Ask(request) => format!("{who} reaches the store: {request:?}"),
                Body::Answer(reply, _) => format!("{who} is answered: {reply:?}"),
            }
        };
        match action {
            Action::Deliver(at) => message(*at),
            Action::Repeat(at) => format!("{}, and will again", message(*at)),
            other => format!("{other:?}"),
        }
    }
}
