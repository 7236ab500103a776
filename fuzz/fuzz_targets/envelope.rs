//! Whatever arrives, opening it ends in a header and a body or in an error; what opens is
//! exactly what sealing writes. The first byte chooses between raw and well-signed bytes,
//! so that the fields behind the tag are reached too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_wire::envelope::{Header, Key, Kind, OVERHEAD, ReplayGuard, cluster_id, open, seal};
use stateplane_wire::refusal::Refusal;

const KEY: Key = Key::new([7; 16]);

fuzz_target!(|data: &[u8]| {
    let cluster = cluster_id("fuzz");
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        assert!(open(&KEY, cluster, rest).is_err(), "a forged tag");
        return;
    }
    let Some((fields, body)) = rest.split_first_chunk::<18>() else {
        return;
    };
    let number = |at: usize| u64::from_be_bytes(fields[at..at + 8].try_into().expect("eight"));
    let header = Header {
        kind: if choice & 2 == 0 {
            Kind::Group
        } else if choice & 4 == 0 {
            Kind::Refusal
        } else if choice & 8 == 0 {
            Kind::Hello
        } else {
            Kind::Heartbeat
        },
        cluster,
        sender: u16::from_be_bytes([fields[16], fields[17]]),
        incarnation: number(0),
        counter: number(8),
    };
    let mut sealed = Vec::new();
    seal(&KEY, header, body, &mut sealed);
    assert_eq!(sealed.len(), body.len() + OVERHEAD);
    assert_eq!(open(&KEY, cluster, &sealed), Ok((header, body)));
    if let Some(refusal) = Refusal::decode(body) {
        assert_eq!(refusal.encode(), *body);
    }
    let mut guard = ReplayGuard::default();
    assert!(guard.accept(&header));
    assert!(!guard.accept(&header), "a replay");
    let at = usize::from(choice) * sealed.len() / 256;
    sealed[at] ^= 1 << (choice >> 5);
    assert!(open(&KEY, cluster, &sealed).is_err(), "a damaged datagram");
});
