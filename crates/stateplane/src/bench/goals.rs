//! What is wanted of ratios, and how benchmarks show what they found.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::say::say;

/// What is wanted of a value, and whether it is so.
#[derive(Debug, Serialize)]
pub(super) struct Goal {
    wanted: f64,
    met: bool,
}

/// A bound that a value should keep.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// Whether a value keeps it, if there is one.
    pub(super) fn judge(self, value: f64) -> Option<Goal> {
        let (wanted, met) = match self {
            Self::None => return None,
            Self::AtLeast(wanted) => (wanted, value >= wanted),
            Self::AtMost(wanted) => (wanted, value <= wanted),
        };
        Some(Goal { wanted, met })
    }
}

/// A line for each ratio, with its goal if it has one.
pub(super) fn print(ratios: &BTreeMap<&str, f64>, goals: &BTreeMap<&str, Goal>) {
    for (name, ratio) in ratios {
        let goal = match goals.get(name) {
            None => String::new(),
            Some(Goal { wanted, met: true }) => format!("goal {wanted}: met"),
            Some(Goal { wanted, met: false }) => format!("goal {wanted}: missed"),
        };
        say!("{name:<38} {ratio:<9} {goal}");
    }
}

/// A report for machines or, by `print`, for people.
pub(super) fn show<R: Serialize>(report: &R, json: bool, print: impl FnOnce(&R)) -> Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print(report);
    }
    Ok(())
}

/// To three places.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
