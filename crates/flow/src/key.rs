//! Who talks to whom: endpoints and flow keys.

use core::hash::{Hash, Hasher};
use core::net::Ipv4Addr;

/// What the function translates. The numbers are those of the IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// ICMP echo: the identifier stands for the port.
    IcmpEcho = 1,
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

impl Protocol {
    /// All that are translated, in the order of their numbers.
    pub const ALL: [Protocol; 3] = [Protocol::IcmpEcho, Protocol::Tcp, Protocol::Udp];

    /// The protocol's number in the IPv4 header.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The protocol with this number, if it is one that is translated.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::IcmpEcho),
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// One end of a flow: an address and a port (for ICMP echo: the identifier).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    /// The IPv4 address.
    pub addr: Ipv4Addr,
    /// The port or ICMP echo identifier.
    pub port: u16,
}

impl Endpoint {
    /// In a [`FlowKey`]: whoever it is.
    pub const ANY: Endpoint = Endpoint {
        addr: Ipv4Addr::UNSPECIFIED,
        port: 0,
    };
}

/// A flow: what of its packets a function's decision depends on. An end that does not
/// matter is [`Endpoint::ANY`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowKey {
    /// The protocol.
    pub protocol: Protocol,
    /// Who sent the packet.
    pub source: Endpoint,
    /// For whom it is.
    pub destination: Endpoint,
}

/// Two words instead of seven fields: keyed hashes cost by the call.
impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let end = |end: Endpoint| u64::from(end.addr.to_bits()) << 16 | u64::from(end.port);
        state.write_u64(end(self.source) | u64::from(self.protocol.number()) << 48);
        state.write_u64(end(self.destination));
    }
}
