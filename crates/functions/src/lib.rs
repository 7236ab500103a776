//! Network functions, the trait they implement and the runtime that parks packets on their state.
//!
//! * [`NetworkFunction`]: the author's trait; [`Context`]: what a decision can await
//! * [`Runtime`]: flow table, parking and commit modes of one function on one worker
//! * [`Chain`]: several of them, one behind the other; [`Driven`]: what a driver sees of either
//! * [`local`]: committed state on this machine, to be looked at before the store is asked
//! * NAT44 in [`nat`], accounting of subscribers in [`meter`]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod chain;
mod context;
mod counters;
mod driven;
mod function;
pub mod local;
pub mod meter;
pub mod nat;
mod runtime;
mod table;

pub use chain::Chain;
pub use context::{Allow, Context, Event, StateError, Tentative, Ticket};
pub use counters::Counters;
pub use driven::Driven;
pub use function::{
    Class, Deciding, Decision, Meter, NetworkFunction, Ownership, Shape, Token, key_mask,
};
pub use runtime::{
    CommitMode, Disposition, Effect, FrameId, Glance, Parked, PortConfig, Runtime, RuntimeConfig,
    Session, Sight,
};
