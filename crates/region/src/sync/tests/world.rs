//! A sender, relays and receivers in a world that loses, duplicates and reorders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stateplane_base::Time;

use crate::sync::{At, Export, Import, Mark, Outgoing, Timing};

pub(super) const RTT: Duration = Duration::from_micros(400);
pub(super) const REGION: u64 = 7;
/// Machines that receive, at most.
const SITES: usize = 8;
/// A relay sends what any region here holds in one turn: how long it takes after that is the
/// protocol's affair.
const RELAY_BURST: usize = 40_000;

/// A datagram between a machine and the one above it.
#[derive(Clone, Debug)]
enum Mail {
    /// To this site, from the one above it.
    Down(usize, Vec<u8>),
    /// From this site.
    Up(usize, Vec<u8>),
}

/// A machine that receives, and perhaps sends on.
struct Site {
    /// The relay above it; none: the source.
    above: Option<usize>,
    depth: u32,
    import: Import,
    copy: Vec<u8>,
    below: Option<Export>,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Time,
    pub(super) timing: Timing,
    datagram: usize,
    pub(super) loss: f64,
    duplicates: f64,
    mail: BTreeMap<(Time, u64), Mail>,
    sent: u64,
    /// The source, and every version it ever had.
    source: Vec<u8>,
    at: At,
    history: BTreeMap<At, Vec<u8>>,
    export: Export,
    sites: Vec<Site>,
    pub(super) marks: BTreeSet<Mark>,
    pub(super) taken: u64,
    /// When the source went on from each version, and since when its writer is gone: nobody
    /// says any more that the last one is all there is.
    left: BTreeMap<At, Time>,
    pub(super) gone: Option<Time>,
}

impl World {
    /// With relays, or all below the source.
    pub(super) fn new(seed: u64, relays: bool) -> Self {
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
            sites: vec![],
            marks: BTreeSet::new(),
            taken: 0,
            left: BTreeMap::new(),
            gone: None,
            rng,
        };
        if relays {
            let first = world.join(None, true);
            let second = world.rng.bool().then(|| world.join(Some(first), true));
            world.join(Some(second.unwrap_or(first)), false);
        }
        for _ in 0..world.rng.usize(1..4) {
            world.join_somewhere();
        }
        world
    }

    /// A machine joins below another, as a relay or not.
    fn join(&mut self, above: Option<usize>, relays: bool) -> usize {
        let len = self.source.len();
        let import = Import::new(REGION, len, At::default(), self.timing);
        self.sites.push(Site {
            above,
            depth: above.map_or(0, |above| self.sites[above].depth) + 1,
            import,
            copy: vec![0xee; len],
            below: relays.then(|| relay(self.timing, self.datagram)),
        });
        self.sites.len() - 1
    }

    fn join_somewhere(&mut self) {
        let relays = (0..self.sites.len()).filter(|n| self.sites[*n].below.is_some());
        let above: Vec<Option<usize>> = relays.map(Some).chain([None]).collect();
        let above = above[self.rng.usize(..above.len())];
        self.join(above, false);
    }

    /// The source changes and publishes.
    pub(super) fn change(&mut self) {
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
                Mail::Up(from, body) => {
                    let above = self.sites[from].above;
                    let export = match above {
                        None => &mut self.export,
                        Some(n) => self.sites[n].below.as_mut().expect("a relay"),
                    };
                    export.on_message(self.now, from as u16, &body).unwrap();
                }
                Mail::Down(to, body) => self.deliver(to, &body),
            }
        }
        if self.export.is_ready(self.now) && self.at.version > 0 {
            self.export
                .update(self.now, &self.source, self.at, self.at.version * 10);
            self.export.checked(self.gone.unwrap_or(self.now));
        }
        let mut out: Vec<Outgoing> = Vec::new();
        send(&mut self.export, self.now, &mut out);
        for site in &mut self.sites {
            if let Some(export) = &mut site.below {
                export.pass_on(self.now, &site.import, &site.copy);
                send(export, self.now, &mut out);
            }
        }
        for Outgoing { to, body } in out {
            assert!(body.len() <= self.datagram, "{} bytes", body.len());
            for number in to.iter() {
                self.post(Mail::Down(usize::from(*number), body.clone()));
            }
        }
        for number in 0..self.sites.len() {
            if let Some(body) = self.sites[number].import.poll(self.now) {
                self.post(Mail::Up(number, body));
            }
        }
    }

    fn deliver(&mut self, to: usize, body: &[u8]) {
        let Site { import, copy, .. } = &mut self.sites[to];
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

    /// No copy claims to be newer than it is, but for the time on the wires.
    fn check_ages(&self) {
        for Site { import, depth, .. } in &self.sites {
            let has = import.has();
            assert!(has.version > 0 || import.current().is_none());
            let left = self.left.get(&has).copied().or(self.gone);
            let latest = left.unwrap_or(self.now) + RTT / 2 * *depth;
            assert!(import.current().is_none_or(|at| at <= latest), "{has:?}");
        }
    }

    pub(super) fn run(&mut self, until: Time) {
        loop {
            self.turn();
            self.check_ages();
            let timers = self.sites.iter().map(|site| {
                let below = site.below.as_ref().map_or(Time::MAX, Export::next_timer);
                site.import.next_timer().min(below)
            });
            let mail = self.mail.keys().next().map_or(Time::MAX, |(at, _)| *at);
            let next = timers.min().unwrap_or(Time::MAX).min(mail);
            let next = next.min(self.export.next_timer());
            // What is ready to be taken up has no timer: the driver looks in its turns.
            let turn = self.now + Duration::from_micros(20);
            if next.min(turn) > until {
                let over = self.now.since(until);
                assert!(over < Duration::from_micros(1), "a timer stands still");
                self.now = until;
                return;
            }
            self.now = next.min(turn).max(self.now + Duration::from_nanos(1));
        }
    }

    pub(super) fn upheaval(&mut self) {
        match self.rng.u8(0..40) {
            0 if self.sites.len() < SITES => self.join_somewhere(),
            1 => {
                let number = self.rng.usize(..self.sites.len());
                self.restart(number);
            }
            2 => {
                // The sender restarts, perhaps amid a version, and knows nobody.
                let amid = Duration::from_nanos(self.rng.u64(0..RTT.as_nanos() as u64));
                self.run(self.now + amid);
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

    /// A receiver restarts: with its copy, or without. A relay begins from nothing, and knows
    /// nobody.
    fn restart(&mut self, number: usize) {
        let Site {
            import,
            copy,
            below,
            ..
        } = &mut self.sites[number];
        self.marks.extend(import.marks());
        let has = if below.is_none() && self.rng.bool() {
            import.has()
        } else {
            copy.fill(0x77);
            At::default()
        };
        *import = Import::new(REGION, copy.len(), has, self.timing);
        if let Some(below) = below {
            self.marks.extend(below.marks());
            *below = relay(self.timing, self.datagram);
        }
    }

    /// Whether the newest version is on its way to all: taken up, and everybody is known to
    /// who is above.
    pub(super) fn is_on_its_way(&self) -> bool {
        let known = |export: &Export, above: Option<usize>| {
            let below = self.sites.iter().filter(|site| site.above == above);
            export.peers().count() >= below.count()
        };
        let relays = (0..).zip(&self.sites);
        let mut relays = relays.filter_map(|(n, site)| Some((n, site.below.as_ref()?)));
        self.export.at() == self.at
            && known(&self.export, None)
            && relays.all(|(n, export)| known(export, Some(n)))
    }

    pub(super) fn all_have_it(&self) -> bool {
        self.sites.iter().all(|site| site.import.has() == self.at)
    }

    /// How old the oldest copy of those this deep is.
    pub(super) fn oldest(&self, depth: u32) -> Duration {
        let sites = self.sites.iter().filter(|site| site.depth == depth);
        let currents = sites.map(|site| site.import.current().expect("all have it"));
        self.now.since(currents.min().unwrap_or(self.now))
    }

    pub(super) fn depth(&self) -> u32 {
        self.sites.iter().map(|site| site.depth).max().unwrap_or(0)
    }

    pub(super) fn all_marks(&self) -> BTreeSet<Mark> {
        let mut marks = self.marks.clone();
        marks.extend(self.export.marks());
        for site in &self.sites {
            marks.extend(site.import.marks());
            marks.extend(site.below.iter().flat_map(Export::marks));
        }
        marks
    }
}

/// A relay's sender, which waits for no interval: the source keeps that.
fn relay(timing: Timing, datagram: usize) -> Export {
    let timing = Timing {
        interval: Duration::ZERO,
        burst: timing.burst.max(RELAY_BURST),
        ..timing
    };
    Export::new(REGION, timing, datagram)
}

fn send(export: &mut Export, now: Time, out: &mut Vec<Outgoing>) {
    export.on_time(now);
    out.extend(std::iter::from_fn(|| export.poll(now)));
}
