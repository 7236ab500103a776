//! `bench sequencer`: messages stamped a second, each multicast to three replicas, and the
//! latency that stamping adds.
//!
//! ```text
//!   client c0 ──── lan0 [ sequencer ] d1 ──── r1 replicas
//!                                     d2 ──── r2
//!                                     d3 ──── r3
//! ```
//! Compared are the XDP sequencer, the same without tags, plain multicast by the same device
//! map, and the sequencer's core in user space with the sockets of a node.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use stateplane_base::{Incarnation, LogTime, ReplicaId};
use stateplane_group::{GroupConfig, Message, Peer, Sequencer as Core};
use stateplane_host::bpf::requests::{FRAME, MOST, Requests, Volleys};
use stateplane_host::bpf::sequencer::{Identity, MAX_GROUPS, Mode, Sequencer, Target};
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::ifreq;
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::udp::BatchSocket;
use stateplane_host::{clock, napi, poll, priority};
use stateplane_wire::envelope::Key;
use stateplane_wire::group::{Address, Batch, Body, Request};
use stateplane_wire::oum::{self, Groups, Keys};

use super::{Machine, Place, machine};
use crate::say::say;

const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 1), 7500);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 2), 7501);
const SENDER: u16 = 7;
const REPLICAS: u8 = 3;
/// Where copies are counted: the discard port (RFC 863).
const DISCARD: u16 = 9;
/// Copies under way at most: fewer than any queue on the way has room for.
const WINDOW: u32 = 384;
/// Bytes before a packet: Ethernet, IPv4, UDP.
const HEADERS: usize = 42;

const MAC_HERE: [u8; 6] = [2, 0x53, 0x50, 0xbf, 0, 1];
const MAC_CLIENT: [u8; 6] = [2, 0x53, 0x50, 0xbf, 0, 2];

/// Options of `bench sequencer`.
#[derive(Debug, Args)]
pub(crate) struct SequencerArgs {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each rate measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Messages of each latency measurement, one at a time.
    #[arg(long, default_value_t = 4_000)]
    pings: u32,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What stamps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Device {
    Xdp(Mode),
    UserSpace,
}

impl Device {
    const ALL: [Device; 4] = [
        Device::Xdp(Mode::Authentic),
        Device::Xdp(Mode::Bare),
        Device::Xdp(Mode::Forward),
        Device::UserSpace,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Xdp(Mode::Authentic) => "xdp",
            Self::Xdp(Mode::Bare) => "xdp-bare",
            Self::Xdp(Mode::Forward) => "multicast-only",
            Self::UserSpace => "user-space",
        }
    }
}

/// One device at one place: medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    sequencer: &'static str,
    /// `inline`: on the processor of the generator and the replicas; `own-core`: not.
    placement: &'static str,
    messages_per_s: f64,
    ns_per_message: f64,
    lost: u64,
    /// From the client's sending to a replica's receiving; 0: not measured.
    latency_p50_ns: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: Machine,
    rows: Vec<Row>,
    ratios: BTreeMap<String, f64>,
    /// What stamping adds to the median latency of plain multicast.
    added_latency_p50_ns: i64,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    rate: f64,
    lost: u64,
    latency: Duration,
}

/// Measures and prints.
pub(super) fn run(args: &SequencerArgs) -> Result<()> {
    let place = Place::choose()?;
    let mut found: BTreeMap<(Device, bool), Vec<Measured>> = BTreeMap::new();
    for round in 1..=args.rounds.max(1) {
        for device in Device::ALL {
            for own_core in [false, true] {
                if device == Device::UserSpace && !own_core {
                    continue; // a thread gets no turn while the generator runs
                }
                eprintln!("round {round}/{}: {}", args.rounds.max(1), device.name());
                let measured = measure(device, own_core, args, place)
                    .with_context(|| format!("measuring {}", device.name()))?;
                found.entry((device, own_core)).or_default().push(measured);
            }
        }
    }
    let report = report(&found, place)?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report);
    }
    Ok(())
}

/// The three namespaces. Dropping them removes everything in them.
struct Bed {
    client: Namespace,
    sequencer: Namespace,
    replicas: Namespace,
}

impl Bed {
    fn build() -> io::Result<Self> {
        let bed = Self {
            client: Namespace::create("client")?,
            sequencer: Namespace::create("sequencer")?,
            replicas: Namespace::create("replicas")?,
        };
        let (client, replicas) = (bed.client.try_clone()?, bed.replicas.try_clone()?);
        bed.sequencer.run(move || {
            let netlink = Netlink::open()?;
            netlink.add_veth("lan0", "c0")?;
            netlink.set_mac("lan0", MAC_HERE)?;
            netlink.move_to("c0", client.as_fd())?;
            netlink.add_address("lan0", *HERE.ip(), 24)?;
            for n in 1..=REPLICAS {
                let (near, far) = (format!("d{n}"), format!("r{n}"));
                netlink.add_veth(&near, &far)?;
                netlink.move_to(&far, replicas.as_fd())?;
                netlink.add_address(&near, Ipv4Addr::new(10, 78, n, 1), 24)?;
            }
            Ok(())
        })?;
        bed.client.run(|| up("c0", MAC_CLIENT))?;
        bed.replicas
            .run(|| (1..=REPLICAS).try_for_each(|n| up(&format!("r{n}"), mac(n))))?;
        bed.sequencer.run(|| {
            up("lan0", MAC_HERE)?;
            let netlink = Netlink::open()?;
            (1..=REPLICAS).try_for_each(|n| {
                let near = format!("d{n}");
                netlink.set_up(&near)?;
                ethtool::set_offload(&near, Offload::Gro, true)?;
                netlink.add_neighbour(&near, *replica(n).ip(), mac(n))
            })
        })?;
        Ok(bed)
    }

    fn targets(&self) -> io::Result<Vec<Target>> {
        self.sequencer.run(|| {
            let target = |n| {
                let near = format!("d{n}");
                Ok(Target {
                    address: replica(n),
                    ifindex: ifreq::index(&near)?,
                    from: ifreq::mac(&near)?.0,
                    mac: mac(n),
                })
            };
            (1..=REPLICAS).map(target).collect()
        })
    }
}

fn up(name: &str, mac: [u8; 6]) -> io::Result<()> {
    let netlink = Netlink::open()?;
    netlink.set_mac(name, mac)?;
    netlink.set_up(name)?;
    ethtool::set_offload(name, Offload::TxChecksum, false)?;
    ethtool::set_offload(name, Offload::Gro, true)
}

fn replica(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 78, n, 2), DISCARD)
}

fn mac(n: u8) -> [u8; 6] {
    [2, 0x53, 0x50, 0xbf, 1, n]
}

fn keys() -> Keys {
    Keys::derive(&Key::new([3; 16]), 1)
}

/// Sealed requests of one operation each, with rising counters.
fn frames(first: u64) -> Vec<[u8; FRAME]> {
    let frame = |counter| {
        let mut batch = Batch::default();
        let fits = batch.push(counter, &[0x5a; FRAME - HEADERS - oum::HEADER_LEN - 10]);
        assert!(fits, "one operation fits");
        let request = Request {
            client: oum::client_id(SENDER, Incarnation(1)),
            done_below: counter,
            reply_to: Address::default(),
            batch,
        };
        let mut packet = Vec::new();
        oum::seal_request(&keys(), counter, Groups::one(0), &request, &mut packet);
        let mut frame = [0; FRAME];
        let length = (FRAME - 14) as u16;
        frame[..6].copy_from_slice(&MAC_HERE);
        frame[6..12].copy_from_slice(&MAC_CLIENT);
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[22..24].copy_from_slice(&[64, 17]);
        frame[26..30].copy_from_slice(&CLIENT.ip().octets());
        frame[30..34].copy_from_slice(&HERE.ip().octets());
        let checksum = stateplane_wire::checksum::internet(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame[34..36].copy_from_slice(&CLIENT.port().to_be_bytes());
        frame[36..38].copy_from_slice(&HERE.port().to_be_bytes());
        frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        frame[HEADERS..].copy_from_slice(&packet);
        frame
    };
    (first..first + MOST as u64).map(frame).collect()
}

/// A sequencer that works until it is dropped.
enum Running {
    Xdp(Box<Sequencer>),
    UserSpace { _thread: UserSpace },
}

impl Running {
    /// The same requests may come again.
    fn renew(&mut self) -> Result<()> {
        match self {
            Self::Xdp(sequencer) => sequencer.forget(0).map_err(Into::into),
            Self::UserSpace { .. } => Ok(()), // it is not asked to look for replays
        }
    }
}

fn start(device: Device, bed: &Bed, cpu: usize) -> Result<Running> {
    let Device::Xdp(mode) = device else {
        let _thread = UserSpace::start(bed, cpu)?;
        return Ok(Running::UserSpace { _thread });
    };
    let targets = bed.targets()?;
    let sequencer = bed.sequencer.run(move || {
        let me = Identity {
            address: HERE,
            number: 0,
            keys: keys(),
        };
        let begin = || {
            let mut sequencer = Sequencer::load(&me, &[(SENDER, CLIENT)], mode)?;
            sequencer.set_targets(&targets)?;
            sequencer.begin(1, 1, LogTime::ZERO, &[0; MAX_GROUPS])?;
            sequencer.attach("lan0")?;
            Ok(sequencer)
        };
        begin().map_err(|error: stateplane_host::bpf::BpfError| io::Error::other(error))
    })?;
    Ok(Running::Xdp(Box::new(sequencer)))
}

/// The sequencer's core with the sockets of a node, on a thread.
struct UserSpace {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<io::Result<()>>>>,
}

impl UserSpace {
    fn start(bed: &Bed, cpu: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = bed
            .sequencer
            .spawn_thread("sequencer", move || stamp_until(&flag, cpu))?;
        let thread = Some(thread);
        Ok(Self { stop, thread })
    }
}

impl Drop for UserSpace {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn granted() -> Core {
    let mut core = Core::new(GroupConfig::new(REPLICAS), 0, 0);
    let body = Body::SessionGrant {
        session: 1,
        nonce: 0,
        time: LogTime::ZERO,
        runs: true,
    };
    let grant = Message { formation: 1, body };
    core.on_message(clock::now(), Peer::Replica(ReplicaId(0)), grant);
    core
}

fn stamp_until(stop: &AtomicBool, cpu: usize) -> io::Result<()> {
    priority::pin_to(cpu)?;
    let (mut core, keys) = (granted(), keys());
    let mut socket = BatchSocket::bind(SocketAddr::V4(HERE))?;
    let replicas: Vec<SocketAddr> = (1..=REPLICAS).map(|n| replica(n).into()).collect();
    let reply_to = Address {
        ip: CLIENT.ip().to_ipv6_mapped().octets(),
        port: CLIENT.port(),
    };
    let (mut stamped, mut ends) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        poll::wait(&[socket.as_fd()], Some(Duration::from_millis(20)))?;
        let now = clock::now();
        socket.receive(32, |_, packet| {
            let Ok(ask) = oum::open_request(&keys, packet) else {
                return;
            };
            if let Some(stamp) = core.stamp(now, LogTime::ZERO, &ask.groups) {
                oum::stamp(&keys, &stamp, reply_to, packet);
                stamped.extend_from_slice(packet);
                ends.push(stamped.len());
            }
        })?;
        let mut start = 0;
        for end in ends.drain(..) {
            let packet = &stamped[start..end];
            socket.compose(&replicas, |out| out.extend_from_slice(packet));
            start = end;
        }
        stamped.clear();
        socket.flush();
    }
    Ok(())
}

fn measure(device: Device, own_core: bool, args: &SequencerArgs, place: Place) -> Result<Measured> {
    let bed = Bed::build().context("cannot build the network (root is needed)")?;
    let mut running = start(device, &bed, place.device)?;
    let mut requests = bed.client.run(|| {
        let volley = Volleys {
            frames: frames(1),
            copies: u32::from(REPLICAS),
            window: WINDOW,
            ifindex: ifreq::index("c0")?,
        };
        Requests::new(volley).map_err(io::Error::other)
    })?;
    for n in 1..=REPLICAS {
        let name = format!("r{n}");
        bed.replicas
            .run(|| requests.attach_sink(&name).map_err(io::Error::other))?;
    }
    if own_core {
        bed.sequencer
            .run(move || napi::receive_on("lan0", place.device))?;
    }
    let (span, pings) = (Duration::from_secs_f64(args.seconds), args.pings);
    let client = bed.client.try_clone()?;
    let thread = client.spawn_thread("generator", move || {
        priority::pin_to(place.generator)?;
        let measured = drive(&mut requests, &mut running, span, pings, !own_core);
        measured.map_err(|error| io::Error::other(format!("{error:#}")))
    })?;
    let measured = thread.join().expect("the generator does not panic");
    Ok(measured??)
}

fn drive(
    requests: &mut Requests,
    running: &mut Running,
    span: Duration,
    pings: u32,
    timed: bool,
) -> Result<Measured> {
    let (warm, end) = (Instant::now() + span / 4, Instant::now() + span + span / 4);
    let (mut took, mut sent, mut arrived) = (Duration::ZERO, 0, 0);
    while Instant::now() < end {
        let (s, a, t) = volley(requests, running)?;
        if Instant::now() > warm {
            (sent, arrived, took) = (sent + s, arrived + a, took + t);
        }
    }
    let mut latency = Duration::ZERO;
    if timed {
        running.renew()?;
        requests.begin(true)?;
        for _ in 0..pings.min(MOST as u32) {
            requests.run(1, 1)?;
        }
        latency = requests.median()?;
    }
    let whole = arrived as f64 / f64::from(REPLICAS);
    Ok(Measured {
        rate: whole / took.as_secs_f64(),
        lost: (sent * u64::from(REPLICAS)).saturating_sub(arrived),
        latency,
    })
}

/// Every request once: how many were sent, how many copies arrived, and in what time.
fn volley(requests: &mut Requests, running: &mut Running) -> Result<(u64, u64, Duration)> {
    const RUNS: u32 = 1024;
    running.renew()?;
    requests.begin(false)?;
    let (sent, counted) = (requests.sent()?, requests.counted()?);
    let (mut took, until) = (Duration::ZERO, Instant::now() + Duration::from_secs(1));
    while requests.sent()? - sent < MOST as u64 && Instant::now() < until {
        took += requests.run(RUNS, u32::MAX)?;
    }
    std::thread::sleep(Duration::from_millis(2)); // what is under way arrives
    Ok((requests.sent()? - sent, requests.counted()? - counted, took))
}

fn median<T: Copy + PartialOrd>(values: &[Measured], by: impl Fn(&Measured) -> T) -> T {
    let mut all: Vec<T> = values.iter().map(by).collect();
    all.sort_by(|a, b| a.partial_cmp(b).expect("measured"));
    all[all.len() / 2]
}

fn report(found: &BTreeMap<(Device, bool), Vec<Measured>>, place: Place) -> Result<Report> {
    let rows: Vec<Row> = found
        .iter()
        .map(|((device, own_core), values)| {
            let rate = median(values, |m| m.rate);
            Row {
                sequencer: device.name(),
                placement: if *own_core { "own-core" } else { "inline" },
                messages_per_s: rate.round(),
                ns_per_message: (1e9 / rate).round(),
                lost: median(values, |m| m.lost),
                latency_p50_ns: median(values, |m| m.latency).as_nanos() as u64,
            }
        })
        .collect();
    let row = |name, placement| {
        let mut rows = rows.iter();
        rows.find(|r| r.sequencer == name && r.placement == placement)
            .context("every device was measured")
    };
    let mut ratios = BTreeMap::new();
    for (name, mine, peer) in [
        (
            "xdp_vs_bare_inline",
            ("xdp", "inline"),
            ("xdp-bare", "inline"),
        ),
        (
            "xdp_vs_multicast_only_inline",
            ("xdp", "inline"),
            ("multicast-only", "inline"),
        ),
        (
            "xdp_vs_user_space_own_core",
            ("xdp", "own-core"),
            ("user-space", "own-core"),
        ),
    ] {
        let (mine, peer) = (row(mine.0, mine.1)?, row(peer.0, peer.1)?);
        let ratio = mine.messages_per_s / peer.messages_per_s;
        ratios.insert(name.to_owned(), (ratio * 1000.0).round() / 1000.0);
    }
    let stamped = row("xdp", "inline")?.latency_p50_ns as i64;
    let added = stamped - row("multicast-only", "inline")?.latency_p50_ns as i64;
    Ok(Report {
        bench: "sequencer",
        machine: machine(place, FRAME as u32)?,
        rows,
        ratios,
        added_latency_p50_ns: added,
    })
}

fn print_table(report: &Report) {
    say!("Ordered multicast to {REPLICAS} replicas, {FRAME}-byte frames\n");
    let mut table = Table::new();
    table.set_header([
        "sequencer",
        "placement",
        "messages/s",
        "ns each",
        "lost",
        "latency p50 ns",
    ]);
    for row in &report.rows {
        table.add_row([
            row.sequencer.to_owned(),
            row.placement.to_owned(),
            row.messages_per_s.to_string(),
            row.ns_per_message.to_string(),
            row.lost.to_string(),
            row.latency_p50_ns.to_string(),
        ]);
    }
    say!("{table}\n");
    for (name, ratio) in &report.ratios {
        say!("{name:<45} {ratio}");
    }
    say!(
        "{:<45} {}",
        "added latency, ns (median)",
        report.added_latency_p50_ns
    );
}
