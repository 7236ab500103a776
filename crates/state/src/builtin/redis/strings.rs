//! Strings, which are numbers, too, if they look like one.

use alloc::vec::Vec;

use super::decimal::Decimal;
use super::number::{integer, parse, range};
use super::space::{Kind, now_ms};
use super::{Call, Command, Fault};

/// When a value's time ends.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Ends<'a> {
    /// Not said.
    #[default]
    Unsaid,
    /// As before.
    Keep,
    /// Never.
    Never,
    /// At a time, or after a span, that is still to be read.
    At(Time<'a>),
}

impl Ends<'_> {
    /// Whether both are the same option: the later one counts. Different ones exclude each other.
    fn same_option(self, other: Self) -> bool {
        match (self, other) {
            (Self::At(a), Self::At(b)) => (a.seconds, a.relative) == (b.seconds, b.relative),
            (a, b) => a == b,
        }
    }
}

/// A time as an option gives it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Time<'a> {
    text: &'a [u8],
    seconds: bool,
    relative: bool,
}

/// The options of `SET` and `GETEX`.
#[derive(Clone, Copy, Default)]
struct Options<'a> {
    nx: bool,
    xx: bool,
    get: bool,
    ends: Ends<'a>,
}

impl Call<'_, '_> {
    /// A string's bytes, if the key exists.
    fn string(&self, key: &[u8]) -> Result<Option<&[u8]>, Fault> {
        let entry = self.space.expect(self.tx, key, Kind::String)?;
        Ok(entry.map(|entry| entry.data))
    }

    /// A string's bytes and its deadline; of a key that does not exist: nothing, never.
    fn string_or_empty(&self, key: &[u8]) -> Result<(Vec<u8>, u64), Fault> {
        let entry = self.space.expect(self.tx, key, Kind::String)?;
        Ok(entry.map_or((Vec::new(), 0), |entry| {
            (entry.data.to_vec(), entry.deadline)
        }))
    }

    fn put_string(&mut self, key: &[u8], value: &[u8], deadline: u64) -> Result<(), Fault> {
        let parts = [value, &[]];
        self.space
            .put(self.tx, self.sweep, key, Kind::String, deadline, parts)
    }

    pub(super) fn get(&mut self) -> Result<(), Fault> {
        let entry = self.space.expect(self.tx, self.args[0], Kind::String)?;
        self.out.bulk_or_nil(entry.map(|entry| entry.data));
        Ok(())
    }

    pub(super) fn get_del(&mut self) -> Result<(), Fault> {
        self.get()?;
        self.space.delete(self.tx, self.sweep, self.args[0])?;
        Ok(())
    }

    pub(super) fn get_set(&mut self) -> Result<(), Fault> {
        self.get()?;
        self.put_string(self.args[0], self.args[1], 0)
    }

    pub(super) fn get_ex(&mut self) -> Result<(), Fault> {
        let options = self.options(&self.args[1..])?;
        self.get()?;
        if self.string(self.args[0])?.is_none() {
            return Ok(());
        }
        let key = self.args[0];
        match options.ends {
            Ends::Unsaid | Ends::Keep => Ok(()),
            Ends::Never => {
                let (value, deadline) = self.string_or_empty(key)?;
                match deadline {
                    0 => Ok(()),
                    _ => self.put_string(key, &value, 0),
                }
            }
            Ends::At(time) => {
                let then = self.then(time)?;
                self.end_at(key, then)
            }
        }
    }

    /// Reads the options of `SET` or `GETEX`, each of which knows some.
    fn options<'a>(&self, words: &[&'a [u8]]) -> Result<Options<'a>, Fault> {
        let set = self.command == Command::Set;
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let word = word.to_ascii_lowercase();
            let ends = match word.as_slice() {
                b"nx" if set && !options.xx => {
                    options.nx = true;
                    continue;
                }
                b"xx" if set && !options.nx => {
                    options.xx = true;
                    continue;
                }
                b"get" if set => {
                    options.get = true;
                    continue;
                }
                b"keepttl" if set => Ends::Keep,
                b"persist" if !set => Ends::Never,
                b"ex" | b"px" | b"exat" | b"pxat" => {
                    let text = words.next().ok_or(Fault::SYNTAX)?;
                    Ends::At(Time {
                        text,
                        seconds: word.starts_with(b"e"),
                        relative: word.len() == 2,
                    })
                }
                _ => return Err(Fault::SYNTAX),
            };
            if options.ends != Ends::Unsaid && !options.ends.same_option(ends) {
                return Err(Fault::SYNTAX);
            }
            options.ends = ends;
        }
        Ok(options)
    }

    /// When a value that begins now ends: unlike `EXPIRE`'s it must be a positive number.
    fn then(&self, time: Time<'_>) -> Result<i64, Fault> {
        if integer(time.text)? <= 0 {
            return Err(Fault::Expire);
        }
        self.deadline(time.text, time.seconds, time.relative)
    }

    pub(super) fn set(&mut self) -> Result<(), Fault> {
        let (key, value) = (self.args[0], self.args[1]);
        let options = match &self.args[2..] {
            [] => Options::default(),
            words => self.options(words)?,
        };
        let then = match options.ends {
            Ends::At(time) => self.then(time)?,
            _ => 0,
        };
        // Without options nobody asks what was there before.
        let found = match self.args.len() {
            2 => None,
            _ => self.space.find(self.tx, key)?.map(|entry| entry.deadline),
        };
        if options.get {
            self.get()?;
        }
        if options.nx && found.is_some() || options.xx && found.is_none() {
            if !options.get {
                self.out.nil();
            }
            return Ok(());
        }
        let deadline = match options.ends {
            Ends::Unsaid | Ends::Never => 0,
            Ends::Keep => found.unwrap_or(0),
            Ends::At(_) => then.cast_unsigned(),
        };
        if deadline != 0 && deadline <= now_ms(self.tx) {
            self.space.delete(self.tx, self.sweep, key)?;
        } else {
            self.put_string(key, value, deadline)?;
        }
        if !options.get {
            self.out.ok();
        }
        Ok(())
    }

    pub(super) fn set_nx(&mut self) -> Result<(), Fault> {
        let absent = self.space.find(self.tx, self.args[0])?.is_none();
        if absent {
            self.put_string(self.args[0], self.args[1], 0)?;
        }
        self.out.flag(absent);
        Ok(())
    }

    pub(super) fn set_ex(&mut self) -> Result<(), Fault> {
        let then = self.then(Time {
            text: self.args[1],
            seconds: self.command == Command::SetEx,
            relative: true,
        })?;
        self.put_string(self.args[0], self.args[2], then.cast_unsigned())?;
        self.out.ok();
        Ok(())
    }

    pub(super) fn append(&mut self) -> Result<(), Fault> {
        let (mut value, deadline) = self.string_or_empty(self.args[0])?;
        value.extend_from_slice(self.args[1]);
        self.put_string(self.args[0], &value, deadline)?;
        self.out.count(value.len());
        Ok(())
    }

    pub(super) fn str_len(&mut self) -> Result<(), Fault> {
        let len = self.string(self.args[0])?.map_or(0, <[u8]>::len);
        self.out.count(len);
        Ok(())
    }

    pub(super) fn get_range(&mut self) -> Result<(), Fault> {
        let (from, to) = (integer(self.args[1])?, integer(self.args[2])?);
        let entry = self.space.expect(self.tx, self.args[0], Kind::String)?;
        let value = entry.map_or(&[][..], |entry| entry.data);
        // Both from the end and the wrong way round is nothing, even where both would be the first.
        let backwards = from < 0 && to < 0 && from > to;
        let part = range(from, to.max(-(value.len() as i64)), value.len() as u64)
            .filter(|_| !backwards)
            .map_or(&[][..], |(from, to)| &value[from as usize..=to as usize]);
        self.out.bulk(part);
        Ok(())
    }

    pub(super) fn set_range(&mut self) -> Result<(), Fault> {
        let offset = integer(self.args[1])?;
        let offset =
            usize::try_from(offset).map_err(|_| Fault::Says("ERR offset is out of range"))?;
        let part = self.args[2];
        let (mut value, deadline) = self.string_or_empty(self.args[0])?;
        if !part.is_empty() {
            let end = offset.saturating_add(part.len());
            if end > self.tx.limits().value_bytes {
                return Err(crate::refusal::Refusal::ValueTooLarge.into());
            }
            value.resize(value.len().max(end), 0);
            value[offset..end].copy_from_slice(part);
            self.put_string(self.args[0], &value, deadline)?;
        }
        self.out.count(value.len());
        Ok(())
    }

    pub(super) fn mget(&mut self) -> Result<(), Fault> {
        self.out.array(self.args.len());
        for key in self.args {
            let entry = self.space.find(self.tx, key)?;
            let entry = entry.filter(|entry| entry.kind == Kind::String);
            self.out.bulk_or_nil(entry.map(|entry| entry.data));
        }
        Ok(())
    }

    pub(super) fn mset(&mut self) -> Result<(), Fault> {
        let unless_there = self.command == Command::MSetNx;
        let (pairs, []) = self.args.as_chunks::<2>() else {
            return Err(Fault::Arity);
        };
        if unless_there {
            for [key, _] in pairs {
                if self.space.find(self.tx, key)?.is_some() {
                    self.out.int(0);
                    return Ok(());
                }
            }
        }
        for [key, value] in pairs {
            self.put_string(key, value, 0)?;
        }
        match unless_there {
            true => self.out.int(1),
            false => self.out.ok(),
        }
        Ok(())
    }

    pub(super) fn incr(&mut self) -> Result<(), Fault> {
        let delta = match self.command {
            Command::Incr => 1,
            Command::Decr => -1,
            Command::IncrBy => integer(self.args[1])?,
            _ => integer(self.args[1])?
                .checked_neg()
                .ok_or(Fault::Says("ERR decrement would overflow"))?,
        };
        let key = self.args[0];
        let entry = self.space.expect(self.tx, key, Kind::String)?;
        let (before, deadline) = match entry {
            Some(entry) => (
                parse(entry.data).ok_or(Fault::NOT_AN_INTEGER)?,
                entry.deadline,
            ),
            None => (0, 0),
        };
        let sum = before.checked_add(delta).ok_or(Fault::OVERFLOW)?;
        self.put_string(key, itoa::Buffer::new().format(sum).as_bytes(), deadline)?;
        self.out.int(sum);
        Ok(())
    }

    pub(super) fn incr_by_float(&mut self) -> Result<(), Fault> {
        let key = self.args[0];
        let entry = self.space.expect(self.tx, key, Kind::String)?;
        let (before, deadline) = match entry {
            Some(entry) => (Decimal::parse(entry.data), entry.deadline),
            None => (Some(Decimal::ZERO), 0),
        };
        let before = before.ok_or(Fault::NOT_A_FLOAT)?;
        let delta = Decimal::parse(self.args[1]).ok_or(Fault::NOT_A_FLOAT)?;
        let sum = before.checked_add(delta).ok_or(Fault::NOT_FINITE)?.text();
        self.put_string(key, &sum, deadline)?;
        self.out.bulk(&sum);
        Ok(())
    }
}
