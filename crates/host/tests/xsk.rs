//! AF_XDP over a real veth pair: packets, frames and rings.

mod support;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use stateplane_flow::PortId;
use stateplane_flow::fast::{KeyMask, PortSettings, Seed, Settings};
use stateplane_host::bpf::fastpath::{FastCounters, FastPath, Part, PortProgram, Prefix, Sizes};
use stateplane_host::bpf::{AttachAs, AttachMode};
use stateplane_host::ethtool;
use stateplane_host::frame::{Frame, FramePool, PoolConfig};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::poll;
use stateplane_host::port::{Port, PortStats};
use stateplane_host::xsk::{Share, XskConfig, XskMode, XskPort};
use stateplane_wire::eth::Mac;
use support::{End, cable, can_make_interfaces};

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A host and a gateway, with the host's default route through the gateway.
fn world() -> (Namespace, Namespace) {
    let host = Namespace::create("host").unwrap();
    let gateway = Namespace::create("gateway").unwrap();
    let near = End {
        namespace: &host,
        name: "host0",
        mac: HOST_MAC,
        address: Some(HOST),
    };
    let far = End {
        namespace: &gateway,
        name: "gw0",
        mac: GATEWAY,
        address: Some(LOCAL),
    };
    cable(&near, &far).unwrap();
    host.run(|| Netlink::open()?.add_route(Ipv4Addr::UNSPECIFIED, 0, LOCAL))
        .unwrap();
    (host, gateway)
}

/// Turns a UDP packet round: addresses and ports swapped leave every checksum right.
fn turn_round(packet: &mut [u8]) {
    let (destination, source) = packet[..12].split_at_mut(6);
    destination.swap_with_slice(source);
    let (source, destination) = packet[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = packet[34..38].split_at_mut(2);
    source.swap_with_slice(destination);
}

/// Small rings, so that positions go round them hundreds of times.
fn small() -> (FramePool, XskConfig) {
    let pool = PoolConfig {
        frames: 512,
        frame_size: 2048,
    };
    let config = XskConfig {
        ring: 64,
        ..XskConfig::default()
    };
    (FramePool::new(pool).unwrap(), config)
}

/// Everything is back once the ports are closed.
fn close_all(ports: Vec<XskPort>, mut pool: FramePool) {
    assert_eq!(pool.census().held + pool.census().parked, 0);
    pool.check();
    ports.into_iter().for_each(|port| port.close(&mut pool));
    assert_eq!(pool.census().free, pool.size(), "a frame was lost");
    pool.check();
}

/// Directs the function's packets to `port`'s sockets, with the fast path off.
fn program(port: &XskPort, pool: &[Prefix], locals: &[Ipv4Addr]) -> PortProgram {
    program_of(port, &[], pool, locals)
}

/// The same, and of others that have other queues of its interface.
fn program_of(
    port: &XskPort,
    others: &[&XskPort],
    pool: &[Prefix],
    locals: &[Ipv4Addr],
) -> PortProgram {
    let fast_path = FastPath::new(&Sizes::LEAST).unwrap();
    let mut settings = Settings::new(fast_path.words(Part::Settings), Seed::default()).unwrap();
    let all = PortSettings {
        station: Mac(port.mac().0),
        mask: KeyMask::ALL,
        ipv4: true,
        ipv6: false,
        tagged: false,
        partial_checksums: false,
    };
    settings.set_port(PortId::INSIDE, Some(&all));
    for other in others {
        fast_path.set_sockets(PortId::INSIDE, other).unwrap();
    }
    PortProgram::attach(
        port,
        &fast_path,
        PortId::INSIDE,
        pool,
        locals,
        AttachAs::Auto,
    )
    .unwrap()
}

/// Turns every packet round until told to stop: the packets of all queues, each of which belongs to
/// one of so many owners, with memory of its own.
fn mirror(ready: &Barrier, stop: &AtomicBool, owners: u32) -> (Vec<PortStats>, FastCounters) {
    let mut owned: Vec<(FramePool, XskPort)> = (0..owners)
        .map(|first| {
            let (mut pool, mut config) = small();
            config.share = Share { first, of: owners };
            let port = XskPort::open(&mut pool, "gw0", &config).unwrap();
            assert_eq!(port.mode(), XskMode::Copy, "veth offers no zero-copy");
            assert_eq!((port.mac().0, port.mtu()), (GATEWAY, 1500));
            assert!(port.sockets().all(|(queue, _)| queue % owners == first));
            (pool, port)
        })
        .collect();
    let others: Vec<&XskPort> = owned[1..].iter().map(|(_, port)| port).collect();
    let program = program_of(&owned[0].1, &others, &[], &[LOCAL]);
    assert_eq!(program.attachment().mode(), AttachMode::Native);
    ready.wait();
    let mut batch: Vec<Frame> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let fds: Vec<_> = owned.iter().map(|(_, port)| port.fd().unwrap()).collect();
        poll::wait(&fds, Some(Duration::from_millis(20))).unwrap();
        for (pool, port) in &mut owned {
            port.receive(pool, 32, &mut batch);
            for frame in &batch {
                turn_round(pool.bytes_mut(frame));
            }
            port.transmit(pool, &mut batch);
            port.flush();
            batch.drain(..).for_each(|frame| pool.give(frame));
        }
    }
    let stats = owned.iter().map(|(_, port)| port.stats()).collect();
    let counters = program.counters().unwrap();
    for (pool, port) in owned {
        close_all(vec![port], pool);
    }
    (stats, counters)
}

/// Sends `packets` in bursts and awaits each burst's answers; how many came.
fn converse(packets: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind((HOST, 5000))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Stays with the gateway's kernel, as does the ARP before it.
    socket.send_to(b"yours", (LOCAL, 9))?;
    let (mut answered, mut buffer) = (0, [0; 2000]);
    for number in 0..packets {
        let text = vec![number as u8; 18 + (number % 1400) as usize];
        socket.send_to(&text, (FAR, 9))?;
        if number % 16 == 15 {
            for expected in number - 15..=number {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    return Ok(answered);
                };
                assert_eq!(from.ip(), FAR);
                assert_eq!(len, 18 + (expected % 1400) as usize, "order is kept");
                answered += 1;
            }
        }
    }
    Ok(answered)
}

#[test]
fn packets_make_the_round_trip_and_no_frame_is_lost() {
    const PACKETS: u32 = 20_000;
    if !can_make_interfaces() {
        return;
    }
    let (host, gateway) = world();
    let (ready, stop) = (Arc::new(Barrier::new(2)), Arc::new(AtomicBool::new(false)));
    let (is_ready, must_stop) = (Arc::clone(&ready), Arc::clone(&stop));
    let mirror = gateway
        .spawn_thread("mirror", move || mirror(&is_ready, &must_stop, 1))
        .unwrap();
    ready.wait();
    let answered = host.run(|| converse(PACKETS)).unwrap();
    stop.store(true, Ordering::Relaxed);
    let (stats, counters) = mirror.join().unwrap().unwrap();
    println!("{stats:?} {counters:?}");
    let [stats] = stats[..] else {
        panic!("one owner of all queues");
    };
    assert_eq!(answered, PACKETS);
    assert_eq!(stats.received, u64::from(PACKETS));
    assert_eq!(stats.sent, u64::from(PACKETS));
    assert_eq!(counters.function, u64::from(PACKETS));
    assert!(counters.kernel >= 2, "ARP and the gateway's own packet");
    assert!(stats.kicks > 0);
}

/// Several queues: one socket each. One descriptor to wait for all and one memory, or as many as
/// there are owners.
#[test]
fn every_queue_of_an_interface_is_served() {
    const FLOWS: u16 = 24;
    if !can_make_interfaces() {
        return;
    }
    for owners in [1, 2] {
        let (host, gateway) = world();
        // No more queues than processors can be had on veth.
        for (namespace, name) in [(&gateway, "gw0"), (&host, "host0")] {
            if let Err(error) = namespace.run(|| ethtool::set_queues(name, 2)) {
                println!("skipped: no second queue on veth here: {error}");
                return;
            }
        }
        let (ready, stop) = (Arc::new(Barrier::new(2)), Arc::new(AtomicBool::new(false)));
        let (is_ready, must_stop) = (Arc::clone(&ready), Arc::clone(&stop));
        let mirror = gateway
            .spawn_thread("mirror", move || {
                assert_eq!(ethtool::receive_queues("gw0").unwrap(), 2);
                assert_eq!(ethtool::send_queues("gw0").unwrap(), 2);
                let (mut pool, mut config) = small();
                config.share = Share { first: 2, of: 3 };
                let error = XskPort::open(&mut pool, "gw0", &config).unwrap_err();
                assert!(error.to_string().contains("none of them"), "{error}");
                mirror(&is_ready, &must_stop, owners)
            })
            .unwrap();
        ready.wait();
        // The kernel spreads flows over queues; with so many, both have some.
        let answered = host.run(|| {
            let ask = |port: u16| {
                let socket = UdpSocket::bind((HOST, port))?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                socket.send_to(b"well?", (FAR, 9))?;
                Ok(socket.recv_from(&mut [0; 64]).is_ok())
            };
            (0..FLOWS)
                .map(|flow| ask(5000 + 37 * flow))
                .collect::<io::Result<Vec<bool>>>()
        });
        stop.store(true, Ordering::Relaxed);
        let (stats, counters) = mirror.join().unwrap().unwrap();
        println!("{stats:?}");
        assert_eq!(answered.unwrap(), vec![true; usize::from(FLOWS)]);
        let received: u64 = stats.iter().map(|stats| stats.received).sum();
        assert_eq!((received, counters.no_socket), (u64::from(FLOWS), 0));
        assert!(stats.iter().all(|stats| stats.received > 0), "{stats:?}");
    }
}

/// Carries every packet from one port to the other, towards a fixed neighbour, in the
/// frame it arrived in.
fn forward(ready: &Barrier, stop: &AtomicBool) -> [PortStats; 2] {
    let (mut pool, config) = small();
    let open = |pool: &mut FramePool, name| XskPort::open(pool, name, &config).unwrap();
    let mut ports = vec![open(&mut pool, "gw0"), open(&mut pool, "gw1")];
    let _programs: Vec<PortProgram> = ports
        .iter()
        .map(|port| program(port, &[], &[LOCAL, OUTSIDE]))
        .collect();
    ready.wait();
    let mut batch: Vec<Frame> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let fds: Vec<_> = ports.iter().filter_map(|port| port.fd()).collect();
        poll::wait(&fds, Some(Duration::from_millis(20))).unwrap();
        for (from, to, next) in [(0, 1, SERVER_MAC), (1, 0, HOST_MAC)] {
            ports[from].receive(&mut pool, 32, &mut batch);
            for frame in &batch {
                let packet = pool.bytes_mut(frame);
                packet[..6].copy_from_slice(&next);
                packet[6..12].copy_from_slice(&GATEWAY);
            }
            ports[to].transmit(&mut pool, &mut batch);
            // What does not fit is dropped: TCP sends it again.
            batch.drain(..).for_each(|frame| pool.give(frame));
            ports[to].flush();
        }
    }
    let stats = [ports[0].stats(), ports[1].stats()];
    close_all(ports, pool);
    stats
}

/// Real TCP between two kernels, through two ports that share one pool.
#[test]
fn tcp_crosses_two_ports_that_share_their_frames() {
    const BYTES: usize = 8 << 20;
    if !can_make_interfaces() {
        return;
    }
    let (host, gateway) = world();
    let server = Namespace::create("server").unwrap();
    let near = End {
        namespace: &server,
        name: "server0",
        mac: SERVER_MAC,
        address: Some(SERVER),
    };
    let far = End {
        namespace: &gateway,
        name: "gw1",
        mac: GATEWAY,
        address: Some(OUTSIDE),
    };
    cable(&near, &far).unwrap();
    server
        .run(|| Netlink::open()?.add_route(Ipv4Addr::UNSPECIFIED, 0, OUTSIDE))
        .unwrap();
    let (ready, stop) = (Arc::new(Barrier::new(2)), Arc::new(AtomicBool::new(false)));
    let (is_ready, must_stop) = (Arc::clone(&ready), Arc::clone(&stop));
    let forwarder = gateway
        .spawn_thread("forward", move || forward(&is_ready, &must_stop))
        .unwrap();
    let listener = server.run(|| TcpListener::bind((SERVER, 80))).unwrap();
    let sender = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let pattern: Vec<u8> = (0..BYTES).map(|at| (at / 251) as u8 ^ at as u8).collect();
        stream.write_all(&pattern).unwrap();
        pattern
    });
    ready.wait();
    let mut stream = host.run(|| TcpStream::connect((SERVER, 80))).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(received == sender.join().unwrap(), "the bytes are intact");
    stop.store(true, Ordering::Relaxed);
    let stats = forwarder.join().unwrap().unwrap();
    println!("{stats:?}");
    assert!(stats[1].received >= (BYTES / 1460) as u64);
}

/// Requests for pool addresses reach the function, those for the interface's own
/// address are answered by the kernel.
#[test]
fn arp_for_pool_addresses_reaches_the_function() {
    if !can_make_interfaces() {
        return;
    }
    let (host, gateway) = world();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let function = gateway
        .spawn_thread("function", move || {
            let mut pool = FramePool::new(PoolConfig {
                frames: 512,
                frame_size: 2048,
            })
            .unwrap();
            let config = XskConfig {
                ring: 64,
                copy_only: true,
                ..XskConfig::default()
            };
            let mut port = XskPort::open(&mut pool, "gw0", &config).unwrap();
            let first = Ipv4Addr::new(10, 1, 0, 64);
            let prefixes = [Prefix {
                address: first,
                length: 28,
            }];
            let program = program(&port, &prefixes, &[LOCAL]);
            ready.send(()).unwrap();
            let (mut batch, start) = (Vec::new(), Instant::now());
            while batch.is_empty() && start.elapsed() < Duration::from_secs(3) {
                port.receive(&mut pool, 32, &mut batch);
                std::thread::sleep(Duration::from_millis(1));
            }
            let packets: Vec<Vec<u8>> = batch
                .drain(..)
                .map(|frame| {
                    let bytes = pool.bytes(&frame).to_vec();
                    pool.give(frame);
                    bytes
                })
                .collect();
            (packets, program.counters().unwrap())
        })
        .unwrap();
    is_ready.recv().unwrap();
    host.run(|| {
        let socket = UdpSocket::bind((HOST, 5000)).unwrap();
        socket.send_to(b"who are you", (LOCAL, 9)).unwrap();
        socket
            .send_to(b"nobody's", (Ipv4Addr::new(10, 1, 0, 80), 9))
            .unwrap();
        socket
            .send_to(b"the pool's", (Ipv4Addr::new(10, 1, 0, 79), 9))
            .unwrap();
        Ok(())
    })
    .unwrap();
    let (packets, counters) = function.join().unwrap().unwrap();
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0][12..14], [8, 6]);
    assert_eq!(packets[0][38..42], [10, 1, 0, 79]);
    assert_eq!(counters.arp, 1);
}
