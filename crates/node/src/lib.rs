//! The daemon: configuration, roles, worker loops and the admin API.
//!
//! * [`config`]: one TOML file, identical on all nodes, strictly checked
//! * [`function`]: what a function's worker is given; [`worker`]: its loop
//! * [`client`]: the worker's store, embedded or a group over the network
//! * [`heartbeat`] and [`detect`]: telling and judging who lives
//! * [`channel`]: authenticated datagrams
//! * [`status`]: what the roles publish
#![forbid(unsafe_code)]

pub mod channel;
pub mod client;
pub mod config;
pub mod detect;
pub mod failure;
pub mod function;
pub mod heartbeat;
mod logclock;
pub mod status;
pub mod stop;
pub mod worker;

pub use failure::Failure;
pub use logclock::LogClock;
