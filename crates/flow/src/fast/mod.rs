//! The fast path's reference: tables that the worker writes and the XDP program reads, what they
//! mean for a packet, and how actions are made.
//!
//! `xdp/fastpath.c` does the same to packets, byte for byte, or both leave them to the slow path.
//!
//! * [`layout`]: the bytes that both sides share; [`Key`], [`Action`], [`Entry`] encode into them
//! * [`Table`]: the flow tables; [`look_up`], [`note`]: a reader's side
//! * [`Hops`], [`Routes`], [`Leases`], [`Tunnels`], [`Settings`]: what entries refer to
//! * [`Verdict`], [`Punt`]: what becomes of a frame

mod action;
mod hops;
mod key;
pub mod layout;
mod memory;
mod routes;
mod settings;
mod table;
mod tunnels;
mod verdict;

pub use action::{Action, Entry, Guard, Hop, TCP_EVENTS};
pub use hops::{Hops, Leases, NextHop};
pub use key::{Address, Key, Kind, Seed, Vlans};
pub use memory::{BeyondEnd, Memory, WrongSize};
pub use routes::Routes;
pub use settings::{KeyMask, PortSettings, Reserve, Reserved, Settings, TooMany};
pub use table::{Found, Full, Pressure, Seen, Table, look_up, note};
pub use tunnels::{BadTunnel, Tunnel, Tunnels};
pub use verdict::{COUNTER_BYTES, COUNTER_HITS, COUNTERS, Punt, Verdict};
