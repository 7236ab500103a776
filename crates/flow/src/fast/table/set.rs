//! Entries set and prolonged, many of them at a time.

use stateplane_base::Time;

use super::super::action::{Entry, state_word};
use super::super::key::{Address, Key};
use super::super::memory::{Memory, load, store};
use super::{Full, Slot, Table, action, bucket};

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

    /// Asks for the memory where this key would be found: of several keys, before the first is
    /// needed, so that their ways from memory are one.
    pub fn expect(&self, key: &Key<A>) {
        let slots = self.choices(key).into_iter().flat_map(bucket);
        let tags = slots.map(|slot| load(self.slot(slot), A::PAIR_WORDS));
        core::hint::black_box(tags.fold(0, |all, tag| all ^ tag));
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
