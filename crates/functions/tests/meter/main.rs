//! The meter over a store: what it counts, what it lets pass, and who may.

#![allow(dead_code, unreachable_pub, reason = "parts of one program")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
#[path = "../faulty/mod.rs"]
mod faulty;
mod rules;
mod world;
