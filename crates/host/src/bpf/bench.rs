//! `xdp/bench_flows.c`: the two ends of the packet benchmarks.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapError, XskMap};
use stateplane_base::Time;
use stateplane_wire::checksum::Sum;

use super::generator::{self, Generator};
use super::{Attachment, BpfError, attach, load, map_error, map_mut, object, verify};
use crate::clock;
use crate::port::Port;
use crate::xsk::XskPort;

/// The first source port of every host.
pub const PORT_FIRST: u16 = 10_000;
/// Frames the kernel makes at once.
const BATCH: u32 = 64;
/// Bytes of Ethernet, IPv4 (without options) and UDP headers.
const HEADERS: usize = 42;
/// Bytes of payload that timed frames carry the time in.
const STAMP: usize = 8;
/// Processors that count, at most.
const CPUS: u32 = 256;
/// Times kept, at most; as in the C file.
const SAMPLES: u32 = 65536;
const SETTINGS: usize = 144;
/// What frames carry, besides the time: as in the C file.
const STAMP_FLOW: u32 = 2;

/// Where the settings keep what, as `struct config` lays it out.
mod at {
    pub(super) const FLOWS: usize = 0;
    pub(super) const WINDOW: usize = 4;
    pub(super) const LOST: usize = 8;
    pub(super) const HEADERS: usize = 16;
    pub(super) const HOSTS_MASK: usize = 60;
    pub(super) const HOSTS_BITS: usize = 64;
    pub(super) const IP_SUM: usize = 68;
    pub(super) const UDP_SUM: usize = 72;
    pub(super) const PAYLOAD_SUM: usize = 76;
    pub(super) const STAMP: usize = 80;
    pub(super) const CPUS: usize = 84;
    pub(super) const SOURCE: usize = 88;
    pub(super) const SOURCE_MASK: usize = 92;
    pub(super) const DESTINATION: usize = 96;
    pub(super) const MAC: usize = 100;
    pub(super) const STEP: usize = 108;
    pub(super) const BEGUN: usize = 112;
    pub(super) const BASE: usize = 120;
    pub(super) const RATE: usize = 128;
    pub(super) const LATE: usize = 132;
    pub(super) const MOST: usize = 136;
}

/// Where a frame keeps what.
mod frame {
    pub(super) const IP: usize = 14;
    pub(super) const SOURCE: usize = 26;
    pub(super) const DESTINATION: usize = 30;
    pub(super) const UDP: usize = 34;
    pub(super) const UDP_LENGTH: usize = 38;
    pub(super) const PROTOCOL: u8 = 17;
}

/// What the generator sends, and what must arrive of it.
#[derive(Clone, Debug)]
pub struct Load {
    /// Ethernet, IPv4 without options, UDP to the discard port, and 8 bytes of payload at
    /// least. Addresses, port and checksums are filled in.
    pub frame: Vec<u8>,
    /// Flows that take turns, less than half of the numbers there are.
    pub flows: u32,
    /// Addresses that they are spread over, beginning with the frame's source: a power of
    /// two, to which that address is aligned. Each sends from ports from 10000 on.
    pub hosts: u32,
    /// Frames under way at most.
    pub window: u32,
    /// The interface to send by, in the network namespace of the calling thread.
    pub ifindex: u32,
    /// What the device makes of it.
    pub expected: Expected,
}

/// What a frame must be when it arrives, besides that its checksums are right.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The first of the source addresses.
    pub source: Ipv4Addr,
    /// Bits that all of them have in common.
    pub source_prefix: u8,
    /// The destination.
    pub destination: Ipv4Addr,
    /// The station it is addressed to.
    pub mac: [u8; 6],
}

/// Frames at the sink.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Arrived {
    /// Those that are as expected.
    pub right: u64,
    /// Those that are not.
    pub wrong: u64,
}

/// What arrived of one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// Frames as expected.
    pub frames: u64,
    /// When the last one came.
    pub last: Time,
    /// The longest time between two of them, less what the generator was kept from running.
    pub silence: Duration,
    /// From where the first one came.
    pub source: SocketAddrV4,
    /// How many came from elsewhere, up to 65535.
    pub strays: u16,
}

/// What arrived of all flows together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause {
    /// When the last frame came.
    pub last: Time,
    /// The longest time between two, less what the generator was kept from running meanwhile.
    pub silence: Duration,
    /// The longest time between two.
    pub whole: Duration,
}

/// A generator of UDP frames, and the sink that checks, counts and drops those that arrive
/// at the discard port of another interface.
#[derive(Debug)]
pub struct Range {
    generator: Generator,
    settings: [u8; SETTINGS],
    flows: u32,
    /// What the window no longer waits for.
    lost: u64,
}

impl Range {
    /// Prepares the generator; call it where `load.ifindex` lives.
    pub fn new(load: Load) -> Result<Self, BpfError> {
        let settings = settings(&load)?;
        let range = generator::Range {
            object: ("bench_flows", object!("bench_flows")),
            program: "flows_generate",
            out: "flows_out",
            entries: vec![("flows_heard", load.flows.max(1))],
        };
        let flows = load.flows.max(1);
        let generator = Generator::new(&range, load.frame, load.ifindex)?;
        let mut range = Self {
            generator,
            settings,
            flows,
            lost: 0,
        };
        range.configure()?;
        Ok(range)
    }

    /// Attaches the sink; call it where `interface` lives.
    pub fn attach_sink(&mut self, interface: &str) -> Result<(), BpfError> {
        self.generator.attach_sink("flows_count", interface)
    }

    /// Runs the generator `runs` times on the calling thread's processor. Runs that find
    /// the window full send nothing. How long it took, without the kernel's preparations.
    pub fn run(&self, runs: u32) -> Result<Duration, BpfError> {
        self.generator.run(runs, BATCH)
    }

    /// Frames sent so far.
    pub fn sent(&self) -> Result<u64, BpfError> {
        let name = "flows_sent";
        let sent: [u64; 8] = self
            .generator
            .array(name)?
            .get(&0, 0)
            .map_err(map_error(name))?;
        Ok(sent[0])
    }

    /// Frames that arrived at the sink so far.
    pub fn arrived(&self) -> Result<Arrived, BpfError> {
        let name = "flows_arrived";
        let lines: Array<_, [u64; 8]> = self.generator.array(name)?;
        let mut sum = Arrived::default();
        for cpu in 0..cpus() {
            let line = lines.get(&cpu, 0).map_err(map_error(name))?;
            sum.right += line[0];
            sum.wrong += line[1];
        }
        Ok(sum)
    }

    /// Frames under way are given up: the window is empty again. How many there were.
    pub fn give_up(&mut self) -> Result<u64, BpfError> {
        let gone = self.sent()?.saturating_sub(self.arrived()?.right);
        let given_up = gone.saturating_sub(self.lost);
        self.lost = gone;
        put(&mut self.settings, at::LOST, gone.to_ne_bytes());
        self.configure()?;
        Ok(given_up)
    }

    /// Frames that were given up so far, though they may arrive yet.
    pub fn given_up(&self) -> u64 {
        self.lost
    }

    /// How many frames may be under way from now on.
    pub fn set_window(&mut self, window: u32) -> Result<(), BpfError> {
        put(&mut self.settings, at::WINDOW, window.to_ne_bytes());
        self.configure()
    }

    /// How many frames are sent at most, all in all: runs beyond them send nothing.
    pub fn set_most(&mut self, most: u64) -> Result<(), BpfError> {
        put(&mut self.settings, at::MOST, most.to_ne_bytes());
        self.configure()
    }

    /// Whether frames carry the time they were sent at from now on; forgets earlier times.
    pub fn set_timed(&mut self, timed: bool) -> Result<(), BpfError> {
        put(
            &mut self.settings,
            at::STAMP,
            u32::from(timed).to_ne_bytes(),
        );
        self.configure()?;
        map_mut!(self.generator.ebpf, "flows_times", Array<_, u32>)?
            .set(0, 0, 0)
            .map_err(map_error::<MapError>("flows_times"))
    }

    /// How long timed frames took, in nanoseconds, as far as there was room.
    pub fn times(&self) -> Result<Vec<u32>, BpfError> {
        let name = "flows_times";
        let times: Array<_, u32> = self.generator.array(name)?;
        let get = |place: u32| times.get(&place, 0).map_err(map_error(name));
        let number = get(0)?.min(SAMPLES);
        (1..=number).map(get).collect()
    }

    /// Frames carry their flow's number from now on, and the sink notes what comes of each.
    pub fn set_numbered(&mut self) -> Result<(), BpfError> {
        put(&mut self.settings, at::STAMP, STAMP_FLOW.to_ne_bytes());
        self.configure()
    }

    /// From now on frames go when they are due at this rate, and a window that is full for `late`
    /// is taken for lost. Runs that find nothing due send nothing: the rate does not depend on how
    /// often the generator runs, if it runs all the time.
    pub fn set_rate(&mut self, rate: u32, late: Duration) -> Result<(), BpfError> {
        let late = u32::try_from(late.as_nanos()).unwrap_or(u32::MAX);
        let (begun, base) = (clock::now().as_nanos(), self.sent()?);
        put(&mut self.settings, at::BEGUN, begun.to_ne_bytes());
        put(&mut self.settings, at::BASE, base.to_ne_bytes());
        put(&mut self.settings, at::RATE, rate.to_ne_bytes());
        put(&mut self.settings, at::LATE, late.to_ne_bytes());
        self.configure()
    }

    /// Of all numbered frames since the last [`Self::forget_silence`].
    pub fn pause(&self) -> Result<Pause, BpfError> {
        let name = "flows_pause";
        let [last, silence, whole, _] = self
            .generator
            .array::<[u64; 4]>(name)?
            .get(&0, 0)
            .map_err(map_error(name))?;
        Ok(Pause {
            last: Time::from_nanos(last),
            silence: Duration::from_nanos(silence),
            whole: Duration::from_nanos(whole),
        })
    }

    /// What came of each flow since its frames are numbered.
    pub fn heard(&self) -> Result<Vec<Heard>, BpfError> {
        let name = "flows_heard";
        let heard: Array<_, [u64; 5]> = self.generator.array(name)?;
        let get = |flow: u32| {
            let [frames, last, silence, source, _] =
                heard.get(&flow, 0).map_err(map_error(name))?;
            let address = Ipv4Addr::from(u32::from_be(source as u32));
            let port = u16::from_be((source >> 32) as u16);
            Ok(Heard {
                frames,
                last: Time::from_nanos(last),
                silence: Duration::from_nanos(silence),
                source: SocketAddrV4::new(address, port),
                strays: (source >> 48) as u16,
            })
        };
        (0..self.flows).map(get).collect()
    }

    /// Times between frames count from now on; from where they come is remembered. Nothing may be
    /// under way.
    pub fn forget_silence(&mut self) -> Result<(), BpfError> {
        let name = "flows_pause";
        map_mut!(self.generator.ebpf, name, Array<_, [u64; 4]>)?
            .set(0, [0; 4], 0)
            .map_err(map_error(name))?;
        let name = "flows_heard";
        let mut heard = map_mut!(self.generator.ebpf, name, Array<_, [u64; 5]>)?;
        for flow in 0..self.flows {
            let [frames, _, _, source, _] = heard.get(&flow, 0).map_err(map_error(name))?;
            let fresh = [frames, 0, 0, source, 0];
            heard.set(flow, fresh, 0).map_err(map_error(name))?;
        }
        Ok(())
    }

    fn configure(&mut self) -> Result<(), BpfError> {
        map_mut!(self.generator.ebpf, "flows_settings", Array<_, [u8; SETTINGS]>)?
            .set(0, self.settings, 0)
            .map_err(map_error::<MapError>("flows_settings"))
    }
}

/// Hands everything an interface receives to its AF_XDP sockets.
#[derive(Debug)]
pub struct ToSockets {
    _ebpf: Ebpf,
    _attachment: Attachment,
}

impl ToSockets {
    /// Attaches the program to `port`'s interface.
    pub fn attach(port: &XskPort) -> Result<Self, BpfError> {
        let mut ebpf = load("bench_flows", object!("bench_flows"))?;
        let mut sockets = map_mut!(ebpf, "flows_sockets", XskMap<_>)?;
        for (queue, socket) in port.sockets() {
            sockets
                .set(queue, socket.as_raw_fd(), 0)
                .map_err(map_error::<MapError>("flows_sockets"))?;
        }
        let attachment = attach(verify(&mut ebpf, "flows_to_sockets")?, port.name())?;
        Ok(Self {
            _ebpf: ebpf,
            _attachment: attachment,
        })
    }
}

/// Processors there may be.
fn cpus() -> u32 {
    aya::util::nr_cpus().map_or(CPUS, |count| (count as u32).min(CPUS))
}

fn put<const N: usize>(settings: &mut [u8; SETTINGS], at: usize, bytes: [u8; N]) {
    settings[at..at + N].copy_from_slice(&bytes);
}

fn settings(load: &Load) -> Result<[u8; SETTINGS], BpfError> {
    let frame = &load.frame;
    if frame.len() < HEADERS + STAMP {
        let text = format!("a frame of {} bytes has no room for a time", frame.len());
        return Err(BpfError::TooMany(text));
    }
    let source = address(frame, frame::SOURCE).to_bits();
    if !load.hosts.is_power_of_two() || !source.is_multiple_of(load.hosts) || load.hosts > 1 << 16 {
        let text = format!("{} hosts from {}", load.hosts, Ipv4Addr::from(source));
        return Err(BpfError::TooMany(text));
    }
    let mut settings = [0; SETTINGS];
    let mut word = |at, value: u32| put(&mut settings, at, value.to_ne_bytes());
    word(at::FLOWS, load.flows.max(1));
    word(at::STEP, step(load.flows.max(1)));
    word(at::WINDOW, load.window);
    word(at::HOSTS_MASK, load.hosts - 1);
    word(at::HOSTS_BITS, load.hosts.ilog2());
    word(at::CPUS, cpus());
    let (ip, udp, payload) = sums(frame);
    word(at::IP_SUM, native(ip));
    word(at::UDP_SUM, native(udp));
    word(at::PAYLOAD_SUM, native(payload));
    let expected = &load.expected;
    let mask = u32::MAX
        .checked_shl(32 - u32::from(expected.source_prefix.min(32)))
        .unwrap_or(0);
    word(at::SOURCE, (expected.source.to_bits() & mask).to_be());
    word(at::SOURCE_MASK, mask.to_be());
    word(at::DESTINATION, expected.destination.to_bits().to_be());
    put(&mut settings, at::MAC, expected.mac);
    put(&mut settings, at::MOST, u64::MAX.to_ne_bytes());
    settings[at::HEADERS..at::HEADERS + HEADERS].copy_from_slice(&frame[..HEADERS]);
    Ok(settings)
}

/// From one flow to the next, so that all are visited: about the golden ratio of them.
fn step(flows: u32) -> u32 {
    let is_coprime = |step: &u32| {
        let (mut a, mut b) = (*step, flows);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let start = (f64::from(flows) * 0.618) as u32;
    (start..flows).find(is_coprime).unwrap_or(1)
}

/// Sums over what all frames have alike: the IPv4 header without checksum and the lower half
/// of the source address; the UDP checksum's words without that half, the source port, the
/// checksum and the time; the payload without the time.
fn sums(frame: &[u8]) -> (Sum, Sum, Sum) {
    let (source, destination) = (
        address(frame, frame::SOURCE),
        address(frame, frame::DESTINATION),
    );
    let upper = (source.to_bits() >> 16) as u16;
    let ip = Sum::default()
        .bytes(&frame[frame::IP..frame::IP + 10])
        .word(upper)
        .field(destination.to_bits());
    let payload = Sum::default().bytes(&frame[HEADERS + STAMP..]);
    let length = u16::from_be_bytes([frame[frame::UDP_LENGTH], frame[frame::UDP_LENGTH + 1]]);
    let only_upper = Ipv4Addr::from(u32::from(upper) << 16);
    let udp = payload
        .pseudo(only_upper, destination, frame::PROTOCOL, length)
        .bytes(&frame[frame::UDP + 2..frame::UDP + 6]);
    (ip, udp, payload)
}

/// A folded sum as the program adds words up: as they lie in memory.
fn native(sum: Sum) -> u32 {
    u32::from(sum.fold().to_be())
}

fn address(frame: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3])
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn all_flows_have_their_turn() {
        for flows in [1, 2, 3, 4, 10, 4000, 10_000] {
            let (step, mut seen) = (step(flows), vec![false; flows as usize]);
            let mut flow = 0;
            for _ in 0..flows {
                assert!(!seen[flow as usize], "{flows} flows, {flow} twice");
                seen[flow as usize] = true;
                let next = flow + step;
                flow = if next < flows { next } else { next - flows };
            }
        }
    }
}
