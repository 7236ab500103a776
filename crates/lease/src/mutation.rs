//! Rules that tests may break on purpose, to prove that the model checker notices. Only builds with
//! the feature `mutations` can break any; in all others "is it broken?" is a constant no.

use crate::grant::Terms;
use crate::holder::HolderConfig;

stateplane_base::mutations! {
    CountedFromAck = "counted-from-ack", "The holder counts its lease from the answer.";
    NoDriftMargin = "no-drift-margin", "The holder uses all of the span it was granted.";
    TimeNotLookedAt = "time-not-looked-at", "The holder takes its lease for live until its timer says otherwise.";
    ReleasedWhileUsed = "released-while-used", "The holder uses what it gives up until the store has answered.";
    OutputAtOnce = "output-at-once", "Packets leave before their write is stored.";
    ReadPassesWrite = "read-passes-write", "Packets that saw a write leave before it is stored.";
    NoFence = "no-fence", "The store takes renewals and writes from anybody.";
    NoEpochFence = "no-epoch-fence", "The store compares the owner, not the epoch.";
    SharedEpoch = "shared-epoch", "A new life of an instance gets its former epoch.";
    SequenceWithoutEpoch = "sequence-without-epoch", "A new owner's sequences are compared with the former's.";
    EarlyAcknowledged = "early-acknowledged", "A write that is early is acknowledged.";
    MigrateBeforeLapse = "migrate-before-lapse", "The store lends again what is still lent.";
}

/// Which rule is broken, if this build can break any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Rules {
    #[cfg(feature = "mutations")]
    broken: Option<Mutation>,
}

impl Rules {
    #[cfg(feature = "mutations")]
    const fn breaking(mutation: Mutation) -> Option<Self> {
        Some(Self {
            broken: Some(mutation),
        })
    }

    #[cfg(not(feature = "mutations"))]
    const fn breaking(_: Mutation) -> Option<Self> {
        None
    }

    #[cfg(feature = "mutations")]
    pub(crate) fn broken(self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }

    #[cfg(not(feature = "mutations"))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn broken(self, _: Mutation) -> bool {
        false
    }
}

impl Terms {
    /// The same terms with a rule broken; `None` if this build cannot break any.
    #[must_use]
    pub fn breaking(self, mutation: Mutation) -> Option<Self> {
        Rules::breaking(mutation).map(|rules| Self { rules, ..self })
    }
}

impl HolderConfig {
    /// The same settings with a rule broken; `None` if this build cannot break any.
    #[must_use]
    pub fn breaking(self, mutation: Mutation) -> Option<Self> {
        Rules::breaking(mutation).map(|rules| Self { rules, ..self })
    }
}
