//! NAT44: endpoint-independent mapping and filtering over a replicated store.
//!
//! * [`instance`]: the network function: what an instance does with packets
//! * [`ops`]: the operations instances and store exchange
//! * [`procedures`]: what the store's replicas execute

pub mod instance;
pub mod ops;
pub mod procedures;

pub use instance::config::{CACHE_LEASE, NatConfig, Pool, Prefix};
pub use instance::{LocalTally, Nat44, NatStatus, Problem};
