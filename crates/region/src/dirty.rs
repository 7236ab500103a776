//! Which lines have changed: a bit for each, and a list of those that became dirty.
//!
//! Measured best among page faults, comparing, bytes and bits alone: a store costs less
//! than a nanosecond more, and what a publish costs depends on how much changed, not on
//! how large the region is. The list ends where walking the bits is cheaper.

/// What became dirty between two publishes.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    bits: Vec<u64>,
    list: Vec<u32>,
    /// The list holds no more than this; beyond it only the bits count.
    limit: usize,
    /// The bits alone tell; the list is not complete.
    dense: bool,
    lines: usize,
}

/// One line in this many: a list longer than that is slower than the bits.
const LIST_SHARE: usize = 16;
/// A short list is always worth it.
const LIST_LEAST: usize = 32;

impl Log {
    pub(crate) fn new(lines: usize) -> Self {
        let limit = (lines / LIST_SHARE).max(LIST_LEAST);
        Self {
            bits: vec![0; lines.div_ceil(64)],
            list: Vec::with_capacity(limit),
            limit,
            dense: false,
            lines,
        }
    }

    #[inline]
    pub(crate) fn is_clean(&self) -> bool {
        self.list.is_empty() && !self.dense
    }

    #[inline]
    pub(crate) fn has(&self, line: usize) -> bool {
        self.bits[line / 64] >> (line % 64) & 1 != 0
    }

    /// Marks one line.
    #[inline]
    pub(crate) fn mark(&mut self, line: usize) {
        let word = &mut self.bits[line / 64];
        let bit = 1 << (line % 64);
        // Most stores hit a line that is dirty already.
        if *word & bit == 0 {
            *word |= bit;
            self.append(line);
        }
    }

    #[inline]
    fn append(&mut self, line: usize) {
        if self.list.len() < self.limit {
            self.list.push(line as u32);
        } else {
            self.dense = true;
        }
    }

    /// Marks the lines `first..end`.
    #[inline]
    pub(crate) fn mark_range(&mut self, first: usize, end: usize) {
        if end - first <= LIST_LEAST {
            (first..end).for_each(|line| self.mark(line));
        } else {
            self.mark_run(first, end);
        }
    }

    #[cold]
    fn mark_run(&mut self, first: usize, end: usize) {
        assert!(end <= self.lines);
        self.dense = true;
        for word in first / 64..end.div_ceil(64) {
            self.bits[word] |= mask(word, first, end);
        }
    }

    pub(crate) fn mark_all(&mut self) {
        self.mark_run(0, self.lines);
    }

    pub(crate) fn clear(&mut self) {
        if self.dense {
            self.bits.fill(0);
        } else {
            for line in &self.list {
                self.bits[*line as usize / 64] = 0;
            }
        }
        self.list.clear();
        self.dense = false;
    }

    /// How many lines are dirty.
    pub(crate) fn count(&self) -> usize {
        if self.dense {
            self.bits.iter().map(|w| w.count_ones() as usize).sum()
        } else {
            self.list.len()
        }
    }

    /// The dirty lines as runs (first, end), in order if there are many.
    pub(crate) fn runs(&self, each: impl FnMut(usize, usize)) {
        union_runs(std::slice::from_ref(self), each);
    }
}

/// The bits of `word` that stand for lines within `first..end`.
fn mask(word: usize, first: usize, end: usize) -> u64 {
    let from = first.max(word * 64) - word * 64;
    let to = end.min(word * 64 + 64) - word * 64;
    (u64::MAX >> (64 - (to - from))) << from
}

/// The lines dirty in any of `logs`, each once.
pub(crate) fn union_runs(logs: &[Log], mut each: impl FnMut(usize, usize)) {
    if logs.iter().any(|log| log.dense) {
        return dense_runs(logs, each);
    }
    for (number, log) in logs.iter().enumerate() {
        for line in &log.list {
            let line = *line as usize;
            if !logs[..number].iter().any(|newer| newer.has(line)) {
                each(line, line + 1);
            }
        }
    }
}

fn dense_runs(logs: &[Log], mut each: impl FnMut(usize, usize)) {
    let words = logs.first().map_or(0, |log| log.bits.len());
    let mut run: Option<(usize, usize)> = None;
    for index in 0..words {
        let mut word = logs.iter().fold(0, |word, log| word | log.bits[index]);
        while word != 0 {
            let first = word.trailing_zeros() as usize;
            let len = (!(word >> first)).trailing_zeros() as usize;
            let (from, to) = (index * 64 + first, index * 64 + first + len);
            word &= !((u64::MAX >> (64 - len)) << first);
            run = match run {
                Some((start, end)) if end == from => Some((start, to)),
                Some((start, end)) => {
                    each(start, end);
                    Some((from, to))
                }
                None => Some((from, to)),
            };
        }
    }
    if let Some((start, end)) = run {
        each(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LINES: usize = 1000;

    fn lines(logs: &[Log]) -> Vec<usize> {
        let mut all = Vec::new();
        union_runs(logs, |first, end| all.extend(first..end));
        all.sort_unstable();
        all
    }

    proptest! {
        /// The log is a set, however it is filled; unions name each line once.
        #[test]
        fn a_log_is_a_set(
            ranges in proptest::collection::vec((0..LINES, 1..200usize), 0..12),
            single in proptest::collection::vec(0..LINES, 0..200),
            others in proptest::collection::vec(0..LINES, 0..90),
        ) {
            let (mut log, mut set) = (Log::new(LINES), BTreeSet::new());
            for (first, len) in ranges {
                let end = (first + len).min(LINES);
                log.mark_range(first, end);
                set.extend(first..end);
            }
            for line in single {
                log.mark(line);
                set.insert(line);
            }
            prop_assert_eq!(log.is_clean(), set.is_empty());
            prop_assert_eq!(log.count(), set.len());
            prop_assert_eq!(lines(std::slice::from_ref(&log)), set.iter().copied().collect::<Vec<_>>());

            let mut other = Log::new(LINES);
            others.iter().for_each(|line| other.mark(*line));
            let mut both = set.clone();
            both.extend(others);
            let both: Vec<usize> = both.into_iter().collect();
            prop_assert_eq!(&lines(&[log.clone(), other.clone()]), &both);
            prop_assert_eq!(&lines(&[other.clone(), log.clone()]), &both);
            log.clear();
            prop_assert!(log.is_clean() && (0..LINES).all(|line| !log.has(line)));
        }
    }
}
