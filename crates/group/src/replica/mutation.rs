//! What breaking a rule takes that has no place in the right code.

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Formation, Membership, Session, Slot, StartView, View};

use super::picture::Picture;
use super::{Replica, Status};

impl Picture {
    /// [`Mutation::SnapshotLate`](crate::Mutation): the state claims to be that after a later slot.
    pub(super) fn claim(&mut self, at: Slot) {
        if self.complete && self.settled {
            self.at = at;
            // After the head's length, the version and the view.
            for word in [13, 21] {
                self.bytes[word..word + 8].copy_from_slice(&at.to_be_bytes());
            }
        }
    }
}

impl<A: Application> Replica<A> {
    /// [`Mutation::JoinInPlace`](crate::Mutation): the new life takes the former's place in
    /// the view as it is.
    pub(super) fn join_in_place(&mut self, seat: u8, life: u64) {
        self.members.renew(seat, life);
        if let Some(start) = self.start.as_mut() {
            start.members.renew(seat, life);
        }
        self.followers[usize::from(seat)].acked = None;
        self.repeat_start();
    }

    /// [`Mutation::FutureSession`](crate::Mutation): what is stamped is in force.
    pub(super) fn trust_session(&mut self, session: Session) {
        self.session = session;
        self.session_base = self.log.len() - self.config.origin.slot;
        self.start_inbox();
    }

    /// [`Mutation::VotesWithoutMemory`](crate::Mutation): a replica without memory takes its former life's place, with an empty log.
    pub(super) fn rejoin_blindly(
        &mut self,
        now: Time,
        formation: Formation,
        view: View,
        members: Membership,
    ) {
        let life = members.life(self.me);
        if self.status != Status::Booting || life == 0 {
            return;
        }
        (self.formation, self.incarnation) = (formation, life);
        self.members = members;
        self.leave_boot();
        self.status = Status::ViewChange;
        self.start_view_change(now, members.next_view(view));
    }

    /// It has no log, and no snapshot in place of one.
    pub(super) fn knows_nothing(&self) -> bool {
        self.log.len() <= self.config.origin.slot
    }

    /// [`Mutation::NewcomerWithoutState`](crate::Mutation): a new member enters views with an
    /// empty log.
    pub(super) fn enter_blindly(&mut self, now: Time, formation: Formation, m: &StartView) {
        self.reset();
        self.leave_boot();
        self.formation = formation;
        (self.view, self.last_normal, self.members) = (m.view, m.view, m.members);
        (self.session, self.nonce, self.session_base) = (m.session, m.nonce, m.session_base);
        self.start_inbox();
        self.enter_normal(now, m.clone());
    }
}
