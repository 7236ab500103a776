//! Rules of the protocol, broken on purpose: if the simulator did not notice,
//! its passing seeds would prove nothing.
use stateplane_sim::{Mutation, Options, Profile, run};

/// Breaks a rule and runs seeds until one fails; how it failed.
fn caught(mutation: Mutation, profile: Profile, seeds: u64) -> String {
    let options = Options {
        seeds,
        from: 1_000_000,
        profile,
        max_failures: 1,
        shrink: false,
        mutation: Some(mutation),
        ..Options::default()
    };
    let report = run(&options, |_| {});
    let first = report.failed.first();
    let first = first.unwrap_or_else(|| panic!("{mutation:?} survived {seeds} {profile} seeds"));
    println!(
        "{mutation:?}: {} seeds, {}: {}",
        report.seeds, first.seed, first.what
    );
    first.what.clone()
}
