//! The port blocks an instance owns, and which port it proposes next.
//!
//! The store has the last word about every port; this is the instance's guess. A wrong
//! guess costs one round trip.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use fastrand::Rng;
use hashbrown::HashMap;
use stateplane_base::Time;
use stateplane_flow::{Endpoint, Protocol};

use crate::nat::ops::{BLOCK_PORTS, block_of};

/// Ports of a block.
const PORTS: usize = BLOCK_PORTS as usize;
/// A block with fewer ports in use counts as fresh.
const FRESH_BELOW: u16 = BLOCK_PORTS / 2;
/// Random probes before a block is searched.
const PROBES: usize = 4;

/// When each port of one protocol may be free again, in seconds.
type FreeAt = [u32; PORTS];

/// What one protocol knows about a block's ports.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// Nothing is free before this second.
    full_until: u32,
    /// Ports given out since the last search.
    used: u16,
}

impl Usage {
    const NEW: Usage = Usage {
        full_until: 0,
        used: 0,
    };

    /// A random free port.
    fn pick(&mut self, free_at: &FreeAt, now: u32, rng: &mut Rng) -> Option<usize> {
        let probe = (0..PROBES)
            .map(|_| rng.usize(..PORTS))
            .find(|&i| free_at[i] <= now);
        let found = probe.or_else(|| self.search(free_at, now, rng.usize(..PORTS)));
        if found.is_none() {
            self.full_until = free_at.iter().copied().min().unwrap_or(0);
        }
        found
    }

    fn search(&mut self, free_at: &FreeAt, now: u32, start: usize) -> Option<usize> {
        let busy = free_at.iter().filter(|&&free_at| free_at > now).count();
        self.used = u16::try_from(busy).unwrap_or(BLOCK_PORTS);
        (start..PORTS).chain(0..start).find(|&i| free_at[i] <= now)
    }
}

/// What is looked at to choose a block lies close together; by protocol.
#[derive(Debug)]
struct Block {
    index: u8,
    usage: [Usage; 3],
    free_at: Box<[FreeAt; 3]>,
}

/// All blocks owned, by outside address.
#[derive(Debug, Default)]
pub(super) struct Ports {
    blocks: HashMap<Ipv4Addr, Vec<Block>>,
    /// How many.
    count: usize,
}

/// What [`Ports::pick`] found.
pub(super) struct Picked {
    /// A port that is free as far as is known.
    pub(super) port: Option<u16>,
    /// Whether it is time to take another block.
    pub(super) want_block: bool,
}

impl Ports {
    /// Proposes a port, of a block that steers `home` if possible, and keeps it for
    /// `hold`, while the store decides.
    pub(super) fn pick(
        &mut self,
        now: Time,
        protocol: Protocol,
        address: Ipv4Addr,
        hold: Duration,
        home: impl Fn(u8) -> bool,
        rng: &mut Rng,
    ) -> Picked {
        let second = seconds(now);
        let Some(blocks) = self
            .blocks
            .get_mut(&address)
            .filter(|blocks| !blocks.is_empty())
        else {
            return Picked {
                port: None,
                want_block: true,
            };
        };
        let slot = slot(protocol);
        let start = rng.usize(..blocks.len());
        let mut port = None;
        let len = blocks.len();
        let order = (start..len).chain(0..start);
        let order = order
            .clone()
            .map(|at| (at, true))
            .chain(order.map(|at| (at, false)));
        for (at, homely) in order {
            let Block {
                index,
                usage,
                free_at,
            } = &mut blocks[at];
            let (usage, free_at) = (&mut usage[slot], &mut free_at[slot]);
            if usage.full_until <= second
                && home(*index) == homely
                && let Some(offset) = usage.pick(free_at, second, rng)
            {
                free_at[offset] = seconds(now + hold);
                usage.used = (usage.used + 1).min(BLOCK_PORTS);
                port = Some(u16::from(*index) * BLOCK_PORTS + offset as u16);
                break;
            }
        }
        let fresh = blocks
            .iter()
            .any(|block| block.usage[slot].used < FRESH_BELOW);
        Picked {
            port,
            want_block: port.is_none() || !fresh,
        }
    }

    /// Notes that a port of ours will not be free before `until`.
    pub(super) fn busy_until(&mut self, protocol: Protocol, outside: Endpoint, until: Time) {
        let blocks = self.blocks.get_mut(&outside.addr);
        let index = block_of(outside.port);
        if let Some(block) = blocks
            .into_iter()
            .flatten()
            .find(|block| block.index == index)
        {
            let offset = usize::from(outside.port % BLOCK_PORTS);
            block.free_at[slot(protocol)][offset] = seconds(until).saturating_add(1);
        }
    }

    pub(super) fn add(&mut self, address: Ipv4Addr, index: u8) {
        let blocks = self.blocks.entry(address).or_default();
        if !blocks.iter().any(|block| block.index == index) {
            blocks.push(Block {
                index,
                usage: [Usage::NEW; 3],
                free_at: Box::new([[0; PORTS]; 3]),
            });
            self.count += 1;
        }
    }

    pub(super) fn remove(&mut self, address: Ipv4Addr, index: u8) {
        if let Some(blocks) = self.blocks.get_mut(&address) {
            let before = blocks.len();
            blocks.retain(|block| block.index != index);
            self.count -= before - blocks.len();
        }
    }

    /// Forgets all blocks.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.count = 0;
    }

    pub(super) fn owns(&self, address: Ipv4Addr, index: u8) -> bool {
        let blocks = self.blocks.get(&address);
        blocks.is_some_and(|blocks| blocks.iter().any(|block| block.index == index))
    }

    /// Blocks owned.
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

const fn slot(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::IcmpEcho => 2,
    }
}

/// Rounded down; enough for a century.
fn seconds(time: Time) -> u32 {
    u32::try_from(time.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn every_port_of_a_block_is_proposed_once() {
        let (mut ports, mut rng) = (Ports::default(), Rng::with_seed(7));
        let hold = Duration::from_secs(5);
        let mut pick = |ports: &mut Ports, now: u64| {
            let now = Time::from_millis(now * 1000);
            ports.pick(
                now,
                Protocol::Udp,
                ADDRESS,
                hold,
                |index| index != 99,
                &mut rng,
            )
        };
        assert!(pick(&mut ports, 0).want_block);
        ports.add(ADDRESS, 200);
        let first: Vec<_> = (0..256).map(|_| pick(&mut ports, 1)).collect();
        assert!(!first[100].want_block && first[200].want_block);
        let distinct: BTreeSet<u16> = first.iter().filter_map(|picked| picked.port).collect();
        assert_eq!(distinct.len(), 256);
        assert!(distinct.iter().all(|&port| block_of(port) == 200));
        // Random, not ascending (RFC 6056).
        assert!(first.windows(2).any(|pair| pair[0].port > pair[1].port));
        assert_eq!(pick(&mut ports, 2).port, None);
        // A block that does not steer home is the second choice.
        ports.add(ADDRESS, 99);
        assert_eq!(pick(&mut ports, 2).port.map(block_of), Some(99));
        assert_eq!(pick(&mut ports, 7).port.map(block_of), Some(200));
        ports.remove(ADDRESS, 99);
        // Unconfirmed proposals come back; confirmed ones do not.
        let confirmed = Endpoint {
            addr: ADDRESS,
            port: 51234,
        };
        ports.busy_until(Protocol::Udp, confirmed, Time::from_millis(400_000));
        let again: BTreeSet<u16> = (0..256).filter_map(|_| pick(&mut ports, 13).port).collect();
        assert_eq!(again.len(), 255);
        assert!(!again.contains(&51234));
    }
}
