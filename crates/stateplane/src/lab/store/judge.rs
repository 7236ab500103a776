//! Whether a recorded history is right, and whether the judges can tell: a copy of each
//! history gets a fault planted that they must find.

use stateplane_sim::check::{Ended, Record, wgl};
use stateplane_sim::spec::{Action, Object, Outcome};

use super::ledger;
use super::options::Falsify;

/// What the judges say of one history.
#[derive(Clone, Debug, Default)]
pub(super) struct Judgement {
    /// Acknowledged operations that changed something.
    pub(super) writes: u64,
    /// Objects for which the search gave up.
    pub(super) undecided: u64,
    /// What is wrong.
    pub(super) wrong: Vec<String>,
    /// Planted faults that were found, of how many.
    pub(super) planted: (u64, u64),
}

/// Judges a history that ends in reading back every object.
pub(super) fn judge(records: &[Record]) -> Judgement {
    let mut judgement = Judgement {
        writes: records.iter().filter(|r| ledger::wrote(r)).count() as u64,
        wrong: ledger::audit(records),
        ..Judgement::default()
    };
    if let Err(object) = wgl::check_within(BUDGET, records, &mut judgement.undecided) {
        let wrong = format!("no order explains the answers about {object:?}");
        judgement.wrong.push(wrong);
    }
    for what in [Falsify::LostWrite, Falsify::TwiceDone, Falsify::LostItem] {
        if let Some((object, mut false_history)) = falsify(records, what) {
            false_history.retain(|r| r.action.object() == object);
            judgement.planted.0 += u64::from(is_found(&false_history));
            judgement.planted.1 += 1;
        }
    }
    judgement
}

/// Steps of the search for one object.
const BUDGET: usize = 1_000_000;

/// Whether both judges refuse a false history. To be sure that there is no order, the
/// search may need more time than it has; it must not find one.
fn is_found(history: &[Record]) -> bool {
    let mut undecided = 0;
    let refused = wgl::check_within(BUDGET, history, &mut undecided).is_err();
    !ledger::audit(history).is_empty() && (refused || undecided > 0)
}

/// The history as it would be if the store had failed, and at which object; none if there
/// is nothing to fail at.
pub(super) fn falsify(records: &[Record], what: Falsify) -> Option<(Object, Vec<Record>)> {
    let mut records = records.to_vec();
    let object = match what {
        Falsify::LostWrite => lose_write(&mut records)?,
        Falsify::TwiceDone => do_twice(&mut records)?,
        Falsify::LostItem => lose_item(&mut records)?,
    };
    Some((object, records))
}

/// The last acknowledged answer to an action of this kind: that of reading back.
fn last(records: &[Record], kind: impl Fn(Action) -> bool) -> Option<usize> {
    let answered = |r: &Record| kind(r.action) && r.answer().is_some();
    let (at, _) = records
        .iter()
        .enumerate()
        .filter(|(_, r)| answered(r))
        .max_by_key(|(_, r)| r.invoked)?;
    Some(at)
}

fn set(record: &mut Record, outcome: Outcome) {
    if let Some(Ended { outcome: seen, .. }) = &mut record.ended {
        *seen = Some(outcome);
    }
}

/// A key reads as it did before an acknowledged write.
fn lose_write(records: &mut [Record]) -> Option<Object> {
    (0..4).find_map(|key| {
        let read = last(records, |a| a == Action::Get(key))?;
        let puts = records.iter().filter_map(|r| match (r.action, r.answer()) {
            (Action::Put(k, value), Some((at, _))) if k == key => Some((r.invoked, at, value)),
            _ => None,
        });
        let puts: Vec<_> = puts.collect();
        let (begun, _, _) = puts.iter().max()?;
        // A value that was certainly overwritten.
        let (_, _, old) = puts.iter().filter(|(_, at, _)| at < begun).max()?;
        set(&mut records[read], Outcome::Found(Some(*old)));
        Some(Object::Key(key))
    })
}

/// A counter reads as if an increment had been executed once more.
fn do_twice(records: &mut [Record]) -> Option<Object> {
    (0..3).find_map(|counter| {
        let read = last(records, |a| a == Action::Add(counter, 0))?;
        let open = records
            .iter()
            .any(|r| matches!(r.action, Action::Add(c, _) if c == counter) && r.answer().is_none());
        let again = records.iter().find_map(|r| match (r.action, r.answer()) {
            (Action::Add(c, amount), Some(_)) if c == counter && amount != 0 => Some(amount),
            _ => None,
        })?;
        let (_, Outcome::Sum(sum)) = records[read].answer()? else {
            return None;
        };
        (!open).then(|| {
            set(&mut records[read], Outcome::Sum(sum + again));
            Object::Counter(counter)
        })
    })
}

/// The item that came out last never came out.
fn lose_item(records: &mut Vec<Record>) -> Option<Object> {
    (0..2).find_map(|queue| {
        let open = records
            .iter()
            .any(|r| r.action == Action::Pop(queue) && r.answer().is_none());
        let found = |r: &Record| matches!(r.answer(), Some((_, Outcome::Found(Some(_)))));
        let pops = records.iter().enumerate();
        let pops = pops.filter(|(_, r)| r.action == Action::Pop(queue) && found(r));
        let (at, _) = pops.max_by_key(|(_, r)| r.invoked)?;
        (!open).then(|| {
            records.remove(at);
            Object::Queue(queue)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stateplane_sim::spec::{Model, Object, Sequential};
    use std::collections::BTreeMap;

    /// A right history: `count` operations one after the other, then everything read back.
    fn history(seed: u64, count: u64) -> Vec<Record> {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut models: BTreeMap<Object, Model> = BTreeMap::new();
        let mut records = Vec::new();
        let mut tell = |tag: u64, action: Action| {
            let object = action.object();
            let model = models.entry(object).or_insert_with(|| Model::new(object));
            // The only outcome that the model allows.
            let sums = (-20_000..20_000).map(Outcome::Sum);
            let values = (0..20_000).map(|v| Outcome::Found(Some(v)));
            let rest = [true, false].map(Outcome::Took).into_iter();
            let all = rest.chain([Outcome::Found(None)]).chain(values).chain(sums);
            let (outcome, next) = all
                .into_iter()
                .find_map(|o| Some((o, model.step(&action, Some(&o))?)))
                .expect("an answer");
            *model = next;
            records.push(Record {
                tag,
                action,
                invoked: tag * 10,
                ended: Some(Ended {
                    at: tag * 10 + 5,
                    outcome: Some(outcome),
                }),
                read_at: None,
            });
        };
        for tag in 1..=count {
            let action = match dice.u8(..6) {
                0 | 1 => Action::Put(dice.u8(..4), tag),
                2 => Action::Get(dice.u8(..4)),
                3 => Action::Add(dice.u8(..3), dice.i64(1..9)),
                4 => Action::Push(dice.u8(..2), tag),
                _ => Action::Pop(dice.u8(..2)),
            };
            tell(tag, action);
        }
        let mut tag = count;
        let mut back = |action| {
            tag += 1;
            tell(tag, action);
        };
        (0..4).for_each(|key| back(Action::Get(key)));
        (0..3).for_each(|counter| back(Action::Add(counter, 0)));
        (0..2 * count).for_each(|n| back(Action::Pop(u8::from(n % 2 == 0))));
        records
    }

    #[test]
    fn a_right_history_passes_and_every_planted_fault_is_found() {
        for seed in 0..20 {
            let judgement = judge(&history(seed, 120));
            assert_eq!(judgement.wrong, Vec::<String>::new(), "seed {seed}");
            assert_eq!((judgement.planted, judgement.undecided), ((3, 3), 0));
            assert!(judgement.writes > 0);
        }
    }

    #[test]
    fn what_was_planted_is_named() {
        let right = history(3, 120);
        for (what, word) in [
            (Falsify::LostWrite, "lost: Put"),
            (Falsify::TwiceDone, "twice: Counter"),
            (Falsify::LostItem, "lost: Queue"),
        ] {
            let (_, wrong) = falsify(&right, what).expect("something to fail at");
            let wrong = judge(&wrong).wrong;
            assert!(wrong.iter().any(|w| w.starts_with(word)), "{wrong:?}");
            assert!(wrong.iter().any(|w| w.starts_with("no order")), "{wrong:?}");
        }
    }

    #[test]
    fn a_write_without_an_answer_may_be_there_or_not() {
        let mut records = history(5, 60);
        let read = last(&records, |a| a == Action::Get(0)).expect("read back");
        let mut open = records[0].clone();
        (open.tag, open.action, open.ended) = (99_999, Action::Put(0, 99_999), None);
        open.invoked = records[read].invoked - 1;
        records.push(open);
        assert_eq!(judge(&records).wrong, Vec::<String>::new());
        set(&mut records[read], Outcome::Found(Some(99_999)));
        assert_eq!(judge(&records).wrong, Vec::<String>::new());
    }
}
