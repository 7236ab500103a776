//! What sender and receivers of a region say to each other. The fields are big-endian.
//!
//! ```text
//! piece     1, region (8), epoch (8), base (8), version (8), day (8), age (8),
//!           length (8), index (4), count (4), way (4),
//!           then runs: line << 6 | lines - 1 (4), lines * 64 bytes
//! announce  2, region (8), epoch (8), version (8)
//! report    3, region (8), epoch (8), version (8): what the receiver has;
//!           base (8), version (8), way (4) of what it collects, or zeros;
//!           then what that lacks: first piece (4), pieces (4), ...
//! still     4, region (8), epoch (8), version (8), age (8)
//! farewell  5, region (8): the receiver has another sender
//! ```
//!
//! A base of 0 stands for nothing: lines that no piece names are zero then. Else a line
//! that no piece names has not changed since the base. Pieces belong together if they are of one
//! way, whose number follows from the lines it has: a sender that began anew knows less of what
//! has changed, and cuts another way between the same versions. An age says how long before it was
//! sent the version was known to be all there is, so that no clocks are compared.

use stateplane_wire::codec::{Reader, Writer};

pub use stateplane_wire::codec::Malformed;

use super::At;
use crate::memory::LINE;

/// Bytes of a piece before its runs.
pub(super) const PIECE_HEAD: usize = 1 + 7 * 8 + 3 * 4;
/// Bytes before the lines of a run.
pub(super) const RUN_HEAD: usize = 4;
/// Lines of one run.
const RUN_BITS: u32 = 6;
pub(super) const RUN_MAX: usize = 1 << RUN_BITS;
/// Gaps named in one report.
pub(super) const GAPS_MAX: usize = 64;

/// Rare branches, so that tests can ask whether they were reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mark {
    /// A receiver named pieces that it lacks, and got them.
    Repaired,
    /// A receiver got the way from its own version, other than that of the rest.
    OwnWay,
    /// A receiver began from nothing.
    FromNothing,
    /// The sender went on although a receiver lacked something.
    WentOn,
    /// What was collected was given up for something newer.
    GivenUp,
    /// A receiver fell silent and was forgotten.
    Forgotten,
}

/// A part of what leads from a base to a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece<'a> {
    pub(super) region: u64,
    pub(super) at: At,
    pub(super) base: u64,
    /// When the version was published, in nanoseconds since 1970.
    pub(super) day_ns: u64,
    pub(super) age_ns: u64,
    pub(super) len: u64,
    pub(super) index: u32,
    pub(super) count: u32,
    /// Which way it is a piece of.
    pub(super) way: u32,
    pub(super) runs: &'a [u8],
}

/// What a receiver collects: which way, from where to where.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Collects {
    pub(super) base: u64,
    pub(super) version: u64,
    pub(super) way: u32,
}

/// What a receiver has, and lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Report {
    pub(super) region: u64,
    pub(super) has: At,
    /// What it collects.
    pub(super) collects: Option<Collects>,
    pub(super) gaps: Vec<(u32, u32)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message<'a> {
    Piece(Piece<'a>),
    Announce {
        region: u64,
        at: At,
    },
    Report(Report),
    /// The version is still all there is.
    Still {
        region: u64,
        at: At,
        age_ns: u64,
    },
    /// The receiver has another sender.
    Farewell {
        region: u64,
    },
}

impl Piece<'_> {
    /// Everything but the runs.
    pub(super) fn encode_head(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.u8(1);
        for value in [
            self.region,
            self.at.epoch,
            self.base,
            self.at.version,
            self.day_ns,
            self.age_ns,
            self.len,
        ] {
            w.u64(value);
        }
        w.u32(self.index);
        w.u32(self.count);
        w.u32(self.way);
    }
}

pub(super) fn encode_announce(region: u64, at: At, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    w.u8(2);
    w.u64(region);
    w.u64(at.epoch);
    w.u64(at.version);
}

pub(super) fn encode_still(region: u64, at: At, age_ns: u64, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    w.u8(4);
    for value in [region, at.epoch, at.version, age_ns] {
        w.u64(value);
    }
}

pub(super) fn encode_farewell(region: u64, out: &mut Vec<u8>) {
    let mut w = Writer::new(out);
    w.u8(5);
    w.u64(region);
}

impl Report {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.u8(3);
        let Collects { base, version, way } = self.collects.unwrap_or_default();
        for value in [self.region, self.has.epoch, self.has.version, base, version] {
            w.u64(value);
        }
        w.u32(way);
        for (first, count) in self.gaps.iter().take(GAPS_MAX) {
            w.u32(*first);
            w.u32(*count);
        }
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut r = Reader::new(bytes);
    match r.u8()? {
        1 => {
            let region = r.u64()?;
            let epoch = r.u64()?;
            let base = r.u64()?;
            let version = r.u64()?;
            let (day_ns, age_ns, len) = (r.u64()?, r.u64()?, r.u64()?);
            let (index, count, way) = (r.u32()?, r.u32()?, r.u32()?);
            if index >= count || base >= version {
                return Err(Malformed("piece"));
            }
            Ok(Message::Piece(Piece {
                region,
                at: At { epoch, version },
                base,
                day_ns,
                age_ns,
                len,
                index,
                count,
                way,
                runs: r.bytes(r.remaining())?,
            }))
        }
        2 => {
            let region = r.u64()?;
            let (epoch, version) = (r.u64()?, r.u64()?);
            r.finish()?;
            let at = At { epoch, version };
            Ok(Message::Announce { region, at })
        }
        3 => {
            let region = r.u64()?;
            let (epoch, version) = (r.u64()?, r.u64()?);
            let collects = Collects {
                base: r.u64()?,
                version: r.u64()?,
                way: r.u32()?,
            };
            let mut gaps = Vec::new();
            while r.remaining() > 0 {
                if gaps.len() == GAPS_MAX {
                    return Err(Malformed("too many gaps"));
                }
                gaps.push((r.u32()?, r.u32()?));
            }
            Ok(Message::Report(Report {
                region,
                has: At { epoch, version },
                collects: (collects.version != 0).then_some(collects),
                gaps,
            }))
        }
        4 => {
            let region = r.u64()?;
            let (epoch, version) = (r.u64()?, r.u64()?);
            let age_ns = r.u64()?;
            r.finish()?;
            let at = At { epoch, version };
            Ok(Message::Still { region, at, age_ns })
        }
        5 => {
            let region = r.u64()?;
            r.finish()?;
            Ok(Message::Farewell { region })
        }
        _ => Err(Malformed("kind")),
    }
}

/// The number that stands before the lines of a run.
pub(super) fn run_head(first: usize, lines: usize) -> u32 {
    debug_assert!((1..=RUN_MAX).contains(&lines));
    let first = u32::try_from(first).expect("a region has fewer lines");
    first << RUN_BITS | (lines as u32 - 1)
}

/// Hands the runs of a piece, as first line and bytes, to `each`. Checks all before.
pub(super) fn runs(
    bytes: &[u8],
    lines: usize,
    mut each: impl FnMut(usize, &[u8]),
) -> Result<(), Malformed> {
    let walk = |each: &mut dyn FnMut(usize, &[u8])| {
        let mut r = Reader::new(bytes);
        while r.remaining() > 0 {
            let head = r.u32()?;
            let (first, count) = ((head >> RUN_BITS) as usize, (head as usize % RUN_MAX) + 1);
            let payload = r.bytes(count * LINE)?;
            if first + count > lines {
                return Err(Malformed("lines outside of the region"));
            }
            each(first, payload);
        }
        Ok(())
    };
    walk(&mut |_, _| ())?;
    walk(&mut each)
}

const _: () = assert!(crate::MAX_LEN / LINE <= 1 << (32 - RUN_BITS));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
            for kind in [bytes[0], 1, 2, 3, 4, 5] {
                bytes[0] = kind;
                if let Ok(Message::Piece(piece)) = decode(&bytes) {
                    let _ = runs(piece.runs, 100, |first, bytes| {
                        assert!(first + bytes.len() / LINE <= 100);
                    });
                }
            }
            let _ = runs(&bytes, 100, |_, _| ());
        }

        #[test]
        fn what_is_encoded_decodes(
            numbers: [u64; 3],
            base in 0..1000u64,
            index in 0..10u32,
            gaps in proptest::collection::vec(any::<(u32, u32)>(), 0..GAPS_MAX),
            payload in proptest::collection::vec(any::<u8>(), LINE * 3),
        ) {
            let at = At { epoch: numbers[0], version: base + 1 };
            let mut runs_bytes = run_head(7, 3).to_be_bytes().to_vec();
            runs_bytes.extend_from_slice(&payload);
            let piece = Piece {
                region: numbers[1],
                at,
                base,
                day_ns: numbers[2],
                age_ns: numbers[0] ^ 5,
                len: 640,
                index,
                count: 10,
                way: numbers[2] as u32,
                runs: &runs_bytes,
            };
            let mut bytes = vec![];
            piece.encode_head(&mut bytes);
            prop_assert_eq!(bytes.len(), PIECE_HEAD);
            bytes.extend_from_slice(&runs_bytes);
            prop_assert_eq!(decode(&bytes), Ok(Message::Piece(piece)));
            let mut found = vec![];
            runs(piece.runs, 10, |first, bytes| found.push((first, bytes.to_vec()))).unwrap();
            prop_assert_eq!(found, vec![(7, payload)]);
            prop_assert!(runs(piece.runs, 9, |_, _| ()).is_err());

            let mut bytes = vec![];
            encode_announce(5, at, &mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(Message::Announce { region: 5, at }));

            let mut bytes = vec![];
            encode_still(5, at, numbers[2], &mut bytes);
            let still = Message::Still { region: 5, at, age_ns: numbers[2] };
            prop_assert_eq!(decode(&bytes), Ok(still));

            let mut bytes = vec![];
            encode_farewell(numbers[1], &mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(Message::Farewell { region: numbers[1] }));

            let collects = Collects { base, version: 2000, way: numbers[1] as u32 };
            let report = Report { region: 5, has: at, collects: Some(collects), gaps };
            let mut bytes = vec![];
            report.encode(&mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(Message::Report(report)));
        }
    }
}
