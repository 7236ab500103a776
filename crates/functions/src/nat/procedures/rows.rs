//! The layouts of the NAT's tables.

use core::net::Ipv4Addr;

use stateplane_base::LogTime;
use stateplane_flow::{Endpoint, Protocol};
use stateplane_state::{Refusal, TimerId};
use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nat::ops::{BLOCK_PORTS, Class, Mapping, block_of};

/// An inside endpoint of one protocol.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct InsideKey {
    protocol: u8,
    pub(super) addr: [u8; 4],
    port: U16,
}

impl InsideKey {
    pub(super) fn new(protocol: Protocol, inside: Endpoint) -> Self {
        let Endpoint { addr, port } = inside;
        Self {
            protocol: protocol.number(),
            addr: addr.octets(),
            port: port.into(),
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            addr: Ipv4Addr::from(self.addr),
            port: self.port.get(),
        }
    }

    pub(super) fn protocol(&self) -> Result<Protocol, Refusal> {
        Protocol::from_number(self.protocol).ok_or(Refusal::Corrupt)
    }
}

/// An outside endpoint of one protocol. Sorts by address, then port: block by block.
#[derive(
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
)]
#[repr(C)]
pub(super) struct OutsideKey {
    addr: [u8; 4],
    port: U16,
    protocol: u8,
}

impl OutsideKey {
    pub(super) fn new(protocol: Protocol, outside: Endpoint) -> Self {
        let Endpoint { addr, port } = outside;
        Self {
            addr: addr.octets(),
            port: port.into(),
            protocol: protocol.number(),
        }
    }

    /// The block it belongs to.
    pub(super) fn block(&self) -> BlockKey {
        BlockKey {
            addr: self.addr,
            index: block_of(self.port.get()),
        }
    }
}

/// A mapping, under its [`InsideKey`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct MappingRow {
    outside_addr: [u8; 4],
    outside_port: U16,
    class: u8,
    reserved: u8,
    expires: U64,
    created: U64,
    timer_deadline: U64,
    timer_serial: U64,
}

impl MappingRow {
    /// A mapping that shares a timer with others which end when it does.
    pub(super) fn new(mapping: &Mapping) -> Self {
        Self {
            outside_addr: mapping.outside.addr.octets(),
            outside_port: mapping.outside.port.into(),
            class: mapping.class as u8,
            reserved: 0,
            expires: mapping.expires.as_nanos().into(),
            created: mapping.created.as_nanos().into(),
            timer_deadline: mapping.expires.as_nanos().into(),
            timer_serial: SHARED.into(),
        }
    }

    pub(super) fn mapping(&self, key: &InsideKey) -> Result<Mapping, Refusal> {
        Ok(Mapping {
            protocol: key.protocol()?,
            class: Class::from_number(self.class).ok_or(Refusal::Corrupt)?,
            inside: key.endpoint(),
            outside: self.outside(),
            expires: self.expires(),
            created: LogTime::from_nanos(self.created.get()),
        })
    }

    pub(super) fn outside(&self) -> Endpoint {
        Endpoint {
            addr: Ipv4Addr::from(self.outside_addr),
            port: self.outside_port.get(),
        }
    }

    pub(super) fn expires(&self) -> LogTime {
        LogTime::from_nanos(self.expires.get())
    }

    /// The timer that looks whether the mapping has ended; never later than `expires`. One that it
    /// shares is none that could be disarmed.
    pub(super) fn timer(&self) -> TimerId {
        TimerId::new(
            LogTime::from_nanos(self.timer_deadline.get()),
            self.timer_serial.get(),
        )
    }

    pub(super) fn set_expires(&mut self, class: Class, expires: LogTime) {
        self.class = class as u8;
        self.expires = expires.as_nanos().into();
    }

    /// In place of a timer that other mappings have, too.
    pub(super) const fn shared(deadline: LogTime) -> TimerId {
        TimerId::new(deadline, SHARED)
    }

    pub(super) fn set_timer(&mut self, timer: TimerId) {
        self.timer_deadline = timer.deadline().as_nanos().into();
        self.timer_serial = timer.serial().into();
    }
}

/// In place of a timer's serial number, which is never zero: the timer is others' as well.
const SHARED: u64 = 0;

/// What an outside endpoint is used for, under its [`OutsideKey`]. A free one has no row.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct PortRow {
    live: u8,
    inside: InsideKey,
}

impl PortRow {
    /// Serves the mapping of this inside endpoint.
    pub(super) const fn live(inside: InsideKey) -> Self {
        Self { live: 1, inside }
    }

    /// Served it until shortly before.
    pub(super) const fn quarantined(inside: InsideKey) -> Self {
        Self { live: 0, inside }
    }

    /// The inside endpoint it serves now.
    pub(super) fn serves(&self) -> Option<&InsideKey> {
        (self.live != 0).then_some(&self.inside)
    }
}

/// An instance's present life.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct OwnerRow {
    pub(super) incarnation: U64,
    pub(super) epoch: U64,
}

/// The lease of one epoch on all its blocks.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct LeaseRow {
    pub(super) instance: U64,
    /// When it ends.
    pub(super) ends: U64,
    /// From when on others may take its blocks.
    pub(super) clean: U64,
    /// How many it has.
    pub(super) blocks: U32,
}

/// A block of outside ports of all protocols.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct BlockKey {
    addr: [u8; 4],
    index: u8,
}

impl BlockKey {
    pub(super) fn new(addr: Ipv4Addr, index: u8) -> Self {
        Self {
            addr: addr.octets(),
            index,
        }
    }

    /// Its outside endpoints of all protocols, in their order.
    pub(super) fn ports(&self) -> impl Iterator<Item = OutsideKey> + use<> {
        let (addr, first) = (self.addr, u16::from(self.index) * BLOCK_PORTS);
        let ports = first..=first + (BLOCK_PORTS - 1);
        ports.flat_map(move |port| {
            Protocol::ALL.map(|protocol| OutsideKey {
                addr,
                port: port.into(),
                protocol: protocol.number(),
            })
        })
    }
}

/// The row says all.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Empty;
