//! What can go wrong in the store lab, by name.

use std::fmt;

use super::network::{Way, Weather};

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A replica that does not lead.
    Replica,
    Leader,
    /// The one in force.
    Sequencer,
}

impl Who {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Leader => "leader",
            Self::Sequencer => "sequencer",
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL; started again after a while.
    Kill(Who),
    /// SIGTERM; started again when it has ended.
    Restart(Who),
    /// SIGSTOP for less than any time-out.
    Blink(Who),
    /// SIGSTOP for much longer than any time-out.
    Pause(Who),
    /// No frame from it, to it, or both.
    Cut(Who, Way),
    /// The leader and the sequencer do not hear each other; all else is well.
    Between,
    /// Leader and sequencer killed at once.
    KillBoth,
    /// All replicas and sequencers killed at once.
    KillAll,
    /// A rough network for all.
    Rough(Weather),
}

impl Fault {
    /// Every fault, in the order in which they are played.
    pub(super) const ALL: [Self; 27] = {
        use Fault::{Between, Blink, Cut, Kill, KillAll, KillBoth, Pause, Restart, Rough};
        use Way::{Both, From, To};
        use Who::{Leader, Replica, Sequencer};
        [
            Kill(Replica),
            Kill(Leader),
            Kill(Sequencer),
            KillBoth,
            KillAll,
            Restart(Replica),
            Restart(Leader),
            Restart(Sequencer),
            Blink(Replica),
            Blink(Leader),
            Blink(Sequencer),
            Pause(Replica),
            Pause(Leader),
            Pause(Sequencer),
            Cut(Replica, Both),
            Cut(Leader, Both),
            Cut(Sequencer, Both),
            Cut(Replica, From),
            Cut(Leader, From),
            Cut(Sequencer, From),
            Cut(Replica, To),
            Cut(Leader, To),
            Cut(Sequencer, To),
            Between,
            Rough(Weather::Loss),
            Rough(Weather::Duplicates),
            Rough(Weather::Reorder),
        ]
    };

    /// Its kind: the first part of its name.
    fn class(self) -> &'static str {
        match self {
            Self::Kill(_) | Self::KillBoth | Self::KillAll => "kill",
            Self::Restart(_) => "restart",
            Self::Blink(_) => "blink",
            Self::Pause(_) => "pause",
            Self::Cut(_, Way::Both) | Self::Between => "cut",
            Self::Cut(_, Way::From) => "mute",
            Self::Cut(_, Way::To) => "deafen",
            Self::Rough(_) => "rough",
        }
    }

    /// What it does, for people.
    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Kill(_) => "SIGKILL, started again 0.7 s later",
            Self::KillBoth => "SIGKILL of leader and sequencer at once",
            Self::KillAll => "SIGKILL of all replicas and sequencers at once (with --durable)",
            Self::Restart(_) => "SIGTERM, started again at once",
            Self::Blink(_) => "SIGSTOP for 20 ms: shorter than any time-out",
            Self::Pause(_) => "SIGSTOP for 1 s: longer than any time-out",
            Self::Cut(_, Way::Both) => "cut off from everybody for 1 s",
            Self::Cut(_, Way::From) => "what it sends is lost for 1 s; it hears",
            Self::Cut(_, Way::To) => "what is sent to it is lost for 1 s; it is heard",
            Self::Between => "leader and sequencer do not hear each other for 1 s",
            Self::Rough(Weather::Loss) => "3 % of all datagrams are lost for 1 s",
            Self::Rough(Weather::Duplicates) => "5 % of all datagrams arrive twice for 1 s",
            Self::Rough(Weather::Reorder) => "delays that reorder datagrams for 1 s (netem)",
        }
    }

    /// Milliseconds without service that we aim to stay below.
    pub(super) fn goal_ms(self) -> Option<f64> {
        match self {
            Self::Kill(Who::Leader) => Some(100.0),
            Self::Kill(Who::Sequencer) => Some(150.0),
            _ => None,
        }
    }

    /// The faults that a word on the command line stands for.
    pub(super) fn named(word: &str) -> Result<Vec<Self>, String> {
        let all = Self::ALL.into_iter();
        let meant: Vec<Self> = match word {
            "all" => all.collect(),
            "none" => return Ok(Vec::new()),
            _ => all
                .filter(|f| f.to_string() == word || f.class() == word)
                .collect(),
        };
        if meant.is_empty() {
            return Err("`stateplane lab list` names the faults and their kinds".to_owned());
        }
        Ok(meant)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.class();
        match self {
            Self::Kill(who)
            | Self::Restart(who)
            | Self::Blink(who)
            | Self::Pause(who)
            | Self::Cut(who, _) => write!(f, "{class}-{}", who.word()),
            Self::KillBoth => f.write_str("kill-both"),
            Self::KillAll => f.write_str("kill-all"),
            Self::Between => f.write_str("cut-between"),
            Self::Rough(Weather::Loss) => f.write_str("rough-loss"),
            Self::Rough(Weather::Duplicates) => f.write_str("rough-duplicates"),
            Self::Rough(Weather::Reorder) => f.write_str("rough-reorder"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_has_a_name_of_its_own_and_is_found_by_it() {
        let names: BTreeSet<String> = Fault::ALL.iter().map(Fault::to_string).collect();
        assert_eq!(names.len(), Fault::ALL.len());
        for fault in Fault::ALL {
            assert_eq!(Fault::named(&fault.to_string()), Ok(vec![fault]));
        }
    }

    #[test]
    fn a_kind_stands_for_all_of_it() {
        let mute = Fault::named("mute").expect("a kind");
        assert_eq!(mute.len(), 3);
        assert_eq!(Fault::named("all").expect("all").len(), Fault::ALL.len());
        assert_eq!(Fault::named("none"), Ok(vec![]));
        assert!(Fault::named("earthquake").is_err());
    }
}
