//! What a channel makes of the datagrams that reach it.

use std::net::SocketAddr;

use serde::Serialize;
use stateplane_wire::envelope::{self, Header, Kind, OpenError, ReplayGuard, Seen};
use stateplane_wire::group::{Formation, Ordered, Request};
use stateplane_wire::oum::{self, Ask, Keys, Stamp};
use stateplane_wire::refusal::Refusal;
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
    /// Of these, those of a former life. Some are late. When they go on, the sender was
    /// restarted with its clock behind, and is told.
    pub former: u64,
    /// Times that this node was told so, and took a later life.
    pub outlived: u64,
    /// Lost on purpose (`[io] lose-one-in`).
    pub lost_on_purpose: u64,
    /// System calls that sent or received any.
    pub calls: u64,
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
    pub fn stamp(self, stamp: &Stamp) -> &'a [u8] {
        oum::stamp(self.keys, stamp, self.packet);
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

/// More datagrams of a former life than can have been late: their sender is told, and again
/// after as many more.
const TELL: u32 = 4;
/// Somebody who was told so often does not listen, or cannot.
const STILL_COMING: u32 = 100 * TELL;

/// Verifies and counts.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    guard: ReplayGuard,
    /// The same for requests, whose senders are lives of clients.
    requests: ReplayGuard,
    /// To be told that its life is a former one; one at a time, as they go on coming.
    refusal: Option<(SocketAddr, Refusal)>,
    /// Our own life is a former one to somebody.
    refused: Option<Refusal>,
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
            // What makes up for a guard's ignorance passes none.
            Ok((header, body)) if header.kind == Kind::Refusal => {
                let refusal = Refusal::decode(body);
                self.refused = refusal.filter(|r| me.is_meant(r)).or(self.refused);
            }
            Ok((header, body)) => {
                let (sender, life) = (header.sender, header.incarnation);
                match self.guard.judge(sender, life, header.counter) {
                    Seen::New if header.kind == Kind::Hello => {}
                    Seen::New => return Some(Heard::Body(header, body)),
                    seen => self.replayed(from, seen, sender, life),
                }
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
                match self.requests.judge(sender, life, ask.counter) {
                    Seen::New => {
                        let keys = &me.keys;
                        return Some(Heard::Request(Asked { ask, packet, keys }));
                    }
                    seen => self.replayed(from, seen, sender, life),
                }
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

    fn replayed(&mut self, from: SocketAddr, seen: Seen, sender: u16, refused: u64) {
        self.counters.replayed += 1;
        let Seen::Former { known, times } = seen else {
            return;
        };
        self.counters.former += 1;
        if times.is_multiple_of(TELL) {
            let refusal = Refusal {
                refused,
                known,
                sender,
            };
            self.refusal = Some((from, refusal));
        }
        if times == STILL_COMING {
            warn!(%from, "a node speaks as if it had been started before one that was heard \
                   already, and does not listen: are two processes running as one node?");
        }
    }

    /// Whom to tell that its life is a former one.
    pub(crate) fn take_refusal(&mut self) -> Option<(SocketAddr, Refusal)> {
        self.refusal.take()
    }

    /// That our own life is a former one to somebody.
    pub(crate) fn take_refused(&mut self) -> Option<Refusal> {
        let refused = self.refused.take();
        self.counters.outlived += u64::from(refused.is_some());
        refused
    }
}
