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

/// Ways to notice that a replica did not find on its disk what it had said.
const MEMORY: &[&str] = &[
    "promise",
    "canon",
    "lost",
    "two answers",
    "time",
    "liveness",
    "assertion",
];

#[test]
fn nothing_leaves_before_it_is_on_disk() {
    caught(Mutation::SendBeforeSync, Profile::Durable, 100, MEMORY);
}

#[test]
fn votes_are_on_disk() {
    caught(Mutation::VoteNotPersisted, Profile::Durable, 100, MEMORY);
}

#[test]
fn torn_records_do_not_count() {
    caught(Mutation::TornTailAccepted, Profile::PowerLoss, 6_000, MEMORY);
}
