//! The meter's operations on the store, as bytes.
//!
//! All numbers are in network byte order, reserved bytes are zero and ignored, lengths are exact.
//!
//! ```text
//! meter.commit@1     0               8               16              24              32            40
//!   arguments        | instance      | epoch         | partition     | sequence      | fingerprint   |
//!                    item (56); at most 128 ...
//!   reply            as that of lease.write@1
//!
//! item (56)          0         4      8                       24                      40       48         56
//!                    | address | rsv  | packets out, in 8 8   | bytes out, in 8 8     | period | returned |
//!
//! meter.reserve@1    0               8               16              24              32
//!   arguments        | instance      | epoch         | partition     | fingerprint   |
//!                    | want 8        | address 4, rsv 4              |
//!   reply            | now           | period's end  | period 8, granted 8, left 8   |
//!
//! meter.list@1       0         4      6
//!   arguments        | from    | limit |                                               (reads)
//!   reply            | now           | account (72); each ...
//!
//! account (72)       | address 4, rsv 4 | packets 16 | bytes 16 | allowance 8 | left 8 | period's end 8 | partition 8 |
//! ```
//!
//! *out* is from the subscriber, *in* is to it. `returned`: what was reserved in `period` and will not be
//! spent. `granted` is what may be spent until the period's end: at most what was wanted, 0 if nothing
//! is left. An account without an allowance has 0 there.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use stateplane_base::LogTime;
use stateplane_lease::ops::{Answer, one_answer};
use stateplane_lease::{Owner, Partition};
use stateplane_state::op::{Operation, ReplyError};
use stateplane_state::{ProcedureId, Refusal};
use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most items of one [`Commit`].
pub const ITEMS: usize = 128;
/// Most accounts of one [`Page`].
pub const PAGE: usize = 64;

/// Why the meter's procedures refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MeterRefusal {
    /// Other subscribers, allowances or partitions.
    #[error("the instance and the store were started from different configurations")]
    ConfigMismatch,
    /// The lease is not the instance's.
    #[error("another owner or epoch is in force")]
    Fenced,
    /// It is no subscriber, or not of this partition, or not limited.
    #[error("the subscriber has no allowance in this partition")]
    NoAllowance,
}

impl From<MeterRefusal> for Refusal {
    fn from(refusal: MeterRefusal) -> Self {
        Self::custom(refusal as u8)
    }
}

impl MeterRefusal {
    /// The meter's reason in a failed reply.
    pub fn from_error(error: ReplyError) -> Option<Self> {
        let ReplyError::Refused(refusal) = error else {
            return None;
        };
        let all = [Self::ConfigMismatch, Self::Fenced, Self::NoAllowance];
        all.into_iter().find(|one| Refusal::from(*one) == refusal)
    }
}

/// Packets and bytes, each from the subscriber and to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: [u64; 2],
    /// Bytes of their frames.
    pub bytes: [u64; 2],
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        for side in 0..2 {
            self.packets[side] = self.packets[side].saturating_add(other.packets[side]);
            self.bytes[side] = self.bytes[side].saturating_add(other.bytes[side]);
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What passed of one subscriber since it was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// Whose.
    pub subscriber: Ipv4Addr,
    /// What passed.
    pub passed: Tally,
    /// The period in which `returned` was reserved.
    pub period: u64,
    /// Bytes that were reserved and will not be spent.
    pub returned: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct WireTally {
    packets: [U64; 2],
    bytes: [U64; 2],
}

impl WireTally {
    pub(super) fn of(tally: &Tally) -> Self {
        Self {
            packets: tally.packets.map(U64::new),
            bytes: tally.bytes.map(U64::new),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        Tally {
            packets: self.packets.map(U64::get),
            bytes: self.bytes.map(U64::get),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireItem {
    subscriber: [u8; 4],
    reserved: [u8; 4],
    passed: WireTally,
    period: U64,
    returned: U64,
}

/// Bytes of an item.
pub const ITEM_BYTES: usize = size_of::<WireItem>();

/// Appends an item to what a commit carries.
pub fn put_item(item: &Item, out: &mut Vec<u8>) {
    let wire = WireItem {
        subscriber: item.subscriber.octets(),
        reserved: [0; 4],
        passed: WireTally::of(&item.passed),
        period: item.period.into(),
        returned: item.returned.into(),
    };
    out.extend_from_slice(wire.as_bytes());
}

/// Adds to accounts what passed, as a write of a lease's owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit<'a> {
    /// By whom.
    pub owner: Owner,
    /// In which partition.
    pub partition: Partition,
    /// The write's place in the epoch; the first has 1.
    pub sequence: u64,
    /// Of the configuration.
    pub fingerprint: u64,
    /// [`Item`]s, as [`put_item`] writes them; at most [`ITEMS`].
    pub items: &'a [u8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireCommit {
    instance: U64,
    epoch: U64,
    partition: U64,
    sequence: U64,
    fingerprint: U64,
}

impl<'a> Commit<'a> {
    /// Reads the arguments.
    pub(super) fn from_arguments(bytes: &'a [u8]) -> Option<Self> {
        let (wire, items) = WireCommit::ref_from_prefix(bytes).ok()?;
        let whole = <[WireItem]>::ref_from_bytes(items).ok()?;
        (whole.len() <= ITEMS).then(|| Self {
            owner: Owner {
                instance: stateplane_lease::InstanceId(wire.instance.get()),
                epoch: wire.epoch.get(),
            },
            partition: Partition(wire.partition.get()),
            sequence: wire.sequence.get(),
            fingerprint: wire.fingerprint.get(),
            items,
        })
    }

    /// The items, one by one.
    pub fn each(&self) -> impl Iterator<Item = Item> + use<'a> {
        let items = <[WireItem]>::ref_from_bytes(self.items).unwrap_or_default();
        items.iter().map(|wire| Item {
            subscriber: wire.subscriber.into(),
            passed: wire.passed.tally(),
            period: wire.period.get(),
            returned: wire.returned.get(),
        })
    }
}

impl Operation for Commit<'_> {
    const PROCEDURE: ProcedureId = ProcedureId::of("meter.commit", 1);
    type Reply = Answer;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireCommit {
            instance: self.owner.instance.0.into(),
            epoch: self.owner.epoch.into(),
            partition: self.partition.0.into(),
            sequence: self.sequence.into(),
            fingerprint: self.fingerprint.into(),
        };
        out.extend_from_slice(wire.as_bytes());
        out.extend_from_slice(self.items);
    }

    fn read(body: &[u8]) -> Option<Answer> {
        one_answer(body)
    }
}

/// Takes bytes off a subscriber's allowance, to be spent by a lease's owner alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserve {
    /// By whom.
    pub owner: Owner,
    /// In which partition.
    pub partition: Partition,
    /// Of the configuration.
    pub fingerprint: u64,
    /// How many bytes.
    pub want: u64,
    /// Whose.
    pub subscriber: Ipv4Addr,
}

/// What was reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// How long the period lasts from when the store answered.
    pub span: Duration,
    /// The period's number.
    pub period: u64,
    /// Bytes that may be spent in it.
    pub granted: u64,
    /// Bytes of the allowance that are left after that.
    pub left: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireReserve {
    instance: U64,
    epoch: U64,
    partition: U64,
    fingerprint: U64,
    want: U64,
    subscriber: [u8; 4],
    reserved: [u8; 4],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireReserved {
    now: U64,
    ends: U64,
    period: U64,
    granted: U64,
    left: U64,
}

impl Reserve {
    /// Reads the arguments.
    pub(super) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireReserve::ref_from_bytes(bytes).ok()?;
        Some(Self {
            owner: Owner {
                instance: stateplane_lease::InstanceId(wire.instance.get()),
                epoch: wire.epoch.get(),
            },
            partition: Partition(wire.partition.get()),
            fingerprint: wire.fingerprint.get(),
            want: wire.want.get(),
            subscriber: wire.subscriber.into(),
        })
    }
}

/// Appends the reply to [`Reserve`].
pub(super) fn put_reserved(
    (now, ends): (LogTime, LogTime),
    period: u64,
    granted: u64,
    left: u64,
    reply: &mut Vec<u8>,
) {
    let wire = WireReserved {
        now: now.as_nanos().into(),
        ends: ends.as_nanos().into(),
        period: period.into(),
        granted: granted.into(),
        left: left.into(),
    };
    reply.extend_from_slice(wire.as_bytes());
}

impl Operation for Reserve {
    const PROCEDURE: ProcedureId = ProcedureId::of("meter.reserve", 1);
    type Reply = Reserved;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireReserve {
            instance: self.owner.instance.0.into(),
            epoch: self.owner.epoch.into(),
            partition: self.partition.0.into(),
            fingerprint: self.fingerprint.into(),
            want: self.want.into(),
            subscriber: self.subscriber.octets(),
            reserved: [0; 4],
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Reserved> {
        let wire = WireReserved::ref_from_bytes(body).ok()?;
        let [now, ends] = [wire.now, wire.ends].map(|time| LogTime::from_nanos(time.get()));
        Some(Reserved {
            span: ends.since(now),
            period: wire.period.get(),
            granted: wire.granted.get(),
            left: wire.left.get(),
        })
    }
}

/// Lists accounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    /// The first subscriber of interest.
    pub from: Ipv4Addr,
    /// How many at most; more than [`PAGE`] are never answered.
    pub limit: u16,
}

/// One account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// Whose.
    pub subscriber: Ipv4Addr,
    /// What passed, as far as it was told.
    pub passed: Tally,
    /// Its allowance, if it has one.
    pub allowance: Option<Left>,
    /// Its partition.
    pub partition: Partition,
}

/// What is left of an allowance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Of so many bytes.
    pub of: u64,
    /// Bytes that nobody has reserved.
    pub left: u64,
    /// How long the period lasts.
    pub span: Duration,
}

/// A part of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Accounts in the order of addresses.
    pub accounts: Vec<Account>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireList {
    from: [u8; 4],
    limit: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireAccount {
    subscriber: [u8; 4],
    reserved: U32,
    passed: WireTally,
    allowance: U64,
    left: U64,
    ends: U64,
    partition: U64,
}

impl List {
    /// Reads the arguments.
    pub(super) fn from_arguments(bytes: &[u8]) -> Option<Self> {
        let wire = WireList::ref_from_bytes(bytes).ok()?;
        Some(Self {
            from: wire.from.into(),
            limit: wire.limit.get(),
        })
    }
}

/// Appends a row of a [`Page`].
pub(super) fn put_account(account: &Account, now: LogTime, reply: &mut Vec<u8>) {
    let allowance = account.allowance;
    let ends = allowance.map_or(LogTime::ZERO, |left| now + left.span);
    let wire = WireAccount {
        subscriber: account.subscriber.octets(),
        reserved: U32::ZERO,
        passed: WireTally::of(&account.passed),
        allowance: allowance.map_or(0, |left| left.of).into(),
        left: allowance.map_or(0, |left| left.left).into(),
        ends: ends.as_nanos().into(),
        partition: account.partition.0.into(),
    };
    reply.extend_from_slice(wire.as_bytes());
}

impl Operation for List {
    const PROCEDURE: ProcedureId = ProcedureId::of("meter.list", 1);
    const READS: bool = true;
    type Reply = Page;

    fn arguments(&self, out: &mut Vec<u8>) {
        let wire = WireList {
            from: self.from.octets(),
            limit: self.limit.into(),
        };
        out.extend_from_slice(wire.as_bytes());
    }

    fn read(body: &[u8]) -> Option<Page> {
        let (now, rest) = U64::ref_from_prefix(body).ok()?;
        let now = LogTime::from_nanos(now.get());
        let wires = <[WireAccount]>::ref_from_bytes(rest).ok()?;
        let account = |wire: &WireAccount| Account {
            subscriber: wire.subscriber.into(),
            passed: wire.passed.tally(),
            allowance: (wire.allowance.get() > 0).then(|| Left {
                of: wire.allowance.get(),
                left: wire.left.get(),
                span: LogTime::from_nanos(wire.ends.get()).since(now),
            }),
            partition: Partition(wire.partition.get()),
        };
        (wires.len() <= PAGE).then(|| Page {
            accounts: wires.iter().map(account).collect(),
        })
    }
}
