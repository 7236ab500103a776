//! The store group: network-ordered operations and replicas that execute them.
//!
//! NOPaxos (Li et al., OSDI 2016) as three sans-IO cores:
//! * [`Sequencer`]: stamps each request with a number and a time and sends it
//!   to every replica (ordered unreliable multicast, section 4 of the paper)
//! * [`Replica`]: keeps the log, agrees on gaps, changes views, executes
//! * [`Client`]: many outstanding operations, commit by matching replies
//!
//! and the ordered multicast's receiver as a library of its own, [`oum`].
//!
//! A driver feeds messages and the time in, and takes [`Effect`]s out. No core
//! looks at a clock, draws a random number or blocks; none grows beyond its
//! [`Limits`].
//!
//! What differs from the paper, and why:
//! * **Views are numbered by one counter** whose lowest bits name the leader; the rest
//!   of what a view means (session, membership) is decided by its leader when it starts.
//!   The paper's pair (leader number, session number) becomes a function of that counter,
//!   so that "the same view" implies the same session and the same members.
//! * **Sessions are granted by the replicas** to a sequencer's nonce through a view
//!   change, and named after the view; none is ever used twice.
//! * **Replicas need no disk.** One that restarts without has forgotten its promises,
//!   so it joins by a view change that it has no vote in and that replaces its
//!   incarnation; messages of its former life then count for nothing. One that has a
//!   disk ([`Effect::Persist`]) comes back as who it was.
//! * **Followers execute at sync points** only, so only a deposed leader can have
//!   executed what did not survive; a snapshot from a peer sets it right.
//! * **Operations and results may be longer than a datagram.** Pieces of an operation take slots
//!   like operations, and the slot of the last one executes the whole (`replica::table`,
//!   `client::upload`); parts of a result are asked for by its client (`client::pull`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
mod config;
mod effect;
mod mutation;
pub mod oum;
mod replica;
mod round_trip;
mod sequencer;

pub use client::{Busy, Client, ClientStatus, Committed, Place, RequestId, Unknown};
pub use config::{GroupConfig, Limits, Origin, Protocol, Timing};
pub use effect::{Alarm, Effect, Mark, Marks, Peer, Persist};
pub use mutation::Mutation;
pub use replica::{Disk, Memory, Progress, Replica, ReplicaStatus, Role, Stance, Unreadable};
pub use sequencer::{MAX_GROUPS, Sequencer, SequencerStatus};
pub use stateplane_wire::group::{Answer, Change, Membership, Message};
