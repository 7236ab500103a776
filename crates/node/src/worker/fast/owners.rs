//! The leases that entries hang on: the instance's own, and those of partitions with an owner, who
//! is one of its workers.
//!
//! The program compares a lease's number with that which an entry was written under. What stands
//! there is not the grant's epoch but a number of ours, a new one for each epoch and each time that
//! everything is taken back: so both end all entries so far with one store.

use std::collections::HashMap;

use stateplane_base::Time;
use stateplane_flow::fast::{Guard, Leases, Memory};
use stateplane_functions::Ownership;
use stateplane_lease::Partition;

/// The lease of entries that need no owner.
const OWN: u16 = 1;

#[derive(Clone, Copy, Debug)]
struct Owned {
    index: u16,
    /// The grant's epoch; 0 while we do not hold it.
    epoch: u32,
    number: u32,
    until: Time,
}

/// A partition in the hands of one worker. While it goes from one to another both have a place.
pub(super) type Place = (usize, Partition);

/// The leases of one instance.
#[derive(Debug)]
pub(super) struct Owners<M> {
    leases: Leases<M>,
    own: u32,
    partitions: HashMap<Place, Owned>,
    /// The last number given.
    last: u32,
}

impl<M: Memory> Owners<M> {
    /// Nobody's but the instance's own.
    pub(super) fn new(leases: Leases<M>) -> Self {
        let mut owners = Self {
            leases,
            own: 0,
            partitions: HashMap::new(),
            last: 0,
        };
        owners.revoke();
        owners
    }

    /// What an entry hangs on. `None`: its lease is not ours any more, or has no place.
    pub(super) fn guard(&self, worker: usize, ownership: Option<Ownership>) -> Option<Guard> {
        let Some(Ownership { partition, epoch }) = ownership else {
            return Some(Guard {
                lease: OWN,
                epoch: self.own,
            });
        };
        let owned = self.partitions.get(&(worker, partition))?;
        let same = owned.epoch != 0 && owned.epoch == epoch as u32;
        same.then_some(Guard {
            lease: owned.index,
            epoch: owned.number,
        })
    }

    /// A lease was granted, prolonged or lost.
    pub(super) fn publish(&mut self, place: Place, epoch: u32, until: Time) {
        let next = self.partitions.len() + usize::from(OWN) + 1;
        let known = self.partitions.get(&place).copied();
        // Who has held one keeps its place: there are as many as partitions at most, for each worker.
        let known = known.or_else(|| {
            let index = u16::try_from(next).ok()?;
            (next < self.leases.capacity()).then_some(Owned {
                index,
                epoch: 0,
                number: 0,
                until,
            })
        });
        let Some(mut owned) = known else {
            return;
        };
        if owned.epoch != epoch {
            owned.epoch = epoch;
            owned.number = self.number();
        }
        owned.until = until;
        self.partitions.insert(place, owned);
        self.write(owned);
    }

    /// Nothing passes by an entry that was written so far.
    pub(super) fn revoke(&mut self) {
        self.own = self.number();
        self.set(OWN, self.own, Time::MAX);
        let mut partitions = std::mem::take(&mut self.partitions);
        for owned in partitions.values_mut() {
            owned.number = self.number();
            self.write(*owned);
        }
        self.partitions = partitions;
    }

    fn write(&mut self, owned: Owned) {
        let number = if owned.epoch == 0 { 0 } else { owned.number };
        self.set(owned.index, number, owned.until);
    }

    fn set(&mut self, index: u16, number: u32, until: Time) {
        let set = self.leases.set(index, number, until);
        set.expect("there is a lease for the instance, and for whom it was looked");
    }

    fn number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        self.last
    }
}
