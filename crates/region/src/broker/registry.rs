//! Who has which region: the broker's decisions, without a socket or a file.
//!
//! * A name belongs to the user who created it. Only that user, and root, may take the
//!   writer's place or delete it; who may read is said at creation.
//! * A writer is *promised* an epoch (which fences its predecessor), prepares an object
//!   from the last version, and *offers* it. Until then readers keep the old one.
//! * A connection that ends takes its writers with it: what they offered stays, and the
//!   next writer may take over without force.

use std::collections::BTreeMap;

use crate::board::{MAX_REGIONS, Row};
use crate::broker::message::{Access, Claim, Entry, Refusal};
use crate::name::Name;

/// Bounds of what the broker keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of memory that all regions may take together.
    pub bytes: u64,
    /// Bytes of memory that the regions of one user may take.
    pub bytes_per_user: u64,
    /// Regions of one user.
    pub regions_per_user: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
            bytes_per_user: 2 << 30,
            regions_per_user: 1024,
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    pub(crate) connection: u64,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) process: u32,
}

const ROOT: u32 = 0;

/// What a promise says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Promise<F> {
    pub(crate) epoch: u64,
    pub(crate) slot: usize,
    /// What to go on from.
    pub(crate) last: Option<F>,
}

#[derive(Debug)]
struct Region<F> {
    slot: usize,
    claimed: u64,
    current: u64,
    owner: u32,
    owner_group: Option<u32>,
    access: Access,
    bytes: u64,
    object: Option<F>,
    writer: Option<Peer>,
    /// Who was promised `claimed`, and how many bytes.
    promised: Option<(u64, u64)>,
    /// Nothing was ever offered: with the promise it goes.
    fresh: bool,
}

/// The regions of one broker. `F` is what an object is handed around as.
#[derive(Debug)]
pub(crate) struct Registry<F> {
    limits: Limits,
    regions: BTreeMap<Name, Region<F>>,
    /// Epochs that a free slot has behind it.
    free: Vec<(usize, u64)>,
    changed: Vec<(usize, Row)>,
}

impl<F: Clone> Registry<F> {
    /// Goes on from what the board says: names, owners and epochs, but no objects, until
    /// their writers offer them again.
    pub(crate) fn new(limits: Limits, board: impl Iterator<Item = Row>) -> Self {
        let (mut regions, mut free) = (BTreeMap::new(), Vec::new());
        for (slot, row) in board.take(MAX_REGIONS).enumerate() {
            match row.name.filter(|name| !regions.contains_key(name)) {
                Some(name) => {
                    let region = Region {
                        slot,
                        claimed: row.claimed,
                        current: row.current,
                        owner: row.owner,
                        owner_group: None,
                        access: Access::from_code(row.access).unwrap_or(Access::Owner),
                        bytes: 0,
                        object: None,
                        writer: None,
                        promised: None,
                        fresh: false,
                    };
                    regions.insert(name, region);
                }
                None => free.push((slot, row.claimed.max(row.current))),
            }
        }
        free.reverse();
        Self {
            limits,
            regions,
            free,
            changed: Vec::new(),
        }
    }

    /// What the board must say before the next reply leaves.
    pub(crate) fn take_changes(&mut self) -> Vec<(usize, Row)> {
        std::mem::take(&mut self.changed)
    }

    fn note(&mut self, name: &Name) {
        if let Some(region) = self.regions.get(name) {
            let row = Row {
                name: Some(name.clone()),
                claimed: region.claimed,
                current: region.current,
                owner: region.owner,
                access: region.access.code(),
            };
            self.changed.push((region.slot, row));
        }
    }

    /// A writer wants the region `name`, of `bytes` bytes of memory.
    pub(crate) fn claim(
        &mut self,
        peer: Peer,
        name: &Name,
        how: Claim,
        access: Access,
        bytes: u64,
    ) -> Result<Promise<F>, Refusal> {
        match self.regions.get(name) {
            Some(region) => may_write(region, peer, how)?,
            None if self.free.is_empty() => return Err(Refusal::Full("regions")),
            None => {}
        }
        let owner = self.regions.get(name).map_or(peer.user, |r| r.owner);
        self.within_limits(owner, name, bytes)?;
        if !self.regions.contains_key(name) {
            let (slot, before) = self.free.pop().ok_or(Refusal::Full("regions"))?;
            let region = Region {
                slot,
                claimed: before,
                current: before,
                owner,
                owner_group: Some(peer.group),
                access,
                bytes: 0,
                object: None,
                writer: None,
                promised: None,
                fresh: true,
            };
            self.regions.insert(name.clone(), region);
        }
        let region = self.regions.get_mut(name).ok_or(Refusal::NotThere)?;
        region.claimed += 1;
        region.promised = Some((peer.connection, bytes));
        region.writer = None;
        let promise = Promise {
            epoch: region.claimed,
            slot: region.slot,
            last: region.object.clone(),
        };
        self.note(name);
        Ok(promise)
    }

    fn within_limits(&self, owner: u32, name: &Name, bytes: u64) -> Result<(), Refusal> {
        let others = || self.regions.iter().filter(|(other, _)| *other != name);
        // What is promised counts like what is there.
        let taken = |r: &Region<F>| r.bytes.max(r.promised.map_or(0, |(_, bytes)| bytes));
        let of_owner = || others().filter(|(_, r)| r.owner == owner);
        let all: u64 = others().map(|(_, r)| taken(r)).sum();
        let own: u64 = of_owner().map(|(_, r)| taken(r)).sum();
        if all.saturating_add(bytes) > self.limits.bytes {
            return Err(Refusal::Full("memory"));
        }
        if own.saturating_add(bytes) > self.limits.bytes_per_user {
            return Err(Refusal::Full("memory of this user"));
        }
        if of_owner().count() >= self.limits.regions_per_user {
            return Err(Refusal::Full("regions of this user"));
        }
        Ok(())
    }

    /// The object that a promise was for: from now on it is what readers get.
    pub(crate) fn offer(
        &mut self,
        peer: Peer,
        name: &Name,
        (epoch, bytes): (u64, u64),
        object: F,
    ) -> Result<(), Refusal> {
        let region = self.regions.get_mut(name).ok_or(Refusal::NotThere)?;
        let promised = region.promised.filter(|(to, _)| *to == peer.connection);
        if epoch != region.claimed || promised.is_none() {
            return Err(Refusal::Fenced(region.claimed));
        }
        if promised.is_some_and(|(_, most)| bytes > most) {
            return Err(Refusal::Full("memory that was asked for"));
        }
        region.promised = None;
        region.fresh = false;
        region.current = epoch;
        region.bytes = bytes;
        region.object = Some(object);
        region.writer = Some(peer);
        self.note(name);
        Ok(())
    }

    /// A writer that lost its broker offers its object to the next one.
    pub(crate) fn offer_again(
        &mut self,
        peer: Peer,
        name: &Name,
        (epoch, bytes): (u64, u64),
        object: F,
    ) -> Result<usize, Refusal> {
        let region = self.regions.get(name).ok_or(Refusal::NotThere)?;
        if peer.user != region.owner && peer.user != ROOT {
            return Err(Refusal::NotAllowed(region.owner));
        }
        if epoch != region.claimed || epoch != region.current || region.writer.is_some() {
            return Err(Refusal::Fenced(region.claimed));
        }
        let owner = region.owner;
        self.within_limits(owner, name, bytes)?;
        let region = self.regions.get_mut(name).ok_or(Refusal::NotThere)?;
        region.bytes = bytes;
        region.object = Some(object);
        region.writer = Some(peer);
        region.owner_group.get_or_insert(peer.group);
        Ok(region.slot)
    }

    /// The object of a region, for a reader.
    pub(crate) fn attach(&self, peer: Peer, name: &Name) -> Result<(usize, F), Refusal> {
        let region = self.regions.get(name).ok_or(Refusal::NotThere)?;
        if !may_read(region, peer) {
            return Err(Refusal::NotAllowed(region.owner));
        }
        let object = region.object.clone().ok_or(Refusal::NotYet)?;
        Ok((region.slot, object))
    }

    /// The writer, or who was to become it, ends and says so.
    pub(crate) fn release(&mut self, peer: Peer, name: &Name, epoch: u64) -> Result<(), Refusal> {
        let region = self.regions.get_mut(name).ok_or(Refusal::NotThere)?;
        // A former writer may be of the same process as the one that replaced it.
        if epoch == region.claimed && region.gives_up(peer.connection) {
            self.drop_fresh();
            return Ok(());
        }
        Err(Refusal::Fenced(region.claimed))
    }

    /// Forgets a region. Who reads it, or writes it, notices.
    pub(crate) fn delete(&mut self, peer: Peer, name: &Name) -> Result<(), Refusal> {
        let region = self.regions.get(name).ok_or(Refusal::NotThere)?;
        if peer.user != region.owner && peer.user != ROOT {
            return Err(Refusal::NotAllowed(region.owner));
        }
        self.forget(name);
        Ok(())
    }

    fn forget(&mut self, name: &Name) {
        let Some(region) = self.regions.remove(name) else {
            return;
        };
        // One more than anybody has: nobody who still has the slot takes it for his own.
        let epoch = region.claimed + 1;
        let row = Row {
            name: None,
            claimed: epoch,
            current: epoch,
            owner: 0,
            access: 0,
        };
        self.changed.push((region.slot, row));
        self.free.push((region.slot, epoch));
    }

    /// A connection has ended, and its process perhaps too.
    pub(crate) fn disconnected(&mut self, connection: u64) {
        let mut given_up = false;
        for region in self.regions.values_mut() {
            given_up |= region.gives_up(connection);
        }
        if given_up {
            self.drop_fresh();
        }
    }

    /// Forgets regions that nobody offers any more and that never were.
    fn drop_fresh(&mut self) {
        let vain = self
            .regions
            .iter()
            .filter(|(_, r)| r.fresh && r.promised.is_none());
        let names: Vec<Name> = vain.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.forget(name));
    }

    /// At most `most` regions below `prefix`, after `after`, that the peer may read.
    pub(crate) fn list(&self, peer: Peer, prefix: &str, after: &str, most: usize) -> Vec<Entry> {
        let seen = self.regions.iter().filter(|(name, region)| {
            name.as_str() > after && name.is_below(prefix) && may_read(region, peer)
        });
        let entry = |(name, region): (&Name, &Region<F>)| Entry {
            name: name.clone(),
            epoch: region.current,
            owner: region.owner,
            access: region.access,
            bytes: region.bytes,
            writer: region.writer.map(|writer| writer.process),
            readable: region.object.is_some(),
        };
        seen.take(most).map(entry).collect()
    }
}

impl<F> Region<F> {
    /// What a connection has of it, it has no more; whether it had anything.
    fn gives_up(&mut self, connection: u64) -> bool {
        let writer = self.writer.is_some_and(|w| w.connection == connection);
        let promised = self.promised.is_some_and(|(to, _)| to == connection);
        if writer {
            self.writer = None;
        }
        if promised {
            self.promised = None;
        }
        writer || promised
    }
}

fn may_write<F>(region: &Region<F>, peer: Peer, how: Claim) -> Result<(), Refusal> {
    if peer.user != region.owner && peer.user != ROOT {
        return Err(Refusal::NotAllowed(region.owner));
    }
    match (how, region.writer) {
        (Claim::New, _) => Err(Refusal::Exists),
        (Claim::IfVacant, Some(writer)) => Err(Refusal::Busy(writer.process)),
        (Claim::IfVacant, None) if region.promised.is_some() => Err(Refusal::Busy(0)),
        _ => Ok(()),
    }
}

fn may_read<F>(region: &Region<F>, peer: Peer) -> bool {
    let own = peer.user == region.owner || peer.user == ROOT;
    own || match region.access {
        Access::Owner => false,
        Access::Group => region.owner_group == Some(peer.group),
        Access::Everyone => true,
    }
}

#[cfg(test)]
mod tests;
