//! Every course within narrow bounds keeps every invariant.
use stateplane_model::{Effort, check, configs};
use std::num::NonZeroUsize;
use std::time::Duration;

#[test]
fn narrow_bounds_are_exhausted() {
    for (name, bounds) in configs::narrow() {
        let effort = Effort {
            threads: 2,
            states: NonZeroUsize::new(20_000_000).expect("not zero"),
            time: Duration::from_secs(600),
        };
        let outcome = check(name, &bounds, effort);
        println!("{outcome}");
        assert!(outcome.broken.is_none(), "{outcome}");
        assert!(outcome.exhausted, "{name} is too wide");
    }
}
