//! Runs seeds from the command line while the simulator is being worked on:
//! `seeds [COUNT [FROM [PROFILE [OFF]]]]`, and `seeds trace SEED [PROFILE [OFF]]`.
//! With MUTATION=NAME a rule is broken, and `seeds hunts` hunts for every broken rule (both
//! need the feature `mutations`).
/// Half of what a seed costs besides its work is memory, in small pieces.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

use stateplane_sim::{Faults, Mutation, Options, Profile, run, trace_with};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "hunts") {
        for caught in stateplane_sim::hunts::all(0) {
            println!("{}", serde_json::to_string(&caught).expect("plain data"));
        }
        return;
    }
    let tracing = args.first().is_some_and(|a| a == "trace");
    let args = if tracing { &args[1..] } else { &args[..] };
    let number = |i: usize, default| {
        args.get(i)
            .map_or(default, |a| a.parse().expect("a number"))
    };
    let profile_at = if tracing { 1 } else { 2 };
    let profile = args
        .get(profile_at)
        .map_or(Profile::Mixed, |a| a.parse().expect("a profile"));
    let off: Faults = args
        .get(3 - usize::from(tracing))
        .map_or_else(Faults::default, |list| {
            list.split(',')
                .map(|name| name.parse().expect("a fault"))
                .collect()
        });
    let wanted = std::env::var("MUTATION").unwrap_or_default();
    let options = Options {
        mutation: Mutation::ALL.iter().copied().find(|m| m.name() == wanted),
        seeds: number(0, 1_000),
        from: if tracing { 0 } else { number(1, 0) },
        profile,
        off,
        max_failures: 1_000,
        shrink: number(0, 0) < 100,
        ..Options::default()
    };
    if tracing {
        trace_with(&options, number(0, 0))
            .iter()
            .for_each(|line| println!("{line}"));
        return;
    }
    let report = run(&options, |_| {});
    println!(
        "{}",
        serde_json::to_string_pretty(&report).expect("plain data")
    );
}
