//! The sequencer: gives each request its number and time (paper, section 4).
//!
//! It has no memory worth keeping. At start it asks the replicas for a session
//! under a nonce of its own; they change the view to one whose session is bound
//! to that nonce and grant it. Numbers then start at 1.
//!
//! The first of several sequencers asks when it starts. The others *stand by*,
//! silent until a leader invites them; so does one that is told that another has
//! the session. Whoever asks again does so *under a new nonce*, so that no delayed
//! grant can ever make it number a session twice. The log's time goes on from what
//! the grant says it is.
//!
//! Tails are signs of life, so one that hears nobody sends none: else a sequencer that no
//! request reaches would keep its session. The leader sees to it that it hears somebody.

use alloc::collections::VecDeque;

use stateplane_base::{LogTime, Time};
use stateplane_wire::group::{Body, Formation, MAX_SEQUENCERS, Message, Session, sequencer_of};
use stateplane_wire::oum::{GroupId, Groups, LAST_NUMBER, Stamp, Stamps};

use crate::{Effect, GroupConfig, Mark, Marks, Mutation, Peer};

/// Groups a sequencer numbers at most: those below this one.
pub const MAX_GROUPS: usize = 16;

/// What a sequencer tells about itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SequencerStatus {
    /// The life of the group it serves (0 = none yet).
    pub formation: Formation,
    /// Its session (0 = waiting for one).
    pub session: Session,
    /// It has none and asks for none: another sequencer serves.
    pub stands_by: bool,
    /// The last number given in it to the configured group.
    pub sequence: u64,
    /// The last time stamped.
    pub log_time: LogTime,
}

/// The sequencer core.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sequencer {
    config: GroupConfig,
    /// Ours; its lowest bits are our place in the configuration.
    nonce: u64,
    formation: Formation,
    /// 0 while asking for one, or standing by.
    session: Session,
    /// It asks for a session: the first of the configuration from its start, the others
    /// when a leader invites them.
    asks: bool,
    /// The last number given to each group.
    sequences: [u64; MAX_GROUPS],
    /// The last time stamped, and none below it.
    time: LogTime,
    /// The log's time when the session was granted, from which ours goes on; none if nobody
    /// knew it: then the log begins with our time of day.
    began: Option<(LogTime, Time)>,
    /// When to ask again, or to tell the tail.
    due: Time,
    /// When somebody was heard: with requests, or the leader.
    heard: Time,
    effects: VecDeque<Effect>,
    marks: Marks,
}

impl Sequencer {
    /// Sequencer `me` of the configuration, just started. `nonce` is drawn at random per
    /// start: no two lives share it or its neighbourhood.
    ///
    /// # Panics
    /// If `me` is not one of the group's sequencers.
    pub fn new(config: GroupConfig, me: u8, nonce: u64) -> Self {
        assert!(
            me < config.sequencers,
            "sequencer {me} of {}",
            config.sequencers
        );
        let step = MAX_SEQUENCERS as u64;
        Self {
            config,
            nonce: nonce - nonce % step + u64::from(me),
            formation: 0,
            session: 0,
            asks: me == 0,
            sequences: [0; MAX_GROUPS],
            time: LogTime::ZERO,
            began: None,
            due: Time::ZERO,
            heard: Time::ZERO,
            effects: VecDeque::new(),
            marks: Marks::default(),
        }
    }

    /// Handles a message.
    pub fn on_message(&mut self, now: Time, from: Peer, msg: Message) {
        let formation = msg.formation;
        match (from, msg.body) {
            (
                Peer::Replica(_),
                Body::SessionGrant {
                    session,
                    nonce,
                    time,
                    runs,
                },
            ) => {
                let asked = nonce == self.nonce || self.config.broken(Mutation::GrantReplayed);
                if self.session != 0 || !self.asks || !asked || session == 0 {
                    self.marks.hit(Mark::GrantIgnored);
                    return;
                }
                self.formation = formation;
                self.session = session;
                self.sequences = [self.config.origin.slot; MAX_GROUPS];
                // Not what we stamped in a session of which nothing may have remained.
                self.time = time;
                self.began =
                    (runs && !self.config.broken(Mutation::OwnTimeOfDay)).then_some((time, now));
                self.due = now + self.config.timing.tail_idle;
                self.heard = now;
            }
            (Peer::Replica(_), Body::SessionInfo { session, nonce }) => {
                self.on_session_info(now, formation, session, nonce);
            }
            (Peer::Replica(_), Body::Invite { session }) => {
                let deposed = formation != self.formation || session > self.session;
                if self.session != 0 && !deposed || self.session == 0 && self.asks {
                    return; // the leader does not hear us, or does not know that we ask
                }
                self.marks.hit(Mark::SequencerInvited);
                self.ask_anew(now);
            }
            _ => {}
        }
    }

    /// Which session is in force: a replica refuses ours, or our request for one.
    fn on_session_info(&mut self, now: Time, formation: Formation, session: Session, nonce: u64) {
        let deposed = formation != self.formation || session > self.session;
        if self.session != 0 && !deposed {
            self.heard = now;
        }
        let ours = session == 0 || sequencer_of(nonce) == sequencer_of(self.nonce);
        if nonce == self.nonce || self.session != 0 && !deposed {
            return;
        }
        if self.session != 0 {
            self.marks.hit(Mark::SequencerDeposed);
            if ours {
                return self.ask_anew(now);
            }
        } else if ours || !self.asks {
            return; // our own former life has it: the leader hears that we ask
        }
        self.marks.hit(Mark::SequencerStandsBy);
        self.session = 0;
        self.asks = false;
    }

    /// Asks under a new nonce: a delayed grant of the former one counts for nothing.
    fn ask_anew(&mut self, now: Time) {
        self.session = 0;
        self.asks = true;
        self.nonce = self.nonce.wrapping_add(MAX_SEQUENCERS as u64);
        self.ask(now);
    }

    /// Numbers a request for these groups; `wall` is the time of day, from which the log's
    /// time sets out if no replica knows it. The driver stamps the packet and sends it to
    /// all replicas. `None`: not now.
    pub fn stamp(&mut self, now: Time, wall: LogTime, groups: &Groups) -> Option<Stamp> {
        if self.session == 0 || !groups.iter().all(|group| self.can_number(group)) {
            self.marks.hit(Mark::Unstamped);
            return None;
        }
        let wraps = self.config.broken(Mutation::CounterWraps);
        let stamps = Stamps::new(*groups, |group| {
            let last = &mut self.sequences[usize::from(group)];
            *last += 1;
            if wraps {
                *last &= 0xffff;
            }
            *last
        });
        self.due = now + self.config.timing.tail;
        self.heard = now;
        Some(Stamp {
            sequencer: sequencer_of(self.nonce),
            formation: self.formation,
            session: self.session,
            time: self.clock(now, wall),
            stamps,
        })
    }

    /// The log's time at `now`, as a stamp would have it.
    pub fn clock(&mut self, now: Time, wall: LogTime) -> LogTime {
        let (began, then) = *self.began.get_or_insert((wall, now));
        self.time = self.time.max(began + now.since(then));
        self.time
    }

    /// The last number given to each group in this session.
    pub const fn sequences(&self) -> &[u64; MAX_GROUPS] {
        &self.sequences
    }

    /// What stamps in this core's place, in its session, has given numbers up to `last`.
    pub fn gave(&mut self, now: Time, group: GroupId, last: u64) {
        let Some(known) = self.sequences.get_mut(usize::from(group)) else {
            return;
        };
        if last > *known {
            *known = last;
            self.due = now + self.config.timing.tail;
            self.heard = now;
        }
    }

    /// The last number is never given, so that "the next" always exists.
    fn can_number(&self, group: GroupId) -> bool {
        let last = self.sequences.get(usize::from(group));
        last.is_some_and(|last| *last < LAST_NUMBER - 1)
    }

    fn send(&mut self, body: Body) {
        let msg = Message {
            formation: self.formation,
            body,
        };
        self.effects.push_back(Effect::Send {
            to: Peer::Replicas,
            msg,
        });
    }

    fn ask(&mut self, now: Time) {
        self.marks.hit(Mark::SessionRequested);
        self.send(Body::SessionRequest { nonce: self.nonce });
        self.due = now + self.config.timing.resend;
    }

    /// When [`Self::on_timer`] wants to be called.
    pub fn next_timer(&self) -> Option<Time> {
        (self.session != 0 || self.asks).then_some(self.due)
    }

    /// Does what is due at `now`.
    pub fn on_timer(&mut self, now: Time) {
        if now < self.due || self.session == 0 && !self.asks {
            return;
        }
        if self.session == 0 {
            self.ask(now);
            return;
        }
        self.due = now + self.config.timing.tail_idle;
        if now.since(self.heard) >= self.config.timing.sequencer_silence / 2 {
            // It may be that nobody reaches us. The leader is to see that.
            self.marks.hit(Mark::SequencerDeaf);
            return;
        }
        let session = self.session;
        for (group, sequence) in (0..).zip(self.sequences) {
            if sequence > self.config.origin.slot || group == self.config.group {
                self.send(Body::Tail {
                    session,
                    group,
                    sequence,
                });
            }
        }
    }

    /// For the model checker: the timer fires at `now`, which is the time of everything else.
    #[cfg(feature = "model")]
    pub fn fire(&mut self, now: Time) {
        self.due = now;
        self.on_timer(now);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// How often each rare branch was taken.
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    fn sequence(&self) -> u64 {
        let last = self.sequences.get(usize::from(self.config.group));
        last.copied().unwrap_or(0)
    }

    /// A view of its state.
    pub fn inspect(&self) -> SequencerStatus {
        SequencerStatus {
            formation: self.formation,
            session: self.session,
            stands_by: self.session == 0 && !self.asks,
            sequence: self.sequence(),
            log_time: self.time,
        }
    }

    /// Asserts what must always hold.
    ///
    /// # Panics
    /// When it does not.
    pub fn check(&self) {
        assert!(
            self.session == 0 || self.formation != 0,
            "a session belongs to a formation"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_base::ReplicaId;

    fn hear(sequencer: &mut Sequencer, body: Body) {
        let msg = Message { formation: 7, body };
        sequencer.on_message(Time::from_millis(1), Peer::Replica(ReplicaId(0)), msg);
    }

    /// The nonce it asks with, if it asks.
    fn asks(sequencer: &mut Sequencer) -> Option<u64> {
        sequencer.on_timer(Time::from_millis(1_000_000));
        let said = core::iter::from_fn(|| sequencer.poll_effect());
        let nonces = said.filter_map(|effect| match effect {
            Effect::Send { msg, .. } => match msg.body {
                Body::SessionRequest { nonce } => Some(nonce),
                _ => None,
            },
            _ => None,
        });
        nonces.last()
    }

    fn of_two(me: u8) -> Sequencer {
        let mut config = GroupConfig::new(3);
        config.sequencers = 2;
        Sequencer::new(config, me, 0xabcd_0000)
    }

    const fn grant(session: Session, nonce: u64) -> Body {
        Body::SessionGrant {
            session,
            nonce,
            time: LogTime::ZERO,
            runs: false,
        }
    }

    #[test]
    fn a_standby_speaks_when_it_is_invited_and_under_a_new_nonce_each_time() {
        let mut standby = of_two(1);
        assert_eq!((standby.next_timer(), asks(&mut standby)), (None, None));
        hear(&mut standby, Body::Invite { session: 3 });
        let first = asks(&mut standby).expect("it was invited");
        assert_eq!(sequencer_of(first), 1);
        hear(
            &mut standby,
            Body::SessionInfo {
                session: 3,
                nonce: 0,
            },
        );
        assert!(standby.inspect().stands_by && asks(&mut standby).is_none());
        hear(&mut standby, grant(4, first));
        assert_eq!(standby.inspect().session, 0, "that grant came too late");
        hear(&mut standby, Body::Invite { session: 3 });
        let second = asks(&mut standby).expect("it was invited again");
        assert_ne!(first, second);
        hear(&mut standby, grant(5, first));
        assert_eq!(standby.inspect().session, 0);
        hear(&mut standby, grant(6, second));
        assert_eq!(standby.inspect().session, 6);
    }

    #[test]
    fn a_deposed_sequencer_stands_by_unless_the_session_is_its_former_lifes() {
        let mut first = of_two(0);
        let nonce = asks(&mut first).expect("the first asks by itself");
        hear(&mut first, grant(2, nonce));
        let other = Body::SessionInfo {
            session: 5,
            nonce: 0x51,
        };
        hear(&mut first, other);
        assert!(first.inspect().stands_by);

        let mut again = of_two(0);
        let nonce = asks(&mut again).expect("the first asks by itself");
        hear(&mut again, grant(2, nonce));
        hear(
            &mut again,
            Body::SessionInfo {
                session: 5,
                nonce: 0x50,
            },
        );
        assert!(!again.inspect().stands_by);
        assert!(asks(&mut again).is_some_and(|n| n != nonce));
    }
}
