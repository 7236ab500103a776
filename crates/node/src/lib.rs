//! The daemon: configuration, roles, worker loops and the admin API.
//!
//! * [`config`]: one TOML file, identical on all nodes, strictly checked
#![forbid(unsafe_code)]

pub mod config;
