//! How a group forms, and how a replica without memory joins one.
//!
//! A booting replica announces its life to all, with the lives of the booting
//! replicas it heard. Members answer with a hint: then there is a group to join,
//! and the leader proposes the new life for the next view. Replica 0 forms a group
//! when all others are booting and each has heard replica 0's present life; it
//! leads only once a majority has accepted.

use alloc::boxed::Box;

use stateplane_base::{LogTime, Time};
use stateplane_state::Application;
use stateplane_wire::group::{
    Body, Formation, Hint, Lives, MAX_REPLICAS, Membership, NoopSet, StartView, Summary, leader_of,
};

use super::log::Log;
use super::staging::Staging;
use super::table::ClientTable;
use super::{Replica, Status};
use crate::{Alarm, Mark, Peer};

/// What a replica without memory knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Boot {
    /// It may help to form a group: it does not know that there was one.
    pub(super) forms: bool,
    /// Per replica: its life, whether it heard ours, and when it said so.
    heard: [Option<(u64, bool, Time)>; MAX_REPLICAS],
    /// A member told us that there is a group.
    pub(super) hinted: Option<Time>,
    /// The formation we accepted, in force as soon as its leader acts.
    pub(super) accepted: Option<(Formation, StartView)>,
    /// Replica 0: the formation we proposed, since when, and who accepted it.
    pub(super) proposed: Option<(StartView, Time, u16)>,
    /// We receive the state ahead of becoming a member.
    pub(super) learning: bool,
    /// Formations proposed by this life.
    proposals: u64,
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            forms: true,
            heard: [None; MAX_REPLICAS],
            hinted: None,
            accepted: None,
            proposed: None,
            learning: false,
            proposals: 0,
        }
    }
}

impl<A: Application> Replica<A> {
    pub(super) fn leave_boot(&mut self) {
        self.boot = Boot::default();
        self.timers.boot = None;
    }

    pub(super) fn on_boot_timer(&mut self, now: Time) {
        if self.status != Status::Booting {
            return;
        }
        self.timers.boot = Some(now + self.config.timing.boot);
        let memory = self.config.timing.boot_memory;
        let fresh = |at: Time| now.since(at) < memory;
        for heard in &mut self.boot.heard {
            heard.take_if(|(_, _, at)| !fresh(*at));
        }
        // Who has not heard of them cannot form a group with them.
        let forms = self.boot.forms;
        let heard = self.boot.heard;
        let heard = heard.map(|h| h.filter(|_| forms).map_or(0, |(life, _, _)| life));
        let msg = stateplane_wire::group::Message {
            formation: 0,
            body: Body::Boot {
                incarnation: self.incarnation,
                heard,
            },
        };
        self.effects.push_back(crate::Effect::Send {
            to: Peer::Replicas,
            msg,
        });
        if self.me == 0 {
            self.boot.proposed.take_if(|(_, since, _)| !fresh(*since));
            self.propose_formation(now);
        }
    }

    /// Replica 0: forms the group if nobody has a memory.
    fn propose_formation(&mut self, now: Time) {
        let memory = self.config.timing.boot_memory;
        if self
            .boot
            .hinted
            .is_some_and(|at| now.since(at) < memory * 2)
            || self.staging.is_some()
            || !self.boot.forms
        {
            return;
        }
        if self.boot.proposed.is_none() {
            let mut lives = Lives::default();
            lives[0] = self.incarnation;
            let seats = 1..usize::from(self.config.seats);
            for (j, heard) in seats.zip(&self.boot.heard[1..]) {
                let Some((life, true, _)) = *heard else {
                    return;
                };
                if j < usize::from(self.config.n) {
                    lives[j] = life;
                }
            }
            self.formation = self.incarnation.saturating_add(self.boot.proposals);
            self.boot.proposals += 1;
            let start = StartView {
                view: 0,
                basis: 0,
                session: 0,
                nonce: 0,
                session_base: 0,
                members: Membership::of(lives),
                summary: Summary {
                    commit: self.config.origin.slot,
                    len: self.config.origin.slot,
                    known_from: self.config.origin.slot,
                    noops: NoopSet::default(),
                },
            };
            self.boot.proposed = Some((start, now, 1));
        }
        if let Some((start, _, _)) = &self.boot.proposed {
            let start = start.clone();
            self.send(Peer::Replicas, Body::StartView(Box::new(start)));
        }
        self.lead_formation(now);
    }

    /// Replica 0: a majority without memory has accepted.
    fn lead_formation(&mut self, now: Time) {
        let accepted = self.boot.proposed.take_if(|p| p.0.members.decides(p.2));
        if let Some((start, _, _)) = accepted {
            self.form(now, self.formation, start);
        }
    }

    /// Enters view 0 of a new group.
    fn form(&mut self, now: Time, formation: Formation, start: StartView) {
        self.marks.hit(Mark::Formed);
        self.reset();
        self.formation = formation;
        self.start_inbox();
        self.leave_boot();
        self.members = start.members;
        self.granted = true;
        self.set_clock(now, false);
        self.enter_normal(now, start);
    }

    /// Forgets everything a half-received snapshot may have left.
    pub(super) fn reset(&mut self) {
        self.drop_picture();
        self.app
            .restore(&self.blank)
            .expect("the application takes back its own first snapshot");
        let slot = self.config.origin.slot;
        self.log = Log::after(slot, self.journal.is_some());
        (self.commit, self.executed, self.verified) = (slot, slot, slot);
        (self.view, self.last_normal, self.admitted) = (0, 0, 0);
        (self.session, self.nonce, self.session_base) = (0, 0, 0);
        self.log_time = LogTime::ZERO;
        self.table = ClientTable::default();
        self.start_inbox();
        self.staging = None;
        self.download = None;
    }

    /// A replica without memory announces itself.
    pub(super) fn on_boot(&mut self, now: Time, from: u8, incarnation: u64, heard: &Lives) {
        let j = usize::from(from);
        if self.status == Status::Booting {
            let heard_us = heard[usize::from(self.me)] == self.incarnation;
            self.boot.heard[j] = Some((incarnation, heard_us, now));
            return;
        }
        self.hint(from);
        if self.members.life(from) == 0 {
            self.spares[j] = Some(now);
        } else if incarnation > self.members.life(from) {
            self.joining[j] = self.joining[j].max(incarnation);
            if self.is_leader() {
                self.marks.hit(Mark::JoinRequested);
                #[cfg(feature = "mutations")]
                if self.config.broken(crate::Mutation::JoinInPlace) {
                    return self.join_in_place(from, incarnation);
                }
                self.start_view_change(now, self.next_own_view());
            }
        } else if incarnation == self.members.life(from) && self.is_leader() {
            // Admitted, but the view's start has not reached it.
            self.followers[j].acked = None;
        }
    }

    /// Tells a replica that is not of our view that there is a group.
    pub(super) fn hint(&mut self, to: u8) {
        if self.status != Status::Booting {
            let hint = Hint {
                view: self.last_normal,
                members: self.members,
                settled: self.is_leader() && !self.members.joint() && self.in_office(),
            };
            self.send_to(to, Body::Hint(hint));
        }
    }

    pub(super) fn on_hint(&mut self, now: Time, formation: Formation, hint: &Hint) {
        if self.status != Status::Booting {
            if formation == self.formation {
                self.on_dismissal(hint);
            }
            return;
        }
        let known = hint.members.life(self.me);
        if known == self.incarnation && self.me != 0 {
            // The group has us already: no other is to be joined, and its leader's next
            // repetition of the view's start takes us in, also that of a formation.
            return;
        }
        self.boot.hinted = Some(now);
        if known > self.incarnation {
            // A former life of ours, it seems, had a clock ahead of ours. Scatter, so that
            // the next life with the same clock does not choose the same.
            self.alarm(Alarm::IncarnationReused);
            self.incarnation = known.saturating_add(1 + (self.incarnation & 0xff_ffff));
            self.boot.accepted = None;
            self.boot.proposed = None;
            self.staging = None;
        }
    }

    /// What a replica without memory makes of a member's message; true if it goes
    /// on to be handled as usual.
    pub(super) fn on_peer_while_booting(
        &mut self,
        now: Time,
        from: u8,
        formation: Formation,
        body: &Body,
    ) -> bool {
        match body {
            Body::StartView(m) => {
                let ours = m.members.admits(self.me, self.incarnation);
                if leader_of(m.view) != from || !ours {
                    return false;
                }
                if m.view == 0 {
                    self.accept_formation(now, formation, m);
                    return false;
                }
                if self.act_on_formation(now, formation) {
                    return true;
                }
                self.join(now, from, formation, m);
                false
            }
            Body::ViewChange(m) if self.boot.learning => {
                self.vote_as_newcomer(now, formation, m);
                self.status != Status::Booting
            }
            Body::Heartbeat { .. } | Body::ViewChange(_) => self.act_on_formation(now, formation),
            Body::Entries(_) | Body::SnapshotChunk(_) => {
                (self.staging.is_some() || self.boot.learning) && formation == self.formation
            }
            Body::SyncAck { view: 0, .. } => {
                if let Some((_, _, acks)) = self
                    .boot
                    .proposed
                    .as_mut()
                    .filter(|_| formation == self.formation)
                {
                    *acks |= 1 << from;
                    self.lead_formation(now);
                }
                false
            }
            _ => false,
        }
    }

    fn accept_formation(&mut self, now: Time, formation: Formation, m: &StartView) {
        let memory = self.config.timing.boot_memory;
        let hinted = self.boot.hinted.is_some_and(|at| now.since(at) < memory);
        if self.me == 0 || hinted || self.staging.is_some() || !self.boot.forms {
            return;
        }
        // One that is late must not take the place of what its proposer may have formed since:
        // we would not know the group when it acts.
        let proposer = m.members.life(0);
        let late = |(known, accepted): &(Formation, StartView)| {
            accepted.members.life(0) == proposer && *known > formation
        };
        if self.boot.accepted.as_ref().is_some_and(late) {
            return;
        }
        self.boot.accepted = Some((formation, m.clone()));
        self.formation = formation;
        self.send_to(0, Body::SyncAck { view: 0, upto: 0 });
    }

    /// A member of the formation we accepted acts: so a majority accepted it.
    fn act_on_formation(&mut self, now: Time, formation: Formation) -> bool {
        match self
            .boot
            .accepted
            .take_if(|(accepted, _)| *accepted == formation)
        {
            Some((_, start)) => {
                self.form(now, formation, start);
                true
            }
            None => false,
        }
    }

    /// A view that admits us: receives its state, then takes part.
    fn join(&mut self, now: Time, from: u8, formation: Formation, m: &StartView) {
        self.boot.hinted = Some(now);
        if self.staging.is_some() && formation == self.formation && m.view <= self.view {
            return;
        }
        #[cfg(feature = "mutations")]
        if self.boot.learning && self.config.broken(crate::Mutation::NewcomerWithoutState) {
            return self.enter_blindly(now, formation, m);
        }
        let received = self.staging.is_some() || self.boot.learning;
        if formation != self.formation || !received {
            self.reset();
        }
        self.formation = formation;
        self.boot.accepted = None;
        self.boot.proposed = None;
        self.leave_normal(m.view);
        self.timers.resend = Some(now + self.config.timing.resend);
        let sources = [(from, m.summary.clone())];
        self.begin_staging(now, Staging::new(m.clone(), false, sources.into()));
    }
}
