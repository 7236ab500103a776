//! The fast path's reference: tables that the worker writes and the XDP program reads, what they
//! mean for a packet, and how actions are made.
//!
//! `xdp/fastpath.c` does the same to packets, byte for byte, or both leave them to the slow path.
//!
//! * [`layout`]: the bytes that both sides share; [`Key`], [`Action`], [`Entry`] encode into them
//! * [`Table`]: the flow tables; [`look_up`], [`note`]: a reader's side
//! * [`Hops`], [`Routes`], [`Leases`], [`Meters`], [`Tunnels`], [`Settings`]: what entries refer to
//! * [`packet`]: what a frame is; [`interpret`]: what becomes of it: a [`Verdict`]
//! * [`compose`]: a chain of functions as one action

mod action;
mod chain;
mod hops;
mod interpret;
mod key;
pub mod layout;
mod memory;
mod meters;
pub mod packet;
mod rewrite;
mod routes;
mod settings;
mod table;
mod tunnels;
mod verdict;
mod view;

pub use action::{Action, Entry, Guard, Hop, TCP_EVENTS};
pub use chain::{Apart, compose, has_room_for};
pub use hops::{Hops, Leases, NextHop};
pub use interpret::{Tables, interpret};
pub use key::{Address, Key, Kind, Seed, Vlans};
pub use memory::{BeyondEnd, Memory, WrongSize};
pub use meters::{Metered, Meters};
pub use routes::{Routes, has_route};
pub use settings::{Extent, KeyMask, PortSettings, Reserve, Reserved, Settings, TooMany};
pub use table::{Found, Full, Pressure, Seen, Table, look_up, note, seen};
pub use tunnels::{BadTunnel, Tunnel, Tunnels};
pub use verdict::{COUNTER_BYTES, COUNTER_HITS, COUNTERS, Counters, Punt, Verdict};
