//! `stateplane bench`: how fast, beside its peers, in the same run on the same topology.
//!
//! Absolute figures differ from machine to machine and from hour to hour; the ratios
//! are what is compared. Devices take turns, round by round, and the median of the
//! rounds counts.

mod datapath;
mod device;
mod goals;
mod measure;
mod process;
mod quota;
mod region;
mod replication;
mod sequencer;
pub(crate) mod testbed;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;
use stateplane_host::{napi, priority};

use crate::say::say;
use device::Device;
use measure::{Latency, Rate};
use testbed::Testbed;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Packets a second and added latency of the NAT's slow path, beside kernel
    /// forwarding and nftables SNAT.
    Nat(NatArgs),
    /// Packets a second, latency, new flows, TCP and HTTP of fast and slow path, beside the
    /// kernel's devices and what XDP and AF_XDP can reach at most.
    Datapath(datapath::DatapathArgs),
    /// Operations a second, latency and processor time of the replicated store, ordered by
    /// the network or by its leader, beside Redis with WAIT and etcd.
    Replication(replication::ReplicationArgs),
    /// Messages stamped and multicast to three replicas a second, in the network and in
    /// user space, and the latency that stamping adds.
    Sequencer(sequencer::SequencerArgs),
    /// What a region costs its writer and readers, beside plain stores, memcpy and a Unix
    /// socket.
    Region(region::RegionArgs),
}

/// Options of `bench nat`.
#[derive(Debug, Args)]
pub(crate) struct NatArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each rate measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Numbers of flows to spread the packets over.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000])]
    flows: Vec<u32>,
    /// Round trips of each latency measurement.
    #[arg(long, default_value_t = 5_000)]
    pings: u32,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// One device under one load: medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    device: &'static str,
    flows: u32,
    pps: f64,
    ns_per_packet: f64,
    lost: u64,
    rtt_p50_us: f64,
    rtt_p99_us: f64,
}

/// The machine-readable result.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: Machine,
    rows: Vec<Row>,
    ratios: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: usize,
    kernel: String,
    placement: &'static str,
    frame_bytes: u32,
}

type Rates = BTreeMap<(Device, u32), Vec<Rate>>;
type Latencies = BTreeMap<Device, Vec<Latency>>;

/// Runs a benchmark and prints its result.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Nat(args) => nat(args),
        Bench::Datapath(args) => datapath::run(args),
        Bench::Replication(args) => replication::run(args),
        Bench::Sequencer(args) => sequencer::run(args),
        Bench::Region(args) => region::run(args),
    }
}

fn nat(args: &NatArgs) -> Result<()> {
    let place = Place::choose()?;
    // Whatever this process starts from here on works where the device works.
    priority::pin_to(place.device).context("cannot choose a processor")?;
    let (mut rates, mut latencies) = (Rates::new(), Latencies::new());
    for round in 1..=args.rounds.max(1) {
        for device in Device::ALL {
            eprintln!("round {round}/{}: {}", args.rounds.max(1), device.name());
            measure_device(device, args, place, &mut rates, &mut latencies)
                .with_context(|| format!("measuring {}", device.name()))?;
        }
    }
    let report = report(&rates, &latencies, place)?;
    goals::show(&report, args.json, print_table)
}

/// Which processor does what.
#[derive(Clone, Copy, Debug)]
struct Place {
    generator: usize,
    device: usize,
    cpus: usize,
}

impl Place {
    fn choose() -> Result<Self> {
        let cpus = priority::allowed_cpus()?;
        let (Some(&generator), Some(&device)) = (cpus.first(), cpus.last()) else {
            bail!("the kernel allows this process no processor");
        };
        Ok(Self {
            generator,
            device,
            cpus: cpus.len(),
        })
    }
}

fn measure_device(
    device: Device,
    args: &NatArgs,
    place: Place,
    rates: &mut Rates,
    latencies: &mut Latencies,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bed = Testbed::build().context("cannot build the network (root is needed)")?;
    measure::start_echo(&bed)?;
    let _running = device.start(&bed, dir.path())?;
    let limit = Duration::from_secs(10);
    measure::wait_until_forwarding(&bed, limit).with_context(|| {
        let log = std::fs::read_to_string(dir.path().join("node.log")).unwrap_or_default();
        format!("{} does not forward\n{log}", device.name())
    })?;
    bed.device.run(|| {
        napi::receive_on("lan0", place.device)?;
        Ok(())
    })?;
    latencies
        .entry(device)
        .or_default()
        .push(measure::latency(&bed, args.pings)?);
    for &flows in &args.flows {
        let span = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
        let rate = measure::rate(&bed, device, flows.max(1), span, place.generator)?;
        rates.entry((device, flows)).or_default().push(rate);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(rates: &Rates, latencies: &Latencies, place: Place) -> Result<Report> {
    let rows: Vec<Row> = rates
        .iter()
        .map(|(&(device, flows), measured)| {
            let pps = median(measured.iter().map(|r| r.pps).collect());
            let times = &latencies[&device];
            Row {
                device: device.name(),
                flows,
                pps: pps.round(),
                ns_per_packet: (1e10 / pps).round() / 10.0,
                lost: measured.iter().map(|r| r.lost).sum(),
                rtt_p50_us: median(times.iter().map(|l| l.p50_us).collect()),
                rtt_p99_us: median(times.iter().map(|l| l.p99_us).collect()),
            }
        })
        .collect();
    let ratios = ratios(&rows);
    Ok(Report {
        bench: "nat",
        machine: machine(place, 64)?,
        rows,
        ratios,
    })
}

fn machine(place: Place, frame_bytes: u32) -> Result<Machine> {
    Ok(Machine {
        cpus: place.cpus,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        placement: if place.generator == place.device {
            "generator and device on one processor"
        } else {
            "the device's whole work on one processor, the generator on another"
        },
        frame_bytes,
    })
}

/// Ours over each peer's: above 1 is more packets a second, or a longer round trip.
fn ratios(rows: &[Row]) -> BTreeMap<String, f64> {
    let mut ratios = BTreeMap::new();
    let ours: Vec<&Row> = rows
        .iter()
        .filter(|r| r.device == Device::StateplaneSlow.name())
        .collect();
    for mine in ours {
        for peer in rows
            .iter()
            .filter(|r| r.flows == mine.flows && r.device != mine.device)
        {
            let name = peer.device.replace('-', "_");
            let rounded = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
            ratios.insert(
                format!("slow_pps_vs_{name}_{}_flows", mine.flows),
                rounded(mine.pps / peer.pps),
            );
            ratios.insert(
                format!("slow_rtt_p50_vs_{name}"),
                rounded(mine.rtt_p50_us / peer.rtt_p50_us),
            );
            ratios.insert(
                format!("slow_rtt_p99_vs_{name}"),
                rounded(mine.rtt_p99_us / peer.rtt_p99_us),
            );
        }
    }
    ratios
}

fn print_table(report: &Report) {
    let machine = &report.machine;
    say!(
        "NAT, {}-byte frames; {}; {} CPUs, kernel {}\n",
        machine.frame_bytes,
        machine.placement,
        machine.cpus,
        machine.kernel
    );
    let mut table = Table::new();
    table.set_header([
        "device",
        "flows",
        "packets/s",
        "ns/packet",
        "lost",
        "RTT p50 µs",
        "p99 µs",
    ]);
    for row in &report.rows {
        table.add_row([
            row.device.to_owned(),
            row.flows.to_string(),
            format!("{:.0}", row.pps),
            format!("{:.0}", row.ns_per_packet),
            row.lost.to_string(),
            format!("{:.1}", row.rtt_p50_us),
            format!("{:.1}", row.rtt_p99_us),
        ]);
    }
    say!("{table}\n");
    for (name, ratio) in &report.ratios {
        say!("{name:<45} {ratio}");
    }
}
