//! A machine with all tables, and packets for it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicU64;

use etherparse::{PacketBuilder, SlicedPacket};
use stateplane_base::Time;
use stateplane_flow::fast::layout::{
    HOP_WORDS, LEASE_WORDS, METER_WORDS, ROUTE4_WORDS, ROUTE6_WORDS, SETTINGS_WORDS, TUNNEL_WORDS,
};
use stateplane_flow::fast::{
    Action, Address, Entry, Guard, Hop, Hops, Key, KeyMask, Kind, Leases, Meters, NextHop,
    PortSettings, Punt, Routes, Seed, Settings, Table, Tables, Tunnels, Verdict, Vlans, interpret,
};
use stateplane_flow::{Endpoint, PortId};
use stateplane_wire::checksum::{Sum, internet};
use stateplane_wire::eth::Mac;

pub(crate) const SEED: Seed = Seed::new([
    11,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98,
]);
pub(crate) const STATION: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const SENDER: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(crate) const HEADROOM: usize = 128;
pub(crate) const NOW: Time = Time::from_millis(1_000_000);
pub(crate) const LATER: Time = Time::from_millis(1_001_000);
pub(crate) const IN: PortId = PortId::INSIDE;
pub(crate) const NEXT: NextHop = NextHop {
    destination: Mac([2, 1, 1, 1, 1, 1]),
    source: Mac([2, 2, 2, 2, 2, 2]),
    device: 7,
    mtu: 1500,
};

pub(crate) type Words = std::sync::Arc<[AtomicU64]>;

pub(crate) fn words(number: usize) -> Words {
    (0..number).map(|_| AtomicU64::new(0)).collect()
}

/// A machine with all tables; port 0 takes everything, by all fields.
pub(crate) struct World {
    pub(crate) flows4: Table<Words, Ipv4Addr>,
    pub(crate) flows6: Table<Words, Ipv6Addr>,
    pub(crate) hops: Hops<Words>,
    pub(crate) routes4: Routes<Words, Ipv4Addr>,
    pub(crate) routes6: Routes<Words, Ipv6Addr>,
    pub(crate) leases: Leases<Words>,
    pub(crate) meters: Meters<Words>,
    pub(crate) tunnels: Tunnels<Words>,
    pub(crate) settings: Settings<Words>,
    memory: [Words; 7],
}

pub(crate) const PORT: PortSettings = PortSettings {
    station: STATION,
    mask: KeyMask::ALL,
    ipv4: true,
    ipv6: true,
    tagged: true,
    partial_checksums: true,
};

impl World {
    pub(crate) fn new() -> World {
        let memory = [
            words(4 * HOP_WORDS),
            words(16 * ROUTE4_WORDS),
            words(16 * ROUTE6_WORDS),
            words(4 * LEASE_WORDS),
            words(4 * METER_WORDS),
            words(4 * TUNNEL_WORDS),
            words(SETTINGS_WORDS),
        ];
        let [hops, routes4, routes6, leases, meters, tunnels, settings] = memory.clone();
        let mut world = World {
            flows4: Table::new(words(64 * 8), SEED).unwrap(),
            flows6: Table::new(words(64 * 16), SEED).unwrap(),
            hops: Hops::new(hops),
            routes4: Routes::new(routes4, SEED).unwrap(),
            routes6: Routes::new(routes6, SEED).unwrap(),
            leases: Leases::new(leases),
            meters: Meters::new(meters),
            tunnels: Tunnels::new(tunnels),
            settings: Settings::new(settings, SEED).unwrap(),
            memory,
        };
        world.hops.set(1, &NEXT).unwrap();
        world.settings.set_port(IN, Some(&PORT));
        world.settings.enable(true);
        world
    }

    pub(crate) fn insert<A: Address>(table: &mut Table<Words, A>, key: &Key<A>, action: Action<A>) {
        let until = LATER;
        table.insert(NOW, key, &Entry { action, until }).unwrap();
    }

    pub(crate) fn with4(key: &Key<Ipv4Addr>, action: Action<Ipv4Addr>) -> World {
        let mut world = World::new();
        World::insert(&mut world.flows4, key, action);
        world
    }

    pub(crate) fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.run_at(frame, NOW)
    }

    pub(crate) fn run_at(&self, frame: &[u8], now: Time) -> (Verdict, Vec<u8>) {
        let [hops, routes4, routes6, leases, meters, tunnels, settings] = &self.memory;
        let tables = Tables {
            flows4: self.flows4.memory(),
            flows6: self.flows6.memory(),
            hops,
            routes4,
            routes6,
            leases,
            meters,
            tunnels,
            settings,
        };
        let mut buffer = [vec![0xee; HEADROOM], frame.to_vec()].concat();
        let verdict = interpret(&tables, &mut buffer, HEADROOM, IN, now);
        match verdict {
            Verdict::Redirect { device, start, len } => {
                assert_eq!(device, NEXT.device);
                (verdict, buffer[start..start + len].to_vec())
            }
            Verdict::Function(_) | Verdict::Kernel => {
                assert_eq!(
                    buffer[HEADROOM..],
                    *frame,
                    "{verdict:?}: the frame is untouched"
                );
                (verdict, Vec::new())
            }
        }
    }

    pub(crate) fn punts(&self, frame: &[u8], punt: Punt) {
        assert_eq!(self.run(frame).0, Verdict::Function(punt));
    }

    pub(crate) fn passes(&self, frame: &[u8]) -> Vec<u8> {
        let (verdict, bytes) = self.run(frame);
        assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
        bytes
    }
}

pub(crate) type End4 = ([u8; 4], u16);

/// A packet of the kind, untagged, as another library builds it.
pub(crate) fn build4(kind: Kind, from: End4, to: End4, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(SENDER.0, STATION.0).ipv4(from.0, to.0, ttl);
    let mut out = Vec::new();
    match kind {
        Kind::Tcp => {
            let segment = packet.tcp(from.1, to.1, 7, 8).ack(9);
            segment.write(&mut out, payload).unwrap();
        }
        Kind::Udp => packet.udp(from.1, to.1).write(&mut out, payload).unwrap(),
        Kind::Echo => {
            let echo = packet.icmpv4_echo_request(from.1, 3);
            echo.write(&mut out, payload).unwrap();
        }
    }
    out
}

pub(crate) fn build6(
    kind: Kind,
    from: (Ipv6Addr, u16),
    to: (Ipv6Addr, u16),
    ttl: u8,
    data: &[u8],
) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(SENDER.0, STATION.0);
    let packet = packet.ipv6(from.0.octets(), to.0.octets(), ttl);
    let mut out = Vec::new();
    match kind {
        Kind::Tcp => {
            let segment = packet.tcp(from.1, to.1, 7, 8).ack(9);
            segment.write(&mut out, data).unwrap();
        }
        Kind::Udp => packet.udp(from.1, to.1).write(&mut out, data).unwrap(),
        Kind::Echo => {
            let echo = packet.icmpv6_echo_request(from.1, 3);
            echo.write(&mut out, data).unwrap();
        }
    }
    out
}

pub(crate) const FROM: End4 = ([10, 0, 0, 1], 4000);
pub(crate) const TO: End4 = ([192, 0, 2, 1], 53);
pub(crate) const FROM6: (Ipv6Addr, u16) = (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 4000);
pub(crate) const TO6: (Ipv6Addr, u16) = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 53);

pub(crate) fn key4(kind: Kind, from: End4, to: End4) -> Key<Ipv4Addr> {
    key(kind, (from.0.into(), from.1), (to.0.into(), to.1))
}

pub(crate) fn key<A>(kind: Kind, from: (A, u16), to: (A, u16)) -> Key<A> {
    Key {
        kind,
        port: IN,
        source: from.0,
        source_port: from.1,
        destination: to.0,
        destination_port: if kind == Kind::Echo { from.1 } else { to.1 },
        vlans: Vlans::default(),
    }
}

pub(crate) fn endpoint((addr, port): End4) -> Endpoint {
    Endpoint {
        addr: addr.into(),
        port,
    }
}

/// Whether all checksums of an untagged frame are right.
pub(crate) fn sums_right(frame: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let transport = packet.transport.unwrap();
    let net = packet.net.unwrap();
    let (pseudo, payload) = match &net {
        etherparse::NetSlice::Ipv4(ip) => {
            if internet(ip.header().slice()) != 0 {
                return false;
            }
            let (from, to) = (ip.header().source(), ip.header().destination());
            (Sum::default().bytes(&from).bytes(&to), ip.payload().payload)
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            (Sum::default().bytes(&from).bytes(&to), ip.payload().payload)
        }
        etherparse::NetSlice::Arp(_) => return false,
    };
    let next = |number: u16| {
        pseudo
            .word(number)
            .word(payload.len() as u16)
            .bytes(payload)
    };
    match transport {
        etherparse::TransportSlice::Udp(udp) => udp.checksum() == 0 || next(17).finish() == 0,
        etherparse::TransportSlice::Tcp(_) => next(6).finish() == 0,
        etherparse::TransportSlice::Icmpv4(_) => internet(payload) == 0,
        etherparse::TransportSlice::Icmpv6(_) => next(58).finish() == 0,
        etherparse::TransportSlice::Igmp(_) => false,
    }
}

pub(crate) fn forward() -> Action<Ipv4Addr> {
    Action {
        ttl: 1,
        ..Action::forward(Hop::Index(1), Guard::NONE)
    }
}

pub(crate) fn udp() -> Vec<u8> {
    build4(Kind::Udp, FROM, TO, 9, b"12345678")
}

pub(crate) fn udp_world(action: Action<Ipv4Addr>) -> World {
    World::with4(&key4(Kind::Udp, FROM, TO), action)
}

/// Changes an IPv4 header and makes its checksum right.
pub(crate) fn with_header(mut frame: Vec<u8>, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let len = usize::from(frame[14] & 15) * 4;
    change(&mut frame[14..14 + len]);
    frame[24..26].fill(0);
    let sum = internet(&frame[14..14 + len]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A tag behind the hardware addresses.
pub(crate) fn tag(frame: &[u8], ethertype: u16, id: u16) -> Vec<u8> {
    let (macs, rest) = frame.split_at(12);
    [
        macs,
        &ethertype.to_be_bytes(),
        &(0xe000 | id).to_be_bytes(),
        rest,
    ]
    .concat()
}
