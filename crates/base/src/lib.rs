//! Words every part of Stateplane shares.
//!
//! * [`Time`] and [`LogTime`]: the two clocks, kept apart by type
//! * [`ids`]: who is who: nodes, replicas, clients, instances, incarnations
//! * [`Blob`]: short byte strings; [`Ring`]: a map for keys that rise
//! * [`mutations!`]: names for the rules that tests break
//! * [`reason`]: why a packet did not pass
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod blob;
pub mod ids;
mod mutations;
pub mod reason;
mod ring;
mod time;

pub use blob::Blob;
pub use ids::{ClientId, Incarnation, ReplicaId};
pub use reason::Reason;
pub use ring::Ring;
pub use time::{LogTime, Time};
