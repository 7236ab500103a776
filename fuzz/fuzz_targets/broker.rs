//! What clients say to the broker of regions, and what it answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_region::outside::{reply, request};

fuzz_target!(|data: &[u8]| {
    for written_back in [request, reply] {
        if let Some(bytes) = written_back(data) {
            // Truth has more than one spelling on the wire; what is written has one.
            assert_eq!(written_back(&bytes).as_ref(), Some(&bytes));
            assert!(bytes.len() <= data.len(), "grew from {}", data.len());
        }
    }
});
