//! Rules of the protocol, broken one after the other: each breach is noticed.
use stateplane_sim::hunts::{HUNTS, pursue};

#[test]
fn every_broken_rule_is_noticed() {
    let caught: Vec<_> = HUNTS.iter().map(|hunt| pursue(hunt, 0)).collect();
    for one in &caught {
        println!("{one:?}");
    }
    let missed: Vec<_> = caught.iter().filter(|one| !one.caught).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}
