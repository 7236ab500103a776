//! What a user can choose, and the run that follows from it.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::config::{Commit, Settings, State};
use super::load::LoadPlan;
use super::store::StoreArgs;
use super::topology::{Device, client_address, traffic_server};
use super::traffic::Plan;

/// Number of inside addresses the generator sends from.
const CLIENTS: u8 = 16;

/// `stateplane lab …`
#[derive(Args, Clone, Debug)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    pub(crate) command: LabCommand,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum LabCommand {
    /// Run one scenario in network namespaces of its own; needs root
    #[command(subcommand)]
    Run(Scenario),
    /// Say which scenarios and faults there are
    List,
}

/// A scenario, with its options.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Scenario {
    /// Kill nodes under traffic; nothing may break
    Failover(RunArgs),
    /// Requests through one instance, answers through the other
    Asymmetric(RunArgs),
    /// Strike the replicated store itself; what its clients saw must be linearizable
    Store(StoreArgs),
}

/// Whom to kill, or what else to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// The function instance that carries most flows
    Nf,
    /// The replica that leads the store's group
    Leader,
    /// A replica that does not lead
    Replica,
    /// Nobody: the instance that carries most flows gets weight 0, the next time the usual one
    Weight,
}

/// What translates between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// Two instances behind a steering switch
    Stateplane,
    /// One machine with the kernel's NAT: the floor, and a check of the generator
    Kernel,
}

/// `stateplane lab run failover …`
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Long-lived TCP connections; half of them are pushed to by the server
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub(crate) connections: u32,
    /// Long-lived UDP flows
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=5_000))]
    pub(crate) udp: u32,
    /// New connections per second (default 500; asymmetric 300; young 6000)
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Who is killed, one after the other; `--kill ""` for nobody
    #[arg(long, value_delimiter = ',', default_values = ["nf", "leader"], value_parser = target)]
    pub(crate) kill: Vec<Option<Target>>,
    /// Where instances keep their state
    #[arg(long, value_enum, default_value_t = State::Group)]
    pub(crate) state: State,
    /// When a packet may leave whose processing wrote state
    #[arg(long, value_enum, default_value_t = Commit::Strict)]
    pub(crate) commit: Commit,
    /// Seconds of steady traffic before the first kill and between kills
    #[arg(long, default_value_t = 2.5)]
    pub(crate) pace: f64,
    /// Seconds of traffic in all (default: what the kills need)
    #[arg(long)]
    pub(crate) duration: Option<f64>,
    /// The hard case: 6000 new connections/s, a third of them kept, so that
    /// many flows are younger than 2, 10 and 50 ms when the kill comes
    #[arg(long)]
    pub(crate) young: bool,
    /// Packets a second of short datagrams, made by the kernel, beside everything else
    #[arg(long, default_value_t = 0, value_name = "PACKETS", value_parser = clap::value_parser!(u32).range(0..=5_000_000))]
    pub(crate) load: u32,
    /// Flows that these datagrams belong to
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) load_flows: u32,
    /// Every packet goes through the instances' processes
    #[arg(long)]
    pub(crate) no_fast_path: bool,
    /// Workers of each instance, on queues of their own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Leave out curl, nginx, ping and iperf3
    #[arg(long)]
    pub(crate) no_real_clients: bool,
    /// Size of the file that curl downloads
    #[arg(long, default_value_t = 200)]
    pub(crate) download_mb: u32,
    /// What translates
    #[arg(long, value_enum, default_value_t = DeviceName::Stateplane)]
    pub(crate) device: DeviceName,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the nodes' logs and configuration, and say where
    #[arg(long)]
    pub(crate) keep: bool,
}

fn target(text: &str) -> Result<Option<Target>, String> {
    if text.is_empty() || text == "none" {
        return Ok(None);
    }
    Target::from_str(text, false).map(Some)
}

/// Real programs beside the generator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealClients {
    pub(crate) download_mb: u32,
    pub(crate) iperf_mbit: u32,
}

/// One run, with every choice made.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) device: Device,
    pub(crate) settings: Settings,
    pub(crate) clients: u8,
    pub(crate) plan: Plan,
    pub(crate) kills: Vec<Target>,
    /// Steady traffic before the first kill, and between kills.
    pub(crate) pace: Duration,
    /// Traffic after the last kill.
    pub(crate) tail: Duration,
    pub(crate) real: Option<RealClients>,
    /// A high rate of packets beside it.
    pub(crate) load: Option<LoadPlan>,
    /// Whether a delayed connect is a failure.
    pub(crate) no_delay_allowed: bool,
    pub(crate) keep: bool,
}

impl Spec {
    /// Traffic from the first steady second to the drain.
    pub(crate) fn duration(&self) -> Duration {
        let pauses = u32::try_from(self.kills.len()).unwrap_or(u32::MAX);
        self.pace * pauses + self.tail
    }
}

impl Spec {
    /// The failover lab with its defaults, which are the demonstration.
    pub(crate) fn demo() -> Self {
        #[derive(clap::Parser)]
        struct Defaults {
            #[command(flatten)]
            run: RunArgs,
        }
        let defaults = <Defaults as clap::Parser>::parse_from(["demo"]);
        Self::failover(&defaults.run)
    }

    pub(crate) fn failover(args: &RunArgs) -> Self {
        Self::new(args, false)
    }

    pub(crate) fn asymmetric(args: &RunArgs) -> Self {
        Self::new(args, true)
    }

    fn new(args: &RunArgs, asymmetric: bool) -> Self {
        let device = match args.device {
            DeviceName::Stateplane => Device::Stateplane,
            DeviceName::Kernel => Device::Kernel,
        };
        let quiet = asymmetric || device == Device::Kernel;
        let kills: Vec<Target> = args.kill.iter().flatten().copied().collect();
        let mut kills = if quiet { Vec::new() } else { kills };
        if args.state == State::Local {
            // There are no replicas, and a pair that shares nothing has fixed places.
            kills.retain(|k| *k == Target::Nf);
        }
        let pace = Duration::from_secs_f64(args.pace.clamp(0.1, 600.0));
        let default_rate = match (asymmetric, args.young) {
            (true, _) => 300,
            (_, true) => 6000,
            _ => 500,
        };
        let mut spec = Self {
            name: if asymmetric { "asymmetric" } else { "failover" },
            device,
            settings: Settings {
                state: args.state,
                commit: args.commit,
                asymmetric,
                fast_path: !args.no_fast_path,
                regions: kills.contains(&Target::Weight),
                workers: args.workers,
            },
            clients: CLIENTS,
            plan: plan(args, asymmetric, args.rate.unwrap_or(default_rate)),
            kills,
            pace,
            tail: Duration::from_secs(5),
            real: None,
            load: (args.load > 0 && device == Device::Stateplane).then_some(LoadPlan {
                rate: args.load,
                flows: args.load_flows,
            }),
            no_delay_allowed: asymmetric,
            keep: args.keep,
        };
        if let Some(seconds) = args.duration {
            let wanted = Duration::from_secs_f64(seconds.clamp(0.1, 3600.0));
            let pauses = spec.duration() - spec.tail;
            spec.tail = wanted.saturating_sub(pauses).max(Duration::from_secs(1));
        }
        if !args.no_real_clients && !asymmetric {
            spec.real = Some(RealClients {
                download_mb: args.download_mb,
                iperf_mbit: 20,
            });
        }
        spec
    }
}

fn plan(args: &RunArgs, asymmetric: bool, rate: u32) -> Plan {
    let few = asymmetric || args.young;
    Plan {
        server: traffic_server(),
        clients: (0..CLIENTS).map(client_address).collect(),
        tcp: if few {
            args.connections.min(40)
        } else {
            args.connections
        },
        period: Duration::from_millis(10),
        udp: args.udp,
        udp_period: Duration::from_millis(10),
        rate,
        keep_every: if args.young { 3 } else { 5 },
        keep_for: Duration::from_millis(1500),
        keep_period: Duration::from_millis(250),
        patience: Duration::from_secs(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(subcommand)]
        run: Scenario,
    }

    fn spec(line: &str) -> Spec {
        let words = std::iter::once("x").chain(line.split(' '));
        match Command::try_parse_from(words).expect("good line").run {
            Scenario::Failover(args) => Spec::failover(&args),
            Scenario::Asymmetric(args) => Spec::asymmetric(&args),
            Scenario::Store(_) => panic!("a lab of its own"),
        }
    }

    #[test]
    fn kills_are_a_list_and_may_be_empty() {
        use Target::{Leader, Nf, Replica};
        assert_eq!(spec("failover").kills, [Nf, Leader]);
        let all = spec("failover --kill nf,leader,replica");
        assert_eq!(all.kills, [Nf, Leader, Replica]);
        assert_eq!(all.duration(), Duration::from_millis(3 * 2500 + 5000));
        assert!(spec("failover --kill none").kills.is_empty());
        assert_eq!(spec("failover --state local").kills, [Nf]);
        assert!(Command::try_parse_from(["x", "failover", "--kill", "cat"]).is_err());
    }

    #[test]
    fn the_demonstration_is_what_was_promised() {
        let demo = Spec::demo();
        assert!(demo.plan.tcp >= 200 && demo.plan.udp >= 20 && demo.plan.rate >= 500);
        assert_eq!(demo.kills, [Target::Nf, Target::Leader]);
        assert!(demo.real.is_some_and(|r| r.download_mb >= 200));
    }

    #[test]
    fn scenarios_bring_their_own_rates() {
        assert_eq!(spec("asymmetric").plan.rate, 300);
        assert!(spec("asymmetric").kills.is_empty());
        assert_eq!(spec("failover --young").plan.rate, 6000);
        assert_eq!(spec("failover --young --rate 9").plan.rate, 9);
        assert!(spec("failover --no-real-clients").real.is_none());
        let plain = spec("failover");
        assert!(plain.load.is_none() && plain.settings.fast_path);
        let load = spec("failover --load 300000 --no-fast-path");
        assert_eq!(
            load.load.map(|l| (l.rate, l.flows)),
            Some((300_000, 10_000))
        );
        assert!(!load.settings.fast_path);
    }
}
