//! Accounting of subscribers: packets and bytes of each, both ways, and how much of them may pass in
//! a period.
//!
//! The count that runs has one place: the instance that owns the subscriber's *partition*, under a
//! lease. It adds what has passed to the store's accounts once an interval, as writes that are numbered
//! within the lease's epoch: none is added twice, and a crash loses an interval at most.
//!
//! # Why an allowance is never exceeded
//!
//! 1. Whoever lets bytes pass has reserved them at the store before, where they were taken off the
//!    period's allowance in the same operation. So all that passes, anywhere, is less than what was
//!    taken off.
//! 2. What was reserved is spent in one process alone, and ends with its period, by a clock of which the
//!    drift was taken off.
//! 3. An owner gives back what it did not spend, in its last write, when nothing passes any more. Of an
//!    owner that died nobody knows what it spent after its last write: what it had reserved, a
//!    [`SLICES`](config::SLICES)th of the allowance or two, is lost to the subscriber until the next
//!    period. Giving that back after fencing would let through what the dead one let through.
//!
//! * [`config`]: who is counted, and who may how much; the same for store and instances
//! * [`ops`]: the operations instances and store exchange
//! * [`procedures`]: what the store's replicas execute
//! * [`instance`]: the network function

pub mod config;
pub mod instance;
pub mod ops;
pub mod procedures;

pub use config::{Allowance, MeterConfig, MeterStateConfig, Subnet};
pub use instance::{Meter44, MeterStatus};
