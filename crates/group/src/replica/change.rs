//! Reconfiguration: another set of seats, by view changes.
//!
//! A change takes three steps, each of which may fail half way and be repeated:
//! 1. *Learn.* The seat that is to join gets a snapshot while it has no part in
//!    anything, so that it is of use from the moment it counts.
//! 2. *Joint view.* A view change as any other, on top of the present members' votes,
//!    starts a view whose membership is [joint](Membership::joint). All members, new
//!    and former, enter it. Whatever is decided in it, or on top of it, needs a majority
//!    of the new *and* of the former members. It answers no client, moves no sync point
//!    and grants no session.
//! 3. *Final view.* Once majorities of both have *entered* the joint view it is
//!    established, and the next view on top of it has the new members alone. Those who
//!    left are told by its leader when it is in office; they forget everything and
//!    become spare, as a replica that just started.
//!
//! A leader that is to leave hands over first; the one after it makes the change.
//!
//! # Why that is safe
//! Let O be the former members, N the new ones, v the joint view, w the final one.
//! * *Nothing of O is lost.* v continues the log merged from a majority of O, like any
//!   view of O.
//! * *O does not go on beside N.* In v nothing is answered; in w only after votes showed
//!   that a majority of O has entered v. Every majority of O meets it in a replica whose
//!   last normal view is v or later, and a merge counts the newest logs under *their*
//!   membership. So no view without N's say starts after w has: not by former members
//!   that were asleep, nor by votes under way.
//! * *N does not go on beside O.* While v is not established, a majority of O that has
//!   not seen it may start a view u > v without it and answer clients there, once a
//!   majority of O has entered u. A merge on top of v needs votes of a majority of O, too.
//!   If it is for a view above u, one of them has entered u, whose log is then the newest:
//!   v is forgotten, as a view that never was. If it is for one below u, that view cannot
//!   be established any more, because u's votes came from a majority of O that had not
//!   entered it and no longer will.
//! * *A newcomer* counts as being in a view only once it has that view's whole log. It
//!   may vote earlier, as soon as another's vote shows that a view admits this life of
//!   it: it then says, truly, that it has entered none. (A restarted *member* may not:
//!   its former life may have.) Without that, a leader lost at the wrong moment could
//!   take the majority of N with it. A member that has missed v takes such a vote once it
//!   holds another's that shows v; it is counted under v's members only, as all votes are.
//! * *Who left* has no say: its life is in no membership that a newer log names, so its
//!   votes are not counted, and members refuse to follow it into a view change unless it
//!   knows a newer log than they do. Returning, it counts as a new life.
//! * *Forgetting.* Who left is dismissed by a leader of w that a majority of N has
//!   joined: from then on no merge needs the former members.
//! * *One at a time.* A change starts from a membership that is not joint and from
//!   votes that make majorities before and after it; a joint view that does not
//!   establish itself is continued by the next leader, with the same two sets.
//!
//! A change in flight when its leader fails either reached the next leader's votes, and
//! is completed, or is forgotten; whoever asked sees which, and asks again.

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{
    Answer, Body, Change, Formation, Hint, Learn, Membership, Seats, Slot, StartView, ViewChange,
    leader_of,
};

use super::boot::Boot;
use super::{Replica, Status, Timers};
use crate::{Alarm, Effect, Mark, Mutation};

/// A change this leader was asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Changing {
    change: Change,
    /// When the newcomer was last heard.
    heard: Time,
    /// Its life, once it has a state from which our log goes on.
    learned: Option<u64>,
}

impl<A: Application> Replica<A> {
    /// An operator wants another membership. The answer comes as an
    /// [`Effect::Reconfigured`] with the ticket; that a change was accepted does not mean
    /// that it will be complete: watch [`Self::inspect`], and ask again.
    pub fn reconfigure(&mut self, now: Time, ticket: u64, change: Change) {
        if self.is_leader() {
            let answer = self.begin_change(now, change);
            self.effects
                .push_back(Effect::Reconfigured { ticket, answer });
        } else if self.status == Status::Normal {
            self.send(self.leader(), Body::Reconfigure { ticket, change });
        } else {
            let answer = Answer::NotTheLeader;
            self.effects
                .push_back(Effect::Reconfigured { ticket, answer });
        }
    }

    pub(super) fn on_reconfigure(&mut self, now: Time, from: u8, ticket: u64, change: Change) {
        let answer = if self.is_leader() {
            self.begin_change(now, change)
        } else {
            Answer::NotTheLeader
        };
        self.send_to(from, Body::ReconfigureReply { ticket, answer });
    }

    fn begin_change(&mut self, now: Time, change: Change) -> Answer {
        if self.changing.as_ref().is_some_and(|c| c.change == change) {
            return Answer::Accepted;
        }
        if let Some(refusal) = self.refuses(now, change) {
            return refusal;
        }
        self.marks.hit(Mark::ChangeAccepted);
        if change.out == Some(self.me) {
            return self.hand_over(now);
        }
        self.changing = Some(Changing {
            change,
            heard: now,
            learned: None,
        });
        match change.into {
            Some(_) => self.teach(now),
            None => self.start_view_change(now, self.next_own_view()),
        }
        Answer::Accepted
    }

    fn refuses(&self, now: Time, change: Change) -> Option<Answer> {
        let seats = [change.out, change.into];
        if seats == [None; 2] {
            return Some(Answer::Nothing);
        }
        if seats.iter().flatten().any(|s| *s >= self.config.seats) {
            return Some(Answer::UnknownSeat);
        }
        if change.into.is_some_and(|seat| self.members.has(seat)) {
            return Some(Answer::AlreadyMember);
        }
        if change.out.is_some_and(|seat| !self.members.has(seat)) {
            return Some(Answer::NotAMember);
        }
        if self.members.joint() || self.changing.is_some() {
            return Some(Answer::InProgress);
        }
        let lately = |at: Time| now.since(at) < self.config.timing.boot_memory;
        let announced = |seat: u8| self.spares[usize::from(seat)].is_some_and(lately);
        if change.into.is_some_and(|seat| !announced(seat)) {
            return Some(Answer::NotHeard);
        }
        let newcomer = change.into.map(|seat| (seat, 1));
        let next = self.members.changed(change.out, newcomer);
        let silence = self.config.timing.silence * 2;
        let heard = |j: usize| {
            let follower = &self.followers[j];
            follower.acked.is_some() && now.since(follower.heard) < silence
        };
        let alive = self.with_us(heard) | newcomer.map_or(0, |(seat, _)| 1 << seat);
        next.is_none_or(|next| !next.decides(alive))
            .then_some(Answer::NoMajority)
    }

    /// Lets the first follower that is here lead.
    fn hand_over(&mut self, now: Time) -> Answer {
        let mut view = self.view;
        for _ in 0..self.members.size() {
            view = self.members.next_view(view);
            let next = leader_of(view);
            let here = self.followers[usize::from(next)].acked.is_some();
            if next != self.me && here {
                self.marks.hit(Mark::HandedOver);
                self.start_view_change(now, view);
                return Answer::HandsOver;
            }
        }
        Answer::NoMajority
    }

    /// The change this leader was asked for.
    pub(super) fn changing(&self) -> Option<Change> {
        self.changing.as_ref().map(|changing| changing.change)
    }

    /// Leader, now and then: brings a change forward.
    pub(super) fn pursue_change(&mut self, now: Time) {
        if self.members.joint() && self.in_office() {
            self.start_view_change(now, self.next_own_view());
        } else if self.changing.is_some() {
            self.teach(now);
        }
    }

    /// Leader: tells the newcomer what to learn, and gives it up if it is silent.
    fn teach(&mut self, now: Time) {
        let patience = self.config.timing.boot_memory * 2;
        let Some(changing) = self.changing.as_ref() else {
            return;
        };
        let Some(seat) = changing.change.into else {
            return;
        };
        if now.since(changing.heard) > patience {
            self.marks.hit(Mark::ChangeGivenUp);
            self.changing = None;
            return;
        }
        let learn = Learn {
            floor: self.log.base(),
            members: self.members,
        };
        self.send_to(seat, Body::Learn(learn));
    }

    /// Leader: how far the newcomer is.
    pub(super) fn on_learned(&mut self, now: Time, from: u8, incarnation: u64, upto: Slot) {
        let base = self.log.base();
        let Some(changing) = self.changing.as_mut() else {
            return;
        };
        if self.status != Status::Normal || changing.change.into != Some(from) {
            return;
        }
        changing.heard = now;
        if upto >= base && changing.learned.is_none() {
            changing.learned = Some(incarnation);
            self.start_view_change(now, self.next_own_view());
        }
    }

    /// Newcomer: gets the state ahead of being a member.
    pub(super) fn on_learn(&mut self, now: Time, from: u8, formation: Formation, m: &Learn) {
        if self.status != Status::Booting || self.staging.is_some() {
            return;
        }
        self.boot.hinted = Some(now);
        if formation != self.formation || !self.boot.learning {
            self.reset();
            (self.formation, self.boot.learning) = (formation, true);
            self.boot.accepted = None;
            self.boot.proposed = None;
        }
        self.members = m.members;
        if self.executed < m.floor {
            self.start_download(now, m.floor);
        }
        let learned = Body::Learned {
            incarnation: self.incarnation,
            upto: self.executed,
        };
        self.send_to(from, learned);
    }

    /// Newcomer: somebody votes on top of a view that admits us, whose leader may be gone
    /// before we have entered it. This life has promised nothing yet, so it may say so.
    pub(super) fn vote_as_newcomer(&mut self, now: Time, formation: Formation, m: &ViewChange) {
        let admitted = m.members.admits(self.me, self.incarnation);
        if !self.boot.learning || formation != self.formation || !admitted {
            return;
        }
        self.marks.hit(Mark::NewcomerVoted);
        self.staging = None;
        self.leave_boot();
        self.status = Status::ViewChange;
        (self.members, self.admitted) = (m.members, m.last_normal);
        self.start_view_change(now, m.view);
    }

    /// New leader, merging: completes a change that is established by the votes of those
    /// that `entered` the joint view, or begins the one wanted if the `voters` can.
    pub(super) fn apply_change(&mut self, start: &mut StartView, entered: Seats, voters: Seats) {
        if start.members.joint() {
            if start.members.decides(entered) {
                self.marks.hit(Mark::ChangeEstablished);
                start.members = start.members.settled();
            } else {
                self.marks.hit(Mark::JointContinued);
            }
            return;
        }
        let Some(changing) = self.changing.as_ref() else {
            return;
        };
        let Change { out, into } = changing.change;
        let newcomer = into.zip(changing.learned);
        if out == Some(self.me) || newcomer.is_some() != into.is_some() {
            return;
        }
        let present = voters | into.map_or(0, |seat| 1 << seat);
        let next = start.members.changed(out, newcomer);
        let Some(next) = next.filter(|next| next.decides(present)) else {
            return;
        };
        self.marks.hit(Mark::ChangeBegun);
        start.members = match self.config.broken(Mutation::ChangeAtOnce) {
            true => next.settled(),
            false => next,
        };
    }

    /// The membership without which nothing is decided on top of a log.
    pub(super) fn deciders(&self, members: Membership) -> Membership {
        match self.config.broken(Mutation::FormerMembersIgnored) {
            true => members.settled(),
            false => members,
        }
    }

    /// Whether this view may decide anything: not while a change is not complete.
    pub(super) fn decides(&self) -> bool {
        !self.members.joint() || self.config.broken(Mutation::JointViewAnswers)
    }

    /// A leader in office says who the members are; perhaps late, of a view before the one
    /// that admits us.
    pub(super) fn on_dismissal(&mut self, hint: &Hint) {
        let ours = hint.members.admits(self.me, self.incarnation);
        let mut known = self.last_normal;
        if !self.config.broken(Mutation::StaleDismissal) {
            known = known.max(self.admitted);
        }
        if ours || !hint.settled || hint.view <= known {
            return;
        }
        self.marks.hit(Mark::Dismissed);
        self.alarm(Alarm::Dismissed);
        let known = hint.members.life(self.me).max(self.incarnation);
        // What the former life wanted to say may not be on its disk, and never will be.
        self.effects.retain(|e| !matches!(e, Effect::Send { .. }));
        self.reset();
        self.jumped();
        self.status = Status::Booting;
        self.incarnation = known.saturating_add(1);
        (self.formation, self.members) = (0, hint.members);
        self.inbox.forget_early();
        self.votes.fill(None);
        self.wanted_session = None;
        (self.gap, self.start, self.changing) = (None, None, None);
        self.boot = Boot::default();
        self.boot.forms = false;
        self.timers = Timers {
            boot: Some(Time::ZERO),
            ..Timers::default()
        };
    }
}
