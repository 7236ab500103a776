//! What [`Mutation::VotesWithoutMemory`](crate::Mutation) does.

use alloc::vec::Vec;

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Formation, View};

use super::{Replica, Status};

impl<A: Application> Replica<A> {
    /// A replica without memory takes its former life's place, with an empty log.
    pub(super) fn rejoin_blindly(
        &mut self,
        now: Time,
        formation: Formation,
        view: View,
        vector: Vec<u64>,
    ) {
        let me = usize::from(self.me);
        if self.status != Status::Booting || vector.get(me).is_none_or(|life| *life == 0) {
            return;
        }
        (self.formation, self.incarnation) = (formation, vector[me]);
        self.vector = vector;
        self.leave_boot();
        self.status = Status::ViewChange;
        self.start_view_change(now, view + 1);
    }
}
