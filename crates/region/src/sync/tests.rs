//! A sender and its receivers, with relays between them and without, in a world that loses,
//! duplicates and reorders.
//!
//! Every version that a receiver takes must be, byte for byte, one that the source had;
//! versions go on; and when losses end, all have the newest within two round trips a level.
//! `REGION_SEEDS=20000 cargo test -p stateplane-region --lib sync --release` for more.

mod world;

use std::collections::BTreeSet;

use stateplane_base::Time;

use super::*;
use crate::LINE;
use world::{REGION, RTT, World};

/// What a world came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// How long after the last loss all had the newest version.
    took: Duration,
    /// Machines on the longest way from the source.
    depth: u32,
    marks: BTreeSet<Mark>,
    taken: u64,
    /// How often a receiver asked another sender.
    changes: u64,
}

/// A world with relays for odd seeds, without for even ones.
pub(super) fn check(seed: u64) -> Outcome {
    let mut world = World::new(seed, seed % 2 == 1);
    for _ in 0..60 {
        world.change();
        world.upheaval();
        let pause = Duration::from_micros(world.rng.u64(1..2000));
        world.run(world.now + pause);
    }
    // The source rests; the newest version must be on its way before losses end.
    world.change();
    let mut waited = 0;
    let more = Duration::from_micros(world.rng.u64(1..3000));
    match world.rng.bool() {
        true => world.revive(),
        false => world.kill_a_relay(),
    }
    loop {
        // Some more, in which one whose reports are all lost may be forgotten again.
        let on_its_way = world.is_on_its_way();
        world.run(world.now + if on_its_way { more } else { RTT });
        if on_its_way && world.is_on_its_way() {
            break;
        }
        waited += 1;
        assert!(waited < 10_000, "the newest version is never taken up");
    }
    world.loss = 0.0;
    let end = world.now;
    while !world.all_have_it() {
        world.run(world.now + RTT / 20);
        assert!(
            world.now < end + Duration::from_secs(2),
            "does not converge"
        );
    }
    let (took, depth) = (world.now.since(end), world.depth());
    rests(&mut world);
    // What remains to be sent is bounded by the burst, not by the protocol.
    assert!(
        took <= (RTT * 2 + RTT / 4) * depth,
        "seed {seed}: {took:?} after the last loss, {depth} levels"
    );
    Outcome {
        took,
        depth,
        marks: world.all_marks(),
        taken: world.taken,
        changes: world.changes(),
    }
}

/// At rest all hear that what they have is all there is, later at each level, until the writer
/// is gone.
fn rests(world: &mut World) {
    let lease = world.timing.lease;
    let levels = 1..=world.depth();
    world.run(world.now + lease * 3);
    for depth in levels.clone() {
        let (age, most) = (world.oldest(depth), (lease / 3 + RTT * 2) * depth);
        assert!(age <= Some(most), "{age:?} at level {depth}");
    }
    world.gone = Some(world.now);
    world.run(world.now + lease * 2);
    for depth in levels {
        let (age, least) = (world.oldest(depth), lease * 2 - RTT * depth);
        assert!(
            age.is_none_or(|age| age >= least),
            "{age:?} at level {depth}"
        );
    }
}

/// The full count; `make versions`.
#[test]
#[ignore = "minutes; `make versions`"]
fn a_million_versions_arrive_whole() {
    let (mut taken, mut seed) = (0, 0);
    while taken < 1_000_000 {
        (taken, seed) = (taken + check(seed).taken, seed + 1);
    }
    println!("{taken} versions in {seed} worlds, none torn, all converged");
}

#[test]
fn receivers_have_whole_versions_and_converge() {
    let seeds: u64 = std::env::var("REGION_SEEDS").map_or(200, |n| n.parse().expect("a number"));
    let (mut marks, mut taken, mut longest) = (BTreeSet::new(), 0, [Duration::ZERO; 3]);
    let mut changes = 0;
    for seed in 0..seeds {
        let outcome = check(seed);
        marks.extend(outcome.marks);
        taken += outcome.taken;
        changes += outcome.changes;
        let longest = &mut longest[outcome.depth as usize - 1];
        *longest = outcome.took.max(*longest);
    }
    println!(
        "{seeds} seeds, {taken} versions taken, none torn; longest, by levels, {longest:?} of {RTT:?}; \
         {changes} times another sender"
    );
    assert!(changes > 0, "nobody asked another sender");
    assert!(
        longest.iter().all(|took| *took > Duration::ZERO),
        "a depth was not tried"
    );
    let all = [
        Mark::Repaired,
        Mark::OwnWay,
        Mark::FromNothing,
        Mark::WentOn,
        Mark::GivenUp,
        Mark::Forgotten,
    ];
    assert_eq!(marks, all.into(), "a rare branch was not reached");
}

/// Without loss the wire carries what changed, and little else.
#[test]
fn the_wire_carries_what_changed() {
    let timing = Timing::default();
    let mut export = Export::new(REGION, timing, 1400);
    let mut import = Import::new(REGION, 100_000, At::default(), timing);
    let (mut now, mut source) = (Time::from_millis(1), vec![1; 100_000]);
    let (mut sent, mut changed) = (0, 0);
    for version in 1..200 {
        let lines = 16 + version as usize % 100;
        let first = version as usize * 131 % 1000;
        for line in first..first + lines {
            source[line * LINE] ^= 1;
        }
        export.update(now, &source, At { epoch: 1, version }, 0);
        while import.has() != export.at() {
            if let Some(report) = import.poll(now) {
                export.on_message(now, 1, &report).unwrap();
            }
            export.on_time(now);
            while let Some(Outgoing { body, .. }) = export.poll(now) {
                if version > 1 {
                    sent += body.len();
                }
                import.on_message(now, Life::default(), &body).unwrap();
            }
            now = now + timing.patience / 4;
        }
        let report = import.poll(now).expect("what came is reported");
        export.on_message(now, 1, &report).unwrap();
        assert!(export.peers().all(|(_, has)| has.version == version));
        if version > 1 {
            changed += lines * LINE;
        }
    }
    let ratio = sent as f64 / changed as f64;
    assert!((1.0..1.15).contains(&ratio), "{ratio}");
}

/// A copy is a region like any other: its readers see the versions of the original.
#[test]
fn a_copy_is_a_region() {
    use crate::{Reader, Spec, Writer};
    let mut original = Writer::<[u64]>::create(&Spec::array::<u64>(1001)).unwrap();
    let mut copy = Writer::<[u64]>::create(&Spec::array::<u64>(1001)).unwrap();
    let reader = |w: &Writer<[u64]>| {
        Reader::<[u64]>::open(w.fd().try_clone_to_owned().unwrap(), "").unwrap()
    };
    let (source, target) = (reader(&original), reader(&copy));
    let timing = Timing::default();
    let mut export = Export::new(REGION, timing, 1400);
    let mut import = Import::new(REGION, 1001 * 8, At::default(), timing);
    let mut now = Time::from_millis(1);
    for round in 1..20 {
        original.edit_all()[1000] = round;
        original.set(|w| &w[round as usize], round);
        original.publish().unwrap();
        original.publish().unwrap();
        let snapshot = source.snapshot().unwrap();
        let edition = snapshot.edition();
        let at = At {
            epoch: edition.epoch,
            version: edition.version,
        };
        export.update(now, snapshot.bytes(), at, edition.published_day_ns);
        while import.has() != at {
            if let Some(report) = import.poll(now) {
                export.on_message(now, 1, &report).unwrap();
            }
            export.on_time(now);
            while let Some(Outgoing { body, .. }) = export.poll(now) {
                if let Some(step) = import.on_message(now, Life::default(), &body).unwrap() {
                    step.publish(&mut copy).unwrap();
                }
            }
            now = now + timing.patience;
        }
        let received = target.snapshot().unwrap();
        assert_eq!(received.bytes(), snapshot.bytes());
        assert_eq!(received.edition().version, edition.version);
        assert_eq!(
            received.edition().published_day_ns,
            edition.published_day_ns
        );
    }
}

/// A receiver that another sender led further needs nothing, holds up nobody, and may leave.
#[test]
fn who_has_more_is_left_alone() {
    let timing = Timing::default();
    let mut export = Export::new(REGION, timing, 1400);
    let now = Time::from_millis(1);
    let at = |version| At { epoch: 1, version };
    let say = |export: &mut Export, now, version| {
        let mut import = Import::new(REGION, 100, at(version), timing);
        let report = import.poll(now).expect("one that begins says what it has");
        export.on_message(now, 1, &report).unwrap();
        import
    };
    export.update(now, &[1; 100], at(5), 50);
    say(&mut export, now, 7);
    let later = now + timing.interval + timing.patience * 3;
    export.on_time(later);
    assert_eq!(export.poll(later), None);
    assert!(export.is_ready(later), "nobody is waited for");
    // One that has less is, until it has another sender.
    let import = say(&mut export, later, 4);
    assert!(!export.is_ready(later) && export.poll(later).is_some());
    export.on_message(later, 1, &import.farewell()).unwrap();
    assert!(export.is_ready(later) && export.peers().count() == 0);
    assert_eq!(export.poll(later), None);
}
