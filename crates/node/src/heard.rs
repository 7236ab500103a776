//! What a channel makes of the datagrams that reach it.

use std::net::SocketAddr;

use serde::Serialize;
use stateplane_wire::envelope::{self, Header, OpenError, ReplayGuard};
use stateplane_wire::group::{Address, Formation, Ordered, Request};
use stateplane_wire::oum::{self, Ask, Keys, Stamp};
use tracing::warn;

use crate::channel::Identity;

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams the kernel refused to send.
    pub send_failed: u64,
    /// Good datagrams received.
    pub received: u64,
    /// Neither envelope nor ordered multicast, or of an unknown version or kind.
    pub malformed: u64,
    /// Failed authentication, or of another cluster.
    pub unauthentic: u64,
    /// Stamped by a sequencer that did not look at the damage within. Its number counts.
    pub damaged: u64,
    /// Seen before, too old, or of a former life.
    pub replayed: u64,
    /// Of these, those of a former life. When they go on, the sender was restarted
    /// with its clock behind: nobody hears it until the clock is right.
    pub former: u64,
    /// Lost on purpose (`[io] lose-one-in`).
    pub lost_on_purpose: u64,
}

/// What a channel heard, authentic and for the first time.
#[derive(Debug)]
pub enum Heard<'a> {
    /// The body of an envelope.
    Body(Header, &'a [u8]),
    /// A request, at its sequencer or leader.
    Request(Asked<'a>),
    /// What the sequencer of this number stamped; replays do no harm.
    Ordered(u8, Formation, Ordered),
}

/// A request as it lies in the buffer it was received into. Only its outer tag was verified.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Who asks, and for which groups.
    pub ask: Ask,
    packet: &'a mut [u8],
    keys: &'a Keys,
}

impl<'a> Asked<'a> {
    /// Turns it, in place, into the ordered message for all replicas.
    pub fn stamp(self, stamp: &Stamp, reply_to: Address) -> &'a [u8] {
        oum::stamp(self.keys, stamp, reply_to, self.packet);
        self.packet
    }

    /// The packet.
    pub fn packet(&self) -> &[u8] {
        self.packet
    }

    /// What is asked, if the inner tag says so too.
    pub fn read(&self) -> Option<Request> {
        let (_, request) = oum::read_request(self.keys, self.packet).ok()?;
        Some(request)
    }
}

/// More datagrams of a former life than can have been late.
const STILL_COMING: u32 = 100;

/// The former life that was heard last, and how often.
#[derive(Clone, Copy, Debug, Default)]
struct Former {
    sender: u16,
    life: u64,
    heard: u32,
}

impl Former {
    /// Counts a datagram; true once, when they are too many to have been late.
    fn persists(&mut self, sender: u16, life: u64) -> bool {
        if (self.sender, self.life) != (sender, life) {
            let heard = 0;
            *self = Self {
                sender,
                life,
                heard,
            };
        }
        self.heard = self.heard.saturating_add(1);
        self.heard == STILL_COMING
    }
}

/// Verifies and counts.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    guard: ReplayGuard,
    /// The same for requests, whose senders are lives of clients.
    requests: ReplayGuard,
    former: Former,
    pub(crate) counters: Counters,
}

impl Ear {
    /// What the datagram says, if it is authentic and new.
    pub(crate) fn open<'a>(
        &mut self,
        me: &'a Identity,
        from: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Option<Heard<'a>> {
        let heard = match oum::kind(datagram) {
            Some(oum::Kind::Request) => self.request(me, from, datagram),
            Some(oum::Kind::Ordered) => self.ordered(me, datagram),
            None => self.envelope(me, from, datagram),
        };
        self.counters.received += u64::from(heard.is_some());
        heard
    }

    fn envelope<'a>(
        &mut self,
        me: &Identity,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Option<Heard<'a>> {
        match envelope::open(&me.key, me.cluster, datagram) {
            Ok((header, body)) => {
                if self.guard.accept(&header) {
                    return Some(Heard::Body(header, body));
                }
                let former = self.guard.is_former(header.sender, header.incarnation);
                self.replayed(from, former, header.sender, header.incarnation);
            }
            Err(OpenError::Tag | OpenError::Cluster) => self.counters.unauthentic += 1,
            Err(_) => self.counters.malformed += 1,
        }
        None
    }

    fn request<'a>(
        &mut self,
        me: &'a Identity,
        from: SocketAddr,
        packet: &'a mut [u8],
    ) -> Option<Heard<'a>> {
        match oum::open_request(&me.keys, packet) {
            Ok(ask) => {
                let (sender, life) = (oum::sender_of(ask.client), oum::life_of(ask.client));
                if self.requests.accept_from(sender, life, ask.counter) {
                    let keys = &me.keys;
                    return Some(Heard::Request(Asked { ask, packet, keys }));
                }
                let former = self.requests.is_former(sender, life);
                self.replayed(from, former, sender, life);
            }
            Err(error) => self.refused(error),
        }
        None
    }

    fn ordered<'a>(&mut self, me: &Identity, packet: &[u8]) -> Option<Heard<'a>> {
        match oum::open_ordered(&me.keys, packet) {
            Ok((from, formation, ordered)) => {
                return Some(Heard::Ordered(from, formation, ordered));
            }
            Err(error) => self.refused(error),
        }
        None
    }

    fn refused(&mut self, error: oum::OpenError) {
        let counter = match error {
            oum::OpenError::Outer => &mut self.counters.unauthentic,
            oum::OpenError::Inner => &mut self.counters.damaged,
            oum::OpenError::Malformed | oum::OpenError::Version(_) => &mut self.counters.malformed,
        };
        *counter += 1;
    }

    fn replayed(&mut self, from: SocketAddr, former: bool, sender: u16, life: u64) {
        self.counters.replayed += 1;
        if !former {
            return;
        }
        self.counters.former += 1;
        if self.former.persists(sender, life) {
            warn!(%from, "a node started with its clock behind that of its former life, so \
                   nobody hears it: set its clock and restart it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_life_is_spoken_of_once_and_not_for_what_was_only_late() {
        let mut former = Former::default();
        let warnings = (0..1_000).filter(|_| former.persists(2, 6)).count();
        assert_eq!(warnings, 1);
        assert!(!former.persists(2, 5));
    }
}
