//! The way out: next hop, hardware addresses, and packets that wait for a neighbour.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use stateplane_base::{Reason, Time};
use stateplane_flow::PortId;
use stateplane_functions::Driven;
use stateplane_host::frame::{Frame, FramePool};
use stateplane_host::port::Mac;

/// Packets that may wait for neighbours at once.
const WAITING_MAX: usize = 256;
/// How long a packet waits for its neighbour to answer.
const WAIT: Duration = Duration::from_secs(1);
/// How often waiting packets are looked at.
const RETRY: Duration = Duration::from_millis(2);

/// The state of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// It is known.
    Ready {
        /// Its hardware address.
        mac: Mac,
        /// Its address: a gateway's, or the destination itself.
        gateway: Ipv4Addr,
    },
    /// The kernel has been asked for its hardware address.
    Resolving {
        /// Its address.
        gateway: Ipv4Addr,
    },
    /// There is no route.
    NoRoute,
}

/// The kernel's routes and neighbours, as the worker sees them.
pub trait NextHops {
    /// The next hop of packets that leave by `port` for `destination`. Must not block.
    fn next_hop(&mut self, now: Time, port: PortId, destination: Ipv4Addr) -> Hop;
}

/// Frames that leave in this turn, and those that wait for a neighbour.
#[derive(Debug)]
pub struct Egress<H> {
    hops: H,
    macs: [Mac; 2],
    queues: [Vec<Frame>; 2],
    waiting: VecDeque<Waiting>,
    retry_at: Time,
}

#[derive(Debug)]
struct Waiting {
    until: Time,
    port: PortId,
    frame: Frame,
}

impl<H: NextHops> Egress<H> {
    /// Frames leave with the ports' own addresses as their source.
    pub fn new(hops: H, macs: [Mac; 2]) -> Self {
        let queues = [Vec::new(), Vec::new()];
        Self {
            hops,
            macs,
            queues,
            waiting: VecDeque::new(),
            retry_at: Time::MAX,
        }
    }

    /// The next hops.
    pub fn hops_mut(&mut self) -> &mut H {
        &mut self.hops
    }

    /// What leaves by each port.
    pub fn queues(&mut self) -> &mut [Vec<Frame>; 2] {
        &mut self.queues
    }

    /// Packets that wait for a neighbour now.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A complete frame goes back where it came from.
    pub fn answer(&mut self, port: PortId, frame: Frame) {
        self.queues[usize::from(port.0)].push(frame);
    }

    /// A packet goes to its next hop, or waits for it, or is dropped and counted.
    pub fn forward(
        &mut self,
        now: Time,
        port: PortId,
        frame: Frame,
        pool: &mut FramePool,
        runtime: &mut impl Driven,
    ) {
        let waiting = Waiting {
            until: now + WAIT,
            port,
            frame,
        };
        if let Some(waiting) = self.try_forward(now, waiting, pool, runtime) {
            if self.waiting.len() >= WAITING_MAX {
                runtime.count_drop(Reason::NoNeighbour);
                pool.give(waiting.frame);
                return;
            }
            self.waiting.push_back(waiting);
            self.retry_at = self.retry_at.min(now + RETRY);
        }
    }

    /// When [`Self::retry_waiting`] has something to do.
    pub fn next_retry(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then_some(self.retry_at)
    }

    /// Sends packets whose neighbour is known by now, and gives up on old ones.
    pub fn retry_waiting(&mut self, now: Time, pool: &mut FramePool, runtime: &mut impl Driven) {
        if now < self.retry_at {
            return;
        }
        self.retry_at = Time::MAX;
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            if waiting.until <= now {
                runtime.count_drop(Reason::NoNeighbour);
                pool.give(waiting.frame);
            } else if let Some(waiting) = self.try_forward(now, waiting, pool, runtime) {
                self.waiting.push_back(waiting);
                self.retry_at = now + RETRY;
            }
        }
    }

    /// Gives the packet back if its neighbour is not known yet.
    fn try_forward(
        &mut self,
        now: Time,
        packet: Waiting,
        pool: &mut FramePool,
        runtime: &mut impl Driven,
    ) -> Option<Waiting> {
        let side = usize::from(packet.port.0);
        let hop = destination(pool.bytes(&packet.frame))
            .map_or(Hop::NoRoute, |to| self.hops.next_hop(now, packet.port, to));
        match hop {
            Hop::Ready { mac, .. } => {
                let bytes = pool.bytes_mut(&packet.frame);
                bytes[..6].copy_from_slice(&mac.0);
                bytes[6..12].copy_from_slice(&self.macs[side].0);
                self.queues[side].push(packet.frame);
                None
            }
            Hop::Resolving { .. } => Some(packet),
            Hop::NoRoute => {
                runtime.count_drop(Reason::NoRoute);
                pool.give(packet.frame);
                None
            }
        }
    }
}

/// Where an IPv4 packet in an untagged frame goes to.
pub(super) fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}
