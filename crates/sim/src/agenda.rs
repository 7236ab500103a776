//! The virtual future: what happens when, in an order that depends on nothing
//! but the run itself. A calendar (Brown, CACM 1988): nearly all that is ever
//! planned happens within milliseconds, and lies on the page of its day until
//! that comes; only then is it put in order. What is further off waits in a heap.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When (64 bits), in which order among equals (32), and where in the slab (32): one number,
/// so that two are compared at once.
type Key = u128;

const fn key(at: u64, serial: u32, place: u32) -> Key {
    (at as u128) << 64 | (serial as u128) << 32 | place as u128
}

#[allow(clippy::cast_possible_truncation)] // each part is what was put in
const fn parts(key: Key) -> (u64, u32) {
    ((key >> 64) as u64, key as u32)
}

/// A day is 2^19 ns: few events happen on it, and there is one on most days.
const DAY: u32 = 19;
/// Pages of the calendar: 67 ms.
const PAGES: usize = WORDS * 64;
const WORDS: usize = 2;

const fn day_of(key: Key) -> u64 {
    parts(key).0 >> DAY
}

const fn page_of(day: u64) -> usize {
    (day % PAGES as u64) as usize
}

/// No place in the slab.
const NONE: u32 = u32::MAX;

/// An event and when it happens.
struct Entry<T> {
    key: Key,
    /// The next one on the same page.
    next: u32,
    what: Option<T>,
}

/// A queue of future events. Equal times are served in the order of insertion.
pub(crate) struct Agenda<T> {
    /// The last day that was put in order. What is on pages comes after it.
    today: u64,
    /// All that happens up to its end, the next last.
    present: Vec<Key>,
    /// The first event on the page of each day after it.
    pages: Vec<u32>,
    /// Which pages have any.
    used: [u64; WORDS],
    /// All that happens when the calendar has ended.
    far: BinaryHeap<Reverse<Key>>,
    /// Where what happens lies still.
    slab: Vec<Entry<T>>,
    free: Vec<u32>,
    serial: u32,
}

impl<T> Agenda<T> {
    pub(crate) fn new() -> Self {
        Self {
            today: 0,
            present: Vec::with_capacity(64),
            pages: vec![NONE; PAGES],
            used: [0; WORDS],
            far: BinaryHeap::with_capacity(64),
            slab: Vec::with_capacity(256),
            free: Vec::with_capacity(256),
            serial: 0,
        }
    }

    /// Notes that `what` happens at `at`.
    pub(crate) fn add(&mut self, at: u64, what: T) {
        self.serial += 1;
        let len = u32::try_from(self.slab.len()).expect("a run's future is short");
        let place = self.free.pop().unwrap_or(len);
        let key = key(at, self.serial, place);
        let day = day_of(key);
        let mut next = NONE;
        if day <= self.today {
            self.put_in_order(key);
        } else if day - self.today < PAGES as u64 {
            let page = page_of(day);
            next = std::mem::replace(&mut self.pages[page], place);
            self.used[page / 64] |= 1 << (page % 64);
        } else {
            self.far.push(Reverse(key));
        }
        let what = Some(what);
        let entry = Entry { key, next, what };
        match self.slab.get_mut(place as usize) {
            Some(free) => *free = entry,
            None => self.slab.push(entry),
        }
    }

    /// Something more happens today, mostly soon.
    fn put_in_order(&mut self, key: Key) {
        let mut place = self.present.len();
        self.present.push(key);
        while let Some(after) = place.checked_sub(1)
            && self.present[after] < key
        {
            self.present.swap(place, after);
            place = after;
        }
    }

    /// The next event, if it is due before `limit`.
    pub(crate) fn next(&mut self, limit: u64) -> Option<(u64, T)> {
        if self.present.is_empty() {
            self.turn_over()?;
        }
        let (at, place) = parts(*self.present.last()?);
        if at >= limit {
            return None;
        }
        self.present.pop();
        self.free.push(place);
        let what = self.slab[place as usize].what.take();
        Some((at, what.expect("what is to happen is in the slab")))
    }

    /// Goes on to the next day on which anything happens, and puts that in order.
    fn turn_over(&mut self) -> Option<()> {
        let far = self.far.peek().map(|first| day_of(first.0));
        let near = self.next_page();
        let day = near.into_iter().chain(far).min()?;
        self.today = day;
        if near == Some(day) {
            let page = page_of(day);
            self.used[page / 64] &= !(1 << (page % 64));
            let mut place = std::mem::replace(&mut self.pages[page], NONE);
            while let Some(entry) = self.slab.get(place as usize) {
                self.present.push(entry.key);
                place = entry.next;
            }
        }
        while let Some(first) = self.far.peek()
            && day_of(first.0) <= day
        {
            self.present.extend(self.far.pop().map(|first| first.0));
        }
        self.present.sort_unstable_by(|a, b| b.cmp(a));
        Some(())
    }

    /// The first day after today whose page has anything.
    fn next_page(&self) -> Option<u64> {
        let first = page_of(self.today + 1);
        // The word the search begins in is looked at twice: from there on, and up to there.
        (0..=WORDS).find_map(|step| {
            let word = (first / 64 + step) % WORDS;
            let later = u64::MAX << (first % 64);
            let used = match step {
                0 => self.used[word] & later,
                WORDS => self.used[word] & !later,
                _ => self.used[word],
            };
            let page = word * 64 + used.trailing_zeros() as usize;
            let ahead = (page + PAGES - first) % PAGES;
            (used != 0).then(|| self.today + 1 + ahead as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::{Dice, Stream};

    #[test]
    fn earliest_first_and_equals_in_order_of_insertion() {
        let mut agenda = Agenda::new();
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            agenda.add(at, what);
        }
        let order: String = std::iter::from_fn(|| agenda.next(6).map(|(_, what)| what)).collect();
        assert_eq!(order, "abcd");
        agenda.add(6, 'e');
        assert_eq!(agenda.next(6), None);
    }

    /// A plain list, searched.
    #[derive(Default)]
    struct Plain(Vec<(u64, u32)>);

    impl Plain {
        fn next(&mut self, limit: u64) -> Option<(u64, u32)> {
            let first = *self.0.iter().min().filter(|(at, _)| *at < limit)?;
            self.0.retain(|event| *event != first);
            Some(first)
        }
    }

    #[test]
    fn a_calendar_is_a_list_in_order_however_far_it_reaches() {
        let mut dice = Dice::new(1, Stream::Plan);
        let (mut agenda, mut plain) = (Agenda::new(), Plain::default());
        let (mut now, mut limit) = (0, 1_000);
        for what in 0..20_000 {
            let reach = [10, 100_000, 5_000_000, 40_000_000, 3_000_000_000][dice.below(5)];
            let at = now + dice.between(0, reach);
            agenda.add(at, what);
            plain.0.push((at, what));
            while dice.chance(0.6) || plain.0.len() > 100 {
                let next = plain.next(limit);
                assert_eq!(agenda.next(limit), next);
                match next {
                    Some((at, _)) => now = at,
                    None => (now, limit) = (limit, limit + dice.between(1, reach)),
                }
            }
        }
    }
}
