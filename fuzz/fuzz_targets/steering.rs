//! The reference of the steering program: any frame has an answer, and the bytes behind
//! the packet's end have no say in it.
#![no_main]

#[path = "../sums.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod sums;

use libfuzzer_sys::fuzz_target;
use stateplane_flow::steering::{BUCKETS, NOBODY, Side, Steer, Table, steer};
use stateplane_wire::packet::Headers;

fuzz_target!(|data: &[u8]| {
    let (live, frame) = data.split_at(data.len().min(4));
    let table = Table::compute(live);
    // With a right header checksum more frames have headers to compare with.
    let mut frame = frame.to_vec();
    sums::mend_header(&mut frame);
    for side in [Side::Inside, Side::Outside] {
        let answer = steer(&frame, side);
        if let Steer::Bucket(bucket) = answer {
            let bucket = usize::from(bucket);
            assert!(bucket < BUCKETS);
            for owner in [table.inside[bucket], table.outside[bucket]] {
                assert!(
                    live.contains(&owner) || owner == NOBODY,
                    "{owner} of {live:?}"
                );
            }
        }
        // A tag moves the headers: the switch's kernel has those frames.
        let untagged = Headers::parse(&frame)
            .ok()
            .filter(|headers| headers.l3 == 14);
        if let Some(headers) = untagged {
            let mut padded = frame[..headers.end].to_vec();
            assert_eq!(steer(&padded, side), answer, "padding steers");
            padded.extend_from_slice(&[0xa5; 60]);
            assert_eq!(steer(&padded, side), answer, "padding steers");
        }
    }
});
