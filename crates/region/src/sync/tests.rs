//! A sender and its receivers in a world that loses, duplicates and reorders.
//!
//! Every version that a receiver takes must be, byte for byte, one that the source had;
//! versions go on; and when losses end, all have the newest within two round trips.
//! `REGION_SEEDS=20000 cargo test -p stateplane-region --lib sync --release` for more.

use std::collections::{BTreeMap, BTreeSet};

use stateplane_base::Time;

use super::*;
use crate::LINE;

const RTT: Duration = Duration::from_micros(400);
const REGION: u64 = 7;

#[derive(Clone, Debug)]
enum Mail {
    ToImport(usize, Vec<u8>),
    ToExport(usize, Vec<u8>),
}

struct World {
    rng: fastrand::Rng,
    now: Time,
    timing: Timing,
    datagram: usize,
    loss: f64,
    duplicates: f64,
    mail: BTreeMap<(Time, u64), Mail>,
    sent: u64,
    /// The source, and every version it ever had.
    source: Vec<u8>,
    at: At,
    history: BTreeMap<At, Vec<u8>>,
    export: Export,
    imports: Vec<(Import, Vec<u8>)>,
    marks: BTreeSet<Mark>,
    taken: u64,
    last_loss: Time,
    /// When the source went on from each version, and since when its writer is gone: nobody
    /// says any more that the last one is all there is.
    left: BTreeMap<At, Time>,
    gone: Option<Time>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let most = [100, 3000, 20_000][rng.usize(0..3)];
        let len = rng.usize(1..most);
        let timing = Timing {
            interval: Duration::from_micros(rng.u64(0..1000)),
            patience: RTT / 2,
            hold: Duration::from_micros(rng.u64(100..10_000)),
            lease: Duration::from_millis(50),
            burst: rng.usize(2_000..100_000),
        };
        let datagram = rng.usize(400..1400);
        let mut world = Self {
            now: Time::from_millis(1),
            timing,
            datagram,
            loss: rng.f64() * 0.3,
            duplicates: rng.f64() * 0.1,
            mail: BTreeMap::new(),
            sent: 0,
            source: vec![0; len],
            at: At {
                epoch: 1,
                version: 0,
            },
            history: BTreeMap::new(),
            export: Export::new(REGION, timing, datagram),
            imports: vec![],
            marks: BTreeSet::new(),
            taken: 0,
            last_loss: Time::ZERO,
            left: BTreeMap::new(),
            gone: None,
            rng,
        };
        for _ in 0..world.rng.usize(1..4) {
            world.join();
        }
        world
    }

    fn join(&mut self) {
        let len = self.source.len();
        let import = Import::new(REGION, len, At::default(), self.timing);
        self.imports.push((import, vec![0xee; len]));
    }

    /// The source changes and publishes.
    fn change(&mut self) {
        let len = self.source.len();
        match self.rng.u8(0..8) {
            0 => self.source.fill(0),
            1 => {
                let byte = self.rng.u8(..);
                self.source.fill(byte);
            }
            2 => {} // a version without a change
            3 => self.rng.fill(&mut self.source),
            _ => {
                for _ in 0..self.rng.usize(1..20) {
                    let at = self.rng.usize(..len);
                    self.source[at] = self.rng.u8(..);
                }
            }
        }
        if let Some((last, _)) = self.history.last_key_value() {
            self.left.insert(*last, self.now);
        }
        self.at.version += 1;
        self.history.insert(self.at, self.source.clone());
    }

    fn post(&mut self, mail: Mail) {
        let copies = if self.rng.f64() < self.loss {
            self.last_loss = self.now;
            0
        } else {
            1 + u64::from(self.rng.f64() < self.duplicates)
        };
        for _ in 0..copies {
            // Anything from at once to half a round trip: later ones overtake.
            let delay = RTT.as_nanos() as u64 / 2;
            let arrives = self.now + Duration::from_nanos(self.rng.u64(1..=delay));
            self.sent += 1;
            self.mail.insert((arrives, self.sent), mail.clone());
        }
    }

    /// Everything that can be done at this moment.
    fn turn(&mut self) {
        while let Some(entry) = self.mail.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                Mail::ToExport(from, body) => {
                    let number = from as u16;
                    self.export.on_message(self.now, number, &body).unwrap();
                }
                Mail::ToImport(to, body) => self.deliver(to, &body),
            }
        }
        if self.export.is_ready(self.now) && self.at.version > 0 {
            self.export
                .update(self.now, &self.source, self.at, self.at.version * 10);
            self.export.checked(self.gone.unwrap_or(self.now));
        }
        self.export.on_time(self.now);
        while let Some(Outgoing { to, body }) = self.export.poll(self.now) {
            assert!(body.len() <= self.datagram, "{} bytes", body.len());
            for number in to.iter() {
                self.post(Mail::ToImport(usize::from(*number), body.clone()));
            }
        }
        for number in 0..self.imports.len() {
            if let Some(body) = self.imports[number].0.poll(self.now) {
                self.post(Mail::ToExport(number, body));
            }
        }
    }

    fn deliver(&mut self, to: usize, body: &[u8]) {
        let (import, copy) = &mut self.imports[to];
        let had = import.has();
        let Some(step) = import.on_message(self.now, body).unwrap() else {
            assert_eq!(import.has(), had);
            return;
        };
        assert!(
            step.at() > had && step.at() == import.has(),
            "versions go on"
        );
        assert_eq!(step.day_ns(), step.at().version * 10);
        if step.is_from_nothing() {
            copy.fill(0);
        }
        step.for_each(|at, bytes| copy[at..at + bytes.len()].copy_from_slice(bytes));
        let expected = &self.history[&step.at()];
        assert!(
            copy == expected,
            "receiver {to} has a torn version {:?}",
            step.at()
        );
        self.taken += 1;
    }

    /// No copy claims to be newer than it is, but for the time on the wire.
    fn check_ages(&self) {
        for (import, _) in &self.imports {
            let has = import.has();
            assert!(has.version > 0 || import.current().is_none());
            let left = self.left.get(&has).copied().or(self.gone);
            let latest = left.unwrap_or(self.now) + RTT / 2;
            assert!(import.current().is_none_or(|at| at <= latest), "{has:?}");
        }
    }

    fn run(&mut self, until: Time) {
        loop {
            self.turn();
            self.check_ages();
            let timers = self.imports.iter().map(|(import, _)| import.next_timer());
            let mail = self.mail.keys().next().map_or(Time::MAX, |(at, _)| *at);
            let next = timers.min().unwrap_or(Time::MAX).min(mail);
            let next = next.min(self.export.next_timer());
            // What is ready to be taken up has no timer: the driver looks in its turns.
            let turn = self.now + Duration::from_micros(20);
            if next.min(turn) > until {
                self.now = until;
                return;
            }
            self.now = next.min(turn).max(self.now + Duration::from_nanos(1));
        }
    }

    fn upheaval(&mut self) {
        match self.rng.u8(0..40) {
            0 if self.imports.len() < 5 => self.join(),
            1 => {
                // A receiver restarts: with its copy, or without.
                let at = self.rng.usize(..self.imports.len());
                let (import, copy) = &mut self.imports[at];
                self.marks.extend(import.marks());
                let has = if self.rng.bool() {
                    import.has()
                } else {
                    copy.fill(0x77);
                    At::default()
                };
                *import = Import::new(REGION, copy.len(), has, self.timing);
            }
            2 => {
                // The sender restarts, and knows nobody.
                self.marks.extend(self.export.marks());
                self.export = Export::new(REGION, self.timing, self.datagram);
            }
            3 => {
                // Another writer, that goes on from an older version.
                self.at.epoch += 1;
                self.at.version = self.at.version.saturating_sub(self.rng.u64(0..3));
                self.rng.fill(&mut self.source);
                self.change();
            }
            4 => self.loss = self.rng.f64() * 0.3,
            5 => {
                // Nothing passes for longer than the lease.
                let loss = std::mem::replace(&mut self.loss, 1.0);
                self.run(self.now + self.timing.lease * 2);
                self.loss = loss;
            }
            _ => {}
        }
    }
}

/// How long after the last loss all had the newest version.
pub(super) fn check(seed: u64) -> (Duration, BTreeSet<Mark>, u64) {
    let mut world = World::new(seed);
    for _ in 0..60 {
        world.change();
        world.upheaval();
        let pause = Duration::from_micros(world.rng.u64(1..2000));
        world.run(world.now + pause);
    }
    // The source rests; the newest version must be on its way before losses end.
    world.change();
    let mut waited = 0;
    while world.export.at() != world.at || world.export.peers().count() < world.imports.len() {
        world.run(world.now + RTT);
        waited += 1;
        assert!(waited < 10_000, "the newest version is never taken up");
    }
    let more = Duration::from_micros(world.rng.u64(1..3000));
    world.run(world.now + more);
    world.loss = 0.0;
    let end = world.now;
    while world
        .imports
        .iter()
        .any(|(import, _)| import.has() != world.at)
    {
        world.run(world.now + RTT / 20);
        assert!(
            world.now < end + Duration::from_secs(2),
            "does not converge"
        );
    }
    let took = world.now.since(end);
    // At rest all hear that what they have is all there is, until the writer is gone.
    let lease = world.timing.lease;
    let age = |world: &World| {
        let currents = world.imports.iter().map(|(import, _)| import.current());
        world
            .now
            .since(currents.min().flatten().expect("all have it"))
    };
    world.run(world.now + lease * 2);
    assert!(age(&world) <= lease / 3 + RTT * 2, "{:?}", age(&world));
    world.gone = Some(world.now);
    world.run(world.now + lease * 2);
    assert!(age(&world) >= lease * 2 - RTT, "{:?}", age(&world));
    let World {
        export,
        imports,
        mut marks,
        taken,
        ..
    } = world;
    marks.extend(export.marks());
    imports
        .iter()
        .for_each(|(import, _)| marks.extend(import.marks()));
    // What remains to be sent is bounded by the burst, not by the protocol.
    assert!(
        took <= RTT * 2 + RTT / 4,
        "seed {seed}: {took:?} after the last loss"
    );
    (took, marks, taken)
}

/// The full count; `make versions`.
#[test]
#[ignore = "minutes; `make versions`"]
fn a_million_versions_arrive_whole() {
    let (mut taken, mut seed) = (0, 0);
    while taken < 1_000_000 {
        let (_, _, versions) = check(seed);
        (taken, seed) = (taken + versions, seed + 1);
    }
    println!("{taken} versions in {seed} worlds, none torn, all converged");
}

#[test]
fn receivers_have_whole_versions_and_converge() {
    let seeds: u64 = std::env::var("REGION_SEEDS").map_or(200, |n| n.parse().expect("a number"));
    let (mut marks, mut taken, mut longest) = (BTreeSet::new(), 0, Duration::ZERO);
    for seed in 0..seeds {
        let (took, reached, versions) = check(seed);
        marks.extend(reached);
        taken += versions;
        longest = longest.max(took);
    }
    println!("{seeds} seeds, {taken} versions taken, none torn; longest {longest:?} of {RTT:?}");
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
                import.on_message(now, &body).unwrap();
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
                if let Some(step) = import.on_message(now, &body).unwrap() {
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
