//! The cores of the store group and of leases under an exhaustive model checker (stateright).
//!
//! The same code as everywhere else; the checker decides which message is delivered and
//! which timer fires next, and tries every order within [`Bounds`]. Time stands still: a
//! timer that is set may fire at any moment. A message may be delivered at any later moment
//! or never, which covers delay, reordering and loss.
//!
//! What must hold is in [`history`]: the two invariants of the published TLA+ model of
//! NOPaxos (`Linearizability` and `SyncSafety`) and our own.
//!
//! * `app`: a state machine small enough to be part of a state
//! * `state`: nodes and messages in flight; `group`: what may happen next
//! * [`bounds`]: how much may happen; [`configs`]: the bounds that are checked
//! * [`report`]: runs one of them
//! * [`lease`]: the same for leases: holders and the store's rules, with clocks that pass
mod app;
pub mod bounds;
pub mod configs;
mod group;
pub mod history;
pub mod lease;
pub mod report;
mod state;

pub use bounds::Bounds;
pub use report::{Effort, Outcome, check};
pub use stateplane_group::Mutation;
