//! Who owns which block of outside ports, and until when.
//!
//! ```text
//! nat.register@1     0               8               16              24
//!   arguments        | instance      | incarnation   | fingerprint   |
//!   reply            | lease (24)                                    |
//!
//! nat.renew@1        0               16
//!   arguments        | owner         |
//!   reply            | lease (24)    |
//!
//! nat.take_block@1   0               16       20
//!   arguments        | owner         | address | candidate block indexes, one byte each ...
//!   reply            | lease (24)    | index 1 | (25 bytes)
//!
//! nat.release@1      0               16
//!   arguments        | owner         |
//!   reply            (empty)
//!
//! lease (24)         0               8               16              24
//!                    | epoch         | ends          | now           |
//! ```

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use stateplane_base::{Incarnation, LogTime};
use stateplane_state::ProcedureId;
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{InstanceId, Operation, Owner, WireOwner};

/// Most candidate blocks of one [`TakeBlock`].
pub const MAX_CANDIDATES: usize = 256;

/// How long an owner may use its blocks. One lease covers all of them.
///
/// The owner counts the span `ends - now` on its own clock from when it *sent* the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The owner's epoch.
    pub epoch: u64,
    /// When the lease ends.
    pub ends: LogTime,
    /// When it was granted.
    pub now: LogTime,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireLease {
    epoch: U64,
    ends: U64,
    now: U64,
}

impl Lease {
    /// Appends the lease's bytes to a reply.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let wire = WireLease {
            epoch: self.epoch.into(),
            ends: self.ends.as_nanos().into(),
            now: self.now.as_nanos().into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn from_wire(wire: &WireLease) -> Self {
        Self {
            epoch: wire.epoch.get(),
            ends: LogTime::from_nanos(wire.ends.get()),
            now: LogTime::from_nanos(wire.now.get()),
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        Some(Self::from_wire(WireLease::ref_from_bytes(body).ok()?))
    }
}

/// Makes an instance known and gives it its epoch. The same life gets the same epoch again; a new
/// life a new one, and then the blocks of the former life have no owner any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// Who.
    pub instance: InstanceId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The configuration's fingerprint, see `NatStateConfig::fingerprint`.
    pub fingerprint: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireRegister {
    instance: U64,
    incarnation: U64,
    fingerprint: U64,
}

impl Register {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireRegister::ref_from_bytes(bytes).ok()?;
        Some(Self {
            instance: InstanceId(wire.instance.get()),
            incarnation: Incarnation(wire.incarnation.get()),
            fingerprint: wire.fingerprint.get(),
        })
    }
}

impl Operation for Register {
    const PROCEDURE: ProcedureId = super::REGISTER;
    type Reply = Lease;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireRegister {
            instance: self.instance.0.into(),
            incarnation: self.incarnation.0.into(),
            fingerprint: self.fingerprint.into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Lease> {
        Lease::read(body)
    }
}

/// Prolongs the owner's lease on all its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renew {
    /// Who.
    pub owner: Owner,
}

impl Operation for Renew {
    const PROCEDURE: ProcedureId = super::RENEW;
    type Reply = Lease;

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(WireOwner::from(self.owner).as_bytes());
    }

    fn read(body: &[u8]) -> Option<Lease> {
        Lease::read(body)
    }
}

/// Ends the owner's epoch and gives all its blocks back: the owner will propose no further port.
/// With strict commits they are free at once; else they rest like those of a dead owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    /// Who.
    pub owner: Owner,
}

impl Operation for Release {
    const PROCEDURE: ProcedureId = super::RELEASE;
    type Reply = ();

    fn arguments(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(WireOwner::from(self.owner).as_bytes());
    }

    fn read(body: &[u8]) -> Option<()> {
        body.is_empty().then_some(())
    }
}

/// Reads the arguments of [`Renew`] and [`Release`].
pub(crate) fn owner_from_arguments(bytes: &[u8]) -> Option<Owner> {
    Some((*WireOwner::ref_from_bytes(bytes).ok()?).into())
}

/// Takes one block of outside ports, and, if it gets one, prolongs the owner's lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakeBlock {
    /// For whom.
    pub owner: Owner,
    /// Of which outside address.
    pub address: Ipv4Addr,
    /// Indexes (`port >> 8`) in order of preference; at most [`MAX_CANDIDATES`].
    pub candidates: Vec<u8>,
}

/// The block that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockTaken {
    /// Its index: it holds the ports `index * 256 ..= index * 256 + 255`.
    pub index: u8,
    /// The lease under which it may be used.
    pub lease: Lease,
}

impl BlockTaken {
    /// Appends the reply's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        self.lease.write(out);
        out.push(self.index);
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireTakeBlock {
    owner: WireOwner,
    address: [u8; 4],
}

impl TakeBlock {
    /// Reads the arguments: owner, address and the candidates.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<(Owner, Ipv4Addr, &[u8])> {
        let (wire, candidates) = WireTakeBlock::ref_from_prefix(bytes).ok()?;
        let fits = (1..=MAX_CANDIDATES).contains(&candidates.len());
        fits.then(|| (wire.owner.into(), Ipv4Addr::from(wire.address), candidates))
    }
}

impl Operation for TakeBlock {
    const PROCEDURE: ProcedureId = super::TAKE_BLOCK;
    type Reply = BlockTaken;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireTakeBlock {
            owner: self.owner.into(),
            address: self.address.octets(),
        };
        out.extend_from_slice(wire.as_bytes());
        out.extend_from_slice(&self.candidates);
    }

    fn read(body: &[u8]) -> Option<BlockTaken> {
        let (&index, lease) = body.split_last()?;
        Some(BlockTaken {
            index,
            lease: Lease::read(lease)?,
        })
    }
}
