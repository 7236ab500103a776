//! Flow keys, flow actions with their reference interpreter, and steering.
//!
//! * [`Protocol`], [`Endpoint`], [`FlowKey`]: who talks to whom
//! * [`FlowAction`], [`PortId`]: what happens to a flow's packets, with its interpreter
//! * [`fast`]: the fast path's tables and its reference
//! * [`steering`]: which instance a frame belongs to
#![no_std]
#![forbid(unsafe_code)]

mod action;
pub mod fast;
mod key;
pub mod steering;

pub use action::{FlowAction, PortId, Unfit};
pub use key::{Endpoint, FlowKey, Protocol};
