//! The instance's side: acquires partitions, keeps their leases alive, gives them up, and lets
//! packets out when what they depend on is stored.
//!
//! ```text
//!            acquire            granted                 asked back, give_up
//!   (nothing) ────▶ Asking ──────────────▶ Held ─────────────────────▶ Leaving ──▶ (nothing)
//!                     ▲                     │ │ ▲                        writes are
//!                     │  refused: retry     │ └─┘ renewed, in bulk       acknowledged,
//!                     └──── Waiting ◀───────┘                            then released
//!                                    fenced
//! ```
//!
//! The host carries out [`Effect`]s. It hands every [`Effect::Ask`] to a store client and gives its
//! one answer to [`Holder::on_reply`]; whether the client repeats what it sends is its own affair,
//! since a lease is counted from the moment of the first. It writes [`Effect::Publish`] to the fast
//! path, and drops or lets out the packets that wait for state.

mod config;
mod steps;
mod writes;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use stateplane_base::Time;

pub use config::{HolderConfig, OnExpiry};
pub use writes::Output;
use writes::Writes;

use crate::grant::Refused;
use crate::mutation::Mutation;
use crate::ops::{Answer, Holding, Lent};
use crate::words::{Life, Partition};

/// One request of one holder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// What the store is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// For a partition.
    Acquire(Partition),
    /// To prolong leases; at most [`BATCH`](crate::ops::BATCH) at a time.
    Renew(Vec<Holding>),
    /// To take a lease back.
    Release(Holding),
    /// To replace a partition's state.
    Write {
        /// Under which lease.
        holding: Holding,
        /// The write's place in the epoch.
        sequence: u64,
        /// What is to be kept.
        state: Vec<u8>,
    },
}

/// What the store answered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// About one lease: to an acquisition or a write.
    One(Answer),
    /// About each of those to be renewed.
    Each(Vec<Answer>),
    /// It was released.
    Released,
    /// Nothing, or nonsense; it may have been executed.
    Nothing,
}

/// Why a partition is not used any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Loss {
    /// The store did not renew in time. The lease may come back.
    Lapsed,
    /// Another owner, or another life of ours, has it.
    Fenced,
    /// It is to move to another owner.
    AskedBack,
    /// We were told to give it up.
    GivenUp,
    /// Its sequence numbers are used up; it is acquired anew.
    Spent,
}

/// What the host is to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Ask the store, and answer with [`Holder::on_reply`] once.
    Ask {
        /// Which request.
        id: RequestId,
        /// What to ask.
        request: Request,
    },
    /// Tell the fast path: entries of this partition with this epoch are valid before `until`,
    /// others never. `until` has drift and margin taken off.
    Publish {
        /// Which partition.
        partition: Partition,
        /// The epoch's low 32 bits; 0 is nobody's.
        epoch: u32,
        /// The end, on our own clock.
        until: Time,
    },
    /// The partition may be used from now on.
    Granted {
        /// Which.
        partition: Partition,
        /// Under which epoch.
        epoch: u64,
    },
    /// It may not be used any more.
    Lost {
        /// Which.
        partition: Partition,
        /// Why.
        why: Loss,
    },
    /// What a packet depends on is stored: it may leave.
    Release(Output),
    /// What it depends on was not stored under our lease, as far as we know: it must not leave.
    Discard(Output),
}

/// A lease in use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    /// The grant's epoch.
    pub epoch: u64,
    /// When its use ends, on our own clock.
    pub until: Time,
}

/// Why something cannot be done now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Denied {
    /// We do not hold the partition.
    #[error("the partition's lease is not ours, or has ended")]
    NotHeld,
    /// As many writes as allowed are under way.
    #[error("too many writes are under way")]
    Full,
}

/// Where a partition stands, for people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HolderView {
    /// Which.
    pub partition: Partition,
    /// `asking`, `waiting`, `held`, `lapsed`, `leaving`.
    pub state: &'static str,
    /// The epoch, if there is one.
    pub epoch: Option<u64>,
    /// How long it may still be used.
    pub left: Duration,
    /// Writes under way.
    pub writes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Phase {
    /// To be asked for at this time.
    Waiting(Time),
    Asking,
    Held {
        held: Held,
        /// The end was told.
        lapsed: bool,
    },
    /// Not used any more. Its last writes are awaited, then it is released.
    Leaving {
        held: Held,
        /// When to say so; never while it is being said.
        again: Time,
    },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Slot {
    phase: Phase,
    wanted: bool,
    /// It is left, but its last writes are to come.
    lingering: bool,
    writes: Writes,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Asked {
    Acquire(Partition),
    Renew(Vec<Holding>),
    Release(Holding),
    Write(Holding, u64),
}

/// The leases of one life of an instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    config: HolderConfig,
    life: Life,
    slots: BTreeMap<Partition, Slot>,
    /// What is with the store, and since when.
    asked: BTreeMap<RequestId, (Time, Asked)>,
    last_id: u64,
    /// When to renew; never while that is under way.
    renew_at: Time,
    /// In 1024ths of an eighth of the span: instances that began together do not renew together.
    spread: u32,
    effects: VecDeque<Effect>,
}

impl Holder {
    /// A life that holds nothing.
    pub fn new(config: HolderConfig, life: Life, seed: u64) -> Self {
        Self {
            config,
            life,
            slots: BTreeMap::new(),
            asked: BTreeMap::new(),
            last_id: 0,
            renew_at: Time::MAX,
            spread: (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as u32,
            effects: VecDeque::new(),
        }
    }

    /// Whose leases these are.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Wants a partition, until it is given up. False: too many.
    pub fn acquire(&mut self, now: Time, partition: Partition) -> bool {
        let room = self.slots.len() < self.config.partitions_max;
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.wanted = true;
            return true;
        }
        if room {
            let slot = Slot {
                phase: Phase::Waiting(now),
                wanted: true,
                lingering: false,
                writes: Writes::default(),
            };
            self.slots.insert(partition, slot);
            self.ask_for(now, partition);
        }
        room
    }

    /// Stops using a partition at once, and releases it as soon as its writes are stored.
    pub fn give_up(&mut self, now: Time, partition: Partition) {
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        slot.wanted = false;
        match slot.phase {
            Phase::Waiting(_) => {
                self.slots.remove(&partition);
            }
            Phase::Held { held, .. } => self.leave(now, partition, held, Loss::GivenUp),
            Phase::Asking | Phase::Leaving { .. } => {}
        }
    }

    /// The partition is asked back, says somebody who knows before our next renewal does.
    pub fn asked_back(&mut self, now: Time, partition: Partition, epoch: u64) {
        let slot = self.slots.get_mut(&partition);
        if let Some(Slot { phase, wanted, .. }) = slot
            && let Phase::Held { held, .. } = *phase
            && held.epoch == epoch
        {
            *wanted = false;
            self.leave(now, partition, held, Loss::AskedBack);
        }
    }

    /// The lease under which a partition may be used at this moment. To be asked at each use: a
    /// process does not notice that it was stopped for a while.
    pub fn usable(&self, now: Time, partition: Partition) -> Option<Held> {
        let blind = self.config.rules.broken(Mutation::TimeNotLookedAt);
        match self.slots.get(&partition)?.phase {
            Phase::Held { held, lapsed } if now < held.until || (blind && !lapsed) => Some(held),
            Phase::Leaving { held, .. }
                if self.config.rules.broken(Mutation::ReleasedWhileUsed) =>
            {
                (now < held.until).then_some(held)
            }
            _ => None,
        }
    }

    /// The grant's epoch, also when its time is over: who still names it will be told.
    pub fn epoch(&self, partition: Partition) -> Option<u64> {
        match self.slots.get(&partition)?.phase {
            Phase::Held { held, .. } => Some(held.epoch),
            _ => None,
        }
    }

    /// Another answer of the store said that our lease was prolonged, to a request sent at `sent`.
    pub fn prolonged(&mut self, now: Time, partition: Partition, sent: Time, lent: &Lent) {
        self.renewed(now, sent, (partition, lent.epoch), Ok(*lent));
    }

    /// Another answer of the store said that this grant is not in force any more.
    pub fn fenced(&mut self, now: Time, partition: Partition, epoch: u64) {
        self.renewed(now, now, (partition, epoch), Err(Refused::Fenced));
    }

    /// The store said that our lease has ended by its clock: not used until it is renewed.
    pub fn ended(&mut self, now: Time, partition: Partition, epoch: u64) {
        let phase = self.slots.get_mut(&partition).map(|slot| &mut slot.phase);
        if let Some(Phase::Held { held, lapsed }) = phase
            && held.epoch == epoch
        {
            held.until = held.until.min(now);
            if !core::mem::replace(lapsed, true) {
                let why = Loss::Lapsed;
                self.effects.push_back(Effect::Lost { partition, why });
            }
        }
    }

    /// Renews now what would be renewed later, unless that is within `soon` or under way.
    pub fn hurry(&mut self, now: Time, soon: Duration) {
        let mut asked = self.asked.values();
        let renewing = asked.any(|(_, asked)| matches!(asked, Asked::Renew(_)));
        if self.holds_any() && !renewing && self.renew_at > now + soon {
            self.renew(now);
        }
    }

    /// Replaces a partition's state. The packet `output` waits until that is stored. Answers the
    /// write's sequence.
    pub fn write(
        &mut self,
        now: Time,
        partition: Partition,
        state: Vec<u8>,
        output: Output,
    ) -> Result<u64, Denied> {
        if !self.lingers(partition) {
            self.usable(now, partition).ok_or(Denied::NotHeld)?;
        }
        let slot = self.slots.get_mut(&partition).ok_or(Denied::NotHeld)?;
        if slot.writes.len() >= self.config.writes_max {
            return Err(Denied::Full);
        }
        let sequence = slot.writes.push(state, output).ok_or(Denied::NotHeld)?;
        if self.config.rules.broken(Mutation::OutputAtOnce) {
            self.effects.push_back(Effect::Release(output));
        }
        self.ask_writes(now, partition);
        Ok(sequence)
    }

    /// Whether a partition is not used any more, but not released either: last writes are taken, until
    /// [`Self::finish`].
    pub fn lingers(&self, partition: Partition) -> bool {
        self.slots
            .get(&partition)
            .is_some_and(|slot| slot.lingering)
    }

    /// Partitions whose last writes are due: nothing can have passed by them for a while.
    pub fn to_finish(&self, now: Time) -> Vec<Partition> {
        let slots = self.slots.iter();
        let due = slots.filter(|(_, slot)| {
            let over = matches!(slot.phase, Phase::Leaving { again, .. } if again <= now);
            slot.lingering && over
        });
        due.map(|(partition, _)| *partition).collect()
    }

    /// The last write was made: the partition is released when all of them are stored.
    pub fn finish(&mut self, now: Time, partition: Partition) {
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.lingering = false;
            self.release(now, partition);
        }
    }

    /// Writes of a partition that the store has not acknowledged.
    pub fn writes(&self, partition: Partition) -> usize {
        self.slots
            .get(&partition)
            .map_or(0, |slot| slot.writes.len())
    }

    /// Whether nothing is wanted, held or about to be released.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// A packet read the partition's state: it leaves at once, or behind the writes it may have
    /// seen, which could still be lost.
    pub fn read(&mut self, now: Time, partition: Partition, output: Output) -> Result<(), Denied> {
        self.usable(now, partition).ok_or(Denied::NotHeld)?;
        let slot = self.slots.get_mut(&partition).ok_or(Denied::NotHeld)?;
        let passes = self.config.rules.broken(Mutation::ReadPassesWrite);
        if passes || !slot.writes.behind(output) {
            self.effects.push_back(Effect::Release(output));
        }
        Ok(())
    }

    /// The store's answer to a request.
    pub fn on_reply(&mut self, now: Time, id: RequestId, reply: Reply) {
        let Some((sent, asked)) = self.asked.remove(&id) else {
            return;
        };
        match (asked, reply) {
            (Asked::Acquire(partition), Reply::One(answer)) => {
                self.acquired(now, sent, partition, answer);
            }
            (Asked::Acquire(partition), _) => self.wait(partition, now + self.config.retry),
            (Asked::Renew(holdings), Reply::Each(answers)) if holdings.len() == answers.len() => {
                for (holding, answer) in holdings.into_iter().zip(answers) {
                    self.renewed(now, sent, holding, answer);
                }
            }
            (Asked::Renew(_), _) => self.renew_by(now + self.config.retry),
            (Asked::Write(holding, sequence), Reply::One(answer)) => {
                self.written(now, sent, holding, sequence, answer);
            }
            (Asked::Write(holding, sequence), _) => {
                if let Some(slot) = self.slots.get_mut(&holding.0) {
                    slot.writes.returned(holding.1, sequence);
                }
                self.renew_by(now + self.config.retry);
            }
            (Asked::Release(holding), Reply::Released) => self.left(now, holding),
            (Asked::Release((partition, _)), _) => {
                let retry = now + self.config.retry;
                if let Some(Slot {
                    phase: Phase::Leaving { again, .. },
                    ..
                }) = self.slots.get_mut(&partition)
                {
                    *again = retry;
                }
            }
        }
    }

    /// When [`Self::on_timer`] wants to be called.
    pub fn next_timer(&self) -> Option<Time> {
        let due = self.slots.values().filter_map(|slot| match slot.phase {
            Phase::Waiting(again) => Some(again),
            Phase::Held { held, lapsed } => (!lapsed).then_some(held.until),
            Phase::Leaving { again, .. } => {
                (slot.lingering || slot.writes.is_empty()).then_some(again)
            }
            Phase::Asking => None,
        });
        let due = due.min().unwrap_or(Time::MAX).min(self.renew_at);
        (due < Time::MAX).then_some(due)
    }

    /// Does what is due.
    pub fn on_timer(&mut self, now: Time) {
        let partitions: Vec<Partition> = self.slots.keys().copied().collect();
        for partition in partitions {
            let Some(slot) = self.slots.get_mut(&partition) else {
                continue;
            };
            match &mut slot.phase {
                Phase::Waiting(again) if *again <= now => self.ask_for(now, partition),
                Phase::Held { held, lapsed } if held.until <= now && !*lapsed => {
                    *lapsed = true;
                    let why = Loss::Lapsed;
                    self.effects.push_back(Effect::Lost { partition, why });
                }
                Phase::Leaving { .. } => self.release(now, partition),
                _ => {}
            }
        }
        if self.renew_at <= now {
            self.renew(now);
        }
    }

    /// The next thing the host is to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Asserts what always holds.
    pub fn check(&self) {
        assert!(self.slots.len() <= self.config.partitions_max);
        for (partition, slot) in &self.slots {
            assert!(slot.writes.len() <= self.config.writes_max);
            let asking = self
                .asked
                .values()
                .filter(|(_, asked)| matches!(asked, Asked::Acquire(p) if p == partition));
            let expected = usize::from(slot.phase == Phase::Asking);
            assert_eq!(asking.count(), expected, "one acquisition at a time");
        }
    }

    /// All partitions, for people.
    pub fn inspect(&self, now: Time) -> Vec<HolderView> {
        let view = |(partition, slot): (&Partition, &Slot)| {
            let (state, held) = match slot.phase {
                Phase::Waiting(_) => ("waiting", None),
                Phase::Asking => ("asking", None),
                Phase::Held { held, .. } if now < held.until => ("held", Some(held)),
                Phase::Held { held, .. } => ("lapsed", Some(held)),
                Phase::Leaving { held, .. } => ("leaving", Some(held)),
            };
            HolderView {
                partition: *partition,
                state,
                epoch: held.map(|held| held.epoch),
                left: held.map_or(Duration::ZERO, |held| held.until.since(now)),
                writes: slot.writes.len(),
            }
        };
        self.slots.iter().map(view).collect()
    }
}
