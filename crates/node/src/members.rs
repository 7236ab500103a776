//! Changes of a group's members, from the admin API to a replica's loop and back.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde::Serialize;
use stateplane_base::Time;
use stateplane_group::{Answer, Change, ReplicaStatus};
use stateplane_state::Store;
use tokio::sync::oneshot;

use crate::desk;

/// An answer of the leader takes a few milliseconds, or was lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// A change that an operator wants.
pub type Wish = desk::Wish<Change, Answer>;
/// Where changes are asked for.
pub type Desk = desk::Desk<Change, Answer>;

/// A desk, and the replica's end of it.
pub fn desk() -> (Desk, Receiver<Wish>) {
    Desk::new(PATIENCE)
}

/// The replica's end: wishes in, and who waits for which answer.
#[derive(Debug)]
pub struct Wishes {
    inbox: Receiver<Wish>,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    ticket: u64,
}

impl Wishes {
    /// Nobody waits yet.
    pub fn new(inbox: Receiver<Wish>) -> Self {
        Self {
            inbox,
            waiting: BTreeMap::new(),
            ticket: 0,
        }
    }

    /// Hands what was wished to the replica.
    pub fn grant(&mut self, now: Time, core: &mut stateplane_group::Replica<Store>) {
        while let Ok(wish) = self.inbox.try_recv() {
            // Who asked and went away is not waited for.
            self.waiting.retain(|_, answer| !answer.is_closed());
            self.ticket += 1;
            self.waiting.insert(self.ticket, wish.answer);
            core.reconfigure(now, self.ticket, wish.wanted);
        }
    }

    /// Somebody's answer has come.
    pub fn answered(&mut self, ticket: u64, answer: Answer) {
        if let Some(asker) = self.waiting.remove(&ticket) {
            // It may have given up.
            let _ = asker.send(answer);
        }
    }
}

/// What a replica publishes of the group's membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MembersStatus {
    /// The seats of the members, as of the newest view this replica was in or told of.
    pub now: Vec<u8>,
    /// While a change is under way: the seats before it.
    pub former: Vec<u8>,
    /// The members that have entered the view (leader only).
    pub present: Vec<u8>,
    /// A change the leader has taken on and not begun.
    pub pending: Option<String>,
}

impl MembersStatus {
    /// As the core tells it.
    pub fn of(core: &ReplicaStatus) -> Self {
        let list = |set: u16| (0..16).filter(|j| set & 1 << j != 0).collect();
        Self {
            now: list(core.members.seats()),
            former: list(core.members.former()),
            present: list(core.present),
            pending: core.changing.map(|change| change.to_string()),
        }
    }
}
