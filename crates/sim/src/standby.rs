//! The rule of standing by, seen from outside: a leader that hears the sequencer in force
//! does not give the session to another one.
use crate::node::Node;
use crate::world::World;
use core::time::Duration;
use stateplane_base::Time;
use stateplane_group::Role;
use stateplane_wire::group::{Body, Formation, Message, Session};

/// What a replica last heard of a sequencer in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    sequencer: u8,
    /// Of which session, in which life of the group.
    in_force: (Formation, Session),
    /// On the replica's own clock.
    at: Time,
}

/// A request that must be refused: who asked, and in which view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undue {
    sequencer: u8,
    view: u64,
    heard: Duration,
}

impl Node {
    /// A replica is about to hear a sequencer; answers the request if it is undue. (That a
    /// view begins counts as a sign of life, too, so a leader may refuse more than that.)
    pub(crate) fn about_to_hear(
        &mut self,
        now: u64,
        sequencer: u8,
        message: &Message,
        silence: Duration,
    ) -> Option<Undue> {
        let at = self.clock.local(now);
        match &message.body {
            Body::Ordered(m) => {
                let in_force = (message.formation, m.session);
                self.heard = Some(Heard {
                    sequencer,
                    in_force,
                    at,
                });
                None
            }
            Body::SessionRequest { .. } => {
                let (heard, status) = (self.heard?, self.inspect()?);
                let ago = at.since(heard.at);
                let undue = status.role == Role::Leader
                    && heard.in_force == (status.formation, status.session)
                    && heard.sequencer != sequencer
                    && ago < silence;
                undue.then_some(Undue {
                    sequencer,
                    view: status.view,
                    heard: ago,
                })
            }
            _ => None,
        }
    }
}

impl World<'_> {
    /// A replica has heard an undue request: it must not have acted on it.
    pub(crate) fn was_refused(&self, replica: usize, undue: Undue) -> Result<(), String> {
        let now = self.nodes[replica].status().map(|status| status.view);
        if now.is_none_or(|view| view <= undue.view) {
            return Ok(());
        }
        Err(format!(
            "stand-by: {} lets sequencer {} take over, and heard the one in force {} us ago",
            self.layout.name(replica),
            undue.sequencer,
            undue.heard.as_micros()
        ))
    }
}
