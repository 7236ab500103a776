//! What happens to the packets of a flow, and the reference interpreter that does it.

use stateplane_wire::checksum::Delta;
use stateplane_wire::ipv4;
use stateplane_wire::packet::{Fragment, Headers, Inner, Transport};

use crate::Endpoint;

/// A function's port. Functions with two sides call them [`PortId::INSIDE`] and
/// [`PortId::OUTSIDE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u8);

impl PortId {
    /// Towards the hosts that the function serves.
    pub const INSIDE: PortId = PortId(0);
    /// Towards the rest of the world.
    pub const OUTSIDE: PortId = PortId(1);
}

/// What happens to each packet of a flow before it leaves. Hardware addresses are not
/// its business: they depend on the next hop, not on the flow.
///
/// In an ICMP error, `source` also replaces the *destination* of the packet it quotes
/// and `destination` that packet's *source*: the quoted packet travelled the other way
/// (RFC 5508 section 4.2). An echo has one identifier for both directions; if both
/// endpoints are replaced, the destination's port becomes the identifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowAction {
    /// The endpoint that replaces the source, if any does.
    pub source: Option<Endpoint>,
    /// The endpoint that replaces the destination, if any does.
    pub destination: Option<Endpoint>,
    /// By how much the time to live falls: one per function that routes.
    pub ttl: u8,
    /// The port the packet leaves by.
    pub out: PortId,
}

/// The packet has no ports to rewrite, or `headers` were not read from this frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the action does not fit the packet")]
pub struct Unfit;

impl FlowAction {
    /// Rewrites the packet in `frame`, which `headers` were read from. All checksums
    /// are updated incrementally (RFC 1624): a packet that was damaged on its way
    /// arrives with a wrong checksum, as it must. A time to live never falls below zero.
    /// On an error the packet may be half rewritten and must not be sent.
    pub fn apply(&self, frame: &mut [u8], headers: &Headers) -> Result<(), Unfit> {
        let rewrites = self.source.is_some() || self.destination.is_some();
        if rewrites && headers.fragment == Fragment::Later {
            return Err(Unfit);
        }
        let mut packet = Patch {
            bytes: frame.get_mut(..headers.end).ok_or(Unfit)?,
        };
        let mut header = Delta::default();
        if self.ttl > 0 {
            // Time to live and protocol share a word.
            let word = packet.get(headers.l3 + 8)?;
            let ttl = (word >> 8).saturating_sub(self.ttl.into());
            packet.set(headers.l3 + 8, (ttl << 8) | (word & 0xff), &mut header)?;
        }
        // What of the addresses the transport's pseudo-header covers.
        let mut pseudo = Delta::default();
        for (endpoint, at) in [(self.source, 12), (self.destination, 16)] {
            if let Some(endpoint) = endpoint {
                let addr = endpoint.addr.to_bits();
                packet.set_field(headers.l3 + at, addr, &mut [&mut header, &mut pseudo])?;
            }
        }
        packet.settle(headers.l3 + 10, header)?;
        if !rewrites {
            return Ok(());
        }
        match headers.transport {
            Transport::Tcp { .. } | Transport::Udp { .. } => {
                let udp = matches!(headers.transport, Transport::Udp { .. });
                for (endpoint, at) in [(self.source, 0), (self.destination, 2)] {
                    if let Some(endpoint) = endpoint {
                        packet.set(headers.l4 + at, endpoint.port, &mut pseudo)?;
                    }
                }
                match udp {
                    true => packet.settle_udp(headers.l4 + 6, pseudo),
                    false => packet.settle(headers.l4 + 16, pseudo),
                }
            }
            Transport::Echo { .. } => {
                // No pseudo-header (RFC 792).
                let mut message = Delta::default();
                if let Some(endpoint) = self.destination.or(self.source) {
                    packet.set(headers.l4 + 4, endpoint.port, &mut message)?;
                }
                packet.settle(headers.l4 + 2, message)?;
                // Of nothing but zeros the sum is zero, which an update cannot tell from its
                // other form (RFC 1624 section 3).
                let message = &mut packet.bytes[headers.l4..];
                if message.iter().all(|byte| *byte == 0) {
                    message[2..4].fill(0xff);
                }
                Ok(())
            }
            Transport::Error(inner) => {
                let mut message = Delta::default();
                self.apply_to_quoted(&mut packet, &inner, &mut message)?;
                packet.settle(headers.l4 + 2, message)
            }
            Transport::Fragment | Transport::Other { .. } => Err(Unfit),
        }
    }

    /// Rewrites the packet quoted in an ICMP error; every word that changes there,
    /// checksums included, changes `message`, the sum of the error itself.
    fn apply_to_quoted(
        &self,
        packet: &mut Patch<'_>,
        inner: &Inner,
        message: &mut Delta,
    ) -> Result<(), Unfit> {
        inner.ports.ok_or(Unfit)?;
        let mut header = Delta::default();
        let mut pseudo = Delta::default();
        for (endpoint, at) in [(self.destination, 12), (self.source, 16)] {
            if let Some(endpoint) = endpoint {
                let deltas = &mut [&mut header, &mut pseudo, &mut *message];
                packet.set_field(inner.l3 + at, endpoint.addr.to_bits(), deltas)?;
            }
        }
        let sum = packet.get(inner.l3 + 10)?;
        packet.set(inner.l3 + 10, header.apply(sum), message)?;
        if inner.protocol == ipv4::ICMP {
            let mut echo = Delta::default();
            if let Some(endpoint) = self.source.or(self.destination) {
                let old = packet.set(inner.l4 + 4, endpoint.port, &mut echo)?;
                *message = message.word(old, endpoint.port);
            }
            let sum = packet.get(inner.l4 + 2)?;
            packet.set(inner.l4 + 2, echo.apply(sum), message)?;
            return Ok(());
        }
        for (endpoint, at) in [(self.destination, 0), (self.source, 2)] {
            if let Some(endpoint) = endpoint {
                let old = packet.set(inner.l4 + at, endpoint.port, &mut pseudo)?;
                *message = message.word(old, endpoint.port);
            }
        }
        let udp = inner.protocol == ipv4::UDP;
        let at = inner.l4 + if udp { 6 } else { 16 };
        // Routers that quote only eight bytes cut the TCP checksum off.
        if let Ok(sum) = packet.get(at) {
            let updated = if udp {
                pseudo.apply_udp(sum)
            } else {
                pseudo.apply(sum)
            };
            packet.set(at, updated, message)?;
        }
        Ok(())
    }
}

/// A packet being rewritten word by word, each at an even offset of what its checksum
/// covers.
struct Patch<'a> {
    bytes: &'a mut [u8],
}

impl Patch<'_> {
    #[inline]
    fn get(&self, at: usize) -> Result<u16, Unfit> {
        let word = self.bytes.get(at..at + 2).ok_or(Unfit)?;
        Ok(u16::from_be_bytes([word[0], word[1]]))
    }

    /// Writes a word, notes the change, returns the old one.
    #[inline]
    fn set(&mut self, at: usize, new: u16, delta: &mut Delta) -> Result<u16, Unfit> {
        let old = self.get(at)?;
        *delta = delta.word(old, new);
        self.bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        Ok(old)
    }

    #[inline]
    fn set_field(&mut self, at: usize, new: u32, deltas: &mut [&mut Delta]) -> Result<(), Unfit> {
        let old = u32::from(self.get(at)?) << 16 | u32::from(self.get(at + 2)?);
        for delta in deltas {
            **delta = delta.field(old, new);
        }
        self.bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
        Ok(())
    }

    /// Updates the checksum at `at`.
    #[inline]
    fn settle(&mut self, at: usize, delta: Delta) -> Result<(), Unfit> {
        let sum = self.get(at)?;
        self.bytes[at..at + 2].copy_from_slice(&delta.apply(sum).to_be_bytes());
        Ok(())
    }

    #[inline]
    fn settle_udp(&mut self, at: usize, delta: Delta) -> Result<(), Unfit> {
        let sum = self.get(at)?;
        self.bytes[at..at + 2].copy_from_slice(&delta.apply_udp(sum).to_be_bytes());
        Ok(())
    }
}
