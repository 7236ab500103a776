//! One device, one size of frames, one placement: how many messages a second, how many lost,
//! how long one takes.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stateplane_base::LogTime;
use stateplane_host::bpf::BpfError;
use stateplane_host::bpf::requests::{MOST, Requests, Volleys};
use stateplane_host::bpf::sequencer::{Grant, Identity, MAX_GROUPS, Mode, Sequencer};
use stateplane_host::ifreq;
use stateplane_host::{napi, priority};

use super::bed::{Bed, HERE, REPLICAS, SENDER, frames, keys};
use super::user_space::UserSpace;
use super::{Case, Device};
use crate::bench::Place;

/// Copies under way at most: fewer than any queue on the way has room for.
const WINDOW: u32 = 384;
/// Messages of a latency measurement, one at a time.
const PINGS: u32 = 4_000;

/// What a measurement found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Messages a second.
    pub(super) rate: f64,
    /// Copies that did not arrive.
    pub(super) lost: u64,
    /// How often of all times the generator had to wait for the window.
    pub(super) waited: f64,
    /// The median of the time from the client's sending to a replica's receiving.
    pub(super) latency: Duration,
}

/// What works until it is dropped.
enum Running {
    Nothing,
    Xdp(Box<Sequencer>),
    UserSpace { _thread: UserSpace },
}

impl Running {
    fn start(device: Device, bed: &Bed, cpu: usize) -> Result<Self> {
        let mode = match device {
            Device::Generator => return Ok(Self::Nothing),
            Device::UserSpace => {
                let _thread = UserSpace::start(bed, cpu)?;
                return Ok(Self::UserSpace { _thread });
            }
            Device::Xdp(mode) => mode,
        };
        let targets = bed.targets()?;
        let sequencer = bed.sequencer.run(move || {
            let me = Identity {
                address: HERE,
                number: 0,
                keys: keys(),
            };
            let begin = || {
                let mut sequencer = Sequencer::load(&me, &[SENDER], mode)?;
                sequencer.set_targets(&targets)?;
                sequencer.begin(&Grant {
                    formation: 1,
                    session: 1,
                    ahead_ns: 0,
                    not_before: LogTime::ZERO,
                    last: &[0; MAX_GROUPS],
                })?;
                sequencer.attach("lan0")?;
                Ok(sequencer)
            };
            begin().map_err(|error: BpfError| io::Error::other(error))
        })?;
        Ok(Self::Xdp(Box::new(sequencer)))
    }

    /// The same requests may come again.
    fn renew(&mut self) -> Result<()> {
        match self {
            Self::Xdp(sequencer) => sequencer.forget(0).map_err(Into::into),
            // It is not asked to look for replays.
            Self::UserSpace { .. } | Self::Nothing => Ok(()),
        }
    }
}

/// Measures for about `span`.
pub(super) fn measure(case: Case, span: Duration, place: Place) -> Result<Measured> {
    let bed = Bed::build().context("cannot build the network (root is needed)")?;
    let mut running = Running::start(case.device, &bed, place.device)?;
    let mut requests = prepare(case, &bed)?;
    if case.own_core {
        bed.sequencer
            .run(move || napi::receive_on("lan0", place.device))?;
    }
    let client = bed.client.try_clone()?;
    let thread = client.spawn_thread("generator", move || {
        priority::pin_to(place.generator)?;
        let measured = drive(&mut requests, &mut running, span, case);
        measured.map_err(|error| io::Error::other(format!("{error:#}")))
    })?;
    let measured = thread.join().expect("the generator does not panic");
    Ok(measured??)
}

fn prepare(case: Case, bed: &Bed) -> Result<Requests> {
    let for_sinks = matches!(case.device, Device::Generator | Device::Xdp(Mode::Limit));
    let mut requests = bed.client.run(|| {
        let volley = Volleys {
            frames: frames(case.size, for_sinks),
            copies: u32::from(REPLICAS),
            window: WINDOW,
            ifindex: ifreq::index("c0")?,
        };
        Requests::new(volley).map_err(io::Error::other)
    })?;
    if case.device == Device::Generator {
        bed.sequencer
            .run(|| requests.attach_instead("lan0").map_err(io::Error::other))?;
        return Ok(requests);
    }
    for n in 1..=REPLICAS {
        let name = format!("r{n}");
        bed.replicas
            .run(|| requests.attach_sink(&name).map_err(io::Error::other))?;
    }
    Ok(requests)
}

fn drive(
    requests: &mut Requests,
    running: &mut Running,
    span: Duration,
    case: Case,
) -> Result<Measured> {
    let (warm, end) = (Instant::now() + span / 4, Instant::now() + span + span / 4);
    let mut sum = Volley::default();
    while Instant::now() < end {
        let volley = Volley::fire(requests, running)?;
        if Instant::now() > warm {
            sum.add(&volley);
        }
    }
    let mut latency = Duration::ZERO;
    if case.is_timed() {
        running.renew()?;
        requests.begin(true)?;
        for _ in 0..PINGS {
            requests.run(1, 1)?;
        }
        latency = requests.median()?;
    }
    let copies = if case.device == Device::Generator {
        1
    } else {
        u64::from(REPLICAS)
    };
    Ok(Measured {
        rate: sum.arrived as f64 / copies as f64 / sum.took.as_secs_f64(),
        lost: (sum.sent * copies).saturating_sub(sum.arrived),
        waited: sum.full as f64 / (sum.full + sum.sent).max(1) as f64,
        latency,
    })
}

/// Every request once.
#[derive(Clone, Copy, Default, Debug)]
struct Volley {
    sent: u64,
    /// Copies.
    arrived: u64,
    /// Runs of the generator that found the window full.
    full: u64,
    took: Duration,
}

impl Volley {
    fn fire(requests: &mut Requests, running: &mut Running) -> Result<Self> {
        const RUNS: u32 = 1024;
        running.renew()?;
        requests.begin(false)?;
        let (sent, counted, full) = (requests.sent()?, requests.counted()?, requests.full()?);
        let (mut took, until) = (Duration::ZERO, Instant::now() + Duration::from_secs(1));
        while requests.sent()? - sent < MOST as u64 && Instant::now() < until {
            took += requests.run(RUNS, u32::MAX)?;
        }
        std::thread::sleep(Duration::from_millis(2)); // what is under way arrives
        Ok(Self {
            sent: requests.sent()? - sent,
            arrived: requests.counted()? - counted,
            full: requests.full()? - full,
            took,
        })
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.arrived += other.arrived;
        self.full += other.full;
        self.took += other.took;
    }
}
