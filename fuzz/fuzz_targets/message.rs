//! A message of the store group that decodes is written back as the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_wire::group::{Message, VERSION};
use stateplane_wire::heartbeat::Beat;

fuzz_target!(|data: &[u8]| {
    if let Some(beat) = Beat::decode(data) {
        assert_eq!(beat.encode(), data);
    }
    // The version is right already, so that the bodies are what is tried.
    let mut bytes = data.to_vec();
    if let Some(version) = bytes.get_mut(1) {
        *version = VERSION;
    }
    if let Ok(message) = Message::decode(&bytes) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(again, bytes, "{}", message.body.name());
    }
});
