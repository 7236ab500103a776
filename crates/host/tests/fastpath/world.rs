//! Tables filled at random, in the kernel's memory and in a copy for the reference.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stateplane_base::Time;
use stateplane_flow::PortId;
use stateplane_flow::fast::{
    Action, Address, Entry, Guard, Hop, Hops, Key, KeyMask, Kind, Leases, Meters, NextHop,
    PortSettings, Reserve, Reserved, Routes, Seed, Settings, Table, Tables, Tunnel, Tunnels,
    Verdict, Vlans, interpret, layout,
};
use stateplane_host::bpf::fastpath::{FastCounters, FastPath, Part, Sizes, Words};
use stateplane_host::clock;
use stateplane_wire::eth::Mac;

use crate::frames::{ADDRESSES, PORTS, one, six};
use crate::support::Random;

pub(crate) const STATION: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// A device that is there, and one that is not.
pub(crate) const DEVICE: u16 = 5;
pub(crate) const NO_DEVICE: u16 = 6;
/// The loop-back interface, which every namespace has.
const LOOPBACK: u32 = 1;
/// What the kernel leaves in front of a frame, less its own notes, and more than any tunnel needs.
const HEADROOM: usize = 200;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// The tables, their writers, and a copy for the reference.
pub(crate) struct World {
    pub(crate) fast_path: FastPath,
    pub(crate) flows4: Table<Words, Ipv4Addr>,
    pub(crate) flows6: Table<Words, Ipv6Addr>,
    pub(crate) hops: Hops<Words>,
    pub(crate) leases: Leases<Words>,
    pub(crate) meters: Meters<Words>,
    pub(crate) settings: Settings<Words>,
    pub(crate) routes4: Routes<Words, Ipv4Addr>,
    pub(crate) routes6: Routes<Words, Ipv6Addr>,
    pub(crate) tunnels: Tunnels<Words>,
}

const SIZES: Sizes = Sizes {
    flows4: 256,
    flows6: 256,
    routes4: 16,
    routes6: 16,
    hops: 6,
    leases: 5,
    meters: 3,
    tunnels: 6,
};

/// Slots of a table of flows in use at first.
const FIRST: usize = 64;

pub(crate) fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A time that is over by the program's coarse clock as well.
pub(crate) fn long_ago() -> Time {
    Time::from_nanos(clock::now().as_nanos() - 1_000_000_000)
}

pub(crate) const PORT: PortSettings = PortSettings {
    station: STATION,
    mask: KeyMask::ALL,
    ipv4: true,
    ipv6: true,
    tagged: true,
    partial_checksums: false,
};

impl World {
    /// Empty tables, with the first next hop and both ports set, switched on.
    pub(crate) fn new(random: &mut Random) -> World {
        let seed = std::array::from_fn(|_| random.next() << 40 ^ random.next());
        let fast_path = FastPath::new(&SIZES).unwrap();
        fast_path.set_device(DEVICE, LOOPBACK).unwrap();
        let seed = Seed::new(seed);
        let words = |part| fast_path.words(part);
        let settings = Settings::new(words(Part::Settings), seed).unwrap();
        let mut world = World {
            flows4: Table::growing(
                words(Part::Flows4),
                seed,
                settings.extent::<Ipv4Addr>(),
                FIRST,
            )
            .unwrap(),
            flows6: Table::growing(
                words(Part::Flows6),
                seed,
                settings.extent::<Ipv6Addr>(),
                FIRST,
            )
            .unwrap(),
            hops: Hops::new(words(Part::Hops)),
            leases: Leases::new(words(Part::Leases)),
            meters: Meters::new(words(Part::Meters)),
            settings,
            routes4: Routes::new(words(Part::Routes4), seed).unwrap(),
            routes6: Routes::new(words(Part::Routes6), seed).unwrap(),
            tunnels: Tunnels::new(words(Part::Tunnels)),
            fast_path,
        };
        let hop = NextHop {
            destination: Mac([2, 1, 1, 1, 1, 1]),
            source: Mac([2, 2, 2, 2, 2, 2]),
            device: DEVICE,
            mtu: 1500,
        };
        world.hops.set(0, &hop).unwrap();
        world.settings.set_port(PortId::INSIDE, Some(&PORT));
        world.settings.set_port(PortId::OUTSIDE, Some(&PORT));
        world.settings.enable(true);
        world
    }

    /// Tables with something of everything.
    pub(crate) fn random(random: &mut Random) -> World {
        let mut world = World::new(random);
        for port in [PortId::INSIDE, PortId::OUTSIDE] {
            let settings = PortSettings {
                mask: one(
                    random,
                    &[KeyMask::ALL, KeyMask::SOURCE, KeyMask::DESTINATION],
                ),
                ipv4: !random.one_in(12),
                ipv6: !random.one_in(12),
                tagged: !random.one_in(6),
                partial_checksums: random.one_in(2),
                ..PORT
            };
            world.settings.set_port(port, Some(&settings));
            for _ in 0..400 {
                world.insert(random, port, settings.mask);
            }
        }
        world.fill_others(random);
        world
    }

    fn insert(&mut self, random: &mut Random, port: PortId, mask: KeyMask) {
        let now = clock::now();
        let (source, destination) = (one(random, &ADDRESSES), one(random, &ADDRESSES));
        let kind = one(random, &[Kind::Tcp, Kind::Udp, Kind::Udp, Kind::Echo]);
        let from = one(random, &PORTS);
        let to = match kind {
            Kind::Echo => from,
            Kind::Tcp | Kind::Udp => one(random, &PORTS),
        };
        let vlans = match random.below(4) {
            0 => Vlans(random.below(3) as u16, random.below(3) as u16),
            _ => Vlans(0, 0),
        };
        // A refused one is as good as one that was never there.
        if random.one_in(2) {
            let key = masked(mask, kind, port, (source, from), (destination, to), vlans);
            let action = action(random, Ipv4Addr::from);
            let until = end(random, now);
            let _ = self.flows4.insert(now, &key, &Entry { action, until });
        } else {
            let (source, destination) = (six(source), six(destination));
            let key = masked(mask, kind, port, (source, from), (destination, to), vlans);
            let action = action(random, |address| Ipv6Addr::from(six(address)));
            let until = end(random, now);
            let _ = self.flows6.insert(now, &key, &Entry { action, until });
        }
    }

    fn fill_others(&mut self, random: &mut Random) {
        let now = clock::now();
        for index in 0..4 {
            let mut macs = [0; 12];
            random.fill(&mut macs);
            let hop = NextHop {
                destination: Mac(*macs.first_chunk().unwrap()),
                source: Mac(*macs.last_chunk().unwrap()),
                device: one(random, &[DEVICE, DEVICE, DEVICE, NO_DEVICE]),
                mtu: one(random, &[1500, 1500, 9000, 100]),
            };
            self.hops.set(index, &hop).unwrap();
        }
        self.leases.set(1, 7, now + seconds(1000)).unwrap();
        self.leases.set(2, 8, now + seconds(1000)).unwrap();
        self.leases.set(3, 7, long_ago()).unwrap();
        for (meter, limit) in [(0, u64::MAX), (1, 2500), (2, 0)] {
            self.meters.limit(meter, limit);
        }
        for address in ADDRESSES {
            for port in [PortId::INSIDE, PortId::OUTSIDE] {
                if !random.one_in(4) {
                    let hop = random.below(5) as u16;
                    self.routes4.insert(address.into(), port, hop);
                    self.routes6.insert(six(address).into(), port, hop);
                }
            }
        }
        for (index, header) in tunnels(random).iter().enumerate() {
            let tunnel = Tunnel::new(header, random.one_in(2)).unwrap();
            self.tunnels.set(index as u8 + 1, &tunnel).unwrap();
        }
        let who = one(random, &[Reserve::Function, Reserve::Kernel]);
        let ports = random.below(4) as u32;
        let address = one(random, &ADDRESSES);
        let four = Reserved {
            address: address.into(),
            length: one(random, &[8, 32]),
            who,
            ports,
        };
        let other = Reserved {
            address: [203, 0, 113, 0].into(),
            length: 24,
            ..four
        };
        self.settings.reserve4(&[other, four]).unwrap();
        let six = Reserved {
            address: Ipv6Addr::from(six(address)),
            length: one(random, &[128, 100]),
            who,
            ports,
        };
        self.settings.reserve6(&[six]).unwrap();
    }

    /// The reference, with a copy of the tables as they are.
    pub(crate) fn reference(&self) -> Reference {
        let tables = self.fast_path.tables();
        let copy = |words: &[AtomicU64]| -> Vec<AtomicU64> {
            let load = |word: &AtomicU64| AtomicU64::new(word.load(Ordering::Relaxed));
            words.iter().map(load).collect()
        };
        Reference {
            memory: parts(&tables).map(copy),
            counters: [FastCounters::default(); 2],
        }
    }
}

/// What becomes of frames, by the reference alone.
pub(crate) struct Reference {
    memory: [Vec<AtomicU64>; 9],
    counters: [FastCounters; 2],
}

fn parts<'a>(tables: &Tables<'a>) -> [&'a [AtomicU64]; 9] {
    [
        tables.flows4,
        tables.flows6,
        tables.hops,
        tables.routes4,
        tables.routes6,
        tables.leases,
        tables.meters,
        tables.tunnels,
        tables.settings,
    ]
}

impl Reference {
    /// Counts on from what the program has counted.
    pub(crate) fn resume(&mut self, world: &World) {
        self.counters =
            [PortId::INSIDE, PortId::OUTSIDE].map(|port| world.fast_path.counters(port).unwrap());
    }

    /// Has the program and the reference decide, compares, and tells the verdict.
    pub(crate) fn compare(&mut self, world: &World, frame: &[u8], port: PortId) -> Verdict {
        let [
            flows4,
            flows6,
            hops,
            routes4,
            routes6,
            leases,
            meters,
            tunnels,
            settings,
        ] = &self.memory;
        let tables = Tables {
            flows4,
            flows6,
            hops,
            routes4,
            routes6,
            leases,
            meters,
            tunnels,
            settings,
        };
        let mut buffer = [vec![0; HEADROOM], frame.to_vec()].concat();
        let verdict = interpret(&tables, &mut buffer, HEADROOM, port, clock::now());
        let counters = &mut self.counters[usize::from(port.0)];
        counters.fast.note(&verdict, frame.len());
        let (action, expected) = match verdict {
            Verdict::Redirect { device, start, len } => {
                let there = device == DEVICE;
                counters.no_device += u64::from(!there);
                let action = if there { XDP_REDIRECT } else { XDP_DROP };
                (action, &buffer[start..start + len])
            }
            // There is no socket.
            Verdict::Function(_) => {
                counters.no_socket += 1;
                (XDP_DROP, frame)
            }
            Verdict::Kernel => {
                counters.kernel += 1;
                (XDP_PASS, frame)
            }
        };
        let found = world.fast_path.try_on(port, frame).unwrap();
        let circumstances = || format!("{port:?} {verdict:?} {frame:02x?}");
        assert_eq!(found.action, action, "{}", circumstances());
        assert_eq!(found.frame, expected, "{}", circumstances());
        let counted = world.fast_path.counters(port).unwrap();
        assert_eq!(counted, *counters, "{}", circumstances());
        verdict
    }

    /// The program has noted as much about flows as the reference.
    pub(crate) fn compare_notes(&self, world: &World) {
        let tables = world.fast_path.tables();
        // All of the last word of a slot but the time.
        let shapes = [
            (tables.flows4, &self.memory[0], layout::SLOT4_WORDS),
            (tables.flows6, &self.memory[1], layout::SLOT6_WORDS),
            // All of them: they are compared as a whole.
            (tables.meters, &self.memory[6], usize::MAX),
        ];
        for (found, expected, words) in shapes {
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let mask = if at % words == words - 1 {
                    0xffff_ffff
                } else {
                    u64::MAX
                };
                let both = [found, expected].map(|word| word.load(Ordering::Relaxed) & mask);
                assert_eq!(both[0], both[1], "word {at}");
            }
        }
    }
}

/// A key without what the port's mask leaves out.
fn masked<A: Address + From<B>, B>(
    mask: KeyMask,
    kind: Kind,
    port: PortId,
    from: (B, u16),
    to: (B, u16),
    vlans: Vlans,
) -> Key<A> {
    let keep = |keep: bool, port: u16| if keep { port } else { 0 };
    Key {
        kind,
        port,
        source: if mask.source { from.0.into() } else { A::ANY },
        source_port: keep(mask.source_port, from.1),
        destination: if mask.destination {
            to.0.into()
        } else {
            A::ANY
        },
        destination_port: keep(mask.destination_port, to.1),
        vlans,
    }
}

fn action<A: Address>(random: &mut Random, address: impl Fn([u8; 4]) -> A) -> Action<A> {
    let some = |random: &mut Random| (!random.one_in(3)).then(|| random.next() as u16);
    let ports = (some(random), some(random));
    // One that is not there, too. Where it is, there is room for one port.
    let number = u32::from(ports.0.unwrap_or(0));
    let meter = (number % 8 == 1).then_some(number / 8 % 4);
    let (source_port, destination_port) = match (meter, number / 32 % 4) {
        (None, _) => ports,
        (Some(_), 0) => (None, None),
        (Some(_), 1) => (ports.0, None),
        (Some(_), 2) => (None, ports.0),
        (Some(_), _) => (ports.0, ports.0),
    };
    let any = |random: &mut Random| {
        let mut bytes = [0; 4];
        random.fill(&mut bytes);
        address(bytes)
    };
    let known = address(one(random, &ADDRESSES));
    Action {
        source: (!random.one_in(3)).then(|| any(random)),
        source_port,
        destination: (!random.one_in(3)).then_some(known),
        destination_port,
        ttl: random.below(4) as u8,
        hop: match random.below(6) {
            0 => Hop::Index(random.below(8) as u16),
            1 | 2 => Hop::ByDestination(PortId(random.below(2) as u8)),
            _ => Hop::Index(random.below(4) as u16),
        },
        tunnel: if random.one_in(4) {
            random.below(8) as u8
        } else {
            0
        },
        guard: match random.below(8) {
            0 => Guard {
                lease: random.below(6) as u16,
                epoch: random.below(9) as u32,
            },
            1..4 => Guard { lease: 1, epoch: 7 },
            _ => Guard::NONE,
        },
        tcp_events: one(random, &[7, 7, 0, 4]),
        meter,
    }
}

/// When an entry ends: long ago, or in a long time.
fn end(random: &mut Random, now: Time) -> Time {
    if random.one_in(10) {
        long_ago()
    } else {
        now + seconds(1000)
    }
}

/// Headers of tunnels: IP in IP, GRE and UDP over both families.
fn tunnels(random: &mut Random) -> Vec<Vec<u8>> {
    let mut four = |protocol: u8, more: usize| {
        let mut bytes = vec![0; 20 + more];
        random.fill(&mut bytes);
        (bytes[0], bytes[9]) = (0x45, protocol);
        bytes
    };
    let mut headers = vec![four(4, 0), four(47, 4), four(17, 30)];
    for (protocol, more) in [(41, 0), (17, 72)] {
        let mut bytes = vec![0; 40 + more];
        random.fill(&mut bytes);
        (bytes[0], bytes[6]) = (0x60, protocol);
        headers.push(bytes);
    }
    headers
}
