//! A state machine that remembers what it executed, and nothing else.
use stateplane_base::LogTime;
use stateplane_state::{Application, SnapshotError};

/// The operations executed so far, each one byte.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ledger(pub(crate) Vec<u8>);

impl Application for Ledger {
    type Incoming = Vec<u8>;

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

    // Small enough to be handed out at once, before anything else happens.
    fn begin_snapshot(&mut self) -> u64 {
        self.0.len() as u64
    }

    fn continue_snapshot(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.0);
        true
    }

    fn abandon_snapshot(&mut self) {}

    fn incoming(&self) -> Vec<u8> {
        Vec::new()
    }

    fn take(incoming: &mut Vec<u8>, piece: &[u8]) -> Result<(), SnapshotError> {
        incoming.extend_from_slice(piece);
        Ok(())
    }

    fn install(&mut self, incoming: Vec<u8>) -> Result<(), SnapshotError> {
        self.0 = incoming;
        Ok(())
    }

    fn tidy(&mut self, _: usize) -> bool {
        true
    }

    fn digest(&self) -> u64 {
        crate::state::fingerprint(&self.0)
    }
}
