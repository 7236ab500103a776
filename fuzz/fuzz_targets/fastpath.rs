//! The fast path's reference: any frame has a verdict, only a redirected one was touched, and
//! what it takes for a packet is what the slow path takes for one.
#![no_main]

#[path = "../sums.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod sums;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use libfuzzer_sys::fuzz_target;
use stateplane_base::Time;
use stateplane_flow::fast::packet::{Aside, Family, Link, Packet};
use stateplane_flow::fast::{
    Action, Entry, Guard, Hop, Hops, Key, KeyMask, NextHop, PortSettings, Routes, Seed, Settings,
    Table, Tables, Tunnel, Tunnels, Verdict, interpret, layout,
};
use stateplane_flow::{Endpoint, FlowAction, PortId};
use stateplane_wire::eth::{self, Mac};
use stateplane_wire::packet::{Fragment, Headers, Transport};

const SEED: Seed = Seed::new([1, 2, 3, 4]);
const NOW: Time = Time::from_millis(1);
const LATER: Time = Time::from_millis(1_000);
const OUT: PortId = PortId(1);
const NEXT: NextHop = NextHop {
    destination: Mac([2, 0, 0, 0, 0, 1]),
    source: Mac([2, 0, 0, 0, 0, 2]),
    device: 3,
    mtu: 1_500,
};
const HEADROOM: usize = 64;

type Words = Arc<[AtomicU64]>;

fn words(number: usize) -> Words {
    (0..number).map(|_| AtomicU64::new(0)).collect()
}

/// What the input's first bytes choose.
struct Choice {
    action: Action<Ipv4Addr>,
    mask: KeyMask,
    flags: u8,
}

fn choose([rewrites, mask, flags, ttl, a, b, c, d]: [u8; 8]) -> Choice {
    let bit = |byte: u8, n: u8| byte >> n & 1 != 0;
    let addr = Ipv4Addr::new(a, b, c, d);
    let port = u16::from_be_bytes([c, a]);
    let action = Action {
        source: bit(rewrites, 0).then_some(addr),
        source_port: bit(rewrites, 1).then_some(port),
        destination: bit(rewrites, 2).then_some(addr),
        destination_port: bit(rewrites, 3).then_some(!port),
        ttl: ttl % 16,
        hop: match bit(rewrites, 4) {
            true => Hop::ByDestination(OUT),
            false => Hop::Index(0),
        },
        tunnel: u8::from(bit(rewrites, 5)),
        guard: Guard::NONE,
        tcp_events: ttl >> 4,
        meter: None,
    };
    let mask = KeyMask {
        source: bit(mask, 0),
        source_port: bit(mask, 1),
        destination: bit(mask, 2),
        destination_port: bit(mask, 3),
    };
    Choice {
        action,
        mask,
        flags,
    }
}

/// The tables, with one entry for each family's packet.
struct World {
    memory: [Words; 8],
}

impl World {
    fn new(choice: &Choice, station: Mac) -> World {
        let memory = [
            words(8 * layout::SLOT4_WORDS),
            words(8 * layout::SLOT6_WORDS),
            words(layout::HOP_WORDS),
            words(4 * layout::ROUTE4_WORDS),
            words(4 * layout::ROUTE6_WORDS),
            words(layout::LEASE_WORDS),
            words(2 * layout::TUNNEL_WORDS),
            words(layout::SETTINGS_WORDS),
        ];
        let mut hops = Hops::new(memory[2].clone());
        hops.set(0, &NEXT).expect("the first");
        let mut tunnels = Tunnels::new(memory[6].clone());
        let mut header = [0; 28];
        header[0] = 0x45;
        header[9] = 17;
        let tunnel = Tunnel::new(&header, true).expect("IPv4 and UDP");
        tunnels.set(1, &tunnel).expect("the second");
        let mut settings = Settings::new(memory[7].clone(), SEED).expect("enough");
        let port = PortSettings {
            station,
            mask: choice.mask,
            ipv4: true,
            ipv6: true,
            tagged: choice.flags & 1 != 0,
            partial_checksums: choice.flags & 2 != 0,
        };
        settings.set_port(PortId::INSIDE, Some(&port));
        settings.enable(choice.flags & 4 == 0);
        World { memory }
    }

    /// An entry and a route for a packet.
    fn insert<A: Family>(
        &self,
        which: usize,
        choice: &Choice,
        link: &Link,
        packet: &Packet<A>,
        action: Action<A>,
    ) {
        let whole = packet.key(PortId::INSIDE, link.vlans);
        let key = Key {
            source: if choice.mask.source {
                whole.source
            } else {
                A::ANY
            },
            source_port: if choice.mask.source_port {
                whole.source_port
            } else {
                0
            },
            destination: if choice.mask.destination {
                whole.destination
            } else {
                A::ANY
            },
            destination_port: if choice.mask.destination_port {
                whole.destination_port
            } else {
                0
            },
            ..whole
        };
        let mut table = Table::<_, A>::new(self.memory[which].clone(), SEED).expect("slots");
        let until = LATER;
        table
            .insert(NOW, &key, &Entry { action, until })
            .expect("room for one");
        let mut routes = Routes::<_, A>::new(self.memory[3 + which].clone(), SEED).expect("a set");
        routes.insert(action.destination.unwrap_or(packet.destination), OUT, 0);
    }

    fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let [
            flows4,
            flows6,
            hops,
            routes4,
            routes6,
            leases,
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
            meters: &[],
            tunnels,
            settings,
        };
        let mut buffer = [&[0; HEADROOM], frame].concat();
        let verdict = interpret(&tables, &mut buffer, HEADROOM, PortId::INSIDE, NOW);
        let sent = match verdict {
            Verdict::Redirect { start, len, .. } => buffer[start..start + len].to_vec(),
            Verdict::Function(_) | Verdict::Kernel => {
                assert_eq!(&buffer[HEADROOM..], frame, "{verdict:?}, but touched");
                Vec::new()
            }
        };
        (verdict, sent)
    }
}

/// A reply numbered 0 to an echo: the slow path's alone.
fn may_be_zeros(frame: &[u8], headers: &Headers) -> bool {
    let reply = matches!(headers.transport, Transport::Echo { request: false, .. });
    reply && frame[headers.l4 + 6..headers.l4 + 8] == [0, 0]
}

/// The two parsers agree about whole unicast packets with ports.
fn same_packet(frame: &[u8], fast: Result<Packet<Ipv4Addr>, Aside>) {
    let slow = Headers::parse(frame)
        .ok()
        .filter(|h| h.fragment == Fragment::Whole && h.destination.octets()[0] < 224)
        .filter(|h| !may_be_zeros(frame, h))
        .and_then(|h| {
            Some((
                h.l3,
                h.l4,
                h.end,
                h.source,
                h.destination,
                h.ttl,
                h.ports()?,
            ))
        });
    let fast = fast
        .ok()
        .map(|p| (p.l3, p.l4, p.end, p.source, p.destination, p.ttl, p.ports));
    assert_eq!(fast, slow);
}

/// A plain IPv4 frame that left without a tunnel.
fn check_sent(frame: &[u8], sent: &[u8], action: &Action<Ipv4Addr>) {
    assert_eq!(frame.len(), sent.len());
    assert!(sums::header_right(sent), "header sum");
    if sums::transport_right(frame) == Some(true) {
        assert_ne!(sums::transport_right(sent), Some(false), "transport sum");
    }
    let (before, after) = (
        Headers::parse(frame).expect("parsed"),
        Headers::parse(sent).expect("still"),
    );
    assert_eq!(after.ttl, before.ttl - action.ttl);
    let end = |addr: Option<Ipv4Addr>, port: Option<u16>| match (addr, port) {
        (Some(addr), Some(port)) => Some(Some(Endpoint { addr, port })),
        (None, None) => Some(None),
        _ => None,
    };
    let ends = (
        end(action.source, action.source_port),
        end(action.destination, action.destination_port),
    );
    if let (Some(source), Some(destination)) = ends {
        let slow = FlowAction {
            source,
            destination,
            ttl: action.ttl,
            out: OUT,
        };
        let mut slowly = frame.to_vec();
        slow.apply(&mut slowly, &before).expect("it has ports");
        assert_eq!(slowly[12..], sent[12..], "as the slow path does it");
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((head, frame)) = data.split_first_chunk::<8>() else {
        return;
    };
    let choice = choose(*head);
    let mut frame = frame.to_vec();
    sums::mend_header(&mut frame);
    let Some(link) = Link::parse(&frame) else {
        return;
    };
    let world = World::new(&choice, link.destination);
    let (verdict, _) = world.run(&frame);
    assert!(
        !matches!(verdict, Verdict::Redirect { .. }),
        "without an entry"
    );
    let four = (link.ethertype == eth::IPV4).then(|| Ipv4Addr::parse(&frame, link.l3));
    if let Some(parsed) = four {
        same_packet(&frame, parsed);
        if let Ok(packet) = parsed {
            world.insert(0, &choice, &link, &packet, choice.action);
        }
    } else if let Ok(packet) = Ipv6Addr::parse(&frame, link.l3)
        && link.ethertype == eth::IPV6
    {
        let action = Action {
            source: choice.action.source.map(|addr| addr.to_ipv6_mapped()),
            destination: choice.action.destination.map(|addr| addr.to_ipv6_mapped()),
            source_port: choice.action.source_port,
            destination_port: choice.action.destination_port,
            ..Action::forward(choice.action.hop, Guard::NONE)
        };
        world.insert(1, &choice, &link, &packet, action);
    }
    let (verdict, sent) = world.run(&frame);
    if let (Verdict::Redirect { start, .. }, true) = (verdict, four.is_some() && !link.tagged) {
        if start == HEADROOM {
            check_sent(&frame, &sent, &choice.action);
        } else {
            assert!(sums::header_right(&sent), "outer header sum");
            check_sent(
                &frame,
                &[&sent[..12], &frame[12..14], &sent[14 + 28..]].concat(),
                &choice.action,
            );
        }
    }
});
