//! Counters: numbers that only ever change by adding, within a range the caller names.

use core::ops::RangeInclusive;

use zerocopy::byteorder::network_endian::I64;

use crate::refusal::Refusal;
use crate::registry::{RegisterError, Registry};
use crate::table::{Record, Table, TableSpec};
use crate::tx::Tx;

/// A set of counters, one for each key. A counter nobody has added to is zero, and one that has
/// come back to zero takes no room.
pub struct Counters<K: ?Sized>(Table<K, I64>);

impl<K: ?Sized> Clone for Counters<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized> Copy for Counters<K> {}

impl<K: Record + ?Sized> Counters<K> {
    /// Adds the counters to a registry as one table.
    pub fn register(registry: &mut Registry, spec: TableSpec) -> Result<Self, RegisterError> {
        registry.table(spec).map(Self)
    }

    /// A counter's value.
    pub fn get(self, tx: &Tx<'_>, key: &K) -> Result<i64, Refusal> {
        Ok(tx.get(self.0, key)?.map_or(0, |value| value.get()))
    }

    /// Adds to a counter and returns the sum; refuses to leave `range`.
    pub fn add(
        self,
        tx: &mut Tx<'_>,
        key: &K,
        delta: i64,
        range: RangeInclusive<i64>,
    ) -> Result<i64, Refusal> {
        let spot = tx.spot(self.0, key);
        let value = tx.get_at(&spot)?.map_or(0, |value| value.get());
        let sum = value.checked_add(delta).ok_or(Refusal::OutOfRange)?;
        if !range.contains(&sum) {
            return Err(Refusal::OutOfRange);
        }
        if sum == 0 {
            tx.remove_at(&spot);
        } else {
            tx.put_at(&spot, &I64::new(sum))?;
        }
        Ok(sum)
    }
}
