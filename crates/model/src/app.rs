//! A state machine that remembers what it executed, and nothing else.
use stateplane_base::LogTime;
use stateplane_state::{Application, SnapshotError};

/// The operations executed so far, each one byte.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ledger(pub(crate) Vec<u8>);

impl Application for Ledger {
    fn execute(&mut self, _: LogTime, op: &[u8], reply: &mut Vec<u8>) {
        self.0.extend_from_slice(op);
        reply.clear();
        reply.extend_from_slice(&self.0);
    }

    fn read(&mut self, _: LogTime, _: &[u8], reply: &mut Vec<u8>) -> bool {
        reply.clone_from(&self.0);
        true
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.0 = bytes.to_vec();
        Ok(())
    }

    fn digest(&self) -> u64 {
        crate::state::fingerprint(&self.0)
    }
}
