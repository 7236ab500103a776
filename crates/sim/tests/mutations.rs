//! Rules of the protocol, broken on purpose: if the simulator did not notice,
//! its passing seeds would prove nothing. Each rule comes with the profile that
//! finds it soonest and several times the seeds that usually suffice.
use stateplane_sim::{Mutation, Options, Profile, run};

/// Breaks a rule and runs seeds until one fails, which must not take more than
/// `seeds`, and in one of the ways named.
fn caught(mutation: Mutation, profile: Profile, seeds: u64, ways: &[&str]) {
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
        "{mutation:?}: seed {} of {}: {}",
        first.seed, report.seeds, first.what
    );
    let rule = first.what.split(':').next().unwrap_or_default();
    assert!(ways.contains(&rule), "found in another way: {}", first.what);
}

/// Ways to notice that an order once final was changed.
const ORDER: &[&str] = &[
    "canon",
    "lost",
    "two answers",
    "time",
    "liveness",
    "assertion",
];

#[test]
fn client_needs_a_quorum() {
    caught(Mutation::ClientQuorum, Profile::FailoverStorm, 600, ORDER);
}

#[test]
fn client_counts_replies_of_one_view_only() {
    caught(Mutation::QuorumAcrossViews, Profile::Gaps, 4_000, ORDER);
}

#[test]
fn gaps_are_passed_with_a_quorum_only() {
    caught(Mutation::GapWithoutQuorum, Profile::Gaps, 800, ORDER);
}

#[test]
fn gap_commits_replace_values() {
    caught(Mutation::GapKeepsValue, Profile::Gaps, 800, ORDER);
}

#[test]
fn views_start_with_a_quorum_only() {
    caught(
        Mutation::ViewChangeQuorum,
        Profile::FailoverStorm,
        800,
        ORDER,
    );
}

#[test]
fn leaders_do_not_prefer_their_own_log() {
    caught(Mutation::OwnLogWins, Profile::Sequencer, 800, ORDER);
}

#[test]
fn noops_win_over_values() {
    caught(Mutation::ValueWins, Profile::Gaps, 4_000, ORDER);
}

#[test]
fn without_memory_there_is_no_vote() {
    caught(Mutation::VotesWithoutMemory, Profile::Restart, 100, ORDER);
}

#[test]
fn repeated_operations_are_not_executed_again() {
    let ways = ["twice", "two answers", "wrong"];
    caught(Mutation::NoClientTable, Profile::Swarm, 100, &ways);
}

#[test]
fn sessions_are_not_reused() {
    caught(Mutation::SessionReused, Profile::Sequencer, 300, ORDER);
}

#[test]
fn deposed_leaders_roll_back() {
    caught(Mutation::NoRollback, Profile::Gaps, 800, ORDER);
}

#[test]
fn only_the_newest_logs_are_merged() {
    caught(Mutation::MergeAnyView, Profile::FailoverStorm, 1_500, ORDER);
}

#[test]
fn views_never_go_back() {
    caught(Mutation::OldStartView, Profile::Stray, 400, ORDER);
}
