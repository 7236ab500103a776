//! Makes a failure small. First whole classes of faults are switched off, then
//! single choices are taken back, in ever smaller runs (delta debugging, Zeller
//! and Hildebrandt, 2002), as long as the same rule still breaks.
use crate::guard::{caught, guarded};
use crate::tape::{Choice, Choices};
use crate::world::{self, Setup};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A smaller run that breaks the same rule as `whole` did, found in time.
pub(crate) fn shrink(whole: &Setup, what: &str, patience: Duration) -> Setup {
    let search = Search {
        rule: rule(what).to_owned(),
        until: Instant::now() + patience,
    };
    let small = search.classes(whole.clone());
    search.choices(small)
}

/// The first word of a complaint names the rule.
fn rule(what: &str) -> &str {
    what.split(':').next().unwrap_or_default()
}

struct Search {
    rule: String,
    until: Instant,
}

impl Search {
    fn fails(&self, setup: &Setup) -> bool {
        let broken = guarded(setup).broken;
        broken.is_some_and(|what| rule(&what) == self.rule)
    }

    /// Leaves out one class of faults after the other.
    fn classes(&self, mut setup: Setup) -> Setup {
        for fault in world::plan(&setup).faults.iter() {
            let off = setup.off.with(fault);
            let without = Setup {
                off,
                ..setup.clone()
            };
            if self.fails(&without) {
                setup = without;
            }
        }
        setup
    }

    /// Takes back one choice after the other.
    fn choices(&self, setup: Setup) -> Setup {
        let made = RefCell::new(Vec::new());
        caught(|| world::record(&setup, &made));
        let made = made.into_inner();
        let keeping = |choices: &[Choice]| Setup {
            keep: Some(Arc::new(choices.iter().copied().collect::<Choices>())),
            ..setup.clone()
        };
        // Often common delays are of no importance, which are most choices.
        let loud = made.iter().filter(|(_, loud)| *loud);
        let mut kept: Vec<Choice> = loud.map(|(choice, _)| *choice).collect();
        if !self.fails(&keeping(&kept)) {
            kept = made.iter().map(|(choice, _)| *choice).collect();
            if !self.fails(&keeping(&kept)) {
                return setup;
            }
        }
        let mut run = kept.len().div_ceil(2);
        while run > 0 {
            let before = kept.len();
            self.without_runs(&mut kept, run, &keeping);
            let done = kept.len() == before;
            if Instant::now() >= self.until || done && run == 1 {
                break;
            }
            run = if done { run / 2 } else { run.min(kept.len()) };
        }
        keeping(&kept)
    }

    /// Takes back every run of so many choices that the failure does not need.
    fn without_runs(
        &self,
        kept: &mut Vec<Choice>,
        run: usize,
        keeping: &dyn Fn(&[Choice]) -> Setup,
    ) {
        let mut end = kept.len();
        // From the end on: what comes late depends on what came before.
        while end > 0 && Instant::now() < self.until {
            let start = end.saturating_sub(run);
            let mut rest = kept.clone();
            rest.drain(start..end);
            if self.fails(&keeping(&rest)) {
                *kept = rest;
            }
            end = start;
        }
    }
}
