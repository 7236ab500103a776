//! The replica: one file per concern.
//!
//! * [`log`], [`table`]: the log; the client table
//! * [`ordered`]: ordered messages in ([`crate::oum`]), drop notifications out (paper 5.1)
//! * [`primary`]: VR instead: the leader orders, and a majority acknowledges
//! * [`normal`]: append, reply, synchronise (5.2, 5.5); [`execute`]: each operation once
//! * [`assembly`], [`parts`]: operations and results longer than a datagram
//! * [`clock`]: the log's time between stamps
//! * [`sessions`]: who stamps
//! * [`read`]: answers without a slot
//! * [`gap`]: gap agreement, at the leader and at followers (5.3); [`pace`]: with what patience
//! * [`view_change`]: votes and the merge (5.4)
//! * [`staging`]: from the merge, or a view's start, to a log that follows it
//! * [`transfer`]: snapshots to and from peers; [`picture`]: how they are made and read
//! * [`journal`], [`recover`]: what is on disk, if there is one, and back
//! * [`change`]: other members (and why that is safe)
//! * [`boot`]: how a group forms and how a replica without memory joins
//! * [`check`]: invariants and the view for people; [`sane`]: absurd numbers
//!
//! # Why a restarted replica is harmless
//! Each view fixes which *incarnation* of each replica belongs to it. A restarted
//! replica has no vote. The leader proposes its new incarnation in a view change
//! that needs f+1 votes of *other* replicas, which knew of that incarnation when they
//! voted: an older vote may belong to one that has since decided, in a later view, with
//! the former life. Such a quorum meets every quorum of
//! earlier views in a replica that remembers, so everything decided earlier, also
//! with the help of the former life, is in the new view's log. Whatever the former
//! life still has in flight belongs to earlier views, except its votes for later
//! ones; those are refused because any quorum they could complete contains a member
//! of the joining view, whose membership names the new life.
//!
//! With a disk all this is needed only once it is lost; see [`recover`].
//!
//! # Why formation is safe
//! Replica 0 forms view 0 only when *all* n replicas are booting at once (each echoes
//! the others' lives), and leads it only after f others accepted it while still
//! booting. So f+1 replicas without memory existed at one time: no older group can
//! have a quorum any more. That is the documented meaning of a group without disks:
//! it forgets when more than f memories are lost together. A lone restarted replica
//! never sees all the others booting.

mod assembly;
mod boot;
mod change;
mod check;
mod clock;
mod execute;
mod gap;
mod journal;
mod log;
#[cfg(feature = "model")]
mod model;
#[cfg(feature = "mutations")]
mod mutation;
mod normal;
mod ordered;
mod pace;
mod parts;
mod picture;
mod primary;
mod read;
mod recover;
mod sane;
mod sessions;
mod staging;
mod table;
mod transfer;
mod view_change;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use stateplane_base::{ClientId, Incarnation, LogTime, ReplicaId, Time};
use stateplane_state::Application;
use stateplane_wire::group::{
    Address, Body, Entry, Formation, Lives, MAX_REPLICAS, Membership, Message, Seats, Session,
    Slot, StartView, View, ViewChange, leader_of,
};

use crate::oum::Inbox;
use crate::{Alarm, Effect, GroupConfig, Mark, Marks, Peer};
use boot::Boot;
use change::Changing;
pub use check::{Progress, ReplicaStatus, Role, Stance};
use clock::Clock;
use gap::LeaderGap;
use journal::Journal;
use log::Log;
use pace::Pace;
use parts::Answers;
use picture::Picture;
use primary::Ordering;
pub use recover::{Disk, Memory, Unreadable};
use sessions::Sequencers;
use staging::Staging;
use table::ClientTable;
use transfer::Download;

/// What a replica is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Status {
    /// It has no memory and no vote: it forms a group or joins one.
    Booting,
    /// Its log is that of its view.
    Normal,
    /// It voted for `view`, which has not started here yet.
    ViewChange,
}

/// When each concern wants the time; `None` = not at all.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Timers {
    heartbeat: Option<Time>,
    silence: Option<Time>,
    gap: Option<Time>,
    resend: Option<Time>,
    patience: Option<Time>,
    boot: Option<Time>,
    transfer: Option<Time>,
    snapshot: Option<Time>,
    prepare: Option<Time>,
}

impl Timers {
    /// The earliest.
    fn next(&self) -> Option<Time> {
        let all = [
            &self.heartbeat,
            &self.silence,
            &self.gap,
            &self.resend,
            &self.patience,
            &self.boot,
            &self.transfer,
            &self.snapshot,
            &self.prepare,
        ];
        // Without a branch each: this is asked after every message.
        let first = all.into_iter().fold(Time::MAX, |first, timer| {
            first.min(timer.unwrap_or(Time::MAX))
        });
        (first < Time::MAX).then_some(first)
    }
}

/// Takes a timer that is due.
fn due(timer: &mut Option<Time>, now: Time) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}

/// What a leader knows of each replica, this view.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Follower {
    /// How far its log equals ours; `None` until it entered the view.
    acked: Option<Slot>,
    heard: Time,
}

/// The replica core.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Replica<A: Application> {
    config: GroupConfig,
    me: u8,
    incarnation: u64,
    app: A,
    /// The application's state before the first operation.
    blank: Vec<u8>,

    status: Status,
    formation: Formation,
    /// The view we are in or voted for.
    view: View,
    /// The last view in which our log was that of the view.
    last_normal: View,
    /// Membership of `last_normal`.
    members: Membership,
    /// The view that admitted us, if we voted before we were in any.
    admitted: View,
    session: Session,
    nonce: u64,
    session_base: Slot,

    log: Log,
    commit: Slot,
    executed: Slot,
    /// The time of the last executed slot.
    log_time: LogTime,
    clock: Clock,
    table: ClientTable,
    /// Empty between operations: a result on its way from the application.
    scratch: Vec<u8>,
    answers: Answers,

    /// What comes after the log's end: its places are slots. Between views only what is kept
    /// for a later session means anything.
    inbox: Inbox<Entry>,
    /// When a sequencer was last told which session is in force.
    told_session: Option<Time>,
    sequencers: Sequencers,

    followers: Vec<Follower>,
    gap: Option<LeaderGap>,
    pace: Pace,
    /// How this view started, for those that missed it.
    start: Option<StartView>,
    granted: bool,
    ordering: Ordering,
    beats: u64,

    /// Follower: how far our log is known to equal the leader's.
    verified: Slot,
    /// What it acknowledged last, and how often since.
    acked: (View, Slot),
    repeats: u8,

    votes: Vec<Option<ViewChange>>,
    attempts: u32,
    /// Lives of replicas that want to join.
    joining: Lives,
    /// When replicas that are no members announced themselves.
    spares: [Option<Time>; MAX_REPLICAS],
    /// Leader: a change that was asked for.
    changing: Option<Changing>,
    /// A sequencer that wants a session.
    wanted_session: Option<u64>,

    staging: Option<Staging<A::Incoming>>,
    download: Option<Download<A::Incoming>>,
    serving: Option<Picture>,
    boot: Boot,
    /// If it has a disk.
    journal: Option<Journal>,

    timers: Timers,
    effects: VecDeque<Effect>,
    marks: Marks,
}

impl<A: Application> Replica<A> {
    /// A replica that just started, without memory. `incarnation` is higher than that
    /// of every former life (drivers use the wall clock's nanoseconds); `app` is blank.
    ///
    /// # Panics
    /// If `me` is not a seat of the group.
    pub fn new(config: GroupConfig, me: ReplicaId, incarnation: Incarnation, app: A) -> Self {
        assert!(
            me.0 < config.seats,
            "seat {} of a group of {}",
            me.0,
            config.seats
        );
        Self {
            me: me.0,
            incarnation: incarnation.0.max(1),
            blank: app.snapshot(),
            app,
            status: Status::Booting,
            formation: 0,
            view: 0,
            last_normal: 0,
            members: Membership::default(),
            admitted: 0,
            session: 0,
            nonce: 0,
            session_base: 0,
            log: Log::default(),
            commit: 0,
            executed: 0,
            log_time: LogTime::ZERO,
            clock: Clock::default(),
            table: ClientTable::default(),
            scratch: Vec::new(),
            answers: Answers::default(),
            inbox: Inbox::after(0, config.limits.stash),
            told_session: None,
            sequencers: Sequencers::default(),
            followers: vec![
                Follower {
                    acked: None,
                    heard: Time::ZERO
                };
                MAX_REPLICAS
            ],
            gap: None,
            pace: Pace::default(),
            start: None,
            granted: false,
            ordering: Ordering::default(),
            beats: 0,
            verified: 0,
            acked: (0, 0),
            repeats: 0,
            votes: vec![None; MAX_REPLICAS],
            attempts: 0,
            joining: Lives::default(),
            spares: [None; MAX_REPLICAS],
            changing: None,
            wanted_session: None,
            staging: None,
            download: None,
            serving: None,
            boot: Boot::default(),
            journal: None,
            timers: Timers {
                boot: Some(Time::ZERO),
                ..Timers::default()
            },
            effects: VecDeque::with_capacity(16),
            marks: Marks::default(),
            config,
        }
    }

    const fn leads(&self) -> bool {
        leader_of(self.view) == self.me
    }

    /// The seats of which `holds` is true.
    fn seats(&self, holds: impl Fn(usize) -> bool) -> Seats {
        let all = (0..MAX_REPLICAS).filter(|j| holds(*j));
        all.fold(0, |set, j| set | 1 << j)
    }

    fn is_leader(&self) -> bool {
        self.status == Status::Normal && self.leads()
    }

    fn leader(&self) -> Peer {
        Peer::Replica(ReplicaId(leader_of(self.view)))
    }

    fn send(&mut self, to: Peer, body: Body) {
        let msg = Message {
            formation: self.formation,
            body,
        };
        self.effects.push_back(Effect::Send { to, msg });
    }

    fn send_to(&mut self, replica: u8, body: Body) {
        self.send(Peer::Replica(ReplicaId(replica)), body);
    }

    fn alarm(&mut self, alarm: Alarm) {
        self.effects.push_back(Effect::Alarm(alarm));
    }

    /// Handles a message. The driver has authenticated `from`.
    pub fn on_message(&mut self, now: Time, from: Peer, msg: Message) {
        let Message { formation, body } = msg;
        match from {
            Peer::Client(id, at) => self.on_client(now, id, at, body),
            // A sequencer is nobody where the leader orders.
            Peer::Sequencer(_) if self.config.leader_orders() => {}
            Peer::Sequencer(i) => self.on_sequencer(now, i, formation, body),
            Peer::Replica(j) if j.0 < self.config.seats && j.0 != self.me && sane::sane(&body) => {
                self.on_peer(now, j.0, formation, body);
            }
            Peer::Replica(_) | Peer::Replicas => {}
        }
    }

    fn on_client(&mut self, now: Time, id: ClientId, at: Address, body: Body) {
        match body {
            Body::Read(m) if m.client == id => self.on_read(now, at, &m),
            Body::ResultRequest(m) if m.client == id => self.on_result_request(at, &m),
            Body::Request(m) => self.on_request(now, at, m),
            _ => {}
        }
    }

    fn on_sequencer(&mut self, now: Time, from: u8, formation: Formation, body: Body) {
        match body {
            Body::Ordered(m) => self.on_ordered(now, from, formation, m),
            Body::Tail {
                session,
                group,
                sequence,
            } => self.on_tail(now, from, formation, session, group, sequence),
            Body::SessionRequest { nonce } => self.on_session_request(now, from, nonce),
            _ => {}
        }
    }

    fn on_peer(&mut self, now: Time, from: u8, formation: Formation, body: Body) {
        match body {
            Body::Boot { incarnation, heard } => {
                return self.on_boot(now, from, incarnation, &heard);
            }
            #[cfg(feature = "mutations")]
            Body::Hint(m) if self.config.broken(crate::Mutation::VotesWithoutMemory) => {
                return self.rejoin_blindly(now, formation, m.view, m.members);
            }
            Body::Hint(m) => return self.on_hint(now, formation, &m),
            Body::Learn(m) => return self.on_learn(now, from, formation, &m),
            _ => {}
        }
        if self.status == Status::Booting
            && !self.on_peer_while_booting(now, from, formation, &body)
        {
            return;
        }
        if formation != self.formation {
            self.marks.hit(Mark::OtherFormation);
            return self.hint(from);
        }
        match body {
            Body::Fetch {
                view,
                basis,
                from: first,
                to,
            } => self.on_fetch(now, from, view, basis, first, to),
            Body::Entries(m) => self.on_entries(now, from, m),
            Body::GapCommit {
                view,
                from: first,
                to,
            } => self.on_gap_commit(now, from, view, first, to),
            Body::GapAck {
                view,
                from: first,
                to,
            } => self.on_gap_ack(now, from, view, first, to),
            Body::Heartbeat {
                view,
                clock,
                summary,
            } => self.on_heartbeat(now, from, view, clock, &summary),
            Body::SyncAck { view, upto } => self.on_sync_ack(now, from, view, upto),
            Body::ViewChange(m) => self.on_view_change(now, from, *m),
            Body::StartView(m) => self.on_start_view(now, from, *m),
            Body::Reconfigure { ticket, change } => self.on_reconfigure(now, from, ticket, change),
            Body::ReconfigureReply { ticket, answer } => {
                self.effects
                    .push_back(Effect::Reconfigured { ticket, answer });
            }
            Body::Learned { incarnation, upto } => self.on_learned(now, from, incarnation, upto),
            Body::SnapshotRequest {
                floor,
                at,
                offset,
                chunks,
            } => {
                self.on_snapshot_request(now, from, floor, at, offset, chunks);
            }
            Body::SnapshotChunk(m) => self.on_snapshot_chunk(now, from, m),
            Body::Prepare(m) => self.on_prepare(now, from, m),
            _ => {}
        }
    }

    /// When [`Self::on_timer`] wants to be called.
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Does what is due at `now`.
    pub fn on_timer(&mut self, now: Time) {
        if due(&mut self.timers.boot, now) {
            self.on_boot_timer(now);
        }
        if due(&mut self.timers.heartbeat, now) {
            self.on_heartbeat_timer(now);
        }
        if due(&mut self.timers.silence, now) {
            self.marks.hit(Mark::SilentLeader);
            self.start_view_change(now, self.members.next_view(self.view));
        }
        if due(&mut self.timers.gap, now) {
            self.on_gap_timer(now);
        }
        if due(&mut self.timers.resend, now) {
            self.on_resend_timer(now);
        }
        if due(&mut self.timers.patience, now) {
            self.on_patience_timer(now);
        }
        if due(&mut self.timers.transfer, now) {
            self.on_transfer_timer(now);
        }
        if due(&mut self.timers.snapshot, now) {
            self.on_snapshot_timer(now);
        }
        if due(&mut self.timers.prepare, now) {
            self.on_prepare_timer(now);
        }
    }

    /// The next thing to do. With a disk, what is sent comes after what it rests on.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.flush_ordering();
        }
        self.unpersisted().or_else(|| self.effects.pop_front())
    }

    /// The state machine, for reading.
    pub const fn app(&self) -> &A {
        &self.app
    }

    /// The state machine, for taking out what it notes besides its state. It must not be
    /// changed: all replicas have the same.
    pub const fn app_mut(&mut self) -> &mut A {
        &mut self.app
    }

    /// How often each rare branch was taken.
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }
}
