//! Which versions a sender has had, so that it can tell what leads on from them.

use std::collections::VecDeque;

/// Runs of versions kept, at most. Of older ones nothing is known any more.
const RUNS_MAX: usize = 1 << 14;

/// The versions of one writer that a sender took up, of which it may have passed over some.
///
/// A line that changed in one that was passed over, and back in the next, looks as if it had never
/// changed: who has that version, from another sender, cannot be led on by what this one knows.
#[derive(Debug, Default)]
pub(super) struct Took {
    /// Runs (first, last), in order.
    runs: VecDeque<(u64, u64)>,
    /// The first of all: whoever is behind that needs every line, and so gets them.
    first: u64,
}

impl Took {
    /// Begins with this version, of a new writer.
    pub(super) fn begin(&mut self, version: u64) {
        self.runs.clear();
        self.runs.push_back((version, version));
        self.first = version;
    }

    /// A newer version was taken up.
    pub(super) fn add(&mut self, version: u64) {
        match self.runs.back_mut() {
            Some((_, last)) if *last + 1 == version => *last = version,
            _ => self.runs.push_back((version, version)),
        }
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_front();
        }
    }

    /// Whether what changed since this version is known.
    pub(super) fn knows_since(&self, version: u64) -> bool {
        let before = self.runs.partition_point(|(first, _)| *first <= version);
        let run = before.checked_sub(1).and_then(|n| self.runs.get(n));
        version < self.first || run.is_some_and(|(_, last)| version <= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_passed_over_is_not_known() {
        let mut took = Took::default();
        took.begin(10);
        for version in [11, 12, 15, 16, 20] {
            took.add(version);
        }
        let known: Vec<u64> = (8..25).filter(|v| took.knows_since(*v)).collect();
        assert_eq!(known, [8, 9, 10, 11, 12, 15, 16, 20]);
        for version in 15..15 + 2 * RUNS_MAX as u64 {
            took.add(version * 2);
        }
        assert!(took.runs.len() <= RUNS_MAX && !took.knows_since(12) && took.knows_since(9));
    }
}
