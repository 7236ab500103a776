//! Accounts of what was acknowledged, against what was read back. They say in plain words
//! what is missing, and know nothing of orders: the search for one
//! ([`stateplane_sim::check::wgl`]) is the stricter judge.

use std::collections::{BTreeMap, BTreeSet};

use stateplane_sim::check::Record;
use stateplane_sim::spec::{Action, Object, Outcome};

/// Whether an acknowledged operation changed something.
pub(super) fn wrote(record: &Record) -> bool {
    match (record.action, record.answer()) {
        (Action::Put(..) | Action::Push(..), Some(_)) => true,
        (Action::Add(_, amount), Some(_)) => amount != 0,
        (Action::Delete(_) | Action::Swap(..), Some((_, Outcome::Took(took)))) => took,
        (Action::Pop(_), Some((_, Outcome::Found(item)))) => item.is_some(),
        _ => false,
    }
}

/// What is wrong with a history that ends in reading back every object.
pub(super) fn audit(records: &[Record]) -> Vec<String> {
    let mut objects: BTreeMap<Object, Vec<&Record>> = BTreeMap::new();
    for record in records {
        objects
            .entry(record.action.object())
            .or_default()
            .push(record);
    }
    let wrong = objects.iter().filter_map(|(object, list)| match object {
        Object::Key(_) => key(list),
        Object::Counter(_) => counter(list),
        Object::Queue(_) => queue(list),
        Object::Timed(_) | Object::Pool(_) => None,
    });
    wrong.collect()
}

/// What may have written to a key: when it ended at the latest, and what it left.
fn left_by(record: &Record) -> Option<Option<u64>> {
    let took = record.answer().map(|(_, outcome)| outcome);
    match record.action {
        Action::Put(_, value) => Some(Some(value)),
        Action::Swap(_, _, value) => (took != Some(Outcome::Took(false))).then_some(Some(value)),
        Action::Delete(_) => (took != Some(Outcome::Took(false))).then_some(None),
        _ => None,
    }
}

/// The last value read was written by somebody, and by no write that ended before another
/// acknowledged one began.
fn key(list: &[&Record]) -> Option<String> {
    let reads = list.iter().filter_map(|r| match (r.action, r.answer()?) {
        (Action::Get(_), (at, Outcome::Found(value))) => Some((r.invoked, at, value)),
        _ => None,
    });
    let (asked, _, found) = reads.max()?;
    let object = list[0].action.object();
    let writers = list.iter().filter(|r| left_by(r) == Some(found));
    // One without an answer may have ended at any time.
    let ends = writers.map(|w| w.answer().map_or(u64::MAX, |(at, _)| at));
    let nobody = if found.is_none() { Some(0) } else { None };
    let Some(written) = ends.chain(nobody).max() else {
        return Some(format!("{object:?} has {found:?}, which nobody wrote"));
    };
    let later = list.iter().find(|r| {
        wrote(r)
            && r.invoked > written
            && left_by(r) != Some(found)
            && r.answer().is_some_and(|(at, _)| at < asked)
    })?;
    Some(format!(
        "lost: {:?} was acknowledged, and {object:?} has the older {found:?}",
        later.action
    ))
}

/// The sum read back is that of what was acknowledged, plus at most what may have happened.
fn counter(list: &[&Record]) -> Option<String> {
    let sums = list.iter().filter_map(|r| match r.answer()? {
        (at, Outcome::Sum(sum)) => Some((r.invoked, at, sum)),
        _ => None,
    });
    let (_, _, found) = sums.max()?;
    let sum = |known: bool| -> i64 {
        let counted = list.iter().filter(|r| r.answer().is_some() == known);
        let amounts = counted.map(|r| match r.action {
            Action::Add(_, amount) => amount,
            _ => 0,
        });
        amounts.sum()
    };
    let (least, most) = (sum(true), sum(true) + sum(false));
    let object = list[0].action.object();
    if found < least {
        return Some(format!(
            "lost: {object:?} is {found}, and {least} was acknowledged"
        ));
    }
    (found > most)
        .then(|| format!("twice: {object:?} is {found}, and at most {most} was asked for"))
}

/// Each item came out once, and those that did not come out are no more than the pops that
/// got no answer.
fn queue(list: &[&Record]) -> Option<String> {
    let object = list[0].action.object();
    let mut out = BTreeSet::new();
    let mut open = 0;
    for record in list {
        match (record.action, record.answer()) {
            (Action::Pop(_), Some((_, Outcome::Found(Some(item))))) if !out.insert(item) => {
                return Some(format!("twice: {object:?} gave {item} to two"));
            }
            (Action::Pop(_), None) => open += 1,
            _ => {}
        }
    }
    let pushed = list.iter().filter_map(|r| match r.action {
        Action::Push(_, item) if r.answer().is_some() => Some(item),
        _ => None,
    });
    let missing: Vec<u64> = pushed.filter(|item| !out.contains(item)).collect();
    (missing.len() > open).then(|| {
        format!(
            "lost: {object:?} took {} items that nobody got, and {open} pops are without an answer",
            missing.len()
        )
    })
}
