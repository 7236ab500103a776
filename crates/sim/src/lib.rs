//! Deterministic simulation of a store group: the real cores in a virtual
//! world with faults, and checkers that know nothing of the protocol.
#![allow(dead_code)]
mod agenda;
mod chaos;
pub mod check;
mod clock;
mod dice;
mod network;
mod plan;
mod recorder;
mod report;
pub mod spec;
mod workload;
