//! The outcome of a run: tables and lines for people, one JSON object for machines.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use stateplane_base::Time;

use super::fault::Fault;
use super::judge::Judgement;
use super::load::Entry;
use super::options::StoreArgs;
use super::silence::{Answers, Silence};

/// Something that was done, and when.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) at: Time,
    pub(super) what: String,
}

/// One fault under load.
#[derive(Clone, Debug)]
pub(super) struct Case {
    fault: Option<Fault>,
    whom: Vec<String>,
    /// When it struck, or the load began.
    pub(super) at: Time,
    pub(super) began: Time,
    pub(super) ended: Time,
    pub(super) answers: Answers,
    unknown: usize,
    silence: Silence,
    late: Duration,
    judgement: Judgement,
    pub(super) moments: Vec<Moment>,
}

impl Case {
    pub(super) fn new(
        struck: Option<(Fault, Vec<String>, Time)>,
        (began, ended): (Time, Time),
        entries: &[Entry],
        late: Duration,
        judgement: Judgement,
    ) -> Self {
        let answers = Answers::of(entries);
        let (fault, whom, at) = match struck {
            Some((fault, whom, at)) => (Some(fault), whom, at),
            None => (None, Vec::new(), began),
        };
        let silence = answers.silence(at, ended);
        let unknown = entries.iter().filter(|e| e.record.answer().is_none());
        Self {
            fault,
            whom,
            at,
            began,
            ended,
            unknown: unknown.count(),
            answers,
            silence,
            late,
            judgement,
            moments: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> String {
        let fault = self.fault.map(|fault| fault.to_string());
        fault.unwrap_or_else(|| "undisturbed".to_owned())
    }

    /// Why it did not pass; empty when it did.
    fn reasons(&self) -> Vec<String> {
        let judged = &self.judgement;
        let mut reasons = judged.wrong.clone();
        if judged.undecided > 0 {
            let n = judged.undecided;
            reasons.push(format!(
                "{n} objects had too many operations at once to be judged"
            ));
        }
        let (found, planted) = judged.planted;
        if found < planted {
            let missed = planted - found;
            reasons.push(format!("the checks missed {missed} planted faults"));
        }
        if self.answers.count() == 0 {
            reasons.push("no operation was answered".to_owned());
        }
        let name = self.name();
        let named = reasons.into_iter().map(|r| format!("{name}: {r}"));
        named.collect()
    }

    fn verdict(&self) -> &'static str {
        if !self.judgement.wrong.is_empty() {
            "WRONG"
        } else if !self.reasons().is_empty() {
            "UNPROVEN"
        } else {
            "linearizable"
        }
    }

    fn goal(&self) -> String {
        let goal = self.fault.and_then(Fault::goal_ms);
        let reached = |goal| match ms(self.silence.slots) < goal {
            true => "reached",
            false => "missed",
        };
        goal.map_or_else(String::new, |g| format!("< {g} ms {}", reached(g)))
    }

    /// One line, as soon as it is known.
    pub(super) fn line(&self) -> String {
        format!(
            "{}: {} operations, {} without an answer, silence {} ms, of the log {} ms, {}",
            self.name(),
            self.answers.count(),
            self.unknown,
            ms(self.silence.all),
            ms(self.silence.slots),
            self.verdict()
        )
    }

    fn json(&self) -> Value {
        let moments = self.moments.iter().map(|m| {
            let after = m.at.since(self.began);
            json!({ "at_ms": ms(after), "what": m.what })
        });
        json!({
            "fault": self.name(),
            "struck": self.whom,
            "verdict": self.verdict(),
            "reasons": self.reasons(),
            "operations": self.answers.count(),
            "unknown": self.unknown,
            "acknowledged_writes": self.judgement.writes,
            "undecided": self.judgement.undecided,
            "planted_faults": self.judgement.planted.1,
            "planted_faults_found": self.judgement.planted.0,
            "silence_ms": ms(self.silence.all),
            "log_silence_ms": ms(self.silence.slots),
            "client_silence_ms": ms(self.silence.client),
            "goal_ms": self.fault.and_then(Fault::goal_ms),
            "clients_late_ms": ms(self.late),
            "moments": moments.collect::<Vec<_>>(),
            "per_10_ms": self.answers.per(SPAN, self.began, self.spans()),
        })
    }

    pub(super) fn spans(&self) -> usize {
        let all = self.ended.since(self.began).as_nanos();
        usize::try_from(all.div_ceil(SPAN.as_nanos())).unwrap_or(0)
    }
}

/// Operations are counted per 10 ms.
pub(super) const SPAN: Duration = Duration::from_millis(10);
/// Spans of a drawn line: before the fault, and in all.
const BEFORE: usize = 10;
const DRAWN: usize = 64;

/// Everything that was seen in one run.
pub(super) struct Report {
    replicas: u8,
    durable: bool,
    pub(super) cases: Vec<Case>,
    skipped: Vec<(Fault, String)>,
    /// Why the run ended early.
    pub(super) broken: Option<String>,
    pub(super) states: Value,
    pub(super) duration: Duration,
}

impl Report {
    pub(super) fn new(args: &StoreArgs) -> Self {
        Self {
            replicas: args.replicas,
            durable: args.durable,
            cases: Vec::new(),
            skipped: Vec::new(),
            broken: None,
            states: Value::Null,
            duration: Duration::ZERO,
        }
    }

    pub(super) fn skip(&mut self, fault: Fault, why: String) {
        self.skipped.push((fault, why));
    }

    /// Why the run did not pass; empty when it did.
    pub(super) fn reasons(&self) -> Vec<String> {
        let cases = self.cases.iter().flat_map(Case::reasons);
        cases.chain(self.broken.clone()).collect()
    }

    pub(super) fn pass(&self) -> bool {
        self.reasons().is_empty()
    }

    fn writes(&self) -> u64 {
        self.cases.iter().map(|c| c.judgement.writes).sum()
    }

    fn operations(&self) -> usize {
        self.cases.iter().map(|c| c.answers.count()).sum()
    }

    pub(super) fn json(&self) -> Value {
        let skipped = self.skipped.iter();
        let skipped = skipped.map(|(f, why)| json!({ "fault": f.to_string(), "why": why }));
        json!({
            "scenario": "store",
            "verdict": if self.pass() { "pass" } else { "fail" },
            "reasons": self.reasons(),
            "replicas": self.replicas,
            "durable": self.durable,
            "operations": self.operations(),
            "acknowledged_writes": self.writes(),
            "cases": self.cases.iter().map(Case::json).collect::<Vec<_>>(),
            "skipped": skipped.collect::<Vec<_>>(),
            "states": self.states,
            "duration_s": (self.duration.as_secs_f64() * 100.0).round() / 100.0,
        })
    }

    /// Tables for people.
    pub(super) fn text(&self) -> String {
        let mut out = self.table().to_string();
        out += "\n\n  operations answered per 10 ms; | is the fault\n";
        for case in &self.cases {
            out += &format!("  {:<18}{}\n", case.name(), line(case));
        }
        for (fault, why) in &self.skipped {
            out += &format!("  skipped: {fault}: {why}\n");
        }
        let verdict = if self.pass() { "PASS" } else { "FAIL" };
        out += &format!(
            "\n  {verdict} store after {:.1} s: {} operations, {} acknowledged writes\n",
            self.duration.as_secs_f64(),
            self.operations(),
            self.writes()
        );
        for reason in self.reasons() {
            out += &format!("    {reason}\n");
        }
        out
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header([
            "  fault", "struck", "answers", "unknown", "silence", "log", "client", "late", "goal",
            "history",
        ]);
        for case in &self.cases {
            let whom = match case.whom.len() {
                0..=2 => case.whom.join(" "),
                _ => "all".to_owned(),
            };
            table.add_row([
                format!("  {}", case.name()),
                whom,
                case.answers.count().to_string(),
                case.unknown.to_string(),
                format!("{} ms", ms(case.silence.all)),
                format!("{} ms", ms(case.silence.slots)),
                format!("{} ms", ms(case.silence.client)),
                format!("{} ms", ms(case.late)),
                case.goal(),
                case.verdict().to_owned(),
            ]);
        }
        table
    }
}

/// The operations around the fault, a block for each 10 ms.
fn line(case: &Case) -> String {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let from = case.at - SPAN * u32::try_from(BEFORE).expect("few");
    let before = if case.fault.is_some() { BEFORE } else { 0 };
    let from = if before == 0 { case.at } else { from };
    let spans = case.answers.per(SPAN, from, DRAWN);
    let most = spans.iter().copied().max().unwrap_or(0).max(1);
    let mut drawn = String::new();
    for (n, count) in spans.iter().enumerate() {
        if n == before && before > 0 {
            drawn.push('|');
        }
        let height = (count * 8).div_ceil(most);
        drawn.push(BLOCKS[usize::try_from(height).unwrap_or(0).min(8)]);
    }
    drawn
}

/// Tenths of a millisecond are all the clock of a busy machine is good for.
pub(super) fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e4).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::store::fault::Who;
    use stateplane_sim::check::{Ended, Record};
    use stateplane_sim::spec::{Action, Outcome};

    fn entry(at_ms: u64, answered: bool) -> Entry {
        let outcome = answered.then_some(Outcome::Found(None));
        let at = at_ms * 1_000_000;
        let record = Record {
            tag: at_ms,
            action: Action::Get(0),
            invoked: at,
            ended: Some(Ended { at, outcome }),
            read_at: None,
        };
        Entry {
            client: 0,
            read: false,
            record,
        }
    }

    fn case(judgement: Judgement) -> Case {
        let entries: Vec<Entry> = [5, 15, 90, 95].map(|at| entry(at, at != 95)).into();
        let at = Time::from_millis(20);
        let struck = (Fault::Kill(Who::Leader), vec!["r1".to_owned()], at);
        let span = (Time::ZERO, Time::from_millis(100));
        Case::new(Some(struck), span, &entries, Duration::ZERO, judgement)
    }

    #[test]
    fn a_case_tells_how_long_nobody_was_served() {
        let case = case(Judgement::default());
        assert!(case.line().contains("3 operations, 1 without an answer"));
        assert_eq!(case.json()["silence_ms"], 75.0);
        assert_eq!(case.goal(), "< 100 ms reached");
        assert_eq!(case.json()["per_10_ms"].as_array().map(Vec::len), Some(10));
        let drawn = line(&case);
        assert_eq!(drawn.chars().position(|c| c == '|'), Some(BEFORE));
        assert_eq!(drawn.chars().filter(|c| *c == '█').count(), 3);
    }

    #[test]
    fn whatever_is_wrong_or_unproven_fails_the_run() {
        let good = Judgement {
            planted: (3, 3),
            ..Judgement::default()
        };
        let lost = Judgement {
            wrong: vec!["lost: something".to_owned()],
            ..good.clone()
        };
        let undecided = Judgement {
            undecided: 1,
            ..good.clone()
        };
        let blind = Judgement {
            planted: (2, 3),
            ..good.clone()
        };
        assert_eq!(case(good).reasons(), Vec::<String>::new());
        for (judgement, word) in [
            (lost, "lost: something"),
            (undecided, "judged"),
            (blind, "planted"),
        ] {
            let reasons = case(judgement).reasons();
            assert!(
                reasons.len() == 1 && reasons[0].contains(word),
                "{reasons:?}"
            );
        }
    }
}
