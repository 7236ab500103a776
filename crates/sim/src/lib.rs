//! Deterministic simulation of a store group: the real cores and codecs in a
//! virtual world with faults, and checkers that know nothing of the protocol.
//!
//! A seed decides everything: sizes, load, clocks, the fate of each datagram,
//! and which faults strike when. [`run`] runs many seeds and reports; a failed
//! one is shown message by message by [`trace`].
//!
//! * `dice`, `clock`, `agenda`, `layout`, `network`: chance, time, the future, links
//! * [`tape`], `shrink`: the choices of a run, and which of them a failure needs
//! * `plan`, `chaos`, `strikes`: what a seed stands for; faults
//! * `disk`, `disks`: what survives a crash of replicas that have disks
//! * `node`, `datagram`, `mail`, `clients`, `workload`, `store`: who takes part, and how
//! * `world`: the course of one run
//! * `recorder`, `watch`, `slots`, `standby`, [`check`], [`spec`]: what is right
//! * `samples`: some of what is said, as seeds for fuzzers
//!
//! What is checked: every core's own invariants after every step; one order
//! of execution, equal on all replicas up to their sync points; equal states
//! after equal histories; replies and real time against that order, which
//! proves linearizability; the same again by search, object by object, with
//! no help from the order; no answered operation lost, none executed twice,
//! no pool item handed out twice; and that a healed group answers everything
//! and agrees again within a stated time.
mod agenda;
mod chaos;
pub mod check;
mod clients;
mod clock;
mod datagram;
mod dice;
mod disk;
mod disks;
mod guard;
pub mod hunts;
mod layout;
mod mail;
mod network;
mod node;
mod plan;
mod recorder;
mod report;
mod run;
mod samples;
mod shared;
mod shrink;
mod slots;
pub mod spec;
mod standby;
pub mod store;
mod strikes;
pub mod tape;
mod watch;
mod workload;
mod world;

pub use plan::{Fault, Faults, Profile};
pub use report::{Failure, Report};
pub use run::{Options, Progress, run, trace, trace_with};
pub use samples::{Samples, samples};
pub use stateplane_group::Mutation;
pub use tape::Choices;
