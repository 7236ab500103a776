//! The tape of decisions: every choice a run makes against its group (what
//! becomes of a datagram, a strike) or for it (what a client asks) has a name
//! that does not depend on the others. A run can be told to keep some of them
//! only; all others then turn out harmless. That is how failures are shrunk.
use core::fmt;
use core::str::FromStr;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What a choice is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Of {
    /// The fate of a datagram from one node to another.
    Link(u8, u8),
    /// What chaos does when it strikes.
    Strike,
    /// What a client asks at one time.
    Ask(u8),
}

/// One choice: the how manieth of its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Choice {
    /// Its kind.
    pub of: Of,
    /// Its place among its kind.
    pub serial: u32,
}

/// A set of choices with a short form for command lines: kinds divided by
/// `/`, numbers by `+`, as in `0.3:1+4-9/s:2/a0:3`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Choices(BTreeSet<Choice>);

impl Choices {
    /// Whether `choice` belongs to the set.
    pub fn has(&self, choice: &Choice) -> bool {
        self.0.contains(choice)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Choice> for Choices {
    fn from_iter<I: IntoIterator<Item = Choice>>(choices: I) -> Self {
        Self(choices.into_iter().collect())
    }
}

impl fmt::Display for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<Of, Vec<(u32, u32)>> = BTreeMap::new();
        for Choice { of, serial } in &self.0 {
            let runs = kinds.entry(*of).or_default();
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *serial => *last = *serial,
                _ => runs.push((*serial, *serial)),
            }
        }
        if kinds.is_empty() {
            return f.write_str("none");
        }
        for (i, (of, runs)) in kinds.iter().enumerate() {
            let gap = if i == 0 { "" } else { "/" };
            match of {
                Of::Link(from, to) => write!(f, "{gap}{from}.{to}:")?,
                Of::Strike => write!(f, "{gap}s:")?,
                Of::Ask(client) => write!(f, "{gap}a{client}:")?,
            }
            for (i, (first, last)) in runs.iter().enumerate() {
                let gap = if i == 0 { "" } else { "+" };
                match last - first {
                    0 => write!(f, "{gap}{first}")?,
                    _ => write!(f, "{gap}{first}-{last}")?,
                }
            }
        }
        Ok(())
    }
}

/// So many choices are read from a command line at most; no run makes that many.
const MOST: u32 = 1 << 20;

impl FromStr for Choices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let wrong = || format!("\"{text}\" is not a list of choices like 0.3:1+4-9/s:2/a0:3");
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let node = |text: &str| text.parse::<u8>().map_err(|_| wrong());
        let (mut choices, mut left) = (BTreeSet::new(), MOST);
        for kind in text.split('/') {
            let (of, numbers) = kind.split_once(':').ok_or_else(wrong)?;
            let of = match of.split_once('.') {
                Some((from, to)) => Of::Link(node(from)?, node(to)?),
                None if of == "s" => Of::Strike,
                None => Of::Ask(node(of.strip_prefix('a').ok_or_else(wrong)?)?),
            };
            for run in numbers.split('+') {
                let (first, last) = run.split_once('-').unwrap_or((run, run));
                let (first, last) = (number(first)?, number(last)?);
                let more = last.checked_sub(first).and_then(|more| more.checked_add(1));
                left = more
                    .and_then(|more| left.checked_sub(more))
                    .ok_or_else(wrong)?;
                choices.extend((first..=last).map(|serial| Choice { of, serial }));
            }
        }
        Ok(Self(choices))
    }
}

/// Decides which choices a run keeps, and remembers those it made.
#[derive(Default)]
pub(crate) struct Tape<'a> {
    /// `None`: all.
    pub keep: Option<&'a Choices>,
    /// The choices made, and whether they were more than a delay.
    pub made: Option<&'a RefCell<Vec<(Choice, bool)>>>,
}

impl Tape<'_> {
    /// Whether a choice takes effect.
    pub(crate) fn keeps(&self, choice: Choice) -> bool {
        self.keep.is_none_or(|keep| keep.has(&choice))
    }

    /// Remembers a choice that took effect.
    pub(crate) fn note(&self, choice: Choice, loud: bool) {
        if let Some(made) = self.made {
            made.borrow_mut().push((choice, loud));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_read_back() {
        let link = |serial| Choice {
            of: Of::Link(0, 3),
            serial,
        };
        let of = |of, serial| Choice { of, serial };
        let made = [link(1), link(4), link(5), link(6), of(Of::Strike, 2)];
        let choices: Choices = made.into_iter().chain([of(Of::Ask(1), 7)]).collect();
        let text = choices.to_string();
        assert_eq!(text, "0.3:1+4-6/s:2/a1:7");
        assert_eq!(text.parse(), Ok(choices));
        assert_eq!("none".parse(), Ok(Choices::default()));
        assert_eq!(Choices::default().to_string(), "none");
        for wrong in [
            "",
            "0.3",
            "x:1",
            "0.3:5-2",
            "0.300:1",
            "a0:0-4294967295",
            "a0:0-1048575/a1:0",
            "b0:1",
            "a:1",
        ] {
            assert!(wrong.parse::<Choices>().is_err(), "{wrong}");
        }
    }
}
