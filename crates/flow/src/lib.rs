//! Flow keys, flow actions with their reference interpreter, and steering.
//!
//! * [`Protocol`], [`Endpoint`], [`FlowKey`]: who talks to whom
//! * [`steering`]: which instance a frame belongs to
#![no_std]
#![forbid(unsafe_code)]

mod key;
pub mod steering;

pub use key::{Endpoint, FlowKey, Protocol};
