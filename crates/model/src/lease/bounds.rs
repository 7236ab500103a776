//! How much may happen, and the bounds that are checked.

use stateplane_lease::Mutation;

/// How often what may happen, in all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bounds {
    /// Time passes.
    pub ticks: u8,
    /// The log's clock may also go as slowly as the holders', not only as fast as allowed.
    pub uneven: bool,
    /// A holder writes.
    pub writes: u8,
    /// A holder reads.
    pub reads: u8,
    /// A message arrives and is still on its way.
    pub duplicates: u8,
    /// A request is given up, though it may still arrive.
    pub silences: u8,
    /// A holder loses its memory.
    pub crashes: u8,
    /// The partition is to move to the other holder.
    pub migrations: u8,
    /// A holder gives the partition up.
    pub give_ups: u8,
    /// The rule that is broken.
    pub mutation: Option<Mutation>,
}

/// Bounds with a name.
pub type Named = (&'static str, Bounds);

/// So many ticks and writes.
const fn of(ticks: u8, writes: u8) -> Bounds {
    Bounds {
        ticks,
        uneven: false,
        writes,
        reads: 0,
        duplicates: 0,
        silences: 0,
        crashes: 0,
        migrations: 0,
        give_ups: 0,
        mutation: None,
    }
}

fn with(mut bounds: Bounds, change: impl FnOnce(&mut Bounds)) -> Bounds {
    change(&mut bounds);
    bounds
}

/// Bounds that are exhausted in every run of the tests.
pub fn narrow() -> Vec<Named> {
    vec![
        ("lease: time", with(of(4, 0), |b| b.uneven = true)),
        ("lease: a write", with(of(2, 1), |b| b.uneven = true)),
        ("lease: reads", with(of(1, 2), |b| b.reads = 1)),
        (
            "lease: messages twice",
            with(of(2, 1), |b| b.duplicates = 1),
        ),
        ("lease: no answer", with(of(2, 1), |b| b.silences = 1)),
        ("lease: another life", with(of(2, 1), |b| b.crashes = 1)),
        ("lease: it moves", with(of(2, 1), |b| b.migrations = 1)),
        ("lease: given up", with(of(2, 1), |b| b.give_ups = 1)),
    ]
}

/// Wide bounds, for `make model`: minutes to hours, and gigabytes.
pub fn wide() -> Vec<Named> {
    vec![
        (
            "lease: wide, two writes",
            with(of(3, 2), |b| b.uneven = true),
        ),
        (
            "lease: wide, another life",
            with(of(3, 2), |b| b.crashes = 1),
        ),
        (
            "lease: wide, it moves",
            with(of(3, 2), |b| b.migrations = 1),
        ),
        (
            "lease: wide, everything once",
            with(of(3, 2), |b| {
                (b.uneven, b.reads, b.duplicates) = (true, 1, 1);
                (b.silences, b.crashes) = (1, 1);
                (b.migrations, b.give_ups) = (1, 1);
            }),
        ),
    ]
}

/// Bounds within which a broken rule is found.
pub fn hunts() -> Vec<(Mutation, Bounds)> {
    let (idle, busy, takes_over) = (of(2, 0), of(0, 2), of(2, 2));
    let bounds = |mutation| match mutation {
        Mutation::CountedFromAck
        | Mutation::NoDriftMargin
        | Mutation::TimeNotLookedAt
        | Mutation::MigrateBeforeLapse => idle,
        Mutation::ReleasedWhileUsed => with(idle, |b| b.give_ups = 1),
        Mutation::ReadPassesWrite => with(busy, |b| b.reads = 1),
        Mutation::NoEpochFence | Mutation::SharedEpoch => with(takes_over, |b| b.crashes = 1),
        Mutation::NoFence | Mutation::SequenceWithoutEpoch => takes_over,
        Mutation::OutputAtOnce | Mutation::EarlyAcknowledged => busy,
    };
    let all = Mutation::ALL.iter().copied();
    all.map(|mutation| (mutation, bounds(mutation))).collect()
}
