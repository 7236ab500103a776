//! Entries set and prolonged.

use stateplane_base::Time;

use super::super::action::{Entry, state_word};
use super::super::key::{Address, Key};
use super::super::memory::{Memory, load, store};
use super::{Full, Slot, Table, action};

impl<M: Memory, A: Address> Table<M, A> {
    /// As [`Self::insert`], but an entry that is there and has this action is only prolonged, which
    /// disturbs no reader.
    pub fn set(&mut self, now: Time, key: &Key<A>, entry: &Entry<A>) -> Result<(), Full<A>> {
        let found = self.find(key);
        let same = |slot: &usize| action(self.slot(*slot)) == entry.action;
        if let Some(slot) = found.filter(same) {
            self.prolong_at(slot, key, entry.until);
            return Ok(());
        }
        match found {
            None if !self.halves() => self.add(now, key, entry),
            _ => self.insert(now, key, entry),
        }
    }

    /// Lets an entry end at another time; says whether it is there. No reader is disturbed.
    pub fn prolong(&mut self, key: &Key<A>, until: Time) -> bool {
        let found = self.find(key);
        if let Some(slot) = found {
            self.prolong_at(slot, key, until);
        }
        found.is_some()
    }

    fn prolong_at(&self, slot: usize, key: &Key<A>, until: Time) {
        let twin = self.twin(slot).or_else(|| self.hidden(key));
        for slot in [Some(slot), twin].into_iter().flatten() {
            let words = self.slot(slot);
            let state = load(words, Slot::<A>::STATE);
            store(words, Slot::<A>::STATE, state_word(until, state));
        }
    }
}
