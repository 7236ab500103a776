//! What leads from one version to another, cut into pieces that fit into datagrams.

use super::message::{RUN_HEAD, RUN_MAX};
use crate::memory::LINE;

/// Lines in a row: the first, and how many.
pub(super) type Run = (u32, u32);

/// What leads from one version to another: runs, piece by piece, and a number by which it is
/// told from another way between the same versions.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) pieces: Vec<Vec<Run>>,
    pub(super) number: u32,
}

impl Way {
    pub(super) fn new(lines: impl Iterator<Item = usize>, room: usize) -> Self {
        let pieces = cut(lines, room);
        // FNV-1a, by words, of where each piece begins and of its runs.
        let words = pieces
            .iter()
            .flat_map(|runs| std::iter::once((u32::MAX, 0)).chain(runs.iter().copied()));
        let hash = words.fold(0xcbf2_9ce4_8422_2325u64, |hash, (first, count)| {
            (hash ^ (u64::from(first) << 32 | u64::from(count))).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            pieces,
            number: (hash ^ hash >> 32) as u32,
        }
    }
}

/// Cuts lines, in rising order, into pieces whose runs take no more than `room` bytes, which
/// is room for one line at least. No lines are one piece, of none: a version without changes.
fn cut(lines: impl Iterator<Item = usize>, room: usize) -> Vec<Vec<Run>> {
    let (mut pieces, mut runs, mut used) = (Vec::new(), Vec::<Run>::new(), 0);
    for line in lines {
        let line = u32::try_from(line).expect("a region has fewer lines");
        let joins = |runs: &[Run]| {
            let last = runs.last();
            last.is_some_and(|(first, count)| first + count == line && (*count as usize) < RUN_MAX)
        };
        let cost = |joins| if joins { LINE } else { RUN_HEAD + LINE };
        if used + cost(joins(&runs)) > room {
            pieces.push(std::mem::take(&mut runs));
            used = 0;
        }
        let joined = joins(&runs);
        used += cost(joined);
        match runs.last_mut() {
            Some((_, count)) if joined => *count += 1,
            _ => runs.push((line, 1)),
        }
    }
    if !runs.is_empty() || pieces.is_empty() {
        pieces.push(runs);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every line is in one piece, in order, and every piece fits.
        #[test]
        fn pieces_are_the_lines(
            mut lines in proptest::collection::btree_set(0usize..400, 0..300),
            dense in any::<Option<u8>>(),
            room in RUN_HEAD + LINE..3000,
        ) {
            lines.extend(500..500 + usize::from(dense.unwrap_or(0)));
            let pieces = cut(lines.iter().copied(), room);
            let bytes = |piece: &[Run]| -> usize {
                piece.iter().map(|(_, count)| RUN_HEAD + *count as usize * LINE).sum()
            };
            prop_assert!(pieces.iter().all(|piece| bytes(piece) <= room));
            prop_assert!(pieces.len() == 1 || pieces.iter().all(|piece| !piece.is_empty()));
            let runs: Vec<Run> = pieces.concat();
            prop_assert!(runs.iter().all(|(_, count)| (1..=RUN_MAX).contains(&(*count as usize))));
            let all = runs.iter().flat_map(|(first, count)| *first..first + count);
            prop_assert!(all.eq(lines.iter().map(|line| *line as u32)));
        }
    }
}
