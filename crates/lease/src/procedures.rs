//! `lease.*`: leases of partitions for any function, each with a state of its owner's own form.
//!
//! A function with tables of its own uses [`Grants`] in its own procedures instead, so that what a
//! write changes and who may write are decided in one transaction.

use alloc::vec::Vec;

use stateplane_state::{Refusal, RegisterError, Registry, Table, TableSpec, Tx};
use zerocopy::byteorder::network_endian::U64;

use crate::grant::{Grant, Refused, Terms, Write as Does};
use crate::grants::{GrantError, Grants};
use crate::ops::{
    self, Acquire, List, Migrate, PAGE, Write, put_answer, put_asked, put_listed, put_now,
};

/// Most partitions of a store.
const PARTITIONS: usize = 1 << 16;

#[derive(Clone, Copy)]
struct Leases {
    grants: Grants<U64>,
    states: Table<U64, [u8]>,
}

/// Adds the tables and procedures to a registry. The leases are handed out to functions whose own
/// procedures write under them.
pub fn register(registry: &mut Registry, terms: Terms) -> Result<Grants<U64>, RegisterError> {
    registry.depend_on(u64::try_from(terms.length.as_nanos()).unwrap_or(u64::MAX));
    let spec = TableSpec::new("lease.grants", PARTITIONS);
    let leases = Leases {
        grants: Grants::register(registry, spec, "lease.epochs", terms)?,
        states: registry.table(TableSpec::new("lease.states", PARTITIONS))?,
    };
    let mut add = |name, version, procedure: LeaseProcedure| {
        registry.register(name, version, move |tx, arguments, reply| {
            procedure(leases, tx, arguments, reply)
        })
    };
    add("lease.acquire", 1, Leases::acquire)?;
    add("lease.renew", 1, Leases::renew)?;
    add("lease.release", 1, Leases::release)?;
    add("lease.write", 1, Leases::write)?;
    add("lease.migrate", 2, Leases::migrate)?;
    add("lease.list", 2, Leases::list)?;
    add("lease.asked", 1, Leases::asked)?;
    Ok(leases.grants)
}

type LeaseProcedure = fn(Leases, &mut Tx<'_>, &[u8], &mut Vec<u8>) -> Result<(), Refusal>;

/// A refusal of the rules is an answer; one of the store fails the operation.
fn settle<T>(result: Result<T, GrantError>) -> Result<Result<T, Refused>, Refusal> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(GrantError::Refused(refused)) => Ok(Err(refused)),
        Err(GrantError::Store(refusal)) => Err(refusal),
    }
}

impl Leases {
    fn acquire(
        self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let Acquire { life, partition } =
            Acquire::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let key = U64::new(partition.0);
        let answer = settle(self.grants.request(tx, &key, life))?;
        put_now(tx.now(), reply);
        put_answer(&answer, tx.now(), reply);
        if answer.is_ok()
            && let Some(state) = tx.get(self.states, &key)?
        {
            reply.extend_from_slice(state);
        }
        Ok(())
    }

    fn renew(self, tx: &mut Tx<'_>, arguments: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let holdings = ops::holdings_from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        put_now(tx.now(), reply);
        for (partition, owner) in holdings {
            let answer = settle(self.grants.renew(tx, &partition.0.into(), owner))?;
            put_answer(&answer, tx.now(), reply);
        }
        Ok(())
    }

    fn release(self, tx: &mut Tx<'_>, arguments: &[u8], _: &mut Vec<u8>) -> Result<(), Refusal> {
        let holdings = ops::holdings_from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        for (partition, owner) in holdings {
            self.grants.release(tx, &partition.0.into(), owner)?;
        }
        Ok(())
    }

    fn write(self, tx: &mut Tx<'_>, arguments: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let write = Write::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let key = U64::new(write.partition.0);
        let answer = settle(self.grants.write(tx, &key, write.owner, write.sequence))?;
        let answer = match answer {
            Ok((grant, does)) => {
                if does == Does::Apply {
                    tx.put(self.states, &key, write.state)?;
                }
                Ok(grant)
            }
            Err(refused) => Err(refused),
        };
        put_now(tx.now(), reply);
        put_answer(&answer, tx.now(), reply);
        Ok(())
    }

    fn migrate(
        self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let wanted = Migrate::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let key = U64::new(wanted.partition.0);
        let answer = settle(self.grants.migrate(tx, &key, wanted.heir, wanted.stays))?;
        put_now(tx.now(), reply);
        put_answer(&answer, tx.now(), reply);
        Ok(())
    }

    fn list(self, tx: &mut Tx<'_>, arguments: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let List { from, limit } = List::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        put_now(tx.now(), reply);
        let limit = usize::from(limit).min(PAGE);
        for (key, grant) in self.grants.scan(tx, &from.0.into()).take(limit) {
            put_listed(crate::Partition(key.get()), &grant, reply);
        }
        Ok(())
    }

    fn asked(self, tx: &mut Tx<'_>, arguments: &[u8], reply: &mut Vec<u8>) -> Result<(), Refusal> {
        let ops::Asked { instance } =
            ops::Asked::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let now = tx.now();
        put_now(now, reply);
        let of_us = |(key, grant): (&U64, Grant)| {
            let heir = grant.asked_back(now)?;
            let ours = grant.owner.instance == instance && !grant.is_released();
            let free = heir.instance == instance && grant.is_over(now);
            let epoch = if ours && !free { grant.owner.epoch } else { 0 };
            (ours || free).then_some((crate::Partition(key.get()), epoch))
        };
        let all = self.grants.scan(tx, &U64::new(0));
        for (partition, epoch) in all.filter_map(of_us).take(PAGE) {
            put_asked(partition, epoch, reply);
        }
        Ok(())
    }
}
