//! What a replica publishes is what a function on the same machine finds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use stateplane_base::LogTime;
use stateplane_committed::{
    Committed, Found, MAX_VALUE, NotCommitted, Publication, Shared, Unfit, View,
};
use stateplane_region::{Reader, Spec, Writer};
use stateplane_state::settled::{Image, Position, TableName};

fn shared(name: &str, rows: usize, key_bytes: usize, value_bytes: usize) -> Shared<'_> {
    Shared {
        name,
        rows,
        key_bytes,
        value_bytes,
    }
}

fn pair(tables: &[Shared<'_>]) -> (Publication, Committed) {
    let region = Writer::create(&Publication::spec(tables).unwrap()).unwrap();
    let mut publication = Publication::new(region, tables).unwrap();
    publication.show(Position::default());
    let fd = publication.region().fd().try_clone_to_owned().unwrap();
    let committed = Committed::open(Reader::open(fd, stateplane_committed::SCHEMA).unwrap());
    (publication, committed.unwrap())
}

fn at(slot: u64) -> Position {
    Position {
        slot,
        time: LogTime::from_millis(slot * 10),
    }
}

fn bytes(of: u64, most: u64) -> Vec<u8> {
    (0..of % (most + 1)).map(|i| (of + i) as u8).collect()
}

/// Three tables of the three shapes, against ordered maps; seen only when shown.
#[test]
fn what_is_shown_is_found() {
    let tables = [
        shared("a", 500, 7, 47),
        shared("b", 500, 20, 80),
        shared("c", 500, 63, MAX_VALUE),
    ];
    let (mut publication, committed) = pair(&tables);
    let handles = tables.map(|table| committed.table(table.name).unwrap());
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut model, mut shown) = (vec![BTreeMap::new(); 3], vec![BTreeMap::new(); 3]);
    for step in 1..4000u64 {
        let table = rng.usize(0..3);
        let key = rng.u8(..).to_be_bytes().repeat(1 + table * 3);
        match rng.u8(0..10) {
            0..6 => {
                let value = bytes(rng.u64(..), tables[table].value_bytes as u64);
                publication.put(table, &key, &value);
                model[table].insert(key, value);
            }
            6..9 => {
                publication.remove(table, &key);
                model[table].remove(&key);
            }
            _ if rng.u8(0..20) == 0 => {
                publication.clear(table);
                model[table].clear();
            }
            _ => {
                publication.seen_in(View {
                    formation: 3,
                    view: step,
                });
                publication.show(at(step));
                shown = model.clone();
                let (position, view, _) = committed.at().unwrap();
                assert_eq!((position, view.view, view.formation), (at(step), step, 3));
            }
        }
        let table = rng.usize(0..3);
        let key = rng.u8(..).to_be_bytes().repeat(1 + table * 3);
        let mut value = [0; MAX_VALUE];
        let answer = committed.get(handles[table], &key, &mut value).unwrap();
        // A few more keys than are looked for at once.
        let (mut values, mut found) = ([[0; MAX_VALUE]; 40], [Found::Unknown; 40]);
        let keys: [Vec<u8>; 40] = std::array::from_fn(|n| match n {
            39 => key.clone(),
            _ => (n as u8).to_be_bytes().repeat(1 + table * 3),
        });
        let read = committed.get_each(handles[table], &keys, &mut values, &mut found);
        assert_eq!(read.unwrap(), (answer.at, answer.edition));
        assert_eq!((found[39], values[39]), (answer.found, value));
        for (key, (value, found)) in keys.iter().zip(values.iter().zip(found)) {
            match shown[table].get(key) {
                None => assert_eq!(found, Found::Absent),
                Some(known) => {
                    assert_eq!(found, Found::Value(known.len()));
                    assert_eq!(&value[..known.len()], &known[..]);
                }
            }
        }
        match shown[table].get(&key) {
            None => assert_eq!(answer.found, Found::Absent),
            Some(known) => {
                assert_eq!(answer.found, Found::Value(known.len()));
                assert_eq!(&value[..known.len()], &known[..]);
            }
        }
    }
    let rows: Vec<usize> = (0..3).map(|table| publication.rows(table)).collect();
    assert_eq!(rows, model.iter().map(BTreeMap::len).collect::<Vec<_>>());
}

/// A copy that lacks rows does not deny them.
#[test]
fn what_was_left_out_is_unknown() {
    let (mut publication, committed) = pair(&[shared("t", 4, 7, 40)]);
    let table = committed.table("t").unwrap();
    let mut value = [0; 8];
    let mut look = |key: &[u8]| committed.get(table, key, &mut value).unwrap().found;
    publication.put(0, b"long", b"short");
    publication.show(at(1));
    assert_eq!(
        (look(b"long"), look(b"x")),
        (Found::Value(5), Found::Absent)
    );
    publication.put(0, b"long", &[1; 48]);
    publication.show(at(2));
    assert_eq!(
        (look(b"long"), look(b"x")),
        (Found::Unknown, Found::Unknown)
    );
    assert_eq!(publication.left_out(0), 1);
    // A new copy begins without that.
    publication.begin();
    for key in 0..4u8 {
        publication.put(0, &[key], b"");
    }
    publication.show(at(3));
    assert_eq!((look(&[3]), look(&[4])), (Found::Value(0), Found::Absent));
    publication.put(0, &[4], b"");
    publication.put(0, &[3], b"again");
    publication.show(at(4));
    assert_eq!((look(&[3]), look(&[4])), (Found::Value(5), Found::Unknown));
    let view = committed.view(table).unwrap();
    assert_eq!((view.rows, view.max_rows, view.left_out), (4, 4, 1));
}

/// Each version sets all rows to its slot: a reader never sees two, nor an older one.
#[test]
fn look_ups_are_of_one_version() {
    let (mut publication, committed) = pair(&[shared("t", 64, 7, 40)]);
    let table = committed.table("t").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for slot in 1.. {
                for key in 0..64u8 {
                    publication.put(0, &[key], &[slot as u8; 40]);
                }
                publication.show(at(slot));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut last = 0;
        while last < 5000 {
            let mut value = [0; 40];
            let key = [(last % 64) as u8];
            let Ok(answer) = committed.get(table, &key, &mut value) else {
                continue;
            };
            assert!(answer.at.slot >= last);
            last = answer.at.slot;
            let expected = if last == 0 {
                Found::Absent
            } else {
                Found::Value(40)
            };
            assert_eq!(answer.found, expected);
            assert!(
                last == 0 || value == [last as u8; 40],
                "slot {last}: {value:?}"
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    assert_eq!(Publication::spec(&[]), Err(Unfit::Count(0)));
    assert!(matches!(
        Publication::spec(&[shared("t", 0, 7, 40)]),
        Err(Unfit::NoRows(_))
    ));
    assert!(matches!(
        Publication::spec(&[shared("t", 1, 64, 40)]),
        Err(Unfit::TooLong { .. })
    ));
    // Any bytes give tables or an error.
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..300 {
        let mut writer = Writer::<[u8]>::create(&Spec::bytes(4096 + round)).unwrap();
        rng.fill(writer.edit_all());
        writer.bytes_mut(0, 8).copy_from_slice(&1u64.to_ne_bytes());
        if round % 2 == 0 {
            // Nearly right.
            for (word, value) in [(1, 0), (2, 1 + round as u64 / 8), (3, 1024)] {
                writer
                    .bytes_mut(64 + word * 8, 8)
                    .copy_from_slice(&u64::to_ne_bytes(value));
            }
        }
        writer.publish().unwrap();
        let reader = Reader::open(writer.fd().try_clone_to_owned().unwrap(), "").unwrap();
        match Committed::open(reader) {
            Err(NotCommitted::Directory) => {}
            Err(other) => panic!("{other}"),
            Ok(committed) => {
                let name = u64::from_ne_bytes(writer.bytes()[64..72].try_into().unwrap());
                let table = committed.table_of(TableName(name)).unwrap();
                let _ = committed.get(table, b"key", &mut [0; 8]).unwrap();
            }
        }
    }
}
