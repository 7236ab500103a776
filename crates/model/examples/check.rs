//! `check [NAME]`: runs the checker within the bounds of this name, or all.
use stateplane_model::{Effort, check, configs};
use std::num::NonZeroUsize;
use std::time::Duration;

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, bounds) in configs::narrow() {
        if name.contains(&wanted) {
            let effort = Effort {
                threads: 1,
                states: NonZeroUsize::new(3_000_000).expect("not zero"),
                time: Duration::from_secs(60),
            };
            println!("{}", check(name, &bounds, effort));
        }
    }
}
