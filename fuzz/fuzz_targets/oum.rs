//! Packets of the ordered multicast. The first byte chooses between raw bytes, which no key
//! fits, and fields that are sealed and stamped: what was sealed is what is read, and damage
//! is refused by the sequencer or by every replica.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_base::{ClientId, LogTime};
use stateplane_wire::envelope::Key;
use stateplane_wire::group::{Address, Batch, Request};
use stateplane_wire::oum::{
    Groups, HEADER_LEN, Keys, LAST_NUMBER, MAGIC, Stamp, Stamps, VERSION, open_ordered,
    open_request, seal_request, stamp,
};

fuzz_target!(|data: &[u8]| {
    let keys = Keys::derive(&Key::new([7; 16]), 1);
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        let mut raw = rest.to_vec();
        if let Some(head) = raw.first_chunk_mut() {
            *head = [MAGIC[0], MAGIC[1], VERSION, 1 + (choice >> 1 & 1)];
        }
        assert!(open_request(&keys, &raw).is_err() && open_ordered(&keys, &raw).is_err());
        return;
    }
    let Some((fields, operations)) = rest.split_first_chunk::<57>() else {
        return;
    };
    let number = |at: usize| u64::from_be_bytes(fields[at..at + 8].try_into().expect("eight"));
    let group = |at: usize| u16::from_be_bytes([fields[at], fields[at + 1]]);
    let mut groups = Groups::one(group(48));
    for at in [50, 52, 54] {
        let _ = groups.push(group(at));
    }
    let mut batch = Batch::default();
    for (id, operation) in (0..).zip(operations.chunks(1 + usize::from(choice))) {
        if !batch.push(id, operation) {
            break;
        }
    }
    let counter = number(32) & LAST_NUMBER;
    let request = Request {
        client: ClientId(number(16)),
        done_below: number(24),
        reply_to: Address::default(),
        batch,
    };
    let mut packet = Vec::new();
    seal_request(&keys, counter, groups, &request, &mut packet);
    let ask = open_request(&keys, &packet).expect("well sealed");
    assert_eq!(
        (ask.client, ask.counter, ask.groups),
        (request.client, counter, groups)
    );
    let mut sequence = number(40);
    let stamps = Stamps::new(groups, |_| {
        sequence = sequence.wrapping_add(1) & LAST_NUMBER;
        sequence
    });
    let given = Stamp {
        sequencer: choice,
        formation: number(0),
        session: number(8),
        time: LogTime::from_nanos(number(24)),
        stamps,
    };
    stamp(&keys, &given, &mut packet);
    let (number, formation, ordered) = open_ordered(&keys, &packet).expect("well stamped");
    assert_eq!((number, formation), (given.sequencer, given.formation));
    assert_eq!((ordered.session, ordered.time), (given.session, given.time));
    assert_eq!((ordered.stamps, ordered.request), (stamps, request));
    let at = usize::from(fields[56]) * packet.len() / 256;
    packet[at] ^= 1 << (choice >> 5);
    assert!(
        open_ordered(&keys, &packet).is_err(),
        "damage at {at} of {}",
        packet.len().max(HEADER_LEN)
    );
});
