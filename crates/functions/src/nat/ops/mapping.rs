//! Mappings found, kept alive and listed.
//!
//! ```text
//! nat.lookup@1    0    1   2         8
//!   arguments     |prot|rsv| outside |
//!   reply         0         8              40
//!                 | now     | mapping (32) |        or only `now`: nobody has it
//!
//! nat.refresh@1   0    1     2        8         14    16
//!   arguments     |prot|class| inside | outside | rsv |  repeated, at most 256 times
//!   reply         0         8         16
//!                 | now     | expires | ...              one for each; zero: gone
//!
//! nat.list@1      0        7   8       10
//!   arguments     | cursor |rsv| limit |
//!   reply         0         8        15    16            48
//!                 | now     | cursor | more | mapping (32) | ...
//! ```

use alloc::vec::Vec;

use stateplane_base::LogTime;
use stateplane_flow::{Endpoint, Protocol};
use stateplane_state::ProcedureId;
use zerocopy::byteorder::network_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Class, Mapping, Operation, WireEndpoint, WireMapping};

/// Most items of one [`Refresh`].
pub const MAX_REFRESH: usize = 256;
/// Items of a [`Refresh`] that fit one Ethernet frame with room for all headers.
pub const REFRESH_BATCH: usize = 72;
/// Most mappings of one [`Page`].
pub const MAX_PAGE: usize = 200;

fn take_time(body: &[u8]) -> Option<(LogTime, &[u8])> {
    let (now, rest) = body.split_first_chunk::<8>()?;
    Some((LogTime::from_nanos(u64::from_be_bytes(*now)), rest))
}

fn put_time(time: LogTime, out: &mut Vec<u8>) {
    out.extend_from_slice(&time.as_nanos().to_be_bytes());
}

fn read_mapping(bytes: &[u8]) -> Option<Mapping> {
    WireMapping::ref_from_bytes(bytes).ok()?.decode()
}

/// Whose outside endpoint is this? Changes nothing and keeps nothing alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// The protocol.
    pub protocol: Protocol,
    /// The endpoint a packet from outside was sent to.
    pub outside: Endpoint,
}

/// What a [`Lookup`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The time of the answer.
    pub now: LogTime,
    /// The mapping, if there is one.
    pub mapping: Option<Mapping>,
}

impl Found {
    /// Appends the reply's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_time(self.now, out);
        if let Some(mapping) = self.mapping {
            out.extend_from_slice(WireMapping::from(mapping).as_bytes());
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireLookup {
    protocol: u8,
    reserved: u8,
    outside: WireEndpoint,
}

impl Lookup {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireLookup::ref_from_bytes(bytes).ok()?;
        let protocol = Protocol::from_number(wire.protocol)?;
        Some(Self {
            protocol,
            outside: wire.outside.into(),
        })
    }
}

impl Operation for Lookup {
    const PROCEDURE: ProcedureId = super::LOOKUP;
    const READS: bool = true;
    type Reply = Found;

    fn arguments(&self, out: &mut Vec<u8>) {
        let protocol = self.protocol.number();
        let wire = WireLookup {
            protocol,
            reserved: 0,
            outside: self.outside.into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Found> {
        let (now, rest) = take_time(body)?;
        let mapping = if rest.is_empty() {
            None
        } else {
            Some(read_mapping(rest)?)
        };
        Some(Found { now, mapping })
    }
}

/// One mapping to keep alive. Both endpoints are named: a mapping that ended and was made anew with
/// another outside endpoint is gone for whoever remembers the old one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefreshItem {
    /// The traffic seen; also says the protocol.
    pub class: Class,
    /// The inside endpoint.
    pub inside: Endpoint,
    /// The outside endpoint it is believed to have.
    pub outside: Endpoint,
}

/// Keeps mappings alive and asks whether they still exist. Only [`Class::Closing`] may shorten.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refresh {
    /// At most [`MAX_REFRESH`]; [`REFRESH_BATCH`] fit one frame.
    pub items: Vec<RefreshItem>,
}

/// What became of each item, in the order asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refreshed {
    /// The time of the answer.
    pub now: LogTime,
    /// When the mapping ends now; `None`: it is gone.
    pub expires: Vec<Option<LogTime>>,
}

impl Refreshed {
    /// Begins a reply.
    pub(crate) fn write_time(now: LogTime, out: &mut Vec<u8>) {
        put_time(now, out);
    }

    /// Appends one item's answer to a reply.
    pub(crate) fn write_item(expires: Option<LogTime>, out: &mut Vec<u8>) {
        put_time(expires.unwrap_or(LogTime::ZERO), out);
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct WireRefreshItem {
    protocol: u8,
    class: u8,
    inside: WireEndpoint,
    outside: WireEndpoint,
    reserved: [u8; 2],
}

impl WireRefreshItem {
    /// `None` if the class does not exist or belongs to another protocol.
    pub(crate) fn decode(&self) -> Option<RefreshItem> {
        let class = Class::from_number(self.class)?;
        let fits = class.protocol().number() == self.protocol;
        fits.then(|| RefreshItem {
            class,
            inside: self.inside.into(),
            outside: self.outside.into(),
        })
    }
}

impl Refresh {
    /// Reads the arguments as items yet to be decoded.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<&[WireRefreshItem]> {
        let items = <[WireRefreshItem]>::ref_from_bytes(bytes).ok()?;
        (items.len() <= MAX_REFRESH).then_some(items)
    }
}

impl Operation for Refresh {
    const PROCEDURE: ProcedureId = super::REFRESH;
    type Reply = Refreshed;

    fn arguments(&self, out: &mut Vec<u8>) {
        for item in &self.items {
            let wire = WireRefreshItem {
                protocol: item.class.protocol().number(),
                class: item.class as u8,
                inside: item.inside.into(),
                outside: item.outside.into(),
                reserved: [0; 2],
            };
            out.extend_from_slice(wire.as_bytes());
        }
    }

    fn read(body: &[u8]) -> Option<Refreshed> {
        let (now, rest) = take_time(body)?;
        let times = <[U64]>::ref_from_bytes(rest).ok()?;
        let expires = |time: &U64| (time.get() != 0).then(|| LogTime::from_nanos(time.get()));
        Some(Refreshed {
            now,
            expires: times.iter().map(expires).collect(),
        })
    }
}

/// Where a listing goes on. Opaque: begin with the default and hand back what came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Cursor(pub(crate) [u8; 7]);

/// Lists mappings in the order of their outside endpoints, a page at a time. Each page is true for
/// its own time; the pages together are no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    /// Where to go on.
    pub from: Cursor,
    /// Most mappings wanted, at most [`MAX_PAGE`].
    pub limit: u16,
}

/// One page of a listing. It may be empty although more follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The time of the answer.
    pub now: LogTime,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<Cursor>,
    /// The mappings.
    pub mappings: Vec<Mapping>,
}

impl Page {
    /// Appends the reply's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_time(self.now, out);
        out.extend_from_slice(&self.next.unwrap_or_default().0);
        out.push(u8::from(self.next.is_some()));
        for &mapping in &self.mappings {
            out.extend_from_slice(WireMapping::from(mapping).as_bytes());
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireList {
    from: [u8; 7],
    reserved: u8,
    limit: U16,
}

impl List {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireList::ref_from_bytes(bytes).ok()?;
        Some(Self {
            from: Cursor(wire.from),
            limit: wire.limit.get(),
        })
    }
}

impl Operation for List {
    const PROCEDURE: ProcedureId = super::LIST;
    const READS: bool = true;
    type Reply = Page;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireList {
            from: self.from.0,
            reserved: 0,
            limit: self.limit.into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Page> {
        let (now, rest) = take_time(body)?;
        let (&[ref cursor @ .., more], rest) = rest.split_first_chunk::<8>()?;
        let mappings = <[WireMapping]>::ref_from_bytes(rest).ok()?;
        Some(Page {
            now,
            next: (more != 0).then_some(Cursor(*cursor)),
            mappings: mappings
                .iter()
                .map(|wire| wire.decode())
                .collect::<Option<_>>()?,
        })
    }
}
