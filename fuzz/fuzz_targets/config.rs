//! A configuration file of any text gives a configuration or problems that people can read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stateplane_node::config::{Config, problem::Plain};

fuzz_target!(|text: &str| {
    // No such directory: a `key-file` must not lead out of the fuzzer.
    let dir = Path::new("/nonexistent");
    let problems = match Config::parse("fuzz.toml", text, dir) {
        Ok((config, warnings)) => {
            for node in config.nodes.keys() {
                assert!(config.node(node).is_some());
            }
            warnings
        }
        Err(problems) => {
            assert!(!problems.list.is_empty(), "refused without a reason");
            problems.list
        }
    };
    let lines = text.lines().count().max(1);
    for problem in &problems {
        assert!(!problem.message.is_empty());
        assert!(problem.line <= lines + 1, "{problem:?} of {lines} lines");
    }
    let _ = Plain(&problems).to_string();
});
