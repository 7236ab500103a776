//! Next hops and routes of the fast path, as far as its packets need them.
//!
//! A next hop is a neighbour's address on a port: when it gets another hardware address, or
//! none, one write tells all its flows. Which neighbour leads to a destination is asked of the
//! kernel's routes when the first flow needs it, and again whenever they change.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use stateplane_base::Time;
use stateplane_flow::PortId;
use stateplane_flow::fast::{Hops, Memory, NextHop, Routes, Seed, WrongSize};
use stateplane_host::port::Mac;
use stateplane_wire::eth;

use super::super::egress::{Hop, NextHops};

/// Destinations whose way is remembered; beyond it flows stay with the slow path.
const WAYS_MAX: usize = 1 << 16;

/// What lies behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The port's own hardware address.
    pub mac: Mac,
    /// The longest IP packet.
    pub mtu: u16,
    /// Where the program finds the device.
    pub device: u16,
}

#[derive(Debug)]
struct Neighbour {
    port: PortId,
    address: Ipv4Addr,
    mac: Option<Mac>,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    hop: u16,
    /// It stands among the routes; else flows name the next hop themselves.
    routed: bool,
}

/// Next hops and routes.
pub struct Ways<M> {
    hops: Hops<M>,
    routes: Routes<M, Ipv4Addr>,
    links: [Link; 2],
    /// By the number of their next hop.
    neighbours: Vec<Neighbour>,
    numbers: HashMap<(PortId, Ipv4Addr), u16>,
    ways: HashMap<(PortId, Ipv4Addr), Way>,
    full: u64,
}

impl<M: Memory> Ways<M> {
    pub(super) fn new(hops: M, routes: M, seed: Seed, links: [Link; 2]) -> Result<Self, WrongSize> {
        Ok(Self {
            hops: Hops::new(hops),
            routes: Routes::new(routes, seed)?,
            links,
            neighbours: Vec::new(),
            numbers: HashMap::new(),
            ways: HashMap::new(),
            full: 0,
        })
    }

    /// The next hop to a destination, for flows that have no other.
    pub(super) fn hop(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        port: PortId,
        to: Ipv4Addr,
    ) -> Option<u16> {
        if let Some(way) = self.ways.get(&(port, to)) {
            return Some(way.hop);
        }
        self.find(now, hops, port, to, false)
    }

    /// A packet left for this destination: the next one that finds its next hop by it need
    /// not come here.
    #[inline]
    pub fn learn(&mut self, now: Time, hops: &mut impl NextHops, port: PortId, to: Ipv4Addr) {
        // A crowded set of routes may have lost it.
        if self.routes.get(to, port).is_none()
            && let Some(hop) = self.find(now, hops, port, to, true)
        {
            self.routes.insert(to, port, hop);
        }
    }

    fn find(
        &mut self,
        now: Time,
        hops: &mut impl NextHops,
        port: PortId,
        to: Ipv4Addr,
        routed: bool,
    ) -> Option<u16> {
        let (address, mac) = gateway(hops.next_hop(now, port, to))?;
        if self.ways.len() >= WAYS_MAX {
            self.full += 1;
            return None;
        }
        let hop = self.number(port, address, mac)?;
        self.ways.insert((port, to), Way { hop, routed });
        Some(hop)
    }

    /// The number of a neighbour's next hop.
    fn number(&mut self, port: PortId, address: Ipv4Addr, mac: Option<Mac>) -> Option<u16> {
        if let Some(&number) = self.numbers.get(&(port, address)) {
            return Some(number);
        }
        let number = u16::try_from(self.neighbours.len()).ok();
        let Some(number) = number.filter(|&n| usize::from(n) < self.hops.capacity()) else {
            self.full += 1;
            return None;
        };
        self.neighbours.push(Neighbour { port, address, mac });
        self.numbers.insert((port, address), number);
        self.write(number);
        Some(number)
    }

    fn write(&mut self, number: u16) {
        let Neighbour { port, mac, .. } = &self.neighbours[usize::from(number)];
        let link = self.links[usize::from(port.0)];
        let written = match mac {
            Some(mac) => self.hops.set(
                number,
                &NextHop {
                    destination: eth::Mac(mac.0),
                    source: eth::Mac(link.mac.0),
                    device: link.device,
                    mtu: link.mtu,
                },
            ),
            None => self.hops.clear(number),
        };
        written.expect("numbers are below the capacity");
    }

    /// Asks for everything again. True: flows name a next hop that leads elsewhere now.
    pub(super) fn refresh(&mut self, now: Time, hops: &mut impl NextHops) -> bool {
        for number in 0..self.neighbours.len() {
            let Neighbour { port, address, mac } = &mut self.neighbours[number];
            let found = gateway(hops.next_hop(now, *port, *address));
            let found = found.filter(|(via, _)| via == address);
            let new = found.and_then(|(_, mac)| mac);
            if std::mem::replace(mac, new) != new {
                self.write(number as u16);
            }
        }
        let mut stale = false;
        let (neighbours, routes) = (&self.neighbours, &mut self.routes);
        self.ways.retain(|&(port, to), way| {
            let via = neighbours[usize::from(way.hop)].address;
            let found = gateway(hops.next_hop(now, port, to));
            let same = found.is_some_and(|(address, _)| address == via);
            if !same {
                // Its next packet comes to the worker, which learns the new way.
                routes.remove(to, port);
                stale |= !way.routed;
            }
            same
        });
        stale
    }

    /// Next hops, destinations, and how often there was no room for one.
    pub fn fill(&self) -> [u64; 3] {
        [
            self.neighbours.len() as u64,
            self.ways.len() as u64,
            self.full,
        ]
    }
}

/// The neighbour that a hop leads over, and its hardware address if that is known.
fn gateway(hop: Hop) -> Option<(Ipv4Addr, Option<Mac>)> {
    match hop {
        Hop::Ready { mac, gateway } => Some((gateway, Some(mac))),
        Hop::Resolving { gateway } => Some((gateway, None)),
        Hop::NoRoute => None,
    }
}
