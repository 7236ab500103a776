//! The compact action of an entry: what the fast path does to a flow's packets.

use core::net::Ipv4Addr;

use stateplane_base::Time;

use super::key::{Address, SLOT_WORDS_MAX, port_word, word_port};
use super::layout::{
    FLAG_DESTINATION_ADDR, FLAG_DESTINATION_PORT, FLAG_METER, FLAG_METER_SHIFT, FLAG_SOURCE_ADDR,
    FLAG_SOURCE_PORT, FLAG_TTL_SHIFT, HOP_BY_DESTINATION, METERS_MAX, STATE_SEQUENCE, TTL_MAX,
};
use crate::{FlowAction, PortId};
use stateplane_wire::tcp::Flags;

/// Where packets go when they were rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hop {
    /// To this next hop: an index of [`Hops`](super::Hops) below [`HOP_BY_DESTINATION`].
    Index(u16),
    /// Out of this port, by the destination they have then: the flow has no one destination.
    ByDestination(PortId),
}

impl Hop {
    const fn number(self) -> u16 {
        match self {
            Hop::Index(index) => index,
            Hop::ByDestination(port) => HOP_BY_DESTINATION | port.0 as u16,
        }
    }

    const fn from_number(number: u16) -> Self {
        if number < HOP_BY_DESTINATION {
            Hop::Index(number)
        } else {
            Hop::ByDestination(PortId(number as u8))
        }
    }
}

/// Which lease an entry depends on, and the life of it in which it was written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Guard {
    /// Index of [`Leases`](super::Leases).
    pub lease: u16,
    /// The lease's epoch, in its low 32 bits; not used by [`Guard::NONE`].
    pub epoch: u32,
}

impl Guard {
    /// Needs no owner: an immutable mapping, which any instance may serve.
    pub const NONE: Guard = Guard { lease: 0, epoch: 0 };
}

/// What happens to each packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Action<A> {
    /// Replaces the source address.
    pub source: Option<A>,
    /// Replaces the source port.
    pub source_port: Option<u16>,
    /// Replaces the destination address.
    pub destination: Option<A>,
    /// Replaces the destination port.
    pub destination_port: Option<u16>,
    /// By how much the time to live falls, at most [`TTL_MAX`]: one per function that routes.
    pub ttl: u8,
    /// Where the packet goes. Without any rewrite, this is direct server return.
    pub hop: Hop,
    /// The tunnel it goes through, an index of [`Tunnels`](super::Tunnels); 0: none.
    pub tunnel: u8,
    /// The lease that the action depends on.
    pub guard: Guard,
    /// TCP segments with one of these flags are left to the function.
    pub tcp_events: u8,
    /// The meter that packets count at, an index of [`Meters`](super::Meters). Its number takes the
    /// place of a port: an action with a meter has one number for all ports that it replaces, the
    /// destination's if they differ ([`has_room_for`](super::has_room_for)).
    pub meter: Option<u32>,
}

/// The flags that begin or end a connection.
pub const TCP_EVENTS: u8 = Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0;

impl Action<Ipv4Addr> {
    /// The action that does what `action` does, and sends the packet to `hop`.
    pub fn of(action: &FlowAction, hop: Hop, guard: Guard) -> Self {
        Action {
            source: action.source.map(|end| end.addr),
            source_port: action.source.map(|end| end.port),
            destination: action.destination.map(|end| end.addr),
            destination_port: action.destination.map(|end| end.port),
            ttl: action.ttl,
            hop,
            tunnel: 0,
            guard,
            tcp_events: TCP_EVENTS,
            meter: None,
        }
    }
}

impl<A: Address> Action<A> {
    /// Forwards packets as they are.
    pub const fn forward(hop: Hop, guard: Guard) -> Self {
        Action {
            source: None,
            source_port: None,
            destination: None,
            destination_port: None,
            ttl: 0,
            hop,
            tunnel: 0,
            guard,
            tcp_events: TCP_EVENTS,
            meter: None,
        }
    }

    /// Its words within a slot, from the one behind the state on.
    pub(super) fn words(&self) -> ([u64; 2], [u64; 4]) {
        let mut flags = u16::from(self.ttl.min(TTL_MAX)) << FLAG_TTL_SHIFT;
        for (given, flag) in [
            (self.source.is_some(), FLAG_SOURCE_ADDR),
            (self.source_port.is_some(), FLAG_SOURCE_PORT),
            (self.destination.is_some(), FLAG_DESTINATION_ADDR),
            (self.destination_port.is_some(), FLAG_DESTINATION_PORT),
        ] {
            if given {
                flags |= flag;
            }
        }
        let [source, destination] = [self.source_port, self.destination_port];
        let ports = match self.meter {
            Some(meter) => {
                // Beyond the last number there is no meter: such packets go to the function.
                let meter = meter.min(METERS_MAX - 1);
                flags |= FLAG_METER | ((meter >> 16) as u16) << FLAG_METER_SHIFT;
                let port = destination.or(source).unwrap_or(0);
                port_word(port) | u64::from(meter as u16) << 16
            }
            None => port_word(source.unwrap_or(0)) | port_word(destination.unwrap_or(0)) << 16,
        };
        let rewrite = ports | u64::from(flags) << 32 | u64::from(self.hop.number()) << 48;
        let guard = u64::from(self.guard.epoch)
            | u64::from(self.guard.lease) << 32
            | u64::from(self.tunnel) << 48
            | u64::from(self.tcp_events) << 56;
        let ends = A::pair(
            self.source.unwrap_or(A::ANY),
            self.destination.unwrap_or(A::ANY),
        );
        ([rewrite, guard], ends)
    }

    pub(super) fn from_words([rewrite, guard]: [u64; 2], ends: [u64; 4]) -> Self {
        let flags = (rewrite >> 32) as u16;
        let (source, destination) = A::unpair(ends);
        let has = |flag| flags & flag != 0;
        let port = |flag, word| has(flag).then_some(word_port(word));
        let high = u32::from(flags >> FLAG_METER_SHIFT) << 16;
        let meter = has(FLAG_METER).then_some(high | u32::from((rewrite >> 16) as u16));
        let second = if meter.is_some() { 0 } else { 16 };
        Action {
            source: has(FLAG_SOURCE_ADDR).then_some(source),
            source_port: port(FLAG_SOURCE_PORT, rewrite),
            destination: has(FLAG_DESTINATION_ADDR).then_some(destination),
            destination_port: port(FLAG_DESTINATION_PORT, rewrite >> second),
            ttl: (flags >> FLAG_TTL_SHIFT) as u8 & TTL_MAX,
            hop: Hop::from_number((rewrite >> 48) as u16),
            tunnel: (guard >> 48) as u8,
            guard: Guard {
                lease: (guard >> 32) as u16,
                epoch: guard as u32,
            },
            tcp_events: (guard >> 56) as u8,
            meter,
        }
    }
}

/// When an entry ends, as its state word says it: never later than asked.
#[inline]
pub(super) const fn state_word(until: Time, sequence: u64) -> u64 {
    (until.as_nanos() & !STATE_SEQUENCE) | (sequence & STATE_SEQUENCE)
}

/// An action with the time until which it may be used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry<A> {
    /// What happens to each packet.
    pub action: Action<A>,
    /// The last moment; entries end up to 2^16 ns earlier.
    pub until: Time,
}

/// The words of a slot, as one consistent reading or before they are written.
pub(super) type SlotWords = [u64; SLOT_WORDS_MAX];
