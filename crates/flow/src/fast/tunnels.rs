//! Headers that are put in front of packets: IP in IP, GRE, UDP encapsulations such as VXLAN.

use core::sync::atomic::AtomicU64;

use super::hops::{Busy, publish, read_record};
use super::layout::{TUNNEL_HEADER_MAX, TUNNEL_HEADER_WORD, TUNNEL_WORDS};
use super::memory::{BeyondEnd, Memory, load, store};

/// A header from the outer IP header on, as it stands in front of the packet; lengths and the IPv4
/// header checksum are filled in per packet.
///
/// The header says what it carries (protocol, GRE type, inner Ethernet header), so a tunnel
/// is for packets of one family. Outer UDP checksums stay as the header has them: zero, which is
/// right for IPv4 and for tunnels over IPv6 (RFC 6935). What the outer header says of congestion is the
/// header's too: the compatibility mode of RFC 6040.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    header: [u8; TUNNEL_HEADER_MAX],
    len: u8,
    udp: u8,
    varies: bool,
}

/// Why a header cannot be a tunnel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTunnel {
    /// Of no use, or longer than a tunnel's memory.
    #[error(
        "a tunnel's header has 20 to {TUNNEL_HEADER_MAX} bytes, of even number; this one has {0}"
    )]
    Length(usize),
    /// Neither an IPv4 header without options nor an IPv6 header, or one that ends too early.
    #[error("a tunnel's header begins with a whole IPv4 header without options, or an IPv6 header")]
    Outer,
}

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP: u8 = 17;
const UDP_LEN: usize = 8;

impl Tunnel {
    /// A tunnel with this header, whose lengths and IPv4 checksum need not be right. With
    /// `varies`, an outer UDP source port tells flows apart for the network (RFC 7348).
    pub fn new(header: &[u8], varies: bool) -> Result<Self, BadTunnel> {
        let len = header.len();
        if !(IPV4_LEN..=TUNNEL_HEADER_MAX).contains(&len) || !len.is_multiple_of(2) {
            return Err(BadTunnel::Length(len));
        }
        let (end, protocol) = match header[0] {
            0x45 => (IPV4_LEN, header[9]),
            first if first >> 4 == 6 && len >= IPV6_LEN => (IPV6_LEN, header[6]),
            _ => return Err(BadTunnel::Outer),
        };
        let udp = protocol == UDP && len >= end + UDP_LEN;
        let mut bytes = [0; TUNNEL_HEADER_MAX];
        bytes[..len].copy_from_slice(header);
        // Sums are over words: what is filled in counts as zero before.
        if end == IPV4_LEN {
            bytes[2..4].fill(0);
            bytes[10..12].fill(0);
        }
        Ok(Tunnel {
            header: bytes,
            len: len as u8,
            udp: if udp { end as u8 } else { 0 },
            varies: varies && udp,
        })
    }

    /// The header.
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.len)]
    }

    /// Whether the outer header is IPv4's, else it is IPv6's.
    pub fn is_ipv4(&self) -> bool {
        self.header[0] >> 4 == 4
    }

    /// Offset of the outer UDP header, if there is one.
    pub fn udp(&self) -> Option<usize> {
        (self.udp != 0).then_some(usize::from(self.udp))
    }

    /// Whether the outer UDP source port is made from the flow's hash.
    pub fn varies(&self) -> bool {
        self.varies
    }
}

/// The tunnels, as their one writer has them; number 0 is never used.
#[derive(Debug)]
pub struct Tunnels<M>(M);

impl<M: Memory> Tunnels<M> {
    /// Takes memory for as many as fit, 256 at most.
    pub const fn new(memory: M) -> Self {
        Tunnels(memory)
    }

    /// Sets a tunnel, for all entries that use it at once.
    pub fn set(&mut self, index: u8, tunnel: &Tunnel) -> Result<(), BeyondEnd> {
        let words = self.words(index)?;
        publish(words, true, || {
            let family = if tunnel.is_ipv4() { 4 } else { 6 };
            let head = [
                tunnel.len,
                family,
                tunnel.udp,
                u8::from(tunnel.varies),
                0,
                0,
                0,
                0,
            ];
            store(words, 1, u64::from_le_bytes(head));
            for (n, bytes) in tunnel.header.as_chunks().0.iter().enumerate() {
                store(words, TUNNEL_HEADER_WORD + n, u64::from_le_bytes(*bytes));
            }
        });
        Ok(())
    }

    /// Takes a tunnel away: its packets go to the slow path.
    pub fn clear(&mut self, index: u8) -> Result<(), BeyondEnd> {
        publish(self.words(index)?, false, || ());
        Ok(())
    }

    /// The tunnel, if there is one.
    pub fn get(&self, index: u8) -> Option<Tunnel> {
        tunnel(&self.0, index).ok().flatten()
    }

    /// How many there can be, the unused one included.
    pub fn capacity(&self) -> usize {
        (self.0.len() / TUNNEL_WORDS).min(1 << 8)
    }

    fn words(&self, index: u8) -> Result<&[AtomicU64], BeyondEnd> {
        if usize::from(index) >= self.capacity() {
            let last = self.capacity().saturating_sub(1);
            let (what, index) = ("tunnel", u16::from(index));
            return Err(BeyondEnd { what, index, last });
        }
        Ok(&self.0[usize::from(index) * TUNNEL_WORDS..][..TUNNEL_WORDS])
    }
}

/// A reader's look-up.
pub(super) fn tunnel(memory: &[AtomicU64], index: u8) -> Result<Option<Tunnel>, Busy> {
    let at = usize::from(index) * TUNNEL_WORDS;
    let Some(words) = memory.get(at..at + TUNNEL_WORDS) else {
        return Ok(None);
    };
    read_record(words, || {
        let [len, _, udp, varies, ..] = load(words, 1).to_le_bytes();
        let mut header = [0; TUNNEL_HEADER_MAX];
        for (n, bytes) in header.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = load(words, TUNNEL_HEADER_WORD + n).to_le_bytes();
        }
        Tunnel {
            header,
            len: len.min(TUNNEL_HEADER_MAX as u8),
            udp: udp.min(TUNNEL_HEADER_MAX as u8 - UDP_LEN as u8),
            varies: varies != 0,
        }
    })
}
