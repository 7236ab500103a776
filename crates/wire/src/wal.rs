//! The files of a write-ahead log, and what is left in them after a crash.
//!
//! ```text
//! file    = "SPWAL\0" 6 | version 1 | kind 1 | sequence 8 | name length 2 | name | check 8
//!           kind 1: a segment; `sequence` is that of its first frame
//!           kind 2: a checkpoint, one frame; `sequence` is that of the last record in it
//! segment = file | frame*  | zeros (space allocated ahead)
//! frame   = "SPRC" 4 | length 4 | sequence 8 | body check 8 | head check 8 | body | "CRPS" 4
//! ```
//!
//! Sequences rise by one from frame to frame and from segment to segment. Checks are
//! XXH3-64; the head check covers the fields before it, the body check the body as it
//! lies there. `name` says whose file it is.
//!
//! # Torn or damaged?
//! A frame is written and synced before the next one is begun, so a crash can leave at
//! most the *last* frame incomplete: nobody was told of it and it is cut off. A bad
//! frame with a good head of a later one behind it was synced, and is *damaged*: something
//! that others were told is gone. The last frame alone leaves a doubt. Disks write whole
//! sectors, and what was allocated ahead is zero: so it is torn if the file ends within
//! it or one of its sectors was never written, and damaged if all of it is there and its
//! check fails. To make that sure, no written sector of a frame is all zero: its first
//! bytes and its last are not, and the body is masked with a word that depends on the
//! sequence.

use alloc::vec::Vec;
use core::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::codec::{Malformed, Reader, Writer};

const MAGIC: &[u8; 6] = b"SPWAL\0";
const VERSION: u8 = 1;
const BEGIN: &[u8; 4] = b"SPRC";
const END: &[u8; 4] = b"CRPS";
const HEAD: usize = 32;
/// What a disk writes as a whole, at least.
const SECTOR: usize = 512;

/// Bytes of a frame besides its body.
pub const OVERHEAD: usize = HEAD + END.len();

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Records in sequence.
    Segment,
    /// Everything up to some record.
    Checkpoint,
}

/// The beginning of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHead<'a> {
    /// What follows.
    pub kind: Kind,
    /// See the layout.
    pub sequence: u64,
    /// Whose it is.
    pub name: &'a [u8],
}

impl<'a> FileHead<'a> {
    /// Appends the head to an empty file.
    ///
    /// # Panics
    /// If the name is longer than 65535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        let mut w = Writer::new(out);
        w.bytes(MAGIC);
        w.u8(VERSION);
        w.u8(match self.kind {
            Kind::Segment => 1,
            Kind::Checkpoint => 2,
        });
        w.u64(self.sequence);
        w.u16(u16::try_from(self.name.len()).expect("a name is short"));
        w.bytes(self.name);
        let check = xxh3_64(&out[begin..]);
        Writer::new(out).u64(check);
    }

    /// Reads a file's head; also answers where it ends.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), Malformed> {
        let mut r = Reader::new(bytes);
        if r.bytes(MAGIC.len())? != MAGIC {
            return Err(Malformed("not a file of a write-ahead log"));
        }
        if r.u8()? != VERSION {
            return Err(Malformed("a write-ahead log of another version"));
        }
        let kind = match r.u8()? {
            1 => Kind::Segment,
            2 => Kind::Checkpoint,
            _ => return Err(Malformed("kind of file")),
        };
        let sequence = r.u64()?;
        let len = usize::from(r.u16()?);
        let name = r.bytes(len)?;
        let end = bytes.len() - r.remaining();
        if r.u64()? != xxh3_64(&bytes[..end]) {
            return Err(Malformed("the file's head fails its check"));
        }
        let head = Self {
            kind,
            sequence,
            name,
        };
        Ok((head, end + 8))
    }
}

/// Appends a frame.
pub fn encode_frame(sequence: u64, body: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.reserve(OVERHEAD + body.len());
    let mut w = Writer::new(out);
    w.bytes(BEGIN);
    w.u32(crate::codec::length32(body.len()));
    w.u64(sequence);
    w.u64(0);
    w.u64(0);
    w.bytes(body);
    mask(sequence, &mut out[begin + HEAD..]);
    let check = xxh3_64_with_seed(&out[begin + HEAD..], sequence);
    out[begin + 16..begin + 24].copy_from_slice(&check.to_be_bytes());
    let head = xxh3_64(&out[begin..begin + 24]);
    out[begin + 24..begin + HEAD].copy_from_slice(&head.to_be_bytes());
    out.extend_from_slice(END);
}

/// Masks a body, or unmasks it.
fn mask(sequence: u64, body: &mut [u8]) {
    let mask = (xxh3_64(&sequence.to_be_bytes()) | 1).to_be_bytes();
    let (words, rest) = body.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// A frame's head that passes its check.
struct Head {
    length: usize,
    sequence: u64,
    check: u64,
}

fn head(bytes: &[u8]) -> Option<Head> {
    let fields = bytes.first_chunk::<HEAD>()?;
    let word = |at: usize| u64::from_be_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
    if &fields[..4] != BEGIN || word(24) != xxh3_64(&fields[..24]) {
        return None;
    }
    let length = u32::from_be_bytes(fields[4..8].try_into().expect("four bytes"));
    Some(Head {
        length: usize::try_from(length).ok()?,
        sequence: word(8),
        check: word(16),
    })
}

/// The body of the frame at the beginning of `bytes`, if it is whole.
fn body(bytes: &[u8], sequence: u64) -> Option<Range<usize>> {
    let head = head(bytes).filter(|head| head.sequence == sequence)?;
    let end = HEAD.checked_add(head.length)?;
    let body = bytes.get(HEAD..end)?;
    let whole = bytes.get(end..)?.starts_with(END);
    (whole && xxh3_64_with_seed(body, sequence) == head.check).then_some(HEAD..end)
}

/// How a sequence of frames ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With the last frame.
    Clean,
    /// With a frame that was being written: not part of the log.
    Torn,
    /// At a frame that had been written, or before others that had.
    Damaged,
}

/// What a run of frames held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Their bodies.
    pub records: Vec<Vec<u8>>,
    /// Where the last good frame ends.
    pub end: usize,
    /// What is there.
    pub ending: Ending,
}

/// Reads the frames of `bytes` from `start` on, the first of which has the number
/// `sequence`. `start` counts from the beginning of the file, for the sake of its sectors.
pub fn scan(bytes: &[u8], start: usize, sequence: u64) -> Scan {
    let mut records = Vec::new();
    let (mut at, mut next) = (start.min(bytes.len()), sequence);
    while let Some(range) = body(&bytes[at..], next) {
        let mut record = bytes[at + range.start..at + range.end].to_vec();
        mask(next, &mut record);
        records.push(record);
        at += range.end + END.len();
        next = next.wrapping_add(1);
    }
    Scan {
        records,
        end: at,
        ending: ending(bytes, at, next),
    }
}

/// What the bytes from `at` on are, which are not the frame `expected`.
fn ending(bytes: &[u8], at: usize, expected: u64) -> Ending {
    let rest = &bytes[at..];
    if rest.iter().all(|byte| *byte == 0) {
        return Ending::Clean;
    }
    let later = |at: usize| head(&rest[at..]).is_some_and(|head| head.sequence > expected);
    if (1..rest.len()).any(|at| rest[at..].starts_with(BEGIN) && later(at)) {
        return Ending::Damaged;
    }
    let len = match head(rest) {
        Some(head) if head.sequence != expected => return Ending::Damaged,
        Some(head) => HEAD.saturating_add(head.length).saturating_add(END.len()),
        None => HEAD,
    };
    match rest.get(..len) {
        Some(frame) if all_written(at, frame) => Ending::Damaged,
        _ => Ending::Torn,
    }
}

/// Whether every sector's part of a frame that begins at `at` was written.
fn all_written(at: usize, frame: &[u8]) -> bool {
    let first = (SECTOR - at % SECTOR).min(frame.len());
    let (first, rest) = frame.split_at(first);
    let written = |part: &[u8]| part.iter().any(|byte| *byte != 0);
    written(first) && rest.chunks(SECTOR).all(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const NAME: FileHead<'static> = FileHead {
        kind: Kind::Segment,
        sequence: 7,
        name: b"edge/r1",
    };

    /// A segment with these records, and where each of its frames ends.
    fn segment(records: &[Vec<u8>]) -> (Vec<u8>, usize, Vec<usize>) {
        let mut bytes = Vec::new();
        NAME.encode(&mut bytes);
        let start = bytes.len();
        let ends = (7..).zip(records).map(|(sequence, record)| {
            encode_frame(sequence, record, &mut bytes);
            bytes.len()
        });
        let ends = ends.collect();
        (bytes, start, ends)
    }

    /// Records as they may be: empty, all zero, large.
    fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let zero = (0..1500_usize).prop_map(|n| vec![0; n]);
        let any = proptest::collection::vec(any::<u8>(), 0..200);
        proptest::collection::vec(prop_oneof![zero, any], 1..8)
    }

    #[test]
    fn a_file_says_whose_it_is() {
        let (bytes, start, _) = segment(&[]);
        assert_eq!(FileHead::decode(&bytes), Ok((NAME, start)));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 4;
            assert!(FileHead::decode(&other).is_err(), "{at}");
            assert!(FileHead::decode(&bytes[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_damaged_length_does_not_hide_what_follows() {
        let (mut bytes, start, ends) = segment(&[vec![1; 9], vec![2; 9], vec![3; 9]]);
        bytes[ends[0] + 4] = 0xff;
        let found = scan(&bytes, start, 7);
        assert_eq!((found.records.len(), found.ending), (1, Ending::Damaged));
    }

    proptest! {
        #[test]
        fn any_beginning_is_a_prefix_and_no_damage(records in records(), cut in any::<prop::sample::Index>()) {
            let (bytes, start, ends) = segment(&records);
            let cut = start + cut.index(bytes.len() - start + 1);
            let found = scan(&bytes[..cut], start, 7);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            prop_assert_eq!(&found.records[..], &records[..whole]);
            let clean = cut == found.end;
            prop_assert_eq!(found.ending, if clean { Ending::Clean } else { Ending::Torn });
        }

        #[test]
        fn any_changed_byte_is_damage(
            records in records(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
            room in 0..2000_usize,
        ) {
            let (mut bytes, start, ends) = segment(&records);
            let at = start + at.index(bytes.len() - start);
            bytes[at] ^= flip;
            bytes.resize(bytes.len() + room, 0);
            let found = scan(&bytes, start, 7);
            let whole = ends.iter().filter(|end| **end <= at).count();
            prop_assert_eq!(&found.records[..], &records[..whole]);
            prop_assert_eq!(found.ending, Ending::Damaged);
        }

        #[test]
        fn a_frame_some_of_whose_sectors_were_not_written_is_torn(
            records in records(),
            last in proptest::collection::vec(any::<u8>(), 600..4000),
            lost in any::<u64>(),
        ) {
            let (bytes, start, ends) = segment(&records);
            let mut all = records.clone();
            all.push(last);
            let (mut torn, _, _) = segment(&all);
            let (begin, end) = (ends[ends.len() - 1], torn.len());
            let mut any = false;
            for sector in begin / SECTOR..=end / SECTOR {
                if lost >> (sector % 64) & 1 == 1 {
                    let part = (sector * SECTOR).max(begin)..((sector + 1) * SECTOR).min(end);
                    any |= !part.is_empty();
                    torn[part].fill(0);
                }
            }
            let found = scan(&torn, start, 7);
            let expected = if any { &records } else { &all };
            prop_assert_eq!(&found.records, expected);
            prop_assert!(found.ending != Ending::Damaged);
            prop_assert!(!any || found.end == bytes.len());
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0..400_usize) {
            let found = scan(&bytes, start, 7);
            prop_assert!(found.records.is_empty() && found.end <= bytes.len());
            let _ = FileHead::decode(&bytes);
        }
    }
}
