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
//!
//! A snapshot is written at once ([`encode`]) or piece by piece from a [`Cut`] ([`Outgoing`]), to
//! the same bytes. It is read piece by piece ([`Incoming`]) into a state of its own.

use alloc::vec::Vec;

use stateplane_base::LogTime;

use crate::cut::{Cut, Pile, ROW_BYTES};
use crate::hash::Checksum;
use crate::limits::Limits;
use crate::state::State;
use crate::timers::{Alarm, TimerId};

mod incoming;

pub use incoming::Incoming;

const MAGIC: [u8; 4] = *b"SPST";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 32;
const COUNT_LEN: usize = 8;
const CHECKSUM_LEN: usize = 8;
/// What comes before a row's key, and a timer's.
const ROW_HEADER_LEN: usize = 6;
const TIMER_HEADER_LEN: usize = 20;

fn append_header(out: &mut Vec<u8>, fingerprint: u64, now: LogTime, last_serial: u64) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&fingerprint.to_be_bytes());
    out.extend_from_slice(&now.as_nanos().to_be_bytes());
    out.extend_from_slice(&last_serial.to_be_bytes());
}

pub(crate) fn append_row(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let key_len = u16::try_from(key.len()).expect("keys have at most 64 KiB");
    let value_len = u32::try_from(value.len()).expect("values have at most 4 GiB");
    out.extend_from_slice(&key_len.to_be_bytes());
    out.extend_from_slice(&value_len.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

pub(crate) fn append_timer(out: &mut Vec<u8>, id: TimerId, alarm: &Alarm) {
    let key_len = u16::try_from(alarm.key.len()).expect("keys have at most 64 KiB");
    out.extend_from_slice(&id.deadline().as_nanos().to_be_bytes());
    out.extend_from_slice(&id.serial().to_be_bytes());
    out.extend_from_slice(&alarm.kind.to_be_bytes());
    out.extend_from_slice(&key_len.to_be_bytes());
    out.extend_from_slice(&alarm.key);
}

fn append_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_be_bytes());
}

/// Writes a snapshot at once.
pub(crate) fn encode(state: &State, fingerprint: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(size(state));
    append_header(&mut out, fingerprint, state.now, state.timers.last_serial);
    for table in &state.tables {
        append_count(&mut out, table.rows.len());
        for (key, value) in table.rows.sorted() {
            append_row(&mut out, key, value);
        }
    }
    append_count(&mut out, state.timers.len());
    for (id, alarm) in state.timers.iter() {
        append_timer(&mut out, id, alarm);
    }
    let mut sum = Checksum::new();
    sum.take(&out);
    out.extend_from_slice(&sum.finish());
    out
}

/// How long the snapshot of a state is.
pub(crate) fn size(state: &State) -> usize {
    let (mut bytes, mut rest) = (HEADER_LEN + CHECKSUM_LEN, state.bytes);
    for table in &state.tables {
        let rows = table.rows.len();
        rest -= table.bytes;
        bytes += COUNT_LEN + table.bytes - rows * Limits::ROW_COST + rows * ROW_HEADER_LEN;
    }
    let timers = state.timers.len();
    bytes + COUNT_LEN + rest - timers * Limits::ROW_COST + timers * TIMER_HEADER_LEN
}

/// A snapshot on its way out, after its cut has collected everything.
#[derive(Default)]
pub(crate) struct Outgoing {
    sum: Checksum,
    table: usize,
    /// The table's count is written.
    counted: bool,
}

impl Outgoing {
    /// Appends the next piece of the snapshot; how many rows it has, or none after the last.
    pub(crate) fn write(
        &mut self,
        cut: &mut Cut,
        fingerprint: u64,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let start = out.len();
        if (self.table, self.counted) == (0, false) {
            append_header(out, fingerprint, cut.now, cut.last_serial);
        }
        let count = cut.rows(self.table);
        if !self.counted {
            append_count(out, count.unwrap_or(cut.timers()));
            self.counted = true;
        }
        let rows = match count {
            Some(_) => cut
                .next_pile(self.table)
                .map(|pile| append_pile(&pile, out)),
            None => cut.next_timers().map(|pile| {
                out.extend_from_slice(&pile.bytes);
                pile.rows
            }),
        };
        self.sum.take(&out[start..]);
        if rows.is_none() && count.is_none() {
            out.extend_from_slice(&self.sum.finish());
            return None;
        }
        if rows.is_none() {
            (self.table, self.counted) = (self.table + 1, false);
        }
        Some(rows.unwrap_or(1))
    }
}

/// Appends a pile's rows in the order of their keys.
fn append_pile(pile: &Pile, out: &mut Vec<u8>) -> usize {
    let mut rows = Vec::with_capacity(pile.rows);
    let mut rest = &pile.bytes[..];
    while let Some((header, body)) = rest.split_first_chunk::<ROW_HEADER_LEN>() {
        let [k0, k1, v0, v1, v2, v3] = *header;
        let key_len = usize::from(u16::from_be_bytes([k0, k1]));
        let len = key_len + u32::from_be_bytes([v0, v1, v2, v3]) as usize;
        let (row, others) = rest.split_at(ROW_HEADER_LEN + len);
        rows.push((&body[..key_len], row));
        rest = others;
    }
    rows.sort_unstable();
    for (_, row) in &rows {
        out.extend_from_slice(row);
    }
    rows.len() + pile.bytes.len() / ROW_BYTES
}
