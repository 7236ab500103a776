//! Rules of the protocol that tests may break on purpose, to prove that the
//! simulator's checkers notice. Only builds with the feature `mutations` can
//! break any; in all others each question "is it broken?" is a constant no.

use crate::GroupConfig;

stateplane_base::mutations! {
    ClientQuorum = "client-quorum", "A client trusts f replies, the leader's among them.";
    ReadWithoutFollowers = "read-without-followers", "A client trusts a leader's read without its followers.";
    ReadAcrossViews = "read-across-views", "A client counts replicas of other views for a read.";
    ReadAtTakeover = "read-at-takeover", "A new leader that orders answers reads before it has what its predecessor answered.";
    OwnTimeOfDay = "own-time-of-day", "A new session's time is that of its sequencer's machine.";
    QuorumAcrossViews = "quorum-across-views", "A client counts replies of different views together.";
    QuorumAcrossSlots = "quorum-across-slots", "A client counts replies for different slots together.";
    GapWithoutQuorum = "gap-without-quorum", "A leader passes a gap before f followers have the no-ops.";
    GapKeepsValue = "gap-keeps-value", "A follower keeps a value where the leader decided on a no-op.";
    ViewChangeQuorum = "view-change-quorum", "f votes start a view.";
    OwnLogWins = "own-log-wins", "A new leader starts with its own log, whatever the others voted.";
    MergeAnyView = "merge-any-view", "Logs of older views count as much as those of the newest.";
    ValueWins = "value-wins", "In a merge, a value wins over a no-op.";
    VotesWithoutMemory = "votes-without-memory", "A restarted replica votes at once, as if it were its former life.";
    NoClientTable = "no-client-table", "A repeated operation is executed again.";
    SessionReused = "session-reused", "A restarted sequencer gets the session that its former life had.";
    GrantReplayed = "grant-replayed", "A sequencer takes any grant, also one that its former life asked for.";
    StandbyNotRefused = "standby-not-refused", "A leader gives the session to another sequencer although it hears the one in force.";
    NoRollback = "no-rollback", "A deposed leader keeps what it executed ahead of the sync point.";
    CommitWithoutQuorum = "commit-without-quorum", "A leader takes for final what f replicas have.";
    PrepareAcrossViews = "prepare-across-views", "A follower takes Prepares of views that are over.";
    PrepareOkAhead = "prepare-ok-ahead", "A follower acknowledges slots behind one that it lacks.";
    FormerLifeVotes = "former-life-votes", "Votes of a replica's former life count.";
    JoinInPlace = "join-in-place", "A restarted replica joins the present view instead of a new one, so replies of its former life count for the new.";
    JoinUnvouched = "join-unvouched", "Votes from before a member lost its memory count for the view that admits its new life.";
    CounterWraps = "counter-wraps", "Sequence numbers are those of a 16-bit counter.";
    LookupRefused = "lookup-refused", "A leader in a gap commit answers nobody, as in the published specification.";
    FutureSession = "future-session-trusted", "A stamp of a later session starts it, without a view change.";
    RetryRenamed = "retry-renamed", "A client repeats an operation under a new id.";
    OldStartView = "old-start-view", "A replica enters any view it is told of, also an older one.";
    ChangeAtOnce = "change-at-once", "A change of members takes effect without a joint view.";
    FormerMembersIgnored = "former-members-ignored", "A merge on top of a joint view needs the new members alone.";
    JointViewAnswers = "joint-view-answers", "A leader answers clients before its joint view is established.";
    StaleDismissal = "stale-dismissal", "A newcomer that has voted is dismissed by a leader of before it was admitted.";
    NewcomerWithoutState = "newcomer-without-state", "A new member takes part before it has the state.";
    SnapshotLate = "snapshot-late", "A snapshot counts as the state after the slot at which it was complete, not begun.";
    IncompleteExecutes = "incomplete-executes", "An operation in pieces is executed when its last piece has come, whatever else is missing.";
    AnyPart = "any-part", "A client puts together parts of results, whatever operation and execution they come from.";
    SendBeforeSync = "send-before-sync", "A replica with a disk answers before its journal is on it.";
    VoteNotPersisted = "vote-not-persisted", "A replica with a disk forgets in a crash what it voted for.";
    TornTailAccepted = "torn-tail-accepted", "A record that was cut off in mid-write counts as far as it goes.";
}

impl GroupConfig {
    /// The same group with a rule broken; `None` if this build cannot break any.
    #[must_use]
    #[cfg(feature = "mutations")]
    pub fn breaking(self, mutation: Mutation) -> Option<Self> {
        Some(Self {
            broken: Some(mutation),
            ..self
        })
    }

    /// The same group with a rule broken; `None` if this build cannot break any.
    #[must_use]
    #[cfg(not(feature = "mutations"))]
    pub fn breaking(self, _: Mutation) -> Option<Self> {
        None
    }

    #[cfg(feature = "mutations")]
    pub(crate) fn broken(&self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }

    #[cfg(not(feature = "mutations"))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn broken(&self, _: Mutation) -> bool {
        false
    }

    /// By how many a quorum falls short: one if `mutation` breaks it.
    pub(crate) fn short(&self, mutation: Mutation) -> usize {
        usize::from(self.broken(mutation))
    }
}
