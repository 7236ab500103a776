//! The envelope around every datagram between nodes.
//!
//! ```text
//!  0      2     3      4            8         10       12          16
//! +------+-----+------+------------+---------+--------+-----------+
//! | "SP" | ver | kind | cluster    | sender  | zero   | length    |
//! +------+-----+------+------------+---------+--------+-----------+
//! | sender's incarnation (8)       | counter (8)                  |   16..32
//! +--------------------------------+------------------------------+
//! | body (length bytes) ...                                       |
//! +---------------------------------------------------------------+
//! | SipHash-2-4 over everything before it, under the cluster key  |   8 bytes
//! +---------------------------------------------------------------+
//! ```
//!
//! All fields are big-endian. The tag is verified before anything but the
//! fixed header's shape is looked at; a stranger gets no answer. SipHash is a
//! keyed MAC short and cheap enough to be computed by an XDP program too.
//! [`ReplayGuard`] refuses what was seen before: (incarnation, counter) never
//! repeats, because a sender draws a higher incarnation at every start; if its clock is
//! behind, [`crate::refusal`] tells it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use siphasher::sip::SipHasher24;

use crate::codec::{Malformed, Reader, length32};

/// The version of this layout.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_LEN: usize = 32;
/// Bytes after the body.
pub const TAG_LEN: usize = 8;
/// Bytes an envelope adds to its body.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

const MAGIC: &[u8; 2] = b"SP";
/// Where the header has the body's length.
const LENGTH_AT: usize = 12;

/// The key that all nodes of a cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 16]);

impl Key {
    /// A key from its bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn tag(&self, bytes: &[u8]) -> u64 {
        SipHasher24::new_with_key(&self.0).hash(bytes)
    }

    /// A key for one purpose in one cluster, from which this one cannot be told. What is
    /// hashed for it is never hashed for anything else: envelopes begin differently.
    pub(crate) fn derive(&self, purpose: &str, cluster: u32) -> Self {
        let mut derived = [0; 16];
        for (half, number) in derived.chunks_exact_mut(8).zip(0u8..) {
            let mut text = Vec::from(&b"key for "[..]);
            text.extend_from_slice(purpose.as_bytes());
            text.extend_from_slice(&cluster.to_be_bytes());
            text.push(number);
            half.copy_from_slice(&self.tag(&text).to_le_bytes());
        }
        Self(derived)
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)") // a log must not disclose it
    }
}

/// What the body is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A message of the store group, see [`crate::group`].
    Group = 1,
    /// An instance tells the switch that it lives.
    Heartbeat = 2,
    /// What the receiver sent belongs to a former life, see [`crate::refusal`].
    Refusal = 3,
    /// Nothing but the life of its sender, so that a guard knows it; no body.
    Hello = 4,
    /// A region crosses to another machine.
    Region = 5,
}

/// Who sent a datagram, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Hash of the cluster's name, see [`cluster_id`].
    pub cluster: u32,
    /// The sending socket's number in the cluster.
    pub sender: u16,
    /// Which life of the sender.
    pub incarnation: u64,
    /// Rises with every datagram of this life.
    pub counter: u64,
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Too short, wrong magic or contradicting lengths.
    #[error("not an envelope")]
    NotAnEnvelope,
    /// Of another version of the layout.
    #[error("unsupported envelope version {0}")]
    Version(u8),
    /// The tag does not fit: another key, or damaged bytes.
    #[error("authentication failed")]
    Tag,
    /// Authentic, but the kind is unknown to this release.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Authentic, but of another cluster.
    #[error("another cluster")]
    Cluster,
}

/// The number a cluster's name stands for (FNV-1a, 32 bits).
pub fn cluster_id(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Replaces `out` by the sealed datagram.
pub fn seal(key: &Key, header: Header, body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(body.len() + OVERHEAD);
    append(key, header, out, |out| out.extend_from_slice(body));
}

/// Appends the sealed datagram whose body `write` appends.
pub fn append(key: &Key, header: Header, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // At once, not field by field; the length follows.
    let mut head = [0; HEADER_LEN];
    head[..2].copy_from_slice(MAGIC);
    (head[2], head[3]) = (VERSION, header.kind as u8);
    head[4..8].copy_from_slice(&header.cluster.to_be_bytes());
    head[8..10].copy_from_slice(&header.sender.to_be_bytes());
    head[16..24].copy_from_slice(&header.incarnation.to_be_bytes());
    head[24..].copy_from_slice(&header.counter.to_be_bytes());
    out.extend_from_slice(&head);
    write(out);
    let len = length32(out.len() - start - HEADER_LEN);
    out[start + LENGTH_AT..][..4].copy_from_slice(&len.to_be_bytes());
    let tag = key.tag(&out[start..]);
    out.extend_from_slice(&tag.to_be_bytes());
}

/// Verifies a datagram and answers its header and body. `cluster` is the
/// number of the receiver's own cluster.
pub fn open<'a>(
    key: &Key,
    cluster: u32,
    datagram: &'a [u8],
) -> Result<(Header, &'a [u8]), OpenError> {
    let (sealed, tag) = datagram
        .split_last_chunk::<TAG_LEN>()
        .ok_or(OpenError::NotAnEnvelope)?;
    if !sealed.starts_with(MAGIC) || sealed.len() < HEADER_LEN {
        return Err(OpenError::NotAnEnvelope);
    }
    if sealed[2] != VERSION {
        return Err(OpenError::Version(sealed[2]));
    }
    if key.tag(sealed) != u64::from_be_bytes(*tag) {
        return Err(OpenError::Tag);
    }
    parse(cluster, sealed).map_err(|e| e.unwrap_or(OpenError::NotAnEnvelope))
}

/// The layout behind the tag; `None` stands for contradicting lengths.
fn parse(cluster: u32, sealed: &[u8]) -> Result<(Header, &[u8]), Option<OpenError>> {
    let (head, body) = sealed.split_first_chunk::<HEADER_LEN>().ok_or(None)?;
    let mut r = Reader::new(&head[4..]);
    let mut fields = || Ok((r.u32()?, r.u16()?, r.u16()?, r.u32()?, r.u64()?, r.u64()?));
    let (found, sender, zero, len, incarnation, counter) = fields().map_err(|_: Malformed| None)?;
    if zero != 0 || len as usize != body.len() {
        return Err(None);
    }
    if found != cluster {
        return Err(Some(OpenError::Cluster));
    }
    let kind = match head[3] {
        1 => Kind::Group,
        2 => Kind::Heartbeat,
        3 => Kind::Refusal,
        4 => Kind::Hello,
        5 => Kind::Region,
        other => return Err(Some(OpenError::Kind(other))),
    };
    Ok((
        Header {
            kind,
            cluster: found,
            sender,
            incarnation,
            counter,
        },
        body,
    ))
}

/// How far behind the newest counter a datagram may arrive.
pub const REPLAY_WINDOW: u64 = 1024;
const WORDS: usize = REPLAY_WINDOW as usize / 64;

/// Which counters of one life of one sender were seen (RFC 4303, 3.4.3).
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    newest: Option<u64>,
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether `counter` is new; from now on it is not.
    pub fn accept(&mut self, counter: u64) -> bool {
        let Some(newest) = self.newest else {
            self.newest = Some(counter);
            self.set(counter);
            return true;
        };
        if counter > newest {
            if counter - newest >= REPLAY_WINDOW {
                self.seen = [0; WORDS];
            } else {
                (newest + 1..=counter).for_each(|c| self.clear(c));
            }
            self.newest = Some(counter);
        } else if newest - counter >= REPLAY_WINDOW || self.get(counter) {
            return false;
        }
        self.set(counter);
        true
    }

    const fn place(counter: u64) -> (usize, u64) {
        let bit = counter % REPLAY_WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn get(&self, counter: u64) -> bool {
        let (word, mask) = Self::place(counter);
        self.seen[word] & mask != 0
    }

    fn set(&mut self, counter: u64) {
        let (word, mask) = Self::place(counter);
        self.seen[word] |= mask;
    }

    fn clear(&mut self, counter: u64) {
        let (word, mask) = Self::place(counter);
        self.seen[word] &= !mask;
    }
}

/// The senders a [`ReplayGuard`] remembers at most.
pub const MAX_SENDERS: usize = 1024;

/// What a [`ReplayGuard`] says of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Not seen before, and of the newest life.
    New,
    /// Seen before, too old to know, or of one sender too many.
    Before,
    /// Of a life before the newest known one.
    Former {
        /// The newest life.
        known: u64,
        /// So many of former lives came since the newest was last heard.
        times: u32,
    },
}

/// The newest life of a sender.
#[derive(Clone, Debug, Default)]
struct Newest {
    life: u64,
    window: ReplayWindow,
    /// Datagrams of former lives since it was last heard.
    former: u32,
}

/// One [`ReplayWindow`] per sender, for its newest life.
#[derive(Clone, Debug, Default)]
pub struct ReplayGuard {
    senders: BTreeMap<u16, Newest>,
}

impl ReplayGuard {
    /// Whether this datagram was not seen before and is not of a former life.
    /// Call it only for datagrams that [`open`] found authentic.
    pub fn accept(&mut self, header: &Header) -> bool {
        self.accept_from(header.sender, header.incarnation, header.counter)
    }

    /// The same for what is no envelope: `life` is higher in every life of the sender.
    pub fn accept_from(&mut self, sender: u16, life: u64, counter: u64) -> bool {
        self.judge(sender, life, counter) == Seen::New
    }

    /// The same, and why not.
    pub fn judge(&mut self, sender: u16, life: u64, counter: u64) -> Seen {
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&sender) {
            return Seen::Before;
        }
        let newest = self.senders.entry(sender).or_default();
        if life < newest.life {
            newest.former = newest.former.saturating_add(1);
            return Seen::Former {
                known: newest.life,
                times: newest.former,
            };
        }
        if life > newest.life {
            *newest = Newest {
                life,
                ..Newest::default()
            };
        }
        if !newest.window.accept(counter) {
            return Seen::Before;
        }
        newest.former = 0;
        Seen::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const KEY: Key = Key::new([7; 16]);

    fn header(counter: u64) -> Header {
        Header {
            kind: Kind::Group,
            cluster: cluster_id("edge"),
            sender: 3,
            incarnation: 9,
            counter,
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let mut sealed = vec![];
        seal(&KEY, header(1), b"body", &mut sealed);
        let cluster = cluster_id("edge");
        assert_eq!(open(&KEY, cluster, &sealed), Ok((header(1), &b"body"[..])));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&KEY, cluster, &bad).is_err(), "bit {bit}");
        }
        assert_eq!(open(&KEY, cluster + 1, &sealed), Err(OpenError::Cluster));
        assert_eq!(
            open(&Key::new([8; 16]), cluster, &sealed),
            Err(OpenError::Tag)
        );
    }

    #[test]
    fn the_window_takes_each_counter_once_in_any_order() {
        let mut window = ReplayWindow::default();
        for counter in [5, 3, 4, 900, 901, 6] {
            assert!(window.accept(counter), "{counter}");
            assert!(!window.accept(counter), "{counter} again");
        }
        assert!(window.accept(5000));
        assert!(!window.accept(5000 - REPLAY_WINDOW), "too old to know");
        assert!(window.accept(5001 - REPLAY_WINDOW));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
    }

    #[test]
    fn a_former_life_is_refused() {
        let mut guard = ReplayGuard::default();
        assert!(guard.accept(&header(1)));
        assert!(guard.accept(&Header {
            incarnation: 10,
            ..header(1)
        }));
        assert!(!guard.accept(&header(2)));
        let former = |times| Seen::Former { known: 10, times };
        assert_eq!(guard.judge(3, 9, 3), former(2));
        assert_eq!(guard.judge(3, 10, 1), Seen::Before);
        assert_eq!(
            guard.judge(3, 9, 3),
            former(3),
            "a replay is no sign of life"
        );
        assert_eq!(guard.judge(3, 10, 2), Seen::New);
        assert_eq!(
            guard.judge(3, 9, 3),
            former(1),
            "the newest was heard in between"
        );
        assert_eq!(guard.judge(4, 9, 3), Seen::New, "never heard before");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = open(&KEY, 0, &bytes);
            let _ = parse(0, &[&b"SP\x01"[..], &bytes].concat());
        }

        #[test]
        fn what_is_sealed_opens(body in proptest::collection::vec(any::<u8>(), 0..300), counter: u64) {
            let mut sealed = vec![];
            seal(&KEY, header(counter), &body, &mut sealed);
            prop_assert_eq!(sealed.len(), body.len() + OVERHEAD);
            prop_assert_eq!(open(&KEY, cluster_id("edge"), &sealed), Ok((header(counter), &body[..])));
        }
    }
}
