//! The bounds that are checked.
use crate::bounds::{Bounds, Order, any, of};
use stateplane_group::Mutation;
use stateplane_wire::group::Body;

/// Bounds with a name.
pub type Named = (&'static str, Bounds);

fn with(change: impl FnOnce(&mut Bounds)) -> Bounds {
    let mut bounds = Bounds::default();
    change(&mut bounds);
    bounds
}

/// Wide bounds, for `make model`: minutes to hours, and gigabytes.
pub fn wide() -> Vec<Named> {
    vec![
        (
            "2 operations, 2 gap timeouts, 1 silence",
            with(|b| {
                b.ops = 2;
                b.timers = vec![any("gap", 2), any("silence", 1)];
            }),
        ),
        (
            "1 operation, 2 silences",
            with(|b| b.timers = vec![any("silence", 2)]),
        ),
        (
            "1 operation, 1 silence, 1 escalation",
            with(|b| b.timers = vec![any("silence", 1), any("patience", 1)]),
        ),
        (
            "1 operation, a replica loses its memory, 1 silence",
            with(|b| {
                b.crash = Some(2);
                b.timers = vec![of("boot", 2, 1), of("silence", 1, 1)];
            }),
        ),
        (
            "1 operation, the leader loses its memory, 1 silence",
            with(|b| {
                b.crash = Some(0);
                b.timers = vec![of("boot", 0, 1), of("silence", 1, 1)];
            }),
        ),
        (
            "2 operations, the sequencer restarts, 1 heartbeat",
            with(|b| {
                b.ops = 2;
                b.restarts = 1;
                b.timers = vec![any("sequencer", 1), of("heartbeat", 0, 1)];
            }),
        ),
        (
            "2 operations in order, 2 losses, 2 gap timeouts, 2 silences",
            with(|b| {
                b.ops = 2;
                b.timers = vec![any("gap", 2), any("silence", 2)];
                b.order = Order::Fifo { drops: 2 };
            }),
        ),
    ]
}

/// Narrow bounds, exhausted in every run of the tests.
pub fn narrow() -> Vec<Named> {
    vec![
        ("2 operations", with(|b| b.ops = 2)),
        (
            "2 operations, a client",
            with(|b| (b.ops, b.clients) = (2, true)),
        ),
        (
            "2 operations, 1 gap timeout",
            with(|b| {
                b.ops = 2;
                b.timers = vec![any("gap", 1)];
            }),
        ),
        (
            "2 operations in order, 3 gap timeouts, 1 loss",
            with(|b| {
                b.ops = 2;
                b.timers = vec![any("gap", 3)];
                b.order = Order::Fifo { drops: 1 };
            }),
        ),
        (
            "1 operation, 1 silence",
            with(|b| b.timers = vec![any("silence", 1)]),
        ),
        (
            "1 operation in order, 1 silence, 1 loss",
            with(|b| {
                b.timers = vec![any("silence", 1)];
                b.order = Order::Fifo { drops: 1 };
            }),
        ),
        (
            "1 operation, the sequencer restarts",
            with(|b| {
                b.restarts = 1;
                b.timers = vec![any("sequencer", 1)];
            }),
        ),
        (
            "1 operation in order, a replica loses its memory",
            with(|b| {
                b.crash = Some(2);
                b.timers = vec![of("boot", 2, 1)];
                b.order = Order::Fifo { drops: 0 };
            }),
        ),
    ]
}

/// Bounds within which a broken rule is found.
pub fn hunts() -> Vec<(Mutation, Bounds)> {
    let told = with(|b| {
        b.clients = true;
        b.timers = vec![any("silence", 1)];
    });
    let silent = with(|b| b.timers = vec![of("silence", 1, 1)]);
    let gap = with(|b| {
        b.ops = 2;
        b.timers = vec![of("gap", 0, 1), of("silence", 1, 1)];
    });
    let crash = with(|b| {
        b.crash = Some(2);
        b.timers = vec![of("boot", 2, 1), of("silence", 1, 1)];
    });
    let restart = with(|b| {
        b.ops = 2;
        b.restarts = 1;
        b.timers = vec![any("sequencer", 1), of("heartbeat", 0, 2)];
    });
    vec![
        (Mutation::ClientQuorum, told.clone()),
        (Mutation::QuorumAcrossViews, told),
        (Mutation::GapWithoutQuorum, gap.clone()),
        (Mutation::GapKeepsValue, gap.clone()),
        (Mutation::ViewChangeQuorum, silent.clone()),
        (Mutation::OwnLogWins, silent),
        (Mutation::ValueWins, gap),
        (Mutation::VotesWithoutMemory, crash.clone()),
        (Mutation::JoinInPlace, crash),
        (Mutation::FormerLifeVotes, former_life()),
        (Mutation::NoClientTable, with(|b| b.repeats = 1)),
        (Mutation::SessionReused, restart.clone()),
        (Mutation::FutureSession, restart),
        (
            Mutation::OldStartView,
            with(|b| b.timers = vec![of("silence", 1, 1), of("silence", 2, 1)]),
        ),
    ]
}

/// A replica whose view changes nobody hears escalates to a view that the other one would
/// lead, loses its memory and joins again; then its vote arrives.
fn former_life() -> Bounds {
    with(|b| {
        b.crash = Some(2);
        b.timers = vec![of("silence", 2, 1), of("patience", 2, 3), of("boot", 2, 1)];
        b.lost = |from, to, body| match body {
            Body::ViewChange(vote) if from == 2 => to == 0 || vote.view < 33,
            Body::Boot { .. } => to != 0,
            _ => false,
        };
    })
}
