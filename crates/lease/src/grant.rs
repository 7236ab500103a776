//! The store's side of a lease, for one partition.
//!
//! Pure functions of the log's time and the arguments, so every replica comes to the same. Nothing
//! here has a timer: whether a lease has ended is looked at when somebody asks.
//!
//! ```text
//!              request, renew, write                 asked back by migrate
//!                  ┌─────┐                                  │
//!   nobody ──────▶ lent ─┴──────────▶ asked back ◀──────────┘  no renewal any more
//!      ▲  request    │ time               │ time, or release
//!      │             ▼                    ▼
//!      └─release── lapsed            promised to the heir, for one length at most
//!                    │ renew, if nobody asked meanwhile: lent again
//! ```

use core::time::Duration;

use stateplane_base::{Incarnation, LogTime};

use crate::mutation::{Mutation, Rules};
use crate::words::{InstanceId, Life, Owner};

/// On which terms a store lends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Terms {
    /// How long a lease is, in the log's time.
    pub length: Duration,
    pub(crate) rules: Rules,
}

impl Terms {
    /// Leases of this length.
    pub fn new(length: Duration) -> Self {
        Self {
            length,
            rules: Rules::default(),
        }
    }
}

/// Who is to have a partition next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Heir {
    /// Which instance.
    pub instance: InstanceId,
    /// From when on nobody waits for it any more.
    pub until: LogTime,
}

/// What the store knows of one partition's lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Grant {
    /// Whose it is, or was last.
    pub owner: Owner,
    /// Which life of the instance.
    pub incarnation: Incarnation,
    /// When the lease ends; zero once it was given up.
    pub ends: LogTime,
    /// The last write of this epoch that was applied; 0 if none.
    pub sequence: u64,
    /// Who is to have it next, if it is asked back.
    pub heir: Option<Heir>,
    /// It was moved by order, and until then stays where it was ordered to, whoever has packets for it.
    pub stays: LogTime,
}

/// Why the store says no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refused {
    /// Another owner or epoch is in force.
    #[error("the lease was granted to another owner or life meanwhile")]
    Fenced,
    /// It is lent to somebody else.
    #[error("another instance holds the lease")]
    Held {
        /// Until then, if it is neither renewed nor given up.
        ends: LogTime,
    },
    /// It is to go to another instance.
    #[error("the partition is to move to another instance")]
    Promised {
        /// Until then.
        until: LogTime,
    },
    /// The write is early: one before it has not come.
    #[error("a write before this one has not arrived")]
    Early {
        /// The last one that was applied.
        last: u64,
    },
    /// The epoch has had as many writes as can be numbered.
    #[error("the epoch's sequence numbers are used up: acquire again")]
    Spent,
}

/// What comes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Write {
    /// It is the next one: to be applied.
    Apply,
    /// It was applied already.
    Repeated,
}

impl Grant {
    /// What a life gets that asks for a partition. One that has it gets the same again, so that a
    /// repeated request does no harm; `epoch` draws a number above all that were drawn before.
    pub fn request<E: From<Refused>>(
        former: Option<&Self>,
        terms: &Terms,
        now: LogTime,
        life: Life,
        epoch: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Self, E> {
        if let Some(grant) = former {
            if grant.life() == life && !grant.is_released() {
                let mut grant = *grant;
                if let Some(heir) = grant.asked_back(now) {
                    return Err(Refused::Promised { until: heir.until }.into());
                }
                grant.prolong(terms, now);
                return Ok(grant);
            }
            let early = terms.rules.broken(Mutation::MigrateBeforeLapse);
            if !grant.is_over(now) && !early {
                return Err(Refused::Held { ends: grant.ends }.into());
            }
            let heir = grant.asked_back(now);
            if let Some(heir) = heir.filter(|heir| heir.instance != life.instance) {
                return Err(Refused::Promised { until: heir.until }.into());
            }
        }
        let ordered = |f: &&Self| life.instance == f.heir.map_or(f.owner.instance, |h| h.instance);
        let stays = former.filter(ordered).map_or(LogTime::ZERO, |f| f.stays);
        let kept = |what| former.filter(|_| terms.rules.broken(what));
        let same = kept(Mutation::SharedEpoch).filter(|f| f.owner.instance == life.instance);
        Ok(Self {
            owner: Owner {
                instance: life.instance,
                epoch: same.map_or_else(epoch, |f| Ok(f.owner.epoch))?,
            },
            incarnation: life.incarnation,
            ends: now + terms.length,
            sequence: kept(Mutation::SequenceWithoutEpoch).map_or(0, |f| f.sequence),
            heir: None,
            stays,
        })
    }

    /// Prolongs the lease, unless it is asked back. One that has lapsed goes on if nobody else got
    /// the partition meanwhile: its owner still knows what it last wrote.
    pub fn renew(&mut self, terms: &Terms, now: LogTime, owner: Owner) -> Result<(), Refused> {
        self.fence(terms, owner)?;
        if self.asked_back(now).is_none() {
            self.prolong(terms, now);
        }
        Ok(())
    }

    /// Decides about a write. It renews the lease, too, unless that is asked back: then what is
    /// still under way is taken until the lease ends.
    pub fn write(
        &mut self,
        terms: &Terms,
        now: LogTime,
        owner: Owner,
        sequence: u64,
    ) -> Result<Write, Refused> {
        self.fence(terms, owner)?;
        match self.asked_back(now) {
            None => self.prolong(terms, now),
            Some(heir) if self.is_over(now) => {
                return Err(Refused::Promised { until: heir.until });
            }
            Some(_) => {}
        }
        let next = self.sequence.checked_add(1).ok_or(Refused::Spent)?;
        if sequence == next {
            self.sequence = sequence;
            return Ok(Write::Apply);
        }
        let early = terms.rules.broken(Mutation::EarlyAcknowledged);
        if (1..next).contains(&sequence) || early {
            return Ok(Write::Repeated);
        }
        Err(Refused::Early {
            last: self.sequence,
        })
    }

    /// The owner has stopped using the partition. Said twice, or late, it changes nothing.
    pub fn release(&mut self, owner: Owner) {
        if self.owner == owner {
            self.ends = LogTime::ZERO;
        }
    }

    /// The partition is to go to `heir`. Its owner learns it from its next renewal or write, and
    /// gives it up; if it is dead the lease lapses. Nobody else gets it for one length after that.
    ///
    /// `stays`: an order, that holds for so long against those who have packets for it and no order. None
    /// of theirs is refused by it when nobody alive has the partition: an order bars no take-over.
    pub fn migrate(&mut self, terms: &Terms, now: LogTime, heir: InstanceId, stays: Duration) {
        let is_order = !stays.is_zero();
        let moves = self.asked_back(now).is_some();
        if !is_order && now < self.stays && (moves || !self.is_over(now)) {
            return;
        }
        self.stays = if is_order { now + stays } else { LogTime::ZERO };
        if is_order && heir == self.owner.instance && !moves && !self.is_over(now) {
            return;
        }
        self.heir = Some(Heir {
            instance: heir,
            until: self.ends.max(now) + terms.length,
        });
    }

    /// The life it was granted to.
    pub const fn life(&self) -> Life {
        Life {
            instance: self.owner.instance,
            incarnation: self.incarnation,
        }
    }

    /// Whether its owner gave it up.
    pub fn is_released(&self) -> bool {
        self.ends == LogTime::ZERO
    }

    /// Whether the lease has ended.
    pub fn is_over(&self, now: LogTime) -> bool {
        now >= self.ends
    }

    /// Who is to have it next.
    pub fn asked_back(&self, now: LogTime) -> Option<Heir> {
        self.heir.filter(|heir| now < heir.until)
    }

    fn fence(&self, terms: &Terms, owner: Owner) -> Result<(), Refused> {
        if terms.rules.broken(Mutation::NoFence) {
            return Ok(());
        }
        let blind = terms.rules.broken(Mutation::NoEpochFence);
        let same = self.owner == owner || (blind && self.owner.instance == owner.instance);
        if same && !self.is_released() {
            Ok(())
        } else {
            Err(Refused::Fenced)
        }
    }

    /// A late request never shortens a lease.
    fn prolong(&mut self, terms: &Terms, now: LogTime) {
        self.ends = self.ends.max(now + terms.length);
        if self.heir.take().is_some() {
            // Who was to have it never came.
            self.stays = LogTime::ZERO;
        }
    }
}
