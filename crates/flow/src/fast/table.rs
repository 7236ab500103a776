//! The flow tables: fixed memory, one writer, readers that never wait.
//!
//! A key lies in one of two buckets of four neighbouring slots ([`layout`](super::layout)). Where both
//! are full, an entry of theirs moves to its own other bucket: copied there first, so that a
//! reader finds it at one place at least. A slot whose time is over counts as free for others;
//! one that lives is never given away: the caller is told which one was idle longest.
//!
//! A table may begin with few of its slots, double as flows come ([`grow`]) and halve when they have
//! gone ([`shrink`]), so that few flows lie in few pages however many there is room for.

mod grow;
mod read;
mod set;
mod shrink;

use core::hint::black_box;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use core::time::Duration;

use stateplane_base::Time;

use super::action::{Action, Entry, SlotWords, state_word};
use super::key::{Address, Key, Seed};
use super::layout::{BUCKET_SLOTS, SEEN_SHIFT, STATE_SEQUENCE};
use super::memory::{self, Memory, WrongSize, change, load, store};
use super::settings::Extent;
use grow::Growth;
pub use read::{Found, look_up, note, seen};

/// The flow table of one address family, as its one writer has it.
#[derive(Debug)]
pub struct Table<M, A> {
    memory: M,
    seed: Seed,
    /// What tells readers; a table without it is in use as a whole.
    extent: Option<Extent<M>>,
    /// Slots in use: a power of two.
    in_use: usize,
    /// It has no fewer.
    least: usize,
    growth: Growth,
    used: usize,
    full: u64,
    moved: u64,
    /// Insertions for which no room is sought, since that was in vain.
    rest: u32,
    sweep: usize,
    family: PhantomData<A>,
}

/// No slot is free for the key, nor can one be made free cheaply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no slot is free for this flow")]
pub struct Full<A> {
    /// Of the entries in its way, the one that saw no packet for longest: the caller may
    /// remove it, which sends its flow to the slow path.
    pub idlest: Key<A>,
    /// For how long.
    pub idle: Duration,
}

/// What the program noted about an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Packets, modulo 2^32.
    pub packets: u32,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Since the last packet, or since the entry was made; within 2^20 ns.
    pub idle: Duration,
}

/// How full a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pressure {
    /// Slots.
    pub capacity: usize,
    /// Of these, those that readers look at: as many as the flows so far needed.
    pub in_use: usize,
    /// Slots taken, those among them whose time is over and that nobody needed since.
    pub used: usize,
    /// Insertions refused since the beginning.
    pub full: u64,
    /// Entries moved to make room since the beginning.
    pub moved: u64,
}

/// How often room is made by moving who is in the way of who is in the way.
const MOVES_DEEP: usize = 2;
/// A search in vain reads hundreds of slots. In a full table it is made for one of so many
/// insertions, so that a flood of new flows costs little more than their look-ups.
const REST: u32 = 256;

impl<M: Memory, A: Address> Table<M, A> {
    /// Takes `memory`, a power of two of slots, eight at least, and empties it.
    pub fn new(memory: M, seed: Seed) -> Result<Self, WrongSize> {
        let what = "the slots of a flow table";
        memory::sized(&memory, A::SLOT_WORDS, 2 * BUCKET_SLOTS, what)?;
        let in_use = memory.len() / A::SLOT_WORDS;
        let mut table = Table {
            memory,
            seed,
            extent: None,
            in_use,
            least: in_use,
            growth: Growth::Done,
            used: 0,
            full: 0,
            moved: 0,
            rest: 0,
            sweep: 0,
            family: PhantomData,
        };
        table.clear();
        Ok(table)
    }

    /// Adds an entry, or replaces the action of the one there is; its counts go on then.
    pub fn insert(&mut self, now: Time, key: &Key<A>, entry: &Entry<A>) -> Result<(), Full<A>> {
        match self.update(key, entry) {
            true => Ok(()),
            false => self.add(now, key, entry),
        }
    }

    /// Adds an entry that is not there.
    fn add(&mut self, now: Time, key: &Key<A>, entry: &Entry<A>) -> Result<(), Full<A>> {
        let Some(slot) = self.room(now, key) else {
            self.full += 1;
            return Err(self.crowded(now, key));
        };
        self.fill(now, slot, key, entry);
        self.rejoin(key);
        self.keep_up();
        Ok(())
    }

    /// Replaces the action of an entry that is there; says whether it was.
    pub fn update(&mut self, key: &Key<A>, entry: &Entry<A>) -> bool {
        self.unite(key);
        let found = self.find(key);
        if let Some(slot) = found {
            self.rewrite(slot, entry);
            self.rejoin(key);
        }
        found.is_some()
    }

    /// Removes an entry; says whether it was there.
    pub fn remove(&mut self, key: &Key<A>) -> bool {
        self.unite(key);
        let found = self.find(key);
        if let Some(slot) = found {
            self.empty(slot);
        }
        found.is_some()
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.growth = Growth::Done;
        for slot in 0..self.capacity() {
            if self.is_taken(slot) {
                self.change(slot, Time::ZERO, clear_key::<A>);
            }
        }
        self.used = 0;
    }

    /// Frees slots whose time is over, among the next `slots` in a circle; says how many.
    pub fn sweep(&mut self, now: Time, slots: usize) -> usize {
        let before = self.used;
        for _ in 0..slots.min(self.in_use) {
            let slot = self.sweep % self.in_use;
            self.sweep = slot + 1;
            if self.is_taken(slot) && over(load(self.slot(slot), Slot::<A>::STATE), now) {
                match self.halves() {
                    true => self.discard(slot),
                    false => self.empty(slot),
                }
            }
        }
        before - self.used
    }

    /// The entry of a key, whether or not its time is over.
    pub fn get(&self, key: &Key<A>) -> Option<Entry<A>> {
        let words = self.slot(self.find(key)?);
        Some(Entry {
            action: action(words),
            until: Time::from_nanos(load(words, Slot::<A>::STATE) & !STATE_SEQUENCE),
        })
    }

    /// What the program noted about an entry.
    pub fn seen(&self, key: &Key<A>, now: Time) -> Option<Seen> {
        Some(self.noted(self.find(key)?, now))
    }

    /// Slots taken.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Slots.
    pub fn capacity(&self) -> usize {
        self.memory.len() / A::SLOT_WORDS
    }

    /// How full it is.
    pub fn pressure(&self) -> Pressure {
        Pressure {
            capacity: self.capacity(),
            in_use: self.in_use,
            used: self.used,
            full: self.full,
            moved: self.moved,
        }
    }

    /// Its memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    fn slot(&self, slot: usize) -> &[AtomicU64] {
        &self.memory[slot * A::SLOT_WORDS..][..A::SLOT_WORDS]
    }

    /// The two slots that a key would like best.
    fn choices(&self, key: &Key<A>) -> [usize; 2] {
        choices(&self.seed, self.seed.hash_of(key), self.in_use)
    }

    /// Has the processor fetch the slots that a key may be in. In a large table that takes longer than
    /// all else about an entry; where it is begun for several keys at once, they share the wait.
    pub fn fetch(&self, key: &Key<A>) {
        for slot in self.choices(key).into_iter().flat_map(bucket) {
            black_box(load(self.slot(slot), A::PAIR_WORDS));
        }
    }

    fn is_taken(&self, slot: usize) -> bool {
        load(self.slot(slot), A::PAIR_WORDS) != 0
    }

    fn key(&self, slot: usize) -> Option<Key<A>> {
        let words = self.slot(slot);
        let mut addresses = [0; 4];
        for (at, word) in addresses[..A::PAIR_WORDS].iter_mut().enumerate() {
            *word = load(words, at);
        }
        Key::from_words(addresses, load(words, A::PAIR_WORDS))
    }

    fn find(&self, key: &Key<A>) -> Option<usize> {
        let (addresses, tag) = key.words();
        self.choices(key)
            .into_iter()
            .flat_map(bucket)
            .find(|&slot| matches(self.slot(slot), &addresses[..A::PAIR_WORDS], tag))
    }

    /// A slot for a new key: free, or over, or made free.
    fn room(&mut self, now: Time, key: &Key<A>) -> Option<usize> {
        let choices = self.choices(key);
        let free = choices.iter().find_map(|&choice| self.free(now, choice));
        if free.is_some() {
            return free;
        }
        // What is few is not crowded.
        self.stay();
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        let made = (0..=MOVES_DEEP).find_map(|deep| {
            let mut choices = choices.iter();
            choices.find_map(|&choice| self.make_room(now, choice, deep))
        });
        if made.is_none() {
            self.rest = REST;
        }
        made
    }

    /// A slot of the bucket around `choice` that nobody needs, the nearest one.
    fn free(&self, now: Time, choice: usize) -> Option<usize> {
        bucket(choice).find(|&slot| {
            !self.is_taken(slot) || over(load(self.slot(slot), Slot::<A>::STATE), now)
        })
    }

    /// Moves an entry out of the bucket around `choice` into its other bucket, where room is made
    /// for it in the same way, so many times `deep`.
    fn make_room(&mut self, now: Time, choice: usize, deep: usize) -> Option<usize> {
        for slot in bucket(choice) {
            self.part(slot);
            if let Some(key) = self.key(slot) {
                self.unite(&key);
            }
            let Some(key) = self.key(slot) else {
                return Some(slot);
            };
            let [a, b] = self.choices(&key);
            let there = if a / BUCKET_SLOTS == slot / BUCKET_SLOTS {
                b
            } else {
                a
            };
            if there / BUCKET_SLOTS == slot / BUCKET_SLOTS {
                continue;
            }
            let to = match deep {
                0 => self.free(now, there),
                deep => self.make_room(now, there, deep - 1),
            };
            if let Some(to) = to {
                self.shift(slot, to);
                return Some(slot);
            }
        }
        None
    }

    /// Copies an entry to another slot, then empties its own.
    fn shift(&mut self, from: usize, to: usize) {
        self.vacate(to);
        // Looked up before: an entry that moves to the slot opposite is not held twice.
        let twin = self.twin(from);
        let (until, words) = self.words(from);
        self.write(to, until, |slot| put::<A>(slot, &words));
        for slot in [Some(from), twin].into_iter().flatten() {
            self.change(slot, Time::ZERO, clear_key::<A>);
        }
        self.used -= 1;
        self.moved += 1;
    }

    /// What a slot holds, and until when.
    fn words(&self, slot: usize) -> (Time, SlotWords) {
        let slot = self.slot(slot);
        let words: SlotWords =
            core::array::from_fn(|at| slot.get(at).map_or(0, |_| load(slot, at)));
        let until = Time::from_nanos(words[Slot::<A>::STATE] & !STATE_SEQUENCE);
        (until, words)
    }

    fn fill(&mut self, now: Time, slot: usize, key: &Key<A>, entry: &Entry<A>) {
        self.vacate(slot);
        let (addresses, tag) = key.words();
        self.write(slot, entry.until, |words| {
            for (at, &word) in addresses[..A::PAIR_WORDS].iter().enumerate() {
                store(words, at, word);
            }
            store(words, A::PAIR_WORDS, tag);
            write_action(words, &entry.action);
            store(words, Slot::<A>::BYTES, 0);
            store(words, Slot::<A>::SEEN, tick(now) << 32);
        });
    }

    fn rewrite(&mut self, slot: usize, entry: &Entry<A>) {
        self.write(slot, entry.until, |words| {
            write_action(words, &entry.action);
        });
    }

    fn empty(&mut self, slot: usize) {
        self.write(slot, Time::ZERO, clear_key::<A>);
    }

    /// Changes a slot and its copy, if it has one, and keeps count of those taken.
    fn write(&mut self, slot: usize, until: Time, write: impl Fn(&[AtomicU64])) {
        let twin = self.twin(slot);
        let was = self.is_taken(slot);
        self.change(slot, until, &write);
        if let Some(twin) = twin {
            self.change(twin, until, &write);
            self.after_copy(twin);
        }
        let is = self.is_taken(slot);
        self.used = self.used + usize::from(is) - usize::from(was);
    }

    /// Changes one slot under its sequence.
    fn change(&self, slot: usize, until: Time, write: impl FnOnce(&[AtomicU64])) {
        let words = self.slot(slot);
        let before = load(words, Slot::<A>::STATE) & STATE_SEQUENCE;
        // An end of zero: whoever does not look at the sequence finds it over.
        let busy = state_word(Time::ZERO, before | 1);
        let done = state_word(until, (before | 1) + 1);
        change(&words[Slot::<A>::STATE], busy, done, || write(words));
    }

    fn crowded(&self, now: Time, key: &Key<A>) -> Full<A> {
        let candidates = self.choices(key).into_iter().flat_map(bucket);
        let (idle, idlest) = candidates
            .filter_map(|slot| Some((self.noted(slot, now).idle, self.key(slot)?)))
            .max()
            .expect("no slot was free, so all have keys");
        Full { idlest, idle }
    }
}

/// Where things lie in a slot: [`layout`](super::layout).
struct Slot<A>(PhantomData<A>);

impl<A: Address> Slot<A> {
    const STATE: usize = A::PAIR_WORDS + 1;
    const ACTION: usize = A::PAIR_WORDS + 2;
    const ENDS: usize = A::PAIR_WORDS + 4;
    const BYTES: usize = A::SLOT_WORDS - 2;
    const SEEN: usize = A::SLOT_WORDS - 1;
}

#[inline]
fn matches(words: &[AtomicU64], addresses: &[u64], tag: u64) -> bool {
    load(words, addresses.len()) == tag
        && addresses
            .iter()
            .enumerate()
            .all(|(at, &word)| load(words, at) == word)
}

fn action<A: Address>(words: &[AtomicU64]) -> Action<A> {
    let at = |at| load(words, at);
    let mut ends = [0; 4];
    for (n, word) in ends[..A::PAIR_WORDS].iter_mut().enumerate() {
        *word = at(Slot::<A>::ENDS + n);
    }
    Action::from_words([at(Slot::<A>::ACTION), at(Slot::<A>::ACTION + 1)], ends)
}

/// All of a slot but its state.
fn put<A: Address>(slot: &[AtomicU64], words: &SlotWords) {
    for (at, &word) in words[..A::SLOT_WORDS].iter().enumerate() {
        if at != Slot::<A>::STATE {
            store(slot, at, word);
        }
    }
}

fn clear_key<A: Address>(words: &[AtomicU64]) {
    for at in 0..=A::PAIR_WORDS {
        store(words, at, 0);
    }
}

fn write_action<A: Address>(words: &[AtomicU64], action: &Action<A>) {
    let (head, ends) = action.words();
    store(words, Slot::<A>::ACTION, head[0]);
    store(words, Slot::<A>::ACTION + 1, head[1]);
    for (n, &word) in ends[..A::PAIR_WORDS].iter().enumerate() {
        store(words, Slot::<A>::ENDS + n, word);
    }
}

/// The slots that a hash likes best, in two buckets (now and then it is one).
#[inline]
fn choices(seed: &Seed, hash: u64, slots: usize) -> [usize; 2] {
    let mask = slots - 1;
    [
        hash as u32 as usize & mask,
        seed.second(hash) as usize & mask,
    ]
}

/// The slots of the bucket around `choice`, that one first.
#[inline]
fn bucket(choice: usize) -> impl Iterator<Item = usize> {
    (0..BUCKET_SLOTS).map(move |n| choice ^ n)
}

/// Whether an entry with this state cannot be used any more.
#[inline]
fn over(state: u64, now: Time) -> bool {
    now.as_nanos() >= state & !STATE_SEQUENCE
}

#[inline]
fn tick(now: Time) -> u64 {
    now.as_nanos() >> SEEN_SHIFT & 0xffff_ffff
}

/// Since when the entry with this `seen` word has had no packet. The program's clock is coarse
/// and may be a little behind or ahead.
fn idle(seen: u64, now: Time) -> Duration {
    let ticks = (tick(now) as u32).wrapping_sub((seen >> 32) as u32);
    let ticks = if ticks > u32::MAX / 2 { 0 } else { ticks };
    Duration::from_nanos(u64::from(ticks) << SEEN_SHIFT)
}
