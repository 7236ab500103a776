//! Lists: items at consecutive positions, which either end extends.

use alloc::vec::Vec;

use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::keys::optional_count;
use super::number::{integer, range};
use super::space::{Ends, Kind, Place};
use super::{Call, Command, Fault, timeout};
use crate::refusal::Refusal;
use crate::table::Value;

/// Items one command may touch besides those it names.
const MOVED: u64 = 1 << 16;

/// The end of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn read(word: &[u8]) -> Result<Self, Fault> {
        match word.to_ascii_lowercase().as_slice() {
            b"left" => Ok(Self::Left),
            b"right" => Ok(Self::Right),
            _ => Err(Fault::SYNTAX),
        }
    }
}

/// A list that is being changed.
#[derive(Clone, Copy)]
struct List {
    id: U64,
    head: u64,
    len: u64,
    deadline: u64,
}

impl List {
    /// Where item number `n` stands.
    fn place(&self, n: u64) -> Place {
        Place {
            id: self.id,
            at: self.head.wrapping_add(n).into(),
        }
    }
}

impl Call<'_, '_> {
    fn list(&self, key: &[u8]) -> Result<Option<List>, Fault> {
        let Some(entry) = self.space.expect(self.tx, key, Kind::List)? else {
            return Ok(None);
        };
        let ends = Ends::ref_from_bytes(entry.data).map_err(|_| Refusal::Corrupt)?;
        Ok(Some(List {
            id: ends.id,
            head: ends.head.get(),
            len: ends.len.get(),
            deadline: entry.deadline,
        }))
    }

    fn list_or_new(&mut self, key: &[u8]) -> Result<List, Fault> {
        if let Some(list) = self.list(key)? {
            return Ok(list);
        }
        Ok(List {
            id: self.tx.serial()?.into(),
            head: 0,
            len: 0,
            deadline: 0,
        })
    }

    fn put_list(&mut self, key: &[u8], list: &List) -> Result<(), Fault> {
        if list.len == 0 {
            self.space.delete(self.tx, self.sweep, key)?;
            return Ok(());
        }
        let ends = Ends {
            id: list.id,
            head: list.head.into(),
            len: list.len.into(),
        };
        let parts = [ends.as_bytes(), &[]];
        self.space
            .put(self.tx, self.sweep, key, Kind::List, list.deadline, parts)
    }

    fn item(&self, list: &List, n: u64) -> Result<&[u8], Fault> {
        let item = self.tx.get(self.space.items, &list.place(n))?;
        Ok(item.ok_or(Refusal::Corrupt)?)
    }

    fn put_item(&mut self, list: &List, n: u64, item: &[u8]) -> Result<(), Fault> {
        self.tx.put(self.space.items, &list.place(n), item)?;
        Ok(())
    }

    /// Moves item number `from` to number `to`.
    fn move_item(&mut self, list: &List, from: u64, to: u64) -> Result<(), Fault> {
        let item = Value::from(self.item(list, from)?);
        self.put_item(list, to, &item)
    }

    fn push_item(&mut self, list: &mut List, end: End, item: &[u8]) -> Result<(), Fault> {
        list.len += 1;
        match end {
            End::Left => {
                list.head = list.head.wrapping_sub(1);
                self.put_item(list, 0, item)
            }
            End::Right => self.put_item(list, list.len - 1, item),
        }
    }

    /// Takes the item at an end, which `read` gets to see.
    fn pop_item(&mut self, list: &mut List, end: End) -> Result<Value, Fault> {
        let n = match end {
            End::Left => 0,
            End::Right => list.len - 1,
        };
        let place = list.place(n);
        let item = Value::from(self.item(list, n)?);
        self.tx.remove(self.space.items, &place);
        list.len -= 1;
        if end == End::Left {
            list.head = list.head.wrapping_add(1);
        }
        Ok(item)
    }

    pub(super) fn push(&mut self) -> Result<(), Fault> {
        let key = self.args[0];
        let end = match self.command {
            Command::LPush | Command::LPushX => End::Left,
            _ => End::Right,
        };
        let only_there = matches!(self.command, Command::LPushX | Command::RPushX);
        if only_there && self.list(key)?.is_none() {
            self.out.int(0);
            return Ok(());
        }
        let mut list = self.list_or_new(key)?;
        for item in &self.args[1..] {
            self.push_item(&mut list, end, item)?;
        }
        self.put_list(key, &list)?;
        self.out.count(list.len as usize);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<(), Fault> {
        let key = self.args[0];
        let end = match self.command {
            Command::LPop => End::Left,
            _ => End::Right,
        };
        if self.args.len() > 2 {
            return Err(Fault::Arity);
        }
        let count = optional_count(&self.args[1..])?;
        let Some(mut list) = self.list(key)? else {
            match count {
                Some(_) => self.out.nil_array(),
                None => self.out.nil(),
            }
            return Ok(());
        };
        let wanted = count.map_or(1, |count| list.len.min(count as u64));
        if count.is_some() {
            self.out.array(wanted as usize);
        }
        let most = self.tx.limits().reply_bytes;
        for _ in 0..wanted {
            let item = self.pop_item(&mut list, end)?;
            self.out.bulk(&item);
            if self.out.0.len() > most {
                return Err(Fault::TooLong);
            }
        }
        if wanted == 0 {
            return Ok(());
        }
        self.put_list(key, &list)
    }

    /// Pops from the first list that is there.
    pub(super) fn pop_first(&mut self) -> Result<(), Fault> {
        let (patience, keys) = self.args.split_last().ok_or(Fault::Arity)?;
        timeout(patience).map_err(Fault::Says)?;
        let end = match self.command {
            Command::BLPop => End::Left,
            _ => End::Right,
        };
        for key in keys {
            let Some(mut list) = self.list(key)? else {
                continue;
            };
            let item = self.pop_item(&mut list, end)?;
            self.put_list(key, &list)?;
            self.out.array(2);
            self.out.bulk(key);
            self.out.bulk(&item);
            return Ok(());
        }
        self.out.nil_array();
        Ok(())
    }

    pub(super) fn llen(&mut self) -> Result<(), Fault> {
        let len = self.list(self.args[0])?.map_or(0, |list| list.len);
        self.out.count(len as usize);
        Ok(())
    }

    pub(super) fn lrange(&mut self) -> Result<(), Fault> {
        let (from, to) = (integer(self.args[1])?, integer(self.args[2])?);
        let list = self.list(self.args[0])?;
        let found = list.and_then(|list| Some((list, range(from, to, list.len)?)));
        let Some((list, (from, to))) = found else {
            self.out.array(0);
            return Ok(());
        };
        let most = self.tx.limits().reply_bytes;
        self.out.array((to - from + 1) as usize);
        for n in from..=to {
            let item = self.tx.get(self.space.items, &list.place(n))?;
            self.out.bulk(item.ok_or(Refusal::Corrupt)?);
            if self.out.0.len() > most {
                return Err(Fault::TooLong);
            }
        }
        Ok(())
    }

    pub(super) fn lindex(&mut self) -> Result<(), Fault> {
        let Some(list) = self.list(self.args[0])? else {
            self.out.nil();
            return Ok(());
        };
        let index = integer(self.args[1])?;
        match range(index, index, list.len) {
            Some((n, _)) => {
                let item = self.tx.get(self.space.items, &list.place(n))?;
                self.out.bulk(item.ok_or(Refusal::Corrupt)?);
            }
            None => self.out.nil(),
        }
        Ok(())
    }

    pub(super) fn lset(&mut self) -> Result<(), Fault> {
        let key = self.args[0];
        let list = self.list(key)?.ok_or(Fault::NO_KEY)?;
        let index = integer(self.args[1])?;
        let (n, _) = range(index, index, list.len).ok_or(Fault::Says("ERR index out of range"))?;
        self.put_item(&list, n, self.args[2])?;
        self.put_list(key, &list)?;
        self.out.ok();
        Ok(())
    }

    pub(super) fn ltrim(&mut self) -> Result<(), Fault> {
        let (from, to) = (integer(self.args[1])?, integer(self.args[2])?);
        let key = self.args[0];
        let Some(mut list) = self.list(key)? else {
            self.out.ok();
            return Ok(());
        };
        let Some((from, to)) = range(from, to, list.len) else {
            self.space.delete(self.tx, self.sweep, key)?;
            self.out.ok();
            return Ok(());
        };
        if list.len - (to - from + 1) > MOVED {
            return Err(Fault::TOO_MUCH);
        }
        for n in (0..from).chain(to + 1..list.len) {
            self.tx.remove(self.space.items, &list.place(n));
        }
        list.head = list.head.wrapping_add(from);
        list.len = to - from + 1;
        self.put_list(key, &list)?;
        self.out.ok();
        Ok(())
    }

    pub(super) fn lrem(&mut self) -> Result<(), Fault> {
        let count = integer(self.args[1])?;
        let key = self.args[0];
        let Some(mut list) = self.list(key)? else {
            self.out.int(0);
            return Ok(());
        };
        if list.len > MOVED {
            return Err(Fault::TOO_MUCH);
        }
        let limit = match count {
            0 => u64::MAX,
            _ => count.unsigned_abs(),
        };
        let mut gone = Vec::new();
        for step in 0..list.len {
            let n = if count < 0 { list.len - 1 - step } else { step };
            if (gone.len() as u64) < limit && self.item(&list, n)? == self.args[2] {
                gone.push(n);
            }
        }
        gone.sort_unstable();
        if let Some(&first) = gone.first() {
            let mut to = first;
            for from in first..list.len {
                if gone.binary_search(&from).is_err() {
                    self.move_item(&list, from, to)?;
                    to += 1;
                }
            }
            for n in to..list.len {
                self.tx.remove(self.space.items, &list.place(n));
            }
            list.len = to;
            self.put_list(key, &list)?;
        }
        self.out.count(gone.len());
        Ok(())
    }

    pub(super) fn linsert(&mut self) -> Result<(), Fault> {
        let (key, pivot, item) = (self.args[0], self.args[2], self.args[3]);
        let after = match self.args[1].to_ascii_lowercase().as_slice() {
            b"before" => 0,
            b"after" => 1,
            _ => return Err(Fault::SYNTAX),
        };
        let Some(mut list) = self.list(key)? else {
            self.out.int(0);
            return Ok(());
        };
        if list.len > MOVED {
            return Err(Fault::TOO_MUCH);
        }
        let mut found = None;
        for n in 0..list.len {
            if self.item(&list, n)? == pivot {
                found = Some(n + after);
                break;
            }
        }
        let Some(at) = found else {
            self.out.int(-1);
            return Ok(());
        };
        // The shorter side makes room.
        list.len += 1;
        if at < list.len / 2 {
            list.head = list.head.wrapping_sub(1);
            for n in 0..at {
                self.move_item(&list, n + 1, n)?;
            }
        } else {
            for n in (at + 1..list.len).rev() {
                self.move_item(&list, n - 1, n)?;
            }
        }
        self.put_item(&list, at, item)?;
        self.put_list(key, &list)?;
        self.out.count(list.len as usize);
        Ok(())
    }

    /// `LMOVE` and `RPOPLPUSH`.
    pub(super) fn lmove(&mut self) -> Result<(), Fault> {
        let (from, to) = (self.args[0], self.args[1]);
        let (take, give) = match self.command {
            Command::LMove | Command::BLMove => {
                (End::read(self.args[2])?, End::read(self.args[3])?)
            }
            _ => (End::Right, End::Left),
        };
        if self.command.may_wait() {
            timeout(self.args[self.args.len() - 1]).map_err(Fault::Says)?;
        }
        let Some(mut source) = self.list(from)? else {
            self.out.nil();
            return Ok(());
        };
        self.list(to)?;
        let item = self.pop_item(&mut source, take)?;
        if from == to {
            self.push_item(&mut source, give, &item)?;
            self.put_list(from, &source)?;
        } else {
            self.put_list(from, &source)?;
            let mut target = self.list_or_new(to)?;
            self.push_item(&mut target, give, &item)?;
            self.put_list(to, &target)?;
        }
        self.out.bulk(&item);
        Ok(())
    }
}
