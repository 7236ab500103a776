//! NAT44: endpoint-independent mapping and filtering over a replicated store.
//!
//! * [`ops`]: the operations instances and store exchange

pub mod ops;
