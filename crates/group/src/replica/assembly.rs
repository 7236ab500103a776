//! A long operation on its way in.
//!
//! Its pieces lie on a grid that the group's configuration fixes, so that a bit each tells
//! which are there, in whatever order they came. All of its memory is taken when it begins: one
//! that has begun never fails half-way for want of room.

use alloc::vec;
use alloc::vec::Vec;

use stateplane_wire::codec::{Malformed, Reader, Writer};
use stateplane_wire::group::Piece;

use crate::Limits;

/// The pieces of one operation that are there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Assembly {
    /// Whose.
    pub(super) id: u64,
    /// All of it; what is not there is zero.
    bytes: Vec<u8>,
    /// Which pieces are there: eight a byte, the first in the lowest bit.
    have: Vec<u8>,
    /// All pieces before this one are there.
    first: usize,
}

/// Whether this is a piece of the grid.
pub(super) fn fits(piece: &Piece<'_>, limits: &Limits) -> bool {
    let (whole, offset) = (piece.whole as usize, piece.offset as usize);
    whole <= limits.operation
        && offset.is_multiple_of(limits.piece)
        && offset < whole
        && piece.bytes.len() == limits.piece.min(whole - offset)
}

impl Assembly {
    /// None of an operation of this length.
    pub(super) fn new(id: u64, whole: u32, limits: &Limits) -> Self {
        let whole = whole as usize;
        Self {
            id,
            bytes: vec![0; whole],
            have: vec![0; whole.div_ceil(limits.piece).div_ceil(8)],
            first: 0,
        }
    }

    /// Length of the whole operation, which is what it takes of the memory.
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    fn has(&self, piece: usize) -> bool {
        self.have[piece / 8] & (1 << (piece % 8)) != 0
    }

    /// Takes a piece that fits; false if it was there.
    pub(super) fn take(&mut self, piece: &Piece<'_>, limits: &Limits) -> bool {
        let (offset, number) = (piece.offset as usize, piece.offset as usize / limits.piece);
        if self.has(number) {
            return false;
        }
        self.have[number / 8] |= 1 << (number % 8);
        self.bytes[offset..offset + piece.bytes.len()].copy_from_slice(piece.bytes);
        self.advance(limits);
        true
    }

    fn advance(&mut self, limits: &Limits) {
        let pieces = self.bytes.len().div_ceil(limits.piece);
        while self.first < pieces && self.has(self.first) {
            self.first += 1;
        }
    }

    /// Where the first missing piece lies; at the end if none is missing.
    pub(super) fn missing(&self, limits: &Limits) -> usize {
        (self.first * limits.piece).min(self.bytes.len())
    }

    /// The operation.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes it takes in a snapshot.
    pub(super) const fn encoded_size(&self) -> usize {
        8 + 4 + self.have.len() + 4 + self.bytes.len()
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u64(self.id);
        w.string(&self.have);
        w.string(&self.bytes);
    }

    pub(super) fn decode(r: &mut Reader<'_>, limits: &Limits) -> Result<Self, Malformed> {
        let id = r.u64()?;
        let (have, bytes) = (r.string()?.to_vec(), r.string()?.to_vec());
        let pieces = bytes.len().div_ceil(limits.piece);
        let unused = have.len() * 8 - pieces.min(have.len() * 8);
        let last = have.last().copied().unwrap_or(0);
        let sound = bytes.len() <= limits.operation
            && have.len() == pieces.div_ceil(8)
            && unused < 8
            && u32::from(last) >> (8 - unused) == 0;
        let mut assembly = Self {
            id,
            bytes,
            have,
            first: 0,
        };
        if !sound {
            return Err(Malformed("assembly"));
        }
        assembly.advance(limits);
        if assembly.missing(limits) == assembly.len() {
            return Err(Malformed("assembly that is complete"));
        }
        Ok(assembly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            piece: 4,
            operation: 50,
            ..Limits::default()
        }
    }

    fn piece(op: &[u8], number: usize) -> Piece<'_> {
        let bytes = op.chunks(4).nth(number).expect("a piece");
        Piece {
            whole: op.len() as u32,
            offset: number as u32 * 4,
            bytes,
        }
    }

    #[test]
    fn pieces_in_any_order_make_the_operation_and_a_snapshot_keeps_them() {
        let (limits, op) = (limits(), (1..=43).collect::<Vec<u8>>());
        let mut assembly = Assembly::new(7, 43, &limits);
        for number in [10, 0, 9, 1, 3, 8, 7, 6, 2, 5] {
            let piece = piece(&op, number);
            assert!(fits(&piece, &limits));
            assert!(assembly.take(&piece, &limits) && !assembly.take(&piece, &limits));
            let mut bytes = Vec::new();
            assembly.encode(&mut Writer::new(&mut bytes));
            assert_eq!(bytes.len(), assembly.encoded_size());
            let read = Assembly::decode(&mut Reader::new(&bytes), &limits);
            assert_eq!(read.as_ref(), Ok(&assembly));
        }
        assert_eq!(assembly.missing(&limits), 16);
        assert!(assembly.take(&piece(&op, 4), &limits));
        assert_eq!(assembly.missing(&limits), 43);
        assert_eq!(assembly.into_bytes(), op);
    }

    #[test]
    fn what_is_not_of_the_grid_does_not_fit() {
        let (limits, op) = (limits(), [1; 43]);
        let good = piece(&op, 2);
        let long = Piece { whole: 51, ..good };
        let odd = Piece { offset: 9, ..good };
        let short = Piece {
            bytes: &good.bytes[1..],
            ..good
        };
        let beyond = Piece { offset: 44, ..good };
        for bad in [long, odd, short, beyond] {
            assert!(!fits(&bad, &limits), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(have in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4), len in 0..60usize, cut in 0..80usize) {
            let mut bytes = Vec::new();
            let mut w = Writer::new(&mut bytes);
            w.u64(1);
            w.string(&have);
            w.string(&vec![7; len]);
            bytes.truncate(bytes.len().min(cut.max(8)));
            if let Ok(assembly) = Assembly::decode(&mut Reader::new(&bytes), &limits()) {
                let mut again = Vec::new();
                assembly.encode(&mut Writer::new(&mut again));
                proptest::prop_assert_eq!(&again[..], &bytes[..again.len()]);
            }
        }
    }
}
