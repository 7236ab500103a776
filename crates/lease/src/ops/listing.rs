//! What the store tells of leases to who asks for none: operators, and owners before their next renewal.

use alloc::vec::Vec;

use stateplane_base::LogTime;
use stateplane_state::ProcedureId;
use stateplane_state::op::Operation;
use zerocopy::byteorder::network_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Holding, PAGE, WireHolding, take_now};
use crate::grant::Grant;
use crate::grants::GrantRow;
use crate::words::{InstanceId, Partition};

/// Lists partitions and their leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    /// The first partition of interest.
    pub from: Partition,
    /// How many at most; more than [`PAGE`] are never answered.
    pub limit: u16,
}

/// A part of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The log's time.
    pub now: LogTime,
    /// Partitions in rising order.
    pub leases: Vec<(Partition, Grant)>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireList {
    from: U64,
    limit: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireListed {
    partition: U64,
    lease: GrantRow,
}

impl List {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireList::ref_from_bytes(bytes).ok()?;
        Some(Self {
            from: Partition(wire.from.get()),
            limit: wire.limit.get(),
        })
    }
}

/// Appends a row of a [`Page`].
pub(crate) fn put_listed(partition: Partition, grant: &Grant, reply: &mut Vec<u8>) {
    let wire = WireListed {
        partition: partition.0.into(),
        lease: GrantRow::of(grant),
    };
    reply.extend_from_slice(wire.as_bytes());
}

impl Operation for List {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.list", 2);
    const READS: bool = true;
    type Reply = Page;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireList {
            from: self.from.0.into(),
            limit: self.limit.into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Page> {
        let (now, rest) = take_now(body)?;
        let wires = <[WireListed]>::ref_from_bytes(rest).ok()?;
        let row = |wire: &WireListed| (Partition(wire.partition.get()), wire.lease.grant());
        (wires.len() <= PAGE).then(|| Page {
            now,
            leases: wires.iter().map(row).collect(),
        })
    }
}

/// What an instance should know before its next renewal: which of its partitions are asked back, and
/// which that nobody uses are promised to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Which instance.
    pub instance: InstanceId,
}

impl Asked {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let instance = U64::ref_from_bytes(bytes).ok()?;
        let instance = InstanceId(instance.get());
        Some(Self { instance })
    }
}

/// Appends a row of the reply to [`Asked`].
pub(crate) fn put_asked(partition: Partition, epoch: u64, reply: &mut Vec<u8>) {
    let wire = WireHolding {
        partition: partition.0.into(),
        epoch: epoch.into(),
    };
    reply.extend_from_slice(wire.as_bytes());
}

impl Operation for Asked {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.asked", 1);
    const READS: bool = true;
    /// Partitions that are asked back, each with the epoch of the lease; of those that are promised,
    /// it is 0. At most [`PAGE`].
    type Reply = Vec<Holding>;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.instance.0.to_be_bytes());
    }

    fn read(body: &[u8]) -> Option<Vec<Holding>> {
        let (_, rest) = take_now(body)?;
        let wires = <[WireHolding]>::ref_from_bytes(rest).ok()?;
        let holding = |wire: &WireHolding| (Partition(wire.partition.get()), wire.epoch.get());
        (wires.len() <= PAGE).then(|| wires.iter().map(holding).collect())
    }
}
