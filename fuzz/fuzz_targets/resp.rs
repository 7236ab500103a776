//! Requests of the Redis protocol: the same ones, however the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_node::resp::request::{Decoder, Event, Violation};

const LIMIT: usize = 200;

/// All requests in `input`, which arrives in pieces of `step` bytes; `None` for one too large.
fn requests(input: &[u8], step: usize) -> (Vec<Option<Vec<Vec<u8>>>>, Option<Violation>) {
    let mut decoder = Decoder::new(LIMIT);
    let (mut buffer, mut words, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for piece in input.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&buffer, &mut words) {
                Ok(None) => break,
                Ok(Some((used, event))) => {
                    let texts = words.iter().map(|word| buffer[word.clone()].to_vec());
                    match event {
                        Some(Event::Request) => all.push(Some(texts.collect())),
                        Some(Event::TooLarge) => all.push(None),
                        Some(Event::Nothing) | None => {}
                    }
                    assert!(used > 0 && used <= buffer.len());
                    buffer.drain(..used);
                }
                Err(violation) => return (all, Some(violation)),
            }
        }
    }
    (all, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((step, input)) = data.split_first() else {
        return;
    };
    let pieces = requests(input, usize::from(*step).max(1));
    assert_eq!(pieces, requests(input, input.len().max(1)));
    for words in pieces.0.iter().flatten() {
        assert!(!words.is_empty());
    }
});
