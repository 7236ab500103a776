//! The mappings an instance has seen traffic of: which need a refresh, and as what.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::BuildHasher;
use core::time::Duration;

use stateplane_base::Time;
use stateplane_flow::{Endpoint, PortId, Protocol};
use stateplane_wire::packet::{Headers, Transport};
use stateplane_wire::tcp::Flags;

use super::decide::{back_flow, out_flow};
use super::known::Known;
use crate::function::Token;
use crate::nat::ops::Class;
use crate::runtime::Sight;
use crate::table::{Index, Keyed};

/// What the flags of a TCP connection told so far. Each way of a connection may pass by
/// another instance, so one way's packets must do: who acknowledges has heard the peer.
///
/// A mapping serves all connections of its inside endpoint, and anybody outside may send
/// to it. One connection is followed; its end is the mapping's only as long as no other
/// one is known, and a scan that the host answers with resets is the end of nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tcp {
    /// The far end of the connection that is followed.
    peer: Option<Endpoint>,
    /// The mapping had an established connection before anything was seen here.
    inherited: bool,
    /// Another connection stands, or may: the mapping outlives the one that is followed.
    others: bool,
    /// Whom the host last asked for another connection.
    asked: Option<Endpoint>,
    /// Ways whose packets pass here.
    heard: [bool; 2],
    opened: [bool; 2],
    closed: [bool; 2],
    reset: bool,
}

impl Tcp {
    /// Notes a segment from or to `peer`; `way` 0 is outbound.
    fn observe(&mut self, way: usize, peer: Endpoint, flags: Flags, data: bool) {
        if self.peer != Some(peer) && !self.follow(way, peer, flags) {
            return;
        }
        if flags.has(Flags::RST) {
            // The host's counts only if it had more to say to this peer before.
            self.reset |= way == 1 || self.heard[0];
            return;
        }
        self.heard[way] = true;
        if flags.has(Flags::SYN) {
            if self.class() == Class::Closing {
                // A new connection of the same endpoints.
                *self = self.anew();
            } else if way == 0 {
                self.others |= self.inherited;
            }
            self.opened[way] = true;
            if flags.has(Flags::ACK) {
                self.opened[1 - way] = true;
            }
            return;
        }
        if data && self.class() == Class::Closing {
            // A forged reset, or a new connection whose beginning passed elsewhere.
            *self = Tcp {
                opened: [true; 2],
                ..self.anew()
            };
        }
        if flags.has(Flags::ACK) {
            self.opened = [true; 2];
        }
        self.closed[way] |= flags.has(Flags::FIN);
    }

    /// A segment of another connection than the one that is followed: whether that one is
    /// followed from now on.
    fn follow(&mut self, way: usize, peer: Endpoint, flags: Flags) -> bool {
        if self.peer.is_some() && (way == 1 || flags.has(Flags::RST)) {
            // What strangers send, and the resets they get for it, is no connection. Who
            // was asked for one and agrees is none: the rest of it may pass unseen.
            let agrees = flags.has(Flags::SYN) && flags.has(Flags::ACK);
            self.others |= agrees && self.asked == Some(peer);
            return false;
        }
        let ended = self.class() == Class::Closing;
        if ended || !self.heard[0] {
            *self = Tcp {
                peer: Some(peer),
                inherited: self.inherited && !ended,
                others: self.others,
                ..Tcp::default()
            };
            return true;
        }
        match flags.has(Flags::SYN) {
            true => self.asked = Some(peer),
            false => self.others |= flags.has(Flags::ACK),
        }
        false
    }

    /// Segments passed unseen: of connections that stand, since the first and the last ones
    /// never do.
    fn carried(&mut self, way: usize) {
        self.heard[way] = true;
        if way == 0 {
            self.opened = [true; 2];
        }
    }

    /// The same endpoints after the end of their connection.
    fn anew(self) -> Tcp {
        Tcp {
            peer: self.peer,
            heard: self.heard,
            ..Tcp::default()
        }
    }

    fn class(self) -> Class {
        // Of answers that pass elsewhere the end is not seen either. Where only they pass,
        // nothing is refreshed.
        let closed = self.closed[0] && (self.closed[1] || !self.heard[1]);
        if self.others {
            Class::Established
        } else if self.reset || closed {
            Class::Closing
        } else if self.opened == [true; 2] {
            Class::Established
        } else {
            Class::Transitory
        }
    }
}

/// One mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) protocol: Protocol,
    pub(super) inside: Endpoint,
    pub(super) outside: Endpoint,
    /// Until when the cached decisions may be believed.
    pub(super) valid_until: Time,
    /// When it is looked at next.
    check_at: Time,
    tcp: Tcp,
    /// Traffic each way (outbound, inbound) since it was last looked at.
    active: [bool; 2],
    looked_at: Time,
    /// To be looked at once before `check_at`.
    fresh: bool,
    /// Looked at when its refresh was due and found without traffic: the next packet
    /// makes it urgent.
    idle: bool,
    /// It seemed to close when it was last looked at.
    closing: bool,
    generation: u32,
}

impl Record {
    fn prolong(&mut self, valid_until: Time, check_at: Time) {
        self.valid_until = self.valid_until.max(valid_until);
        self.check_at = self.check_at.max(check_at);
    }

    /// Whether its next packet tells something that no fast path would.
    pub(super) const fn is_watched(&self) -> bool {
        self.idle || self.closing
    }

    /// Notes packets that passed unseen since the last look.
    fn ask(&mut self, now: Time, sight: &dyn Sight) {
        // The fast path's clock is coarse: what came just before the last look counts once
        // more rather than never.
        let since = core::mem::replace(&mut self.looked_at, now) - COARSE;
        let flows = [
            (PortId::INSIDE, out_flow(self.protocol, self.inside)),
            (PortId::OUTSIDE, back_flow(self.protocol, self.outside)),
        ];
        for (way, (port, flow)) in flows.iter().enumerate() {
            if sight
                .last_seen(now, *port, flow)
                .is_some_and(|at| at >= since)
            {
                self.active[way] = true;
                self.tcp.carried(way);
            }
        }
    }

    /// What kind of traffic keeps it alive.
    pub(super) fn class(&self) -> Class {
        match self.protocol {
            Protocol::Tcp => self.tcp.class(),
            other => Class::initial(other),
        }
    }
}

/// How long a bin's records wait for each other: little beside the last quarter of the shortest
/// timeout, in which a mapping that is used must be refreshed.
const TICK: Duration = Duration::from_millis(100);

/// Records looked at in one go: what is due in the same bin comes in portions, so that
/// refreshes do not hold up the packets and the store's other work.
const LOOKS_MAX: usize = 512;
/// Pause between portions.
const PAUSE: Duration = Duration::from_millis(10);

/// How far the fast path's clock may be behind ours.
const COARSE: Duration = Duration::from_millis(10);

/// What is to be done about a record whose time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Traffic from inside: keep it alive.
    Refresh(Token),
    /// Traffic only from outside: ask whether it still exists (RFC 4787 REQ-6: what
    /// comes from outside keeps nothing alive).
    Ask(Token),
    /// Its packets are to be seen here from now on.
    Watch(Token),
    /// They may pass unseen again.
    Leave(Token),
}

impl Due {
    pub(super) const fn token(self) -> Token {
        match self {
            Due::Refresh(token) | Due::Ask(token) | Due::Watch(token) | Due::Leave(token) => token,
        }
    }
}

/// An inside endpoint of a protocol, as one word: keyed hashes cost by the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Inside(u64);

impl Inside {
    fn of(protocol: Protocol, Endpoint { addr, port }: Endpoint) -> Self {
        let end = u64::from(addr.to_bits()) << 16 | u64::from(port);
        Self(u64::from(protocol.number()) << 48 | end)
    }
}

/// All records, bounded. A record is in exactly one bin, at or before the tick
/// at which it is looked at next; when the bin's tick is over it moves on or ends.
#[derive(Debug)]
pub(super) struct Records {
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
    by_inside: Index,
    hasher: Keyed,
    bins: BTreeMap<u64, Vec<Token>>,
    /// Records that were idle and have traffic again.
    urgent: Vec<Token>,
    /// Records that seem to close since now, or go on after all.
    turned: Vec<Token>,
    /// When the next portion may be looked at.
    resume_at: Time,
    max: usize,
    generation: u32,
}

impl Records {
    pub(super) fn new(max: usize, hash_key: [u64; 2]) -> Self {
        Self {
            // All at once, like the flow table.
            slots: Vec::with_capacity(max),
            free: Vec::new(),
            by_inside: Index::new(max),
            hasher: Keyed(hash_key),
            bins: BTreeMap::new(),
            urgent: Vec::new(),
            turned: Vec::new(),
            resume_at: Time::ZERO,
            max,
            generation: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_inside.len()
    }

    pub(super) fn get(&self, token: Token) -> Option<&Record> {
        self.slots
            .get(slot(token))?
            .as_ref()
            .filter(|record| record.generation == tag(token))
    }

    fn get_mut(&mut self, token: Token) -> Option<&mut Record> {
        let record = self.slots.get_mut(slot(token))?.as_mut();
        record.filter(|record| record.generation == tag(token))
    }

    /// The record of a mapping with both these endpoints.
    pub(super) fn find(
        &self,
        protocol: Protocol,
        inside: Endpoint,
        outside: Endpoint,
    ) -> Option<Token> {
        let at = self.at(self.hash(protocol, inside), protocol, inside)?;
        let record = self.slots[at as usize].as_ref()?;
        (record.outside == outside).then(|| token(at, record.generation))
    }

    fn hash(&self, protocol: Protocol, inside: Endpoint) -> u64 {
        self.hasher.hash_one(Inside::of(protocol, inside))
    }

    /// Where the record of an inside endpoint is.
    fn at(&self, hash: u64, protocol: Protocol, inside: Endpoint) -> Option<u32> {
        let is_it = |at: u32| {
            let record = self.slots[at as usize].as_ref();
            record.is_some_and(|record| (record.protocol, record.inside) == (protocol, inside))
        };
        self.by_inside.find(hash, is_it)
    }

    /// Notes what the store said about a mapping. `None`: there is no room to track it.
    /// Also gives the outside endpoint that the inside endpoint no longer has.
    pub(super) fn put(
        &mut self,
        mapping: &Known,
        valid_until: Time,
        check_at: Time,
        first_look: Time,
    ) -> (Option<Token>, Option<Endpoint>) {
        let &Known {
            protocol,
            class,
            inside,
            outside,
            ..
        } = mapping;
        let mut replaced = None;
        let hash = self.hash(protocol, inside);
        if let Some(at) = self.at(hash, protocol, inside) {
            let known = self.slots[at as usize]
                .as_mut()
                .expect("indexed records exist");
            if known.outside == outside {
                known.prolong(valid_until, check_at);
                return (Some(token(at, known.generation)), None);
            }
            replaced = Some(known.outside);
            let stale = token(at, known.generation);
            self.remove(stale);
        }
        if self.len() >= self.max {
            return (None, replaced);
        }
        self.generation = self.generation.wrapping_add(1);
        let record = Record {
            protocol,
            inside,
            outside,
            valid_until,
            check_at,
            tcp: Tcp {
                inherited: class == Class::Established,
                ..Tcp::default()
            },
            active: [false; 2],
            looked_at: Time::ZERO,
            fresh: first_look < check_at,
            idle: false,
            closing: false,
            generation: self.generation,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.slots[at as usize] = Some(record);
        self.by_inside.insert(hash, at);
        let token = token(at, record.generation);
        self.bin(first_look, token);
        (Some(token), replaced)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Record> {
        self.get(token)?;
        let at = slot(token);
        let record = self.slots[at].take()?;
        let hash = self.hash(record.protocol, record.inside);
        self.by_inside.remove(hash, at as u32);
        self.free.push(at as u32);
        Some(record)
    }

    /// A packet passed.
    #[inline]
    pub(super) fn observe(&mut self, token: Token, outbound: bool, headers: &Headers) {
        let Some(record) = self.get_mut(token) else {
            return;
        };
        let way = usize::from(!outbound);
        match headers.transport {
            Transport::Tcp {
                source,
                destination,
                flags,
                data,
            } => {
                let (addr, port) = match outbound {
                    true => (headers.destination, destination),
                    false => (headers.source, source),
                };
                record
                    .tcp
                    .observe(way, Endpoint { addr, port }, flags, data);
            }
            Transport::Error(_) => return, // keeps nothing alive
            _ => {}
        }
        record.active[way] = true;
        let was_idle = core::mem::take(&mut record.idle);
        let closing = record.class() == Class::Closing;
        let turned = core::mem::replace(&mut record.closing, closing) != closing;
        if was_idle {
            self.urgent.push(token);
        }
        if turned {
            self.turned.push(token);
        }
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        if !self.urgent.is_empty() || !self.turned.is_empty() {
            return Some(Time::ZERO);
        }
        let (&bin, _) = self.bins.first_key_value()?;
        let over = Time::from_nanos((bin + 1).saturating_mul(TICK.as_nanos() as u64));
        Some(over.max(self.resume_at))
    }

    /// What is due now, a bounded number at a time. Records that ended are gone
    /// afterwards; idle ones wait for their end or their next packet.
    pub(super) fn due(&mut self, now: Time, sight: &dyn Sight) -> Vec<Due> {
        let mut due = Vec::new();
        for token in core::mem::take(&mut self.turned) {
            due.extend(self.turn(token, now, sight));
        }
        for token in core::mem::take(&mut self.urgent) {
            self.look(token, now, sight, &mut due);
        }
        if now < self.resume_at {
            return due;
        }
        self.resume_at = now + PAUSE;
        for _ in 0..LOOKS_MAX {
            let Some(mut bin) = self.bins.first_entry() else {
                break;
            };
            if *bin.key() >= tick(now) {
                break;
            }
            let Some(token) = bin.get_mut().pop() else {
                bin.remove();
                continue;
            };
            let Some(record) = self.get_mut(token) else {
                continue;
            };
            if record.valid_until < now {
                self.remove(token);
                continue;
            }
            let is_time = tick(record.check_at) < tick(now);
            if is_time {
                // At its end, unless it is prolonged before.
                record.check_at = record.valid_until;
            }
            let next = record.check_at;
            if core::mem::take(&mut record.fresh) || is_time {
                self.look(token, now, sight, &mut due);
            }
            self.bin(next, token);
        }
        due
    }

    fn look(&mut self, token: Token, now: Time, sight: &dyn Sight, due: &mut Vec<Due>) {
        let Some(record) = self.get_mut(token) else {
            return;
        };
        record.ask(now, sight);
        due.extend(match core::mem::take(&mut record.active) {
            [true, _] => Some(Due::Refresh(token)),
            [false, true] => Some(Due::Ask(token)),
            [false, false] => {
                record.idle = true;
                None
            }
        });
        if record.is_watched() {
            due.push(Due::Watch(token));
        }
    }

    /// A mapping's connection seems to close: what comes then tells whether it does, and
    /// must be seen. What passed until now counts.
    fn turn(&mut self, token: Token, now: Time, sight: &dyn Sight) -> Option<Due> {
        let record = self.get_mut(token)?;
        record.ask(now, sight);
        Some(match record.closing {
            true => Due::Watch(token),
            false => Due::Leave(token),
        })
    }

    /// The store confirmed the mapping.
    pub(super) fn prolong(&mut self, token: Token, valid_until: Time, check_at: Time) {
        if let Some(record) = self.get_mut(token) {
            record.prolong(valid_until, check_at);
        }
    }

    /// The store could not be asked: the traffic still counts.
    pub(super) fn unasked(&mut self, due: Due) {
        if let Some(record) = self.get_mut(due.token()) {
            record.active[usize::from(matches!(due, Due::Ask(_)))] = true;
        }
    }

    fn bin(&mut self, at: Time, token: Token) {
        self.bins.entry(tick(at)).or_default().push(token);
    }
}

/// Generation in the high, slot in the low half.
fn token(slot: u32, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | u64::from(slot))
}

const fn slot(token: Token) -> usize {
    token.0 as u32 as usize
}

const fn tag(token: Token) -> u32 {
    (token.0 >> 32) as u32
}

const fn tick(time: Time) -> u64 {
    time.as_nanos() / TICK.as_nanos() as u64
}
