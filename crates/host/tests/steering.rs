//! The XDP switch: its decisions against the reference core, bit for bit, and its
//! forwarding over real interfaces.

mod support;

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stateplane_flow::steering::{BUCKETS, NOBODY, Side, Steer, Table, inside_bucket, steer};
use stateplane_host::bpf::AttachMode;
use stateplane_host::bpf::steering::{Role, Steering, SteeringProbe, SwitchPort};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use support::{End, Random, cable, can_make_interfaces};

/// An IPv4 packet, mostly sound, with every field that steering looks at varied.
fn ipv4(random: &mut Random, depth: u32) -> Vec<u8> {
    let options = if random.one_in(4) {
        4 * random.below(11) as usize
    } else {
        0
    };
    let header = 20 + options;
    let payload = 8 + random.below(64) as usize;
    let mut packet = vec![0; header + payload];
    random.fill(&mut packet);
    packet[0] = 0x40 | (header / 4) as u8;
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let fragment: u16 = match random.below(8) {
        0 => 0x2000,
        1 => random.below(0x2000) as u16,
        2 => 0x4000,
        _ => 0,
    };
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = [6, 17, 1, 1, 6, 17, 47, 0][random.below(8) as usize];
    if packet[9] == 1 {
        packet[header] = [0, 8, 3, 11, 12, 3, 11, 5, 13][random.below(9) as usize];
        let is_error = matches!(packet[header], 3 | 11 | 12);
        if is_error && depth == 0 {
            packet.truncate(header + 8);
            packet.extend(ipv4(random, 1));
            let total = packet.len() as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
        }
    }
    packet
}

/// A frame of at least 14 bytes (the kernel runs no shorter ones), damaged at times.
fn frame(random: &mut Random) -> Vec<u8> {
    let mut frame = vec![0; 14];
    random.fill(&mut frame);
    if !random.one_in(10) {
        frame[0] &= !1;
    }
    let kind: [u8; 2] = match random.below(20) {
        0 => [8, 6],
        1 => [0x86, 0xdd],
        2 => [0x81, 0],
        _ => [8, 0],
    };
    frame[12..].copy_from_slice(&kind);
    frame.extend(ipv4(random, 0));
    match random.below(8) {
        // Truncated anywhere.
        0 => frame.truncate(14 + random.below(frame.len() as u64 - 13) as usize),
        // Padded.
        1 => frame.extend(vec![0xee; random.below(40) as usize]),
        // One byte of the headers wrong.
        2 => {
            let at = random.below(frame.len().min(70) as u64) as usize;
            frame[at] = random.next() as u8;
        }
        _ => {}
    }
    frame
}

#[test]
fn the_program_decides_as_the_reference_does() {
    const FRAMES: u32 = 40_000;
    if !can_make_interfaces() {
        return;
    }
    let probe = SteeringProbe::load().unwrap();
    let mut random = Random(7);
    let mut seen = [0u32; 4];
    let mut buckets = vec![false; BUCKETS];
    for number in 0..FRAMES {
        let frame = frame(&mut random);
        for side in [Side::Inside, Side::Outside] {
            let expected = steer(&frame, side);
            let found = probe.decide(&frame, side).unwrap();
            assert_eq!(
                found,
                expected.code(),
                "frame {number}, {side:?}: {expected:?} {frame:02x?}"
            );
            let class = match expected {
                Steer::Bucket(bucket) => {
                    buckets[usize::from(bucket)] = true;
                    0
                }
                Steer::Flood => 1,
                Steer::Pass => 2,
                Steer::Drop => 3,
            };
            seen[class] += 1;
        }
    }
    println!("buckets, floods, passes, drops: {seen:?}");
    assert!(
        seen.iter().all(|&count| count > FRAMES / 50),
        "every answer was exercised: {seen:?}"
    );
    assert!(buckets.iter().all(|&hit| hit), "every bucket was hit");
}

const VIRTUAL: [u8; 6] = [2, 0, 0, 0, 0xfe, 1];
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// Two clients and a server around a switch with two instances that carry the same
/// addresses.
struct World {
    switch: Namespace,
    clients: [Namespace; 2],
    server: Namespace,
    instances: [Namespace; 2],
}

fn world() -> World {
    let create = |name| Namespace::create(name).unwrap();
    let world = World {
        switch: create("switch"),
        clients: [create("client0"), create("client1")],
        server: create("server"),
        instances: [create("instance0"), create("instance1")],
    };
    let connect = |port: &str, namespace, name, mac, address| {
        let near = End {
            namespace: &world.switch,
            name: port,
            mac: [2, 0, 0, 0, 1, 1],
            address: None,
        };
        cable(
            &near,
            &End {
                namespace,
                name,
                mac,
                address: Some(address),
            },
        )
        .unwrap();
    };
    connect(
        "cl0",
        &world.clients[0],
        "eth0",
        [2, 0, 0, 0, 2, 0],
        CLIENTS[0],
    );
    connect(
        "cl1",
        &world.clients[1],
        "eth0",
        [2, 0, 0, 0, 2, 1],
        CLIENTS[1],
    );
    connect("sv0", &world.server, "eth0", [2, 0, 0, 0, 2, 9], SERVER);
    for (namespace, [inside, outside]) in
        world.instances.iter().zip([["g0i", "g0o"], ["g1i", "g1o"]])
    {
        connect(inside, namespace, "inside", VIRTUAL, INSIDE);
        connect(outside, namespace, "outside", VIRTUAL, OUTSIDE);
    }
    world
}

fn switch_ports() -> Vec<SwitchPort> {
    let port = |interface: &str, side, role| SwitchPort {
        interface: interface.into(),
        side,
        role,
    };
    vec![
        port("cl0", Side::Inside, Role::Host),
        port("cl1", Side::Inside, Role::Host),
        port("sv0", Side::Outside, Role::Host),
        port("g0i", Side::Inside, Role::Instance(0)),
        port("g0o", Side::Outside, Role::Instance(0)),
        port("g1i", Side::Inside, Role::Instance(1)),
        port("g1o", Side::Outside, Role::Instance(1)),
    ]
}

/// Answers every datagram to `address` with the name `number` until told to stop.
fn echo(namespace: &Namespace, address: Ipv4Addr, number: u8, stop: &Arc<AtomicBool>) {
    let socket = namespace.run(|| UdpSocket::bind((address, 7))).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&[number], from).unwrap();
            }
        }
    });
}

/// Which of two instances answers at `to`, for sockets bound to each of `ports`.
fn answers(host: &Namespace, from: Ipv4Addr, to: Ipv4Addr, ports: &[u16]) -> Vec<Option<u8>> {
    let ask = |port: u16| {
        let socket = UdpSocket::bind((from, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"who", (to, 7))?;
        let mut buffer = [0; 64];
        Ok(socket.recv_from(&mut buffer).ok().map(|_| buffer[0]))
    };
    host.run(|| {
        ports
            .iter()
            .map(|&port| ask(port))
            .collect::<io::Result<_>>()
    })
    .unwrap()
}

#[test]
fn flows_go_to_the_instance_that_owns_their_bucket_and_answers_to_their_host() {
    if !can_make_interfaces() {
        return;
    }
    let world = world();
    let mut switch = world
        .switch
        .run(|| Ok(Steering::new(&switch_ports()).unwrap()))
        .unwrap();
    assert!(
        switch
            .attachments()
            .iter()
            .all(|port| port.mode() == AttachMode::Native)
    );
    let stop = Arc::new(AtomicBool::new(false));
    for (number, instance) in (0..).zip(&world.instances) {
        echo(instance, INSIDE, number, &stop);
        echo(instance, OUTSIDE, number, &stop);
    }
    echo(&world.clients[0], CLIENTS[0], 100, &stop);

    // Nobody owns a bucket yet.
    let ports: Vec<u16> = (20_000..20_040).collect();
    let [one, two] = &world.clients;
    assert_eq!(answers(one, CLIENTS[0], INSIDE, &ports[..1]), [None]);
    assert!(switch.counters().unwrap().nobody >= 1);

    let both = Table::compute(&[0, 1]);
    switch.set_table(&both).unwrap();
    for (client, address) in [(one, CLIENTS[0]), (two, CLIENTS[1])] {
        let owner = |&port: &u16| both.inside[usize::from(inside_bucket(17, address.into(), port))];
        let expected: Vec<_> = ports.iter().map(owner).map(Some).collect();
        assert_eq!(answers(client, address, INSIDE, &ports), expected);
        assert!(expected.contains(&Some(0)) && expected.contains(&Some(1)));
    }
    // From the outside by destination: one port, one owner.
    let owner = both.owner_of_block(OUTSIDE.into(), 0);
    assert_eq!(
        answers(&world.server, SERVER, OUTSIDE, &ports[..4]),
        [Some(owner); 4]
    );
    // Hosts of one side reach each other.
    assert_eq!(
        answers(two, CLIENTS[1], CLIENTS[0], &ports[..2]),
        [Some(100); 2]
    );

    // Those behind the same port have met already.
    let itself = Ipv4Addr::new(10, 1, 0, 50);
    one.run(|| {
        Netlink::open()?.add_neighbour("eth0", itself, [2, 0, 0, 0, 2, 0])?;
        UdpSocket::bind((CLIENTS[0], 0))?.send_to(b"echo?", (itself, 7))
    })
    .unwrap();

    // An instance is gone: the very next packet goes to the other.
    for live in [1, 0] {
        switch.set_table(&Table::compute(&[live])).unwrap();
        assert_eq!(
            answers(one, CLIENTS[0], INSIDE, &ports),
            vec![Some(live); ports.len()]
        );
        assert_eq!(
            answers(&world.server, SERVER, OUTSIDE, &ports[..2]),
            [Some(live); 2]
        );
    }
    stop.store(true, Ordering::Relaxed);
    let counters = switch.counters().unwrap();
    println!("{counters:?}");
    assert!(counters.steered >= 160 && counters.to_host >= 160 && counters.flooded > 0);
    assert_eq!(
        (counters.malformed, counters.failed, counters.filtered),
        (0, 0, 1)
    );
}

#[test]
fn a_switch_takes_over_every_frame_at_once() {
    if !can_make_interfaces() {
        return;
    }
    let world = world();
    let mut switch = world
        .switch
        .run(|| Ok(Steering::new(&switch_ports()).unwrap()))
        .unwrap();
    let tables = [
        Table::pinned(0, 1),
        Table::pinned(1, 0),
        Table::pinned(NOBODY, NOBODY),
    ];
    let start = Instant::now();
    for round in 0..300 {
        switch.set_table(&tables[round % 3]).unwrap();
    }
    let each = start.elapsed() / 300;
    println!("a table switch takes {each:?}");
    assert!(each < Duration::from_millis(5), "{each:?}");
}

#[test]
fn more_ports_than_the_switch_has_are_refused() {
    if !can_make_interfaces() {
        return;
    }
    let world = world();
    let refused = |role| {
        let port = SwitchPort {
            interface: "cl0".into(),
            side: Side::Inside,
            role,
        };
        let ports = vec![port; 65];
        world
            .switch
            .run(|| Ok(Steering::new(&ports).unwrap_err().to_string()))
            .unwrap()
    };
    assert!(refused(Role::Host).contains("more than 64 host ports"));
    assert!(refused(Role::Instance(NOBODY)).contains("0 to 254"));
    let missing = SwitchPort {
        interface: "no0".into(),
        side: Side::Inside,
        role: Role::Host,
    };
    let error = world
        .switch
        .run(|| Ok(Steering::new(&[missing]).unwrap_err().to_string()));
    assert!(error.unwrap().contains("no0: No such device"));
}
