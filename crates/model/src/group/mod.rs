//! A group within bounds: what each thing that may happen leads to.
//!
//! * `act`: one core handles an input; `judge`: what it did, held against the history
//! * `world`: what may happen next

mod act;
mod judge;
mod world;

use std::sync::Arc;

use stateplane_base::{ClientId, Incarnation, ReplicaId, Time};
use stateplane_group::{
    Client, Effect, GroupConfig, Message, Peer, Replica, ReplicaStatus, Role, Sequencer,
};
use stateplane_wire::group::{Address, Batch, Body, Request};

use self::act::{Input, try_to_act};
use self::judge::status;
use crate::app::Ledger;
use crate::bounds::{Bounds, Order};
use crate::history::History;
use crate::state::{Budget, Core, Envelope, Hashed, State};

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
        let acted = try_to_act(&mut core, input, &mut effects);
        let mut history = state.history.value.clone();
        let answers = acted.unwrap_or_else(|panic| {
            history.fail("Assertions", panic);
            Vec::new()
        });
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
