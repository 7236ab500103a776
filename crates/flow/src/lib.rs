//! Flow keys, flow actions with their reference interpreter, and steering.
//!
//! * [`steering`]: which instance a frame belongs to
#![no_std]
#![forbid(unsafe_code)]

pub mod steering;
