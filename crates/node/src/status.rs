//! What the threads of a node publish for `show` and the admin API.
//!
//! A role updates its status a few times a second; whoever asks gets a copy.
//! The lock is held for a copy at most, so a packet loop never waits long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use stateplane_base::Time;

/// How often a role should publish.
pub const EVERY: Duration = Duration::from_millis(20);

/// A role's published part.
pub trait RoleStatus: Serialize + Clone + Send + 'static {
    /// Whether the role does its work; if not, why not.
    fn readiness(&self) -> Result<(), String>;
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

    /// When it is next time.
    pub fn next(&self) -> Time {
        self.next
    }

    /// Changes what is published.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut lock(&self.slot));
    }
}

/// One role as the board shows it: `(ready or why not, its part)`.
type Look = Box<dyn Fn() -> (Result<(), String>, Value) + Send + Sync>;

/// All roles of a node, by name.
#[derive(Default)]
pub struct Board {
    roles: BTreeMap<&'static str, Look>,
}

impl Board {
    /// Adds a role with its first status; the publisher goes to its thread.
    pub fn add<T: RoleStatus>(&mut self, role: &'static str, first: T) -> Publisher<T> {
        let slot = Arc::new(Mutex::new(first));
        let shared = Arc::clone(&slot);
        let look = move || {
            let copy = lock(&shared).clone();
            let value = serde_json::to_value(&copy).unwrap_or(Value::Null);
            (copy.readiness(), value)
        };
        self.roles.insert(role, Box::new(look));
        Publisher {
            slot,
            next: Time::ZERO,
        }
    }

    /// The role's part, if the node has the role.
    pub fn part(&self, role: &str) -> Option<Value> {
        self.roles.get(role).map(|look| look().1)
    }

    /// The names of the roles.
    pub fn roles(&self) -> Vec<&'static str> {
        self.roles.keys().copied().collect()
    }

    /// All parts, and what keeps the node from being ready.
    pub fn all(&self) -> (BTreeMap<&'static str, Value>, Vec<String>) {
        let mut parts = BTreeMap::new();
        let mut waiting = Vec::new();
        for (role, look) in &self.roles {
            let (ready, part) = look();
            if let Err(why) = ready {
                waiting.push(format!("{role}: {why}"));
            }
            parts.insert(*role, part);
        }
        (parts, waiting)
    }
}

/// A panic in one thread must not spread through its published numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(publisher.due(Time::from_millis(1)));
        assert!(!publisher.due(Time::from_millis(20)));
        assert!(publisher.due(Time::from_millis(21)));
    }
}
