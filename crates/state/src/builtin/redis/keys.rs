//! Keys of whatever kind: deadlines, names, walks.

use super::number::{integer, parse};
use super::space::{Kind, now_ms};
use super::{Call, Command, Fault, glob};

/// Entries one step of a walk looks at, at most.
const STEP: usize = 1_000;
/// Most keys `KEYS` looks at.
const KEYS: usize = 100_000;
/// A step of a walk ends when it has said so much.
const PAGE: usize = 4 << 10;

/// When a deadline may be changed.
#[derive(Clone, Copy, Default)]
struct Unless {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Unless {
    fn read(words: &[&[u8]]) -> Result<Self, Fault> {
        let mut unless = Self::default();
        for word in words {
            match word.to_ascii_lowercase().as_slice() {
                b"nx" => unless.nx = true,
                b"xx" => unless.xx = true,
                b"gt" => unless.gt = true,
                b"lt" => unless.lt = true,
                _ => return Err(Fault::Says("ERR Unsupported option")),
            }
        }
        if unless.nx && (unless.xx || unless.gt || unless.lt) {
            return Err(Fault::Says(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if unless.gt && unless.lt {
            return Err(Fault::Says(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(unless)
    }

    /// Whether a deadline (zero: never) may become another.
    fn admits(self, now: u64, then: i64) -> bool {
        let sooner = now == 0 || i64::try_from(now).is_ok_and(|now| then < now);
        let later = now != 0 && i64::try_from(now).is_ok_and(|now| then > now);
        !(self.nx && now != 0 || self.xx && now == 0 || self.gt && !later || self.lt && !sooner)
    }
}

/// What `SCAN` and its kin are asked.
struct Walk<'a> {
    from: u32,
    pattern: Option<&'a [u8]>,
    count: usize,
    kind: Option<&'a [u8]>,
}

impl<'a> Walk<'a> {
    fn read(args: &[&'a [u8]], with_kind: bool) -> Result<Self, Fault> {
        let (cursor, options) = args.split_first().ok_or(Fault::SYNTAX)?;
        let cursor = core::str::from_utf8(cursor).ok();
        let cursor: u64 = cursor
            .and_then(|text| text.parse().ok())
            .ok_or(Fault::Says("ERR invalid cursor"))?;
        let mut walk = Self {
            // What lies beyond the last place is the end.
            from: u32::try_from(cursor).unwrap_or(u32::MAX),
            pattern: None,
            count: 10,
            kind: None,
        };
        let (pairs, rest) = options.as_chunks::<2>();
        for [option, value] in pairs {
            match option.to_ascii_lowercase().as_slice() {
                b"match" => walk.pattern = Some(value),
                b"count" => {
                    let count = integer(value)?;
                    if count < 1 {
                        return Err(Fault::SYNTAX);
                    }
                    walk.count = usize::try_from(count).unwrap_or(STEP).min(STEP);
                }
                b"type" if with_kind => walk.kind = Some(value),
                _ => return Err(Fault::SYNTAX),
            }
        }
        match rest {
            [] => Ok(walk),
            _ => Err(Fault::SYNTAX),
        }
    }

    fn admits(&self, name: &[u8]) -> bool {
        self.pattern
            .is_none_or(|pattern| glob::matches(pattern, name))
    }
}

impl Call<'_, '_> {
    pub(super) fn del(&mut self) -> Result<(), Fault> {
        let mut deleted = 0;
        for key in self.args {
            deleted += usize::from(self.space.delete(self.tx, self.sweep, key)?);
        }
        self.out.count(deleted);
        Ok(())
    }

    pub(super) fn exists(&mut self) -> Result<(), Fault> {
        let mut found = 0;
        for key in self.args {
            found += usize::from(self.space.find(self.tx, key)?.is_some());
        }
        self.out.count(found);
        Ok(())
    }

    pub(super) fn kind(&mut self) -> Result<(), Fault> {
        let found = self.space.find(self.tx, self.args[0])?;
        self.out
            .status(found.map_or("none", |entry| entry.kind.name()));
        Ok(())
    }

    /// The versions of keys, for `WATCH`.
    pub(super) fn versions(&mut self) -> Result<(), Fault> {
        self.out.array(self.args.len());
        for key in self.args {
            let found = self.space.find(self.tx, key)?;
            self.out.bulk_number(found.map_or(0, |entry| entry.version));
        }
        Ok(())
    }

    /// The store's figures, for `INFO`: keys, those with a deadline, bytes and how many there may be,
    /// and the log's time in milliseconds.
    pub(super) fn figures(&mut self) -> Result<(), Fault> {
        let limits = *self.tx.limits();
        let keys = self.space.len(self.tx) as u64;
        let expires = self.space.ending(self.tx) as u64;
        let bytes = self.tx.bytes() as u64;
        self.out.array(5);
        for figure in [
            keys,
            expires,
            bytes,
            limits.memory_bytes as u64,
            now_ms(self.tx),
        ] {
            self.out.bulk_number(figure);
        }
        Ok(())
    }

    /// A time in milliseconds from an argument of this command: of log time, or from now.
    pub(super) fn deadline(
        &self,
        text: &[u8],
        seconds: bool,
        relative: bool,
    ) -> Result<i64, Fault> {
        let mut at = integer(text)?;
        if seconds {
            at = at.checked_mul(1000).ok_or(Fault::Expire)?;
        }
        if relative {
            let now = i64::try_from(now_ms(self.tx)).map_err(|_| Fault::Expire)?;
            at = at.checked_add(now).ok_or(Fault::Expire)?;
        }
        Ok(at)
    }

    pub(super) fn expire(&mut self) -> Result<(), Fault> {
        let unless = Unless::read(&self.args[2..])?;
        let seconds = matches!(self.command, Command::Expire | Command::ExpireAt);
        let relative = matches!(self.command, Command::Expire | Command::PExpire);
        let then = self.deadline(self.args[1], seconds, relative)?;
        let key = self.args[0];
        let Some(entry) = self.space.find(self.tx, key)? else {
            self.out.int(0);
            return Ok(());
        };
        if !unless.admits(entry.deadline, then) {
            self.out.int(0);
            return Ok(());
        }
        self.end_at(key, then)?;
        self.out.int(1);
        Ok(())
    }

    /// Lets a key that exists end at `then`; one that would have ended by now is deleted.
    pub(super) fn end_at(&mut self, key: &[u8], then: i64) -> Result<(), Fault> {
        let now = now_ms(self.tx);
        match u64::try_from(then) {
            Ok(then) if then > now => self.set_deadline(key, then),
            _ => {
                self.space.delete(self.tx, self.sweep, key)?;
                Ok(())
            }
        }
    }

    fn set_deadline(&mut self, key: &[u8], deadline: u64) -> Result<(), Fault> {
        let Some(entry) = self.space.find(self.tx, key)? else {
            return Ok(());
        };
        let (kind, data) = (entry.kind, entry.data.to_vec());
        let parts = [&data[..], &[]];
        self.space
            .put(self.tx, self.sweep, key, kind, deadline, parts)
    }

    pub(super) fn persist(&mut self) -> Result<(), Fault> {
        let key = self.args[0];
        let found = self.space.find(self.tx, key)?;
        let ends = found.is_some_and(|entry| entry.deadline != 0);
        if ends {
            self.set_deadline(key, 0)?;
        }
        self.out.flag(ends);
        Ok(())
    }

    pub(super) fn ttl(&mut self) -> Result<(), Fault> {
        let Some(entry) = self.space.find(self.tx, self.args[0])? else {
            self.out.int(-2);
            return Ok(());
        };
        let deadline = entry.deadline;
        if deadline == 0 {
            self.out.int(-1);
            return Ok(());
        }
        let left = deadline.saturating_sub(now_ms(self.tx));
        let said = match self.command {
            Command::PTtl => left,
            Command::Ttl => (left + 500) / 1000,
            Command::PExpireTime => deadline,
            _ => deadline.saturating_add(500) / 1000,
        };
        self.out.int(i64::try_from(said).unwrap_or(i64::MAX));
        Ok(())
    }

    pub(super) fn rename(&mut self) -> Result<(), Fault> {
        let (from, to) = (self.args[0], self.args[1]);
        let unless_there = self.command == Command::RenameNx;
        let Some(entry) = self.space.find(self.tx, from)? else {
            return Err(Fault::NO_KEY);
        };
        let (kind, deadline, data) = (entry.kind, entry.deadline, entry.data.to_vec());
        let there = self.space.find(self.tx, to)?.is_some();
        if unless_there && there {
            self.out.int(0);
            return Ok(());
        }
        if from != to {
            self.space.delete(self.tx, self.sweep, to)?;
            self.space.unlink(self.tx, from, deadline);
            let parts = [&data[..], &[]];
            self.space
                .put(self.tx, self.sweep, to, kind, deadline, parts)?;
        }
        match unless_there {
            true => self.out.int(1),
            false => self.out.ok(),
        }
        Ok(())
    }

    pub(super) fn db_size(&mut self) -> Result<(), Fault> {
        let len = self.space.len(self.tx);
        self.out.count(len);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        match self.args {
            [] => {}
            [how] if how.eq_ignore_ascii_case(b"async") || how.eq_ignore_ascii_case(b"sync") => {}
            _ => return Err(Fault::SYNTAX),
        }
        self.space.flush(self.tx);
        self.out.ok();
        Ok(())
    }

    /// A key that depends on the time alone, so that all replicas name the same.
    pub(super) fn random_key(&mut self) -> Result<(), Fault> {
        let from = self.some_place();
        let ahead = self.space.walk(self.tx, from).take(STEP);
        let around = self.space.walk(self.tx, 0).take(STEP);
        let mut found = None;
        for (_, key) in ahead.chain(around) {
            if self.space.find(self.tx, key)?.is_some() {
                found = Some(key);
                break;
            }
        }
        self.out.bulk_or_nil(found);
        Ok(())
    }

    /// A place to begin at that differs from time to time.
    pub(super) fn some_place(&self) -> u32 {
        let now = self.tx.now().as_nanos();
        (now.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    pub(super) fn keys(&mut self) -> Result<(), Fault> {
        if self.space.len(self.tx) > KEYS {
            return Err(Fault::Says(
                "ERR KEYS looks at 100000 keys at most and there are more; use SCAN",
            ));
        }
        let most = self.tx.limits().reply_bytes;
        let (mut found, mut bytes) = (alloc::vec::Vec::new(), 0);
        for (_, key) in self.space.walk(self.tx, 0) {
            if glob::matches(self.args[0], key) && self.space.find(self.tx, key)?.is_some() {
                bytes += key.len();
                if bytes > most {
                    return Err(Fault::TooLong);
                }
                found.push(key);
            }
        }
        self.out.array(found.len());
        found.into_iter().for_each(|key| self.out.bulk(key));
        Ok(())
    }

    pub(super) fn scan(&mut self) -> Result<(), Fault> {
        let walk = Walk::read(self.args, true)?;
        let (mut found, mut bytes, mut seen) = (alloc::vec::Vec::new(), 0, 0);
        let (mut last, mut next) = (None, 0);
        for (at, key) in self.space.walk(self.tx, walk.from) {
            // A step ends between places: those who share one come together.
            if last != Some(at) && (seen >= walk.count || bytes > PAGE) {
                next = at;
                break;
            }
            (last, seen) = (Some(at), seen + 1);
            let Some(entry) = self.space.find(self.tx, key)? else {
                continue;
            };
            let name = entry.kind.name().as_bytes();
            let kind = walk.kind.is_none_or(|kind| kind.eq_ignore_ascii_case(name));
            if kind && walk.admits(key) {
                bytes += key.len();
                found.push(key);
            }
        }
        self.out.array(2);
        self.out.bulk_number(next.into());
        self.out.array(found.len());
        found.into_iter().for_each(|key| self.out.bulk(key));
        Ok(())
    }

    /// `HSCAN` and `SSCAN`.
    pub(super) fn scan_elements(&mut self) -> Result<(), Fault> {
        let values = self.command == Command::HScan;
        let kind = if values { Kind::Hash } else { Kind::Set };
        let walk = Walk::read(&self.args[1..], false)?;
        let (mut found, mut bytes, mut seen) = (alloc::vec::Vec::new(), 0, 0);
        let (mut last, mut next) = (None, 0);
        let members = self.members(self.args[0], kind)?;
        let ids = members.map(|members| members.id).into_iter();
        for (at, field, value) in ids.flat_map(|id| self.space.elements_of(self.tx, id, walk.from))
        {
            if last != Some(at) && (seen >= walk.count || bytes > PAGE) {
                next = at;
                break;
            }
            (last, seen) = (Some(at), seen + 1);
            if walk.admits(field) {
                bytes += field.len() + value.len();
                found.push(field);
                if values {
                    found.push(value);
                }
            }
        }
        self.out.array(2);
        self.out.bulk_number(next.into());
        self.out.array(found.len());
        found.into_iter().for_each(|word| self.out.bulk(word));
        Ok(())
    }
}

/// The number of elements an optional argument asks for.
pub(super) fn optional_count(args: &[&[u8]]) -> Result<Option<usize>, Fault> {
    match args {
        [] => Ok(None),
        [count] => {
            let count = parse(count).and_then(|count| usize::try_from(count).ok());
            count.map(Some).ok_or(Fault::NOT_POSITIVE)
        }
        _ => Err(Fault::SYNTAX),
    }
}
