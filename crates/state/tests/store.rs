//! What a store promises to those who write procedures, and to whoever sends it bytes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use stateplane_base::LogTime;
use stateplane_state::builtin::kv;
use stateplane_state::op::{self, Operation, ReplyError};
use stateplane_state::{
    Application, Limits, ProcedureId, Refusal, Registry, SnapshotError, Store, TableSpec,
};

fn ms(ms: u64) -> LogTime {
    LogTime::from_millis(ms)
}

fn call(store: &mut Store, at: LogTime, name: &str, arguments: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut reply = Vec::new();
    store.execute(
        at,
        &op::encode(ProcedureId::of(name, 1), arguments),
        &mut reply,
    );
    match op::decode_reply(&reply) {
        Ok(body) => Ok(body.to_vec()),
        Err(ReplyError::Refused(refusal)) => Err(refusal),
        Err(ReplyError::Malformed) => panic!("malformed reply"),
    }
}

/// What fired: the log's time in the handler, and the key.
type Fired = Arc<Mutex<Vec<(LogTime, Vec<u8>)>>>;

/// `arm` arms a timer in `arguments[0]` milliseconds; every tenth arms itself once more.
fn timer_store() -> (Store, Fired) {
    let fired = Fired::default();
    let mut registry = Registry::empty();
    let log = fired.clone();
    let kind = registry
        .timer("note", move |tx, _, key| {
            log.lock().unwrap().push((tx.now(), key.to_vec()));
            Ok(())
        })
        .unwrap();
    registry
        .register("arm", 1, move |tx, arguments, _| {
            let deadline = tx.now() + Duration::from_millis(arguments[0].into());
            tx.arm(kind, &arguments[1..], deadline).map(drop)
        })
        .unwrap();
    registry
        .register("arm_then_disarm", 1, move |tx, arguments, _| {
            let id = tx.arm(kind, arguments, tx.now())?;
            assert!(tx.disarm(id));
            assert!(!tx.disarm(id));
            Ok(())
        })
        .unwrap();
    registry
        .register("arm_then_refuse", 1, move |tx, arguments, _| {
            tx.arm(kind, arguments, tx.now())?;
            Err(Refusal::custom(1))
        })
        .unwrap();
    (
        Store::new(
            registry,
            Limits {
                timers: 4,
                ..Limits::default()
            },
        ),
        fired,
    )
}

#[test]
fn timers_fire_by_deadline_then_age_and_each_at_its_own_time() {
    let (mut store, fired) = timer_store();
    for arguments in [b"\x07a", b"\x05b", b"\x05c", b"\x09d"] {
        call(&mut store, ms(100), "arm", arguments).unwrap();
    }
    assert_eq!(store.next_timer(), Some(ms(105)));
    assert_eq!(
        call(&mut store, ms(104), "arm", b"\x01e"),
        Err(Refusal::TimersFull)
    );
    // Due at the operation's own time: fires before it, and so makes room for it.
    call(&mut store, ms(107), "arm", b"\x00f").unwrap();
    let expected = [(105, b"b"), (105, b"c"), (107, b"a")].map(|(at, key)| (ms(at), key.to_vec()));
    assert_eq!(*fired.lock().unwrap(), expected);
    store.check();

    // A deadline in the past is one nanosecond ahead; time that runs backwards stands still.
    call(&mut store, ms(50), "arm", b"\x01g").unwrap();
    assert_eq!(store.now(), ms(107));
    call(&mut store, ms(200), "arm", b"\x01h").unwrap();
    let keys: Vec<u8> = fired.lock().unwrap()[3..]
        .iter()
        .map(|fired| fired.1[0])
        .collect();
    assert_eq!(keys, b"fgd");
    assert_eq!(
        fired.lock().unwrap()[3].0,
        ms(107) + Duration::from_nanos(1)
    );
}

#[test]
fn timers_of_refused_or_undone_calls_never_fire() {
    let (mut store, fired) = timer_store();
    let before = store.snapshot();
    assert_eq!(
        call(&mut store, LogTime::ZERO, "arm_then_refuse", b"x"),
        Err(Refusal::custom(1))
    );
    assert_eq!(store.snapshot(), before);
    call(&mut store, ms(1), "arm_then_disarm", b"y").unwrap();
    call(&mut store, LogTime::MAX, "nothing", b"").unwrap_err();
    // The end of time: nothing can be later, so nothing is armed.
    assert_eq!(
        call(&mut store, LogTime::MAX, "arm", b"\x00z"),
        Err(Refusal::OutOfRange)
    );
    assert!(fired.lock().unwrap().is_empty());
}

/// `scribble` changes everything it can and then refuses if its argument says so.
fn scribbler(limits: Limits) -> Store {
    let mut registry = Registry::empty();
    let hashed = registry
        .table::<[u8], [u8]>(TableSpec::new("hashed", 1000))
        .unwrap();
    let ordered = registry
        .ordered_table::<[u8; 1], [u8; 1]>(TableSpec::new("ordered", 4))
        .unwrap();
    let kind = registry.timer("nothing", |_, _, _| Ok(())).unwrap();
    let refusing = registry
        .timer("refusing", move |tx, _, key| {
            tx.put(hashed, key, key)?;
            Err(Refusal::NotFound)
        })
        .unwrap();
    registry
        .register("scribble", 1, move |tx, arguments, reply| {
            let (&refuse, steps) = arguments.split_first().ok_or(Refusal::BadArguments)?;
            for step in steps {
                reply.push(*step);
                let key = [step % 8];
                match step / 32 {
                    0 => drop(tx.put(hashed, &key[..], &[*step; 100][..])?),
                    1 => drop(tx.put(hashed, &key[..], arguments)?),
                    2 => drop(tx.remove(hashed, &key[..])),
                    3 => drop(tx.put(ordered, &key, &[*step])?),
                    4 => drop(tx.remove(ordered, &key)),
                    5 => {
                        let id = tx.arm(kind, &key, tx.now() + Duration::from_millis(5))?;
                        if step % 2 == 0 {
                            tx.disarm(id);
                        }
                    }
                    6 => drop(tx.arm(refusing, &key, tx.now())?),
                    _ => return Err(Refusal::custom(step % 32)),
                }
            }
            if refuse == 0 {
                Ok(())
            } else {
                Err(Refusal::custom(0))
            }
        })
        .unwrap();
    Store::new(registry, limits)
}

proptest! {
    #[test]
    fn a_refused_operation_leaves_no_trace(
        calls in prop::collection::vec((0..4u64, prop::collection::vec(any::<u8>(), 0..40)), 1..60)
    ) {
        let limits = Limits { memory_bytes: 2000, timers: 6, reply_bytes: 30, ..Limits::default() };
        let mut store = scribbler(limits);
        let mut now = 0;
        for (wait, arguments) in calls {
            now += wait;
            // Let timers fire first, so that only the operation can have changed anything.
            let _ = call(&mut store, ms(now), "nothing", b"");
            let (before, digest) = (store.snapshot(), store.digest());
            let refused = call(&mut store, ms(now), "scribble", &arguments).is_err();
            store.check();
            if refused {
                prop_assert_eq!(&before, &store.snapshot());
                prop_assert_eq!(digest, store.digest());
            }
        }
    }

    #[test]
    fn any_bytes_are_answered(
        calls in prop::collection::vec(
            (any::<u64>(), 0..12usize, prop::collection::vec(any::<u8>(), 0..60)), 1..30)
    ) {
        let names = [
            "kv.get", "kv.put", "kv.delete", "kv.cas", "counter.add", "counter.get", "queue.push",
            "queue.pop", "queue.len", "pool.create", "pool.take", "pool.give",
        ];
        let mut store = Store::new(Registry::builtin(), Limits::default());
        let mut reply = Vec::new();
        for (at, name, bytes) in calls {
            let at = LogTime::from_nanos(at);
            store.execute(at, &bytes, &mut reply);
            prop_assert!(!reply.is_empty());
            let op = op::encode(ProcedureId::of(names[name], 1), &bytes);
            let (before, now) = (store.digest(), store.now());
            let mut read = Vec::new();
            prop_assert!(store.read(now, &op, &mut read), "nothing is due");
            prop_assert_eq!(store.digest(), before, "a read leaves no trace");
            if read != [Refusal::NotARead.code()] {
                store.execute(now, &op, &mut reply);
                prop_assert_eq!((&reply, store.digest()), (&read, before));
            }
            store.execute(at, &op, &mut reply);
            prop_assert_ne!(&reply, &[Refusal::UnknownProcedure.code()]);
            store.check();
        }
    }

    #[test]
    fn damaged_snapshots_are_refused_and_change_nothing(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let good = filled().snapshot();
        let mut store = filled();
        let mut bad = good.clone();
        bad[at.index(good.len())] ^= flip;
        prop_assert!(store.restore(&bad).is_err());
        prop_assert!(store.restore(&good[..at.index(good.len())]).is_err());
        prop_assert_eq!(store.snapshot(), good);
    }

    #[test]
    fn any_bytes_may_be_offered_as_a_snapshot(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut store = filled();
        prop_assert!(store.restore(&bytes).is_err());
    }
}

fn filled() -> Store {
    let mut store = Store::new(Registry::builtin(), Limits::default());
    let mut reply = Vec::new();
    for n in 0..5u8 {
        let ttl = (n % 2 == 0).then(|| Duration::from_secs(1));
        let put = kv::Put {
            key: &[n],
            value: &[n; 60],
            ttl,
        };
        store.execute(ms(n.into()), &put.encode(), &mut reply);
    }
    store
}

#[test]
fn snapshots_of_other_configurations_and_sizes_are_refused() {
    let bytes = filled().snapshot();
    let mut registry = Registry::builtin();
    registry.depend_on(1);
    let mut other = Store::new(registry, Limits::default());
    assert_eq!(
        other.restore(&bytes),
        Err(SnapshotError::OtherConfiguration)
    );

    let limits = Limits {
        rows: 4,
        ..Limits::default()
    };
    let mut small = Store::new(Registry::builtin(), limits);
    assert_eq!(small.restore(&bytes), Err(SnapshotError::TooLarge));

    let mut newer = bytes.clone();
    newer[5] = 2;
    let mut store = Store::new(Registry::builtin(), Limits::default());
    assert_eq!(
        store.restore(&newer),
        Err(SnapshotError::Version { found: 2 })
    );
    assert_eq!(store.restore(b""), Err(SnapshotError::NotASnapshot));
}

#[test]
fn every_limit_is_an_explicit_refusal() {
    let limits = Limits {
        op_bytes: 200,
        reply_bytes: 60,
        key_bytes: 10,
        value_bytes: 70,
        rows: 2,
        timers: 1,
        memory_bytes: 360,
    };
    let mut store = Store::new(Registry::builtin(), limits);
    let mut put = |key: &[u8], value: &[u8], ttl: Option<Duration>| {
        let mut reply = Vec::new();
        store.execute(
            LogTime::ZERO,
            &kv::Put { key, value, ttl }.encode(),
            &mut reply,
        );
        kv::Put::decode_reply(&reply).map_err(|error| match error {
            ReplyError::Refused(refusal) => refusal,
            ReplyError::Malformed => panic!("malformed"),
        })
    };
    let second = Some(Duration::from_secs(1));
    assert_eq!(put(b"k", &[0; 190], None), Err(Refusal::OpTooLarge));
    assert_eq!(put(&[0; 11], b"", None), Err(Refusal::KeyTooLarge));
    assert_eq!(put(b"k", &[0; 71], None), Err(Refusal::ValueTooLarge));
    assert_eq!(put(b"k", &[0; 70], None), Ok(false));
    assert_eq!(put(b"l", b"", second), Ok(false));
    assert_eq!(put(b"k", b"", second), Err(Refusal::TimersFull));
    assert_eq!(put(b"m", b"", None), Err(Refusal::TableFull));
    assert_eq!(put(b"l", &[0; 70], second), Err(Refusal::MemoryFull));
    assert_eq!(put(b"l", &[0; 10], second), Ok(true));
    assert_eq!(
        call(&mut store, LogTime::ZERO, "kv.get", b"k"),
        Err(Refusal::ReplyTooLarge)
    );
    assert_eq!(
        call(&mut store, LogTime::ZERO, "kv.got", b"k"),
        Err(Refusal::UnknownProcedure)
    );
    store.check();
    let totals = store.totals();
    assert_eq!((totals.timers, totals.tally.refused), (1, 8));
    assert_eq!(store.summary()[0].rows, 2);
}

/// `attempt` tries to put, clear and draw, and fails or not as its argument says.
fn attempting_store() -> Store {
    let mut registry = Registry::empty();
    let rows = registry
        .table::<[u8], [u8]>(TableSpec::new("rows", 8))
        .unwrap();
    let ordered = registry
        .ordered_table::<[u8], [u8]>(TableSpec::new("ordered", 8))
        .unwrap();
    registry
        .register("attempt", 1, move |tx, arguments, reply| {
            tx.put(rows, &b"kept"[..], &b"1"[..])?;
            tx.put(ordered, &b"kept"[..], &b"1"[..])?;
            let first = tx.serial()?;
            let tried = tx.attempt(|tx| {
                tx.put(rows, &b"kept"[..], &b"changed"[..])?;
                tx.clear(rows);
                tx.clear(ordered);
                tx.put(rows, &b"new"[..], &b"2"[..])?;
                tx.clear(rows);
                tx.serial()?;
                match arguments {
                    b"fail" => Err(Refusal::NotFound),
                    _ => Ok(()),
                }
            });
            let next = tx.serial()? - first;
            let left = tx.len(rows) + tx.len(ordered);
            reply.extend([tried.is_ok().into(), left as u8, next as u8]);
            match arguments {
                b"refuse" => Err(Refusal::NotFound),
                _ => Ok(()),
            }
        })
        .unwrap();
    Store::new(registry, Limits::default())
}

#[test]
fn a_part_that_fails_leaves_no_trace_and_cleared_rows_come_back() {
    let mut store = attempting_store();
    assert_eq!(
        call(&mut store, ms(1), "attempt", b"fail"),
        Ok(vec![0, 2, 1])
    );
    store.check();
    let before = (store.digest(), store.snapshot());
    assert!(call(&mut store, ms(1), "attempt", b"refuse").is_err());
    store.check();
    assert_eq!((store.digest(), store.snapshot()), before);
    assert_eq!(call(&mut store, ms(1), "attempt", b""), Ok(vec![1, 0, 2]));
    store.check();
}

#[test]
fn a_read_is_refused_if_it_writes_and_not_answered_if_a_timer_is_due() {
    let mut store = Store::new(Registry::builtin(), Limits::default());
    let put = kv::Put {
        key: b"k",
        value: b"v",
        ttl: Some(Duration::from_millis(10)),
    }
    .encode();
    let get = kv::Get { key: b"k" }.encode();
    let mut reply = Vec::new();
    assert!(store.read(ms(0), &put, &mut reply));
    assert_eq!(reply, [Refusal::NotARead.code()]);
    store.execute(ms(1), &put, &mut reply);
    assert!(store.read(ms(10), &get, &mut reply));
    assert_eq!(kv::Get::decode_reply(&reply), Ok(Some(b"v".to_vec())));
    assert!(!store.read(ms(11), &get, &mut reply), "it has ended by now");
    assert_eq!(store.now(), ms(1), "only the log lets time pass");

    let mut registry = Registry::empty();
    registry
        .register("draw", 1, |tx, _, _| tx.serial().map(drop))
        .unwrap();
    let mut store = Store::new(registry, Limits::default());
    let before = store.digest();
    assert!(store.read(
        ms(0),
        &op::encode(ProcedureId::of("draw", 1), &[]),
        &mut reply
    ));
    assert_eq!(
        reply,
        [Refusal::NotARead.code()],
        "a number drawn is a trace"
    );
    assert_eq!(store.digest(), before);
}
