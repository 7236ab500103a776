//! All messages of the store group (NOPaxos, Li et al., OSDI 2016, and VR, Liskov
//! and Cowling, 2012, in one frame; our additions are marked +).
//!
//! A request and the ordered message it becomes are packets of their own, see
//! [`crate::oum`]. Every other message is `kind u8 | version u8 | formation u64 | fields`, all
//! big-endian. The envelope says who sent it. Layouts, `[x]` = string with
//! four-byte length, `n*` = repeated by a count before it:
//!
//! ```text
//!  3 Reply           view 8 | session 8 | slot 8 | replica 1 | sequencer 1 | f+1 1 | client 8 | count 2 | n*Result
//!  4 SessionRequest  nonce 8                                                                     +
//!  5 SessionGrant    session 8 | nonce 8 | log time 8 | clock runs 1                             +
//!  6 SessionInfo     session 8 | nonce 8                                                         +
//!  7 Tail            session 8 | group 2 | last sequence 8                                       +
//!  8 Fetch           view 8 | basis 8 | from 8 | to 8
//!  9 Entries         view 8 | basis 8 | base 8 | from 8 | count 2 | n*(0 | 1 | 2 time 8 Request)
//! 10 GapCommit       view 8 | from 8 | to 8
//! 11 GapAck          view 8 | from 8 | to 8
//! 12 Heartbeat       view 8 | clock 8 (0 = does not run) | Summary
//! 13 SyncAck         view 8 | upto 8
//! 14 ViewChange      view 8 | last normal 8 | incarnation 8 | session 8 | nonce 8 | session base 8 | Members | 9*(joining 8) | Summary
//! 15 StartView       view 8 | basis 8 | session 8 | nonce 8 | session base 8 | Members | Summary
//! 16 Boot            incarnation 8 | 9*(heard 8)                                                +
//! 17 Hint            view 8 | Members | settled 1                                               +
//! 18 SnapshotRequest floor 8 | at 8 | offset 8 | chunks 2                                       +
//! 19 SnapshotChunk   at 8 | total 8 | offset 8 | [bytes]                                        +
//! 20 Read            client 8 | serial 8 | count 2 | [ n*(as in Request) ]                        +
//! 21 ReadReply       view 8 | session 8 | slot 8 | replica 1 | f+1 1 | client 8 | serial 8 | count 2 | n*Result  +
//! 22 Invite          session 8                                                                 +
//! 23 Prepare         view 8 | commit 8 | from 8 | count 2 | n*(1 | 2 time 8 Request)
//! 25 Reconfigure     ticket 8 | seat out 1 | seat in 1 (255 = none)                             +
//! 26 ReconfigureReply  ticket 8 | answer 1                                                       +
//! 27 ResultRequest   client 8 | id 8 | offset 4 | parts 2                                         +
//! 28 Learn           floor 8 | Members                                                          +
//! 29 Learned         incarnation 8 | upto 8                                                     +
//! 30 ResultPart      client 8 | id 8 | slot 8 | Whole | offset 4 | [bytes]                         +
//!
//! Result  = id 8 | 0                                    refused
//!                | 1 [result] or 2 slot 8 [result]      executed in this slot or in that one
//!                | 3 Whole or 4 slot 8 Whole            the same, with a long result
//!                | 5 offset 4 | missing 4               the piece at this offset is kept
//! Whole   = len 4 | digest 8
//! Request = client 8 | done_below 8 | address 16+2 | count 2 | [ n*Operation ]
//! Operation = id 8 | len 2 | op    or, with the highest bit of `len` set,    id 8 | len 2 | whole 4 | offset 4 | piece
//! Members = seats 2 | former seats 2 | n*(incarnation 8)    by seat: who belongs to the view, as which life
//! Summary = commit 8 | len 8 | known from 8 | first no-op 8 | [ bitmap ]
//! ```

mod batch;
mod bodies;
mod change;
mod codec;
mod large;
mod membership;
mod parts;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;

use stateplane_base::{ClientId, LogTime};

pub use crate::codec::Malformed;
pub use crate::oum::{GroupId, MAX_STAMPS, Stamps};
pub use batch::{Batch, MAX_BATCH, MAX_PIECE, OpResult, Outcome, Results};
pub use change::{Answer, Change, Learn};
pub use large::{MAX_LARGE, Piece, ResultPart, ResultRequest, Whole};
pub use membership::{Lives, Membership, Seats, leader_of};
pub use parts::{
    Address, Entry, Formation, MAX_NOOP_BYTES, MAX_REPLICAS, MAX_SEQUENCERS, NoopSet, Request,
    Session, Slot, Summary, View, decode_entry, encode_entry, sequencer_of,
};

/// The version of these layouts.
pub const VERSION: u8 = 1;

/// A message and the life of the group it belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// 0 where the sender does not know it: requests, boots.
    pub formation: Formation,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// Client to sequencer, see [`crate::oum`].
    Request(Request),
    /// Sequencer to all replicas: the ordered multicast, see [`crate::oum`].
    Ordered(Ordered),
    /// Replica to client.
    Reply(Reply),
    /// Sequencer to all replicas: "I started; give me a session".
    SessionRequest {
        /// Drawn anew for every session asked for.
        nonce: u64,
    },
    /// Leader to sequencer: the view that knows this session has started.
    SessionGrant {
        /// Stamp with it, from sequence number 1.
        session: Session,
        /// The request this answers.
        nonce: u64,
        /// The log's time: stamp none below it.
        time: LogTime,
        /// `time` is that of a clock that has run since the last stamp: go on from it. Else
        /// nobody knows how long ago the last stamp was.
        runs: bool,
    },
    /// Replica to a sequencer whose stamps it cannot use.
    SessionInfo {
        /// The session in force.
        session: Session,
        /// Whose it is.
        nonce: u64,
    },
    /// Sequencer to all replicas: how far it has stamped, so that a loss at
    /// the end of a burst is noticed without further traffic.
    Tail {
        /// Its session.
        session: Session,
        /// For this group.
        group: GroupId,
        /// The last number given.
        sequence: u64,
    },
    /// "Send me these slots."
    Fetch {
        /// The view both are in.
        view: View,
        /// During a view change: the view whose log is wanted. Else `view`.
        basis: View,
        /// First slot.
        from: Slot,
        /// Last slot.
        to: Slot,
    },
    /// The answer to `Fetch`.
    Entries(Entries),
    /// Leader: "these slots are no-ops".
    GapCommit {
        /// The leader's view.
        view: View,
        /// First slot.
        from: Slot,
        /// Last slot.
        to: Slot,
    },
    /// Follower: "they are, in my log".
    GapAck {
        /// The view.
        view: View,
        /// First slot.
        from: Slot,
        /// Last slot.
        to: Slot,
    },
    /// Leader: life sign, sync prepare and sync commit in one.
    Heartbeat {
        /// The leader's view.
        view: View,
        /// The log's time by the leader's clock (0 = it heard no stamp yet).
        clock: LogTime,
        /// The leader's log.
        summary: Summary,
    },
    /// Follower: "my log equals yours up to here".
    SyncAck {
        /// The view.
        view: View,
        /// Last equal slot.
        upto: Slot,
    },
    /// A vote for a new view, to all replicas.
    ViewChange(Box<ViewChange>),
    /// The new leader's log and membership.
    StartView(Box<StartView>),
    /// A replica without memory: "I started".
    Boot {
        /// Its life.
        incarnation: u64,
        /// The lives of booting replicas it heard lately (0 = none).
        heard: Lives,
    },
    /// To the leader: an operator wants another membership.
    Reconfigure {
        /// Says which question an answer belongs to.
        ticket: u64,
        /// Wanted.
        change: Change,
    },
    /// The leader's answer.
    ReconfigureReply {
        /// As asked.
        ticket: u64,
        /// What becomes of it.
        answer: Answer,
    },
    /// The leader to one that is to become a member.
    Learn(Learn),
    /// Its answer.
    Learned {
        /// Its life.
        incarnation: u64,
        /// It has the state up to here.
        upto: Slot,
    },
    /// A member's answer to a replica that is not: "there is a group".
    Hint(Hint),
    /// "Send me a piece of a snapshot."
    SnapshotRequest {
        /// A snapshot below this slot is of no use.
        floor: Slot,
        /// The snapshot wanted, or 0 for the newest.
        at: Slot,
        /// First byte wanted.
        offset: u64,
        /// How many pieces.
        chunks: u16,
    },
    /// A piece of a snapshot.
    SnapshotChunk(SnapshotChunk),
    /// Client to all replicas: answer without a slot.
    Read(Read),
    /// A replica's answer.
    ReadReply(ReadReply),
    /// Leader to a standby sequencer: "the one in force is silent; ask for a session".
    Invite {
        /// The session of the silent one (0 = there is none).
        session: Session,
    },
    /// VR: the leader puts these into its followers' logs. `SyncAck` is the PrepareOk.
    Prepare(Prepare),
    /// Client to replica: for parts of a long result.
    ResultRequest(ResultRequest),
    /// The answer.
    ResultPart(ResultPart),
}

/// A stamped request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ordered {
    /// Who may stamp.
    pub session: Session,
    /// The sequencer's time, never falling within a session.
    pub time: LogTime,
    /// One sequence number per group.
    pub stamps: Stamps,
    /// What was stamped.
    pub request: Request,
}

/// A replica's reply; a client needs f+1 that agree, see `group::Client`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reply {
    /// The replica's view.
    pub view: View,
    /// Its session.
    pub session: Session,
    /// The slot it put the request into.
    pub slot: Slot,
    /// Which replica.
    pub replica: u8,
    /// The sequencer in force: the one to send to.
    pub sequencer: u8,
    /// How many replicas of its view make a majority.
    pub quorum: u8,
    /// To whom.
    pub client: ClientId,
    /// Filled by the view's leader only.
    pub results: Results,
}

/// Operations that only read, and take no slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Read {
    /// Who asks.
    pub client: ClientId,
    /// Which asking of this client's; the answers carry it.
    pub serial: u64,
    /// The operations.
    pub batch: Batch,
}

/// A replica's answer to a read; a client needs f+1 of one view, see `group::Client`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadReply {
    /// The replica's view.
    pub view: View,
    /// Its session.
    pub session: Session,
    /// The end of its log.
    pub slot: Slot,
    /// Which replica.
    pub replica: u8,
    /// How many replicas of its view make a majority.
    pub quorum: u8,
    /// To whom.
    pub client: ClientId,
    /// What this answers.
    pub serial: u64,
    /// Filled by the view's leader only: the state after `slot`.
    pub results: Results,
}

/// Slots of a log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entries {
    /// As in the fetch.
    pub view: View,
    /// As in the fetch.
    pub basis: View,
    /// The answering replica has truncated its log up to here.
    pub base: Slot,
    /// Slot of the first item.
    pub from: Slot,
    /// `None`: it has nothing there.
    pub items: Vec<Option<Entry>>,
}

/// VR's Prepare: consecutive slots, and how far the log is committed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Prepare {
    /// The leader's view.
    pub view: View,
    /// Slots up to here are final.
    pub commit: Slot,
    /// Slot of the first entry.
    pub from: Slot,
    /// What the slots hold.
    pub entries: Vec<Entry>,
}

/// A vote for a view.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ViewChange {
    /// The view voted for.
    pub view: View,
    /// The last view in which the voter's log was complete.
    pub last_normal: View,
    /// The voter's life.
    pub incarnation: u64,
    /// The session of `last_normal`.
    pub session: Session,
    /// Whose session it is.
    pub nonce: u64,
    /// Slot of the session's (missing) sequence number 0.
    pub session_base: Slot,
    /// Membership of `last_normal`.
    pub members: Membership,
    /// By seat: the later life of a member that lost its memory, as the voter knew when it voted
    /// (0 = none).
    pub joining: Lives,
    /// The voter's log.
    pub summary: Summary,
}

/// The start of a view.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StartView {
    /// The view.
    pub view: View,
    /// The view whose log it continues: equal slots need not be fetched.
    pub basis: View,
    /// The session in force from here on.
    pub session: Session,
    /// Whose session it is.
    pub nonce: u64,
    /// Slot of the session's (missing) sequence number 0.
    pub session_base: Slot,
    /// Membership.
    pub members: Membership,
    /// The log.
    pub summary: Summary,
}

/// What a member knows, for one that may not be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hint {
    /// The last view whose log it had.
    pub view: View,
    /// The membership of that view.
    pub members: Membership,
    /// That view is in office: who does not belong to it is out of the group.
    pub settled: bool,
}

/// A piece of a snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotChunk {
    /// The state after this slot.
    pub at: Slot,
    /// Size of the whole snapshot.
    pub total: u64,
    /// Where this piece lies.
    pub offset: u64,
    /// The piece.
    pub bytes: Vec<u8>,
}
