//! The bounds that are checked.
use crate::bounds::{Bounds, Order, any};

/// The narrow ones.
pub fn narrow() -> Vec<(&'static str, Bounds)> {
    vec![
        (
            "ops2",
            Bounds {
                ops: 2,
                ..Bounds::default()
            },
        ),
        (
            "ops2-gap",
            Bounds {
                ops: 2,
                timers: vec![any("gap", 1)],
                ..Bounds::default()
            },
        ),
        (
            "ops2-gap-fifo",
            Bounds {
                ops: 2,
                timers: vec![any("gap", 3)],
                order: Order::Fifo { drops: 1 },
                ..Bounds::default()
            },
        ),
        (
            "ops1-silence",
            Bounds {
                timers: vec![any("silence", 1)],
                ..Bounds::default()
            },
        ),
        (
            "ops1-silence-fifo",
            Bounds {
                timers: vec![any("silence", 1)],
                order: Order::Fifo { drops: 1 },
                ..Bounds::default()
            },
        ),
    ]
}
