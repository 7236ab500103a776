//! Pools: numbers to take and give back, none of which two holders ever have at once.

use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::queue::Queues;
use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::{Key, Record, Table, TableSpec};
use crate::tx::Tx;

/// A pool's numbers are `first .. first + count`; those from `first + fresh` on were never taken.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct Extent {
    first: U64,
    count: U64,
    fresh: U64,
}

/// A set of pools, one for each key.
///
/// Fresh numbers are handed out first, in ascending order, then those given back, the longest
/// unused first. A pool of any size takes room only for what was handed out at least once; when all
/// pools together have used that room up, numbers given back go before fresh ones, so that to give
/// back never fails for want of room.
pub struct Pools<K: ?Sized> {
    extents: Table<K, Extent>,
    /// The holder of each number taken, under the number followed by the pool's key.
    holders: Table<[u8], U64>,
    returned: Queues<K, U64>,
}

impl<K: ?Sized> Clone for Pools<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized> Copy for Pools<K> {}

/// The names of the tables that hold a set of pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolTables {
    /// One row for each pool.
    pub extents: &'static str,
    /// One row for each number taken.
    pub holders: &'static str,
    /// One row for each pool to which something was given back.
    pub ends: &'static str,
    /// One row for each number given back.
    pub returned: &'static str,
}

impl<K: Record + ?Sized> Pools<K> {
    /// Adds the pools to a registry: at most `pools` of them, with at most `numbers` taken at once.
    pub fn register(
        registry: &mut Registry,
        names: PoolTables,
        pools: usize,
        numbers: usize,
    ) -> Result<Self, RegisterError> {
        let table = TableSpec::new;
        Ok(Self {
            extents: registry.table(table(names.extents, pools))?,
            holders: registry.table(table(names.holders, numbers))?,
            returned: Queues::register(
                registry,
                table(names.ends, pools),
                table(names.returned, numbers),
            )?,
        })
    }

    /// Makes a pool of the numbers `first .. first + count`.
    pub fn create(self, tx: &mut Tx<'_>, key: &K, first: u64, count: u64) -> Result<(), Refusal> {
        first.checked_add(count).ok_or(Refusal::OutOfRange)?;
        let extent = Extent {
            first: first.into(),
            count: count.into(),
            fresh: 0.into(),
        };
        if tx.put(self.extents, key, &extent)? {
            Err(Refusal::AlreadyExists)
        } else {
            Ok(())
        }
    }

    /// Takes a number for `holder`.
    pub fn take(self, tx: &mut Tx<'_>, key: &K, holder: u64) -> Result<u64, Refusal> {
        let mut extent = *tx.get(self.extents, key)?.ok_or(Refusal::NotFound)?;
        let fresh = extent.fresh.get();
        let used = tx.len(self.holders) + self.returned.total(tx);
        let number = if fresh < extent.count.get() && used < tx.capacity(self.holders) {
            extent.fresh = (fresh + 1).into();
            tx.put(self.extents, key, &extent)?;
            extent
                .first
                .get()
                .checked_add(fresh)
                .ok_or(Refusal::Corrupt)?
        } else {
            let number = self.returned.pop(tx, key, |number| number.get())?;
            let none_fresh = fresh >= extent.count.get();
            number.ok_or(if none_fresh {
                Refusal::Exhausted
            } else {
                Refusal::TableFull
            })?
        };
        let taken = tx.put(self.holders, &*holder_key(number, key), &holder.into())?;
        // Only a snapshot from elsewhere could say that a free number has a holder.
        if taken {
            Err(Refusal::Corrupt)
        } else {
            Ok(number)
        }
    }

    /// Gives a number back; only its holder can.
    pub fn give(self, tx: &mut Tx<'_>, key: &K, number: u64, holder: u64) -> Result<(), Refusal> {
        let at = holder_key(number, key);
        match tx.get(self.holders, &*at)? {
            None => return Err(Refusal::NotFound),
            Some(by) if by.get() != holder => return Err(Refusal::NotOwner),
            Some(_) => {}
        }
        tx.remove(self.holders, &*at);
        self.returned.push(tx, key, &number.into())?;
        Ok(())
    }
}

fn holder_key<K: Record + ?Sized>(number: u64, key: &K) -> Key {
    Key::join(&number.to_be_bytes(), key.as_bytes())
}
