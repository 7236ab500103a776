//! What follows from an answer or a timer.

use alloc::vec::Vec;

use stateplane_base::Time;

use super::{Asked, Effect, Held, Holder, Loss, OnExpiry, Phase, Request, RequestId};
use crate::grant::Refused;
use crate::mutation::Mutation;
use crate::ops::{Answer, BATCH, Holding, Lent};
use crate::words::Partition;

impl Holder {
    fn ask(&mut self, now: Time, asked: Asked, request: Request) {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        self.asked.insert(id, (now, asked));
        self.effects.push_back(Effect::Ask { id, request });
    }

    /// Asks for a partition.
    pub(super) fn ask_for(&mut self, now: Time, partition: Partition) {
        if let Some(slot) = self.slots.get_mut(&partition) {
            slot.phase = Phase::Asking;
            self.ask(now, Asked::Acquire(partition), Request::Acquire(partition));
        }
    }

    /// Asks for all writes of a partition that may be asked for.
    pub(super) fn ask_writes(&mut self, now: Time, partition: Partition) {
        while let Some(slot) = self.slots.get_mut(&partition)
            && let Phase::Held { held, .. } | Phase::Leaving { held, .. } = slot.phase
            && let Some((sequence, state)) = slot.writes.ask()
        {
            let holding = (partition, held.epoch);
            let request = Request::Write {
                holding,
                sequence,
                state,
            };
            self.ask(now, Asked::Write(holding, sequence), request);
        }
    }

    /// A partition is not ours; if it is still wanted it is asked for again.
    pub(super) fn wait(&mut self, partition: Partition, again: Time) {
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        let outputs = slot.writes.discard();
        slot.phase = Phase::Waiting(again);
        slot.lingering = false;
        if !slot.wanted {
            self.slots.remove(&partition);
        }
        self.effects
            .extend(outputs.into_iter().map(Effect::Discard));
    }

    /// An acquisition was answered.
    pub(super) fn acquired(&mut self, now: Time, sent: Time, partition: Partition, answer: Answer) {
        let lent = match answer {
            Ok(lent) => lent,
            Err(Refused::Held { .. } | Refused::Promised { .. }) => {
                return self.wait(partition, now + self.config.retry);
            }
            Err(_) => return self.wait(partition, now + self.config.rest),
        };
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        let held = Held {
            epoch: lent.epoch,
            until: self.config.until(sent, now, lent.span),
        };
        slot.phase = Phase::Held {
            held,
            lapsed: false,
        };
        let wanted = slot.wanted && !lent.asked_back;
        let from = match self.config.rules.broken(Mutation::SequenceWithoutEpoch) {
            false => lent.sequence,
            true => 0,
        };
        let outputs = slot.writes.resume(lent.epoch, from);
        self.effects
            .extend(outputs.into_iter().map(Effect::Discard));
        if !wanted {
            return self.leave(now, partition, held, Loss::GivenUp);
        }
        self.effects.push_back(Effect::Granted {
            partition,
            epoch: lent.epoch,
        });
        self.in_force(now, partition, held, &lent);
        self.ask_writes(now, partition);
    }

    /// What follows from a lease that is new, or longer than before.
    fn in_force(&mut self, now: Time, partition: Partition, held: Held, lent: &Lent) {
        self.publish(partition, held);
        let span = self.config.usable(lent.span);
        let early = span / 8 * self.spread / 1024;
        // A lease that is over when its answer comes is renewed, but not again and again at once.
        let due = (held.until - span / 2 - early).max(now + self.config.retry.min(span / 4));
        self.renew_by(due);
    }

    /// Tells the fast path.
    fn publish(&mut self, partition: Partition, held: Held) {
        let until = match self.config.on_expiry {
            OnExpiry::Closed => held.until,
            OnExpiry::Open => Time::MAX,
        };
        self.effects.push_back(Effect::Publish {
            partition,
            epoch: held.epoch as u32,
            until,
        });
    }

    /// Tells the fast path that nobody may use a partition here.
    fn withdraw(&mut self, partition: Partition, why: Loss) {
        let (epoch, until) = (0, Time::ZERO);
        self.effects.push_back(Effect::Publish {
            partition,
            epoch,
            until,
        });
        self.effects.push_back(Effect::Lost { partition, why });
    }

    /// Stops using a partition; the store hears of it after everybody here.
    pub(super) fn leave(&mut self, now: Time, partition: Partition, held: Held, why: Loss) {
        if let Some(slot) = self.slots.get_mut(&partition) {
            let again = now + self.config.linger;
            slot.phase = Phase::Leaving { held, again };
            slot.lingering = !self.config.linger.is_zero();
        }
        self.withdraw(partition, why);
        self.release(now, partition);
    }

    /// Stops using a partition, and gives up on its writes.
    fn leave_undone(&mut self, now: Time, partition: Partition, held: Held, why: Loss) {
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        let outputs = slot.writes.discard();
        slot.wanted &= why == Loss::Spent;
        self.effects
            .extend(outputs.into_iter().map(Effect::Discard));
        if let Phase::Held { .. } = slot.phase {
            self.leave(now, partition, held, why);
        }
    }

    /// Releases a partition that is left, if its writes are stored and it is time.
    pub(super) fn release(&mut self, now: Time, partition: Partition) {
        if let Some(slot) = self.slots.get_mut(&partition)
            && let Phase::Leaving { held, again } = &mut slot.phase
            && *again <= now
            && slot.writes.is_empty()
            && !slot.lingering
        {
            *again = Time::MAX;
            let holding = (partition, held.epoch);
            self.ask(now, Asked::Release(holding), Request::Release(holding));
        }
    }

    /// The store has taken a lease back.
    pub(super) fn left(&mut self, now: Time, (partition, epoch): Holding) {
        if let Some(slot) = self.slots.get(&partition)
            && let Phase::Leaving { held, .. } = slot.phase
            && held.epoch == epoch
        {
            self.wait(partition, now);
            self.ask_for(now, partition);
        }
    }

    /// The grant is not in force any more, says the store.
    fn superseded(&mut self, now: Time, partition: Partition) {
        let held = self.slots.get(&partition).map(|slot| slot.phase);
        if let Some(Phase::Held { .. }) = held {
            self.withdraw(partition, Loss::Fenced);
        }
        self.wait(partition, now + self.config.rest);
    }

    /// A renewal was answered, for one of its leases.
    pub(super) fn renewed(&mut self, now: Time, sent: Time, holding: Holding, answer: Answer) {
        let (partition, epoch) = holding;
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        let Phase::Held { held, lapsed } = &mut slot.phase else {
            return;
        };
        if held.epoch != epoch {
            return;
        }
        let Ok(lent) = answer else {
            return self.superseded(now, partition);
        };
        if lent.epoch != epoch {
            // It went astray: epochs are nobody else's.
            return self.renew_by(now + self.config.retry);
        }
        held.until = held.until.max(self.config.until(sent, now, lent.span));
        let held = *held;
        if lent.asked_back {
            slot.wanted = false;
            return self.leave(now, partition, held, Loss::AskedBack);
        }
        if *lapsed && now < held.until {
            *lapsed = false;
            self.effects.push_back(Effect::Granted { partition, epoch });
        }
        self.in_force(now, partition, held, &lent);
    }

    /// A write was answered.
    pub(super) fn written(
        &mut self,
        now: Time,
        sent: Time,
        holding: Holding,
        sequence: u64,
        answer: Answer,
    ) {
        let (partition, epoch) = holding;
        let Some(slot) = self.slots.get_mut(&partition) else {
            return;
        };
        let (Phase::Held { held, .. } | Phase::Leaving { held, .. }) = slot.phase else {
            return;
        };
        if held.epoch != epoch {
            return;
        }
        match answer {
            Ok(lent) if lent.epoch != epoch => {
                slot.writes.returned(epoch, sequence);
                self.renew_by(now + self.config.retry);
                return;
            }
            Ok(lent) => {
                let outputs = slot.writes.acknowledged(epoch, lent.sequence.max(sequence));
                self.effects
                    .extend(outputs.into_iter().map(Effect::Release));
                self.renewed(now, sent, holding, Ok(lent));
            }
            Err(Refused::Early { .. }) => slot.writes.returned(epoch, sequence),
            Err(Refused::Fenced) => return self.superseded(now, partition),
            // No write of this epoch will be applied any more. It must not be written to again
            // either: what is still on its way would be taken for what comes then.
            Err(Refused::Spent) => self.leave_undone(now, partition, held, Loss::Spent),
            Err(_) => self.leave_undone(now, partition, held, Loss::AskedBack),
        }
        self.ask_writes(now, partition);
        self.release(now, partition);
    }

    /// Renews at this time at the latest.
    pub(super) fn renew_by(&mut self, due: Time) {
        self.renew_at = self.renew_at.min(due);
    }

    /// Renews all leases, and asks again for writes that came back.
    pub(super) fn renew(&mut self, now: Time) {
        self.renew_at = Time::MAX;
        let held = self.slots.iter().filter_map(|(partition, slot)| {
            let Phase::Held { held, .. } = slot.phase else {
                return None;
            };
            Some((*partition, held.epoch))
        });
        let holdings: Vec<Holding> = held.collect();
        for batch in holdings.chunks(BATCH) {
            let batch = batch.to_vec();
            self.ask(now, Asked::Renew(batch.clone()), Request::Renew(batch));
        }
        let partitions: Vec<Partition> = self.slots.keys().copied().collect();
        for partition in partitions {
            self.ask_writes(now, partition);
        }
    }

    /// Whether anything is held.
    pub(super) fn holds_any(&self) -> bool {
        let held = |slot: &super::Slot| matches!(slot.phase, Phase::Held { .. });
        self.slots.values().any(held)
    }
}
