//! A store's state as bytes.
//!
//! ```text
//! 0      4         6       8             16    24          32
//! | SPST | version | rsv 2 | fingerprint | now | last timer | tables ... | timers | checksum 8 |
//!
//! table:   | rows 8 | row ... |      row:   | key length 2 | value length 4 | key | value |
//! timers:  | count 8 | timer ... |   timer: | deadline 8 | serial 8 | kind 2 | key length 2 | key |
//! ```
//!
//! Numbers are in network byte order. Tables follow in the order registered, which the fingerprint
//! vouches for; rows in the byte order of their keys; timers in the order they fire. Equal states
//! so have equal bytes, and the reader accepts no others.

use alloc::vec::Vec;

use stateplane_base::LogTime;

use crate::application::SnapshotError;
use crate::hash::Fingerprint;
use crate::refusal::Refusal;
use crate::state::State;
use crate::timers::{Alarm, TimerId};

const MAGIC: [u8; 4] = *b"SPST";
const VERSION: u16 = 1;

fn checksum(bytes: &[u8]) -> [u8; 8] {
    Fingerprint::new(6).bytes(bytes).finish().to_be_bytes()
}

/// Whether the checksum is right. A fuzzer finds none, so its builds go on without.
#[allow(unexpected_cfgs, reason = "cargo-fuzz sets it")]
fn intact(body: &[u8], sum: [u8; 8]) -> bool {
    cfg!(fuzzing) || checksum(body) == sum
}

/// Writes a snapshot.
pub(crate) fn encode(state: &State, fingerprint: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + state.bytes);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&fingerprint.to_be_bytes());
    out.extend_from_slice(&state.now.as_nanos().to_be_bytes());
    out.extend_from_slice(&state.timers.last_serial.to_be_bytes());
    for table in &state.tables {
        out.extend_from_slice(&(table.rows.len() as u64).to_be_bytes());
        for (key, value) in table.rows.sorted() {
            let key_len = u16::try_from(key.len()).expect("keys have at most 64 KiB");
            let value_len = u32::try_from(value.len()).expect("values have at most 4 GiB");
            out.extend_from_slice(&key_len.to_be_bytes());
            out.extend_from_slice(&value_len.to_be_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
    }
    out.extend_from_slice(&(state.timers.len() as u64).to_be_bytes());
    for (id, alarm) in state.timers.iter() {
        let key_len = u16::try_from(alarm.key.len()).expect("keys have at most 64 KiB");
        out.extend_from_slice(&id.deadline().as_nanos().to_be_bytes());
        out.extend_from_slice(&id.serial().to_be_bytes());
        out.extend_from_slice(&alarm.kind.to_be_bytes());
        out.extend_from_slice(&key_len.to_be_bytes());
        out.extend_from_slice(&alarm.key);
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum);
    out
}

/// Reads a snapshot into an empty state.
pub(crate) fn decode(
    bytes: &[u8],
    mut state: State,
    fingerprint: u64,
    timer_kinds: usize,
) -> Result<State, SnapshotError> {
    let mut input = Reader(bytes);
    if input.array() != Some(MAGIC) {
        return Err(SnapshotError::NotASnapshot);
    }
    let found = input.u16()?;
    if found != VERSION {
        return Err(SnapshotError::Version { found });
    }
    let (body, sum) = bytes
        .split_last_chunk::<8>()
        .ok_or(SnapshotError::Damaged)?;
    if !intact(body, *sum) {
        return Err(SnapshotError::Damaged);
    }
    let mut input = Reader(&body[6..]);
    if input.u16()? != 0 {
        return Err(SnapshotError::Damaged);
    }
    if input.u64()? != fingerprint {
        return Err(SnapshotError::OtherConfiguration);
    }
    state.now = LogTime::from_nanos(input.u64()?);
    state.timers.last_serial = input.u64()?;
    for table in 0..state.tables.len() {
        read_table(&mut input, &mut state, table as u16)?;
    }
    read_timers(&mut input, &mut state, timer_kinds)?;
    if input.0.is_empty() {
        Ok(state)
    } else {
        Err(SnapshotError::Damaged)
    }
}

fn read_table(input: &mut Reader, state: &mut State, table: u16) -> Result<(), SnapshotError> {
    let mut last: Option<&[u8]> = None;
    for _ in 0..input.u64()? {
        let (key_len, value_len) = (input.u16()?, input.u32()?);
        let key = input.bytes(usize::from(key_len))?;
        let value = input.bytes(value_len as usize)?;
        if last.is_some_and(|last| last >= key) {
            return Err(SnapshotError::Damaged);
        }
        state.put(table, key, value).map_err(too_large)?;
        last = Some(key);
    }
    Ok(())
}

fn read_timers(
    input: &mut Reader,
    state: &mut State,
    timer_kinds: usize,
) -> Result<(), SnapshotError> {
    let mut last = None;
    for _ in 0..input.u64()? {
        let id = TimerId::new(LogTime::from_nanos(input.u64()?), input.u64()?);
        let (kind, key_len) = (input.u16()?, input.u16()?);
        let key = input.bytes(usize::from(key_len))?;
        let ordered = last.is_none_or(|last| last < id);
        let armed = id.deadline() > state.now && id.serial() <= state.timers.last_serial;
        if !ordered || !armed || usize::from(kind) >= timer_kinds {
            return Err(SnapshotError::Damaged);
        }
        state
            .arm(
                id,
                Alarm {
                    kind,
                    key: key.into(),
                },
            )
            .map_err(too_large)?;
        last = Some(id);
    }
    Ok(())
}

fn too_large(_: Refusal) -> SnapshotError {
    SnapshotError::TooLarge
}

/// Bytes not yet read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], SnapshotError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(SnapshotError::Damaged)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Result<u16, SnapshotError> {
        self.array()
            .map(u16::from_be_bytes)
            .ok_or(SnapshotError::Damaged)
    }

    fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array()
            .map(u32::from_be_bytes)
            .ok_or(SnapshotError::Damaged)
    }

    fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.array()
            .map(u64::from_be_bytes)
            .ok_or(SnapshotError::Damaged)
    }
}
