//! What a node did, held against the history of all.

use stateplane_group::{Effect, ReplicaStatus, Role};
use stateplane_wire::group::Body;

use super::Group;
use crate::history::{History, Value, Vote};
use crate::state::Core;

impl Group {
    /// Looks at what a node did.
    pub(super) fn judge(
        &self,
        history: &mut History,
        node: u8,
        before: &Core,
        after: &Core,
        did: &[Effect],
    ) {
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
}

/// What a replica says of itself.
pub(super) fn status(core: &Core) -> Option<ReplicaStatus> {
    match core {
        Core::Replica(core) => Some(core.inspect()),
        _ => None,
    }
}
