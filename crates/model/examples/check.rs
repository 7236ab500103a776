//! `check [narrow|wide|hunts|NAME [SECONDS [MILLIONS]]]`: runs the checker within the bounds
//! of this kind or name, each for so long and up to so many million states.
use stateplane_model::{Bounds, Effort, check, configs, lease};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let wanted = args.next().unwrap_or_else(|| "narrow".to_owned());
    let mut number = |default| {
        args.next()
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let time = Duration::from_secs(number(60));
    let millions = usize::try_from(number(8)).expect("memory is finite");
    let effort = Effort {
        threads: if wanted == "hunts" { 1 } else { 2 },
        states: NonZeroUsize::new(millions * 1_000_000).expect("not zero"),
        time,
    };
    let fits = |kind: &str, name: &str| wanted == kind || name.contains(&wanted);
    let mut sound = true;
    let sets = [("narrow", configs::narrow()), ("wide", configs::wide())];
    for (kind, set) in sets {
        for (name, bounds) in set.iter().filter(|(name, _)| fits(kind, name)) {
            let outcome = check(name, bounds, effort);
            println!("{outcome}");
            sound &= outcome.broken.is_none();
        }
    }
    for (mutation, bounds) in configs::hunts() {
        if fits("hunts", mutation.name()) {
            let bounds = Bounds {
                mutation: Some(mutation),
                ..bounds
            };
            let outcome = check(mutation.name(), &bounds, effort);
            println!("{outcome}");
            sound &= outcome.broken.is_some();
        }
    }
    for (kind, set) in [("narrow", lease::narrow()), ("wide", lease::wide())] {
        for (name, bounds) in set.iter().filter(|(name, _)| fits(kind, name)) {
            let outcome = lease::check(name, bounds, effort);
            println!("{outcome}");
            sound &= outcome.broken.is_none();
        }
    }
    for (mutation, bounds) in lease::hunts() {
        if fits("hunts", mutation.name()) {
            let bounds = lease::Bounds {
                mutation: Some(mutation),
                ..bounds
            };
            let outcome = lease::check(mutation.name(), &bounds, effort);
            println!("{outcome}");
            sound &= outcome.broken.is_some();
        }
    }
    ExitCode::from(u8::from(!sound))
}
