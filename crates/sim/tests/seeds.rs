//! The cores survive what the simulated world does to them.
use stateplane_sim::{Options, Profile, Report, run};

fn report(options: &Options) -> Report {
    let report = run(options, |_| {});
    println!(
        "{}",
        serde_json::to_string_pretty(&report).expect("plain data")
    );
    report
}

/// Seeds of every kind. More are run by `stateplane sim`.
#[test]
fn mixed_seeds_pass() {
    let report = report(&Options {
        seeds: 1_500,
        ..Options::default()
    });
    assert!(report.pass(), "{:#?}", report.failed);
    assert_eq!(report.passed, report.seeds);
    assert!(report.repeated > 0, "some seeds must be run twice");
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
