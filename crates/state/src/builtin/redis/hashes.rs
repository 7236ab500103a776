//! Hashes: fields with values.

use zerocopy::{FromBytes, IntoBytes};

use super::decimal::Decimal;
use super::number::{integer, parse};
use super::space::{Kind, Members, element};
use super::{Call, Command, Fault};
use crate::refusal::Refusal;

/// A hash or a set that is being changed.
pub(super) struct Changed {
    pub(super) members: Members,
    deadline: u64,
    kind: Kind,
}

impl Call<'_, '_> {
    /// A hash or a set, if the key exists.
    pub(super) fn members(&self, key: &[u8], kind: Kind) -> Result<Option<Members>, Fault> {
        let entry = self.space.expect(self.tx, key, kind)?;
        let read = |data| Members::read_from_bytes(data).map_err(|_| Refusal::Corrupt.into());
        entry.map(|entry| read(entry.data)).transpose()
    }

    /// The same in order to change it; a new one if the key does not exist.
    pub(super) fn change(&mut self, key: &[u8], kind: Kind) -> Result<Changed, Fault> {
        let deadline = self
            .space
            .expect(self.tx, key, kind)?
            .map(|entry| entry.deadline);
        let members = match self.members(key, kind)? {
            Some(members) => members,
            None => Members {
                id: self.tx.serial()?.into(),
                len: 0.into(),
            },
        };
        let deadline = deadline.unwrap_or(0);
        Ok(Changed {
            members,
            deadline,
            kind,
        })
    }

    /// Puts a changed one back; an empty one is deleted.
    pub(super) fn changed(&mut self, key: &[u8], changed: &Changed) -> Result<(), Fault> {
        if changed.members.len.get() == 0 {
            self.space.delete(self.tx, self.sweep, key)?;
            return Ok(());
        }
        let parts = [changed.members.as_bytes(), &[]];
        let Changed { kind, deadline, .. } = *changed;
        self.space
            .put(self.tx, self.sweep, key, kind, deadline, parts)
    }

    /// Sets a field; says whether it is new.
    pub(super) fn put_element(
        &mut self,
        changed: &mut Changed,
        field: &[u8],
        value: &[u8],
    ) -> Result<bool, Fault> {
        let at = element(changed.members.id, field);
        let new = !self.tx.put(self.space.elements, &*at, value)?;
        changed.members.len += u64::from(new);
        Ok(new)
    }

    /// Removes a field; says whether it was there.
    pub(super) fn remove_element(&mut self, changed: &mut Changed, field: &[u8]) -> bool {
        let at = element(changed.members.id, field);
        let was = self.tx.remove(self.space.elements, &*at);
        changed.members.len -= u64::from(was);
        was
    }

    /// A field's value.
    fn field(&self, members: Option<Members>, field: &[u8]) -> Result<Option<&[u8]>, Fault> {
        let Some(members) = members else {
            return Ok(None);
        };
        let at = element(members.id, field);
        Ok(self.tx.get(self.space.elements, &*at)?)
    }

    /// Whether a member is there.
    pub(super) fn has(&self, members: Option<Members>, field: &[u8]) -> Result<bool, Fault> {
        Ok(self.field(members, field)?.is_some())
    }

    pub(super) fn hset(&mut self) -> Result<(), Fault> {
        let (pairs, []) = self.args[1..].as_chunks::<2>() else {
            return Err(Fault::Arity);
        };
        let mut hash = self.change(self.args[0], Kind::Hash)?;
        let mut new = 0;
        for [field, value] in pairs {
            new += usize::from(self.put_element(&mut hash, field, value)?);
        }
        self.changed(self.args[0], &hash)?;
        match self.command {
            Command::HMSet => self.out.ok(),
            _ => self.out.count(new),
        }
        Ok(())
    }

    pub(super) fn hset_nx(&mut self) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Hash)?;
        let absent = !self.has(members, self.args[1])?;
        if absent {
            let mut hash = self.change(self.args[0], Kind::Hash)?;
            self.put_element(&mut hash, self.args[1], self.args[2])?;
            self.changed(self.args[0], &hash)?;
        }
        self.out.flag(absent);
        Ok(())
    }

    pub(super) fn hget(&mut self) -> Result<(), Fault> {
        self.field_values(&self.args[1..])
    }

    pub(super) fn hmget(&mut self) -> Result<(), Fault> {
        self.out.array(self.args.len() - 1);
        self.field_values(&self.args[1..])
    }

    fn field_values(&mut self, fields: &[&[u8]]) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Hash)?;
        for field in fields {
            let at = members.map(|members| element(members.id, field));
            let value = match &at {
                Some(at) => self.tx.get(self.space.elements, &**at)?,
                None => None,
            };
            self.out.bulk_or_nil(value);
        }
        Ok(())
    }

    pub(super) fn hget_all(&mut self) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Hash)?;
        let len = members.map_or(0, |members| members.len.get()) as usize;
        let (fields, values) = match self.command {
            Command::HKeys => (true, false),
            Command::HVals => (false, true),
            _ => (true, true),
        };
        match fields && values {
            true => self.out.map(len),
            false => self.out.array(len),
        }
        let most = self.tx.limits().reply_bytes;
        let Some(members) = members else {
            return Ok(());
        };
        for (_, field, value) in self.space.elements_of(self.tx, members.id, 0) {
            if fields {
                self.out.bulk(field);
            }
            if values {
                self.out.bulk(value);
            }
            if self.out.0.len() > most {
                return Err(Fault::TooLong);
            }
        }
        Ok(())
    }

    pub(super) fn hdel(&mut self) -> Result<(), Fault> {
        let gone = self.remove_elements(Kind::Hash)?;
        self.out.count(gone);
        Ok(())
    }

    /// Removes the elements that the arguments name; how many were there.
    pub(super) fn remove_elements(&mut self, kind: Kind) -> Result<usize, Fault> {
        if self.members(self.args[0], kind)?.is_none() {
            return Ok(0);
        }
        let mut changed = self.change(self.args[0], kind)?;
        let mut gone = 0;
        for field in &self.args[1..] {
            gone += usize::from(self.remove_element(&mut changed, field));
        }
        if gone > 0 {
            self.changed(self.args[0], &changed)?;
        }
        Ok(gone)
    }

    pub(super) fn hlen(&mut self) -> Result<(), Fault> {
        self.size(Kind::Hash)
    }

    pub(super) fn size(&mut self, kind: Kind) -> Result<(), Fault> {
        let members = self.members(self.args[0], kind)?;
        let len = members.map_or(0, |members| members.len.get());
        self.out.count(len as usize);
        Ok(())
    }

    pub(super) fn hexists(&mut self) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Hash)?;
        let there = self.has(members, self.args[1])?;
        self.out.flag(there);
        Ok(())
    }

    pub(super) fn hstr_len(&mut self) -> Result<(), Fault> {
        let members = self.members(self.args[0], Kind::Hash)?;
        let len = self.field(members, self.args[1])?.map_or(0, <[u8]>::len);
        self.out.count(len);
        Ok(())
    }

    pub(super) fn hincr_by(&mut self) -> Result<(), Fault> {
        let delta = integer(self.args[2])?;
        let members = self.members(self.args[0], Kind::Hash)?;
        let before = match self.field(members, self.args[1])? {
            Some(value) => parse(value).ok_or(Fault::Says("ERR hash value is not an integer"))?,
            None => 0,
        };
        let sum = before.checked_add(delta).ok_or(Fault::OVERFLOW)?;
        let mut hash = self.change(self.args[0], Kind::Hash)?;
        let mut text = itoa::Buffer::new();
        self.put_element(&mut hash, self.args[1], text.format(sum).as_bytes())?;
        self.changed(self.args[0], &hash)?;
        self.out.int(sum);
        Ok(())
    }

    pub(super) fn hincr_by_float(&mut self) -> Result<(), Fault> {
        let delta = Decimal::parse(self.args[2]).ok_or(Fault::NOT_A_FLOAT)?;
        let members = self.members(self.args[0], Kind::Hash)?;
        let before = match self.field(members, self.args[1])? {
            Some(value) => {
                Decimal::parse(value).ok_or(Fault::Says("ERR hash value is not a float"))?
            }
            None => Decimal::ZERO,
        };
        let sum = before.checked_add(delta).ok_or(Fault::NOT_FINITE)?.text();
        let mut hash = self.change(self.args[0], Kind::Hash)?;
        self.put_element(&mut hash, self.args[1], &sum)?;
        self.changed(self.args[0], &hash)?;
        self.out.bulk(&sum);
        Ok(())
    }
}
