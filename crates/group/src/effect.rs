//! What a core wants done, and what it counted.

use alloc::vec::Vec;

use stateplane_base::{ClientId, ReplicaId};
use stateplane_wire::group::{Address, Answer, Message};

/// Whom a message is from or for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    /// One replica.
    Replica(ReplicaId),
    /// Every replica but the sender: one encoding, n datagrams.
    Replicas,
    /// One of the sequencers, by its place in the configuration.
    Sequencer(u8),
    /// A client, with the address it was last seen at. A sequencer's driver fills the
    /// address in from the datagram's source; for the rest it comes out of the log.
    Client(ClientId, Address),
}

/// What a driver has to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Send a message; losing it is allowed.
    Send {
        /// To whom.
        to: Peer,
        /// What.
        msg: Message,
    },
    /// Put this on disk; what comes after it must not leave before it is there.
    /// Only replicas with a disk ask for it.
    Persist(Persist),
    /// What becomes of an operator's wish, see [`crate::Replica::reconfigure`].
    Reconfigured {
        /// As given with it.
        ticket: u64,
        /// What was said.
        answer: Answer,
    },
    /// Tell the operator.
    Alarm(Alarm),
}

/// What a replica wants to find again after a crash.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Persist {
    /// All that changed since the last one: found again whole or not at all.
    Record(Vec<u8>),
    /// Everything: no earlier record or checkpoint is needed any more.
    Checkpoint {
        /// Everything.
        bytes: Vec<u8>,
        /// The records before it do not lead here: it must be on disk before
        /// anything leaves. Others only shorten the journal and may take their time.
        urgent: bool,
    },
}

/// What an operator should know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Alarm {
    /// Our incarnation was not newer than a former one: this node's clock went
    /// backwards. Another was chosen.
    IncarnationReused,
    /// A snapshot was refused: too large, damaged or of another configuration.
    SnapshotRefused,
    /// The state to be sent to a lagging replica exceeds the limit.
    SnapshotTooLarge,
    /// This replica is no longer a member; it has forgotten everything and is spare.
    Dismissed,
}

/// Defines [`Mark`] with the names used in counters.
macro_rules! marks {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// A branch worth knowing that it was taken: for metrics, and for the
        /// simulator to show that its faults reach the rare code.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Mark { $(#[doc = $doc] $name,)* }

        impl Mark {
            /// All marks.
            pub const ALL: &'static [Mark] = &[$(Mark::$name,)*];

            /// The name used in counters and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Mark::$name => $text,)* }
            }
        }
    };
}

marks! {
    Duplicate = "duplicate", "An ordered message arrived for a slot already filled.";
    OldSession = "old-session", "An ordered message of a session no longer in force.";
    FutureSession = "future-session", "An ordered message of a session not agreed yet.";
    WindowFull = "window-full", "An ordered message too far ahead, or too many unsynced slots.";
    TailGap = "tail-gap", "The loss of the last messages was noticed by the sequencer's tail.";
    GapFollower = "gap-follower", "A follower asked its leader for missing slots.";
    GapLeader = "gap-leader", "The leader missed slots and asked its followers.";
    GapRecovered = "gap-recovered", "The leader got a missing slot from a follower.";
    GapNoop = "gap-noop", "The leader decided that a slot is a no-op.";
    GapOverwrite = "gap-overwrite", "A no-op replaced a value a follower had received.";
    GapAhead = "gap-ahead", "A gap commit arrived beyond the follower's log.";
    LookupDuringCommit = "lookup-during-commit", "The leader answered a fetch during a gap commit.";
    SyncOverwrite = "sync-overwrite", "A heartbeat told of a no-op whose gap commit was lost.";
    SyncBlind = "sync-blind", "A heartbeat did not reach back to what the follower had verified.";
    SilentLeader = "silent-leader", "A follower gave its leader up.";
    Abdicated = "abdicated", "A leader that hears too few followers gave up.";
    ViewChangeStarted = "view-change-started", "Voted for a view.";
    ViewChangeEscalated = "view-change-escalated", "A view did not start in time; voted for the next.";
    ViewStarted = "view-started", "Started a view as its leader.";
    ViewEntered = "view-entered", "Entered a view as a follower.";
    VoteRefused = "vote-refused", "A vote of a former life or of a non-member was not counted.";
    MergeNoopWins = "merge-noop-wins", "A view change turned a value into a no-op.";
    MergeFetched = "merge-fetched", "A view change had to fetch slots.";
    StartViewTruncates = "start-view-truncates", "A view's start cut our log.";
    DeposedRollback = "deposed-rollback", "We had executed what did not survive.";
    SessionRequested = "session-requested", "A sequencer asked for a session.";
    SessionStarted = "session-started", "A view with a new session started.";
    SessionRefused = "session-refused", "A sequencer asked for a session while another one serves.";
    SequencerDeaf = "sequencer-deaf", "A sequencer heard nobody, and so sent no tail.";
    SequencerSilent = "sequencer-silent", "A leader heard nothing from the sequencer and invited another.";
    SequencerInvited = "sequencer-invited", "A sequencer was invited to ask for a session.";
    SequencerStandsBy = "sequencer-stands-by", "A sequencer was refused or deposed, and stands by.";
    SessionGranted = "session-granted", "A session was granted to its sequencer.";
    SnapshotTaken = "snapshot-taken", "A snapshot was taken for a peer.";
    SnapshotPiece = "snapshot-piece", "A turn dealt with a part of a snapshot.";
    SnapshotAbandoned = "snapshot-abandoned", "A snapshot was given up before it was complete.";
    SnapshotInstalled = "snapshot-installed", "A peer's snapshot replaced our state.";
    SnapshotRestarted = "snapshot-restarted", "A snapshot's source went away or moved on.";
    BehindTruncation = "behind-truncation", "Slots we lack are truncated at the peer.";
    StaleIncarnation = "stale-incarnation", "A message of a former life was dropped.";
    OtherFormation = "other-formation", "A message of another life of the group was dropped.";
    JoinDeferred = "join-deferred", "A view started without a new life that too few of its voters knew.";
    JoinRequested = "join-requested", "A replica without memory was proposed for the next view.";
    Joined = "joined", "Became a member again after a restart.";
    Formed = "formed", "All replicas started empty and formed the group.";
    ChangeAccepted = "change-accepted", "A leader took on a change of the membership.";
    ChangeBegun = "change-begun", "A view with a joint membership was started.";
    ChangeEstablished = "change-established", "A view with the new members alone followed a joint one.";
    ChangeGivenUp = "change-given-up", "The replica that was to join fell silent.";
    HandedOver = "handed-over", "A leader that is to leave let another lead.";
    NewcomerVoted = "newcomer-voted", "A newcomer voted before it had entered a view.";
    Dismissed = "dismissed", "We have left the group, and know it.";
    JointContinued = "joint-continued", "A joint view that is not established was continued.";
    OutsiderRefused = "outsider-refused", "A vote of one that has left moved nobody.";
    NotAMember = "not-a-member", "Our incarnation is not in the view.";
    TableReply = "table-reply", "A repeated operation was answered from the client table.";
    TableForgotten = "table-forgotten", "An operation its client had finished was skipped.";
    TableRefused = "table-refused", "The client table had no room.";
    TableEvicted = "table-evicted", "An idle client made room for a new one.";
    Retransmitted = "retransmitted", "A client repeated an operation.";
    ReadAnswered = "read-answered", "A read without a slot was answered.";
    ReadDisagreed = "read-disagreed", "Replicas answered a read in different views, or followers were behind.";
    ReadRepeated = "read-repeated", "A client asked for a read again.";
    ReadTookSlot = "read-took-slot", "A read took a slot after all.";
    ReadEarly = "read-early", "A new leader did not know yet what of its log is final.";
    ReadOutdated = "read-outdated", "Something a read would see should have ended meanwhile.";
    ReadLong = "read-long", "A read's result does not fit a datagram, and is kept to be asked for.";
    ReadTooLong = "read-too-long", "A read's result is longer than a leader keeps.";
    ReadPartsLost = "read-parts-lost", "The parts of a read's result did not come; it took a slot.";
    PiecesComplete = "pieces-complete", "The last piece of an operation came, and it was executed.";
    PieceRepeated = "piece-repeated", "A piece came that was there.";
    PieceSuperseded = "piece-superseded", "A piece came after its client had begun a newer operation.";
    PieceRefused = "piece-refused", "There was no room for an operation in pieces.";
    PiecesLost = "pieces-lost", "Pieces that had been kept are not there any more.";
    PieceResent = "piece-resent", "A client sent a piece again.";
    LongResult = "long-result", "A result was kept that is longer than a datagram.";
    PartsNotHere = "parts-not-here", "Parts were wanted of a result that we do not have.";
    PartsAskedAgain = "parts-asked-again", "Parts of a result did not come and were asked for again.";
    PartForeign = "part-foreign", "A part came that is not of the result the group agreed on.";
    WindowReleased = "window-released", "A client with nothing to ask said which results it has.";
    UnknownOutcome = "unknown-outcome", "A client gave an operation up.";
    Checkpointed = "checkpointed", "A checkpoint shortened the journal.";
    CheckpointTakenOver = "checkpoint-taken-over", "A peer's snapshot went to disk as it had come.";
    CheckpointUrgent = "checkpoint-urgent", "State that no record leads to went to disk at once.";
    RecoveredFollower = "recovered-follower", "A follower went on in its view from its disk.";
    RecoveredLeader = "recovered-leader", "A leader came back from its disk and voted for the next view.";
    RecoveredVoter = "recovered-voter", "A replica came back from its disk and repeated its vote.";
    RecoveredAhead = "recovered-ahead", "The state on disk was ahead of the sync point.";
    GrantIgnored = "grant-ignored", "A sequencer ignored a grant it had not asked for.";
    SequencerDeposed = "sequencer-deposed", "A sequencer learned that its session is over.";
    NotTheLeader = "not-the-leader", "A request came to a replica that does not order.";
    PrepareAhead = "prepare-ahead", "A Prepare arrived whose predecessor is missing.";
    PrepareRepeated = "prepare-repeated", "The leader repeated Prepares that no majority acknowledged.";
    PrepareStale = "prepare-stale", "A Prepare of an earlier view was ignored.";
    LeaderSought = "leader-sought", "A client that heard nothing asks all replicas.";
    Unstamped = "unstamped", "A request came to a sequencer without a session.";
}

/// How often each [`Mark`] was passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marks([u64; Mark::ALL.len()]);

impl core::hash::Hash for Marks {
    /// What was counted decides nothing: states that differ in it alone are one state for a
    /// model checker, which tells states apart by their hash.
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

impl Default for Marks {
    fn default() -> Self {
        Self([0; Mark::ALL.len()])
    }
}

impl Marks {
    /// Counts one.
    pub const fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// How often.
    pub const fn get(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// All, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Mark, u64)> + '_ {
        Mark::ALL.iter().map(|m| (*m, self.get(*m)))
    }
}
