//! Records are written as frames, and then the file is cut or changed: what is read is a
//! prefix of what was written, and it is said why it is not all. Raw bytes are read too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_wire::wal::{Ending, FileHead, Kind, encode_frame, scan};

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, a, b, c], rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    if choice == 0 {
        let _ = FileHead::decode(rest);
        let found = scan(rest, usize::from(a), u64::from(b));
        assert!(found.end <= rest.len());
        return;
    }
    let mut bytes = Vec::new();
    FileHead {
        kind: Kind::Segment,
        sequence: 7,
        name: b"fuzz",
    }
    .encode(&mut bytes);
    let start = bytes.len();
    let records: Vec<&[u8]> = rest.chunks(usize::from(choice) * 7).collect();
    let mut ends = Vec::new();
    for (sequence, record) in (7..).zip(&records) {
        encode_frame(sequence, record, &mut bytes);
        ends.push(bytes.len());
    }
    let at = usize::from(u16::from_be_bytes([a, b]));
    let at = start + at % (bytes.len() - start).max(1);
    let ending = match c {
        _ if records.is_empty() => return,
        0 => {
            bytes.truncate(at);
            Ending::Torn
        }
        flip => {
            bytes[at] ^= flip;
            bytes.resize(bytes.len() + usize::from(choice) * 8, 0);
            Ending::Damaged
        }
    };
    let found = scan(&bytes, start, 7);
    let whole = ends.iter().filter(|end| **end <= at).count();
    assert_eq!(found.records, records[..whole], "a prefix");
    let clean = ending == Ending::Torn && found.end == bytes.len();
    assert_eq!(found.ending, if clean { Ending::Clean } else { ending });
});
