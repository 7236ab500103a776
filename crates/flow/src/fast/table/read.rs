//! A reader's side of the flow tables.

use core::sync::atomic::AtomicU64;

use stateplane_base::Time;

use super::super::action::Entry;
use super::super::key::{Address, Key, Seed};
use super::super::layout::STATE_SEQUENCE;
use super::super::memory::{self, Memory, load, store};
use super::super::settings::Extent;
use super::grow::sum;
use super::{Seen, Slot, action, bucket, choices, idle, matches, tick};

/// What a reader finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<A> {
    /// No entry.
    Nothing,
    /// An entry that is being changed at this moment.
    Busy,
    /// The entry and the slot it lies in.
    Entry(usize, Entry<A>),
}

/// A reader's look-up, in the slots that are in use. Whatever the writer does meanwhile, an entry is given whole.
pub fn look_up<A: Address>(memory: &[AtomicU64], seed: &Seed, key: &Key<A>) -> Found<A> {
    let (addresses, tag) = key.words();
    let addresses = &addresses[..A::PAIR_WORDS];
    if memory.is_empty() {
        return Found::Nothing;
    }
    let choices = choices(
        seed,
        seed.hash(addresses, tag),
        memory.len() / A::SLOT_WORDS,
    );
    for slot in choices.into_iter().flat_map(bucket) {
        let words = &memory[slot * A::SLOT_WORDS..][..A::SLOT_WORDS];
        if !matches(words, addresses, tag) {
            continue;
        }
        let read = memory::read(&words[Slot::<A>::STATE], STATE_SEQUENCE, || {
            matches(words, addresses, tag).then(|| action(words))
        });
        return match read {
            None => Found::Busy,
            Some((_, None)) => Found::Nothing,
            Some((state, Some(action))) => {
                let until = Time::from_nanos(state & !STATE_SEQUENCE);
                Found::Entry(slot, Entry { action, until })
            }
        };
    }
    Found::Nothing
}

/// The program's note that a packet passed: not atomic as a whole, since a flow's packets come
/// by one queue as a rule, and an exact count of the others is not worth a locked instruction.
pub fn note<A: Address>(memory: &[AtomicU64], slot: usize, now: Time, bytes: usize) {
    let words = &memory[slot * A::SLOT_WORDS..][..A::SLOT_WORDS];
    let total = load(words, Slot::<A>::BYTES).wrapping_add(bytes as u64);
    store(words, Slot::<A>::BYTES, total);
    let packets = (load(words, Slot::<A>::SEEN) as u32).wrapping_add(1);
    store(words, Slot::<A>::SEEN, u64::from(packets) | tick(now) << 32);
}

/// What the program noted about an entry, as anybody sees it. While the number of slots in use changes
/// an entry may lie in two places, and was counted in both.
pub fn seen<M: Memory, A: Address>(
    flows: &[AtomicU64],
    extent: &Extent<M>,
    seed: &Seed,
    key: &Key<A>,
    now: Time,
) -> Option<Seen> {
    let slots = extent.in_use::<A>(flows);
    let Found::Entry(slot, _) = look_up(slots, seed, key) else {
        return None;
    };
    let (addresses, tag) = key.words();
    let words = |slot: usize| &flows[slot * A::SLOT_WORDS..][..A::SLOT_WORDS];
    let noted = |slot: usize| [Slot::<A>::SEEN, Slot::<A>::BYTES].map(|at| load(words(slot), at));
    let [mut seen, mut bytes] = noted(slot);
    let (count, whole) = (slots.len() / A::SLOT_WORDS, flows.len() / A::SLOT_WORDS);
    // Of those who part; and of those who left the upper half, which others need not have done.
    let left = choices(seed, seed.hash_of(key), (2 * count).min(whole)).into_iter();
    let left = left.filter(|&choice| choice >= count).flat_map(bucket);
    let mut others = [slot ^ (count / 2)].into_iter().chain(left);
    if let Some(other) =
        others.find(|&other| matches(words(other), &addresses[..A::PAIR_WORDS], tag))
    {
        let [more_seen, more_bytes] = noted(other);
        (seen, bytes) = (sum(seen, more_seen), bytes.wrapping_add(more_bytes));
    }
    Some(Seen {
        packets: seen as u32,
        bytes,
        idle: idle(seen, now),
    })
}
