//! The sequential store: what a replication group replicates.
//!
//! A [`Store`] is a deterministic machine. It holds tables, and, built from them, pools, queues and
//! counters; it holds timers, and procedures, which are the only code that touches any of these.
//! Its only inputs are the operations of the log and the times stamped on them.
//!
//! * [`application`]: the face a group sees
//! * [`op`]: operations and replies as bytes: the face a client sees
//! * [`Registry`] and [`Tx`]: the face a procedure sees: [`Table`], [`Counters`], [`Queues`],
//!   [`Pools`], timers
//! * [`builtin`]: procedures every store has
//! * [`settled`]: copies of tables for readers outside, of what is final alone
//!
//! ```
//! use stateplane_base::LogTime;
//! use stateplane_state::op::Operation;
//! use stateplane_state::{Application, Limits, Registry, Store, builtin::counter::Add};
//!
//! let mut store = Store::new(Registry::builtin(), Limits::default());
//! let take_two = Add { key: b"tickets", delta: 2, lowest: 0, highest: 3 };
//! let mut reply = Vec::new();
//! store.execute(LogTime::from_millis(1), &take_two.encode(), &mut reply);
//! assert_eq!(Add::decode_reply(&reply), Ok(2));
//! store.execute(LogTime::from_millis(2), &take_two.encode(), &mut reply);
//! assert!(Add::decode_reply(&reply).is_err(), "there are only three");
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod application;
pub mod builtin;
mod counter;
mod cut;
mod feed;
mod hash;
mod limits;
pub mod op;
mod pool;
mod queue;
mod refusal;
mod registry;
mod rows;
pub mod settled;
mod snapshot;
mod state;
mod store;
mod table;
mod timers;
mod tx;
mod waste;

pub use application::{Application, SnapshotError};
pub use counter::Counters;
pub use limits::Limits;
pub use op::ProcedureId;
pub use pool::{PoolTables, Pools};
pub use queue::Queues;
pub use refusal::Refusal;
pub use registry::{Handler, Procedure, RegisterError, Registry};
pub use snapshot::Incoming;
pub use store::{Store, StoreSummary, TableSummary, Tally};
pub use table::{Ordered, Record, Table, TableSpec, Unordered};
pub use timers::{TimerId, TimerKind};
pub use tx::{Spot, Tx};
