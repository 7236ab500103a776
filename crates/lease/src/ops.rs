//! `lease.*` as bytes.
//!
//! All numbers are in network byte order, reserved bytes are zero and ignored, lengths are exact.
//!
//! ```text
//! lease.acquire@1    0               8               16              24
//!   arguments        | instance      | incarnation   | partition     |
//!   reply            | now           | answer (32) ...               | state ...
//!
//! lease.renew@1      0               8
//!   arguments        | instance      | partition 8, epoch 8; at most 256 ...
//!   reply            | now           | answer (32) for each ...
//!
//! lease.release@1    0               8
//!   arguments        | instance      | partition 8, epoch 8; at most 256 ...
//!   reply            (empty)
//!
//! lease.write@1      0               8               16              24              32
//!   arguments        | instance      | epoch         | partition     | sequence      | state ...
//!   reply            | now           | answer (32) ...
//!
//! lease.migrate@2    0               8               16              24
//!   arguments        | partition     | heir          | stays (ns)    |
//!   reply            | now           | answer (32) ...
//!
//! lease.list@2       0               8      10
//!   arguments        | from          | limit |                        (reads)
//!   reply            | now           | partition 8, lease (64); each ...
//!
//! lease.asked@1      0
//!   arguments        | instance      |                                    (reads)
//!   reply            | now           | partition 8, epoch 8; each ...
//!
//! answer (32)        0      1       2       8               16              24              32
//!                    | what | asked | rsv 6 | epoch         | sequence      | ends          |
//!
//! lease (64)         | instance | epoch | incarnation | ends | sequence | heir | heir until | stays |
//! ```
//!
//! `what` is 0 if the lease is granted, else why not: 1 fenced, 2 held by another until `ends`,
//! 3 promised to another until `ends`, 4 early: `sequence` was the last, 5 sequences are used up.
//! `asked`: the partition is asked back. In `lease.asked` epoch 0 means: promised to the instance, and free.

mod listing;

use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::{Incarnation, LogTime};
use stateplane_state::ProcedureId;
pub use stateplane_state::op::{Operation, ReplyError};
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::grant::{Grant, Refused};
use crate::words::{InstanceId, Life, Owner, Partition};
pub use listing::{Asked, List, Page};
pub(crate) use listing::{put_asked, put_listed};

/// Most leases of one [`Renew`] or [`Release`].
pub const BATCH: usize = 256;
/// Most rows of one [`Page`].
pub const PAGE: usize = 256;

/// What an owner learns of its lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lent {
    /// The grant's epoch.
    pub epoch: u64,
    /// The last write of this epoch that was applied: where to go on.
    pub sequence: u64,
    /// What was left of it when the store answered.
    pub span: Duration,
    /// It is asked back: stop using it, then release it.
    pub asked_back: bool,
}

impl Lent {
    /// What the store says of a grant at this time.
    pub fn of(grant: &Grant, now: LogTime) -> Self {
        Self {
            epoch: grant.owner.epoch,
            sequence: grant.sequence,
            span: grant.ends.since(now),
            asked_back: grant.asked_back(now).is_some(),
        }
    }
}

/// What the store says about one partition.
pub type Answer = Result<Lent, Refused>;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireAnswer {
    what: u8,
    asked_back: u8,
    reserved: [u8; 6],
    epoch: U64,
    sequence: U64,
    ends: U64,
}

impl WireAnswer {
    fn of(answer: &Result<Grant, Refused>, now: LogTime) -> Self {
        let (what, epoch, sequence, ends) = match *answer {
            Ok(grant) => (0, grant.owner.epoch, grant.sequence, grant.ends),
            Err(Refused::Fenced) => (1, 0, 0, LogTime::ZERO),
            Err(Refused::Held { ends }) => (2, 0, 0, ends),
            Err(Refused::Promised { until }) => (3, 0, 0, until),
            Err(Refused::Early { last }) => (4, 0, last, LogTime::ZERO),
            Err(Refused::Spent) => (5, 0, 0, LogTime::ZERO),
        };
        let asked = answer.is_ok_and(|grant| grant.asked_back(now).is_some());
        Self {
            what,
            asked_back: asked.into(),
            reserved: [0; 6],
            epoch: epoch.into(),
            sequence: sequence.into(),
            ends: ends.as_nanos().into(),
        }
    }

    fn answer(&self, now: LogTime) -> Option<Answer> {
        let ends = LogTime::from_nanos(self.ends.get());
        Some(match self.what {
            0 => Ok(Lent {
                epoch: self.epoch.get(),
                sequence: self.sequence.get(),
                span: ends.since(now),
                asked_back: self.asked_back != 0,
            }),
            1 => Err(Refused::Fenced),
            2 => Err(Refused::Held { ends }),
            3 => Err(Refused::Promised { until: ends }),
            4 => Err(Refused::Early {
                last: self.sequence.get(),
            }),
            5 => Err(Refused::Spent),
            _ => return None,
        })
    }
}

/// Appends the time of a reply.
pub fn put_now(now: LogTime, reply: &mut Vec<u8>) {
    reply.extend_from_slice(&now.as_nanos().to_be_bytes());
}

/// Appends one answer; a reply that is its time and one answer is read by [`one_answer`].
pub fn put_answer(answer: &Result<Grant, Refused>, now: LogTime, reply: &mut Vec<u8>) {
    reply.extend_from_slice(WireAnswer::of(answer, now).as_bytes());
}

fn take_now(body: &[u8]) -> Option<(LogTime, &[u8])> {
    let (now, rest) = U64::ref_from_prefix(body).ok()?;
    Some((LogTime::from_nanos(now.get()), rest))
}

/// Reads a reply that is its time and one answer.
pub fn one_answer(body: &[u8]) -> Option<Answer> {
    let (now, rest) = take_now(body)?;
    WireAnswer::ref_from_bytes(rest).ok()?.answer(now)
}

/// Asks for a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acquire {
    /// For whom.
    pub life: Life,
    /// Which.
    pub partition: Partition,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acquired {
    /// The lease, or why there is none.
    pub answer: Answer,
    /// What was last written to the partition.
    pub state: Vec<u8>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireAcquire {
    instance: U64,
    incarnation: U64,
    partition: U64,
}

impl Acquire {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireAcquire::ref_from_bytes(bytes).ok()?;
        Some(Self {
            life: Life {
                instance: InstanceId(wire.instance.get()),
                incarnation: Incarnation(wire.incarnation.get()),
            },
            partition: Partition(wire.partition.get()),
        })
    }
}

impl Operation for Acquire {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.acquire", 1);
    type Reply = Acquired;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireAcquire {
            instance: self.life.instance.0.into(),
            incarnation: self.life.incarnation.0.into(),
            partition: self.partition.0.into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Acquired> {
        let (now, rest) = take_now(body)?;
        let (wire, state) = WireAnswer::ref_from_prefix(rest).ok()?;
        Some(Acquired {
            answer: wire.answer(now)?,
            state: state.to_vec(),
        })
    }
}

/// A partition and the epoch under which it is held.
pub type Holding = (Partition, u64);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireHolding {
    partition: U64,
    epoch: U64,
}

fn put_holdings(instance: InstanceId, holdings: &[Holding], out: &mut Vec<u8>) {
    out.extend_from_slice(&instance.0.to_be_bytes());
    for (partition, epoch) in holdings {
        let wire = WireHolding {
            partition: partition.0.into(),
            epoch: (*epoch).into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }
}

/// Reads the arguments of [`Renew`] and [`Release`].
pub(crate) fn holdings_from_arguments(
    bytes: &[u8],
) -> Option<impl Iterator<Item = (Partition, Owner)>> {
    let (instance, rest) = U64::ref_from_prefix(bytes).ok()?;
    let wires = <[WireHolding]>::ref_from_bytes(rest).ok()?;
    let instance = InstanceId(instance.get());
    let holding = move |wire: &WireHolding| {
        let epoch = wire.epoch.get();
        (Partition(wire.partition.get()), Owner { instance, epoch })
    };
    (wires.len() <= BATCH).then(|| wires.iter().map(holding))
}

/// Prolongs leases of one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renew {
    /// Whose.
    pub instance: InstanceId,
    /// Which; at most [`BATCH`].
    pub holdings: Vec<Holding>,
}

impl Operation for Renew {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.renew", 1);
    /// One answer for each, in their order.
    type Reply = Vec<Answer>;

    fn arguments(&self, out: &mut Vec<u8>) {
        put_holdings(self.instance, &self.holdings, out);
    }

    fn read(body: &[u8]) -> Option<Vec<Answer>> {
        let (now, rest) = take_now(body)?;
        let wires = <[WireAnswer]>::ref_from_bytes(rest).ok()?;
        let fits = wires.len() <= BATCH;
        fits.then(|| wires.iter().map(|wire| wire.answer(now)).collect())?
    }
}

/// Gives leases up; what they covered is not used any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// Whose.
    pub instance: InstanceId,
    /// Which; at most [`BATCH`].
    pub holdings: Vec<Holding>,
}

impl Operation for Release {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.release", 1);
    type Reply = ();

    fn arguments(&self, out: &mut Vec<u8>) {
        put_holdings(self.instance, &self.holdings, out);
    }

    fn read(body: &[u8]) -> Option<()> {
        body.is_empty().then_some(())
    }
}

/// Replaces a partition's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write<'a> {
    /// By whom.
    pub owner: Owner,
    /// Which.
    pub partition: Partition,
    /// The write's place in the epoch; the first has 1.
    pub sequence: u64,
    /// What is kept from now on.
    pub state: &'a [u8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireWrite {
    instance: U64,
    epoch: U64,
    partition: U64,
    sequence: U64,
}

impl<'a> Write<'a> {
    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &'a [u8]) -> Option<Self> {
        let (wire, state) = WireWrite::ref_from_prefix(bytes).ok()?;
        Some(Self {
            owner: Owner {
                instance: InstanceId(wire.instance.get()),
                epoch: wire.epoch.get(),
            },
            partition: Partition(wire.partition.get()),
            sequence: wire.sequence.get(),
            state,
        })
    }
}

impl Operation for Write<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.write", 1);
    type Reply = Answer;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireWrite {
            instance: self.owner.instance.0.into(),
            epoch: self.owner.epoch.into(),
            partition: self.partition.0.into(),
            sequence: self.sequence.into(),
        };
        out.extend_from_slice(wire.as_bytes());
        out.extend_from_slice(self.state);
    }

    fn read(body: &[u8]) -> Option<Answer> {
        one_answer(body)
    }
}

/// Asks a partition back for another instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Migrate {
    /// Which.
    pub partition: Partition,
    /// Who is to have it.
    pub heir: InstanceId,
    /// For how long nobody takes it from there without an order. Zero: this is none, but the wish of somebody
    /// who has packets for it.
    pub stays: Duration,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireMigrate {
    partition: U64,
    heir: U64,
    stays: U64,
}

impl Migrate {
    /// The wish of an instance that has packets for the partition.
    pub const fn wish(partition: Partition, heir: InstanceId) -> Self {
        Self {
            partition,
            heir,
            stays: Duration::ZERO,
        }
    }

    /// Reads the arguments.
    pub(crate) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireMigrate::ref_from_bytes(bytes).ok()?;
        Some(Self {
            partition: Partition(wire.partition.get()),
            heir: InstanceId(wire.heir.get()),
            stays: Duration::from_nanos(wire.stays.get()),
        })
    }
}

impl Operation for Migrate {
    const PROCEDURE: ProcedureId = ProcedureId::of("lease.migrate", 2);
    /// The lease of the present owner.
    type Reply = Answer;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireMigrate {
            partition: self.partition.0.into(),
            heir: self.heir.0.into(),
            stays: u64::try_from(self.stays.as_nanos())
                .unwrap_or(u64::MAX)
                .into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Answer> {
        one_answer(body)
    }
}
