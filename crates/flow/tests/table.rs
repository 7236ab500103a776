//! The flow table against a plain map, and under readers on other threads.

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::{SEED, Words, entry, entry4, key, key4, words};
use proptest::prelude::*;
use stateplane_base::Time;
use stateplane_flow::fast::{
    Address, Entry, Extent, Found, Key, Settings, Table, layout, look_up, note, seen as look_at,
};

fn memory<A: Address>(slots: usize) -> Words {
    words(slots * A::SLOT_WORDS)
}

fn table<A: Address>(slots: usize) -> Table<Words, A> {
    Table::new(memory::<A>(slots), SEED).unwrap()
}

/// Entries end up to 2^16 ns early: round as the table does.
fn at(step: u64) -> Time {
    Time::from_nanos(step << 24)
}

/// A table that begins with eight of its slots, and the settings that tell readers.
fn growing<A: Address>(slots: usize) -> (Table<Words, A>, Words) {
    let (table, settings, _) = told::<A>(slots);
    (table, settings)
}

/// A table that grows, and what tells its readers.
fn told<A: Address>(slots: usize) -> (Table<Words, A>, Words, Extent<Words>) {
    let settings = words(layout::SETTINGS_WORDS);
    let extent = Settings::new(Arc::clone(&settings), SEED)
        .unwrap()
        .extent::<A>();
    let table = Table::growing(memory::<A>(slots), SEED, extent.clone(), 8).unwrap();
    (table, settings, extent)
}

/// The slots that readers look at.
fn in_use<'a, A: Address>(memory: &'a [AtomicU64], settings: &[AtomicU64]) -> &'a [AtomicU64] {
    let family = usize::from(A::PAIR_WORDS > 1);
    let mask = settings[layout::SETTINGS_IN_USE_WORD + family].load(Ordering::Acquire);
    let last = (memory.len() / A::SLOT_WORDS - 1) as u64 & mask;
    &memory[..(last as usize + 1) * A::SLOT_WORDS]
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, u32, u64),
    Update(u32, u32, u64),
    Prolong(u32, u64),
    Remove(u32),
    Packet(u32, usize),
    Sweep(usize),
    Pass(u64),
    Tend(usize),
    Clear,
}

const KEYS: u32 = 60;

fn ops() -> impl Strategy<Value = Op> {
    let keys = 0..KEYS;
    let ends = 1..40u64;
    prop_oneof![
        12 => (keys.clone(), any::<u32>(), ends.clone()).prop_map(|(k, e, s)| Op::Insert(k, e, s)),
        2 => (keys.clone(), any::<u32>(), ends.clone()).prop_map(|(k, e, s)| Op::Update(k, e, s)),
        2 => (keys.clone(), ends).prop_map(|(k, s)| Op::Prolong(k, s)),
        3 => keys.clone().prop_map(Op::Remove),
        4 => (keys, 0..2000usize).prop_map(|(k, n)| Op::Packet(k, n)),
        1 => (0..40usize).prop_map(Op::Sweep),
        3 => (0..4u64).prop_map(Op::Pass),
        2 => (0..20usize).prop_map(Op::Tend),
        1 => Just(Op::Clear),
    ]
}

/// What must be known of an entry, beside the entry.
#[derive(Clone, Copy)]
struct Known<A> {
    entry: Entry<A>,
    packets: u32,
    bytes: u64,
    last: Time,
}

/// A table and the map it must be.
struct Pair<A: Address, F> {
    table: Table<Words, A>,
    settings: Words,
    extent: Extent<Words>,
    map: HashMap<Key<A>, Known<A>>,
    now: u64,
    to_addr: F,
}

impl<A: Address, F: Fn(u32) -> A + Copy> Pair<A, F> {
    /// With so many slots, of which eight are in use at first.
    fn new(slots: usize, to_addr: F) -> Self {
        let (table, settings, extent) = told(slots);
        Pair {
            table,
            settings,
            extent,
            map: HashMap::new(),
            now: 1,
            to_addr,
        }
    }

    fn key(&self, number: u32) -> Key<A> {
        key(number, self.to_addr)
    }

    fn look_up(&self, key: &Key<A>) -> Found<A> {
        look_up(in_use::<A>(self.table.memory(), &self.settings), &SEED, key)
    }

    fn entry(&self, number: u32, span: u64) -> Entry<A> {
        entry(number, at(self.now + span), self.to_addr)
    }

    fn run(&mut self, op: Op) {
        let now = at(self.now);
        match op {
            Op::Insert(k, number, span) => self.insert(k, number, span),
            Op::Update(k, number, span) => {
                let (key, entry) = (self.key(k), self.entry(number, span));
                let known = self.map.get_mut(&key).map(|known| known.entry = entry);
                assert_eq!(self.table.update(&key, &entry), known.is_some());
            }
            Op::Prolong(k, span) => {
                let (key, until) = (self.key(k), at(self.now + span));
                let known = self
                    .map
                    .get_mut(&key)
                    .map(|known| known.entry.until = until);
                assert_eq!(self.table.prolong(&key, until), known.is_some());
            }
            Op::Remove(k) => {
                let key = self.key(k);
                assert_eq!(self.table.remove(&key), self.map.remove(&key).is_some());
            }
            Op::Packet(k, bytes) => {
                let key = self.key(k);
                if let Found::Entry(slot, _) = self.look_up(&key) {
                    note::<A>(self.table.memory(), slot, now, bytes);
                    let known = self.map.get_mut(&key).expect("an entry that was inserted");
                    known.packets += 1;
                    known.bytes += bytes as u64;
                    known.last = now;
                }
            }
            Op::Sweep(slots) => {
                let before = self.table.len();
                let freed = self.table.sweep(now, slots);
                assert_eq!(before - self.table.len(), freed);
                self.forget_ended();
                let ended = self.map.values().any(|known| known.entry.until <= now);
                let whole = slots >= self.table.pressure().in_use;
                assert!(!whole || !ended, "a whole round leaves nothing");
            }
            Op::Pass(steps) => self.now += steps,
            Op::Tend(slots) => self.table.tend(slots),
            Op::Clear => {
                self.table.clear();
                self.map.clear();
            }
        }
        self.check();
    }

    fn insert(&mut self, k: u32, number: u32, span: u64) {
        let (key, entry, now) = (self.key(k), self.entry(number, span), at(self.now));
        match self.table.insert(now, &key, &entry) {
            Ok(()) => {
                let known = self.map.entry(key).or_insert(Known {
                    entry,
                    packets: 0,
                    bytes: 0,
                    last: now,
                });
                known.entry = entry;
                self.forget_ended();
            }
            Err(full) => {
                assert!(
                    !self.map.contains_key(&key),
                    "what is there can be replaced"
                );
                let until = self.map[&full.idlest].entry.until;
                assert!(until > now, "an ended one is in nobody's way");
            }
        }
    }

    /// The table may have taken slots whose time was over, and no others.
    fn forget_ended(&mut self) {
        self.map.retain(|key, known| {
            let there = self.table.get(key).is_some();
            assert!(
                there || known.entry.until <= at(self.now),
                "a live entry is gone"
            );
            there
        });
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.map.len());
        for k in 0..KEYS {
            let key = self.key(k);
            let known = self.map.get(&key);
            let entry = known.map(|known| known.entry);
            assert_eq!(self.table.get(&key), entry);
            match self.look_up(&key) {
                Found::Entry(_, found) => assert_eq!(Some(found), entry),
                found => assert_eq!((found, entry), (Found::Nothing, None)),
            }
            let seen = self.table.seen(&key, at(self.now));
            let (flows, now) = (self.table.memory(), at(self.now));
            assert_eq!(look_at(flows, &self.extent, &SEED, &key, now), seen);
            let noted = seen.map(|seen| (seen.packets, seen.bytes, seen.idle));
            let idle = |known: &Known<A>| at(self.now).since(known.last);
            let wanted = known.map(|known| (known.packets, known.bytes, idle(known)));
            assert_eq!(noted, wanted);
        }
    }
}

/// Slots enough for all keys, or too few, or no more than at first.
fn compare<A: Address>(ops: Vec<Op>, slots: usize, to_addr: impl Fn(u32) -> A + Copy) {
    let mut pair = Pair::new(slots, to_addr);
    for op in ops {
        pair.run(op);
    }
}

proptest! {
    #[test]
    fn a_table_is_a_map_that_can_be_full(
        ops in prop::collection::vec(ops(), 1..200),
        slots in prop::sample::select(vec![8usize, 32, 256]),
    ) {
        compare(ops.clone(), slots, Ipv4Addr::from);
        compare(ops, slots, |n| Ipv6Addr::from(u128::from(n) << 64 | u128::from(n)));
    }
}

#[test]
fn the_sizes_that_do_not_fit_are_refused() {
    for words in [0, 8, 32, 65, 72, 96] {
        let memory = common::words(words);
        assert!(Table::<_, Ipv4Addr>::new(memory, SEED).is_err(), "{words}");
    }
}

#[test]
fn a_table_fills_to_its_nine_tenths_before_it_refuses() {
    const SLOTS: usize = 1 << 14;
    let mut table = table::<Ipv4Addr>(SLOTS);
    let mut inserted = 0;
    let refused = loop {
        let entry = entry4(inserted, at(1000));
        match table.insert(at(1), &key4(inserted), &entry) {
            Ok(()) => inserted += 1,
            Err(full) => break full,
        }
    };
    let load = f64::from(inserted) / SLOTS as f64;
    println!(
        "first refusal at a load of {load:.3}, {:?}",
        table.pressure()
    );
    assert!(load > 0.9, "{load}");
    assert_eq!(table.len(), inserted as usize);
    assert!((0..inserted).all(|n| table.get(&key4(n)) == Some(entry4(n, at(1000)))));
    // Who gives up the one that was offered gets in.
    assert!(table.remove(&refused.idlest));
    assert_eq!(
        table.insert(at(1), &key4(inserted), &entry4(1, at(1000))),
        Ok(())
    );
    // Or waits until others are over.
    assert_eq!(
        table.insert(at(1000), &key4(inserted + 1), &entry4(1, at(2000))),
        Ok(())
    );
}

/// What comes back to a NAT has few addresses and many ports.
#[test]
fn ports_of_one_address_fill_a_small_table_too() {
    for slots in [64, 1 << 12] {
        let mut table = table::<Ipv4Addr>(slots);
        let inserted = (0..).find(|&n: &u32| {
            let key = Key {
                source: Ipv4Addr::UNSPECIFIED,
                source_port: 0,
                destination: Ipv4Addr::new(192, 0, 2, 1),
                destination_port: 1024 + n as u16,
                ..key4(0)
            };
            table.insert(at(1), &key, &entry4(n, at(9))).is_err()
        });
        let load = f64::from(inserted.expect("it is bounded")) / slots as f64;
        println!("{slots} slots: first refusal at a load of {load:.3}");
        assert!(load > 0.75, "{slots} slots: {load}");
    }
}

/// What a table takes follows its flows; none is refused, whatever the rest of its memory.
#[test]
fn a_table_grows_with_its_flows_and_no_further() {
    let (mut table, settings) = growing::<Ipv4Addr>(1 << 14);
    assert_eq!(table.pressure().in_use, 8);
    for n in 0..8000u32 {
        table
            .insert(at(1), &key4(n), &entry4(n, at(1000)))
            .expect("there is room for twice as many");
        let pressure = table.pressure();
        assert!(pressure.in_use <= 4 * (n as usize + 4), "{pressure:?}");
    }
    let pressure = table.pressure();
    assert_eq!((pressure.used, pressure.in_use), (8000, 1 << 14));
    table.tend(1 << 15);
    assert!((0..8000).all(|n| {
        let found = look_up(
            in_use::<Ipv4Addr>(table.memory(), &settings),
            &SEED,
            &key4(n),
        );
        matches!(found, Found::Entry(_, entry) if entry == entry4(n, at(1000)))
    }));
    // No slot holds what another holds too.
    let tags = table.memory().chunks(layout::SLOT4_WORDS);
    let taken = tags.filter(|slot| slot[layout::KEY4_WORDS].load(Ordering::Relaxed) != 0);
    assert_eq!(taken.count(), 8000);
}

#[test]
fn the_idlest_of_those_in_the_way_is_offered() {
    let mut table = table::<Ipv4Addr>(8);
    for n in 0..8 {
        table
            .insert(at(1), &key4(n), &entry4(n, at(1000)))
            .expect("two buckets of four");
    }
    for n in (0..8).filter(|&n| n != 5) {
        let Found::Entry(slot, _) = look_up(table.memory(), &SEED, &key4(n)) else {
            panic!("{n} is there");
        };
        note::<Ipv4Addr>(table.memory(), slot, at(50), 60);
    }
    let full = table
        .insert(at(60), &key4(9), &entry4(9, at(1000)))
        .unwrap_err();
    assert_eq!(full.idlest, key4(5));
    assert_eq!(full.idle, Duration::from_nanos(59 << 24));
}

#[test]
fn a_flood_of_new_flows_is_refused_without_a_search_each_time() {
    let mut table = table::<Ipv4Addr>(1 << 10);
    let full = (0..).find(|&n| table.insert(at(1), &key4(n), &entry4(n, at(9))).is_err());
    let full = full.expect("it is bounded");
    let moved = table.pressure().moved;
    let refused = (full..full + 200).filter(|&n| {
        let refused = table.insert(at(1), &key4(n), &entry4(n, at(9))).is_err();
        // Who finds a free slot gets in all the same.
        assert_eq!(table.get(&key4(n)).is_none(), refused);
        refused
    });
    assert!(refused.count() > 50);
    assert_eq!(table.pressure().moved, moved, "nobody was moved in vain");
}

/// Readers look while the writer inserts, rewrites, moves and removes: what they get is whole.
#[test]
fn readers_never_get_a_mixture() {
    let mut table = table::<Ipv6Addr>(64);
    let memory = Arc::clone(table.memory());
    let over = AtomicBool::new(false);
    let to_addr = |n: u32| Ipv6Addr::from(u128::from(n) << 64 | u128::from(!n));
    let mut hits = 0u64;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut hits = 0u64;
                    while !over.load(Ordering::Relaxed) {
                        for k in 0..80 {
                            if let Found::Entry(slot, found) =
                                look_up(&memory, &SEED, &key(k, to_addr))
                            {
                                let number = found.action.guard.epoch;
                                // The number tells of the key it was written for.
                                assert_eq!(number % 80, k);
                                assert_eq!(found, entry(number, found.until, to_addr));
                                note::<Ipv6Addr>(&memory, slot, at(1), 1);
                                hits += 1;
                            }
                        }
                    }
                    hits
                })
            })
            .collect();
        let mut random = 1u32;
        for _ in 0..300_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let k = (random >> 8) % 80;
            let number = (random >> 15) / 80 * 80 + k;
            let key = key(k, to_addr);
            if random & 1 == 0 {
                table.remove(&key);
            } else {
                let _ = table.insert(at(1), &key, &entry(number, at(1000), to_addr));
            }
        }
        over.store(true, Ordering::Relaxed);
        hits += readers
            .into_iter()
            .map(|r| r.join().expect("no mixture"))
            .sum::<u64>();
    });
    println!("{hits} hits, {:?}", table.pressure());
    assert!(
        hits > 0 && table.pressure().moved > 0,
        "something was tried"
    );
}

/// Readers look while the slots double again and again: what they find is whole and no older than
/// what the writer had done before they began, be it a change or a removal.
#[test]
fn readers_of_a_growing_table_find_nothing_that_is_gone() {
    const ALL: u32 = 260;
    let to_addr = |n: u32| Ipv6Addr::from(u128::from(n) << 64 | u128::from(!n));
    let mut hits = 0u64;
    for round in 1..=30u32 {
        let (mut table, settings) = growing::<Ipv6Addr>(512);
        let memory = Arc::clone(table.memory());
        // The oldest version of each key that may be found.
        let least: Vec<AtomicU64> = (0..ALL).map(|_| AtomicU64::new(1)).collect();
        let (over, begun) = (AtomicBool::new(false), Barrier::new(3));
        let look = || {
            let (mut hits, mut goes_on) = (0u64, true);
            begun.wait();
            // Once more when nothing changes any more: it may be that they had no processor.
            while goes_on {
                goes_on = !over.load(Ordering::Relaxed);
                for k in 0..ALL {
                    let least = least[k as usize].load(Ordering::Acquire);
                    let slots = in_use::<Ipv6Addr>(&memory, &settings);
                    if let Found::Entry(slot, found) = look_up(slots, &SEED, &key(k, to_addr)) {
                        let number = found.action.guard.epoch;
                        assert_eq!(number % ALL, k);
                        assert_eq!(found, entry(number, found.until, to_addr));
                        let version = u64::from(number / ALL);
                        assert!(version >= least, "{version} of {k}, not {least}");
                        note::<Ipv6Addr>(&memory, slot, at(1), 1);
                        hits += 1;
                    }
                }
            }
            hits
        };
        hits += std::thread::scope(|scope| {
            let readers = [scope.spawn(look), scope.spawn(look)];
            let (mut random, mut version) = (round, 1u64);
            begun.wait();
            for turn in 0..4000u32 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // More and more keys, so that the slots double all the time.
                let k = (random >> 8) % (ALL.min(1 + turn / 10));
                let key = key(k, to_addr);
                version += 1;
                if random >> 4 & 3 == 0 {
                    table.remove(&key);
                } else {
                    let number = version as u32 * ALL + k;
                    let inserted = table.insert(at(1), &key, &entry(number, at(1000), to_addr));
                    inserted.expect("there is room");
                }
                least[k as usize].store(version, Ordering::Release);
                table.tend(random as usize >> 12 & 1);
            }
            over.store(true, Ordering::Relaxed);
            let hits = readers.map(|reader| reader.join().expect("nothing old, no mixture"));
            hits.into_iter().sum::<u64>()
        });
        assert_eq!(table.pressure().in_use, 512, "it doubled six times");
    }
    println!("{hits} hits");
    assert!(hits > 0, "something was tried");
}
