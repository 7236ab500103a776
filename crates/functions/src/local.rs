//! Committed state that lies on this machine: to be looked at before the store is asked.
//!
//! What is found there was true at a log time that it names. It is never newer than the store's
//! answer would be, so whoever uses it must know that he may: because what he looks up cannot
//! change while it lives, and because of what he does about its age.

use stateplane_base::LogTime;
use stateplane_state::settled::TableName;

/// A row, as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalRow {
    /// Bytes of its value.
    pub len: usize,
    /// The log time of the last operation that it may be the outcome of: all operations up to
    /// then, and no later one, have had their effect on it, and are final.
    pub at: LogTime,
}

/// Tables of the store on this machine.
pub trait LocalTables {
    /// Looks a row up and copies its value, as far as there is room. None: it is not there, or
    /// nothing is known; only the store can tell.
    fn get(&self, table: TableName, key: &[u8], value: &mut [u8]) -> Option<LocalRow>;
}
