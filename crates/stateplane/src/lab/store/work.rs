//! What the clients of a machine ask for, and when. Values are unique, so that a stale or
//! misplaced answer cannot look right by accident.

use std::time::Duration;

use anyhow::{Result, bail};
use stateplane_base::Time;
use stateplane_sim::spec::{Action, Object, Outcome};

use super::load::{Habits, OBJECTS};

/// The clients of one machine.
pub(super) struct Work {
    dice: fastrand::Rng,
    think: Duration,
    machine: u64,
    values: u64,
    clients: Vec<Client>,
    /// The value last seen in each key: a likely guess for a compare-and-set.
    seen: [u64; 4],
}

/// One client.
#[derive(Clone, Debug)]
struct Client {
    /// Operations it has under way at most.
    depth: u16,
    /// Operations it may still ask for before it thinks again.
    left: u16,
    under_way: u16,
    due: Time,
}

impl Work {
    /// The number of the client that reads back.
    pub(super) const READER: u32 = 0xffff;

    pub(super) fn new(machine: u64, habits: Habits) -> Self {
        let alone = std::iter::repeat_n(1, usize::from(habits.clients));
        let several = std::iter::repeat_n(habits.pipeline, usize::from(habits.clients / 4));
        let client = |depth| Client {
            depth,
            left: depth,
            under_way: 0,
            due: Time::ZERO,
        };
        Self {
            dice: fastrand::Rng::new(),
            think: habits.think,
            machine,
            values: 0,
            clients: alone.chain(several).map(client).collect(),
            seen: [0; 4],
        }
    }

    /// All clients think, then ask.
    pub(super) fn begin(&mut self, now: Time) {
        for at in 0..self.clients.len() {
            let span = self.pause();
            let client = &mut self.clients[at];
            (client.left, client.due) = (client.depth, now + span);
        }
    }

    /// When a client asks next.
    pub(super) fn due(&self) -> Time {
        let idle = self.clients.iter().filter(|c| c.left > 0);
        idle.map(|c| c.due).min().unwrap_or(Time::MAX)
    }

    /// What is asked now, by whom, and whether without a slot.
    pub(super) fn next(&mut self, now: Time) -> Option<(u32, Action, bool)> {
        let mut numbered = (0..).zip(&mut self.clients);
        let (number, client) = numbered.find(|(_, c)| c.left > 0 && c.due <= now)?;
        client.left -= 1;
        client.under_way += 1;
        let action = self.action();
        let read = action.reads() && self.dice.u8(..10) < 6;
        Some((number, action, read))
    }

    /// An operation of `client` has ended.
    pub(super) fn hear(
        &mut self,
        now: Time,
        client: u32,
        action: Action,
        outcome: Option<Outcome>,
    ) {
        if let (Action::Get(key), Some(Outcome::Found(Some(value)))) = (action, outcome) {
            self.seen[usize::from(key)] = value;
        }
        let span = self.pause();
        let client = &mut self.clients[client as usize];
        client.under_way -= 1;
        if client.under_way == 0 && client.left == 0 {
            (client.left, client.due) = (client.depth, now + span);
        }
    }

    /// Exponentially distributed, as if many more clients asked more seldom.
    fn pause(&mut self) -> Duration {
        // 1 - f64() lies in (0, 1], so that the logarithm is finite.
        self.think.mul_f64(-(1.0 - self.dice.f64()).ln())
    }

    fn value(&mut self) -> u64 {
        self.values += 1;
        (self.machine + 1) << 32 | self.values
    }

    fn action(&mut self) -> Action {
        let (key, object, queue) = (self.dice.u8(..4), self.dice.u8(..3), self.dice.u8(..2));
        match self.dice.u8(..20) {
            0..=5 => Action::Get(key),
            6..=9 => {
                let value = self.value();
                self.seen[usize::from(key)] = value;
                Action::Put(key, value)
            }
            10..=11 => Action::Swap(key, self.seen[usize::from(key)], self.value()),
            12 => Action::Delete(key),
            13..=15 => Action::Add(object, self.dice.i64(1..100)),
            16..=17 => Action::Push(queue, self.value()),
            _ => Action::Pop(queue),
        }
    }
}

/// Reads back every object, queues to their ends.
#[derive(Debug)]
pub(super) struct Scan {
    left: Vec<Object>,
    under_way: usize,
    unanswered: u32,
}

/// A healed store that leaves so many reads unanswered is not healed.
const PATIENCE: u32 = 10;

impl Default for Scan {
    fn default() -> Self {
        Self {
            left: OBJECTS.into(),
            under_way: 0,
            unanswered: 0,
        }
    }
}

impl Scan {
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty() && self.under_way == 0
    }

    /// What is to be read now.
    pub(super) fn next(&mut self) -> Option<Action> {
        let object = self.left.pop()?;
        self.under_way += 1;
        Some(match object {
            Object::Key(key) | Object::Timed(key) => Action::Get(key),
            Object::Counter(counter) => Action::Add(counter, 0),
            Object::Queue(queue) | Object::Pool(queue) => Action::Pop(queue),
        })
    }

    pub(super) fn hear(&mut self, action: Action, outcome: Option<Outcome>) -> Result<()> {
        self.under_way -= 1;
        let more = match outcome {
            None => {
                self.unanswered += 1;
                true
            }
            Some(Outcome::Found(Some(_))) => matches!(action, Action::Pop(_)),
            Some(_) => false,
        };
        if self.unanswered > PATIENCE {
            bail!("everything is mended, and {PATIENCE} reads went unanswered");
        }
        if more {
            self.left.push(action.object());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn habits() -> Habits {
        Habits {
            clients: 8,
            pipeline: 5,
            think: Duration::from_millis(1),
        }
    }

    #[test]
    fn a_client_asks_again_only_after_its_answers() {
        let mut work = Work::new(0, habits());
        let later = Time::from_millis(1_000);
        work.begin(Time::ZERO);
        let first: Vec<_> = std::iter::from_fn(|| work.next(later)).collect();
        assert_eq!(
            first.len(),
            8 + 2 * 5,
            "eight ask once, two fill their pipes"
        );
        let (client, action, _) = first[0];
        work.hear(later, client, action, None);
        assert!(work.due() > later && work.due() < Time::MAX);
        let next = std::iter::from_fn(|| work.next(Time::MAX)).count();
        assert_eq!(next, 1);
    }

    #[test]
    fn reading_back_ends_with_the_queues_and_not_before() {
        let mut scan = Scan::default();
        let asked: Vec<Action> = std::iter::from_fn(|| scan.next()).collect();
        assert_eq!(asked.len(), OBJECTS.len());
        for action in asked {
            let outcome = match action {
                Action::Add(..) => Outcome::Sum(3),
                _ => Outcome::Found(Some(7)),
            };
            scan.hear(action, Some(outcome)).expect("answered");
        }
        assert!(!scan.is_done());
        let pops: Vec<Action> = std::iter::from_fn(|| scan.next()).collect();
        assert_eq!(pops, [Action::Pop(0), Action::Pop(1)]);
        for pop in pops {
            scan.hear(pop, Some(Outcome::Found(None)))
                .expect("answered");
        }
        assert!(scan.is_done());
    }

    #[test]
    fn a_store_that_never_answers_ends_the_reading() {
        let mut scan = Scan::default();
        let ended = (0..100).find_map(|_| {
            let action = scan.next()?;
            scan.hear(action, None).err()
        });
        assert!(ended.is_some());
    }
}
