//! A sender, relays and receivers in a world that loses, duplicates and reorders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stateplane_base::Time;

use crate::sync::{At, Export, Import, Life, Mark, Outgoing, Parents, Timing};

pub(super) const RTT: Duration = Duration::from_micros(400);
pub(super) const REGION: u64 = 7;
/// Machines that receive, at most.
const SITES: usize = 8;
/// A relay sends what any region here holds in one turn: how long it takes after that is the
/// protocol's affair.
const RELAY_BURST: usize = 40_000;

/// Who sends to a site: the relay at another; none: the source.
type Above = Option<usize>;

/// A datagram between a machine and one above it.
#[derive(Clone, Debug)]
enum Mail {
    /// To this site, from that one above it.
    Down(usize, Above, Life, Vec<u8>),
    /// From this site, to that one above it.
    Up(usize, Above, Vec<u8>),
}

/// A machine that receives, and perhaps sends on.
struct Site {
    /// Those above it, the best first, and whom of them it asks.
    above: Vec<Above>,
    parents: Parents,
    depth: u32,
    import: Import,
    copy: Vec<u8>,
    below: Option<Export>,
    dead: bool,
    life: u64,
}

impl Site {
    fn asks(&self) -> Above {
        self.above[self.parents.chosen()]
    }
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Time,
    pub(super) timing: Timing,
    datagram: usize,
    pub(super) loss: f64,
    duplicates: f64,
    /// What is for several goes to all that hear the sender, whomever they ask.
    multicast: bool,
    mail: BTreeMap<(Time, u64), Mail>,
    sent: u64,
    /// The source, and every version it ever had.
    source: Vec<u8>,
    at: At,
    history: BTreeMap<At, Vec<u8>>,
    export: Export,
    life: u64,
    sites: Vec<Site>,
    pub(super) marks: BTreeSet<Mark>,
    pub(super) taken: u64,
    /// How often a site asked another of those above it.
    changes: u64,
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
            multicast: rng.bool(),
            mail: BTreeMap::new(),
            sent: 0,
            source: vec![0; len],
            at: At {
                epoch: 1,
                version: 0,
            },
            history: BTreeMap::new(),
            export: Export::new(REGION, timing, datagram),
            life: 1,
            sites: vec![],
            marks: BTreeSet::new(),
            taken: 0,
            changes: 0,
            left: BTreeMap::new(),
            gone: None,
            rng,
        };
        if relays {
            let first = world.join(vec![None], true);
            let second = world
                .rng
                .bool()
                .then(|| world.join(vec![Some(first)], true));
            // Perhaps beside the first.
            let spare = world.rng.bool().then(|| world.join(vec![None], true));
            let leaf = world.join(vec![Some(second.unwrap_or(first))], false);
            world.sites[leaf].above.extend(spare.map(Some));
            world.renew(leaf);
        }
        for _ in 0..world.rng.usize(1..4) {
            world.join_somewhere();
        }
        world
    }

    /// A machine joins below others, as a relay or not.
    fn join(&mut self, above: Vec<Above>, relays: bool) -> usize {
        let len = self.source.len();
        let import = Import::new(REGION, len, At::default(), self.timing);
        self.sites.push(Site {
            parents: Parents::new(above.len(), self.timing.lease),
            above,
            depth: 0,
            import,
            copy: vec![0xee; len],
            below: relays.then(|| relay(self.timing, self.datagram)),
            dead: false,
            life: 1,
        });
        self.renew(self.sites.len() - 1);
        self.sites.len() - 1
    }

    /// A site asks the first of those above it again.
    fn renew(&mut self, number: usize) {
        self.changes += self.sites[number].parents.changes();
        let above = &self.sites[number].above;
        let deepest = above.iter().flatten().map(|above| self.sites[*above].depth);
        let depth = deepest.max().unwrap_or(0) + 1;
        let parents = Parents::new(above.len(), self.timing.lease);
        let site = &mut self.sites[number];
        (site.depth, site.parents) = (depth, parents);
    }

    fn join_somewhere(&mut self) {
        let relays = (0..self.sites.len()).filter(|n| self.sites[*n].below.is_some());
        let mut above: Vec<Above> = relays.map(Some).chain([None]).collect();
        self.rng.shuffle(&mut above);
        above.truncate(self.rng.usize(1..=3));
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
            4 => {
                // As it was before the last version: to who passed that over, nothing changed.
                let before = self.history.values().rev().nth(1);
                self.source = before.cloned().unwrap_or_default();
                self.source.resize(len, 0);
            }
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
                Mail::Up(_, Some(to), _) | Mail::Down(to, ..) if self.sites[to].dead => {}
                Mail::Up(from, above, body) => {
                    let export = match above {
                        None => &mut self.export,
                        Some(n) => self.sites[n].below.as_mut().expect("a relay"),
                    };
                    export.on_message(self.now, from as u16, &body).unwrap();
                }
                Mail::Down(to, from, life, body) => self.deliver(to, from, life, &body),
            }
        }
        if self.export.is_ready(self.now) && self.at.version > 0 {
            self.export
                .update(self.now, &self.source, self.at, self.at.version * 10);
            self.export.checked(self.gone.unwrap_or(self.now));
        }
        let mut out: Vec<(Above, Outgoing)> = Vec::new();
        send(&mut self.export, self.now, None, &mut out);
        for (number, site) in self.sites.iter_mut().enumerate().filter(|(_, s)| !s.dead) {
            if let Some(export) = &mut site.below {
                export.pass_on(self.now, &site.import, &site.copy);
                send(export, self.now, Some(number), &mut out);
            }
        }
        for (from, Outgoing { to, body }) in out {
            assert!(body.len() <= self.datagram, "{} bytes", body.len());
            let life = self.life(from);
            let hears = |number: &usize| self.sites[*number].above.contains(&from);
            let to: Vec<usize> = if self.multicast && to.len() > 1 {
                (0..self.sites.len()).filter(hears).collect()
            } else {
                to.iter().map(|number| usize::from(*number)).collect()
            };
            for number in to {
                self.post(Mail::Down(number, from, life, body.clone()));
            }
        }
        (0..self.sites.len()).for_each(|number| self.report(number));
    }

    /// Who sends there.
    fn life(&self, at: Above) -> Life {
        Life {
            sender: number_of(at),
            incarnation: at.map_or(self.life, |number| self.sites[number].life),
        }
    }

    fn report(&mut self, number: usize) {
        let site = &mut self.sites[number];
        if site.dead {
            return;
        }
        let Some(body) = site.import.poll(self.now) else {
            return;
        };
        let asked = site.parents.ask(self.now);
        let farewell = asked.left.map(|left| (left, site.import.farewell()));
        let reports = [Some(asked.chosen), asked.better].into_iter().flatten();
        let reports = reports.map(|place| (place, body.clone()));
        for (place, body) in reports.chain(farewell).collect::<Vec<_>>() {
            let above = self.sites[number].above[place];
            self.post(Mail::Up(number, above, body));
        }
    }

    fn deliver(&mut self, to: usize, from: Above, life: Life, body: &[u8]) {
        let Site {
            import,
            copy,
            above,
            parents,
            ..
        } = &mut self.sites[to];
        let had = import.has();
        import.ask(number_of(above[parents.chosen()]));
        let step = import.on_message(self.now, life, body).unwrap();
        let place = above.iter().position(|above| *above == from);
        parents.on_message(self.now, place.expect("it was asked"), import.told());
        let Some(step) = step else {
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
            let timers = self.sites.iter().filter(|site| !site.dead).map(|site| {
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
                self.life += 1;
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
            6 | 7 => {
                self.kill_a_relay();
            }
            8 => self.revive(),
            _ => {}
        }
    }

    /// A relay dies, if there is one. What is below has others to ask, or waits.
    pub(super) fn kill_a_relay(&mut self) {
        let relays: Vec<&mut Site> = self
            .sites
            .iter_mut()
            .filter(|s| s.below.is_some())
            .collect();
        if let Some(relay) = self.rng.choice(relays) {
            relay.dead = true;
        }
    }

    /// All that died begin anew.
    pub(super) fn revive(&mut self) {
        for number in 0..self.sites.len() {
            if std::mem::take(&mut self.sites[number].dead) {
                self.restart(number);
            }
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
        self.sites[number].life += 1;
        self.renew(number);
    }

    /// Whether a site lives, and can be reached from the source over those that do.
    fn is_reachable(&self, number: usize) -> bool {
        let site = &self.sites[number];
        let reachable = |above: &Above| above.is_none_or(|above| self.is_reachable(above));
        !site.dead && site.above.iter().any(reachable)
    }

    fn reachable(&self) -> impl Iterator<Item = (usize, &Site)> {
        let all = self.sites.iter().enumerate();
        all.filter(|(number, _)| self.is_reachable(*number))
    }

    /// Whether the newest version is on its way to all that can be reached: taken up, and each
    /// asks somebody who can be reached and knows it, and nobody waits for others any more.
    pub(super) fn is_on_its_way(&self) -> bool {
        let known = |(number, site): (usize, &Site)| {
            let export = match site.asks() {
                None => &self.export,
                Some(above) if !self.is_reachable(above) => return false,
                Some(above) => self.sites[above].below.as_ref().expect("a relay"),
            };
            export.peers().any(|(peer, _)| usize::from(peer) == number)
        };
        let asked = |(number, site): (usize, &Site)| {
            let mut peers = site.below.iter().flat_map(Export::peers);
            peers.all(|(peer, _)| {
                let peer = &self.sites[usize::from(peer)];
                !peer.dead && peer.asks() == Some(number)
            })
        };
        let taken_up = self.export.at() == self.at;
        taken_up && self.reachable().all(|at| known(at) && asked(at))
    }

    pub(super) fn all_have_it(&self) -> bool {
        self.reachable()
            .all(|(_, site)| site.import.has() == self.at)
    }

    /// How old the oldest copy of those this deep is that can be reached; none: there are none.
    pub(super) fn oldest(&self, depth: u32) -> Option<Duration> {
        let sites = self.reachable().filter(|(_, site)| site.depth == depth);
        let currents = sites.map(|(_, site)| site.import.current().expect("all have it"));
        Some(self.now.since(currents.min()?))
    }

    /// How often a site asked another of those above it.
    pub(super) fn changes(&self) -> u64 {
        let now: u64 = self.sites.iter().map(|site| site.parents.changes()).sum();
        self.changes + now
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

fn number_of(above: Above) -> u16 {
    above.map_or(u16::MAX, |number| number as u16)
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

fn send(export: &mut Export, now: Time, from: Above, out: &mut Vec<(Above, Outgoing)>) {
    export.on_time(now);
    out.extend(std::iter::from_fn(|| Some((from, export.poll(now)?))));
}
