//! Which of several senders a receiver asks: the first of its list that is alive.
//!
//! Whatever comes from any of them is taken: a version has one name and one content, whoever
//! sends it, and an [`Import`](super::Import) only goes on. What is chosen is who hears the
//! reports, and therefore sends.
//!
//! * **Alive** is who says, of what the receiver has or of something newer, that it was known
//!   lately to be all there is. So a relay that is cut off from the writer gives way, too.
//! * Who is not alive for a lease gives way to the next of the list, the last to the first.
//! * Those before the chosen one are asked now and then; the first that answers is chosen again.
//! * Who is not asked any more is told, lest it keep its next version for this receiver.

use std::time::Duration;

use stateplane_base::Time;

use super::mutation::{Mutation, broken};

/// A sender that was not told for so many leases that what it has is all there is, is no better
/// than one that is gone. Each relay on the way adds less than half a lease.
const CUT_OFF: u32 = 3;

/// The senders that one receiver may ask.
#[derive(Debug)]
pub struct Parents {
    lease: Duration,
    /// When each said last that it is alive.
    alive: Vec<Time>,
    chosen: usize,
    since: Time,
    /// When one before the chosen one was asked, and how many times that was done.
    tried: Time,
    tries: usize,
    /// Who is to hear that it is not asked any more, and when one was found that sends in vain.
    left: Option<usize>,
    parted: Time,
    changes: u64,
}

/// Whom a report is for, by their places in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Who sends.
    pub chosen: usize,
    /// One that would be asked instead, if it answered.
    pub better: Option<usize>,
    /// One that is not asked any more: to hear [`Import::farewell`](super::Import::farewell).
    pub left: Option<usize>,
}

impl Parents {
    /// So many senders, the first the best, of receivers that are forgotten after `lease`.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(count: usize, lease: Duration) -> Self {
        assert!(count > 0, "a receiver has a sender");
        Self {
            lease,
            alive: vec![Time::ZERO; count],
            chosen: 0,
            since: Time::ZERO,
            tried: Time::ZERO,
            tries: 0,
            left: None,
            parted: Time::ZERO,
            changes: 0,
        }
    }

    /// A datagram of the sender at this place was taken in; `told` is
    /// [what it told](super::Import::told).
    pub fn on_message(&mut self, now: Time, from: usize, told: Option<Time>) {
        let Some(alive) = self.alive.get_mut(from) else {
            return;
        };
        let lately = |told: Time| now < told + self.lease * CUT_OFF;
        if told.is_some_and(|told| lately(told) || broken(Mutation::AnyParentIsAlive)) {
            *alive = now;
            if from < self.chosen {
                self.choose(now, from);
            }
        }
        // It did not hear the farewell, or was only tried; or this is for others of its group.
        if from != self.chosen && now >= self.parted + self.lease / 4 {
            (self.left, self.parted) = (Some(from), now);
        }
    }

    /// A report is due: to whom it goes.
    pub fn ask(&mut self, now: Time) -> Asked {
        if self.since == Time::ZERO {
            (self.since, self.tried) = (now, now);
        }
        let alive = self.alive[self.chosen].max(self.since);
        if now >= alive + self.lease && !broken(Mutation::ParentsForEver) {
            self.choose(now, (self.chosen + 1) % self.alive.len());
        }
        let mut better = None;
        if self.chosen > 0 && now >= self.tried + self.lease {
            better = Some(self.tries % self.chosen);
            (self.tried, self.tries) = (now, self.tries.wrapping_add(1));
        }
        Asked {
            chosen: self.chosen,
            better,
            left: self.left.take(),
        }
    }

    fn choose(&mut self, now: Time, next: usize) {
        self.since = now;
        if next == self.chosen {
            return;
        }
        self.left = Some(self.chosen);
        self.chosen = next;
        (self.tried, self.parted) = (now, now);
        self.changes += 1;
    }

    /// The place of who is asked.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// How often another one was chosen.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000 + millis)
    }

    #[test]
    fn the_first_that_is_alive_is_asked() {
        let mut parents = Parents::new(3, LEASE);
        let asked = |chosen, better, left| Asked {
            chosen,
            better,
            left,
        };
        assert_eq!(parents.ask(at(0)), asked(0, None, None));
        parents.on_message(at(40), 0, Some(at(40)));
        assert_eq!(parents.ask(at(139)), asked(0, None, None));
        assert_eq!(parents.ask(at(140)), asked(1, None, Some(0)));
        // Both before the third are tried in turn.
        assert_eq!(parents.ask(at(240)), asked(2, None, Some(1)));
        parents.on_message(at(300), 2, Some(at(290)));
        assert_eq!(parents.ask(at(340)), asked(2, Some(0), None));
        assert_eq!(parents.ask(at(341)), asked(2, None, None));
        parents.on_message(at(400), 2, Some(at(390)));
        assert_eq!(parents.ask(at(440)), asked(2, Some(1), None));
        parents.on_message(at(441), 1, Some(at(430)));
        assert_eq!(parents.ask(at(442)), asked(1, None, Some(2)));
        // Nobody at all: one after the other, for ever.
        assert_eq!(parents.ask(at(542)), asked(2, None, Some(1)));
        assert_eq!(parents.ask(at(642)), asked(0, None, Some(2)));
        assert_eq!(parents.changes(), 5);
    }

    #[test]
    fn who_is_cut_off_gives_way() {
        let mut parents = Parents::new(2, LEASE);
        parents.ask(at(0));
        for millis in (0..1_000).step_by(20) {
            parents.on_message(at(millis), 0, Some(at(0)));
            parents.on_message(at(millis), 1, None);
            parents.ask(at(millis));
        }
        assert!(parents.changes() > 0);
        let mut only = Parents::new(1, LEASE);
        for millis in (0..1_000).step_by(20) {
            only.on_message(at(millis), 7, Some(at(millis)));
            let expected = Asked {
                chosen: 0,
                better: None,
                left: None,
            };
            assert_eq!(only.ask(at(millis)), expected);
        }
    }
}
