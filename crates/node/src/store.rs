//! The store every replica (and every embedded client) starts with: the
//! builtin procedures and those of the configured functions.

use stateplane_state::{Limits, Registry, Store};

use crate::config::Config;
use crate::failure::Failure;
use crate::sequencer::random;

/// A blank store. Two nodes with the same configuration build the same one;
/// only the placement in its hash tables, which nobody sees, is this node's own.
pub(crate) fn new(_config: &Config) -> Result<Store, Failure> {
    let registry = Registry::builtin();
    Ok(Store::with_seed(registry, Limits::default(), [random(), random()]))
}
