//! What [`Mutation::VotesWithoutMemory`](crate::Mutation) does.

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Formation, Membership, View};

use super::{Replica, Status};

impl<A: Application> Replica<A> {
    /// A replica without memory takes its former life's place, with an empty log.
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
}
