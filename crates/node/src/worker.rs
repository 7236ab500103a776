//! The function's packet loop.

use crate::failure::Failure;
use crate::function::WorkerSetup;

/// Serves packets until asked to stop.
pub fn run(setup: WorkerSetup) -> Result<(), Failure> {
    Err(Failure::missing(
        format!("{}: this build has no packet loop", setup.node),
        "",
    ))
}
