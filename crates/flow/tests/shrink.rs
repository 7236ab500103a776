//! A flow table that doubles and halves: against a plain map after each step, as those see it who read
//! the present number of slots and those who read the former one; and under readers on other threads.

mod common;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{SEED, Words, entry4, key4, words};
use proptest::prelude::*;
use stateplane_base::Time;
use stateplane_flow::fast::{Entry, Extent, Found, Settings, Table, layout, look_up, note, seen};

/// Slots in use at first, and never fewer.
const LEAST: usize = 8;
const NOW: Time = Time::from_nanos(1 << 24);
const LATER: Time = Time::from_nanos(1 << 40);

fn table(slots: usize) -> (Table<Words, Ipv4Addr>, Extent<Words>) {
    let settings = Settings::new(words(layout::SETTINGS_WORDS), SEED).unwrap();
    let extent = settings.extent::<Ipv4Addr>();
    let memory = words(slots * layout::SLOT4_WORDS);
    let table = Table::growing(memory, SEED, extent.clone(), LEAST).unwrap();
    (table, extent)
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, u32),
    Update(u32, u32),
    Prolong(u32),
    Remove(u32),
    /// A packet, for who looks at the slots in use now, or at as many as it read before.
    Packet(u32, bool),
    Tend(usize),
    /// All but so many go.
    Thin(usize),
}

const KEYS: u32 = 200;

fn ops() -> impl Strategy<Value = Op> {
    let keys = 0..KEYS;
    prop_oneof![
        20 => (keys.clone(), any::<u32>()).prop_map(|(k, n)| Op::Insert(k, n)),
        4 => (keys.clone(), any::<u32>()).prop_map(|(k, n)| Op::Update(k, n)),
        2 => keys.clone().prop_map(Op::Prolong),
        4 => keys.clone().prop_map(Op::Remove),
        6 => (keys, any::<bool>()).prop_map(|(k, late)| Op::Packet(k, late)),
        8 => (1..24usize).prop_map(Op::Tend),
        2 => (0..24usize).prop_map(Op::Thin),
    ]
}

/// A table and the map it must be: entries, and the packets that each saw.
struct Pair {
    table: Table<Words, Ipv4Addr>,
    extent: Extent<Words>,
    map: HashMap<u32, (Entry<Ipv4Addr>, u32)>,
    in_use: usize,
    /// It halved last, and has not begun to double since: there may be such who read the former number.
    halved: bool,
}

impl Pair {
    fn new(slots: usize) -> Self {
        let (table, extent) = table(slots);
        let map = HashMap::new();
        Self {
            table,
            extent,
            map,
            in_use: LEAST,
            halved: false,
        }
    }

    /// As one sees it who read the number of slots now, or when it was twice that.
    fn look_up(&self, k: u32, late: bool) -> Found<Ipv4Addr> {
        let flows = &self.table.memory()[..];
        let now = self.extent.in_use::<Ipv4Addr>(flows).len();
        let slots = match late && self.halved {
            true => 2 * now,
            false => now,
        };
        look_up(&flows[..slots], &SEED, &key4(k))
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Insert(k, number) => {
                if self
                    .table
                    .insert(NOW, &key4(k), &entry4(number, LATER))
                    .is_err()
                {
                    // In so small a table a bucket may be full before many slots are taken.
                    assert!(!self.map.contains_key(&k) && self.map.len() >= 4);
                    return;
                }
                let known = self.map.entry(k).or_insert((entry4(number, LATER), 0));
                known.0 = entry4(number, LATER);
            }
            Op::Update(k, number) => {
                let there = self.table.update(&key4(k), &entry4(number, LATER));
                let known = self.map.get_mut(&k);
                assert_eq!(
                    there,
                    known.map(|known| known.0 = entry4(number, LATER)).is_some()
                );
            }
            Op::Prolong(k) => {
                assert_eq!(
                    self.table.prolong(&key4(k), LATER),
                    self.map.contains_key(&k)
                );
            }
            Op::Remove(k) => {
                assert_eq!(self.table.remove(&key4(k)), self.map.remove(&k).is_some());
            }
            Op::Packet(k, late) => {
                if let Found::Entry(slot, _) = self.look_up(k, late) {
                    note::<Ipv4Addr>(self.table.memory(), slot, NOW, 1);
                    self.map.get_mut(&k).expect("what was inserted").1 += 1;
                }
            }
            Op::Tend(slots) => self.table.tend(slots),
            Op::Thin(left) => {
                let gone: Vec<u32> = self.map.keys().copied().skip(left).collect();
                gone.iter().for_each(|k| self.run(&Op::Remove(*k)));
            }
        }
        let now = self.table.pressure();
        self.halved = (self.halved || now.in_use < self.in_use)
            && now.in_use <= self.in_use
            && now.used < now.in_use / 8 * 5;
        self.in_use = now.in_use;
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.map.len());
        let flows = self.table.memory();
        for k in 0..KEYS {
            let known = self.map.get(&k);
            let wanted = known.map(|known| known.0);
            assert_eq!(self.table.get(&key4(k)), wanted);
            let found = |late| match self.look_up(k, late) {
                Found::Entry(_, found) => Some(found),
                Found::Nothing => None,
                Found::Busy => panic!("nobody writes"),
            };
            assert_eq!(found(false), wanted);
            // Who read the former number may find nothing, but nothing else.
            assert!(found(true).is_none_or(|found| Some(found) == wanted));
            let noted = seen(flows, &self.extent, &SEED, &key4(k), NOW);
            assert_eq!(noted, self.table.seen(&key4(k), NOW));
            assert_eq!(noted.map(|seen| seen.packets), known.map(|known| known.1));
        }
    }
}

proptest! {
    #[test]
    fn a_table_that_halves_is_still_a_map(
        ops in prop::collection::vec(ops(), 1..150),
        slots in prop::sample::select(vec![512usize, 1 << 12]),
    ) {
        let mut pair = Pair::new(slots);
        for op in &ops {
            pair.run(op);
            pair.check();
        }
    }
}

/// It follows its flows down as it followed them up, a few slots at a time, and not for a few.
#[test]
fn a_table_halves_with_its_flows_and_no_further() {
    let mut pair = Pair::new(1 << 12);
    for k in 0..KEYS {
        pair.run(&Op::Insert(k, k));
    }
    let in_use = |pair: &Pair| pair.table.pressure().in_use;
    pair.table.tend(1 << 14);
    let most = in_use(&pair);
    assert!(most >= KEYS as usize, "{most}");
    // A quarter is no reason: it would double again soon.
    pair.run(&Op::Thin(most / 8 + 1));
    pair.table.tend(1 << 14);
    assert_eq!(in_use(&pair), most);
    pair.run(&Op::Thin(3));
    let (mut before, mut steps) = (most, 0);
    while in_use(&pair) > 3 * 8 {
        pair.table.tend(1);
        pair.check();
        steps += 1;
        assert!([before, before / 2].contains(&in_use(&pair)), "by halves");
        before = in_use(&pair);
    }
    assert!(steps >= most, "{steps} steps: a slot each");
    pair.run(&Op::Thin(0));
    pair.table.tend(1 << 14);
    assert_eq!(in_use(&pair), LEAST);
    let taken = pair.table.memory().chunks(layout::SLOT4_WORDS);
    let taken = taken.filter(|slot| slot[layout::KEY4_WORDS].load(Ordering::Relaxed) != 0);
    assert_eq!(taken.count(), 0, "nothing is left above");
}

/// Readers look while keys come and go in waves: what they find is whole and no older than what the
/// writer had done before they began, be it a change or a removal.
#[test]
fn readers_of_a_halving_table_find_nothing_that_is_gone() {
    const ALL: u32 = 300;
    let (mut table, extent) = table(1 << 10);
    let memory = Arc::clone(table.memory());
    // The oldest version of each key that may be found.
    let least: Vec<AtomicU64> = (0..ALL).map(|_| AtomicU64::new(0)).collect();
    let over = AtomicBool::new(false);
    let look = || {
        let mut hits = 0u64;
        while !over.load(Ordering::Relaxed) {
            for k in 0..ALL {
                let least = least[k as usize].load(Ordering::Acquire);
                let slots = extent.in_use::<Ipv4Addr>(&memory);
                if let Found::Entry(slot, found) = look_up(slots, &SEED, &key4(k)) {
                    let number = found.action.guard.epoch;
                    assert_eq!((number % ALL, found), (k, entry4(number, LATER)));
                    let version = u64::from(number / ALL);
                    assert!(version >= least, "{version} of {k}, not {least}");
                    note::<Ipv4Addr>(&memory, slot, NOW, 1);
                    hits += 1;
                }
            }
        }
        hits
    };
    let (mut halved, mut in_use) = (0, LEAST);
    let hits = std::thread::scope(|scope| {
        let readers = [scope.spawn(look), scope.spawn(look)];
        let (mut random, mut version) = (1u32, 1u64);
        for turn in 0..120_000u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Up for a while, then down.
            let comes = turn / 1500 % 2 == 0;
            let k = (random >> 8) % ALL;
            version += 1;
            if comes && random >> 4 & 3 != 0 {
                let number = version as u32 * ALL + k;
                table
                    .insert(NOW, &key4(k), &entry4(number, LATER))
                    .expect("there is room");
            } else {
                table.remove(&key4(k));
            }
            least[k as usize].store(version, Ordering::Release);
            table.tend(random as usize >> 12 & 3);
            let now = table.pressure().in_use;
            halved += u32::from(now < in_use);
            in_use = now;
        }
        over.store(true, Ordering::Relaxed);
        let hits = readers.map(|reader| reader.join().expect("nothing old, no mixture"));
        hits.into_iter().sum::<u64>()
    });
    println!("{hits} hits, halved {halved} times");
    assert!(hits > 0 && halved > 40, "something was tried: {halved}");
}
