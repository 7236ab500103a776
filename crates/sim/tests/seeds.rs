//! The cores survive what the simulated world does to them.
use stateplane_group::Mark;
use stateplane_sim::{Options, Profile, Report, run};

fn report(options: &Options) -> Report {
    let report = run(options, |_| {});
    println!(
        "{}",
        serde_json::to_string_pretty(&report).expect("plain data")
    );
    report
}

/// How many seeds the mixed run takes: the whole number if the build is optimised, and any
/// other on request.
fn seeds() -> u64 {
    let asked = std::env::var("SIM_SEEDS").ok();
    let asked = asked.map(|text| text.parse().expect("SIM_SEEDS is a number"));
    asked.unwrap_or(if cfg!(debug_assertions) {
        1_500
    } else {
        100_000
    })
}

/// Seeds from which on each mark must have been hit so often, by chance.
const ENOUGH: u64 = 50_000;
const HITS: u64 = 20;

/// Marks that chance reaches too seldom, and the tests that reach them on purpose.
const DIRECTED: &[(Mark, &str)] = &[
    (
        Mark::OtherFormation,
        "another_life_of_the_group_is_not_listened_to",
    ),
    (
        Mark::TableRefused,
        "a_full_client_table_makes_room_for_the_idle_only",
    ),
    (
        Mark::TableEvicted,
        "a_full_client_table_makes_room_for_the_idle_only",
    ),
    (
        Mark::ReadTooLong,
        "a_read_takes_a_slot_if_its_result_is_long_or_something_is_due",
    ),
    (
        Mark::PieceSuperseded,
        "memory_for_pieces_is_bounded_and_the_idle_make_room",
    ),
    (
        Mark::PieceRefused,
        "memory_for_pieces_is_bounded_and_the_idle_make_room",
    ),
    (
        Mark::PartForeign,
        "parts_of_another_execution_are_not_taken",
    ),
    (
        Mark::PiecesLost,
        "a_client_notices_that_its_pieces_were_forgotten",
    ),
    (
        Mark::ChangeGivenUp,
        "a_newcomer_that_falls_silent_is_given_up",
    ),
];

/// Seeds of every kind, and every rare branch among them.
#[test]
fn mixed_seeds_pass() {
    let seeds = seeds();
    let report = report(&Options {
        seeds,
        ..Options::default()
    });
    assert!(report.pass(), "{:#?}", report.failed);
    assert_eq!(report.passed, report.seeds);
    let repeated = report.repeated * 20;
    assert!(
        repeated > seeds / 2 && repeated < seeds * 2,
        "one seed in twenty is run twice, not {}",
        report.repeated
    );
    if seeds < ENOUGH {
        println!("too few seeds to ask for every mark");
        return;
    }
    let rare: Vec<_> = Mark::ALL
        .iter()
        .filter(|mark| DIRECTED.iter().all(|(directed, _)| directed != *mark))
        .map(|mark| {
            (
                mark.name(),
                report.marks.get(mark.name()).copied().unwrap_or(0),
            )
        })
        .filter(|(_, hits)| *hits < HITS)
        .collect();
    assert!(rare.is_empty(), "seldom or never reached: {rare:?}");
}

/// The tests that reach a mark on purpose exist, and look at it.
#[test]
fn directed_tests_exist() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../group/tests");
    let files = std::fs::read_dir(dir).expect("tests of the group");
    let text: String = files
        .flatten()
        .filter_map(|file| std::fs::read_to_string(file.path()).ok())
        .collect();
    for (mark, test) in DIRECTED {
        assert!(text.contains(&format!("fn {test}(")), "{test}");
        assert!(text.contains(&format!("Mark::{mark:?}")), "{mark:?}");
    }
}

/// The checkers see: a world in which one answer is falsified fails, whatever the seed.
#[test]
fn the_canary_dies_in_every_seed() {
    let options = Options {
        seeds: 40,
        max_failures: 1_000,
        canary: true,
        shrink: false,
        ..Options::default()
    };
    let report = run(&options, |_| {});
    let kinds = ["two answers", "wrong", "linearizability"];
    for failure in &report.failed {
        let kind = failure.what.split(':').next().unwrap_or_default();
        assert!(kinds.contains(&kind), "{}", failure.what);
    }
    assert_eq!(report.failed.len(), 40, "{} survived", report.passed);
}

/// A failure is replayed by one command, and shrunk to a few choices within a minute.
#[test]
fn a_failure_is_shrunk_and_replayed() {
    let options = Options {
        seeds: 1,
        canary: true,
        ..Options::default()
    };
    let report = run(&options, |_| {});
    let failure = &report.failed[0];
    assert!(report.wall_s < 75.0, "{} s", report.wall_s);
    let choices = failure.choices.expect("shrunk");
    assert!(choices < 40, "{choices} choices left");
    let keep = failure.replay.split("--keep ").nth(1).expect("a command");
    let keep = keep.trim().parse().expect("choices");
    let again = Options {
        keep: Some(std::sync::Arc::new(keep)),
        off: stateplane_sim::Fault::ALL
            .iter()
            .copied()
            .filter(|fault| !failure.needs.contains(&fault.name().to_owned()))
            .collect(),
        shrink: false,
        ..options
    };
    let again = run(&again, |_| {});
    let kind = |what: &str| what.split(':').next().map(str::to_owned);
    assert_eq!(kind(&again.failed[0].what), kind(&failure.what));
}

#[test]
fn every_profile_passes() {
    for profile in Profile::ALL {
        let report = report(&Options {
            seeds: 60,
            from: 10_000,
            profile: *profile,
            ..Options::default()
        });
        assert!(report.pass(), "{profile}: {:#?}", report.failed);
    }
}
