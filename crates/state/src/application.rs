//! What a replication group replicates, and nothing about how it does so.

use alloc::vec::Vec;

use stateplane_base::LogTime;

/// Bytes of a snapshot that are taken in at once.
const PIECE: usize = 64 << 10;

/// A deterministic machine driven by the log.
///
/// Two machines of the same configuration that executed the same operations at the same times are
/// equal: same replies, same snapshot bytes, same digest.
pub trait Application {
    /// A snapshot on its way in.
    type Incoming;

    /// Executes one operation of the log and replaces `reply` by its result.
    ///
    /// Timers due at or before `at` fire first. Any bytes are a valid operation: those nobody
    /// understands are answered with a refusal.
    fn execute(&mut self, at: LogTime, op: &[u8], reply: &mut Vec<u8>);

    /// Answers an operation from the present state, whose time is that of the last one executed,
    /// and replaces `reply` by its result. One that would change anything is refused and changes
    /// nothing. `clock` is what the time is meanwhile: if a timer was due before it, the state is
    /// not what it should be, there is no answer and the answer is `false`.
    fn read(&mut self, clock: LogTime, op: &[u8], reply: &mut Vec<u8>) -> bool;

    /// The whole state as bytes, at once; equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// Begins a snapshot of the state as it is now; how many bytes it will have. Operations
    /// executed meanwhile are not in it. Only one is under way at a time: the former is abandoned.
    fn begin_snapshot(&mut self) -> u64;

    /// Goes on with it: deals with about `rows` rows and appends what is ready to `out`; true when
    /// that was the last of it. The bytes are those that [`Self::snapshot`] would have answered.
    fn continue_snapshot(&mut self, rows: usize, out: &mut Vec<u8>) -> bool;

    /// Does not go on with it.
    fn abandon_snapshot(&mut self);

    /// A snapshot on its way in, not taken in anything yet. What is taken in changes nothing.
    fn incoming(&self) -> Self::Incoming;

    /// Takes in its next bytes.
    fn take(incoming: &mut Self::Incoming, piece: &[u8]) -> Result<(), SnapshotError>;

    /// Replaces the whole state by that of a snapshot of which all was taken in. On an error
    /// nothing has changed.
    fn install(&mut self, incoming: Self::Incoming) -> Result<(), SnapshotError>;

    /// Replaces the whole state by that of a snapshot. On an error nothing has changed.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut incoming = self.incoming();
        for piece in bytes.chunks(PIECE) {
            Self::take(&mut incoming, piece)?;
        }
        self.install(incoming)
    }

    /// Frees about `rows` rows of what is no longer needed; true when nothing is left of it.
    fn tidy(&mut self, rows: usize) -> bool;

    /// A fingerprint of the whole state: equal for equal states, and different for different ones
    /// but for a chance of 2^-64. A cross-check between replicas, not a defence.
    fn digest(&self) -> u64;
}

/// Why a snapshot was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes do not begin as a snapshot does.
    #[error("not a snapshot of a store")]
    NotASnapshot,
    /// Written by a version of the format that this one cannot read.
    #[error("snapshot format {found} is not supported")]
    Version {
        /// The format the snapshot names.
        found: u16,
    },
    /// Its bytes are damaged.
    #[error("snapshot is truncated or damaged")]
    Damaged,
    /// Taken by a store with other tables or another configuration.
    #[error("snapshot was taken under another configuration")]
    OtherConfiguration,
    /// It holds more than this store may.
    #[error("snapshot exceeds the limits of this store")]
    TooLarge,
}
