//! How long nobody, or one client, was served.

use std::collections::BTreeMap;
use std::time::Duration;

use stateplane_base::Time;

use super::load::Entry;

/// Operations that were answered: when, and whose they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Vec<(u64, u32)>);

impl Answers {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let answered = entries.iter().filter_map(|entry| {
            let (at, _) = entry.record.answer()?;
            Some((at, entry.client))
        });
        let mut answers: Vec<_> = answered.collect();
        answers.sort_unstable();
        Self(answers)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The longest time without an answer that ended after `from`, up to `end`: of all
    /// clients together, and of the one that waited longest.
    pub(super) fn silence(&self, from: Time, end: Time) -> (Duration, Duration) {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let (mut any, mut longest, mut worst) = (None, 0, 0);
        let (from, end) = (from.as_nanos(), end.as_nanos());
        let gap = |before: Option<u64>, now: u64| match before {
            Some(before) if now > from => now.min(end).saturating_sub(before),
            _ => 0,
        };
        for (at, client) in &self.0 {
            longest = gap(any.replace(*at), *at).max(longest);
            worst = gap(last.insert(*client, *at), *at).max(worst);
        }
        longest = gap(any, end).max(longest);
        worst = last
            .values()
            .fold(worst, |worst, at| gap(Some(*at), end).max(worst));
        (Duration::from_nanos(longest), Duration::from_nanos(worst))
    }

    /// How many in each span of `width` from `from` on, `count` spans.
    pub(super) fn per(&self, width: Duration, from: Time, count: usize) -> Vec<u64> {
        let width = u64::try_from(width.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mut spans = vec![0; count];
        for (at, _) in &self.0 {
            let Some(after) = at.checked_sub(from.as_nanos()) else {
                continue;
            };
            let place = usize::try_from(after / width).unwrap_or(usize::MAX);
            if let Some(span) = spans.get_mut(place) {
                *span += 1;
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(list: &[(u64, u32)]) -> Answers {
        Answers(
            list.iter()
                .map(|(ms, client)| (ms * 1_000_000, *client))
                .collect(),
        )
    }

    fn silence(list: &[(u64, u32)], from: u64, end: u64) -> (u128, u128) {
        let (all, one) = answers(list).silence(Time::from_millis(from), Time::from_millis(end));
        (all.as_millis(), one.as_millis())
    }

    #[test]
    fn silence_is_between_answers_and_belongs_to_what_came_before_its_end() {
        let list = [(0, 1), (10, 2), (20, 1), (60, 2), (65, 1)];
        assert_eq!(silence(&list, 21, 70), (40, 50));
        assert_eq!(silence(&list, 61, 70), (5, 45), "the first gap was over");
        assert_eq!(
            silence(&list, 61, 200),
            (135, 140),
            "the end ends a silence, too"
        );
        assert_eq!(silence(&[], 0, 9), (0, 0));
    }

    #[test]
    fn spans_count_what_falls_into_them() {
        let spans = answers(&[(1, 0), (10, 0), (11, 0), (35, 0)]);
        let per = spans.per(Duration::from_millis(10), Time::from_millis(0), 3);
        assert_eq!(per, [1, 2, 0]);
        let later = spans.per(Duration::from_millis(10), Time::from_millis(10), 3);
        assert_eq!(later, [2, 0, 1]);
    }
}
