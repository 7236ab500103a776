//! Real kernels' packets: forwarded by the fast path between two of them, and recorded for the
//! comparison with the reference.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use stateplane_flow::fast::packet::Family;
use stateplane_flow::fast::{
    Action, Entry, Guard, Hop, KeyMask, NextHop, PortSettings, Punt, TCP_EVENTS, Verdict, Vlans,
};
use stateplane_flow::{Endpoint, FlowAction, FlowKey, PortId, Protocol};
use stateplane_host::bpf::AttachAs;
use stateplane_host::bpf::fastpath::{FastCounters, PortProgram, Prefix};
use stateplane_host::clock;
use stateplane_host::frame::{Frame, FramePool, PoolConfig};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::poll;
use stateplane_host::port::Port;
use stateplane_host::xsk::{XskConfig, XskPort};
use stateplane_wire::eth::Mac;
use stateplane_wire::packet::Headers;

use crate::support::{End, Random, cable, can_make_interfaces};
use crate::world::{PORT, STATION, World, seconds};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The gateway's own, and what it translates to.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Of the host's connection.
const CLIENT_PORT: u16 = 5000;
const BYTES: usize = 4 << 20;

/// A host, a gateway and a server.
fn network() -> [Namespace; 3] {
    let [host, gateway, server] =
        ["host", "gateway", "server"].map(|name| Namespace::create(name).unwrap());
    let connect = |namespace, name, mac, address, near, own| {
        let end = End {
            namespace,
            name,
            mac,
            address: Some(address),
        };
        let gateway = End {
            namespace: &gateway,
            name: near,
            mac: STATION.0,
            address: Some(own),
        };
        cable(&end, &gateway).unwrap();
        let route = || Netlink::open()?.add_route(Ipv4Addr::UNSPECIFIED, 0, own);
        namespace.run(route).unwrap();
    };
    connect(&host, "host0", HOST_MAC, HOST, "gw0", LOCAL);
    connect(&server, "server0", SERVER_MAC, SERVER, "gw1", OUTSIDE);
    [host, gateway, server]
}

/// The translation both ways.
fn translation() -> [FlowAction; 2] {
    let outward = FlowAction {
        source: Some(Endpoint {
            addr: OUTSIDE,
            port: 6000,
        }),
        destination: None,
        ttl: 1,
        out: PortId::OUTSIDE,
    };
    let inward = FlowAction {
        source: None,
        destination: Some(Endpoint {
            addr: HOST,
            port: CLIENT_PORT,
        }),
        ttl: 1,
        out: PortId::INSIDE,
    };
    [outward, inward]
}

/// The tables with the connection's two flows.
fn translator() -> World {
    let mut world = World::new(&mut Random(77));
    for (port, mask, mac) in [
        (PortId::INSIDE, KeyMask::SOURCE, HOST_MAC),
        (PortId::OUTSIDE, KeyMask::DESTINATION, SERVER_MAC),
    ] {
        world
            .settings
            .set_port(port, Some(&PortSettings { mask, ..PORT }));
        let hop = NextHop {
            destination: Mac(mac),
            source: STATION,
            device: u16::from(port.0),
            mtu: 1500,
        };
        world.hops.set(u16::from(port.0), &hop).unwrap();
    }
    // By destination one way, to the one host the other way.
    world.routes4.insert(SERVER, PortId::OUTSIDE, 1);
    let hops = [Hop::ByDestination(PortId::OUTSIDE), Hop::Index(0)];
    let end = |addr, port| Endpoint { addr, port };
    let ends = [
        (end(HOST, CLIENT_PORT), Endpoint::ANY),
        (Endpoint::ANY, end(OUTSIDE, 6000)),
    ];
    let until = clock::now() + seconds(1000);
    for (number, action) in translation().iter().enumerate() {
        let flow = FlowKey {
            protocol: Protocol::Tcp,
            source: ends[number].0,
            destination: ends[number].1,
        };
        let key = stateplane_flow::fast::Key::of(&flow, PortId(number as u8));
        let action = Action::of(action, hops[number], Guard::NONE);
        world
            .flows4
            .insert(clock::now(), &key, &Entry { action, until })
            .unwrap();
    }
    world
}

/// What a gateway's slow path saw and its fast path did.
struct Gateway {
    frames: Vec<(PortId, Vec<u8>)>,
    counters: [FastCounters; 2],
}

/// Serves what the fast path leaves: forwards each packet, translated if `translate` says so,
/// and keeps a copy.
fn serve(world: &World, translate: bool, ready: &Barrier, stop: &AtomicBool) -> Gateway {
    let mut pool = FramePool::new(PoolConfig {
        frames: 1024,
        frame_size: 2048,
    })
    .unwrap();
    let config = XskConfig {
        ring: 256,
        ..XskConfig::default()
    };
    let names = ["gw0", "gw1"];
    let mut ports = names.map(|name| XskPort::open(&mut pool, name, &config).unwrap());
    let pool_addresses: &[Prefix] = if translate {
        &[Prefix {
            address: OUTSIDE,
            length: 32,
        }]
    } else {
        &[]
    };
    let programs: Vec<PortProgram> = ports
        .iter()
        .zip([PortId::INSIDE, PortId::OUTSIDE])
        .map(|(port, id)| {
            let locals = [LOCAL, OUTSIDE];
            let (path, how) = (&world.fast_path, AttachAs::Auto);
            PortProgram::attach(port, path, id, pool_addresses, &locals, how).unwrap()
        })
        .collect();
    ready.wait();
    let actions = translation();
    let (mut batch, mut frames): (Vec<Frame>, _) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let fds: Vec<_> = ports.iter().filter_map(|port| port.fd()).collect();
        poll::wait(&fds, Some(Duration::from_millis(20))).unwrap();
        for (from, to, next) in [(0, 1, SERVER_MAC), (1, 0, HOST_MAC)] {
            ports[from].receive(&mut pool, 32, &mut batch);
            for frame in &batch {
                let packet = pool.bytes_mut(frame);
                frames.push((PortId(from as u8), packet.to_vec()));
                if translate {
                    let headers = Headers::parse(packet).unwrap();
                    actions[from].apply(packet, &headers).unwrap();
                }
                packet[..6].copy_from_slice(&next);
                packet[6..12].copy_from_slice(&STATION.0);
            }
            ports[to].transmit(&mut pool, &mut batch);
            batch.drain(..).for_each(|frame| pool.give(frame));
            ports[to].flush();
        }
    }
    let counters = [0, 1].map(|number: usize| programs[number].counters().unwrap());
    drop(programs);
    ports.into_iter().for_each(|port| port.close(&mut pool));
    Gateway { frames, counters }
}

/// Runs `traffic`, between the host and the server, through a gateway.
fn through(
    world: World,
    translate: bool,
    traffic: impl FnOnce(&Namespace, &Namespace),
) -> (World, Gateway) {
    let [host, gateway, server] = network();
    let (ready, stop) = (Arc::new(Barrier::new(2)), Arc::new(AtomicBool::new(false)));
    let (is_ready, must_stop) = (Arc::clone(&ready), Arc::clone(&stop));
    let thread = gateway
        .spawn_thread("gateway", move || {
            let served = serve(&world, translate, &is_ready, &must_stop);
            (world, served)
        })
        .unwrap();
    ready.wait();
    traffic(&host, &server);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap().unwrap()
}

/// Sends a pattern from the server to the host, and checks it.
fn transfer(host: &Namespace, server: &Namespace, bytes: usize) {
    let listener = server.run(|| TcpListener::bind((SERVER, 80))).unwrap();
    let sender = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let pattern: Vec<u8> = (0..bytes).map(|at| (at / 251) as u8 ^ at as u8).collect();
        stream.write_all(&pattern).unwrap();
        (pattern, from)
    });
    let mut stream = host.run(|| connect_from(CLIENT_PORT)).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let (pattern, from) = sender.join().unwrap();
    assert!(received == pattern, "the bytes are intact");
    println!("the server saw {from}");
}

/// A connection whose local port is known.
fn connect_from(port: u16) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&fd, &SocketAddrV4::new(HOST, port))?;
    connect(&fd, &SocketAddrV4::new(SERVER, 80))?;
    Ok(TcpStream::from(fd))
}

/// A connection's beginning and end go by the slow path, all between by the fast path, and the
/// kernels at both ends find every checksum right.
#[test]
fn a_real_connection_is_translated_by_the_fast_path() {
    if !can_make_interfaces() {
        return;
    }
    let (_, gateway) = through(translator(), true, |host, server| {
        transfer(host, server, BYTES);
    });
    let [inside, outside] = gateway.counters.map(|counters| counters.fast);
    println!("inside {inside:?}, outside {outside:?}");
    let segments = (BYTES / 1460) as u64;
    assert!(outside.0[0] >= segments && inside.0[0] > 0);
    assert!(outside.punts(Punt::TcpEvent) > 0 && inside.punts(Punt::TcpEvent) > 0);
    let slow = gateway.frames.len() as u64;
    assert!(slow < 20, "{slow} packets by the slow path");
}

/// Everything two kernels say to each other meets the program and the reference.
#[test]
fn recorded_packets_have_the_same_fate_in_both() {
    if !can_make_interfaces() {
        return;
    }
    let mut world = World::new(&mut Random(78));
    world.settings.enable(false);
    let (mut world, gateway) = through(world, false, |host, server| {
        transfer(host, server, 200_000);
        host.run(|| datagrams().and_then(|()| ping())).unwrap();
    });
    let until = clock::now() + seconds(1000);
    let mut random = Random(79);
    // Each flow gets an entry that translates both ends.
    for (port, frame) in &gateway.frames {
        let Ok(packet) = Ipv4Addr::parse(frame, 14) else {
            continue;
        };
        let action = Action {
            source: Some(OUTSIDE),
            source_port: Some(random.next() as u16),
            destination: random.one_in(2).then_some(HOST),
            destination_port: random.one_in(2).then_some(99),
            ttl: 1,
            tcp_events: TCP_EVENTS,
            ..Action::forward(Hop::Index(0), Guard::NONE)
        };
        let key = packet.key(*port, Vlans(0, 0));
        let _ = world
            .flows4
            .insert(clock::now(), &key, &Entry { action, until });
    }
    world.settings.enable(true);
    let mut reference = world.reference();
    reference.resume(&world);
    let mut seen = [0; 4];
    for (port, frame) in &gateway.frames {
        let class = match reference.compare(&world, frame, *port) {
            Verdict::Redirect { .. } => 0,
            Verdict::Function(Punt::TcpEvent) => 1,
            Verdict::Function(Punt::Icmp) => 2,
            _ => 3,
        };
        seen[class] += 1;
    }
    reference.compare_notes(&world);
    println!("redirected, TCP events, ICMP errors, other: {seen:?}");
    assert!(seen[0] > 150 && seen[1] >= 3 && seen[2] > 0, "{seen:?}");
}

/// Datagrams of many lengths to a port where nobody listens: answered by ICMP errors.
fn datagrams() -> io::Result<()> {
    let socket = UdpSocket::bind((HOST, 0))?;
    socket.connect((SERVER, 9))?;
    for len in 0..100 {
        // The errors come back on the next call.
        let _ = socket.send(&vec![len as u8; 13 * len]);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Echo requests, which the server's kernel answers.
fn ping() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, connect, ipproto, socket};
    let fd = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    connect(&fd, &SocketAddrV4::new(SERVER, 0))?;
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    for number in 0..20u8 {
        let mut message = [8, 0, 0, 0, 0x12, 0x34, 0, number, number, 0];
        let sum = stateplane_wire::checksum::internet(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        socket.send(&message)?;
        socket.recv(&mut [0; 200])?;
    }
    Ok(())
}
