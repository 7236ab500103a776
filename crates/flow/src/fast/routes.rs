//! Next hops by destination, for flows that have no one destination.
//!
//! A cache: sets of four routes, found by the destination and the port the packet leaves by. The
//! slow path writes a route when it has sent a packet there itself, so a destination that is
//! nobody's or ours never gets one.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;

use super::hops::{Busy, publish, read_record};
use super::key::{Address, Seed};
use super::layout::{
    HOP_BY_DESTINATION, ROUTE_WAYS, ROUTE4_WORDS, ROUTE6_WORDS, STATE_BUSY, STATE_VALID,
};
use super::memory::{self, Memory, WrongSize, load, store};
use crate::PortId;

/// The routes of one address family, as their one writer has them.
#[derive(Debug)]
pub struct Routes<M, A> {
    memory: M,
    seed: Seed,
    /// Which route of a full set goes next.
    victim: usize,
    family: PhantomData<A>,
}

impl<M: Memory, A: Address> Routes<M, A> {
    /// Takes `memory`, a power of two of routes, and empties it.
    pub fn new(memory: M, seed: Seed) -> Result<Self, WrongSize> {
        memory::sized(&memory, words::<A>(), ROUTE_WAYS, "routes")?;
        let mut routes = Routes {
            memory,
            seed,
            victim: 0,
            family: PhantomData,
        };
        routes.clear();
        Ok(routes)
    }

    /// Sets the next hop of packets that leave `out` for `destination`. In a full set another
    /// route makes room: its packets go by the slow path, which writes it anew.
    pub fn insert(&mut self, destination: A, out: PortId, hop: u16) {
        let set = self.set(destination, out);
        let is = |wanted: Option<(A, PortId)>| {
            let mut ways = set.chunks_exact(words::<A>());
            ways.position(|route| {
                matches!((read(route), wanted),
                (Ok(Some((to, by, _))), Some(wanted)) if (to, by) == wanted)
                    || (wanted.is_none() && read::<A>(route) == Ok(None))
            })
        };
        let way = is(Some((destination, out))).or_else(|| is(None));
        let victim = self.victim;
        let route = &set[way.unwrap_or(victim) * words::<A>()..][..words::<A>()];
        write(
            route,
            Some((destination, out, hop.min(HOP_BY_DESTINATION - 1))),
        );
        if way.is_none() {
            self.victim = (victim + 1) % ROUTE_WAYS;
        }
    }

    /// Takes a route away; says whether it was there.
    pub fn remove(&mut self, destination: A, out: PortId) -> bool {
        let mut ways = self.set(destination, out).chunks_exact(words::<A>());
        let found = ways.find(
            |route| matches!(read(route), Ok(Some((to, by, _))) if (to, by) == (destination, out)),
        );
        found.inspect(|route| write::<A>(route, None)).is_some()
    }

    /// Takes all routes away.
    pub fn clear(&mut self) {
        for route in self.memory.chunks_exact(words::<A>()) {
            if read::<A>(route) != Ok(None) {
                write::<A>(route, None);
            }
        }
    }

    /// The next hop, if it is known.
    pub fn get(&self, destination: A, out: PortId) -> Option<u16> {
        route(&self.memory, &self.seed, destination, out)
            .ok()
            .flatten()
    }

    /// Routes there can be.
    pub fn capacity(&self) -> usize {
        self.memory.len() / words::<A>()
    }

    fn set(&self, destination: A, out: PortId) -> &[AtomicU64] {
        set_of(&self.memory, &self.seed, destination, out)
    }
}

/// A reader's look-up.
pub(super) fn route<A: Address>(
    memory: &[AtomicU64],
    seed: &Seed,
    destination: A,
    out: PortId,
) -> Result<Option<u16>, Busy> {
    let mut busy = Ok(None);
    for route in set_of(memory, seed, destination, out).chunks_exact(words::<A>()) {
        match read(route) {
            Ok(Some((to, by, hop))) if (to, by) == (destination, out) => return Ok(Some(hop)),
            Ok(_) => {}
            Err(Busy) => busy = Err(Busy),
        }
    }
    busy
}

/// Whether there is a route, as anybody sees it.
pub fn has_route<A: Address>(
    memory: &[AtomicU64],
    seed: &Seed,
    destination: A,
    out: PortId,
) -> bool {
    matches!(route(memory, seed, destination, out), Ok(Some(_)))
}

/// Words of a route.
const fn words<A: Address>() -> usize {
    if A::PAIR_WORDS == 1 {
        ROUTE4_WORDS
    } else {
        ROUTE6_WORDS
    }
}

/// The set of a destination: the hash's low half, over the words of the destination alone (IPv4: one,
/// its high half zero; IPv6: two) with the port as tag.
fn set_of<'a, A: Address>(
    memory: &'a [AtomicU64],
    seed: &Seed,
    destination: A,
    out: PortId,
) -> &'a [AtomicU64] {
    let set_words = words::<A>() * ROUTE_WAYS;
    let alone = A::pair(destination, A::ANY);
    let hash = seed.hash(&alone[..A::PAIR_WORDS.div_ceil(2)], u64::from(out.0));
    let set = hash as u32 as usize & (memory.len() / set_words - 1);
    &memory[set * set_words..][..set_words]
}

fn write<A: Address>(route: &[AtomicU64], to: Option<(A, PortId, u16)>) {
    let (destination, out, hop) = to.unwrap_or((A::ANY, PortId(0), 0));
    let alone = A::pair(destination, A::ANY);
    if A::PAIR_WORDS == 1 {
        // One word, so it is never seen half written.
        let valid = if to.is_some() { STATE_VALID } else { 0 };
        let tail = u64::from(hop) | u64::from(out.0) << 16 | valid << 24;
        store(route, 0, alone[0] | tail << 32);
        return;
    }
    publish(route, to.is_some(), || {
        store(route, 1, alone[0]);
        store(route, 2, alone[1]);
        store(route, 3, u64::from(hop) | u64::from(out.0) << 16);
    });
}

fn read<A: Address>(route: &[AtomicU64]) -> Result<Option<(A, PortId, u16)>, Busy> {
    let split = |tail: u64| (PortId((tail >> 16) as u8), tail as u16);
    if A::PAIR_WORDS == 1 {
        let word = load(route, 0);
        let (out, hop) = split(word >> 32);
        let valid = word >> 56 & (STATE_VALID | STATE_BUSY) == STATE_VALID;
        let (destination, _) = A::unpair([word & 0xffff_ffff, 0, 0, 0]);
        return Ok(valid.then_some((destination, out, hop)));
    }
    let read = read_record(route, || [load(route, 1), load(route, 2), load(route, 3)])?;
    Ok(read.map(|[low, high, tail]| {
        let (out, hop) = split(tail);
        (A::unpair([low, high, 0, 0]).0, out, hop)
    }))
}
