//! Runs a seed so that a panic of a core becomes a broken rule: its assertions
//! are checks like all others.
use crate::report::Run;
use crate::world::{self, Setup};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Runs a seed.
pub(crate) fn guarded(setup: &Setup) -> Run {
    caught(|| world::run(setup, None))
}

thread_local! {
    /// Set while a seed runs on this thread, to the place of its last panic.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `seed` and turns a panic into its outcome.
pub(crate) fn caught(seed: impl FnOnce() -> Run) -> Run {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if RUNNING.get() {
                let place = info.location().map(ToString::to_string);
                PLACE.set(place.unwrap_or_default());
            } else {
                before(info);
            }
        }));
    });
    RUNNING.set(true);
    let result = catch_unwind(AssertUnwindSafe(seed));
    RUNNING.set(false);
    result.unwrap_or_else(|payload| Run {
        broken: Some(format!(
            "assertion: {} at {}",
            text(&*payload),
            PLACE.take()
        )),
        ..Run::default()
    })
}

fn text(payload: &(dyn Any + Send)) -> String {
    let fixed = payload.downcast_ref::<&str>().map(ToString::to_string);
    fixed
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}
