//! The whole path of a packet without a network: memory ports, an embedded store,
//! next hops from a list.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use stateplane_base::{Incarnation, Reason, Time};
use stateplane_flow::PortId;
use stateplane_functions::meter::{Meter44, MeterConfig};
use stateplane_functions::nat::ops::InstanceId;
use stateplane_functions::nat::{Nat44, NatConfig};
use stateplane_functions::{Chain, Driven, PortConfig, Runtime, RuntimeConfig};
use stateplane_host::frame::{FramePool, PoolConfig};
use stateplane_host::memory::MemoryPort;
use stateplane_host::port::{Mac, Port};

use super::egress::{Hop, NextHops};
use super::fast::Fast;
use super::packets::PacketLoop;
use super::service::Service;
use crate::client::{Embedded, StateClient};
use crate::config::Config;
use crate::{meter, nat, store};

pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(super) const HOST_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);
pub(super) const SERVER_MAC: Mac = Mac([2, 0, 0, 0, 8, 8]);
const FRAMES: usize = 512;
pub(super) type Words = std::sync::Arc<[AtomicU64]>;
const CONFIG: &str = r#"
[cluster]
name = "test"
key = "000102030405060708090a0b0c0d0e0f"
[node.gw]
roles = ["function"]
inside = "a"
outside = "b"
[nat]
inside-prefixes = ["10.0.0.0/16"]
outside-addresses = ["198.51.100.1-198.51.100.4"]
[meter]
inside-prefixes = ["10.0.0.0/16"]
"#;

#[derive(Default)]
pub(super) struct Hops(pub(super) BTreeMap<Ipv4Addr, Hop>);

pub(super) fn ready(gateway: Ipv4Addr, mac: Mac) -> Hop {
    Hop::Ready { mac, gateway }
}

impl NextHops for Hops {
    fn next_hop(&mut self, _now: Time, _port: PortId, destination: Ipv4Addr) -> Hop {
        self.0.get(&destination).copied().unwrap_or(Hop::NoRoute)
    }
}

/// A worker with the far ends of its two cables.
pub(super) struct Bench<R = Runtime<Nat44>> {
    pub(super) worker: PacketLoop<R, MemoryPort, Hops, Words>,
    pub(super) inside: MemoryPort,
    pub(super) outside: MemoryPort,
    pub(super) now: Time,
}

impl Bench {
    fn new(cable: usize) -> Self {
        Self::with(cable, None)
    }

    pub(super) fn with(cable: usize, fast: Option<Fast<Words>>) -> Self {
        Self::of(cable, fast, |now, limits, nat, _| {
            Runtime::new(now, limits, Nat44::new(nat))
        })
    }
}

impl Bench<Chain<Service>> {
    /// The same, of a meter and that NAT behind it.
    pub(super) fn chained(fast: Option<Fast<Words>>) -> Self {
        Self::of(64, fast, |now, limits, nat, meter| {
            let functions = [
                Service::Meter(Meter44::new(meter)),
                Service::Nat(Nat44::new(nat)),
            ];
            Chain::new(now, functions.map(|function| (limits, function)))
        })
    }
}

impl<R: Driven> Bench<R> {
    fn of(
        cable: usize,
        fast: Option<Fast<Words>>,
        start: impl FnOnce(Time, RuntimeConfig, NatConfig, MeterConfig) -> R,
    ) -> Self {
        let parsed = Config::parse("test.toml", CONFIG, Path::new("."));
        let (config, _) = parsed.expect("the configuration is right");
        let nat_part = config.nat.as_ref().expect("it has a nat");
        let (inside, near_inside) = MemoryPort::pair(cable);
        let (outside, near_outside) = MemoryPort::pair(cable);
        let pool = PoolConfig {
            frames: FRAMES as u32,
            ..PoolConfig::default()
        };
        let pool = FramePool::new(pool).expect("memory for frames");
        let (name, life) = (InstanceId::of("gw"), Incarnation(1));
        let function =
            nat::instance_config(nat_part, &config.lease, name, life, near_outside.mac(), 7)
                .expect("a usable pool");
        let counted = config.meter.as_ref().expect("it has a meter");
        let counting = meter::instance_config(counted, &config.lease, name, life, 7);
        let port = |last| PortConfig {
            address: Ipv4Addr::new(192, 0, 2, last),
            mtu: 1500,
        };
        let now = Time::from_millis(1000);
        let runtime_config = RuntimeConfig {
            fast_path: fast.is_some(),
            ..RuntimeConfig::new([port(1), port(2)], [1, 2])
        };
        let runtime = start(now, runtime_config, function, counting);
        let store = store::new(&config).expect("a blank store");
        let state = StateClient::Embedded(Embedded::new(store));
        let hops = Hops(BTreeMap::from([
            (HOST, ready(HOST, HOST_MAC)),
            (SERVER, ready(SERVER, SERVER_MAC)),
        ]));
        let ports = [near_inside, near_outside];
        let worker = PacketLoop::new(pool, ports, runtime, state, hops, fast);
        let mut bench = Self {
            worker,
            inside,
            outside,
            now,
        };
        bench.turn();
        bench
    }

    pub(super) fn turn(&mut self) {
        for _ in 0..4 {
            self.now = self.now + Duration::from_micros(100);
            self.worker.turn(self.now);
        }
    }

    fn frames_in_pool(&self) -> usize {
        self.worker.pool.check();
        self.worker.pool.census().free
    }
}

pub(super) fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 7, 7], [2, 0, 0, 0, 0, 2])
        .ipv4(source.0.octets(), destination.0.octets(), 64)
        .udp(source.1, destination.1)
        .write(&mut frame, b"hello")
        .expect("a Vec takes everything");
    frame
}

/// Source and destination of a UDP packet, its hardware addresses, its time to live.
fn read(frame: &[u8]) -> ((Ipv4Addr, u16), (Ipv4Addr, u16), Mac, Mac, u8) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a whole packet");
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else {
        panic!("not IPv4")
    };
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else {
        panic!("not UDP")
    };
    let header = ip.header();
    let mac = |at: usize| Mac(frame[at..at + 6].try_into().expect("six bytes"));
    let source = (header.source_addr(), udp.source_port());
    let destination = (header.destination_addr(), udp.destination_port());
    let whole = udp.to_header().calc_checksum_ipv4_raw(
        header.source(),
        header.destination(),
        udp.payload(),
    );
    assert_eq!(
        udp.checksum(),
        whole.expect("short enough"),
        "the checksum is right"
    );
    (source, destination, mac(0), mac(6), header.ttl())
}

#[test]
fn a_packet_goes_out_translated_and_its_answer_comes_back() {
    let mut bench = Bench::new(64);
    bench.inside.inject(&udp((HOST, 4000), (SERVER, 53)));
    bench.turn();
    let out = bench.outside.collect().expect("the packet left");
    let (source, destination, to, from, ttl) = read(&out);
    assert_eq!(destination, (SERVER, 53));
    assert_eq!(
        (to, from, ttl),
        (SERVER_MAC, bench.worker.ports[1].mac(), 63)
    );
    assert_ne!(source.0, HOST, "the inside address stays inside");

    bench.outside.inject(&udp((SERVER, 53), source));
    bench.turn();
    let back = bench.inside.collect().expect("the answer arrived");
    let (source, destination, to, _, _) = read(&back);
    assert_eq!(
        (source, destination, to),
        ((SERVER, 53), (HOST, 4000), HOST_MAC)
    );
    assert_eq!(bench.frames_in_pool(), FRAMES, "every frame is back");
}

#[test]
fn packets_wait_for_their_neighbour_and_are_given_up_in_time() {
    let mut bench = Bench::new(64);
    bench
        .worker
        .egress
        .hops_mut()
        .0
        .insert(SERVER, Hop::Resolving { gateway: SERVER });
    bench.inside.inject(&udp((HOST, 4000), (SERVER, 53)));
    bench.turn();
    assert!(bench.outside.collect().is_none());
    assert_eq!(bench.worker.egress.waiting(), 1);

    bench
        .worker
        .egress
        .hops_mut()
        .0
        .insert(SERVER, ready(SERVER, SERVER_MAC));
    bench.now = bench.now + Duration::from_millis(5);
    bench.turn();
    assert!(
        bench.outside.collect().is_some(),
        "it left when the neighbour was known"
    );

    bench
        .worker
        .egress
        .hops_mut()
        .0
        .insert(SERVER, Hop::Resolving { gateway: SERVER });
    bench.inside.inject(&udp((HOST, 4000), (SERVER, 53)));
    bench.turn();
    bench.now = bench.now + Duration::from_secs(2);
    bench.turn();
    let dropped = bench.worker.runtime.counters().dropped(Reason::NoNeighbour);
    assert_eq!((dropped, bench.worker.egress.waiting()), (1, 0));
    assert_eq!(bench.frames_in_pool(), FRAMES);
}

#[test]
fn too_many_waiting_packets_are_dropped_and_counted() {
    let mut bench = Bench::new(1024);
    bench
        .worker
        .egress
        .hops_mut()
        .0
        .insert(SERVER, Hop::Resolving { gateway: SERVER });
    for _ in 0..300 {
        bench.inside.inject(&udp((HOST, 4000), (SERVER, 53)));
    }
    for _ in 0..4 {
        bench.turn();
    }
    let dropped = bench.worker.runtime.counters().dropped(Reason::NoNeighbour);
    assert_eq!((dropped, bench.worker.egress.waiting()), (44, 256));
}

#[test]
fn without_a_route_or_room_packets_are_dropped_and_counted() {
    let mut bench = Bench::new(2);
    let elsewhere = Ipv4Addr::new(192, 0, 2, 99);
    bench.inside.inject(&udp((HOST, 4000), (elsewhere, 53)));
    bench.turn();
    let counters = bench.worker.runtime.counters();
    assert_eq!(counters.dropped(Reason::NoRoute), 1);

    // The cable to the outside holds two packets and nobody takes them off.
    for _ in 0..3 {
        bench.inside.inject(&udp((HOST, 4000), (SERVER, 53)));
        bench.turn();
    }
    assert_eq!(bench.worker.runtime.counters().dropped(Reason::TxFull), 1);
    assert_eq!(bench.frames_in_pool(), FRAMES);
}

#[test]
fn noise_is_dropped_and_costs_no_frame() {
    let mut bench = Bench::new(64);
    let good = udp((HOST, 4000), (SERVER, 53));
    for len in 0..good.len() {
        bench.inside.inject(&good[..len]);
        bench.outside.inject(&good[..len]);
        bench.turn();
    }
    assert!(
        bench.outside.collect().is_none(),
        "nothing truncated passes"
    );
    assert_eq!(bench.frames_in_pool(), FRAMES);
}

#[test]
fn every_queue_gets_its_frames_and_some_are_left() {
    for queues in [2, 4, 8, 16, 32, 128] {
        for parked in [1, 4096, 65_536] {
            let (pool, xsk) = super::instance::memory_for(queues, 1500, parked);
            let rest = pool.frames - queues * xsk.ring;
            // A port leaves a part of the pool alone, see `Queue::refill`.
            let kept = pool.frames / 32;
            assert!(rest - kept > parked as u32 + 2 * xsk.ring, "{queues}");
            assert!(xsk.ring.is_power_of_two() && pool.frames < 1 << 18);
        }
    }
    assert_eq!(
        super::instance::memory_for(2, 1500, 4096).0,
        PoolConfig::default()
    );
    assert_eq!(
        super::instance::memory_for(2, 3000, 4096).0.frame_size,
        4096
    );
}
