//! The meter's procedures: what every replica of the store executes.
//!
//! An account holds what was told to have passed, and what was reserved in the period that was reserved
//! in last. Both only grow within a period but for what an owner gives back, which it has reserved.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use stateplane_lease::grant::Write;
use stateplane_lease::ops::{put_answer, put_now};
use stateplane_lease::{GrantError, Grants, Owner, Partition};
use stateplane_state::{Ordered, Refusal, RegisterError, Registry, Table, TableSpec, Tx};
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::config::{ConfigError, MeterStateConfig, SUBSCRIBERS_MAX};
use super::ops::{
    Account, Commit, Item, Left, List, MeterRefusal, PAGE, Reserve, Tally, WireTally, put_account,
    put_reserved,
};

/// An account, under the subscriber's address.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct AccountRow {
    passed: WireTally,
    /// The period in which was reserved last.
    period: U64,
    /// How much was, in that period.
    reserved: U64,
}

impl AccountRow {
    fn empty() -> Self {
        Self {
            passed: WireTally::of(&Tally::default()),
            period: U64::ZERO,
            reserved: U64::ZERO,
        }
    }

    /// What was reserved in this period.
    fn reserved_in(&self, period: u64) -> u64 {
        if self.period.get() == period {
            self.reserved.get()
        } else {
            0
        }
    }
}

struct Meter {
    config: MeterStateConfig,
    fingerprint: u64,
    grants: Grants<U64>,
    accounts: Table<[u8; 4], AccountRow, Ordered>,
}

/// Why the meter could not be registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MeterRegisterError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry refused a name.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// Adds the meter's table and procedures to a registry, bound to `config`. `grants`: the leases that
/// partitions are lent under.
pub fn register(
    registry: &mut Registry,
    grants: Grants<U64>,
    config: &MeterStateConfig,
) -> Result<(), MeterRegisterError> {
    config.check()?;
    registry.depend_on(config.fingerprint());
    let rows = SUBSCRIBERS_MAX as usize;
    let meter = Arc::new(Meter {
        config: config.clone(),
        fingerprint: config.fingerprint(),
        grants,
        accounts: registry.ordered_table(TableSpec::new("meter.accounts", rows))?,
    });
    let mut add = |name, procedure: MeterProcedure| {
        let meter = meter.clone();
        registry.register(name, 1, move |tx, arguments, reply| {
            procedure(&meter, tx, arguments, reply)
        })
    };
    add("meter.commit", Meter::commit)?;
    add("meter.reserve", Meter::reserve)?;
    add("meter.list", Meter::list)?;
    Ok(())
}

type MeterProcedure = fn(&Meter, &mut Tx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Refusal>;

impl Meter {
    fn same_configuration(&self, fingerprint: u64) -> Result<(), Refusal> {
        if fingerprint == self.fingerprint {
            return Ok(());
        }
        Err(MeterRefusal::ConfigMismatch.into())
    }

    fn account(&self, tx: &Tx<'_>, subscriber: Ipv4Addr) -> Result<AccountRow, Refusal> {
        let known = tx.get(self.accounts, &subscriber.octets())?;
        Ok(known.copied().unwrap_or_else(AccountRow::empty))
    }

    /// Whether it is counted, and in this partition: nobody else has an account.
    fn is_of(&self, partition: Partition, subscriber: Ipv4Addr) -> bool {
        self.config.is_subscriber(subscriber) && self.config.partition(subscriber) == partition
    }

    fn commit(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let commit = Commit::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        self.same_configuration(commit.fingerprint)?;
        let Commit {
            owner,
            partition,
            sequence,
            ..
        } = commit;
        let key = U64::new(partition.0);
        let answer = match self.grants.write(tx, &key, owner, sequence) {
            Ok((grant, Write::Apply)) => {
                for item in commit.each() {
                    self.count(tx, partition, &item)?;
                }
                Ok(grant)
            }
            Ok((grant, Write::Repeated)) => Ok(grant),
            Err(GrantError::Refused(refused)) => Err(refused),
            Err(GrantError::Store(refusal)) => return Err(refusal),
        };
        put_now(tx.now(), reply);
        put_answer(&answer, tx.now(), reply);
        Ok(())
    }

    fn count(&self, tx: &mut Tx<'_>, partition: Partition, item: &Item) -> Result<(), Refusal> {
        if !self.is_of(partition, item.subscriber) {
            return Err(Refusal::BadArguments);
        }
        let mut row = self.account(tx, item.subscriber)?;
        let mut passed = row.passed.tally();
        passed.add(&item.passed);
        row.passed = WireTally::of(&passed);
        if row.period.get() == item.period {
            let reserved = row.reserved.get().saturating_sub(item.returned);
            row.reserved = reserved.into();
        }
        tx.put(self.accounts, &item.subscriber.octets(), &row)?;
        Ok(())
    }

    fn reserve(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let wanted = Reserve::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        self.same_configuration(wanted.fingerprint)?;
        self.owned(tx, wanted.partition, wanted.owner)?;
        let allowance = self.config.allowance(wanted.subscriber);
        let allowance = allowance.filter(|_| self.is_of(wanted.partition, wanted.subscriber));
        let allowance = allowance.ok_or(MeterRefusal::NoAllowance)?;
        let (period, ends) = allowance.period_at(tx.now());
        let mut row = self.account(tx, wanted.subscriber)?;
        // Log time never goes back, so neither do periods.
        let before = row.reserved_in(period);
        let left = allowance.bytes.saturating_sub(before);
        let granted = wanted.want.min(left);
        row.period = period.into();
        row.reserved = (before + granted).into();
        tx.put(self.accounts, &wanted.subscriber.octets(), &row)?;
        put_reserved((tx.now(), ends), period, granted, left - granted, reply);
        Ok(())
    }

    /// Whoever lost a partition reserves nothing in it: nobody would spend or return it.
    fn owned(&self, tx: &Tx<'_>, partition: Partition, owner: Owner) -> Result<(), Refusal> {
        let grant = self.grants.get(tx, &U64::new(partition.0))?;
        let held = grant.is_some_and(|grant| grant.owner == owner && !grant.is_released());
        held.then_some(()).ok_or(MeterRefusal::Fenced.into())
    }

    fn list(&self, tx: &mut Tx<'_>, arguments: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let List { from, limit } = List::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let now = tx.now();
        put_now(now, reply);
        let limit = usize::from(limit).min(PAGE);
        for (key, row) in tx.scan(self.accounts, &from.octets()).take(limit) {
            let subscriber = Ipv4Addr::from(*key);
            let allowance = self.config.allowance(subscriber).map(|allowance| {
                let (period, ends) = allowance.period_at(now);
                Left {
                    of: allowance.bytes,
                    left: allowance.bytes.saturating_sub(row.reserved_in(period)),
                    span: ends.since(now),
                }
            });
            let account = Account {
                subscriber,
                passed: row.passed.tally(),
                allowance,
                partition: self.config.partition(subscriber),
            };
            put_account(&account, now, reply);
        }
        Ok(())
    }
}
