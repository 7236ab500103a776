//! Operations of operators, on the worker's way to the store.

use std::collections::BTreeMap;

use stateplane_functions::Ticket;
use tokio::sync::oneshot;

use crate::client::Missed;

/// What the store said, or why it said nothing.
pub type Outcome = Result<Vec<u8>, Missed>;

/// Tickets of errands; those of functions are far below.
const FIRST: u64 = 1 << 63;

/// Who waits for which answer. As many as the desk takes at once, since each is answered in time.
#[derive(Debug, Default)]
pub(super) struct Errands {
    begun: u64,
    waiting: BTreeMap<Ticket, oneshot::Sender<Outcome>>,
}

impl Errands {
    /// The ticket of one more.
    pub(super) fn begin(&mut self, answer: oneshot::Sender<Outcome>) -> Ticket {
        let ticket = Ticket(FIRST + self.begun);
        self.begun += 1;
        self.waiting.insert(ticket, answer);
        ticket
    }

    /// Whether the result is of an errand; then who asked has it.
    pub(super) fn end(&mut self, ticket: Ticket, result: &Outcome) -> bool {
        if let Some(answer) = self.waiting.remove(&ticket) {
            // Whoever asked may have gone.
            let _ = answer.send(result.clone());
        }
        ticket.0 >= FIRST
    }
}
