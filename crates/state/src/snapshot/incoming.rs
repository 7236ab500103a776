//! Reading a snapshot as it comes in.

use alloc::vec::Vec;

use stateplane_base::LogTime;

use super::{CHECKSUM_LEN, HEADER_LEN, MAGIC, ROW_HEADER_LEN, TIMER_HEADER_LEN, VERSION};
use crate::application::SnapshotError;
use crate::hash::Checksum;
use crate::refusal::Refusal;
use crate::state::State;
use crate::table::Key;
use crate::timers::{Alarm, TimerId};

/// What comes next.
#[derive(Clone, Copy)]
enum Stage {
    Header,
    Count { table: usize },
    Rows { table: usize, left: u64 },
    TimerCount,
    Timers { left: u64 },
    Checksum,
    End,
}

/// A snapshot on its way in: the part of the state that was in the bytes so far. It touches
/// nobody's state until it is installed.
pub struct Incoming {
    state: State,
    fingerprint: u64,
    timer_kinds: usize,
    stage: Stage,
    sum: Checksum,
    /// The beginning of what did not come whole yet.
    rest: Vec<u8>,
    last_key: Option<Key>,
    last_timer: Option<TimerId>,
    failed: Option<SnapshotError>,
}

impl Incoming {
    /// Reads into an empty state.
    pub(crate) fn new(state: State, fingerprint: u64, timer_kinds: usize) -> Self {
        Self {
            state,
            fingerprint,
            timer_kinds,
            stage: Stage::Header,
            sum: Checksum::new(),
            rest: Vec::new(),
            last_key: None,
            last_timer: None,
            failed: None,
        }
    }

    /// Takes the next bytes in. After an error it is of no use.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut kept = core::mem::take(&mut self.rest);
        let from = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept[..]
        };
        let mut input = from;
        let read = loop {
            let before = input;
            match self.item(&mut input) {
                Ok(true) => {
                    if !matches!(self.stage, Stage::End) {
                        self.sum.take(&before[..before.len() - input.len()]);
                    }
                }
                Ok(false) => break Ok(before),
                Err(error) => break Err(error),
            }
        };
        match read {
            Ok(rest) => {
                let done = from.len() - rest.len();
                if kept.is_empty() {
                    self.rest.extend_from_slice(rest);
                } else {
                    kept.drain(..done);
                    self.rest = kept;
                }
                Ok(())
            }
            Err(error) => {
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// The state, if all of it came.
    pub(crate) fn finish(self) -> Result<State, SnapshotError> {
        match (self.failed, self.stage) {
            (Some(error), _) => Err(error),
            (None, Stage::End) if self.rest.is_empty() => Ok(self.state),
            (None, Stage::Header) if !self.rest.starts_with(&MAGIC) => {
                Err(SnapshotError::NotASnapshot)
            }
            _ => Err(SnapshotError::Damaged),
        }
    }

    /// Reads the next item; false if it has not come whole. Then nothing has changed.
    fn item(&mut self, input: &mut &[u8]) -> Result<bool, SnapshotError> {
        match self.stage {
            Stage::Header => self.header(input),
            Stage::Count { table } if table == self.state.tables.len() => {
                self.stage = Stage::TimerCount;
                Ok(true)
            }
            Stage::Count { table } => {
                let Some(left) = word(input) else {
                    return Ok(false);
                };
                self.stage = Stage::Rows { table, left };
                self.last_key = None;
                Ok(true)
            }
            Stage::Rows { table, left: 0 } => {
                self.stage = Stage::Count { table: table + 1 };
                Ok(true)
            }
            Stage::Rows { table, left } => {
                let read = self.row(input, table as u16)?;
                if read {
                    let left = left - 1;
                    self.stage = Stage::Rows { table, left };
                }
                Ok(read)
            }
            Stage::TimerCount => {
                let Some(left) = word(input) else {
                    return Ok(false);
                };
                self.stage = Stage::Timers { left };
                Ok(true)
            }
            Stage::Timers { left: 0 } => {
                self.stage = Stage::Checksum;
                Ok(true)
            }
            Stage::Timers { left } => {
                let read = self.timer(input)?;
                if read {
                    self.stage = Stage::Timers { left: left - 1 };
                }
                Ok(read)
            }
            Stage::Checksum => {
                let Some((sum, rest)) = input.split_first_chunk::<CHECKSUM_LEN>() else {
                    return Ok(false);
                };
                if !intact(self.sum.finish(), *sum) {
                    return Err(SnapshotError::Damaged);
                }
                *input = rest;
                self.stage = Stage::End;
                Ok(true)
            }
            Stage::End if input.is_empty() => Ok(false),
            Stage::End => Err(SnapshotError::Damaged),
        }
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<bool, SnapshotError> {
        let shown = input.len().min(MAGIC.len());
        if input[..shown] != MAGIC[..shown] {
            return Err(SnapshotError::NotASnapshot);
        }
        let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>() else {
            return Ok(false);
        };
        let found = u16::from_be_bytes([header[4], header[5]]);
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        if header[6..8] != [0; 2] {
            return Err(SnapshotError::Damaged);
        }
        let mut words = &header[8..];
        let mut next = || word(&mut words).expect("the header has three words");
        if next() != self.fingerprint {
            return Err(SnapshotError::OtherConfiguration);
        }
        self.state.now = LogTime::from_nanos(next());
        self.state.timers.last_serial = next();
        self.stage = Stage::Count { table: 0 };
        *input = rest;
        Ok(true)
    }

    fn row(&mut self, input: &mut &[u8], table: u16) -> Result<bool, SnapshotError> {
        let Some((header, body)) = input.split_first_chunk::<ROW_HEADER_LEN>() else {
            return Ok(false);
        };
        let [k0, k1, v0, v1, v2, v3] = *header;
        let key_len = usize::from(u16::from_be_bytes([k0, k1]));
        let value_len = u32::from_be_bytes([v0, v1, v2, v3]) as usize;
        // What can never come whole is not waited for.
        if key_len > self.state.limits.key_bytes || value_len > self.state.limits.value_bytes {
            return Err(SnapshotError::TooLarge);
        }
        let Some((row, rest)) = body.split_at_checked(key_len + value_len) else {
            return Ok(false);
        };
        let (key, value) = row.split_at(key_len);
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(SnapshotError::Damaged);
        }
        let at = self.state.sought(table, key);
        self.state.put(table, at, value).map_err(too_large)?;
        self.last_key = Some(key.into());
        *input = rest;
        Ok(true)
    }

    fn timer(&mut self, input: &mut &[u8]) -> Result<bool, SnapshotError> {
        let Some((header, body)) = input.split_first_chunk::<TIMER_HEADER_LEN>() else {
            return Ok(false);
        };
        let mut words = &header[..16];
        let mut next = || word(&mut words).expect("a timer begins with two words");
        let id = TimerId::new(LogTime::from_nanos(next()), next());
        let kind = u16::from_be_bytes([header[16], header[17]]);
        let key_len = usize::from(u16::from_be_bytes([header[18], header[19]]));
        let Some((key, rest)) = body.split_at_checked(key_len) else {
            return Ok(false);
        };
        let ordered = self.last_timer.is_none_or(|last| last < id);
        let armed = id.deadline() > self.state.now && id.serial() <= self.state.timers.last_serial;
        if !ordered || !armed || usize::from(kind) >= self.timer_kinds {
            return Err(SnapshotError::Damaged);
        }
        let key = key.into();
        self.state.arm(id, Alarm { kind, key }).map_err(too_large)?;
        self.last_timer = Some(id);
        *input = rest;
        Ok(true)
    }
}

impl core::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Incoming")
            .field("bytes", &self.state.bytes)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Whether the checksum is right. A fuzzer finds none, so its builds go on without.
#[allow(unexpected_cfgs, reason = "cargo-fuzz sets it")]
fn intact(sum: [u8; CHECKSUM_LEN], found: [u8; CHECKSUM_LEN]) -> bool {
    cfg!(fuzzing) || sum == found
}

fn word(input: &mut &[u8]) -> Option<u64> {
    let (word, rest) = input.split_first_chunk::<8>()?;
    *input = rest;
    Some(u64::from_be_bytes(*word))
}

fn too_large(_: Refusal) -> SnapshotError {
    SnapshotError::TooLarge
}
