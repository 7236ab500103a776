//! The NAT on its runtime with a store of its own: any frames, any failures of the store,
//! any pauses. Nothing panics, no parked frame is lost, and a frame that came with right
//! checksums leaves with right checksums.
//!
//! The input is a list of steps, one opcode byte each, see [`step`].
#![no_main]

#[path = "../sums.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod sums;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use stateplane_base::{Incarnation, LogTime, Time};
use stateplane_flow::PortId;
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::procedures::{NatStateConfig, register};
use stateplane_functions::nat::{Nat44, NatConfig, Prefix};
use stateplane_functions::{
    CommitMode, Disposition, Driven, Effect, FrameId, PortConfig, Runtime, RuntimeConfig,
    StateError,
};
use stateplane_state::{Application, Limits, Registry, Store};

const POOL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROOM: usize = 2048;

/// Whether the frame came in with right sums: of the header, and of the rest.
type Came = (bool, Option<bool>);

struct World {
    now: Time,
    runtime: Runtime<Nat44>,
    store: Store,
    parked: BTreeMap<FrameId, (Vec<u8>, Came)>,
    frames: u32,
    /// The last frame sent to the outside, so that answers to it can be tried.
    sent: Vec<u8>,
}

impl World {
    fn new(mode: CommitMode) -> Self {
        let pool = NatStateConfig::new(vec![POOL..=POOL]);
        let mut registry = Registry::builtin();
        register(&mut registry, &pool).expect("a usual configuration");
        let inside = Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 8).expect("a prefix");
        let name = InstanceId::of("gw");
        let config = NatConfig::new(&pool, name, Incarnation(1), vec![inside], 1);
        let port = |address, mtu| PortConfig { address, mtu };
        let ports = [
            port(Ipv4Addr::new(10, 0, 0, 1), 1500),
            port(Ipv4Addr::new(198, 51, 100, 254), 600),
        ];
        let limits = RuntimeConfig {
            mode,
            flows_max: 64,
            decisions_max: 8,
            park_max: 8,
            ..RuntimeConfig::new(ports, [1, 2])
        };
        let now = Time::from_millis(5_000);
        let nat = Nat44::new(config.expect("a usual configuration"));
        Self {
            now,
            runtime: Runtime::new(now, limits, nat),
            store: Store::new(registry, Limits::default()),
            parked: BTreeMap::new(),
            frames: 0,
            sent: Vec::new(),
        }
    }

    fn receive(&mut self, port: PortId, frame: &[u8]) {
        let came = (sums::header_right(frame), sums::transport_right(frame));
        let mut buffer = vec![0; ROOM.max(frame.len())];
        buffer[..frame.len()].copy_from_slice(frame);
        let id = FrameId(self.frames);
        self.frames += 1;
        let len = frame.len();
        let what = self.runtime.on_frame(self.now, port, id, &mut buffer, len);
        self.dispose(id, buffer, came, what);
    }

    fn dispose(&mut self, id: FrameId, mut buffer: Vec<u8>, came: Came, what: Disposition) {
        match what {
            Disposition::Forward { port, len } => {
                buffer.truncate(len);
                assert!(sums::header_right(&buffer), "header checksum");
                if came.1 == Some(true) {
                    assert_ne!(
                        sums::transport_right(&buffer),
                        Some(false),
                        "transport checksum"
                    );
                }
                if port == PortId::OUTSIDE {
                    self.sent = buffer;
                }
            }
            Disposition::Answer { len } => {
                buffer.truncate(len);
                assert!(sums::header_right(&buffer), "header checksum of an answer");
                assert_ne!(
                    sums::transport_right(&buffer),
                    Some(false),
                    "an answer's checksum"
                );
            }
            Disposition::Drop(_) => {}
            Disposition::Parked => {
                assert!(
                    self.parked.insert(id, (buffer, came)).is_none(),
                    "parked twice"
                );
            }
        }
    }

    /// Carries out everything; `reply` says what the store does with operations.
    fn settle(&mut self, reply: Answers) {
        while let Some(effect) = self.runtime.poll_effect() {
            match effect {
                Effect::Submit { ticket, op, .. } => {
                    let mut answer = Vec::new();
                    // The log's clock is another one.
                    let at = LogTime::from_nanos(self.now.as_nanos() + 77_000_000_000);
                    let result = match reply {
                        Answers::Works => {
                            self.store.execute(at, &op, &mut answer);
                            Ok(answer)
                        }
                        Answers::Fails => Err(StateError::Unavailable),
                        Answers::Raves(byte) => {
                            self.store.execute(at, &op, &mut answer);
                            let at = usize::from(byte) * answer.len() / 256;
                            answer.truncate(at);
                            Ok(answer)
                        }
                    };
                    self.runtime.on_reply(self.now, ticket, result);
                }
                Effect::Release { frame, parked } => {
                    let (mut buffer, came) = self.parked.remove(&frame).expect("released once");
                    let what = self.runtime.release(self.now, &parked, &mut buffer);
                    assert_ne!(what, Disposition::Parked, "a released packet does not park");
                    self.dispose(frame, buffer, came, what);
                }
                Effect::Discard { frame, .. } => {
                    self.parked.remove(&frame).expect("discarded once");
                }
                Effect::Offload { .. }
                | Effect::Withdraw { .. }
                | Effect::Publish { .. }
                | Effect::Meter { .. } => {
                    unreachable!("there is no fast path")
                }
            }
        }
        self.runtime.check();
    }

    fn pass_time(&mut self, span: Duration) {
        self.now = self.now + span;
        if self.runtime.next_timer().is_some_and(|due| due <= self.now) {
            self.runtime.on_timer(self.now, &());
        }
    }
}

#[derive(Clone, Copy)]
enum Answers {
    Works,
    Fails,
    Raves(u8),
}

/// Takes `N` bytes; the end of the input gives zeroes.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let n = data.len().min(N);
    out[..n].copy_from_slice(&data[..n]);
    *data = &data[n..];
    out
}

/// An IPv4 frame with a right header checksum around fuzzed fields.
fn frame(data: &mut &[u8], outward: bool) -> Vec<u8> {
    let [protocol, host, ttl, flags, len] = take(data);
    let body = take::<64>(data);
    let len = 8 + usize::from(len) % 57;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let total = u16::try_from(20 + len).expect("short").to_be_bytes();
    frame.extend_from_slice(&[0x45, 0, total[0], total[1], 0, 1, flags & 0x60, 0]);
    frame.extend_from_slice(&[ttl, [6, 17, 1, protocol][usize::from(protocol & 3)], 0, 0]);
    let ends = [[10, 0, 0, host], [203, 0, 113, 9], POOL.octets()];
    let (source, destination) = if outward { (0, 1) } else { (1, 2) };
    frame.extend_from_slice(&ends[source]);
    frame.extend_from_slice(&ends[destination]);
    frame.extend_from_slice(&body[..len]);
    sums::mend_header(&mut frame);
    sums::mend_transport(&mut frame);
    frame
}

/// The last packet sent to the outside comes back with its ends swapped.
fn answer(sent: &[u8]) -> Vec<u8> {
    let mut back = sent.to_vec();
    if sent.len() >= 38 {
        back[26..30].copy_from_slice(&sent[30..34]);
        back[30..34].copy_from_slice(&sent[26..30]);
        if sent[23] != 1 {
            back[34..36].copy_from_slice(&sent[36..38]);
            back[36..38].copy_from_slice(&sent[34..36]);
        } else if sent[34] == 8 {
            back[34] = 0;
            sums::mend_transport(&mut back);
        }
    }
    back
}

/// A port on the way reports that the last packet did not arrive.
fn report(sent: &[u8], code: u8) -> Vec<u8> {
    let quote = sent.get(14..).unwrap_or_default();
    let quote = &quote[..quote.len().min(28 + usize::from(code))];
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let total = u16::try_from(28 + quote.len())
        .expect("short")
        .to_be_bytes();
    frame.extend_from_slice(&[0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 1, 0, 0]);
    frame.extend_from_slice(&[192, 0, 2, 7]);
    frame.extend_from_slice(&POOL.octets());
    frame.extend_from_slice(&[
        [3, 11, 12][usize::from(code % 3)],
        code & 15,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    frame.extend_from_slice(quote);
    sums::mend_header(&mut frame);
    sums::mend_transport(&mut frame);
    frame
}

fn step(world: &mut World, data: &mut &[u8]) {
    let [opcode, argument] = take(data);
    let port = PortId(opcode >> 7);
    match opcode & 7 {
        0 => {
            let n = usize::from(argument).min(data.len());
            let (raw, rest) = data.split_at(n);
            *data = rest;
            let mut raw = raw.to_vec();
            if opcode & 8 != 0 {
                sums::mend_header(&mut raw);
            }
            world.receive(port, &raw);
        }
        1 | 2 => {
            let frame = frame(data, port == PortId::INSIDE);
            world.receive(port, &frame);
        }
        3 => world.receive(PortId::OUTSIDE, &answer(&world.sent.clone())),
        4 => world.receive(PortId::OUTSIDE, &report(&world.sent.clone(), argument)),
        5 => return, // what follows arrives before the store answers
        6 => world.pass_time(Duration::from_millis(u64::from(argument))),
        _ => world.pass_time(Duration::from_secs(u64::from(argument))),
    }
    world.settle(match opcode >> 4 & 7 {
        0 => Answers::Fails,
        1 => Answers::Raves(argument),
        _ => Answers::Works,
    });
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, mut data)) = data.split_first() else {
        return;
    };
    let modes = [
        CommitMode::Strict,
        CommitMode::ReplyBarrier,
        CommitMode::Async,
    ];
    let mut world = World::new(modes[usize::from(mode) % 3]);
    if mode & 0x80 == 0 {
        world.settle(Answers::Works);
    }
    for _ in 0..64 {
        if data.is_empty() {
            break;
        }
        step(&mut world, &mut data);
    }
    // With time everything parked is sent or given up.
    for _ in 0..8 {
        world.pass_time(Duration::from_secs(1));
        world.settle(Answers::Fails);
    }
    assert!(world.parked.is_empty(), "frames are parked for ever");
});
