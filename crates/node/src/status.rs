//! What the threads of a node publish for `show` and the admin API.
//!
//! A role updates its status a few times a second; whoever asks gets a copy.
//! A role never waits for who reads: what it could not publish it publishes the next time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use stateplane_base::Time;

use crate::regions::telemetry::Sheet;

/// How often a role should publish.
pub const EVERY: Duration = Duration::from_millis(50);

/// A role's published part.
pub trait RoleStatus: Serialize + Clone + Send + 'static {
    /// Whether the role does its work; if not, why not.
    fn readiness(&self) -> Result<(), String>;

    /// Enters what the role counts.
    fn count(&self, out: &mut Sheet);
}

/// The writing end: owned by the role's thread.
#[derive(Debug)]
pub struct Publisher<T> {
    slot: Arc<Mutex<T>>,
    next: Time,
}

impl<T: RoleStatus> Publisher<T> {
    /// Whether it is time to publish again.
    pub fn due(&mut self, now: Time) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + EVERY;
        true
    }

    /// When a role has to wake up for it. One that wakes for something else meanwhile, as nearly all do,
    /// publishes then: to wake up costs more than to publish.
    pub fn next(&self) -> Time {
        self.next + EVERY
    }

    /// Changes what is published, unless somebody is just reading it: a packet loop waits for
    /// nobody, and comes again soon.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        match self.slot.try_lock() {
            Ok(mut slot) => change(&mut slot),
            Err(TryLockError::Poisoned(slot)) => change(&mut slot.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Changes what is published, waiting for who reads it: for threads that may.
    pub fn amend(&self, change: impl FnOnce(&mut T)) {
        change(&mut lock(&self.slot));
    }

    /// Another publisher of the same part.
    pub fn share(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
            next: self.next,
        }
    }
}

/// One role as the board shows it.
struct Look {
    /// Ready or why not, and its part.
    show: Box<dyn Fn() -> (Result<(), String>, Value) + Send + Sync>,
    count: Box<dyn Fn(&mut Sheet) + Send + Sync>,
}

/// All roles of a node, by name.
#[derive(Default)]
pub struct Board {
    roles: BTreeMap<&'static str, Look>,
    /// Parts of the node that are no roles.
    others: BTreeMap<&'static str, Look>,
}

impl Board {
    /// Adds a role with its first status; the publisher goes to its thread.
    pub fn add<T: RoleStatus>(&mut self, role: &'static str, first: T) -> Publisher<T> {
        let (publisher, look) = published(first);
        self.roles.insert(role, look);
        publisher
    }

    /// Adds a part of the node that is no role.
    pub fn add_other<T: RoleStatus>(&mut self, name: &'static str, first: T) -> Publisher<T> {
        let (publisher, look) = published(first);
        self.others.insert(name, look);
        publisher
    }

    /// The role's part, if the node has the role.
    pub fn part(&self, role: &str) -> Option<Value> {
        self.roles.get(role).map(|look| (look.show)().1)
    }

    /// The names of the roles.
    pub fn roles(&self) -> Vec<&'static str> {
        self.roles.keys().copied().collect()
    }

    /// What all roles count.
    pub fn sheet(&self) -> Sheet {
        let mut sheet = Sheet::default();
        for (role, look) in &self.roles {
            sheet.of(role);
            (look.count)(&mut sheet);
        }
        sheet
    }

    /// All parts, and what keeps the node from being ready.
    pub fn all(&self) -> (BTreeMap<&'static str, Value>, Vec<String>) {
        let mut parts = BTreeMap::new();
        let mut waiting = Vec::new();
        for (role, look) in self.roles.iter().chain(&self.others) {
            let (ready, part) = (look.show)();
            if let Err(why) = ready {
                waiting.push(format!("{role}: {why}"));
            }
            parts.insert(*role, part);
        }
        (parts, waiting)
    }
}

/// The writing end of a part, and the reading one.
fn published<T: RoleStatus>(first: T) -> (Publisher<T>, Look) {
    let slot = Arc::new(Mutex::new(first));
    let shared = Arc::clone(&slot);
    let counted = Arc::clone(&slot);
    let look = Look {
        show: Box::new(move || {
            let copy = lock(&shared).clone();
            let value = serde_json::to_value(&copy).unwrap_or(Value::Null);
            (copy.readiness(), value)
        }),
        count: Box::new(move |sheet| {
            let copy = lock(&counted).clone();
            copy.count(sheet);
        }),
    };
    let publisher = Publisher {
        slot,
        next: Time::ZERO,
    };
    (publisher, look)
}

/// A panic in one thread must not spread through its published numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_region::How;

    #[derive(Clone, Serialize)]
    struct Number {
        n: u32,
    }

    impl RoleStatus for Number {
        fn readiness(&self) -> Result<(), String> {
            if self.n > 0 {
                Ok(())
            } else {
                Err("has no number".to_owned())
            }
        }

        fn count(&self, out: &mut Sheet) {
            out.level("n", "things", self.n.into());
        }
    }

    #[test]
    fn readers_see_the_newest_part_and_why_it_is_not_ready() {
        let mut board = Board::default();
        let mut publisher = board.add("number", Number { n: 0 });
        assert_eq!(board.all().1, ["number: has no number"]);
        publisher.update(|s| s.n = 7);
        assert!(board.all().1.is_empty());
        assert_eq!(board.part("number"), Some(serde_json::json!({ "n": 7 })));
        assert_eq!(board.part("other"), None);
        let sheet = board.sheet();
        let rows: Vec<_> = sheet.rows().collect();
        assert_eq!(rows, [("number.n", "things", How::Level, 7)]);
        let reading = publisher.share();
        let held = lock(&reading.slot);
        publisher.update(|s| s.n = 8);
        drop(held);
        assert_eq!(
            board.part("number"),
            Some(serde_json::json!({ "n": 7 })),
            "nobody waited"
        );
        publisher.update(|s| s.n = 8);
        assert_eq!(board.part("number"), Some(serde_json::json!({ "n": 8 })));
        assert!(publisher.due(Time::from_millis(1)));
        assert!(!publisher.due(Time::from_millis(50)));
        assert_eq!(publisher.next(), Time::from_millis(101));
        assert!(publisher.due(Time::from_millis(51)));
    }
}
