//! The packet: sealed by a client, stamped in place, opened by replicas.

use alloc::vec::Vec;

use stateplane_base::{ClientId, Incarnation, LogTime};
use zerocopy::byteorder::network_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::sip::SipState;
use super::{Groups, LAST_NUMBER, MAX_STAMPS, Stamp, Stamps};
use crate::envelope;
use crate::group::{Address, Batch, Formation, Ordered, Request, Session};

/// The first two bytes.
pub const MAGIC: [u8; 2] = *b"SO";
/// The version of this layout.
pub const VERSION: u8 = 1;
/// Bytes before the operations.
pub const HEADER_LEN: usize = 112;

/// Where the ranges of the tags begin and end.
const OUTER: usize = 8;
const STAMPS: usize = 16;
const TIME: usize = 32;
const SEQUENCES: usize = 40;
const INNER: usize = 72;
const CLIENT: usize = 80;
const COUNTER: usize = 88;
/// Bits of a counter or a sequence number.
const COUNTER_BITS: u32 = LAST_NUMBER.count_ones();

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// From a client to the sequencer.
    Request = 1,
    /// From the sequencer to all replicas.
    Ordered = 2,
}

/// The header as it lies in the packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 2],
    version: u8,
    kind: u8,
    sequencer: u8,
    unused: [u8; 3],
    outer: U64,
    formation: U64,
    session: U64,
    time: U64,
    sequences: [U64; MAX_STAMPS],
    inner: U64,
    client: U64,
    /// The groups in the first byte, the counter in the others.
    counter: U64,
    group_ids: [U16; MAX_STAMPS],
    done_below: U64,
}

/// The derived keys of a cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    request: envelope::Key,
    ordered: envelope::Key,
    inner: envelope::Key,
}

impl Keys {
    /// The keys of the cluster with this key and number.
    pub fn derive(key: &envelope::Key, cluster: u32) -> Self {
        let derived = |purpose| key.derive(purpose, cluster);
        Self {
            request: derived("oum request"),
            ordered: derived("oum ordered"),
            inner: derived("oum inner"),
        }
    }

    /// Where the outer tag of every request begins.
    pub fn request_state(&self) -> SipState {
        SipState::new(self.request.bytes())
    }

    /// Where the outer tag begins of every ordered message of a session that this sequencer
    /// stamps.
    pub fn ordered_state(&self, sequencer: u8, formation: Formation, session: Session) -> SipState {
        SipState::new(self.ordered.bytes())
            .absorb(head(Kind::Ordered, sequencer))
            .absorb(formation.to_be_bytes())
            .absorb(session.to_be_bytes())
    }

    /// The outer tag of a request.
    fn request(&self, bytes: &[u8]) -> u64 {
        let header = whole(bytes);
        SipState::new(self.request.bytes())
            .absorb(field(header, CLIENT))
            .finish(number(header, COUNTER), 15)
    }

    /// The outer tag of an ordered message for so many groups.
    fn ordered(&self, groups: Groups, bytes: &[u8]) -> u64 {
        let header = whole(bytes);
        let first = [0, STAMPS, STAMPS + 8, TIME, INNER];
        let others = (1..groups.len()).map(|n| SEQUENCES + 8 * n);
        first
            .into_iter()
            .chain(others)
            .fold(SipState::new(self.ordered.bytes()), |state, at| {
                state.absorb(field(header, at))
            })
            .finish(number(header, SEQUENCES), 39 + 8 * groups.len())
    }

    fn inner(&self, bytes: &[u8]) -> u64 {
        self.inner.tag(&bytes[CLIENT..])
    }
}

/// The header as bytes; who asks for it has seen that it is there.
fn whole(packet: &[u8]) -> &[u8; HEADER_LEN] {
    packet.first_chunk().expect("a packet begins with a header")
}

/// Eight bytes of the header.
fn field(header: &[u8; HEADER_LEN], at: usize) -> [u8; 8] {
    *header[at..].first_chunk().expect("a field of the header")
}

/// A number of seven bytes, without what is before it in its field.
fn number(header: &[u8; HEADER_LEN], at: usize) -> [u8; 7] {
    let [_, number @ ..] = field(header, at);
    number
}

/// Why a packet was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Too short, another magic or kind, or fields that contradict each other.
    #[error("not a packet of the ordered multicast")]
    Malformed,
    /// Of another version of the layout.
    #[error("unsupported version {0} of the ordered multicast")]
    Version(u8),
    /// The outer tag does not fit: another key or cluster, or damaged bytes.
    #[error("authentication failed")]
    Outer,
    /// The sequencer's tag fits, the client's does not: the number counts, the request
    /// is lost.
    #[error("authentication of the request failed")]
    Inner,
}

/// The first eight bytes; a request's sequencer is 0.
pub const fn head(kind: Kind, sequencer: u8) -> [u8; OUTER] {
    let [m0, m1] = MAGIC;
    [m0, m1, VERSION, kind as u8, sequencer, 0, 0, 0]
}

/// What a sequencer reads of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Who asks.
    pub client: ClientId,
    /// Never repeats for this client; at most [`LAST_NUMBER`].
    pub counter: u64,
    /// For whom.
    pub groups: Groups,
}

/// A client is one life of one sender (48 bits of its incarnation: microseconds repeat after
/// nine years). Its id names both, so that nobody can speak for another.
pub const fn client_id(sender: u16, life: Incarnation) -> ClientId {
    ClientId(life.0 << 16 | sender as u64)
}

/// The sender whose life a client is.
pub const fn sender_of(client: ClientId) -> u16 {
    client.0 as u16
}

/// Which life of its sender a client is: later ones are higher.
pub const fn life_of(client: ClientId) -> u64 {
    client.0 >> 16
}

/// What a datagram is, if it is one of ours; nothing but its first bytes is looked at.
pub fn kind(datagram: &[u8]) -> Option<Kind> {
    match datagram {
        [m0, m1, _, kind, ..] if [*m0, *m1] == MAGIC => match kind {
            1 => Some(Kind::Request),
            2 => Some(Kind::Ordered),
            _ => None,
        },
        _ => None,
    }
}

/// Appends the sealed request to `out`.
///
/// # Panics
/// If the counter is beyond [`LAST_NUMBER`].
pub fn seal_request(
    keys: &Keys,
    counter: u64,
    groups: Groups,
    request: &Request,
    out: &mut Vec<u8>,
) {
    assert!(counter <= LAST_NUMBER, "no client asks so often");
    let start = out.len();
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        kind: Kind::Request as u8,
        client: U64::new(request.client.0),
        counter: U64::new((groups.len() as u64) << COUNTER_BITS | counter),
        group_ids: groups.ids().map(U16::new),
        done_below: U64::new(request.done_below),
        ..Header::new_zeroed()
    };
    out.reserve(HEADER_LEN + request.batch.size());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(request.batch.bytes());
    let packet = &mut out[start..];
    let inner = keys.inner(packet);
    packet[INNER..CLIENT].copy_from_slice(&inner.to_be_bytes());
    let outer = keys.request(packet);
    packet[OUTER..STAMPS].copy_from_slice(&outer.to_be_bytes());
}

/// Checks the shape, but no tag.
fn open(kind: Kind, datagram: &[u8]) -> Result<(&Header, Groups), OpenError> {
    let (header, _) = Header::ref_from_prefix(datagram).map_err(|_| OpenError::Malformed)?;
    if header.magic != MAGIC || header.kind != kind as u8 {
        return Err(OpenError::Malformed);
    }
    if header.version != VERSION {
        return Err(OpenError::Version(header.version));
    }
    let count = (header.counter.get() >> COUNTER_BITS) as u8;
    let ids = header.group_ids.map(U16::get);
    let groups = Groups::new(count, ids).ok_or(OpenError::Malformed)?;
    Ok((header, groups))
}

/// Sequencer: verifies a request's outer tag.
pub fn open_request(keys: &Keys, datagram: &[u8]) -> Result<Ask, OpenError> {
    let (header, groups) = open(Kind::Request, datagram)?;
    if keys.request(datagram) != header.outer.get() {
        return Err(OpenError::Outer);
    }
    Ok(Ask {
        client: ClientId(header.client.get()),
        counter: header.counter.get() & LAST_NUMBER,
        groups,
    })
}

/// Sequencer: makes an ordered message out of a request that was opened. `stamp` numbers
/// the request's groups.
///
/// # Panics
/// If `packet` is shorter than a header.
pub fn stamp(keys: &Keys, stamp: &Stamp, packet: &mut [u8]) {
    packet[..OUTER].copy_from_slice(&head(Kind::Ordered, stamp.sequencer));
    let (header, _) = Header::mut_from_prefix(packet).expect("it was opened");
    header.formation = U64::new(stamp.formation);
    header.session = U64::new(stamp.session);
    header.time = U64::new(stamp.time.as_nanos());
    header.sequences = stamp.stamps.sequences().map(U64::new);
    let outer = keys.ordered(stamp.stamps.groups(), packet);
    packet[OUTER..STAMPS].copy_from_slice(&outer.to_be_bytes());
}

/// Verifies both tags of a request and reads all of it: for a replica that orders requests
/// itself.
pub fn read_request(keys: &Keys, datagram: &[u8]) -> Result<(Ask, Request), OpenError> {
    Ok((open_request(keys, datagram)?, open_inner(keys, datagram)?))
}

/// Verifies the inner tag and reads what was asked.
fn open_inner(keys: &Keys, datagram: &[u8]) -> Result<Request, OpenError> {
    let (header, operations) =
        Header::ref_from_prefix(datagram).map_err(|_| OpenError::Malformed)?;
    if keys.inner(datagram) != header.inner.get() {
        return Err(OpenError::Inner);
    }
    Ok(Request {
        client: ClientId(header.client.get()),
        done_below: header.done_below.get(),
        reply_to: Address::default(), // known to the reader, or nobody's business
        batch: Batch::from_bytes(operations).map_err(|_| OpenError::Inner)?,
    })
}

/// Replica: verifies both tags and reads the message and which sequencer stamped it.
pub fn open_ordered(keys: &Keys, datagram: &[u8]) -> Result<(u8, Formation, Ordered), OpenError> {
    let (header, groups) = open(Kind::Ordered, datagram)?;
    if keys.ordered(groups, datagram) != header.outer.get() {
        return Err(OpenError::Outer);
    }
    let places = header.sequences.map(U64::get);
    let stamps = Stamps::from_places(groups, places).ok_or(OpenError::Malformed)?;
    let ordered = Ordered {
        session: header.session.get(),
        time: LogTime::from_nanos(header.time.get()),
        stamps,
        request: open_inner(keys, datagram)?,
    };
    Ok((header.sequencer, header.formation.get(), ordered))
}
