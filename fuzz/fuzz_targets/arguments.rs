//! What a command line may say about the simulator: names of faults and profiles, and the
//! choices that a shrunk failure lists. What is read is written back in a form that reads the
//! same. (Options and their ranges are read by a library, see the tests of `stateplane::cli`.)
#![no_main]

use libfuzzer_sys::fuzz_target;
use stateplane_sim::{Choices, Fault, Profile};

fuzz_target!(|text: &str| {
    if let Ok(choices) = text.parse::<Choices>() {
        let again: Choices = choices.to_string().parse().expect("its own form");
        assert_eq!(again, choices);
    }
    if let Ok(profile) = text.parse::<Profile>() {
        assert_eq!(profile.to_string(), text);
    }
    if let Err(why) = text.parse::<Fault>() {
        assert!(why.contains("is not one of"), "{why}");
    }
});
