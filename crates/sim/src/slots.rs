//! The canonical log: what replicas hold to be final in each slot, and who led
//! which view. Looked at after every step of a replica, slot by slot, so that a fork is
//! seen when it happens and not when somebody executes it.
use crate::dice::{fold, fold_word};
use stateplane_group::{Role, Stance};
use stateplane_wire::group::{Entry, Formation, Slot, View};
use std::collections::BTreeMap;

/// What was final in which slot of which life of the group.
#[derive(Default)]
pub(crate) struct Slots {
    /// By life of the group: the slot before the first one known, and a fingerprint of
    /// each after it; 0 where it is not known.
    lives: BTreeMap<Formation, (Slot, Vec<u64>)>,
    /// Which life of which replica led a view.
    leaders: BTreeMap<(Formation, View), (usize, u64)>,
}

impl Slots {
    /// Compares a replica's state after a step with that before, and with the others'.
    pub(crate) fn look<'a>(
        &mut self,
        replica: usize,
        before: Option<&Stance>,
        now: &Stance,
        durable: bool,
        entry: impl Fn(Slot) -> Option<&'a Entry>,
    ) -> Result<(), String> {
        // Not of a former life: it may have been dismissed, and heard more, since we looked.
        let life = |s: &Stance| (s.progress.formation, s.incarnation);
        let same = |s: &&Stance| life(s) == life(now) && s.role != Role::Booting;
        let before = before.filter(same);
        let progress = &now.progress;
        if let Some(old) = before {
            let was = &old.progress;
            rises("view", replica, old.view, now.view)?;
            rises("last normal view", replica, was.view, progress.view)?;
            rises("sync point", replica, was.commit, progress.commit)?;
        }
        if now.role == Role::Leader && before.is_none_or(|old| old.role != now.role) {
            self.lead(replica, now)?;
        }
        if now.role == Role::Leader && durable {
            // It may not have written it yet; it says nothing before it has, so what its
            // followers hold to be final is so.
            return Ok(());
        }
        let from = before.map_or(now.log_base, |old| old.progress.commit.max(now.log_base));
        for slot in from + 1..=progress.commit {
            let Some(entry) = entry(slot) else { break };
            self.hold(replica, progress.formation, slot, entry)?;
        }
        Ok(())
    }

    fn lead(&mut self, replica: usize, now: &Stance) -> Result<(), String> {
        let life = (replica, now.incarnation);
        let formation = now.progress.formation;
        match self.leaders.insert((formation, now.view), life) {
            Some(other) if other != life => Err(format!(
                "leader: {other:?} and {life:?} led view {} of {}",
                now.view, formation
            )),
            _ => Ok(()),
        }
    }

    /// A replica holds that `entry` is final in `slot`.
    fn hold(
        &mut self,
        replica: usize,
        formation: Formation,
        slot: Slot,
        entry: &Entry,
    ) -> Result<(), String> {
        let print = fingerprint(entry);
        let first = || (slot - 1, Vec::new());
        let (base, known) = self.lives.entry(formation).or_insert_with(first);
        if slot <= *base {
            // The first to look had truncated its log already.
            let missing = usize::try_from(*base - slot + 1).expect("a run is short");
            known.splice(0..0, std::iter::repeat_n(0, missing));
            *base = slot - 1;
        }
        let place = usize::try_from(slot - *base - 1).expect("a run is short");
        if place >= known.len() {
            known.resize(place + 1, 0);
        }
        match known[place] {
            0 => known[place] = print,
            other if other != print => {
                return Err(format!(
                    "slot: r{replica} holds something else to be final in slot {slot} \
                     than another did"
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

fn rises(what: &str, replica: usize, old: u64, new: u64) -> Result<(), String> {
    if new < old {
        return Err(format!(
            "back: the {what} of r{replica} went from {old} to {new}"
        ));
    }
    Ok(())
}

/// A fingerprint of what a slot holds, never 0.
fn fingerprint(entry: &Entry) -> u64 {
    let Entry::Value { time, request } = entry else {
        return 1;
    };
    let hash = fold_word(time.as_nanos(), request.client.0);
    fold(hash, request.batch.bytes()) | 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_base::{ClientId, LogTime};
    use stateplane_wire::group::{Address, Batch, Request};

    fn value(op: u8) -> Entry {
        let mut batch = Batch::default();
        assert!(batch.push(1, &[op]));
        let request = Request {
            client: ClientId(1),
            done_below: 1,
            reply_to: Address::default(),
            batch,
        };
        let time = LogTime::ZERO;
        Entry::Value { time, request }
    }

    #[test]
    fn two_values_in_one_slot_are_noticed_in_any_order_of_looking() {
        let mut slots = Slots::default();
        assert_eq!(slots.hold(0, 1, 7, &value(1)), Ok(()));
        assert_eq!(slots.hold(1, 1, 5, &value(2)), Ok(()));
        assert_eq!(slots.hold(1, 1, 6, &Entry::Noop), Ok(()));
        assert_eq!(slots.hold(2, 1, 7, &value(1)), Ok(()));
        assert!(slots.hold(2, 1, 7, &Entry::Noop).is_err());
        assert!(slots.hold(2, 1, 6, &value(3)).is_err());
        assert_eq!(slots.hold(2, 2, 6, &value(3)), Ok(()), "another group");
    }
}
