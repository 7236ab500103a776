//! Who stamps: sessions, and the watch over the sequencer in force.
//!
//! One sequencer has the session; the others stand by, in silence. A leader that has
//! heard neither a stamp nor a tail of its session for [`sequencer_silence`] *invites*
//! the others in turn, and its own among them, in case it was only forgotten. Whoever
//! is invited asks for a session, and the view change that grants it deposes the silent
//! one, wherever it is: its stamps are of an old session.
//!
//! A request of another sequencer is refused while the one in force is heard, and who
//! is refused or deposed stands by. So two live sequencers do not depose each other
//! again and again. Only a sequencer that asks anew itself (it was restarted) is
//! believed at once that its former session is over.
//!
//! [`sequencer_silence`]: crate::Timing::sequencer_silence

use stateplane_base::Time;
use stateplane_state::Application;
use stateplane_wire::group::{Body, sequencer_of};

use super::Replica;
use crate::{Mark, Mutation, Peer};

/// Heartbeats between two words to a sequencer that no request reaches. It takes itself for cut off
/// after [`sequencer_silence`](crate::Timing::sequencer_silence) / 2: some may be lost.
const WORDS: u32 = 2;

/// What a leader knows of sequencers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Sequencers {
    /// When the one in force was heard, or the view began.
    heard: Time,
    /// How many invitations were sent since, and when the last.
    invited: (u8, Time),
    /// When it had a reason to believe that somebody reaches it: its last stamp, or our
    /// last word to it.
    reached: Time,
}

impl Sequencers {
    /// The one in force gave a sign of life.
    pub(super) fn hear(&mut self, now: Time) {
        self.heard = now;
        self.invited = (0, now);
    }

    /// The one in force stamped a request.
    pub(super) fn stamped(&mut self, now: Time) {
        self.hear(now);
        self.reached = now;
    }
}

impl<A: Application> Replica<A> {
    fn sequencer_is_silent(&self, now: Time) -> bool {
        now.since(self.sequencers.heard) >= self.config.timing.sequencer_silence
    }

    /// A sequencer asks for a session: only a leader in office can start one.
    pub(super) fn on_session_request(&mut self, now: Time, from: u8, nonce: u64) {
        if !self.is_leader() || sequencer_of(nonce) != from {
            return;
        }
        if self.session != 0 && nonce == self.nonce {
            self.granted = false;
            return self.grant_session(now);
        }
        if self.session != 0 && self.config.broken(Mutation::SessionReused) {
            (self.nonce, self.granted) = (nonce, false);
            return self.grant_session(now);
        }
        let another = self.session != 0
            && sequencer_of(self.nonce) != from
            && !self.config.broken(Mutation::StandbyNotRefused);
        if another && !self.sequencer_is_silent(now) {
            self.marks.hit(Mark::SessionRefused);
            return self.send_session(from);
        }
        self.marks.hit(Mark::SessionRequested);
        self.wanted_session = Some(nonce);
        self.start_view_change(now, self.next_own_view());
    }

    /// Tells a sequencer which session is in force.
    pub(super) fn send_session(&mut self, sequencer: u8) {
        let (session, nonce) = (self.session, self.nonce);
        let info = Body::SessionInfo { session, nonce };
        self.send(Peer::Sequencer(sequencer), info);
    }

    /// Leader: sees to it that somebody stamps. The one in force is told so while no
    /// request reaches it.
    pub(super) fn watch_sequencer(&mut self, now: Time) {
        let unreached = now.since(self.sequencers.reached);
        if self.granted && unreached >= self.config.timing.heartbeat * WORDS && self.session != 0 {
            self.sequencers.reached = now;
            self.send_session(sequencer_of(self.nonce));
        }
        let (count, last) = self.sequencers.invited;
        let pause = self.config.timing.resend;
        let early = count > 0 && now.since(last) < pause;
        if self.config.leader_orders() || early || !self.sequencer_is_silent(now) {
            return;
        }
        if count == 0 {
            self.marks.hit(Mark::SequencerSilent);
        }
        let all = self.config.sequencers;
        let turn = u32::from(sequencer_of(self.nonce)) + 1 + u32::from(count);
        let next = u8::try_from(turn % u32::from(all.max(1))).expect("sequencers are few");
        self.sequencers.invited = (count.saturating_add(1).max(1), now);
        let session = self.session;
        self.send(Peer::Sequencer(next), Body::Invite { session });
    }

    /// Grants the session once a majority knows it.
    pub(super) fn grant_session(&mut self, now: Time) {
        if self.session == 0 || self.granted || !self.in_office() || !self.decides() {
            return;
        }
        self.granted = true;
        self.marks.hit(Mark::SessionGranted);
        let (session, nonce, clock) = (self.session, self.nonce, self.clock(now));
        let time = clock.unwrap_or(self.log_time);
        self.send(
            Peer::Sequencer(sequencer_of(nonce)),
            Body::SessionGrant {
                session,
                nonce,
                time,
                runs: clock.is_some(),
            },
        );
    }
}
