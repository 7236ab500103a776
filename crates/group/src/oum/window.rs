//! Numbered things that arrive in any order, and leave in theirs.

use alloc::collections::VecDeque;
use core::mem;

/// What became of something that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// It is kept until its turn comes, which may be now.
    Kept,
    /// Its place has been passed, or is taken already.
    Duplicate,
    /// It is too far ahead to be kept. That its place exists is known now.
    TooFar,
}

/// A row of places, of which a prefix has been taken. What arrives ahead of a missing
/// one is kept, up to a limit.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Window<T> {
    /// All places up to this one were taken or skipped.
    taken: u64,
    /// The places from the next one on. The last holds something.
    ahead: VecDeque<Option<T>>,
    /// How many places do.
    held: usize,
    /// The last place known to exist.
    tail: u64,
    limit: usize,
}

impl<T> Window<T> {
    /// A window whose next place is the one after `taken`, and that keeps nothing more than
    /// `limit` places ahead of it.
    pub const fn after(taken: u64, limit: usize) -> Self {
        Self {
            taken,
            ahead: VecDeque::new(),
            held: 0,
            tail: taken,
            limit,
        }
    }

    /// The last place that was taken or skipped.
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// The last place known to exist.
    pub const fn tail(&self) -> u64 {
        self.tail
    }

    /// How many things it holds.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// Whether every place known to exist was taken or skipped.
    pub const fn is_complete(&self) -> bool {
        self.tail <= self.taken
    }

    /// Whether a place is missing: one that is known to exist and holds nothing.
    pub const fn has_hole(&self) -> bool {
        self.tail.saturating_sub(self.taken) > self.held as u64
    }

    /// Where `place` lies in `ahead`, if it may be kept.
    fn index(&self, place: u64) -> Result<usize, Put> {
        let ahead = match place.checked_sub(self.taken) {
            None | Some(0) => return Err(Put::Duplicate),
            Some(distance) => distance - 1,
        };
        let index = usize::try_from(ahead).map_err(|_| Put::TooFar)?;
        (index < self.limit).then_some(index).ok_or(Put::TooFar)
    }

    fn set(&mut self, place: u64, item: T, over: bool) -> Put {
        let index = match self.index(place) {
            Err(why) => {
                self.note(place);
                return why;
            }
            Ok(index) => index,
        };
        self.note(place);
        if index >= self.ahead.len() {
            self.ahead.resize_with(index, || None);
            self.ahead.push_back(Some(item));
            self.held += 1;
            return Put::Kept;
        }
        let place = &mut self.ahead[index];
        match place {
            Some(_) if !over => return Put::Duplicate,
            Some(_) => {}
            None => self.held += 1,
        }
        *place = Some(item);
        Put::Kept
    }

    /// Something for a place; what came first stays.
    pub fn put(&mut self, place: u64, item: T) -> Put {
        self.set(place, item, false)
    }

    /// What is known to belong into a place; it wins over what came.
    pub fn settle(&mut self, place: u64, item: T) -> Put {
        self.set(place, item, true)
    }

    /// What is kept for a place.
    pub fn get(&self, place: u64) -> Option<&T> {
        self.ahead.get(self.index(place).ok()?)?.as_ref()
    }

    /// The places up to this one exist.
    pub fn note(&mut self, place: u64) {
        self.tail = self.tail.max(place);
    }

    /// Whether the next place holds something.
    pub fn is_ready(&self) -> bool {
        matches!(self.ahead.front(), Some(Some(_)))
    }

    /// Takes what the next place holds, if it is there.
    pub fn take(&mut self) -> Option<T> {
        let item = self.ahead.front_mut()?.take()?;
        self.ahead.pop_front();
        self.held -= 1;
        self.taken += 1;
        Some(item)
    }

    /// The places up to this one get nothing more; what they hold is dropped.
    pub fn skip(&mut self, to: u64) {
        self.note(to);
        while self.taken < to {
            match self.ahead.pop_front() {
                Some(place) => {
                    self.held -= usize::from(place.is_some());
                    self.taken += 1;
                }
                None => self.taken = to,
            }
        }
    }

    /// The first places that exist and hold nothing, `most` of them at most.
    pub fn missing(&self, most: u64) -> Option<(u64, u64)> {
        let from = self.taken.checked_add(1)?;
        let to = self.tail.min(self.taken.saturating_add(most));
        let known = usize::try_from(to.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        let stops = self.ahead.iter().take(known).position(Option::is_some);
        let to = stops.map_or(to, |empty| self.taken + empty as u64);
        (from <= to).then_some((from, to))
    }

    /// Goes on after `taken`, which may lie before or behind. Of what it holds, it keeps what
    /// `keep` says; what else existed is forgotten.
    pub fn restart(&mut self, taken: u64, keep: impl Fn(&T) -> bool) {
        let first = self.taken.saturating_add(1);
        let held = mem::take(&mut self.ahead);
        *self = Self::after(taken, self.limit);
        for (place, item) in (first..).zip(held) {
            if let Some(item) = item.filter(&keep) {
                self.put(place, item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_stays_unless_it_is_settled() {
        let mut window = Window::after(10, 4);
        assert_eq!(window.put(12, 'a'), Put::Kept);
        assert_eq!(window.put(12, 'b'), Put::Duplicate);
        assert_eq!(window.get(12), Some(&'a'));
        assert_eq!(window.settle(12, 'c'), Put::Kept);
        assert_eq!(window.put(10, 'd'), Put::Duplicate);
        assert_eq!(window.put(15, 'e'), Put::TooFar);
        assert_eq!((window.held(), window.tail()), (1, 15));
        assert_eq!(window.missing(9), Some((11, 11)));
        assert!(!window.is_ready() && window.take().is_none());
        assert_eq!(window.put(11, 'f'), Put::Kept);
        assert_eq!((window.take(), window.take()), (Some('f'), Some('c')));
        assert_eq!(window.missing(9), Some((13, 15)));
        assert_eq!(window.missing(2), Some((13, 14)));
        window.skip(15);
        assert!(window.is_complete() && window.held() == 0);
    }

    #[test]
    fn a_window_that_starts_anew_keeps_what_it_is_told_to() {
        let mut window = Window::after(10, 8);
        for place in [13, 14, 17] {
            window.put(place, place);
        }
        window.restart(9, |item| *item != 14);
        assert_eq!((window.held(), window.tail()), (2, 17));
        assert_eq!(window.missing(99), Some((10, 12)));
        window.restart(13, |_| true);
        assert_eq!((window.held(), window.taken()), (1, 13));
        window.restart(20, |_| true);
        assert_eq!((window.held(), window.tail()), (0, 20));
    }
}
