//! What may happen next, and what it leads to.
use crate::app::Ledger;
use crate::bounds::{Bounds, Order};
use crate::history::{History, INVARIANTS, Value, Vote};
use crate::report::World;
use crate::state::{Budget, Core, Envelope, Hashed, State};
use stateplane_base::{ClientId, Incarnation, LogTime, ReplicaId, Time};
use stateplane_group::{
    Client, Effect, GroupConfig, Message, Peer, Place, Replica, ReplicaStatus, Role, Sequencer,
};
use stateplane_wire::group::{Address, Batch, Body, Ordered, Request};
use stateplane_wire::oum::Groups;
use stateright::{Model, Property};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Time stands still.
const NOW: Time = Time::ZERO;

/// A group within bounds.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) bounds: Bounds,
    config: GroupConfig,
}

/// Something that may happen.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Action {
    /// The message at this place is delivered.
    Deliver(usize),
    /// It is lost.
    Drop(usize),
    /// A node's timer fires, at this place in the bounds.
    Fire(u8, usize),
    /// The next operation is asked.
    Ask,
    /// The first operation is asked again.
    Repeat,
    /// The replica loses its memory and starts again.
    Crash(u8),
    /// The sequencer starts again.
    Restart,
}

/// What a core is told.
enum Input {
    Message(Peer, Message),
    Timer(&'static str),
    Ask(u8),
}

impl Group {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let config = GroupConfig::new(bounds.replicas);
        let config = match bounds.mutation {
            None => config,
            Some(rule) => config.breaking(rule).expect("built to break rules"),
        };
        Self { bounds, config }
    }

    fn sequencer(&self) -> u8 {
        self.bounds.replicas
    }

    /// The node of a client; with `clients` off it does not exist.
    fn client(&self) -> u8 {
        self.bounds.replicas + 1
    }

    fn replica(&self, number: u8, life: u64) -> Core {
        let (id, life) = (ReplicaId(number), Incarnation(life));
        let config = self.config.clone();
        Core::Replica(Box::new(Replica::new(config, id, life, Ledger::default())))
    }

    fn new_sequencer(&self, nonce: u64) -> Core {
        Core::Sequencer(Box::new(Sequencer::new(self.config.clone(), 0, nonce)))
    }

    fn peer(&self, node: u8) -> Peer {
        match node {
            _ if node < self.sequencer() => Peer::Replica(ReplicaId(node)),
            _ if node == self.sequencer() => Peer::Sequencer(0),
            _ => client_peer(1),
        }
    }

    /// All nodes started, the group formed and a session granted: where checking begins.
    fn formed(&self) -> State {
        let lives = 1..=u64::from(self.bounds.replicas);
        let replicas = (0..self.bounds.replicas).zip(lives);
        let mut nodes: Vec<_> = replicas.map(|(j, life)| self.replica(j, life)).collect();
        nodes.push(self.new_sequencer(1_000));
        if self.bounds.clients {
            let client = Client::new(self.config.clone(), ClientId(1), 1);
            nodes.push(Core::Client(Box::new(client)));
        }
        let timers = &self.bounds.timers;
        let mut state = State {
            nodes: nodes.into_iter().map(Hashed::new).collect(),
            net: Vec::new(),
            budget: Budget {
                asked: 0,
                repeats: self.bounds.repeats,
                drops: match self.bounds.order {
                    Order::Any => 0,
                    Order::Fifo { drops } => drops,
                },
                timers: timers.iter().map(|t| t.times).collect(),
                crashes: u8::from(self.bounds.crash.is_some()),
                restarts: self.bounds.restarts,
            },
            history: Hashed::new(History::default()),
        };
        for round in 0.. {
            assert!(round < 20, "the group forms within a few rounds");
            for node in 0..=self.sequencer() {
                for timer in ["boot", "heartbeat", "sequencer"] {
                    self.step(&mut state, node, Input::Timer(timer));
                    self.flush(&mut state);
                }
            }
            if self.settled(&state) {
                break;
            }
        }
        assert_eq!(state.history.value.broken, None, "the group forms");
        state.history = Hashed::new(History::default());
        state
    }

    /// Delivers everything that is in flight, oldest first.
    fn flush(&self, state: &mut State) {
        while !state.net.is_empty() {
            let envelope = state.net.remove(0);
            self.deliver(state, &envelope);
        }
    }

    fn settled(&self, state: &State) -> bool {
        let granted = match &state.nodes[usize::from(self.sequencer())].value {
            Core::Sequencer(core) => core.inspect().session != 0,
            _ => false,
        };
        let statuses: Vec<ReplicaStatus> = state
            .nodes
            .iter()
            .filter_map(|n| status(&n.value))
            .collect();
        let normal = |s: &ReplicaStatus| matches!(s.role, Role::Leader | Role::Follower);
        granted
            && statuses
                .iter()
                .all(|s| normal(s) && s.view == statuses[0].view)
    }

    fn deliver(&self, state: &mut State, envelope: &Envelope) -> bool {
        let message = envelope.message.value.clone();
        let input = Input::Message(self.peer(envelope.from), message);
        self.step(state, envelope.to, input)
    }

    /// Lets a node act; false if nothing came of it.
    fn step(&self, state: &mut State, node: u8, input: Input) -> bool {
        let index = usize::from(node);
        let before = Arc::clone(&state.nodes[index]);
        let mut core = before.value.clone();
        let mut effects = Vec::new();
        let acted = catch_unwind(AssertUnwindSafe(|| act(&mut core, input, &mut effects)));
        let mut history = state.history.value.clone();
        let answers = match acted {
            Ok(answers) => answers,
            Err(panic) => {
                history.fail("Assertions", text(&*panic));
                Vec::new()
            }
        };
        let after = Hashed::new(core);
        if after.hash() == before.hash() && effects.is_empty() && history.broken.is_none() {
            return false;
        }
        if history.broken.is_none() {
            self.judge(&mut history, node, &before.value, &after.value, &effects);
            for place in &answers {
                history.answer(place.formation, place.slot);
            }
        }
        state.nodes[index] = after;
        for effect in effects {
            if let Effect::Send { to, msg } = effect {
                self.send(state, node, to, msg);
            }
        }
        let history = Hashed::new(history);
        if history != state.history {
            state.history = history;
        }
        true
    }

    /// Puts a message on its way.
    fn send(&self, state: &mut State, from: u8, to: Peer, message: Message) {
        let message = Hashed::new(message);
        let mut put = |to| {
            if (self.bounds.lost)(from, to, &message.value.body) {
                return;
            }
            let envelope = Envelope {
                from,
                to,
                message: Arc::clone(&message),
            };
            let key = |e: &Envelope| (e.from, e.to, e.message.hash());
            let net = &mut state.net;
            match self.bounds.order {
                Order::Any => {
                    if let Err(place) = net.binary_search_by_key(&key(&envelope), key) {
                        net.insert(place, envelope);
                    }
                }
                Order::Fifo { .. } => {
                    let place = net.partition_point(|e| (e.from, e.to) <= (from, to));
                    net.insert(place, envelope);
                }
            }
        };
        match to {
            Peer::Replicas => (0..self.bounds.replicas)
                .filter(|j| *j != from)
                .for_each(put),
            Peer::Replica(ReplicaId(j)) => put(j),
            Peer::Sequencer(_) => put(self.sequencer()),
            Peer::Client(..) if self.bounds.clients => put(self.client()),
            Peer::Client(..) => {}
        }
    }

    /// Looks at what a node did.
    fn judge(&self, history: &mut History, node: u8, before: &Core, after: &Core, did: &[Effect]) {
        let (Core::Replica(core), Some(old), Some(new)) = (after, status(before), status(after))
        else {
            return;
        };
        let Core::Replica(former) = before else {
            return;
        };
        let value = |slot| core.entry(slot).map(Value::of);
        let quorum = usize::from(self.bounds.replicas) / 2 + 1;
        for effect in did {
            let Effect::Send { msg, .. } = effect else {
                continue;
            };
            let Body::Reply(reply) = &msg.body else {
                continue;
            };
            // What was replied was in the log then; it may be gone at the end of the step.
            let known = value(reply.slot).or_else(|| former.entry(reply.slot).map(Value::of));
            let Some(held) = known else { continue };
            let vote = Vote {
                formation: msg.formation,
                view: reply.view,
                slot: reply.slot,
                value: held,
            };
            let leads = new.role == Role::Leader && new.view == reply.view;
            // What a leader answers depends on all that it has before.
            let before = (1..reply.slot).filter_map(|slot| Some((slot, value(slot)?)));
            let prefix = leads.then(|| before.collect());
            history.reply(vote, node, prefix, quorum);
        }
        for slot in old.commit + 1..=new.commit {
            if let Some(value) = value(slot) {
                history.sync(new.formation, slot, value);
            }
        }
        if new.role == Role::Leader {
            let who = (node, new.incarnation);
            history.lead(new.formation, new.view, who, new.log_len, value);
        }
        let same = old.formation == new.formation && old.role != Role::Booting;
        if same && (new.view < old.view || new.commit < old.commit) {
            history.fail("Monotone", format!("from {old:?} to {new:?}"));
        }
        if new.executed <= new.commit {
            history.execute(&core.app().0);
        }
        let mut executed = core.app().0.clone();
        executed.sort_unstable();
        if executed.windows(2).any(|pair| pair[0] == pair[1]) {
            history.fail("AtMostOnce", format!("{:?} was executed", core.app().0));
        }
    }

    fn ask(&self, state: &mut State, op: u8) -> bool {
        if self.bounds.clients {
            return self.step(state, self.client(), Input::Ask(op));
        }
        let mut batch = Batch::default();
        assert!(batch.push(1, &[op]), "one byte fits");
        let request = Request {
            client: ClientId(u64::from(op) + 1),
            done_below: 1,
            reply_to: Address::default(),
            batch,
        };
        let message = Message {
            formation: 0,
            body: Body::Request(request),
        };
        let peer = client_peer(u64::from(op) + 1);
        self.step(state, self.sequencer(), Input::Message(peer, message))
    }

    /// A new life begins on a node.
    fn renew(state: &mut State, node: u8, core: Core) -> bool {
        state.nodes[usize::from(node)] = Hashed::new(core);
        true
    }
}

fn client_peer(id: u64) -> Peer {
    Peer::Client(ClientId(id), Address::default())
}

fn status(core: &Core) -> Option<ReplicaStatus> {
    match core {
        Core::Replica(core) => Some(core.inspect()),
        _ => None,
    }
}

/// Lets a core handle an input; answers what a client learned.
fn act(core: &mut Core, input: Input, effects: &mut Vec<Effect>) -> Vec<Place> {
    let mut answers = Vec::new();
    match core {
        Core::Replica(core) => {
            match input {
                Input::Message(from, message) => core.on_message(NOW, from, message),
                Input::Timer(name) => core.fire(NOW, name),
                Input::Ask(_) => {}
            }
            core.check();
            effects.extend(std::iter::from_fn(|| core.poll_effect()));
        }
        Core::Sequencer(core) => {
            match input {
                Input::Message(from, message) => sequence(core, from, message, effects),
                Input::Timer("sequencer") => core.fire(NOW),
                Input::Timer(_) | Input::Ask(_) => {}
            }
            core.check();
            effects.extend(std::iter::from_fn(|| core.poll_effect()));
        }
        Core::Client(core) => {
            match input {
                Input::Message(from, message) => core.on_message(NOW, from, message),
                Input::Timer("client") => core.fire(NOW),
                Input::Timer(_) => {}
                Input::Ask(op) => {
                    core.submit(NOW, vec![op]).expect("room for few operations");
                }
            }
            core.check();
            effects.extend(std::iter::from_fn(|| core.poll_effect()));
            let done = std::iter::from_fn(|| core.poll_done());
            answers.extend(done.filter_map(|(_, outcome)| Some(outcome.ok()?.place)));
        }
    }
    answers
}

/// A sequencer and its driver, which stamps requests as they lie and multicasts them.
fn sequence(core: &mut Sequencer, from: Peer, message: Message, effects: &mut Vec<Effect>) {
    let Body::Request(mut request) = message.body else {
        return core.on_message(NOW, from, message);
    };
    let stamp = core.stamp(NOW, LogTime::ZERO, &Groups::one(0));
    let (Some(stamp), Peer::Client(_, reply_to)) = (stamp, from) else {
        return;
    };
    request.reply_to = reply_to;
    let ordered = Ordered {
        session: stamp.session,
        time: stamp.time,
        stamps: stamp.stamps,
        request,
    };
    let msg = Message {
        formation: stamp.formation,
        body: Body::Ordered(ordered),
    };
    let to = Peer::Replicas;
    effects.push(Effect::Send { to, msg });
}

fn text(payload: &(dyn Any + Send)) -> String {
    let fixed = payload.downcast_ref::<&str>().map(ToString::to_string);
    fixed
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

impl Model for Group {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Until the group has formed nothing goes wrong.
        let bounds = Bounds {
            lost: |_, _, _| false,
            ..self.bounds.clone()
        };
        vec![Self::new(bounds).formed()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.history.value.broken.is_some() {
            return;
        }
        let fifo = self.bounds.order != Order::Any;
        for (i, envelope) in state.net.iter().enumerate() {
            let link = |e: &Envelope| (e.from, e.to);
            let behind = i > 0 && link(&state.net[i - 1]) == link(envelope);
            if fifo && behind {
                continue;
            }
            actions.push(Action::Deliver(i));
            if state.budget.drops > 0 {
                actions.push(Action::Drop(i));
            }
        }
        for (place, timer) in self.bounds.timers.iter().enumerate() {
            if state.budget.timers[place] == 0 {
                continue;
            }
            for (node, core) in (0..).zip(&state.nodes) {
                let here = timer.node.is_none_or(|only| only == node);
                let armed = match &core.value {
                    Core::Replica(core) => core.armed().any(|name| name == timer.name),
                    Core::Sequencer(_) => timer.name == "sequencer",
                    Core::Client(_) => timer.name == "client",
                };
                if here && armed {
                    actions.push(Action::Fire(node, place));
                }
            }
        }
        if state.budget.asked < self.bounds.ops {
            actions.push(Action::Ask);
        }
        if state.budget.repeats > 0 && state.budget.asked > 0 {
            actions.push(Action::Repeat);
        }
        if state.budget.crashes > 0 {
            actions.extend(self.bounds.crash.map(Action::Crash));
        }
        if state.budget.restarts > 0 {
            actions.push(Action::Restart);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let changed = match action {
            Action::Deliver(i) => {
                let envelope = state.net.remove(i);
                // Where order matters, what changes nothing is in the way all the same.
                self.deliver(&mut state, &envelope) || self.bounds.order != Order::Any
            }
            Action::Drop(i) => {
                state.budget.drops -= 1;
                state.net.remove(i);
                true
            }
            Action::Fire(node, place) => {
                state.budget.timers[place] -= 1;
                let name = self.bounds.timers[place].name;
                self.step(&mut state, node, Input::Timer(name))
            }
            Action::Ask => {
                state.budget.asked += 1;
                self.ask(&mut state, last.budget.asked)
            }
            Action::Repeat => {
                state.budget.repeats -= 1;
                self.ask(&mut state, 0)
            }
            Action::Crash(node) => {
                state.budget.crashes -= 1;
                let core = self.replica(node, 1_000 + u64::from(node));
                Self::renew(&mut state, node, core)
            }
            Action::Restart => {
                state.budget.restarts -= 1;
                let nonce = 2_000 + 1_000 * u64::from(last.budget.restarts);
                let core = self.new_sequencer(nonce);
                Self::renew(&mut state, self.sequencer(), core)
            }
        };
        changed.then_some(state)
    }

    fn format_action(&self, action: &Action) -> String {
        format!("{action:?}")
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // Conditions are plain functions, so each name needs one of its own.
        macro_rules! invariants {
            ($($index:literal)*) => {
                vec![$(Property::always(INVARIANTS[$index], |_, s: &State| {
                    s.history.value.broken.as_ref().is_none_or(|(name, _)| *name != INVARIANTS[$index])
                }),)*]
            };
        }
        let mut properties = invariants!(0 1 2 3 4 5 6 7 8);
        properties.push(Property::sometimes("commits", |_, s: &State| {
            s.history.value.committed_any()
        }));
        properties.push(Property::sometimes("changes view", |_, s: &State| {
            s.history.value.views() > 1
        }));
        properties
    }
}

impl World for Group {
    const INVARIANTS: &'static [&'static str] = INVARIANTS;

    fn broken(state: &State) -> Option<(&'static str, String)> {
        state.history.value.broken.clone()
    }

    fn tell(&self, state: &State, action: &Action) -> String {
        let name = |node: u8| match node {
            _ if node < self.sequencer() => format!("r{node}"),
            _ if node == self.sequencer() => "seq".to_owned(),
            _ => "client".to_owned(),
        };
        match action {
            Action::Deliver(i) | Action::Drop(i) => {
                let Envelope { from, to, message } = &state.net[*i];
                let lost = if matches!(action, Action::Drop(_)) {
                    " LOST"
                } else {
                    ""
                };
                format!(
                    "{} -> {}{lost} {:?}",
                    name(*from),
                    name(*to),
                    message.value.body
                )
            }
            Action::Fire(node, place) => {
                format!("{} timer {}", name(*node), self.bounds.timers[*place].name)
            }
            Action::Ask => format!("operation {} is asked", state.budget.asked),
            Action::Repeat => "operation 0 is asked again".to_owned(),
            Action::Crash(node) => format!("{} loses its memory", name(*node)),
            Action::Restart => "the sequencer starts again".to_owned(),
        }
    }
}
