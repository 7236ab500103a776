//! AF_XDP over a real veth pair: packets, frames and rings.

mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use stateplane_host::bpf::AttachMode;
use stateplane_host::bpf::punt::{NfProgram, Prefix};
use stateplane_host::frame::{Frame, FramePool, PoolConfig};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::poll;
use stateplane_host::port::Port;
use stateplane_host::xsk::{XskConfig, XskMode, XskPort};
use support::{End, cable, can_make_interfaces};

const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A host and a gateway, with the host's default route through the gateway.
fn world() -> (Namespace, Namespace) {
    let host = Namespace::create("host").unwrap();
    let gateway = Namespace::create("gateway").unwrap();
    let near = End {
        namespace: &host,
        name: "host0",
        mac: [2, 0, 0, 0, 0, 2],
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

#[test]
fn packets_make_the_round_trip_and_no_frame_is_lost() {
    const PACKETS: u32 = 20_000;
    if !can_make_interfaces() {
        return;
    }
    let (host, gateway) = world();
    let mirror = gateway
        .spawn_thread("mirror", || {
            let mut pool = FramePool::new(PoolConfig {
                frames: 512,
                frame_size: 2048,
            })
            .unwrap();
            // Small rings, so that positions go round them hundreds of times.
            let config = XskConfig {
                ring: 64,
                copy_only: false,
            };
            let mut port = XskPort::open(&mut pool, "gw0", &config).unwrap();
            assert_eq!(port.mode(), XskMode::Copy, "veth offers no zero-copy");
            assert_eq!(port.mac().0, GATEWAY);
            assert_eq!(port.mtu(), 1500);
            let program = NfProgram::attach(&port, &[], &[LOCAL]).unwrap();
            assert_eq!(program.attachment().mode(), AttachMode::Native);
            let mut batch: Vec<Frame> = Vec::new();
            let mut idle = Instant::now();
            while idle.elapsed() < Duration::from_millis(700) {
                let fd = port.fd().unwrap();
                poll::wait(&[fd], Some(Duration::from_millis(50))).unwrap();
                port.receive(&mut pool, 32, &mut batch);
                for frame in &batch {
                    turn_round(pool.bytes_mut(frame));
                }
                if port.transmit(&mut pool, &mut batch) > 0 {
                    idle = Instant::now();
                }
                port.flush();
            }
            batch.drain(..).for_each(|frame| pool.give(frame));
            let (stats, counters) = (port.stats(), program.counters().unwrap());
            assert_eq!(pool.census().held + pool.census().parked, 0);
            pool.check();
            port.close(&mut pool);
            assert_eq!(
                pool.census().free,
                pool.size(),
                "closing brings every frame home"
            );
            pool.check();
            (stats, counters)
        })
        .unwrap();
    let answered = host.run(|| {
        let socket = UdpSocket::bind((HOST, 5000)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        // Two packets that never come back: to the gateway itself, and ARP before it.
        socket.send_to(b"yours", (LOCAL, 9)).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let (mut answered, mut buffer) = (0u32, [0; 2000]);
        for number in 0..PACKETS {
            let text = vec![number as u8; 18 + (number % 1400) as usize];
            socket.send_to(&text, (FAR, 9)).unwrap();
            if number % 16 == 15 {
                for expected in number - 15..=number {
                    let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                        break;
                    };
                    assert_eq!(from.ip(), FAR);
                    assert_eq!(len, 18 + (expected % 1400) as usize, "order is kept");
                    answered += 1;
                }
            }
        }
        Ok(answered)
    });
    let answered = answered.unwrap();
    let (stats, counters) = mirror.join().unwrap().unwrap();
    println!("{stats:?} {counters:?}");
    assert_eq!(answered, PACKETS);
    assert_eq!(stats.received, u64::from(PACKETS));
    assert_eq!(stats.sent, u64::from(PACKETS));
    assert_eq!(counters.function, u64::from(PACKETS));
    assert!(
        counters.kernel >= 2,
        "ARP and the gateway's own packet went to the kernel"
    );
    assert!(stats.kicks > 0);
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
            };
            let mut port = XskPort::open(&mut pool, "gw0", &config).unwrap();
            let first = Ipv4Addr::new(10, 1, 0, 64);
            let prefixes = [Prefix {
                address: first,
                length: 28,
            }];
            let program = NfProgram::attach(&port, &prefixes, &[LOCAL]).unwrap();
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

#[test]
fn a_queue_that_is_taken_and_an_interface_that_is_missing_are_named() {
    if !can_make_interfaces() {
        return;
    }
    let (_host, gateway) = world();
    gateway
        .run(|| {
            let mut pool = FramePool::new(PoolConfig {
                frames: 512,
                frame_size: 2048,
            })
            .unwrap();
            let config = XskConfig {
                ring: 64,
                copy_only: false,
            };
            let _first = XskPort::open(&mut pool, "gw0", &config).unwrap();
            let error = XskPort::open(&mut pool, "gw0", &config)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("gw0") && error.contains("another program"),
                "{error}"
            );
            let error = XskPort::open(&mut pool, "gone0", &config)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("gone0") && error.contains("No such device"),
                "{error}"
            );
            let config = XskConfig {
                ring: 100,
                ..config
            };
            let error = XskPort::open(&mut pool, "gw0", &config)
                .unwrap_err()
                .to_string();
            assert!(error.contains("power of two"), "{error}");
            Ok(())
        })
        .unwrap();
}
