//! Invariants, and the view of a replica for people and tests.

use stateplane_base::LogTime;
use stateplane_state::Application;
use stateplane_wire::group::{Change, Entry, Formation, Membership, Seats, Session, Slot, View};

use super::{Replica, Status};

/// What a replica is at present.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Without memory: forms or joins a group.
    Booting,
    /// Leads its view.
    Leader,
    /// Follows its view's leader.
    Follower,
    /// Its view has not started.
    Voting,
}

impl Role {
    /// The name used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Voting => "voting",
        }
    }
}

/// What a replica tells about itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaStatus {
    /// What it is at present.
    pub role: Role,
    /// Its life.
    pub incarnation: u64,
    /// The life of the group.
    pub formation: Formation,
    /// The view it is in or voted for.
    pub view: View,
    /// The last view whose log it had.
    pub last_normal: View,
    /// The session in force.
    pub session: Session,
    /// The last truncated slot.
    pub log_base: Slot,
    /// The last slot.
    pub log_len: Slot,
    /// Memory of the log.
    pub log_bytes: usize,
    /// The sync point.
    pub commit: Slot,
    /// The last executed slot.
    pub executed: Slot,
    /// Slots known to exist and not received.
    pub missing: u64,
    /// Messages kept for later.
    pub stashed: usize,
    /// Followers that entered this view (leader only).
    pub followers: usize,
    /// Who belongs to the last view whose log it had.
    pub members: Membership,
    /// Seats that entered this view (leader only).
    pub present: Seats,
    /// A change that is about to begin (leader only).
    pub changing: Option<Change>,
    /// Clients in the client table.
    pub clients: usize,
    /// The time of the last executed slot.
    pub log_time: LogTime,
    /// A snapshot is being received.
    pub receiving: bool,
}

/// How far a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    /// The life of the group.
    pub formation: Formation,
    /// The last view whose log it had.
    pub view: View,
    /// The last executed slot, and its time.
    pub executed: Slot,
    /// See `executed`.
    pub log_time: LogTime,
    /// The last slot that is final. What was executed up to here is; what was executed beyond
    /// may come to nothing, and is then replaced by another state.
    pub commit: Slot,
}

/// What a replica is, and how far: what watchers compare step by step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stance {
    /// What it is at present.
    pub role: Role,
    /// Its life.
    pub incarnation: u64,
    /// The view it is in or voted for.
    pub view: View,
    /// The last truncated slot.
    pub log_base: Slot,
    /// How far it is.
    pub progress: Progress,
}

impl<A: Application> Replica<A> {
    /// What it is and how far: a small part of [`Self::inspect`], for those who ask after every
    /// message.
    pub const fn stance(&self) -> Stance {
        Stance {
            role: self.role(),
            incarnation: self.incarnation,
            view: self.view,
            log_base: self.log.base(),
            progress: self.progress(),
        }
    }

    const fn role(&self) -> Role {
        match self.status {
            Status::Booting => Role::Booting,
            Status::ViewChange => Role::Voting,
            Status::Normal if self.leads() => Role::Leader,
            Status::Normal => Role::Follower,
        }
    }

    /// How far it is: cheap enough to be asked after every message.
    pub const fn progress(&self) -> Progress {
        Progress {
            formation: self.formation,
            view: self.last_normal,
            executed: self.executed,
            log_time: self.log_time,
            commit: self.commit,
        }
    }

    /// A view of its state.
    pub fn inspect(&self) -> ReplicaStatus {
        let role = self.role();
        let present = if role == Role::Leader {
            self.present()
        } else {
            0
        };
        ReplicaStatus {
            role,
            incarnation: self.incarnation,
            formation: self.formation,
            view: self.view,
            last_normal: self.last_normal,
            session: self.session,
            log_base: self.log.base(),
            log_len: self.log.len(),
            log_bytes: self.log.bytes(),
            commit: self.commit,
            executed: self.executed,
            missing: self.inbox.window().tail().saturating_sub(self.log.len()),
            stashed: self.inbox.window().held() + self.inbox.early(),
            followers: present.count_ones().saturating_sub(1) as usize,
            members: self.members,
            present,
            changing: self.changing(),
            clients: self.table.len(),
            log_time: self.log_time,
            receiving: self.download.is_some(),
        }
    }

    /// What a slot of the log holds, unless it is truncated or empty.
    pub fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.log.get(slot)
    }

    /// The lives that make up the last normal view.
    pub const fn members(&self) -> &Membership {
        &self.members
    }

    /// Asserts what must always hold.
    ///
    /// # Panics
    /// When it does not: going on would put committed state at risk.
    pub fn check(&self) {
        let len = self.log.len();
        let limits = &self.config.limits;
        assert!(
            self.log.base() <= self.commit,
            "only final slots are truncated"
        );
        assert!(
            self.log.base() <= self.executed,
            "only executed slots are truncated"
        );
        assert!(self.commit <= len, "a sync point lies within the log");
        assert!(self.executed <= len, "only the log is executed");
        assert!(self.commit <= self.executed, "what is final is executed");
        assert!(self.last_normal <= self.view, "views rise");
        assert!(
            self.session <= self.last_normal,
            "a session is granted by an entered view"
        );
        assert!(
            len - self.commit <= limits.unsynced + limits.fetch,
            "the unsynced log is bounded"
        );
        assert!(
            self.inbox.window().held() <= limits.stash && self.inbox.early() <= limits.stash,
            "stashes are bounded"
        );
        assert!(
            self.table.len() <= limits.clients,
            "the client table is bounded"
        );
        self.table.check();
        assert!(
            self.answers.bytes() <= limits.answer_bytes,
            "answers that are kept are bounded"
        );
        assert!(
            !self.awaits_picture() || self.serving.is_some() || self.timers.snapshot.is_some(),
            "a checkpoint that waits for a picture gets one"
        );
        match self.status {
            Status::Normal => self.check_normal(),
            Status::ViewChange => {
                assert!(self.last_normal < self.view, "a vote is for a later view")
            }
            Status::Booting => assert!(
                self.timers.boot.is_some(),
                "a booting replica announces itself"
            ),
        }
    }

    fn check_normal(&self) {
        let len = self.log.len();
        assert_eq!(
            self.last_normal, self.view,
            "a normal replica's log is its view's"
        );
        assert!(
            self.members.admits(self.me, self.incarnation),
            "a member is in its view"
        );
        assert!(
            self.staging.is_none(),
            "nothing is staged in a view that has started"
        );
        let (id, window) = (self.inbox.session(), self.inbox.window());
        assert_eq!(window.taken(), len, "the inbox goes on where the log ends");
        let ours = (self.formation, self.session, self.session_base);
        let taken = (id.formation, id.session, self.inbox.base());
        assert_eq!(taken, ours, "the inbox orders the session in force");
        assert_eq!(
            self.timers.gap.is_some(),
            window.tail() > len,
            "a gap is watched, and nothing else is"
        );
        let gap = self
            .gap
            .as_ref()
            .map_or(len + 1, super::gap::LeaderGap::from);
        assert_eq!(gap, len + 1, "a gap begins where the log ends");
        if self.config.leader_orders() {
            assert_eq!(self.verified, len, "the log is its leader's");
            assert!(self.gap.is_none(), "nobody has what the leader lacks");
        }
        if self.leads() {
            if self.config.leader_orders() {
                assert_eq!(self.executed, self.commit, "what is final is executed");
            } else {
                assert_eq!(self.executed, len, "the leader has executed its log");
            }
            assert!(
                self.timers.heartbeat.is_some(),
                "the leader gives signs of life"
            );
        } else {
            assert!(
                self.timers.silence.is_some(),
                "a follower watches its leader"
            );
            assert!(
                self.commit <= self.verified,
                "a follower's sync point is verified"
            );
            assert!(self.verified <= len, "only the log is verified");
        }
    }
}
