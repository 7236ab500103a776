//! Leases: who may use a part of the state now, and until when.
//!
//! RedPlane's idea (Kim et al., SIGCOMM '21): one instance at a time owns a *partition* of the state,
//! reads it without asking, and lets a packet out only when what the packet depends on is stored.
//! One lease covers all flows of a partition, and one request renews all leases of an instance.
//!
//! * [`holder`]: the instance's side, a core without I/O
//! * [`grant`]: the store's side, for one partition: deterministic, in the log's time
//! * [`Grants`]: the same in a table of the store, for procedures of any function
//! * [`ops`] and [`procedures`]: `lease.*`, operations that every store can offer
//!
//! # Why no two instances use a partition at once
//!
//! 1. The holder counts from when it *sent* the request. The store grants later, so the holder's
//!    lease begins, and ends, before the store's.
//! 2. The store lends a partition again only when the lease has ended by the log's time, or when its
//!    owner has given it up, which an owner says only after it has stopped using it.
//! 3. The two clocks may go at different rates. The holder uses `1 / (1 + drift)` of what it got, less
//!    a margin for clocks that advance in steps.
//! 4. The holder looks at its clock at each use. A process that was stopped for a minute
//!    finds its lease over before it touches anything.
//!
//! # Why no write is lost or overtaken
//!
//! 1. Every grant has an epoch of its own, above all before it; another life of the same instance
//!    gets another. A renewal or write that names another than the present owner and epoch is
//!    refused ([`Mutation::NoFence`] and [`Mutation::NoEpochFence`] show what happens else).
//! 2. Writes are ordered by (epoch, sequence). Sequences begin anew in each epoch, so a new owner is
//!    never mistaken for a late former one.
//! 3. Within an epoch the store applies the next sequence alone. One that was applied is answered
//!    again, one that is early is sent back.
//! 4. A packet that depends on a write, or on a read behind it, waits for the store's answer.
//!
//! The crate `model` tries every course within bounds, and each of these rules removed.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod grant;
mod grants;
pub mod holder;
mod mutation;
pub mod ops;
pub mod procedures;
mod words;

pub use grant::{Grant, Refused, Terms};
pub use grants::{GrantError, Grants};
pub use holder::{Holder, HolderConfig, OnExpiry};
pub use mutation::Mutation;
pub use words::{InstanceId, Life, Owner, Partition};
