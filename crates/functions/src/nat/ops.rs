//! The NAT's operations on the store, as bytes.
//!
//! Every type here implements [`Operation`]: an instance writes `Bind { .. }.encode()` and reads the
//! answer with `Bind::decode_reply`. All numbers are in network byte order, reserved bytes are zero
//! and ignored, and every length is exact. Common parts:
//!
//! ```text
//! endpoint (6)    0               4       6
//!                 | address       | port  |         port: the identifier for ICMP echo
//!
//! owner (16)      0               8               16
//!                 | instance      | epoch         |
//!
//! mapping (32)    0    1     2        8         14    16        24         32
//!                 |prot|class| inside | outside | rsv | expires | created  |
//!                             endpoint  endpoint        LogTime   LogTime
//! ```
//!
//! `protocol` is the number in the IPv4 header (1, 6 or 17), `class` a [`Class`].
//!
//! * [`block`]: who owns which block of outside ports, and until when
//! * [`bind`]: mappings asked for by packets
//! * [`mapping`]: mappings found, kept alive and listed

pub mod bind;
pub mod block;
pub mod mapping;

use core::net::Ipv4Addr;

use stateplane_base::LogTime;
use stateplane_flow::{Endpoint, Protocol};
pub use stateplane_lease::{InstanceId, Owner};
pub use stateplane_state::op::{Operation, ReplyError};
use stateplane_state::{ProcedureId, Refusal};
use zerocopy::byteorder::network_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use bind::{Bind, Binding, Bindings, Bound};
pub use block::{BlockTaken, Lease, Register, Release, Renew, TakeBlock};
pub use mapping::{Cursor, Found, List, Lookup, Page, Refresh, RefreshItem, Refreshed};

/// Outside ports of one block: the upper eight bits of the port are the block's index.
pub const BLOCK_PORTS: u16 = 256;

/// The block an outside port belongs to.
pub const fn block_of(port: u16) -> u8 {
    (port >> 8) as u8
}

/// `nat.register@1`
pub const REGISTER: ProcedureId = ProcedureId::of("nat.register", 1);
/// `nat.take_block@1`
pub const TAKE_BLOCK: ProcedureId = ProcedureId::of("nat.take_block", 1);
/// `nat.renew@1`
pub const RENEW: ProcedureId = ProcedureId::of("nat.renew", 1);
/// `nat.release@1`
pub const RELEASE: ProcedureId = ProcedureId::of("nat.release", 1);
/// `nat.bind@2`
pub const BIND: ProcedureId = ProcedureId::of("nat.bind", 2);
/// `nat.lookup@1`
pub const LOOKUP: ProcedureId = ProcedureId::of("nat.lookup", 1);
/// `nat.refresh@1`
pub const REFRESH: ProcedureId = ProcedureId::of("nat.refresh", 1);
/// `nat.list@1`
pub const LIST: ProcedureId = ProcedureId::of("nat.list", 1);

/// What kind of traffic keeps a mapping alive, and so for how long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// TCP: opening; the handshake is not complete.
    Transitory = 0,
    /// TCP: the handshake is complete.
    Established = 1,
    /// TCP: FIN in both directions, or RST. The only class that may shorten a mapping's life.
    ///
    /// A mapping serves all connections of its inside endpoint, so an instance says this only of
    /// the last one it knows of.
    Closing = 2,
    /// UDP.
    Udp = 3,
    /// ICMP echo.
    Icmp = 4,
}

impl Class {
    /// The class with this number on the wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Transitory),
            1 => Some(Self::Established),
            2 => Some(Self::Closing),
            3 => Some(Self::Udp),
            4 => Some(Self::Icmp),
            _ => None,
        }
    }

    /// The class a mapping of this protocol begins with.
    pub const fn initial(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Transitory,
            Protocol::Udp => Self::Udp,
            Protocol::IcmpEcho => Self::Icmp,
        }
    }

    /// The protocol whose traffic is of this class.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::Transitory | Self::Established | Self::Closing => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
            Self::Icmp => Protocol::IcmpEcho,
        }
    }

    /// The name shown to people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transitory => "transitory",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// An inside endpoint and the outside endpoint the world sees in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The protocol both endpoints belong to.
    pub protocol: Protocol,
    /// The traffic that last set `expires`.
    pub class: Class,
    /// The subscriber's own endpoint.
    pub inside: Endpoint,
    /// The endpoint the NAT lends it.
    pub outside: Endpoint,
    /// When the mapping ends if nobody refreshes it.
    pub expires: LogTime,
    /// When it was made.
    pub created: LogTime,
}

/// Defines [`NatRefusal`] with its stable numbers.
macro_rules! nat_refusals {
    ($($number:literal $name:ident $text:literal;)*) => {
        /// Why the NAT's procedures refuse.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
        pub enum NatRefusal { $(#[doc = $text] #[error($text)] $name,)* }

        impl NatRefusal {
            /// The NAT's reason in a store's refusal.
            pub const fn from_refusal(refusal: Refusal) -> Option<Self> {
                match refusal.as_custom() {
                    $(Some($number) => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The NAT's reason in a failed reply.
            pub const fn from_error(error: ReplyError) -> Option<Self> {
                match error {
                    ReplyError::Refused(refusal) => Self::from_refusal(refusal),
                    ReplyError::Malformed => None,
                }
            }
        }

        impl From<NatRefusal> for Refusal {
            fn from(refusal: NatRefusal) -> Self {
                Self::custom(match refusal { $(NatRefusal::$name => $number,)* })
            }
        }
    };
}

nat_refusals! {
    0 ConfigMismatch "the instance and the store were started from different configurations";
    1 Fenced "a later registration of this instance took over: register again";
    2 LeaseEnded "the owner's lease has ended: renew it first";
    3 OutsideRange "the outside endpoint or block is not part of the pool";
    4 NotBlockOwner "the port's block belongs to somebody else";
    5 PortBusy "the proposed port already serves another mapping";
    6 PortQuarantined "the proposed port served another mapping until shortly before";
    7 Quota "the subscriber has reached its limit of mappings";
    8 BlocksTaken "every candidate block is owned";
    9 BlocksQuarantined "no candidate block is free, but some will be after their quarantine";
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct WireEndpoint {
    addr: [u8; 4],
    port: U16,
}

impl From<Endpoint> for WireEndpoint {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            addr: endpoint.addr.octets(),
            port: endpoint.port.into(),
        }
    }
}

impl From<WireEndpoint> for Endpoint {
    fn from(wire: WireEndpoint) -> Self {
        Self {
            addr: Ipv4Addr::from(wire.addr),
            port: wire.port.get(),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct WireOwner {
    instance: U64,
    epoch: U64,
}

impl From<Owner> for WireOwner {
    fn from(owner: Owner) -> Self {
        Self {
            instance: owner.instance.0.into(),
            epoch: owner.epoch.into(),
        }
    }
}

impl From<WireOwner> for Owner {
    fn from(wire: WireOwner) -> Self {
        Self {
            instance: InstanceId(wire.instance.get()),
            epoch: wire.epoch.get(),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct WireMapping {
    protocol: u8,
    class: u8,
    inside: WireEndpoint,
    outside: WireEndpoint,
    reserved: [u8; 2],
    expires: U64,
    created: U64,
}

impl From<Mapping> for WireMapping {
    fn from(mapping: Mapping) -> Self {
        Self {
            protocol: mapping.protocol.number(),
            class: mapping.class as u8,
            inside: mapping.inside.into(),
            outside: mapping.outside.into(),
            reserved: [0; 2],
            expires: mapping.expires.as_nanos().into(),
            created: mapping.created.as_nanos().into(),
        }
    }
}

impl WireMapping {
    /// `None` if protocol or class is none that exists.
    pub(super) fn decode(self) -> Option<Mapping> {
        Some(Mapping {
            protocol: Protocol::from_number(self.protocol)?,
            class: Class::from_number(self.class)?,
            inside: self.inside.into(),
            outside: self.outside.into(),
            expires: LogTime::from_nanos(self.expires.get()),
            created: LogTime::from_nanos(self.created.get()),
        })
    }
}
