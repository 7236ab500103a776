//! Network functions, the trait they implement and the runtime that parks packets on their state.
//!
//! * [`nat`]: NAT44
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod nat;
