//! Mappings made.

use alloc::vec::Vec;

use stateplane_flow::Protocol;
use stateplane_state::{Refusal, Spot, Tx};

use super::Nat;
use super::ends::{ends_together, set_timer};
use super::rows::{InsideKey, MappingRow, OutsideKey, PortRow};
use crate::nat::ops::bind::{Binding, Bound, WireBinding};
use crate::nat::ops::{Bind, Class, Mapping, NatRefusal, Owner, block_of};

/// Answers to the bindings of one operation.
type Answers = Vec<Result<Bound, Refusal>>;

/// What one binding asks for, and the keys of its rows.
struct Wanted {
    binding: Binding,
    key: InsideKey,
    port: OutsideKey,
}

impl Wanted {
    fn of(binding: &WireBinding) -> Option<Self> {
        let binding = binding.decode()?;
        Some(Self {
            key: InsideKey::new(binding.protocol, binding.inside),
            port: OutsideKey::new(binding.protocol, binding.outside),
            binding,
        })
    }
}

/// Where these rows are, or would be.
struct Spots<'k> {
    mapping: Spot<'k, InsideKey, MappingRow>,
    port: Spot<'k, OutsideKey, PortRow>,
}

impl Nat {
    fn spots<'k>(&self, tx: &Tx<'_>, wanted: &'k Wanted) -> Spots<'k> {
        Spots {
            mapping: tx.spot(self.mappings, &wanted.key),
            port: tx.spot(self.ports, &wanted.port),
        }
    }

    /// Returns the mappings that inside endpoints have, or makes the proposed ones. Each binding is
    /// answered by itself, and sees what those before it have changed.
    pub(super) fn bind(
        &self,
        tx: &mut Tx<'_>,
        arguments: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let (owner, bindings) = Bind::from_arguments(arguments).ok_or(Refusal::BadArguments)?;
        let lease = self.check_lease(tx, owner);
        let answers = tx
            .attempt(|tx| self.bind_each(tx, owner, lease, bindings))
            // Not even one more timer finds room: who has a mapping is served all the same.
            .or_else(|full| self.bind_each(tx, owner, Err(full), bindings))?;
        Bind::write_time(tx.now(), reply);
        answers
            .iter()
            .for_each(|answer| Bind::write_answer(answer, reply));
        Ok(())
    }

    /// `may_make`: why no mapping is made, if so. Fails if what was made cannot have a timer.
    fn bind_each(
        &self,
        tx: &mut Tx<'_>,
        owner: Owner,
        may_make: Result<(), Refusal>,
        bindings: &[WireBinding],
    ) -> Result<Answers, Refusal> {
        let wanted: Vec<Option<Wanted>> = bindings.iter().map(Wanted::of).collect();
        let spots: Vec<Option<Spots<'_>>> = wanted
            .iter()
            .map(|wanted| Some(self.spots(tx, wanted.as_ref()?)))
            .collect();
        for spots in spots.iter().flatten() {
            tx.fetch(&spots.mapping);
            tx.fetch(&spots.port);
        }
        let mut answers = Vec::with_capacity(bindings.len());
        let mut made = Vec::with_capacity(bindings.len());
        for (wanted, spots) in wanted.iter().zip(&spots) {
            let (Some(wanted), Some(spots)) = (wanted, spots) else {
                answers.push(Err(Refusal::BadArguments));
                continue;
            };
            let answer = self.bind_one(tx, owner, may_make, wanted, spots);
            if let Ok(bound) = answer
                && bound.made
            {
                made.push((bound.expires, wanted.key));
            }
            answers.push(answer);
        }
        ends_together(made, |ends, keys| {
            let timer = tx.arm(self.expire, keys, ends)?;
            // Their rows say that they share it.
            if let [key] = keys {
                set_timer(tx, self.mappings, key, timer)?;
            }
            Ok(())
        })?;
        Ok(answers)
    }

    fn bind_one(
        &self,
        tx: &mut Tx<'_>,
        owner: Owner,
        may_make: Result<(), Refusal>,
        wanted: &Wanted,
        spots: &Spots<'_>,
    ) -> Result<Bound, Refusal> {
        let (protocol, inside) = (wanted.binding.protocol, wanted.binding.inside);
        if protocol != Protocol::IcmpEcho && inside.port == 0 {
            return Err(Refusal::BadArguments);
        }
        let class = Class::initial(protocol);
        let made = !tx.contains_at(&spots.mapping);
        let mapping = match made {
            true => self.make(tx, owner, may_make, wanted, spots)?,
            false => self.keep_alive(tx, &wanted.key, class)?,
        };
        Ok(Bound {
            now: tx.now(),
            class: mapping.class,
            outside: mapping.outside,
            expires: mapping.expires,
            made,
        })
    }

    /// Makes the proposed mapping. Its timer is armed afterwards, with those of others.
    fn make(
        &self,
        tx: &mut Tx<'_>,
        owner: Owner,
        may_make: Result<(), Refusal>,
        wanted: &Wanted,
        spots: &Spots<'_>,
    ) -> Result<Mapping, Refusal> {
        let &Binding {
            protocol,
            inside,
            outside,
        } = &wanted.binding;
        if !self.config.has_address(outside.addr) || !self.config.ports.contains(&outside.port) {
            return Err(NatRefusal::OutsideRange.into());
        }
        may_make?;
        self.check_block(tx, owner, outside.addr, block_of(outside.port))?;
        match tx.get_at(&spots.port)? {
            Some(row) if row.serves().is_some() => return Err(NatRefusal::PortBusy.into()),
            Some(_) => return Err(NatRefusal::PortQuarantined.into()),
            None => {}
        }
        let class = Class::initial(protocol);
        let mapping = Mapping {
            protocol,
            class,
            inside,
            outside,
            expires: tx.now() + self.config.timeouts.of(class),
            created: tx.now(),
        };
        let quota = 0..=i64::from(self.config.limit_per_subscriber);
        tx.attempt(|tx| {
            self.subscribers
                .add(tx, &wanted.key.addr, 1, quota)
                .map_err(|refusal| match refusal {
                    Refusal::OutOfRange => NatRefusal::Quota.into(),
                    other => other,
                })?;
            tx.put_at(&spots.mapping, &MappingRow::new(&mapping))?;
            tx.put_at(&spots.port, &PortRow::live(wanted.key))?;
            Ok(mapping)
        })
    }
}
