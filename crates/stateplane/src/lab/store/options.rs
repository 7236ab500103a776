//! `stateplane lab run store`: what a user can choose.

use std::path::PathBuf;

use clap::Args;

use super::fault::Fault;

const EXAMPLES: &str = "\
What it does:
  Starts replicas, a sequencer and a standby as processes of their own, each in a network
  namespace, and clients that read, write, compare-and-set, count, push and pop on a few
  keys, all at once. Then faults strike, one after the other. After each:
    - the recorded history must be linearizable (every answer fits one order of all
      operations that respects real time; operations without an answer may have happened)
    - everything that was acknowledged must be there when all is read back
    - all nodes must be ready again
  `silence` is the longest time in which no client at all got an answer, `log` in which none
  got one that took a slot of the log (reads go on without a sequencer), `client` the longest
  of any one client. They depend on how busy the machine is; `late` says by how much the
  clients' own threads were.

Examples:
  stateplane lab run store                              every fault, about 90 s
  stateplane lab run store --faults kill,pause-leader   kinds and single faults; `lab list`
  stateplane lab run store --durable --faults kill-all  power loss of everything
  stateplane lab run store --replicas 5 --rounds 10 --json
  stateplane lab run store --faults kill --plot kill.svg
  stateplane lab run store --falsify lost-write --faults none    must exit with 1

Exit status: 0 all is well, 1 something acknowledged was lost or wrong, 2 no verdict,
3 the machine lacks something (root, nft), 130 interrupted.";

/// Kill, pause, cut off processes of a replicated store; check what clients saw
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StoreArgs {
    /// Faults by name or kind, played in turn; `all`, or `none` for an undisturbed run
    #[arg(long, value_name = "FAULTS", value_delimiter = ',', default_value = "all",
          value_parser = Fault::named)]
    pub(super) faults: Vec<Vec<Fault>>,
    /// Play the list so many times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) rounds: u32,
    /// Replicas of the group
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub(super) replicas: u8,
    /// Replicas write a log to disk, and survive the loss of all of them
    #[arg(long)]
    pub(super) durable: bool,
    /// Clients that ask one thing at a time, on each of three machines
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(super) clients: u16,
    /// Operations that a fourth of the clients besides have under way at a time
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) pipeline: u16,
    /// Mean time in ms until a client asks again
    #[arg(long, default_value_t = 8)]
    pub(super) think_ms: u64,
    /// Seconds of load before each fault and after it is mended
    #[arg(long, default_value_t = 0.6)]
    pub(super) pace: f64,
    /// Plant a fault in the recorded history: the run must then fail (a check of the checks)
    #[arg(long, value_enum)]
    pub(super) falsify: Option<Falsify>,
    /// Draw operations completed per 10 ms, with the faults, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(super) json: bool,
    /// Keep the nodes' logs, configuration and the recorded histories, and say where
    #[arg(long)]
    pub(super) keep: bool,
}

/// What is planted into a history that was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Falsify {
    /// The read-back does not find what the last acknowledged write wrote
    LostWrite,
    /// The read-back finds an acknowledged increment twice
    TwiceDone,
    /// The read-back misses an item that was pushed and never popped
    LostItem,
}

impl StoreArgs {
    pub(super) fn faults(&self) -> Vec<Fault> {
        let once: Vec<Fault> = self.faults.iter().flatten().copied().collect();
        once.repeat(self.rounds as usize)
    }
}
