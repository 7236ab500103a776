//! The reference of the XDP program: one frame, one verdict.
//!
//! ```text
//! frame ── not for this station, not IP, not TCP/UDP/ICMP, multicast ─▶ kernel
//!   ├── malformed, fragment, wrong or unfinished sum, other ICMP ──────▶ function
//!   ├── no entry, one that is over, or whose lease is ─────────────────▶ function
//!   ├── TCP event, last hop, reserved destination, no way, too long ───▶ function
//!   └── rewritten, encapsulated, addressed, counted ───────────────────▶ redirected
//! ```
//!
//! A frame is untouched unless it is redirected. Where several reasons hold, the first in the order of
//! the code counts, for the program as well.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::sync::atomic::AtomicU64;

use stateplane_base::Time;
use stateplane_wire::eth;

use super::action::{Action, Hop};
use super::hops::{Busy, NextHop, holds, next_hop};
use super::key::{Key, Seed};
use super::layout::{PORT_IPV4, PORT_IPV6, PORT_PARTIAL, PORT_RESERVED, PORT_TAGGED};
use super::meters::charge;
use super::packet::{Aside, Family, Link, Packet};
use super::rewrite::{address, encapsulate, rewrite};
use super::routes::route;
use super::settings::Reserve;
use super::table::{Found, look_up, note};
use super::tunnels::{Tunnel, tunnel};
use super::verdict::{Punt, Verdict};
use super::view::{PortView, port_view};
use crate::PortId;

/// The memory of all tables, as readers have it.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// IPv4 flows.
    pub flows4: &'a [AtomicU64],
    /// IPv6 flows.
    pub flows6: &'a [AtomicU64],
    /// Next hops.
    pub hops: &'a [AtomicU64],
    /// IPv4 routes.
    pub routes4: &'a [AtomicU64],
    /// IPv6 routes.
    pub routes6: &'a [AtomicU64],
    /// Leases.
    pub leases: &'a [AtomicU64],
    /// Meters.
    pub meters: &'a [AtomicU64],
    /// Tunnels.
    pub tunnels: &'a [AtomicU64],
    /// Settings.
    pub settings: &'a [AtomicU64],
}

/// What becomes of the frame that arrived on `port`: the bytes of `buffer` from `headroom` on.
pub fn interpret(
    tables: &Tables<'_>,
    buffer: &mut [u8],
    headroom: usize,
    port: PortId,
    now: Time,
) -> Verdict {
    let Some(view) = port_view(tables.settings, port) else {
        return Verdict::Kernel;
    };
    let frame = buffer.get(headroom..).unwrap_or_default();
    let arrival = Arrival {
        tables,
        headroom,
        view,
        port,
        now,
    };
    let decided = match Link::parse(frame) {
        Some(link) if link.destination != view.station => Err(Aside::Kernel),
        Some(link) if link.tagged && !view.has(PORT_TAGGED) => Err(Aside::Kernel),
        Some(link) if link.ethertype == eth::IPV4 && view.has(PORT_IPV4) => {
            arrival.forward::<Ipv4Addr>(buffer, &link, tables.flows4, tables.routes4)
        }
        Some(link) if link.ethertype == eth::IPV6 && view.has(PORT_IPV6) => {
            arrival.forward::<Ipv6Addr>(buffer, &link, tables.flows6, tables.routes6)
        }
        _ => Err(Aside::Kernel),
    };
    match decided {
        Ok(verdict) => verdict,
        Err(Aside::Kernel) => Verdict::Kernel,
        Err(Aside::Function(_)) if !view.enabled() => Verdict::Function(Punt::Disabled),
        Err(Aside::Function(punt)) => Verdict::Function(punt),
    }
}

/// A frame's circumstances.
struct Arrival<'a> {
    tables: &'a Tables<'a>,
    headroom: usize,
    view: PortView<'a>,
    port: PortId,
    now: Time,
}

impl Arrival<'_> {
    fn forward<A: Family>(
        &self,
        buffer: &mut [u8],
        link: &Link,
        flows: &[AtomicU64],
        routes: &[AtomicU64],
    ) -> Result<Verdict, Aside> {
        let frame = &buffer[self.headroom..];
        let arrived = frame.len();
        let packet = A::parse(frame, link.l3)?;
        if self.view.has(PORT_PARTIAL) && packet.has_partial_checksum(frame) {
            return Err(Aside::Function(Punt::PartialChecksum));
        }
        if !self.view.enabled() {
            return Err(Aside::Function(Punt::Disabled));
        }
        let seed = self.view.seed();
        let key = self.view.masked(&packet.key(self.port, link.vlans));
        let (slot, action) = self.entry(flows, &seed, &key, &packet)?;
        let hop = self.way(routes, &seed, &packet, &action)?;
        let tunnel = self.tunnel(action.tunnel)?;
        let header = tunnel.as_ref().map_or(0, |tunnel| tunnel.header().len());
        if header + (packet.end - packet.l3) > usize::from(hop.mtu) {
            return Err(Aside::Function(Punt::Mtu));
        }
        if header > self.headroom {
            return Err(Aside::Function(Punt::Tunnel));
        }
        let meter = action.meter;
        if !meter.is_none_or(|meter| charge(self.tables.meters, meter, self.port, arrived)) {
            return Err(Aside::Function(Punt::Meter));
        }
        rewrite(&mut buffer[self.headroom..], &packet, &action);
        let start = tunnel.map_or(self.headroom, |tunnel| {
            encapsulate(buffer, self.headroom, &packet, &tunnel, seed.hash_of(&key))
        });
        address(&mut buffer[start..], &hop);
        note::<A>(flows, slot, self.now, arrived);
        Ok(Verdict::Redirect {
            device: hop.device,
            start,
            len: buffer.len() - start,
        })
    }

    /// The entry of the packet's flow, if it holds for this packet at this moment.
    fn entry<A: Family>(
        &self,
        flows: &[AtomicU64],
        seed: &Seed,
        key: &Key<A>,
        packet: &Packet<A>,
    ) -> Result<(usize, Action<A>), Aside> {
        let (slot, entry) = match look_up(self.view.in_use::<A>(flows), seed, key) {
            Found::Entry(slot, entry) => (slot, entry),
            Found::Nothing => return Err(Aside::Function(Punt::Unknown)),
            Found::Busy => return Err(Aside::Function(Punt::Busy)),
        };
        let action = entry.action;
        let guard = action.guard;
        let leased =
            guard.lease == 0 || holds(self.tables.leases, guard.lease, guard.epoch, self.now);
        let punt = if self.now >= entry.until {
            Punt::Expired
        } else if !leased {
            Punt::Lease
        } else if packet.tcp_flags & action.tcp_events != 0 {
            Punt::TcpEvent
        } else if packet.ttl <= action.ttl.max(1) {
            Punt::Ttl
        } else {
            return Ok((slot, action));
        };
        Err(Aside::Function(punt))
    }

    /// The next hop of the packet as it will be.
    fn way<A: Family>(
        &self,
        routes: &[AtomicU64],
        seed: &Seed,
        packet: &Packet<A>,
        action: &Action<A>,
    ) -> Result<NextHop, Aside> {
        let index = match action.hop {
            Hop::Index(index) => {
                if self.view.has(PORT_RESERVED) {
                    match self.view.reserved(packet.destination) {
                        Some(Reserve::Kernel) => return Err(Aside::Kernel),
                        Some(Reserve::Function) => return Err(Aside::Function(Punt::Reserved)),
                        None => {}
                    }
                }
                index
            }
            Hop::ByDestination(out) => {
                let destination = action.destination.unwrap_or(packet.destination);
                let found = route(routes, seed, destination, out)?;
                found.ok_or(Aside::Function(Punt::Route))?
            }
        };
        next_hop(self.tables.hops, index)?.ok_or(Aside::Function(Punt::Hop))
    }

    fn tunnel(&self, index: u8) -> Result<Option<Tunnel>, Aside> {
        if index == 0 {
            return Ok(None);
        }
        let found = tunnel(self.tables.tunnels, index)?;
        found.ok_or(Aside::Function(Punt::Tunnel)).map(Some)
    }
}

impl From<Busy> for Aside {
    fn from(Busy: Busy) -> Self {
        Aside::Function(Punt::Busy)
    }
}
