//! Tables of a replica in a region, as a writer may have left them that is broken or of another
//! release: the input is the region's first bytes, its directory among them. A function refuses
//! them, or its look-ups stay within them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_committed::{Committed, Found, MAX_VALUE};
use stateplane_region::{Reader, Spec, Writer};

const BYTES: usize = 4096;

fn region() -> (Writer<[u8]>, Reader<[u8]>) {
    let writer = Writer::<[u8]>::create(&Spec::bytes(BYTES)).expect("a region");
    let file = writer.fd().try_clone_to_owned().expect("its file");
    let reader = Reader::open(file, "").expect("one's own region");
    (writer, reader)
}

// One region for all inputs: each writes all of it.
std::thread_local! {
    static REGION: std::cell::RefCell<(Writer<[u8]>, Reader<[u8]>)> = region().into();
}

fuzz_target!(|data: &[u8]| {
    REGION.with_borrow_mut(|(writer, reader)| {
        let all = writer.edit_all();
        let room = data.len().min(BYTES);
        all[..room].copy_from_slice(&data[..room]);
        all[room..].fill(0);
        writer.publish().expect("nobody else writes");
        if let Ok(tables) = Committed::open(reader.clone()) {
            look(&tables);
        }
    });
});

fn look(tables: &Committed) {
    let (at, _, edition) = tables.at().expect("nobody writes");
    for name in ["one", "two", "three"] {
        let Some(table) = tables.table(name) else {
            continue;
        };
        let view = tables.view(table).expect("nobody writes");
        assert!(view.rows <= view.max_rows, "{view:?}");
        for key in [&b""[..], b"a", b"key-1", &[7; 31], &[9; 100]] {
            let (mut long, mut short) = ([0xee; MAX_VALUE + 1], [0xee; 4]);
            let answer = tables.get(table, key, &mut long).expect("nobody writes");
            let again = tables.get(table, key, &mut short).expect("nobody writes");
            assert_eq!((again.found, again.at), (answer.found, answer.at));
            assert_eq!((answer.at, answer.edition.version), (at, edition.version));
            let copied = match answer.found {
                Found::Value(len) => len,
                Found::Absent | Found::Unknown => 0,
            };
            assert!(copied <= MAX_VALUE, "{copied}");
            assert!(long[copied..].iter().all(|byte| *byte == 0xee));
            let part = copied.min(short.len());
            assert_eq!(short[..part], long[..part]);
            assert!(short[part..].iter().all(|byte| *byte == 0xee));
            assert!(key.len() < 64 || copied == 0, "longer than any key");
        }
    }
}
