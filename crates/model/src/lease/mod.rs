//! Leases under the checker: the real holders and the real rules of the store, for one partition.
//!
//! Messages are delivered in any order, late, twice or never; holders lose their memory and come
//! back as another life; the partition is moved; a holder's timers fire late or not at all, as when
//! its process is stopped. Clocks pass: with each tick the holders' by 4 ms and the log's by 4 or
//! 5, which is all of the drift that is allowed for.
//!
//! The state of the partition is the list of all writes ever made, and each write is that list and
//! one more. So a lost or overtaken write shows at once.

mod bounds;
mod state;
mod world;

use crate::report::{Effort, Outcome, explore};

pub use bounds::{Bounds, Named, hunts, narrow, wide};
pub use stateplane_lease::Mutation;

/// Tries every course within the bounds.
pub fn check(name: &str, bounds: &Bounds, effort: Effort) -> Outcome {
    explore(name, &world::Leases::new(*bounds), effort)
}
