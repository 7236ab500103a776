//! Bytes and their meaning.
//!
//! Packet headers, as far as forwarding needs them:
//! * [`packet`]: a whole frame at once, the usual way in
//! * [`eth`], [`arp`], [`ipv4`], [`tcp`], [`udp`], [`icmp`]: one header each
//! * [`checksum`]: full, incremental, and left unfinished by the sender
//! * [`icmp_error`]: our own errors about packets that do not pass
//!
//! What nodes say to each other:
//! * [`envelope`]: authentication and replay protection around every datagram
//! * [`oum`]: requests and the ordered messages a sequencer makes of them
//! * [`group`]: all other messages of a store group
//! * [`codec`]: fixed-layout fields, read totally
//!
//! What a node writes on its disk: [`wal`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arp;
pub mod checksum;
pub mod codec;
pub mod envelope;
pub mod eth;
pub mod group;
pub mod heartbeat;
pub mod icmp;
pub mod icmp_error;
pub mod ipv4;
pub mod oum;
pub mod packet;
pub mod refusal;
pub mod tcp;
pub mod udp;
pub mod wal;
