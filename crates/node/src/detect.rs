//! Which instances live: judged by their heartbeats alone.
//!
//! Detection is speculative. Calling a slow instance dead costs a few moved
//! flows, whose state is in the store; so silence is judged quickly, and a
//! return only after a stable while.

use std::time::Duration;

use stateplane_base::{Incarnation, Time};
use stateplane_wire::heartbeat::State;

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
    /// Watches `instances`, none of which has been heard yet.
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

    /// A heartbeat arrived. Returns whether the set of live instances changed.
    pub fn on_heartbeat(
        &mut self,
        now: Time,
        instance: usize,
        life: Incarnation,
        state: State,
    ) -> bool {
        let Some(watch) = self.watched.get_mut(instance) else {
            return false;
        };
        let before = watch.health;
        let first = before == Health::Unknown;
        let new_life = !first && watch.life != life;
        if new_life && life < watch.life {
            return false; // a late beat of a life that has ended
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
        (before == Health::Live) != (watch.health == Health::Live)
    }

    /// Looks for silence. Returns whether the set of live instances changed.
    pub fn on_timer(&mut self, now: Time) -> bool {
        let mut changed = false;
        for watch in &mut self.watched {
            let heard = !matches!(watch.health, Health::Unknown | Health::Dead);
            if heard && now.since(watch.last) >= self.dead_after {
                changed |= watch.health == Health::Live;
                watch.health = Health::Dead;
            }
        }
        changed
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

    /// The live instances in ascending order.
    pub fn live(&self) -> impl Iterator<Item = usize> {
        let numbered = self.watched.iter().enumerate();
        numbered
            .filter(|(_, w)| w.health == Health::Live)
            .map(|(n, _)| n)
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

    fn live(detector: &Detector) -> Vec<usize> {
        detector.live().collect()
    }

    /// Two instances, both live at 0 ms, in life 1.
    fn two_live() -> Detector {
        let mut detector = Detector::new(2, DEAD);
        assert!(detector.on_heartbeat(at(0), 0, Incarnation(1), State::Serving));
        assert!(detector.on_heartbeat(at(0), 1, Incarnation(1), State::Serving));
        detector
    }

    #[test]
    fn an_instance_lives_from_its_first_beat() {
        let mut detector = Detector::new(2, DEAD);
        assert_eq!((live(&detector), detector.next_timer()), (vec![], None));
        assert!(!detector.on_timer(at(500)), "nobody can die before living");
        assert!(detector.on_heartbeat(at(0), 1, Incarnation(1), State::Serving));
        assert_eq!(live(&detector), [1]);
        assert!(!detector.on_heartbeat(at(5), 1, Incarnation(1), State::Serving));
    }

    #[test]
    fn silence_kills_at_the_deadline_and_not_before() {
        let mut detector = two_live();
        detector.on_heartbeat(at(15), 1, Incarnation(1), State::Serving);
        assert_eq!(detector.next_timer(), Some(at(20)));
        assert!(!detector.on_timer(at(19)));
        assert!(detector.on_timer(at(20)));
        assert_eq!(
            (live(&detector), detector.health(0)),
            (vec![1], Health::Dead)
        );
        assert_eq!(detector.next_timer(), Some(at(35)));
    }

    #[test]
    fn the_dead_return_only_after_a_stable_while() {
        let mut detector = two_live();
        detector.on_timer(at(20));
        for ms in (30..130).step_by(5) {
            assert!(
                !detector.on_heartbeat(at(ms), 0, Incarnation(1), State::Serving),
                "{ms}"
            );
        }
        assert!(detector.on_heartbeat(at(130), 0, Incarnation(1), State::Serving));
        assert_eq!(live(&detector), [0]);
    }

    #[test]
    fn a_gap_while_returning_starts_the_wait_again() {
        let mut detector = two_live();
        detector.on_timer(at(20));
        detector.on_heartbeat(at(30), 0, Incarnation(1), State::Serving);
        assert!(
            !detector.on_timer(at(60)),
            "it was not live, so nothing changes"
        );
        assert!(!detector.on_heartbeat(at(131), 0, Incarnation(1), State::Serving));
        assert_eq!(detector.health(0), Health::Returning);
    }

    #[test]
    fn a_new_life_is_noticed_even_without_silence() {
        let mut detector = two_live();
        assert!(detector.on_heartbeat(at(5), 0, Incarnation(2), State::Serving));
        assert_eq!(
            (live(&detector), detector.health(0)),
            (vec![1], Health::Returning)
        );
        assert!(
            !detector.on_heartbeat(at(6), 0, Incarnation(1), State::Serving),
            "late beat"
        );
        assert_eq!(detector.last_heard(0), Some(at(5)));
    }

    #[test]
    fn draining_takes_effect_at_once() {
        let mut detector = two_live();
        assert!(detector.on_heartbeat(at(5), 0, Incarnation(1), State::Draining));
        assert_eq!(live(&detector), [1]);
        assert!(!detector.on_timer(at(60)) || detector.health(0) == Health::Dead);
        assert!(
            !detector.on_heartbeat(at(70), 9, Incarnation(1), State::Serving),
            "nobody"
        );
    }
}
