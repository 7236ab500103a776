//! Sets: what a hash is, without values.

use alloc::vec::Vec;

use super::keys::optional_count;
use super::space::Kind;
use super::{Call, Command, Fault};
use crate::table::Key;

impl Call<'_, '_> {
    pub(super) fn sadd(&mut self) -> Result<(), Fault> {
        let mut set = self.change(self.args[0], Kind::Set)?;
        let mut new = 0;
        for member in &self.args[1..] {
            new += usize::from(self.put_element(&mut set, member, &[])?);
        }
        if new > 0 {
            self.changed(self.args[0], &set)?;
        }
        self.out.count(new);
        Ok(())
    }

    pub(super) fn srem(&mut self) -> Result<(), Fault> {
        let gone = self.remove_elements(Kind::Set)?;
        self.out.count(gone);
        Ok(())
    }

    /// `SISMEMBER` and `SMISMEMBER`.
    pub(super) fn sis_member(&mut self) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Set)?;
        if self.command == Command::SMIsMember {
            self.out.array(self.args.len() - 1);
        }
        for member in &self.args[1..] {
            let there = self.has(members, member)?;
            self.out.flag(there);
        }
        Ok(())
    }

    pub(super) fn smembers(&mut self) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Set)?;
        let most = self.tx.limits().reply_bytes;
        self.out
            .set(members.map_or(0, |members| members.len.get()) as usize);
        let ids = members.map(|members| members.id).into_iter();
        for (_, member, _) in ids.flat_map(|id| self.space.elements_of(self.tx, id, 0)) {
            self.out.bulk(member);
            if self.out.0.len() > most {
                return Err(Fault::TooLong);
            }
        }
        Ok(())
    }

    pub(super) fn scard(&mut self) -> Result<(), Fault> {
        self.size(Kind::Set)
    }

    /// Takes members that depend on the time alone, so that all replicas take the same.
    pub(super) fn spop(&mut self) -> Result<(), Fault> {
        let count = optional_count(&self.args[1..])?;
        let Some(members) = self.members(self.args[0], Kind::Set)? else {
            match count {
                Some(_) => self.out.set(0),
                None => self.out.nil(),
            }
            return Ok(());
        };
        let wanted = count.unwrap_or(1).min(members.len.get() as usize);
        if wanted > self.tx.limits().reply_bytes {
            return Err(Fault::TooLong);
        }
        let ahead = self
            .space
            .elements_of(self.tx, members.id, self.some_place());
        let around = self.space.elements_of(self.tx, members.id, 0);
        let taken = ahead.chain(around).map(|(_, member, _)| Key::from(member));
        let taken: Vec<Key> = taken.take(wanted).collect();
        let mut set = self.change(self.args[0], Kind::Set)?;
        if count.is_some() {
            self.out.set(taken.len());
        }
        for member in &taken {
            self.remove_element(&mut set, member);
            self.out.bulk(member);
        }
        if taken.is_empty() {
            return Ok(());
        }
        self.changed(self.args[0], &set)
    }

    pub(super) fn smove(&mut self) -> Result<(), Fault> {
        let (from, to, member) = (self.args[0], self.args[1], self.args[2]);
        let source = self.members(from, Kind::Set)?;
        if source.is_none() {
            self.out.int(0);
            return Ok(());
        }
        let target = self.members(to, Kind::Set)?;
        if !self.has(source, member)? {
            self.out.int(0);
            return Ok(());
        }
        if from == to {
            self.out.int(1);
            return Ok(());
        }
        let mut source = self.change(from, Kind::Set)?;
        self.remove_element(&mut source, member);
        self.changed(from, &source)?;
        if !self.has(target, member)? {
            let mut target = self.change(to, Kind::Set)?;
            self.put_element(&mut target, member, &[])?;
            self.changed(to, &target)?;
        }
        self.out.int(1);
        Ok(())
    }
}
