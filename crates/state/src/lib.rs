//! The sequential store: what a replication group replicates.
//!
//! A [`Store`] is a deterministic machine. It holds tables, and, built from them, pools, queues and
//! counters; it holds timers, and procedures, which are the only code that touches any of these.
//! Its only inputs are the operations of the log and the times stamped on them.
//!
//! * [`application`]: the face a group sees
//! * [`op`]: operations and replies as bytes: the face a client sees
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod application;
pub mod op;
mod refusal;

pub use application::{Application, SnapshotError};
pub use op::ProcedureId;
pub use refusal::Refusal;
