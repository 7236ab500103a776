//! Which lines have changed: a bit for each, and a list of those that became dirty.
//!
//! Measured best among page faults, comparing, bytes and bits alone: a store costs less
//! than a nanosecond more, and what a publish costs depends on how much changed, not on
//! how large the region is. The list ends where walking the bits is cheaper.

/// What became dirty between two publishes.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    bits: Vec<u64>,
    list: Box<[u32]>,
    /// How many lines are listed. A list that is full is not complete: the bits tell.
    listed: usize,
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
            list: vec![0; limit].into(),
            listed: 0,
            lines,
        }
    }

    #[inline]
    pub(crate) fn is_clean(&self) -> bool {
        self.listed == 0
    }

    /// How many lines were listed.
    #[inline]
    pub(crate) fn listed(&self) -> usize {
        self.listed
    }

    /// The dirty lines, in the order in which they became so; none: only the bits tell.
    #[inline]
    pub(crate) fn list(&self) -> Option<&[u32]> {
        let complete = self.listed < self.list.len();
        complete.then(|| &self.list[..self.listed])
    }

    /// The line that became dirty as the `number`th; none where only the bits tell.
    #[inline]
    pub(crate) fn nth(&self, number: usize) -> Option<usize> {
        let line = self.list()?.get(number)?;
        Some(*line as usize)
    }

    /// Marks one line; whether it was clean.
    ///
    /// Without a branch on that: where stores go at random no processor foresees it, and a
    /// guess gone wrong costs ten times what is done here in vain.
    #[inline(always)]
    pub(crate) fn mark(&mut self, line: usize) -> bool {
        let word = &mut self.bits[line / 64];
        let bit = 1 << (line % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        if let Some(next) = self.list.get_mut(self.listed) {
            *next = line as u32;
            self.listed += usize::from(fresh);
        }
        fresh
    }

    /// Marks the lines `first..end`.
    #[inline]
    pub(crate) fn mark_range(&mut self, first: usize, end: usize) {
        if end - first <= LIST_LEAST {
            for line in first..end {
                self.mark(line);
            }
        } else {
            self.mark_run(first, end);
        }
    }

    #[cold]
    fn mark_run(&mut self, first: usize, end: usize) {
        assert!(end <= self.lines);
        self.listed = self.list.len();
        for word in first / 64..end.div_ceil(64) {
            self.bits[word] |= mask(word, first, end);
        }
    }

    pub(crate) fn mark_all(&mut self) {
        self.mark_run(0, self.lines);
    }

    pub(crate) fn clear(&mut self) {
        if self.listed == self.list.len() {
            self.bits.fill(0);
        } else {
            for line in &self.list[..self.listed] {
                self.bits[*line as usize / 64] = 0;
            }
        }
        self.listed = 0;
    }

    /// How many lines are dirty.
    pub(crate) fn count(&self) -> usize {
        let counted = || self.bits.iter().map(|w| w.count_ones() as usize).sum();
        self.list().map_or_else(counted, <[u32]>::len)
    }

    /// The dirty lines as runs (first, end), in order if there are many.
    pub(crate) fn runs(&self, mut each: impl FnMut(usize, usize)) {
        match self.list() {
            Some(list) => list
                .iter()
                .for_each(|line| each(*line as usize, *line as usize + 1)),
            None => union_runs(|| std::iter::once(self), each),
        }
    }
}

/// The bits of `word` that stand for lines within `first..end`.
fn mask(word: usize, first: usize, end: usize) -> u64 {
    let from = first.max(word * 64) - word * 64;
    let to = end.min(word * 64 + 64) - word * 64;
    (u64::MAX >> (64 - (to - from))) << from
}

/// The lines dirty in any of `logs`, in order, as runs (first, end).
pub(crate) fn union_runs<'a, Logs: Iterator<Item = &'a Log>>(
    logs: impl Fn() -> Logs,
    mut each: impl FnMut(usize, usize),
) {
    let words = logs().next().map_or(0, |log| log.bits.len());
    let mut run: Option<(usize, usize)> = None;
    for index in 0..words {
        let mut word = logs().fold(0, |word, log| word | log.bits[index]);
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

    fn lines(logs: &[&Log]) -> Vec<usize> {
        let mut all = Vec::new();
        union_runs(|| logs.iter().copied(), |first, end| all.extend(first..end));
        all
    }

    fn own_lines(log: &Log) -> Vec<usize> {
        let mut all = Vec::new();
        log.runs(|first, end| all.extend(first..end));
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
            let expected: Vec<usize> = set.iter().copied().collect();
            prop_assert_eq!(&lines(&[&log]), &expected);
            prop_assert_eq!(&own_lines(&log), &expected);

            let mut other = Log::new(LINES);
            for line in &others {
                other.mark(*line);
            }
            let mut both = set.clone();
            both.extend(others);
            let both: Vec<usize> = both.into_iter().collect();
            prop_assert_eq!(&lines(&[&log, &other]), &both);
            prop_assert_eq!(&lines(&[&other, &log]), &both);
            log.clear();
            prop_assert!(log.is_clean() && own_lines(&log).is_empty());
        }
    }
}
