//! Which instances live: judged by their heartbeats alone.
//!
//! Detection is speculative. Calling a slow instance dead costs a few moved
//! flows, whose state is in the store; so silence is judged quickly, and a
//! return only after a stable while.

use std::time::Duration;

use stateplane_base::{Incarnation, Time};
use stateplane_wire::heartbeat::State;

/// Most instances behind one switch.
pub const MAX_INSTANCES: usize = 64;

/// How long an instance that was dead must beat before it gets packets again.
pub const STABLE: Duration = Duration::from_millis(100);

/// What the detector thinks of one instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Never heard of.
    Unknown,
    /// Beats, and gets packets.
    Live,
    /// Says that it will stop.
    Draining,
    /// Was silent too long.
    Dead,
    /// Beats again, but not yet long enough.
    Returning,
}

impl Health {
    /// The word in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Dead => "dead",
            Self::Returning => "returning",
        }
    }
}

/// A set of instances, by index.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Instances(u64);

impl Instances {
    /// Whether the instance is in the set.
    pub fn contains(self, instance: usize) -> bool {
        instance < MAX_INSTANCES && self.0 & (1 << instance) != 0
    }

    /// Whether nobody is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..MAX_INSTANCES as u8).filter(move |n| self.contains(usize::from(*n)))
    }
}

/// One instance under observation.
#[derive(Clone, Copy, Debug)]
struct Watch {
    health: Health,
    life: Incarnation,
    last: Time,
    stable_since: Time,
}

/// A sans-IO failure detector for the instances of one switch.
#[derive(Debug)]
pub struct Detector {
    dead_after: Duration,
    watched: Vec<Watch>,
}

impl Detector {
    /// Watches `instances` (at most [`MAX_INSTANCES`]), none of which has been
    /// heard yet.
    pub fn new(instances: usize, dead_after: Duration) -> Self {
        let never = Watch {
            health: Health::Unknown,
            life: Incarnation(0),
            last: Time::ZERO,
            stable_since: Time::ZERO,
        };
        Self {
            dead_after,
            watched: vec![never; instances],
        }
    }

    /// A heartbeat arrived.
    pub fn on_heartbeat(&mut self, now: Time, instance: usize, life: Incarnation, state: State) {
        let Some(watch) = self.watched.get_mut(instance) else {
            return;
        };
        let before = watch.health;
        let first = before == Health::Unknown;
        let new_life = !first && watch.life != life;
        if new_life && life < watch.life {
            return; // a late beat of a life that has ended
        }
        watch.life = life;
        watch.last = now;
        watch.health = match (before, state) {
            (_, State::Draining) => Health::Draining,
            (Health::Unknown, State::Serving) => Health::Live,
            // A drained instance has given up its flows: it returns like a dead one.
            (Health::Dead | Health::Draining, State::Serving) => {
                watch.stable_since = now;
                Health::Returning
            }
            // It died and came back between two beats.
            (Health::Live | Health::Returning, State::Serving) if new_life => {
                watch.stable_since = now;
                Health::Returning
            }
            (Health::Returning, State::Serving) if now.since(watch.stable_since) >= STABLE => {
                Health::Live
            }
            (kept, State::Serving) => kept,
        };
    }

    /// Looks for silence.
    pub fn on_timer(&mut self, now: Time) {
        for watch in &mut self.watched {
            let heard = !matches!(watch.health, Health::Unknown | Health::Dead);
            if heard && now.since(watch.last) >= self.dead_after {
                watch.health = Health::Dead;
            }
        }
    }

    /// When silence is next due to be noticed.
    pub fn next_timer(&self) -> Option<Time> {
        let heard = |w: &&Watch| !matches!(w.health, Health::Unknown | Health::Dead);
        self.watched
            .iter()
            .filter(heard)
            .map(|w| w.last + self.dead_after)
            .min()
    }

    /// The instances that should get packets, given those that get them at present.
    ///
    /// The live ones, and those that come back before they lost their packets. If
    /// there are none, any that return; then any that drain. If nobody is heard at
    /// all, everything stays as it is: a table that names the silent is at worst
    /// as bad as one that names nobody, and at best the alarm was false.
    pub fn serving(&self, present: Instances) -> Instances {
        let live = self.those(Health::Live);
        let returning = self.those(Health::Returning);
        let back = Instances(returning.0 & present.0);
        let choices = [
            Instances(live.0 | back.0),
            returning,
            self.those(Health::Draining),
        ];
        choices
            .into_iter()
            .find(|set| !set.is_empty())
            .unwrap_or(present)
    }

    fn those(&self, health: Health) -> Instances {
        let numbered = self.watched.iter().zip(0..);
        let matching = numbered.filter(|(w, _)| w.health == health);
        Instances(matching.fold(0, |set, (_, n)| set | 1_u64 << n))
    }

    /// What is thought of an instance.
    pub fn health(&self, instance: usize) -> Health {
        self.watched
            .get(instance)
            .map_or(Health::Unknown, |w| w.health)
    }

    /// When it was last heard; `None` if never.
    pub fn last_heard(&self, instance: usize) -> Option<Time> {
        let watch = self.watched.get(instance)?;
        (watch.health != Health::Unknown).then_some(watch.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Duration = Duration::from_millis(20);

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000 + ms)
    }

    const NOBODY: Instances = Instances(0);
    const BOTH: Instances = Instances(3);

    /// Who should get packets if nobody does at present.
    fn serving(detector: &Detector) -> Vec<u8> {
        detector.serving(NOBODY).iter().collect()
    }

    fn beat(detector: &mut Detector, ms: u64, instance: usize) {
        detector.on_heartbeat(at(ms), instance, Incarnation(1), State::Serving);
    }

    /// Two instances, both live at 0 ms, in life 1.
    fn two_live() -> Detector {
        let mut detector = Detector::new(2, DEAD);
        beat(&mut detector, 0, 0);
        beat(&mut detector, 0, 1);
        assert_eq!(serving(&detector), [0, 1]);
        detector
    }

    #[test]
    fn an_instance_lives_from_its_first_beat() {
        let mut detector = Detector::new(2, DEAD);
        detector.on_timer(at(500));
        assert_eq!((serving(&detector), detector.next_timer()), (vec![], None));
        assert_eq!(
            detector.health(1),
            Health::Unknown,
            "nobody can die before living"
        );
        beat(&mut detector, 0, 1);
        assert_eq!(serving(&detector), [1]);
        beat(&mut detector, 0, 9);
        assert_eq!(serving(&detector), [1], "there is no tenth instance");
    }

    #[test]
    fn silence_kills_at_the_deadline_and_not_before() {
        let mut detector = two_live();
        beat(&mut detector, 15, 1);
        assert_eq!(detector.next_timer(), Some(at(20)));
        detector.on_timer(at(19));
        assert_eq!(serving(&detector), [0, 1]);
        detector.on_timer(at(20));
        assert_eq!(
            (serving(&detector), detector.health(0)),
            (vec![1], Health::Dead)
        );
        assert_eq!(detector.next_timer(), Some(at(35)));
    }

    #[test]
    fn the_dead_return_only_after_a_stable_while() {
        let mut detector = two_live();
        for ms in (5..=125).step_by(5) {
            beat(&mut detector, ms, 1);
            if ms >= 30 {
                beat(&mut detector, ms, 0);
                assert_eq!(serving(&detector), [1], "{ms}");
            }
            detector.on_timer(at(ms));
        }
        beat(&mut detector, 130, 0);
        assert_eq!(serving(&detector), [0, 1]);
    }

    #[test]
    fn a_gap_while_returning_starts_the_wait_again() {
        let mut detector = two_live();
        detector.on_timer(at(20));
        beat(&mut detector, 30, 0);
        detector.on_timer(at(60));
        beat(&mut detector, 131, 0);
        assert_eq!(detector.health(0), Health::Returning);
    }

    #[test]
    fn without_better_the_returning_and_then_the_draining_serve() {
        let mut detector = two_live();
        detector.on_timer(at(20));
        assert_eq!(serving(&detector), [0u8; 0]);
        detector.on_heartbeat(at(30), 1, Incarnation(1), State::Draining);
        assert_eq!(serving(&detector), [1]);
        beat(&mut detector, 31, 0);
        assert_eq!(serving(&detector), [0]);
    }

    #[test]
    fn when_nobody_is_heard_everything_stays_as_it_is() {
        let mut detector = two_live();
        detector.on_timer(at(20));
        assert_eq!(detector.serving(BOTH), BOTH);
        // It was a false alarm: those that had packets keep them while they return.
        beat(&mut detector, 21, 1);
        assert_eq!(detector.serving(BOTH), Instances(2));
        beat(&mut detector, 22, 0);
        assert_eq!(detector.serving(BOTH), BOTH);
        for ms in (25..=121).step_by(4) {
            beat(&mut detector, ms, 1);
        }
        beat(&mut detector, 121, 1);
        assert_eq!(detector.health(1), Health::Live);
        assert_eq!(
            detector.serving(BOTH),
            BOTH,
            "one is Live earlier than the other"
        );
    }

    #[test]
    fn a_new_life_is_noticed_even_without_silence() {
        let mut detector = two_live();
        detector.on_heartbeat(at(5), 0, Incarnation(2), State::Serving);
        assert_eq!(
            (serving(&detector), detector.health(0)),
            (vec![1], Health::Returning)
        );
        beat(&mut detector, 6, 0);
        assert_eq!(
            detector.last_heard(0),
            Some(at(5)),
            "a late beat of the former life"
        );
    }

    #[test]
    fn draining_takes_effect_at_once() {
        let mut detector = two_live();
        detector.on_heartbeat(at(5), 0, Incarnation(1), State::Draining);
        assert_eq!(serving(&detector), [1]);
        detector.on_timer(at(25));
        assert_eq!(detector.health(0), Health::Dead);
    }
}
