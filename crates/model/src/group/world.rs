//! What may happen next, for the checker and for people.

use stateright::{Model, Property};

use super::act::Input;
use super::{Action, Group};
use crate::bounds::{Bounds, Order};
use crate::history::INVARIANTS;
use crate::report::World;
use crate::state::{Core, Envelope, State};

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
