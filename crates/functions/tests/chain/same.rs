//! A chain does to packets what its functions do one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use stateplane_base::Reason;
use stateplane_flow::PortId;
use stateplane_functions::Driven;
use stateplane_wire::checksum;

use crate::common::{IN, OUT, Out, POOL, echo, icmp_error, tcp, udp, verify};
use crate::world::{Apart, Chained, FREE, Line, meter, nat};

const HOSTS: [[u8; 4]; 3] = [FREE, [10, 0, 0, 6], [10, 0, 2, 7]];
const SERVERS: [[u8; 4]; 2] = [[203, 0, 113, 9], [203, 0, 113, 10]];
const ROUTER: [u8; 4] = [203, 0, 113, 200];
const INNER_ROUTER: [u8; 4] = [10, 0, 9, 9];

/// What arrives, and what was seen of it.
struct Traffic {
    rng: Rng,
    /// Frames that left to the outside, and that arrived inside.
    out: Vec<Vec<u8>>,
    back: Vec<Vec<u8>>,
    /// Kinds of outcomes that happened.
    happened: BTreeSet<String>,
}

impl Traffic {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            out: Vec::new(),
            back: Vec::new(),
            happened: BTreeSet::new(),
        }
    }

    fn between(&mut self, from: ([u8; 4], u16), to: ([u8; 4], u16), request: bool) -> Vec<u8> {
        let big = if self.rng.u8(..30) == 0 { 1460 } else { 9 };
        let payload = vec![7; self.rng.usize(..big)];
        let flags = ["S", "A", "A", "FA", "R"][self.rng.usize(..5)];
        match self.rng.u8(..5) {
            0 | 1 => tcp(from, to, flags, &payload),
            2 if from.0 != POOL.octets() => {
                let id = if request { from.1 } else { to.1 };
                echo(from.0, to.0, request, id, &payload)
            }
            _ => udp(from, to, &payload),
        }
    }

    fn known(&mut self) -> ([u8; 4], u16) {
        match self.rng.choice(&self.out) {
            Some(frame) if frame[23] != 1 => crate::common::ends(frame).0,
            _ => (POOL.octets(), self.rng.u16(1024..)),
        }
    }

    /// What comes next, and from where.
    fn next(&mut self) -> (PortId, Vec<u8>) {
        let rng = &mut self.rng;
        let host = (HOSTS[rng.usize(..3)], rng.u16(5000..5003));
        let server = (SERVERS[rng.usize(..2)], 53);
        let (port, mut frame) = match rng.u8(..20) {
            0..9 => (IN, self.between(host, server, true)),
            9..15 => {
                let to = self.known();
                (OUT, self.between(server, to, false))
            }
            // Round at the NAT.
            15 => {
                let to = self.known();
                (IN, udp(host, to, b"neighbour"))
            }
            // About what a host was sent, by it or a router before it.
            16 if !self.back.is_empty() => {
                let about = self.rng.choice(&self.back).expect("some").clone();
                let to: [u8; 4] = about[26..30].try_into().expect("four");
                let host: [u8; 4] = about[30..34].try_into().expect("four");
                let from = if self.rng.bool() { host } else { INNER_ROUTER };
                (IN, icmp_error(from, to, (3, 3), &about, 28))
            }
            // About what left.
            17 if !self.out.is_empty() => {
                let about = self.rng.choice(&self.out).expect("some").clone();
                let to: [u8; 4] = about[26..30].try_into().expect("four");
                (OUT, icmp_error(ROUTER, to, (11, 0), &about, 28))
            }
            18 => {
                let stranger = ([192, 168, 0, self.rng.u8(..)], 7);
                (IN, self.between(stranger, server, true))
            }
            _ => (OUT, udp(server, (HOSTS[0], 5000), b"not translated")),
        };
        if self.rng.u8(..8) == 0 {
            frame = with_ttl(frame, self.rng.u8(..4));
        }
        (port, frame)
    }

    fn note(&mut self, came: PortId, outcome: &[Out]) {
        for out in outcome {
            match out {
                Out::Sent(OUT, frame) if frame[23] != 1 || frame[34] == 8 => {
                    self.out.push(frame.clone());
                }
                Out::Sent(IN, frame) if frame[23] != 1 || frame[34] == 0 => {
                    self.back.push(frame.clone());
                }
                _ => {}
            }
            let what = match out {
                Out::Sent(to, frame) => {
                    verify(frame);
                    let error = frame[23] == 1 && [3, 11].contains(&frame[34]);
                    format!(
                        "{} to {}{}",
                        came.0,
                        to.0,
                        if error { " error" } else { "" }
                    )
                }
                Out::Dropped(reason) => reason.name().to_owned(),
            };
            self.happened.insert(what);
        }
        // What is long past tells little.
        let keep =
            |frames: &mut Vec<Vec<u8>>| drop(frames.drain(..frames.len().saturating_sub(40)));
        keep(&mut self.out);
        keep(&mut self.back);
    }
}

pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    frame[22] = ttl;
    frame[24..26].fill(0);
    let sum = checksum::internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Flow by flow: what happens to several at the same moment has no order.
fn in_order(mut outcome: Vec<Out>) -> Vec<Out> {
    outcome.sort_by_key(|out| match out {
        Out::Sent(to, frame) => (to.0, frame[23..].iter().take(15).copied().collect()),
        Out::Dropped(reason) => (2 + *reason as u8, Vec::new()),
    });
    outcome
}

/// What happens in all such worlds together, or the test tells nothing.
fn all_happened(happened: &BTreeSet<String>, more: &[&str]) {
    let wanted = [
        "0 to 1",
        "1 to 0",
        "0 to 0",
        "0 to 0 error",
        "0 to 1 error",
        "1 to 0 error",
        "1 to 1 error",
        "quota",
        "no-mapping",
        "not-ours",
    ];
    for what in wanted.iter().chain(more) {
        assert!(
            happened.contains(*what),
            "{what} never happened: {happened:?}"
        );
    }
}

/// What is done to lines of either kind.
trait Steps {
    fn frame(&mut self, port: PortId, frame: &[u8]) -> Vec<Out>;
    fn time(&mut self, span: Duration) -> Vec<Out>;
    /// The store answers one of its operations, or does not.
    fn answer(&mut self, which: usize, lost: bool) -> Vec<Out>;
}

impl<R: Driven> Steps for Line<R> {
    fn frame(&mut self, port: PortId, frame: &[u8]) -> Vec<Out> {
        self.send(port, frame)
    }

    fn time(&mut self, span: Duration) -> Vec<Out> {
        self.advance(span);
        std::mem::take(&mut self.out)
    }

    fn answer(&mut self, which: usize, lost: bool) -> Vec<Out> {
        let count = self.asked.len().max(1);
        if let Some(asked) = self.asked.keys().nth(which % count).copied() {
            match lost {
                true => self.fail(asked),
                false => self.execute(asked),
            }
            self.settle();
        }
        std::mem::take(&mut self.out)
    }
}

/// The chain, with or without a fast path, and its functions apart, without. Mostly the meter is inside
/// of the NAT.
fn lines(fast_path: bool, nat_first: bool) -> (Chained, Apart) {
    let functions = || match nat_first {
        true => [nat(), meter()],
        false => [meter(), nat()],
    };
    let chain = Chained::chained(fast_path, Vec::from(functions()));
    (chain, Apart::apart(false, functions()))
}

/// Packet by packet, with a store that answers late, in any order, or not at all: so they wait at either
/// function, and are given up.
#[test]
fn a_chain_is_its_functions_one_after_the_other() {
    let mut happened = BTreeSet::new();
    for seed in 0..40 {
        let (mut chain, mut apart) = lines(false, seed % 4 == 3);
        let mut traffic = Traffic::new(seed);
        let reliable = seed % 2 == 0;
        for step in 0..600 {
            let rng = &mut traffic.rng;
            let up = reliable || rng.u8(..4) == 0;
            (chain.store_up, apart.store_up) = (up, up);
            let mut both = |each: &mut dyn FnMut(&mut dyn Steps) -> Vec<Out>| {
                (each(&mut chain), each(&mut apart))
            };
            let (came, (one, other)) = match rng.u8(..12) {
                0 => {
                    let span = Duration::from_millis(rng.u64(1..300));
                    (IN, both(&mut |line| line.time(span)))
                }
                1 if rng.u8(..20) == 0 => {
                    let span = Duration::from_secs(rng.u64(1..400));
                    (IN, both(&mut |line| line.time(span)))
                }
                2 | 3 if !up => {
                    let (which, lost) = (rng.usize(..64), rng.u8(..8) == 0);
                    (IN, both(&mut |line| line.answer(which, lost)))
                }
                _ => {
                    let (port, frame) = traffic.next();
                    (port, both(&mut |line| line.frame(port, &frame)))
                }
            };
            let (one, other) = (in_order(one), in_order(other));
            assert_eq!(one, other, "seed {seed}, step {step}");
            traffic.note(came, &one);
            assert_eq!(chain.parked(), apart.parked(), "seed {seed}, step {step}");
        }
        for reason in Reason::ALL {
            let dropped = (chain.dropped(*reason), apart.dropped(*reason));
            assert_eq!(dropped.0, dropped.1, "{reason:?}");
        }
        happened.append(&mut traffic.happened);
    }
    all_happened(&happened, &["park-timeout", "ttl-expired"]);
}

/// What passes in front of a chain is what would come out behind it.
#[test]
fn entries_do_at_once_what_the_functions_do_one_after_the_other() {
    let mut happened = BTreeSet::new();
    let mut hits = 0;
    for seed in 100..140 {
        let (mut chain, mut apart) = lines(true, seed % 4 == 3);
        let mut traffic = Traffic::new(seed);
        for step in 0..600 {
            let rng = &mut traffic.rng;
            let (came, (one, other)) = match rng.u8(..12) {
                0 => {
                    let span = Duration::from_millis(rng.u64(1..4000));
                    (IN, (chain.time(span), apart.time(span)))
                }
                _ => {
                    let (port, frame) = traffic.next();
                    (port, (chain.frame(port, &frame), apart.frame(port, &frame)))
                }
            };
            assert_eq!(one, other, "seed {seed}, step {step}");
            traffic.note(came, &one);
        }
        chain.advance(Duration::from_millis(300));
        apart.advance(Duration::from_millis(300));
        for host in HOSTS.into_iter().chain([POOL.octets()]) {
            assert_eq!(chain.counted(host), apart.counted(host), "all is counted");
        }
        hits += chain.hits();
        happened.append(&mut traffic.happened);
    }
    all_happened(&happened, &[]);
    assert!(hits > 4000, "{hits} passed in front");
}
