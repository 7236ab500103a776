//! A replica comes back from its disk as who it was.
//!
//! # Why that is safe
//! Everything others heard from it left after the record of what it rests on was on
//! disk ([`super::journal`]), so the replica that comes back has all of it: it is like
//! one that was paused and lost the messages that came meanwhile, which any replica
//! must survive. It keeps its incarnation and its vote, and what its former process
//! still has in flight is true. The whole group may restart at once; nobody forms it
//! anew, because none of its replicas is without memory.
//!
//! What is not on disk is either known again by being told again (how far our log was
//! verified, stashes, votes of others, a view being staged, about which nothing was
//! said), or belongs to leaders: that a gap was decided to be a no-op, before it is in
//! the log. A leader therefore never resumes its view; it votes for the next one. A
//! follower stays in its view and disturbs nobody. A voter repeats its vote: it does
//! not go below the view it promised.
//!
//! The state may be ahead of the sync point, if the checkpoint was a leader's; should
//! that not survive, a snapshot from a peer sets it right, as for any deposed leader.
//!
//! A replica whose disk was *damaged* has lost some of its memory, so it counts as one
//! without any: a new life, no vote. It also knows that there was a group, so nobody
//! may count it as one of those that form a new one ([`Disk::Lost`]).

use alloc::vec::Vec;

use stateplane_base::{Incarnation, ReplicaId, Time};
use stateplane_state::{Application, SnapshotError};
use stateplane_wire::codec::Malformed;
use stateplane_wire::group::Seats;

use super::journal::{Change, Journal, Meta};
use super::log::Log;
use super::picture::{Snapshot, Unusable};
use super::sane::BOUND;
use super::{Replica, Status};
use crate::{GroupConfig, Mark, Mutation};

/// What a replica without memory may know of its disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Disk {
    /// It was never written to: this may be the group's first start.
    Blank,
    /// It held a memory that was damaged: there is a group to join.
    Lost,
}

/// What was found on a replica's disk, oldest first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Memory {
    /// The newest checkpoint.
    pub checkpoint: Vec<u8>,
    /// The records after it.
    pub records: Vec<Vec<u8>>,
}

/// Why a memory is of no use, although it was read as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It does not follow our layout.
    #[error("it is not a journal of this version: {0}")]
    Layout(#[from] Malformed),
    /// The application refuses its state.
    #[error("its state: {0}")]
    State(#[from] SnapshotError),
    /// It is that of a group with more seats.
    #[error("it belongs to a group of {found} seats, and this one has {configured}")]
    Size {
        /// Seats then, at least.
        found: usize,
        /// Seats now.
        configured: usize,
    },
}

impl From<Unusable> for Unreadable {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::Layout(malformed) => Self::Layout(malformed),
            Unusable::State(error) => Self::State(error),
        }
    }
}

impl<A: Application> Replica<A> {
    /// A replica with a disk that holds no memory (any more). As for
    /// [`Self::new`], `incarnation` is new.
    pub fn with_disk(
        config: GroupConfig,
        me: ReplicaId,
        incarnation: Incarnation,
        disk: Disk,
        app: A,
    ) -> Self {
        let mut replica = Self::new(config, me, incarnation, app);
        replica.journal = Some(Journal::default());
        replica.log = Log::after(0, true);
        replica.boot.forms = disk == Disk::Blank;
        replica
    }

    /// A replica that goes on from what its disk holds; `app` is blank.
    pub fn recover(
        config: GroupConfig,
        me: ReplicaId,
        memory: &Memory,
        app: A,
        now: Time,
    ) -> Result<Self, Unreadable> {
        let mut replica = Self::with_disk(config, me, Incarnation(1), Disk::Lost, app);
        let checkpoint = Change::checkpoint(&memory.checkpoint)?;
        let mut meta = replica.apply(checkpoint)?;
        let lenient = replica.config.broken(Mutation::TornTailAccepted);
        for record in &memory.records {
            let change = match Change::record(record, lenient) {
                Err(_) if lenient => continue,
                read => read?,
            };
            meta = replica.apply(change)?.or(meta);
        }
        let meta = meta.ok_or(Malformed("a checkpoint has promises"))?;
        replica.adopt_promises(&meta)?;
        replica.log.take_unwritten();
        let written = memory.records.iter().map(Vec::len).sum();
        replica.journal = Some(Journal::of(meta, written, memory.checkpoint.len()));
        replica.leave_boot();
        replica.clock.wake();
        replica.resume(now);
        Ok(replica)
    }

    fn apply(&mut self, change: Change) -> Result<Option<Meta>, Unreadable> {
        if let Some(bytes) = &change.snapshot {
            let snapshot = Snapshot::parse(&self.app, bytes, &self.config.limits)?;
            if snapshot.at >= BOUND {
                return Err(Malformed("journal's slots").into());
            }
            self.app.install(snapshot.app)?;
            (self.table, self.log_time) = (snapshot.table, snapshot.log_time);
            (self.executed, self.commit) = (snapshot.at, snapshot.commit);
            self.log = Log::after(snapshot.commit, true);
            snapshot.entries.into_iter().for_each(|e| self.log.push(e));
        }
        for (slot, entry) in change.replaced {
            if self.log.get(slot).is_none() {
                return Err(Malformed("journal replaces a slot that is not there").into());
            }
            self.log.replace(slot, entry);
        }
        if change.first <= self.log.base() || change.first > self.log.len() + 1 {
            return Err(Malformed("journal leaves slots out").into());
        }
        while self.log.pop_above(change.first - 1).is_some() {}
        change.entries.into_iter().for_each(|e| self.log.push(e));
        let torn = self.config.broken(Mutation::TornTailAccepted);
        let (commit, len) = (self.commit.max(change.commit), self.log.len());
        if (commit > len || self.executed > len) && !torn {
            return Err(Malformed("journal ends before its sync point").into());
        }
        self.commit = commit.min(len);
        Ok(change.meta)
    }

    fn adopt_promises(&mut self, meta: &Meta) -> Result<(), Unreadable> {
        let seats = meta.members.seats() | meta.members.former();
        let found = (Seats::BITS - seats.leading_zeros()) as usize;
        let configured = usize::from(self.config.seats);
        if found > configured {
            return Err(Unreadable::Size { found, configured });
        }
        let views = meta.last_normal <= meta.view
            && (meta.last_normal == meta.view) == meta.normal
            && meta.view < BOUND
            && meta.session_base < BOUND;
        if !views {
            return Err(Malformed("journal's views").into());
        }
        self.incarnation = meta.incarnation;
        self.formation = meta.formation;
        (self.view, self.last_normal) = (meta.view, meta.last_normal);
        (self.session, self.nonce, self.session_base) =
            (meta.session, meta.nonce, meta.session_base);
        (self.members, self.admitted) = (meta.members, meta.admitted);
        self.status = if meta.normal {
            Status::Normal
        } else {
            Status::ViewChange
        };
        Ok(())
    }

    /// Goes on where the disk ends.
    fn resume(&mut self, now: Time) {
        if self.executed > self.commit {
            self.marks.hit(Mark::RecoveredAhead);
        }
        self.execute_to(self.commit);
        self.verified = self.commit;
        self.start_inbox();
        if self.config.leader_orders() {
            // Nothing came but from the leader of the log's view.
            self.verified = self.log.len();
        }
        if self.status == Status::ViewChange {
            self.marks.hit(Mark::RecoveredVoter);
            self.vote_again(now);
        } else if self.leads() {
            self.marks.hit(Mark::RecoveredLeader);
            self.start_view_change(now, self.members.next_view(self.view));
        } else {
            self.marks.hit(Mark::RecoveredFollower);
            self.timers.silence = Some(now + self.config.timing.silence);
        }
    }
}
