//! Checkers of what clients saw and what replicas did. They know nothing of
//! the protocol, so that they cannot share its mistakes.
pub mod audit;
mod fifo;
mod register;
pub mod wgl;

use crate::spec::{Action, Outcome};
use stateplane_base::Blob;

/// One operation as its client saw it. Times are true (virtual) nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What makes this operation unlike all others.
    pub tag: u64,
    /// What it asked for.
    pub action: Action,
    /// When the client asked.
    pub invoked: u64,
    /// When it learned what, if it ever did.
    pub ended: Option<Ended>,
    /// A read that took no slot: how many operations the state it saw had executed.
    pub read_at: Option<u64>,
}

/// How an operation ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// When.
    pub at: u64,
    /// The answer, or `None` if the client gave up not knowing.
    pub outcome: Option<Outcome>,
}

impl Record {
    /// When and what the client was answered, if it was.
    pub fn answer(&self) -> Option<(u64, Outcome)> {
        self.ended
            .and_then(|ended| ended.outcome.map(|outcome| (ended.at, outcome)))
    }
}

/// One operation as a replica executed it, in the order of execution.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// The tag of the operation.
    pub tag: u64,
    /// The log time at which it was executed, in nanoseconds.
    pub at: u64,
    /// The reply the store gave.
    pub reply: Blob<22>,
}
