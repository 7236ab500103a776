//! Headers of any frame: offsets stay within the frame, and completing a checksum or
//! answering with an ICMP error writes only what is right.
#![no_main]

#[path = "../sums.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod sums;

use libfuzzer_sys::fuzz_target;
use stateplane_wire::checksum::finish_partial_checksum;
use stateplane_wire::packet::Headers;

fuzz_target!(|data: &[u8]| {
    let _ = Headers::parse(data);
    let mut frame = data.to_vec();
    // Nearly all frames have a wrong header checksum; that is one path, try the others.
    sums::mend_header(&mut frame);
    let Ok(headers) = Headers::parse(&frame) else {
        return;
    };
    assert!(headers.l3 < headers.l4 && headers.l4 <= headers.end);
    assert!(headers.end <= frame.len());
    assert!(
        sums::header_right(&frame),
        "a wrong header sum was accepted"
    );
    let right = sums::transport_right(&frame);
    if finish_partial_checksum(&mut frame, &headers) || right == Some(true) {
        assert_ne!(sums::transport_right(&frame), Some(false));
    }
    assert_eq!(
        Headers::parse(&frame),
        Ok(headers),
        "checksums move nothing"
    );
});
