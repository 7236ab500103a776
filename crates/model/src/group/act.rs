//! A core handles an input, with its driver where that does something of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use stateplane_base::LogTime;
use stateplane_group::{Effect, Message, Peer, Place, Sequencer};
use stateplane_wire::group::{Body, Ordered};
use stateplane_wire::oum::Groups;

use super::NOW;
use crate::state::Core;

/// What a core is told.
pub(super) enum Input {
    Message(Peer, Message),
    Timer(&'static str),
    Ask(u8),
}

/// Lets a core handle an input; answers what a client learned, or how an assertion failed.
pub(super) fn try_to_act(
    core: &mut Core,
    input: Input,
    effects: &mut Vec<Effect>,
) -> Result<Vec<Place>, String> {
    catch_unwind(AssertUnwindSafe(|| act(core, input, effects))).map_err(|panic| text(&*panic))
}

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
