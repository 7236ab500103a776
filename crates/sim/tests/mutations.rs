//! Rules of the protocol, broken one after the other: each breach is noticed.
use stateplane_sim::Mutation;
use stateplane_sim::hunts::{HUNTS, SURVIVORS, pursue};

#[test]
fn every_broken_rule_is_noticed() {
    let caught: Vec<_> = HUNTS.iter().map(|hunt| pursue(hunt, 0)).collect();
    for one in &caught {
        println!("{one:?}");
    }
    let missed: Vec<_> = caught.iter().filter(|one| !one.caught).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Each rule is hunted here or by the model checker, or it is said why not.
#[test]
fn every_rule_has_its_hunter() {
    let checker = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/src/configs.rs");
    let checker = std::fs::read_to_string(checker).expect("bounds of the model checker");
    for mutation in Mutation::ALL {
        let here = HUNTS.iter().any(|hunt| hunt.mutation == *mutation);
        let there = checker.contains(&format!("Mutation::{mutation:?},"));
        let hunted = here || there;
        let excused = SURVIVORS.iter().any(|(survivor, _)| survivor == mutation);
        assert_ne!(hunted, excused, "{}", mutation.name());
    }
}
