//! Rules of the protocol, broken on purpose: if the simulator did not notice, its
//! passing seeds would prove nothing. Each rule comes with the profile that finds it
//! soonest and several times the seeds that usually suffice.
use crate::plan::Profile;
use crate::run::{Options, run};
use serde::Serialize;
use stateplane_group::{GroupConfig, Mutation};

/// How a broken rule is found.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The rule.
    pub mutation: Mutation,
    /// Where to look.
    pub profile: Profile,
    /// It must not take more seeds.
    pub seeds: u64,
    /// The complaints by which it may be noticed.
    pub ways: &'static [&'static str],
}

/// What a hunt brought.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Caught {
    /// The broken rule.
    pub mutation: &'static str,
    /// Where it was looked for.
    pub profile: &'static str,
    /// Seeds run.
    pub seeds: u64,
    /// Whether it was noticed, as it should be.
    pub caught: bool,
    /// The first seed that failed.
    pub seed: Option<u64>,
    /// How it failed.
    pub what: Option<String>,
}

/// Ways to notice that an order once final was changed.
const ORDER: &[&str] = &[
    "promise",
    "canon",
    "slot",
    "lost",
    "two answers",
    "time",
    "liveness",
    "assertion",
    "back",
];
/// Ways to notice that an answered operation was replaced by a no-op.
const LOST_VALUE: &[&str] = &[
    "two answers",
    "wrong",
    "lost",
    "time",
    "canon",
    "slot",
    "promise",
];
const ONCE: &[&str] = &["twice", "two answers", "wrong"];
/// Ways to notice that a member knows less than it is taken to know.
const NO_STATE: &[&str] = &[
    "lost",
    "wrong",
    "slot",
    "canon",
    "promise",
    "two answers",
    "time",
    "liveness",
    // Its journal begins after a beginning that it does not have.
    "recover",
];
/// Ways to notice that a replica did not find on its disk what it had said.
const MEMORY: &[&str] = &[
    "promise",
    "canon",
    "slot",
    "lost",
    "two answers",
    "time",
    "liveness",
    "assertion",
];
/// Ways to notice that a read saw what was not, or no longer, so.
const READ: &[&str] = &["time", "wrong", "vanished", "linearizability"];
/// Ways to notice that pieces of different things, or not all pieces, were put together.
const PIECES: &[&str] = &["invented", "nonsense", "two answers", "wrong", "liveness"];
const PROGRESS: &[&str] = &["liveness"];

const fn hunt(mutation: Mutation, profile: Profile, seeds: u64) -> Hunt {
    Hunt {
        mutation,
        profile,
        seeds,
        ways: ORDER,
    }
}

impl Hunt {
    const fn noticed(self, ways: &'static [&'static str]) -> Self {
        Self { ways, ..self }
    }
}

/// One for each rule whose breach the simulator notices in good time. The others are the
/// model checker's.
pub const HUNTS: &[Hunt] = &[
    hunt(Mutation::ClientQuorum, Profile::FailoverStorm, 600),
    hunt(Mutation::QuorumAcrossViews, Profile::Gaps, 4_000),
    hunt(Mutation::GapWithoutQuorum, Profile::Gaps, 12_000).noticed(LOST_VALUE),
    hunt(Mutation::GapKeepsValue, Profile::Gaps, 800),
    hunt(Mutation::ViewChangeQuorum, Profile::FailoverStorm, 800),
    hunt(Mutation::OwnLogWins, Profile::Sequencer, 800),
    hunt(Mutation::ValueWins, Profile::Gaps, 4_000),
    hunt(Mutation::VotesWithoutMemory, Profile::Restart, 100),
    hunt(Mutation::NoClientTable, Profile::Swarm, 100).noticed(ONCE),
    hunt(Mutation::SessionReused, Profile::Sequencer, 300),
    hunt(Mutation::GrantReplayed, Profile::Sequencer, 12_000),
    hunt(Mutation::StandbyNotRefused, Profile::Sequencer, 300).noticed(&["stand-by"]),
    hunt(Mutation::QuorumAcrossSlots, Profile::FailoverStorm, 3_000),
    hunt(Mutation::ChangeAtOnce, Profile::Reconfigure, 8_000),
    hunt(Mutation::FormerMembersIgnored, Profile::Reconfigure, 6_000),
    hunt(Mutation::JointViewAnswers, Profile::Reconfigure, 16_000),
    hunt(Mutation::NewcomerWithoutState, Profile::Reconfigure, 6_000).noticed(NO_STATE),
    hunt(Mutation::NoRollback, Profile::Gaps, 800),
    hunt(Mutation::MergeAnyView, Profile::FailoverStorm, 1_500),
    hunt(Mutation::OldStartView, Profile::Stray, 400),
    hunt(Mutation::CommitWithoutQuorum, Profile::Vr, 800),
    hunt(Mutation::PrepareAcrossViews, Profile::Vr, 4_000),
    hunt(Mutation::PrepareOkAhead, Profile::Vr, 800),
    hunt(Mutation::JoinInPlace, Profile::Restart, 1_500),
    hunt(Mutation::CounterWraps, Profile::NearWrap, 200),
    hunt(Mutation::LookupRefused, Profile::Gaps, 2_000).noticed(PROGRESS),
    hunt(Mutation::FutureSession, Profile::Sequencer, 400),
    hunt(Mutation::SendBeforeSync, Profile::Durable, 100).noticed(MEMORY),
    hunt(Mutation::VoteNotPersisted, Profile::Durable, 100).noticed(MEMORY),
    hunt(Mutation::TornTailAccepted, Profile::PowerLoss, 6_000).noticed(MEMORY),
    hunt(Mutation::ReadWithoutFollowers, Profile::FailoverStorm, 600).noticed(READ),
    hunt(Mutation::ReadAcrossViews, Profile::FailoverStorm, 2_000).noticed(READ),
    hunt(Mutation::ReadAtTakeover, Profile::Vr, 3_000).noticed(READ),
    hunt(Mutation::OwnTimeOfDay, Profile::Sequencer, 300).noticed(&["clock"]),
    hunt(Mutation::SnapshotLate, Profile::Restart, 400),
    hunt(Mutation::IncompleteExecutes, Profile::Swarm, 200).noticed(PIECES),
    hunt(Mutation::AnyPart, Profile::Swarm, 300).noticed(PIECES),
    hunt(Mutation::RetryRenamed, Profile::Swarm, 200).noticed(ONCE),
];

/// Breaches that nothing notices within thousands of seeds, and why.
pub const SURVIVORS: &[(Mutation, &str)] = &[
    (
        Mutation::StaleDismissal,
        "a dismissal must be on its way from before the newcomer was admitted until it has \
         voted; a directed test of the group's members fails without the rule",
    ),
    (
        Mutation::JoinUnvouched,
        "a vote must be on its way while its voter decides in a later view with one that then \
         loses its memory: one seed in a million; a directed test fails without the rule",
    ),
];

/// Whether this build can break rules at all.
pub fn able() -> bool {
    HUNTS
        .first()
        .is_some_and(|hunt| GroupConfig::new(3).breaking(hunt.mutation).is_some())
}

/// Hunts for every breach, or lists the rules if this build cannot break any.
pub fn all(threads: usize) -> Vec<Caught> {
    let listed = |hunt: &Hunt| Caught {
        mutation: hunt.mutation.name(),
        profile: hunt.profile.name(),
        seeds: 0,
        caught: false,
        seed: None,
        what: None,
    };
    let able = able();
    let one = |hunt| {
        if able {
            pursue(hunt, threads)
        } else {
            listed(hunt)
        }
    };
    HUNTS.iter().map(one).collect()
}

/// Breaks the rule and runs seeds until one fails.
pub fn pursue(hunt: &Hunt, threads: usize) -> Caught {
    let options = Options {
        seeds: hunt.seeds,
        from: 1_000_000,
        profile: hunt.profile,
        threads,
        max_failures: 1,
        shrink: false,
        mutation: Some(hunt.mutation),
        ..Options::default()
    };
    let report = run(&options, |_| {});
    let first = report.failed.first();
    let rule = |what: &str| what.split(':').next().unwrap_or_default().to_owned();
    Caught {
        mutation: hunt.mutation.name(),
        profile: hunt.profile.name(),
        seeds: report.seeds,
        caught: first.is_some_and(|f| hunt.ways.contains(&rule(&f.what).as_str())),
        seed: first.map(|f| f.seed),
        what: first.map(|f| f.what.clone()),
    }
}
