//! Rules of the protocol between machines that a test takes out one by one, to see that the
//! world of the tests notices each.

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break rules"))]
pub(super) enum Mutation {
    /// A version counts as whole when its last piece is there.
    LastPieceIsAll,
    /// A piece counts as often as it comes.
    DuplicatesCount,
    /// A way is taken from wherever it leads on.
    AnyBase,
    /// Versions of different writers are taken for each other.
    EpochsAreOne,
    /// Whoever is behind gets only what the newest version changed.
    NewestChangesOnly,
    /// A way from nothing leaves what was there.
    NothingIsKept,
    /// What is older than what a receiver has is taken too.
    BackIsOn,
    /// What is missing is not named.
    GapsUnnamed,
    /// A receiver that is told of a version does not answer.
    AnnouncesUnheard,
    /// A receiver that has everything hears nothing more.
    NobodyReassured,
    /// A relay says of what it has that it is all there is, as if it were the writer.
    RelaysAreOrigins,
    /// A relay says of what it sends what it knows about what it has.
    AgesOfOthers,
    /// Pieces of different ways between the same versions are put together.
    WaysAreOne,
    /// A sender that falls silent is asked for ever.
    ParentsForEver,
    /// A sender that is cut off counts as alive.
    AnyParentIsAlive,
    /// What leads on from a version that the sender passed over is taken for known.
    AnyVersionWasHad,
    /// Who leads on from an older version need not have had this one.
    LivesAreOne,
}

/// Whether a test broke this rule, in this thread.
#[cfg(test)]
pub(super) fn broken(rule: Mutation) -> bool {
    tests::BROKEN.get() == Some(rule)
}

/// Never, outside of tests.
#[cfg(not(test))]
#[inline]
pub(super) const fn broken(_: Mutation) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::catch_unwind;

    use super::Mutation::{self, *};
    use crate::sync::tests::check;

    thread_local! {
        pub(super) static BROKEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Worlds that a broken rule may survive.
    const SEEDS: u64 = 400;

    #[test]
    fn every_broken_rule_is_noticed() {
        for rule in [
            LastPieceIsAll,
            DuplicatesCount,
            AnyBase,
            EpochsAreOne,
            NewestChangesOnly,
            NothingIsKept,
            BackIsOn,
            GapsUnnamed,
            AnnouncesUnheard,
            NobodyReassured,
            RelaysAreOrigins,
            AgesOfOthers,
            WaysAreOne,
            ParentsForEver,
            AnyParentIsAlive,
            AnyVersionWasHad,
            LivesAreOne,
        ] {
            BROKEN.set(Some(rule));
            let noticed = (0..SEEDS).find(|seed| catch_unwind(|| check(*seed)).is_err());
            BROKEN.set(None);
            let seed = noticed.unwrap_or_else(|| panic!("{rule:?}: {SEEDS} worlds see nothing"));
            println!("{rule:?}: noticed by seed {seed}");
        }
    }
}
