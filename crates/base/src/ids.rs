//! Identities. Each is a number given by the configuration or drawn at start;
//! none is reused for another thing.

/// Index of a replica in its group's configured order, `0..n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaId(pub u8);

/// One life of one store client; drawn at random when the client starts, so
/// that a restarted client is never mistaken for its former self.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(pub u64);

/// One life of a process that may restart without its memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub u64);
