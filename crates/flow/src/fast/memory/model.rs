//! A record under every order of memory that the language allows (loom), and with the fences taken
//! out, which the model must notice.

use loom::sync::Arc;
use loom::sync::atomic::{self, AtomicU64};
use loom::thread;

use super::{Ordering, State, change, read};

impl State for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, word: u64, order: Ordering) {
        self.store(word, order);
    }

    fn fence(order: Ordering) {
        atomic::fence(order);
    }
}

/// A state without fences.
struct Loose(AtomicU64);

impl State for Loose {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, word: u64, order: Ordering) {
        self.0.store(word, order);
    }

    fn fence(_: Ordering) {}
}

/// A writer makes changes 1 and 2; a reader that gets anything gets one change, whole.
fn explore<S: State + Send + Sync + 'static>(new: fn(u64) -> S) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let state = Arc::new(new(0));
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (theirs, their_words) = (Arc::clone(&state), Arc::clone(&words));
        let writer = thread::spawn(move || {
            for version in 1..=2 {
                change(&*theirs, 2 * version - 1, 2 * version, || {
                    for word in &*their_words {
                        word.store(version, Ordering::Relaxed);
                    }
                });
            }
        });
        let found = read(&*state, u64::MAX, || {
            [0, 1].map(|at: usize| words[at].load(Ordering::Relaxed))
        });
        if let Some((state, words)) = found {
            assert_eq!(words, [state / 2; 2], "a mixture");
        }
        writer.join().expect("the writer ends");
    });
}

#[test]
fn a_reader_gets_one_change_or_nothing() {
    explore(AtomicU64::new);
}

#[test]
#[should_panic(expected = "a mixture")]
fn without_fences_the_model_sees_a_mixture() {
    explore(|word| Loose(AtomicU64::new(word)));
}
