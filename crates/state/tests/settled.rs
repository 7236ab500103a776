//! Copies of tables show what is final, and all of it, whatever was executed in vain.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stateplane_base::LogTime;
use stateplane_state::settled::{Image, Position, Settled};
use stateplane_state::{
    Application, Limits, Ordered, ProcedureId, Refusal, Registry, Store, Table, TableSpec, op,
};

const NAMES: [&str; 2] = ["hashed", "ordered"];

type Tables = [BTreeMap<Vec<u8>, Vec<u8>>; 2];

/// What an operation does, in the bytes of its arguments.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Put {
        table: u8,
        key: u16,
        value: u8,
    },
    /// Put, and taken away again by a timer.
    Hold {
        table: u8,
        key: u16,
        value: u8,
    },
    Remove {
        table: u8,
        key: u16,
    },
    Clear {
        table: u8,
    },
    /// Puts many rows.
    Fill {
        table: u8,
        first: u16,
    },
    /// Puts and clears, and then refuses.
    Refuse {
        table: u8,
        key: u16,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    let key = 0u16..40;
    let table = 0u8..2;
    prop_oneof![
        6 => (table.clone(), key.clone(), any::<u8>())
            .prop_map(|(table, key, value)| Deed::Put { table, key, value }),
        2 => (table.clone(), key.clone(), any::<u8>())
            .prop_map(|(table, key, value)| Deed::Hold { table, key, value }),
        4 => (table.clone(), key.clone()).prop_map(|(table, key)| Deed::Remove { table, key }),
        1 => table.clone().prop_map(|table| Deed::Clear { table }),
        1 => (table.clone(), key.clone()).prop_map(|(table, first)| Deed::Fill { table, first }),
        1 => (table, key).prop_map(|(table, key)| Deed::Refuse { table, key }),
    ]
}

impl Deed {
    fn encode(self) -> Vec<u8> {
        let (kind, table, key, value) = match self {
            Deed::Put { table, key, value } => (0, table, key, value),
            Deed::Hold { table, key, value } => (1, table, key, value),
            Deed::Remove { table, key } => (2, table, key, 0),
            Deed::Clear { table } => (3, table, 0, 0),
            Deed::Fill { table, first } => (4, table, first, 0),
            Deed::Refuse { table, key } => (5, table, key, 0),
        };
        let [high, low] = key.to_be_bytes();
        op::encode(ProcedureId::of("do", 1), &[kind, table, high, low, value])
    }
}

/// A long value now and then: those lie elsewhere.
fn row(value: u8) -> Vec<u8> {
    vec![value; 1 + usize::from(value)]
}

fn store() -> Store {
    let mut registry = Registry::empty();
    let hashed: Table<[u8], [u8]> = registry.table(TableSpec::new(NAMES[0], 4096)).unwrap();
    let ordered: Table<[u8], [u8], Ordered> = registry
        .ordered_table(TableSpec::new(NAMES[1], 4096))
        .unwrap();
    let over = registry
        .timer("over", move |tx, _, key| {
            if key[0] == 0 {
                tx.remove(hashed, &key[1..]);
            } else {
                tx.remove(ordered, &key[1..]);
            }
            Ok(())
        })
        .unwrap();
    registry
        .register("do", 1, move |tx, arguments, _| {
            let &[kind, table, high, low, value] = arguments else {
                return Err(Refusal::BadArguments);
            };
            let first = u16::from_be_bytes([high, low]);
            let keys = match kind {
                4 => first..first + 900,
                _ => first..first + 1,
            };
            for key in keys {
                let key = key.to_be_bytes();
                match (kind, table) {
                    (2, 0) => drop(tx.remove(hashed, &key[..])),
                    (2, _) => drop(tx.remove(ordered, &key[..])),
                    (3, 0) => tx.clear(hashed),
                    (3, _) => tx.clear(ordered),
                    (_, 0) => drop(tx.put(hashed, &key[..], &row(value)[..])?),
                    (_, _) => drop(tx.put(ordered, &key[..], &row(value)[..])?),
                }
                if kind == 1 {
                    let at = tx.now() + core::time::Duration::from_millis(3);
                    tx.arm(over, &[&[table][..], &key].concat()[..], at)?;
                }
            }
            if kind == 5 {
                tx.clear(hashed);
                return Err(Refusal::BadArguments);
            }
            Ok(())
        })
        .unwrap();
    Store::new(registry, Limits::default())
}

fn execute(store: &mut Store, slot: u64, deed: Deed) {
    store.execute(LogTime::from_millis(slot), &deed.encode(), &mut Vec::new());
}

/// A copy, and what of it may be read.
#[derive(Default)]
struct Copy {
    working: Tables,
    shown: Option<(Position, Tables)>,
}

impl Image for Copy {
    fn begin(&mut self) {
        self.working = Tables::default();
    }
    fn put(&mut self, table: usize, key: &[u8], value: &[u8]) {
        self.working[table].insert(key.to_vec(), value.to_vec());
    }
    fn remove(&mut self, table: usize, key: &[u8]) {
        self.working[table].remove(key);
    }
    fn clear(&mut self, table: usize) {
        self.working[table].clear();
    }
    fn show(&mut self, at: Position) {
        self.shown = Some((at, self.working.clone()));
    }
}

/// The tables after so many operations of the true log, by executing them alone.
fn truth(log: &[Deed]) -> Vec<Tables> {
    let mut model = store();
    model.share(&NAMES).unwrap();
    let (mut settled, mut copy) = (Settled::default(), Copy::default());
    let mut all = Vec::new();
    for slot in 0..=log.len() as u64 {
        if slot > 0 {
            execute(&mut model, slot, log[slot as usize - 1]);
        }
        // From nothing each time: what this checks is not used to check itself.
        model.share(&NAMES).unwrap();
        let at = Position {
            slot,
            time: model.now(),
        };
        assert!(settled.turn(&mut model, at, slot, usize::MAX, &mut copy));
        all.push(copy.working.clone());
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    /// Executes the next operations of the true log.
    Follow(u8),
    /// Executes something that will not survive.
    Speculate(Deed),
    /// So many more operations are known to be final.
    Settle(u8),
    /// The copy is brought up to date, taking so many rows.
    Turn(u16),
    /// A snapshot of the true log, so many operations ahead of what is final.
    Install(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6).prop_map(Step::Follow),
        2 => deed().prop_map(Step::Speculate),
        3 => (1u8..6).prop_map(Step::Settle),
        5 => (1u16..700).prop_map(Step::Turn),
        1 => (0u8..8).prop_map(Step::Install),
    ]
}

/// A replica that may run ahead, and on the wrong track.
struct Replica {
    store: Store,
    /// Its slot; operations up to `good` of it are those of the true log.
    executed: u64,
    good: u64,
    settled: u64,
}

impl Replica {
    fn vain(&self) -> bool {
        self.executed > self.good
    }

    fn install(&mut self, log: &[Deed], slot: u64) {
        let mut other = store();
        for (at, deed) in (1..=slot).zip(log) {
            execute(&mut other, at, *deed);
        }
        let mut incoming = self.store.incoming();
        Store::take(&mut incoming, &other.snapshot()).unwrap();
        self.store.install(incoming).unwrap();
        (self.executed, self.good) = (slot, slot);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn only_what_is_final_is_shown(
        log in proptest::collection::vec(deed(), 60),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let truth = truth(&log);
        let mut replica = Replica { store: store(), executed: 0, good: 0, settled: 0 };
        replica.store.share(&NAMES).unwrap();
        let (mut settled, mut copy) = (Settled::default(), Copy::default());
        for step in steps {
            match step {
                Step::Follow(count) if !replica.vain() => {
                    for _ in 0..count {
                        if let Some(deed) = log.get(replica.executed as usize) {
                            replica.executed += 1;
                            replica.good += 1;
                            execute(&mut replica.store, replica.executed, *deed);
                        }
                    }
                }
                // What is known to be final is executed before anything else.
                Step::Speculate(deed) if replica.executed >= replica.settled => {
                    replica.executed += 1;
                    execute(&mut replica.store, replica.executed, deed);
                }
                // Nothing is final here that was executed otherwise: before that a replica
                // takes another state.
                Step::Settle(count) => {
                    let most = if replica.vain() { replica.good } else { log.len() as u64 };
                    replica.settled = (replica.settled + u64::from(count)).min(most).max(replica.settled);
                }
                Step::Install(ahead) => {
                    let slot = (replica.settled + u64::from(ahead)).min(log.len() as u64);
                    replica.install(&log, slot);
                }
                Step::Turn(rows) => {
                    let at = Position { slot: replica.executed, time: replica.store.now() };
                    let new = settled.turn(&mut replica.store, at, replica.settled, rows.into(), &mut copy);
                    let shown = copy.shown.as_ref().map(|(at, _)| *at);
                    prop_assert_eq!(settled.shown(), shown);
                    prop_assert!(!new || shown.is_some());
                    if let Some((at, tables)) = &copy.shown {
                        prop_assert!(at.slot <= replica.settled, "{:?} is not final", at);
                        prop_assert_eq!(tables, &truth[at.slot as usize]);
                    }
                }
                Step::Follow(_) | Step::Speculate(_) => {}
            }
        }
        // What is quiet is shown to its end.
        replica.install(&log, log.len() as u64);
        replica.settled = log.len() as u64;
        let at = Position { slot: replica.executed, time: replica.store.now() };
        let mut turns = 0;
        // What was held back is forgotten with the first turn, also if as much was shown before.
        while turns == 0 || settled.is_taking() || settled.shown() != Some(at) {
            settled.turn(&mut replica.store, at, replica.settled, 500, &mut copy);
            turns += 1;
            prop_assert!(turns < 100, "it does not come to an end");
        }
        prop_assert_eq!(&copy.shown.expect("it was shown").1, truth.last().expect("a log"));
        prop_assert_eq!(settled.held(), 0);
    }
}

#[test]
fn a_name_that_no_table_has_is_told() {
    assert_eq!(store().share(&["hashed", "hushed"]), Err("hushed"));
}

#[test]
fn a_table_may_be_cleared_while_it_is_taken() {
    let mut store = store();
    let fill = |first| Deed::Fill { table: 0, first };
    execute(&mut store, 1, fill(0));
    execute(&mut store, 2, fill(900));
    store.share(&NAMES).unwrap();
    let (mut settled, mut copy) = (Settled::default(), Copy::default());
    let at = |slot, store: &Store| Position {
        slot,
        time: store.now(),
    };
    let before = at(2, &store);
    settled.turn(&mut store, before, 2, 600, &mut copy);
    assert!(settled.is_taking(), "it has more parts than that");
    execute(&mut store, 3, Deed::Clear { table: 0 });
    let put = Deed::Put {
        table: 0,
        key: 7,
        value: 1,
    };
    execute(&mut store, 4, put);
    let after = at(4, &store);
    while settled.shown() != Some(after) {
        settled.turn(&mut store, after, 4, 600, &mut copy);
    }
    let (_, [hashed, _]) = copy.shown.expect("it is shown");
    assert_eq!(hashed, BTreeMap::from([(vec![0, 7], row(1))]));
}
