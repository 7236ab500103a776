//! Snapshots taken piece by piece while the store goes on: they are those of the moment they began.

use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::LogTime;
use stateplane_state::{
    Application, Limits, Ordered, ProcedureId, Refusal, Registry, SnapshotError, Store, Table,
    TableSpec, Tx, op,
};
use zerocopy::byteorder::network_endian::U16;

#[derive(Clone, Copy)]
struct Tables {
    hashed: Table<U16, [u8]>,
    ordered: Table<U16, [u8], Ordered>,
}

impl Tables {
    fn put(self, tx: &mut Tx<'_>, which: u8, key: u16, value: &[u8]) -> Result<(), Refusal> {
        let key = U16::new(key);
        match which {
            0 => tx.put(self.hashed, &key, value).map(drop),
            _ => tx.put(self.ordered, &key, value).map(drop),
        }
    }

    fn remove(self, tx: &mut Tx<'_>, which: u8, key: u16) {
        let key = U16::new(key);
        match which {
            0 => tx.remove(self.hashed, &key),
            _ => tx.remove(self.ordered, &key),
        };
    }

    fn clear(self, tx: &mut Tx<'_>, which: u8) {
        match which {
            0 => tx.clear(self.hashed),
            _ => tx.clear(self.ordered),
        }
    }
}

/// What an operation does, one byte each, its table and its key.
const PUT: u8 = 0;
const REMOVE: u8 = 1;
/// Clears a table, sets rows, clears it again and sets others, all in one.
const REWRITE: u8 = 2;
const CLEAR: u8 = 3;
const ARM: u8 = 4;
/// As above, but refused in the end.
const REFUSED: u8 = 0x80;

fn registry() -> Registry {
    let mut registry = Registry::empty();
    let tables = Tables {
        hashed: registry.table(TableSpec::new("hashed", 1 << 16)).unwrap(),
        ordered: registry
            .ordered_table(TableSpec::new("ordered", 1 << 16))
            .unwrap(),
    };
    // Fired timers change rows, too.
    let timer = registry
        .timer("touch", move |tx, _, key| {
            let key = u16::from_be_bytes([key[0], key[1]]);
            tables.put(tx, (key % 2) as u8, key, b"touched")
        })
        .unwrap();
    registry
        .register("do", 1, move |tx, arguments, _| {
            let [what, which, k0, k1, extra] = *arguments else {
                return Err(Refusal::BadArguments);
            };
            let key = u16::from_be_bytes([k0, k1]);
            match what & !REFUSED {
                PUT => tables.put(tx, which, key, &vec![extra; usize::from(extra % 70)])?,
                REMOVE => tables.remove(tx, which, key),
                REWRITE => {
                    for round in 0..2 {
                        tables.remove(tx, which, key);
                        tables.clear(tx, which);
                        for n in 0..30 {
                            tables.put(tx, which, key.wrapping_add(n), &[round])?;
                        }
                    }
                    tables.remove(tx, which, key);
                }
                CLEAR => tables.clear(tx, which),
                _ => {
                    let span = Duration::from_millis(u64::from(extra) * 8);
                    let id = tx.arm(timer, &arguments[2..4], tx.now() + span)?;
                    let other = tx.arm(timer, &arguments[2..4], tx.now() + span)?;
                    assert!(tx.disarm(if extra % 2 == 0 { id } else { other }));
                }
            }
            if what & REFUSED == 0 {
                Ok(())
            } else {
                Err(Refusal::NotFound)
            }
        })
        .unwrap();
    registry
}

struct Machine {
    store: Store,
    now: u64,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let store = Store::with_seed(registry(), Limits::default(), [seed, 7]);
        Self { store, now: 0 }
    }

    fn step(&mut self, what: u8, which: u8, key: u16, extra: u8) {
        self.now += 1;
        let [k0, k1] = key.to_be_bytes();
        let arguments = [what, which, k0, k1, extra];
        let op = op::encode(ProcedureId::of("do", 1), &arguments);
        let at = LogTime::from_millis(self.now);
        self.store.execute(at, &op, &mut Vec::new());
    }

    /// Several parts, batches and piles of everything.
    fn fill(&mut self, rows: u16) {
        for n in 0..rows {
            self.step(PUT, 0, n.wrapping_mul(7919), n as u8);
            self.step(PUT, 1, n.wrapping_mul(7919), n as u8);
            self.step(ARM, 0, n, 255);
        }
    }
}

type Step = (u8, u8, u16, u8);

fn steps() -> impl Strategy<Value = Vec<(usize, Vec<Step>)>> {
    let what = prop_oneof![
        20 => Just(PUT),
        10 => Just(REMOVE),
        10 => Just(ARM),
        1 => Just(REWRITE),
        1 => Just(CLEAR),
        1 => Just(REWRITE | REFUSED),
        1 => Just(CLEAR | REFUSED),
        2 => Just(PUT | REFUSED),
    ];
    let step = (what, 0..2u8, 0..20_000u16, any::<u8>());
    let burst = (1..700usize, prop::collection::vec(step, 0..40));
    prop::collection::vec(burst, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_the_snapshot_of_the_moment_they_began(
        rows in 0..2_000u16, bursts in steps(), seed in any::<u64>(), cut in 1..5_000usize,
    ) {
        let mut machine = Machine::new(seed);
        machine.fill(rows);
        let (expected, digest) = (machine.store.snapshot(), machine.store.digest());
        let mut pieces = Vec::new();
        prop_assert_eq!(machine.store.begin_snapshot(), expected.len() as u64);
        let mut complete = false;
        for (rows, burst) in &bursts {
            for (what, which, key, extra) in burst {
                machine.step(*what, *which, *key, *extra);
            }
            complete = complete || machine.store.continue_snapshot(*rows, &mut pieces);
        }
        while !complete {
            complete = machine.store.continue_snapshot(1, &mut pieces);
        }
        prop_assert!(pieces == expected, "the pieces differ from the whole");
        while !machine.store.tidy(100) {}
        machine.store.check();

        // It is taken in as it comes, however it is cut.
        let mut other = Machine::new(!seed);
        let mut incoming = other.store.incoming();
        for piece in pieces.chunks(cut) {
            Store::take(&mut incoming, piece).unwrap();
        }
        other.store.install(incoming).unwrap();
        prop_assert_eq!(other.store.digest(), digest);
        other.store.check();
        prop_assert!(other.store.snapshot() == expected);
    }

    #[test]
    fn a_snapshot_that_is_cut_short_or_goes_on_is_refused(end in 0..9_000usize, more in any::<bool>()) {
        let mut machine = Machine::new(1);
        machine.fill(40);
        let mut bytes = machine.store.snapshot();
        bytes.truncate(end.min(bytes.len() - 1));
        if more {
            bytes = machine.store.snapshot();
            bytes.push(0);
        }
        let digest = machine.store.digest();
        prop_assert!(machine.store.restore(&bytes).is_err());
        prop_assert_eq!(machine.store.digest(), digest);
    }
}

#[test]
fn a_snapshot_begun_anew_forgets_the_former() {
    let mut machine = Machine::new(3);
    machine.fill(900);
    let mut pieces = Vec::new();
    machine.store.begin_snapshot();
    assert!(!machine.store.continue_snapshot(600, &mut pieces));
    machine.step(PUT, 0, 1, 1);
    pieces.clear();
    machine.store.begin_snapshot();
    machine.step(PUT, 0, 2, 2);
    machine.store.abandon_snapshot();
    machine.store.begin_snapshot();
    let expected = machine.store.snapshot();
    while !machine.store.continue_snapshot(64, &mut pieces) {
        machine.step(CLEAR, 0, 0, 0);
    }
    assert!(pieces == expected);
}

#[test]
fn who_writes_much_meanwhile_helps_collecting() {
    let mut machine = Machine::new(4);
    for n in 0..60_000 {
        machine.step(PUT, 0, n, 1);
        machine.step(PUT, 1, n, 1);
    }
    machine.store.begin_snapshot();
    let expected = machine.store.snapshot();
    let mut pieces = Vec::new();
    for n in 0..60_000 {
        machine.step(PUT, 0, n, 2);
        machine.step(PUT, 1, n, 2);
    }
    // All is collected: what is left is to write it.
    // To collect and to write all of it takes 240 calls. No more than 65,536 old versions are
    // kept, so the writers have collected the rows of the others.
    let calls = (0..).take_while(|_| !machine.store.continue_snapshot(1_000, &mut pieces));
    assert!(calls.count() < 200, "they did not help");
    assert!(pieces == expected);
    assert_eq!(
        machine.store.restore(&pieces[1..]),
        Err(SnapshotError::NotASnapshot)
    );
}
