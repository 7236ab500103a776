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
    let mut reads: Vec<&Record> = records.iter().filter(|r| r.read_at.is_some()).collect();
    // What was asked first comes first among those that saw the same state.
    reads.sort_by_key(|r| std::cmp::Reverse((r.read_at, r.invoked)));
    let mut story = Story::default();
    for (place, executed) in log.iter().enumerate() {
        while let Some(read) = reads.pop_if(|r| r.read_at.is_some_and(|at| at <= place as u64)) {
            story.read(read)?;
        }
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
        story.execute(record, executed, decode)?;
    }
    while let Some(read) = reads.pop_if(|r| r.read_at.is_some_and(|at| at <= log.len() as u64)) {
        story.read(read)?;
    }
    if let Some(read) = reads.pop() {
        return Err(format!(
            "vanished: #{} read a state after {:?} operations, of {}",
            read.tag,
            read.read_at,
            log.len()
        ));
    }
    answered_are_executed(records, &places)
}

/// The order as told so far.
#[derive(Default)]
struct Story {
    spec: Spec,
    /// The latest invocation so far, and whose.
    latest: (u64, u64),
    log_time: u64,
}

impl Story {
    fn execute(
        &mut self,
        record: &Record,
        executed: &Executed,
        decode: Decode,
    ) -> Result<(), String> {
        let (tag, action) = (record.tag, record.action);
        if executed.at < self.log_time {
            return Err(format!("log time ran backwards at #{tag}"));
        }
        self.log_time = executed.at;
        let Some(outcome) = decode(action, &executed.reply) else {
            return Err(format!(
                "nonsense: {action:?} (#{tag}) was answered {:02x?}",
                executed.reply
            ));
        };
        self.tell(record, outcome)?;
        if let Some((_, seen)) = record.answer()
            && seen != outcome
        {
            return Err(format!(
                "two answers: the client saw {seen:?} for #{tag}, the log gives {outcome:?}"
            ));
        }
        self.in_time(record)
    }

    /// A read that took no slot sees the state as it is now.
    fn read(&mut self, record: &Record) -> Result<(), String> {
        if let Some((_, outcome)) = record.answer() {
            self.tell(record, outcome)?;
            self.in_time(record)?;
        }
        Ok(())
    }

    fn tell(&mut self, record: &Record, outcome: Outcome) -> Result<(), String> {
        if self.spec.apply(self.log_time, record.action, outcome) {
            return Ok(());
        }
        Err(format!(
            "wrong: {:?} (#{}) was answered {outcome:?}",
            record.action, record.tag
        ))
    }

    /// Nothing comes after what was asked only after its answer.
    fn in_time(&mut self, record: &Record) -> Result<(), String> {
        if let Some((answered, _)) = record.answer()
            && answered < self.latest.0
        {
            return Err(format!(
                "time: #{} was answered before #{} was asked, yet comes after it",
                record.tag, self.latest.1
            ));
        }
        self.latest = self.latest.max((record.invoked, record.tag));
        Ok(())
    }
}

/// No committed update is lost: what was answered is in the log.
fn answered_are_executed(records: &[Record], places: &BTreeMap<u64, usize>) -> Result<(), String> {
    let lost =
        |r: &&Record| r.read_at.is_none() && r.answer().is_some() && !places.contains_key(&r.tag);
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
            read_at: None,
        }
    }

    /// A read after `place` operations that found `value`.
    fn read(tag: u64, invoked: u64, ended: u64, place: u64, sum: i64) -> Record {
        Record {
            action: Action::Add(0, 0),
            read_at: Some(place),
            ..record(tag, invoked, ended, sum)
        }
    }

    #[test]
    fn a_read_without_a_slot_has_its_place_among_the_slots() {
        let log = [executed(1, 1), executed(2, 2)];
        let with = |r| [record(1, 0, 2, 1), record(2, 5, 7, 2), r];
        assert_eq!(audit(&with(read(9, 3, 4, 1, 1)), &log, decode), Ok(()));
        assert_eq!(audit(&with(read(9, 6, 8, 2, 2)), &log, decode), Ok(()));
        assert!(complaint(&with(read(9, 3, 4, 1, 2)), &log).starts_with("wrong"));
        assert!(complaint(&with(read(9, 8, 9, 1, 1)), &log).starts_with("time"));
        assert!(complaint(&with(read(9, 3, 4, 2, 2)), &log).starts_with("time"));
        assert!(complaint(&with(read(9, 3, 9, 3, 2)), &log).starts_with("vanished"));
        let [first, second] = [read(8, 8, 9, 2, 2), read(9, 8, 10, 1, 1)];
        let both = [record(1, 0, 2, 1), record(2, 3, 12, 2), first, second];
        assert_eq!(audit(&both, &log, decode), Ok(()), "they overlap");
    }

    fn executed(tag: u64, sum: u8) -> Executed {
        Executed {
            tag,
            at: tag,
            reply: [sum][..].into(),
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
            reply: [][..].into(),
        };
        assert!(complaint(&one, &[nonsense]).starts_with("nonsense"));
    }
}
