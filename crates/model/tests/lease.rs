//! Leases: every course within narrow bounds keeps every invariant, and with any one rule removed
//! some course does not.
use stateplane_model::Effort;
use stateplane_model::lease::{Bounds, Mutation, check, hunts, narrow};
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
    let mut unique = 0;
    for (name, bounds) in narrow() {
        let outcome = check(name, &bounds, effort(2));
        println!("{outcome}");
        assert!(outcome.broken.is_none(), "{outcome}");
        assert!(outcome.exhausted, "{name} is too wide");
        assert!(
            outcome.reached.contains(&"takes over"),
            "{name} is too narrow"
        );
        unique += outcome.unique;
    }
    println!("{unique} states in all");
}

/// Runs the hunt for one removed rule; it must be found.
fn hunt(mutation: Mutation) {
    let (_, bounds) = hunts()
        .into_iter()
        .find(|(rule, _)| *rule == mutation)
        .expect("every rule is hunted");
    let bounds = Bounds {
        mutation: Some(mutation),
        ..bounds
    };
    let outcome = check(mutation.name(), &bounds, effort(1));
    println!("{outcome}");
    assert!(
        outcome.broken.is_some(),
        "nobody noticed {}",
        mutation.name()
    );
}

macro_rules! hunts {
    ($($test:ident $mutation:ident)*) => {
        $(#[test]
        fn $test() {
            hunt(Mutation::$mutation);
        })*

        #[test]
        fn every_rule_has_a_test() {
            assert_eq!(Mutation::ALL, [$(Mutation::$mutation,)*]);
        }
    };
}

hunts! {
    counted_from_ack CountedFromAck
    no_drift_margin NoDriftMargin
    time_not_looked_at TimeNotLookedAt
    released_while_used ReleasedWhileUsed
    output_at_once OutputAtOnce
    read_passes_write ReadPassesWrite
    no_fence NoFence
    no_epoch_fence NoEpochFence
    shared_epoch SharedEpoch
    sequence_without_epoch SequenceWithoutEpoch
    early_acknowledged EarlyAcknowledged
    migrate_before_lapse MigrateBeforeLapse
}
