//! A meter and a NAT as one chain: what it does to packets, and what passes in front of it.

#![allow(dead_code, unreachable_pub, reason = "parts of one program")]

#[path = "../common/mod.rs"]
mod common;
mod entries;
mod faults;
#[path = "../faulty/mod.rs"]
mod faulty;
mod same;
mod waiting;
mod world;
