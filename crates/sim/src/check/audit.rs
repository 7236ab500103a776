//! Checks a history against the log that explains it. The replicas agree on
//! one order of execution; if that order gives every client the answer it got
//! and respects real time, it is itself the proof of linearizability. Linear
//! in the length of the run, whatever the concurrency.
use crate::check::{Executed, Record};
use crate::spec::{Outcome, Spec};
use std::collections::BTreeMap;

/// Reads a reply of the store as the outcome of `action`; `None` if it is not
/// a possible answer to it.
pub type Decode = fn(crate::spec::Action, &[u8]) -> Option<Outcome>;

/// Checks what the clients saw (`records`) against the order in which the
/// group executed (`log`). The error says what is wrong, for people.
pub fn audit(records: &[Record], log: &[Executed], decode: Decode) -> Result<(), String> {
    let known: BTreeMap<u64, &Record> = records.iter().map(|r| (r.tag, r)).collect();
    let mut places = BTreeMap::new();
    let mut spec = Spec::default();
    // The latest invocation among the operations executed so far, and whose.
    let mut latest = (0, 0);
    let mut log_time = 0;
    for (place, executed) in log.iter().enumerate() {
        let tag = executed.tag;
        let Some(record) = known.get(&tag) else {
            return Err(format!(
                "invented: nobody submitted #{tag}, executed at {place}"
            ));
        };
        if let Some(first) = places.insert(tag, place) {
            return Err(format!(
                "twice: #{tag} was executed at {first} and at {place}"
            ));
        }
        if executed.at < log_time {
            return Err(format!("log time ran backwards at {place} (#{tag})"));
        }
        log_time = executed.at;
        let Some(outcome) = decode(record.action, &executed.reply) else {
            return Err(format!(
                "nonsense: {:?} (#{tag}) was answered {:02x?}",
                record.action, executed.reply
            ));
        };
        if !spec.apply(executed.at, record.action, outcome) {
            return Err(format!(
                "wrong: {:?} (#{tag}) at {place} was answered {outcome:?}",
                record.action
            ));
        }
        if let Some((answered, seen)) = record.answer() {
            if seen != outcome {
                return Err(format!(
                    "two answers: the client saw {seen:?} for #{tag}, the log gives {outcome:?}"
                ));
            }
            if answered < latest.0 {
                return Err(format!(
                    "time: #{tag} was answered before #{} was asked, yet executed after it",
                    latest.1
                ));
            }
        }
        latest = latest.max((record.invoked, tag));
    }
    answered_are_executed(records, &places)
}

/// No committed update is lost: what was answered is in the log.
fn answered_are_executed(records: &[Record], places: &BTreeMap<u64, usize>) -> Result<(), String> {
    let lost = |r: &&Record| r.answer().is_some() && !places.contains_key(&r.tag);
    match records.iter().find(lost) {
        Some(r) => Err(format!(
            "lost: {:?} (#{}) was answered, but is not in the log",
            r.action, r.tag
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Ended;
    use crate::spec::Action;

    /// Replies of the tests are the sum in one byte.
    fn decode(_: Action, reply: &[u8]) -> Option<Outcome> {
        reply.first().map(|sum| Outcome::Sum(i64::from(*sum)))
    }

    fn record(tag: u64, invoked: u64, ended: u64, sum: i64) -> Record {
        Record {
            tag,
            action: Action::Add(0, 1),
            invoked,
            ended: Some(Ended {
                at: ended,
                outcome: Some(Outcome::Sum(sum)),
            }),
        }
    }

    fn executed(tag: u64, sum: u8) -> Executed {
        Executed {
            tag,
            at: tag,
            reply: vec![sum],
        }
    }

    fn complaint(records: &[Record], log: &[Executed]) -> String {
        audit(records, log, decode).expect_err("must be rejected")
    }

    #[test]
    fn a_right_history_passes_even_with_an_unanswered_operation() {
        let mut open = record(2, 3, 0, 0);
        open.ended = None;
        let records = [record(1, 0, 2, 1), open, record(3, 3, 9, 3)];
        let log = [executed(1, 1), executed(2, 2), executed(3, 3)];
        assert_eq!(audit(&records, &log, decode), Ok(()));
    }

    #[test]
    fn every_kind_of_wrong_history_is_rejected() {
        let one = [record(1, 0, 2, 1)];
        let two = [record(1, 0, 2, 1), record(2, 3, 4, 2)];
        assert!(complaint(&one, &[]).starts_with("lost"));
        assert!(complaint(&one, &[executed(1, 1), executed(9, 2)]).starts_with("invented"));
        assert!(complaint(&one, &[executed(1, 1), executed(1, 2)]).starts_with("twice"));
        assert!(complaint(&two, &[executed(1, 1), executed(2, 3)]).starts_with("wrong"));
        let late = [record(1, 0, 2, 2), record(2, 3, 4, 1)];
        let mut log = [executed(2, 1), executed(1, 2)];
        assert!(complaint(&late, &log).starts_with("log time"));
        (log[0].at, log[1].at) = (1, 2);
        assert!(complaint(&late, &log).starts_with("time"));
        let other = [record(1, 0, 2, 7)];
        assert!(complaint(&other, &[executed(1, 1)]).starts_with("two answers"));
        let nonsense = Executed {
            tag: 1,
            at: 1,
            reply: vec![],
        };
        assert!(complaint(&one, &[nonsense]).starts_with("nonsense"));
    }
}
