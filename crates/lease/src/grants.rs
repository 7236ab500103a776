//! Leases in a table of the store: what a function's procedures use.

use core::time::Duration;

use stateplane_base::{Incarnation, LogTime};
use stateplane_state::{
    Counters, Ordered, Record, Refusal, RegisterError, Registry, Table, TableSpec, Tx,
};
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::grant::{Grant, Heir, Refused, Terms, Write};
use crate::words::{InstanceId, Life, Owner};

/// The counter of epochs.
const EPOCHS: &[u8] = b"last";

/// The leases of partitions with keys of type `K`. A handle; copies are the same table.
pub struct Grants<K: ?Sized> {
    rows: Table<K, GrantRow, Ordered>,
    /// The last epoch given out: they rise over all partitions of the table, also over those whose
    /// rows were forgotten.
    epochs: Counters<[u8]>,
    terms: Terms,
}

impl<K: ?Sized> Clone for Grants<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized> Copy for Grants<K> {}

/// Why a procedure got no lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrantError {
    /// The rules of leases forbid it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store cannot.
    #[error(transparent)]
    Store(#[from] Refusal),
}

impl<K: Record + ?Sized> Grants<K> {
    /// Adds the table `spec` and a counter of epochs under the name `epochs`.
    pub fn register(
        registry: &mut Registry,
        spec: TableSpec,
        epochs: &'static str,
        terms: Terms,
    ) -> Result<Self, RegisterError> {
        Ok(Self {
            rows: registry.ordered_table(spec)?,
            epochs: Counters::register(registry, TableSpec::new(epochs, 1))?,
            terms,
        })
    }

    /// A partition's lease, if it was ever lent.
    pub fn get(&self, tx: &Tx<'_>, key: &K) -> Result<Option<Grant>, Refusal> {
        Ok(tx.get(self.rows, key)?.map(GrantRow::grant))
    }

    /// Lends a partition to a life, see [`Grant::request`].
    pub fn request(&self, tx: &mut Tx<'_>, key: &K, life: Life) -> Result<Grant, GrantError> {
        let (former, now) = (self.get(tx, key)?, tx.now());
        let grant = Grant::request(former.as_ref(), &self.terms, now, life, || {
            let last = self.epochs.add(tx, EPOCHS, 1, 1..=i64::MAX)?;
            Ok::<_, GrantError>(last.cast_unsigned())
        })?;
        self.put(tx, key, &grant)?;
        Ok(grant)
    }

    /// Prolongs an owner's lease, see [`Grant::renew`].
    pub fn renew(&self, tx: &mut Tx<'_>, key: &K, owner: Owner) -> Result<Grant, GrantError> {
        let mut grant = self.owned(tx, key)?;
        grant.renew(&self.terms, tx.now(), owner)?;
        self.put(tx, key, &grant)?;
        Ok(grant)
    }

    /// Decides about an owner's write, see [`Grant::write`]. If it says [`Write::Apply`], the
    /// procedure does what was asked; else that was done before.
    pub fn write(
        &self,
        tx: &mut Tx<'_>,
        key: &K,
        owner: Owner,
        sequence: u64,
    ) -> Result<(Grant, Write), GrantError> {
        let mut grant = self.owned(tx, key)?;
        let write = grant.write(&self.terms, tx.now(), owner, sequence)?;
        self.put(tx, key, &grant)?;
        Ok((grant, write))
    }

    /// The owner has stopped using the partition.
    pub fn release(&self, tx: &mut Tx<'_>, key: &K, owner: Owner) -> Result<(), Refusal> {
        if let Some(mut grant) = self.get(tx, key)? {
            grant.release(owner);
            self.put(tx, key, &grant)?;
        }
        Ok(())
    }

    /// Asks a partition back for `heir`, see [`Grant::migrate`].
    pub fn migrate(
        &self,
        tx: &mut Tx<'_>,
        key: &K,
        heir: InstanceId,
        stays: Duration,
    ) -> Result<Grant, GrantError> {
        let mut grant = self.get(tx, key)?.ok_or(Refusal::NotFound)?;
        grant.migrate(&self.terms, tx.now(), heir, stays);
        self.put(tx, key, &grant)?;
        Ok(grant)
    }

    /// Forgets a partition that nobody will ask for again. Who still names its last epoch is fenced.
    pub fn forget(&self, tx: &mut Tx<'_>, key: &K) -> bool {
        tx.remove(self.rows, key)
    }

    /// The leases from a key on, in the order of the keys.
    pub fn scan<'a>(
        &self,
        tx: &'a Tx<'_>,
        from: &K,
    ) -> impl Iterator<Item = (&'a K, Grant)> + use<'a, K>
    where
        K: 'a,
    {
        tx.scan(self.rows, from)
            .map(|(key, row)| (key, row.grant()))
    }

    fn owned(&self, tx: &Tx<'_>, key: &K) -> Result<Grant, GrantError> {
        self.get(tx, key)?.ok_or(Refused::Fenced.into())
    }

    fn put(&self, tx: &mut Tx<'_>, key: &K, grant: &Grant) -> Result<(), Refusal> {
        tx.put(self.rows, key, &GrantRow::of(grant)).map(|_| ())
    }
}

/// A partition's lease as it lies in the table, and as listings tell it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct GrantRow {
    instance: U64,
    epoch: U64,
    incarnation: U64,
    ends: U64,
    sequence: U64,
    heir: U64,
    /// Zero: there is no heir.
    heir_until: U64,
    stays: U64,
}

impl GrantRow {
    pub(crate) fn of(grant: &Grant) -> Self {
        let heir = grant.heir;
        Self {
            instance: grant.owner.instance.0.into(),
            epoch: grant.owner.epoch.into(),
            incarnation: grant.incarnation.0.into(),
            ends: grant.ends.as_nanos().into(),
            sequence: grant.sequence.into(),
            heir: heir.map_or(0, |heir| heir.instance.0).into(),
            heir_until: heir.map_or(0, |heir| heir.until.as_nanos()).into(),
            stays: grant.stays.as_nanos().into(),
        }
    }

    pub(crate) fn grant(&self) -> Grant {
        let heir = Heir {
            instance: InstanceId(self.heir.get()),
            until: LogTime::from_nanos(self.heir_until.get()),
        };
        Grant {
            owner: Owner {
                instance: InstanceId(self.instance.get()),
                epoch: self.epoch.get(),
            },
            incarnation: Incarnation(self.incarnation.get()),
            ends: LogTime::from_nanos(self.ends.get()),
            sequence: self.sequence.get(),
            heir: (heir.until > LogTime::ZERO).then_some(heir),
            stays: LogTime::from_nanos(self.stays.get()),
        }
    }
}
