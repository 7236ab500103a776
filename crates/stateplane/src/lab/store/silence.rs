//! How long nobody, or one client, was served.

use std::collections::BTreeMap;
use std::time::Duration;

use stateplane_base::Time;

use super::load::Entry;

/// An operation that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    at: u64,
    client: u32,
    read: bool,
}

/// All of them, in the order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Vec<Answer>);

/// The longest times without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// To any client.
    pub(super) all: Duration,
    /// To any client, for what takes a slot of the log: reads without one need no sequencer.
    pub(super) slots: Duration,
    /// To the client that waited longest.
    pub(super) client: Duration,
}

/// The longest gap between answers that ended after `from`.
#[derive(Clone, Copy, Debug)]
struct Gap {
    from: u64,
    end: u64,
    last: Option<u64>,
    longest: u64,
}

impl Gap {
    fn answered(&mut self, at: u64) {
        if let Some(before) = self.last.replace(at)
            && at > self.from
        {
            self.longest = self.longest.max(at.min(self.end).saturating_sub(before));
        }
    }

    /// The end ends a gap, too.
    fn longest(mut self) -> Duration {
        self.answered(self.end);
        Duration::from_nanos(self.longest)
    }
}

impl Answers {
    pub(super) fn of(entries: &[Entry]) -> Self {
        let answered = entries.iter().filter_map(|entry| {
            let (at, _) = entry.record.answer()?;
            Some(Answer {
                at,
                client: entry.client,
                read: entry.read,
            })
        });
        let mut answers: Vec<_> = answered.collect();
        answers.sort_unstable();
        Self(answers)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The longest times without an answer that ended after `from`, up to `end`.
    pub(super) fn silence(&self, from: Time, end: Time) -> Silence {
        let gap = Gap {
            from: from.as_nanos(),
            end: end.as_nanos(),
            last: None,
            longest: 0,
        };
        let (mut all, mut slots, mut clients) = (gap, gap, BTreeMap::new());
        for answer in &self.0 {
            all.answered(answer.at);
            if !answer.read {
                slots.answered(answer.at);
            }
            let own = clients.entry(answer.client).or_insert(gap);
            own.answered(answer.at);
        }
        Silence {
            all: all.longest(),
            slots: slots.longest(),
            client: clients
                .into_values()
                .map(Gap::longest)
                .max()
                .unwrap_or_default(),
        }
    }

    /// How many in each span of `width` from `from` on, `count` spans.
    pub(super) fn per(&self, width: Duration, from: Time, count: usize) -> Vec<u64> {
        let width = u64::try_from(width.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mut spans = vec![0; count];
        for answer in &self.0 {
            let Some(after) = answer.at.checked_sub(from.as_nanos()) else {
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

    /// Odd clients read.
    fn answers(list: &[(u64, u32)]) -> Answers {
        let answer = |(ms, client): &(u64, u32)| Answer {
            at: ms * 1_000_000,
            client: *client,
            read: client % 2 == 1,
        };
        Answers(list.iter().map(answer).collect())
    }

    fn silence(list: &[(u64, u32)], from: u64, end: u64) -> [u128; 3] {
        let seen = answers(list).silence(Time::from_millis(from), Time::from_millis(end));
        [seen.all, seen.slots, seen.client].map(|span| span.as_millis())
    }

    #[test]
    fn silence_is_between_answers_and_belongs_to_what_came_before_its_end() {
        let list = [(0, 1), (10, 2), (20, 1), (60, 2), (65, 1)];
        assert_eq!(silence(&list, 21, 70), [40, 50, 50]);
        let later = silence(&list, 61, 70);
        assert_eq!(later, [5, 10, 45], "the first gap was over");
        let last = silence(&list, 61, 200);
        assert_eq!(last, [135, 140, 140], "the end ends a silence, too");
        assert_eq!(silence(&[], 0, 9), [0, 0, 0]);
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
