//! The meter over a store: what it counts, what it lets pass, and who may.

#![allow(unreachable_pub, reason = "parts of one program")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod rules;
mod world;
