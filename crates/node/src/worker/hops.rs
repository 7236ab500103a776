//! The worker's next hops: the kernel's own routes and neighbours.

use std::net::Ipv4Addr;

use stateplane_base::Time;
use stateplane_flow::PortId;
use stateplane_host::neigh::{NextHop, Reader};

use super::egress::{Hop, NextHops};

/// Reads what the kernel knows; has it resolve what it does not know yet.
#[derive(Debug)]
pub(super) struct KernelHops {
    reader: Reader,
    /// The interfaces' numbers: inside, outside.
    ifindexes: [u32; 2],
}

impl KernelHops {
    /// For a worker with these two interfaces.
    pub(super) fn new(reader: Reader, ifindexes: [u32; 2]) -> Self {
        Self { reader, ifindexes }
    }

    /// Takes what has changed since the last batch.
    pub(super) fn refresh(&mut self) -> bool {
        self.reader.refresh()
    }
}

impl NextHops for KernelHops {
    fn next_hop(&mut self, now: Time, port: PortId, destination: Ipv4Addr) -> Hop {
        let wanted = self.ifindexes[usize::from(port.0)];
        match self.reader.next_hop(destination) {
            NextHop::Neighbour {
                ifindex,
                mac,
                gateway,
                ..
            } if ifindex == wanted => Hop::Ready { mac, gateway },
            NextHop::Unresolved { ifindex, gateway } if ifindex == wanted => {
                self.reader.request(now, ifindex, gateway);
                Hop::Resolving { gateway }
            }
            // The route leads elsewhere: sending it by this port would not reach anybody.
            _ => Hop::NoRoute,
        }
    }
}
