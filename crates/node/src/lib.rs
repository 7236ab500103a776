//! The daemon: configuration, roles, worker loops and the admin API.
//!
//! * [`config`]: one TOML file, identical on all nodes, strictly checked
//! * [`mod@run`]: starts a node's roles, each on its own thread, and ends them
//! * roles: [`sequencer`], [`replica`], [`switch`], [`resp`], and [`function`], whose
//!   loop is [`worker`]
//! * [`regions`]: memory shared with other processes and machines
//! * [`client`]: the worker's store, embedded or a group over the network
//! * `turn`: the loop that sequencer, replica and switch share
//! * [`heartbeat`] and [`detect`]: telling and judging who lives
//! * [`channel`]: authenticated datagrams; [`peers`]: who is who in the group
//! * [`members`]: changes of the group's members
//! * [`status`] and [`admin`]: what the roles publish, and who may ask
#![forbid(unsafe_code)]

pub mod admin;
pub mod channel;
pub mod client;
pub mod config;
pub mod desk;
pub mod detect;
mod disk;
pub mod failure;
pub mod function;
mod heard;
pub mod heartbeat;
mod logclock;
pub mod members;
mod meter;
mod nat;
mod offload;
pub mod peers;
pub mod regions;
pub mod replica;
pub mod resp;
pub mod run;
pub mod sequencer;
pub mod status;
pub mod stop;
pub mod store;
pub mod switch;
mod turn;
pub mod worker;

pub use failure::Failure;
pub use logclock::LogClock;
pub use run::run;
pub use stop::Stop;
