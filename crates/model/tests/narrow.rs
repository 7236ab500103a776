//! Every course within narrow bounds keeps every invariant, and within bounds in which
//! a rule is broken some course does not: with the shortest trace to it.
use stateplane_model::{Bounds, Effort, check, configs};
use std::num::NonZeroUsize;
use std::time::Duration;

fn effort(threads: usize) -> Effort {
    Effort {
        threads,
        states: NonZeroUsize::new(20_000_000).expect("not zero"),
        time: Duration::from_secs(1_200),
    }
}

#[test]
fn narrow_bounds_are_exhausted() {
    for (name, bounds) in configs::narrow() {
        let outcome = check(name, &bounds, effort(2));
        println!("{outcome}");
        assert!(outcome.broken.is_none(), "{outcome}");
        assert!(outcome.exhausted, "{name} is too wide");
        assert!(outcome.reached.contains(&"commits"), "{name} is too narrow");
    }
}

#[test]
fn broken_rules_are_found() {
    let mut missed = Vec::new();
    for (mutation, bounds) in configs::hunts() {
        let bounds = Bounds {
            mutation: Some(mutation),
            ..bounds
        };
        let outcome = check(mutation.name(), &bounds, effort(1));
        println!("{outcome}");
        if outcome.broken.is_none() {
            missed.push(mutation.name());
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
