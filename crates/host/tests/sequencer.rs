//! The XDP sequencer against the Rust code it stands for: the same packets, byte for byte.

mod support;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use stateplane_base::{ClientId, Incarnation, LogTime, ReplicaId, Time};
use stateplane_group::{Effect, GroupConfig, Message, Peer, Sequencer as Core};
use stateplane_host::bpf::sequencer::{Grant, Identity, MAX_GROUPS, Mode, Sequencer, Target};
use stateplane_host::ethtool::{self, Offload};
use stateplane_host::link::Netlink;
use stateplane_host::netns::Namespace;
use stateplane_host::{ifreq, netdev};
use stateplane_wire::envelope::{Key, ReplayGuard};
use stateplane_wire::group::{Address, Batch, Body, Request};
use stateplane_wire::oum::{self, Groups, Keys, LAST_NUMBER};
use support::{End, Random, cable, can_make_interfaces};

const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), 7500);
const CLIENTS: [u16; 2] = [7, 0xfff3];
const TARGET: Target = Target {
    address: SocketAddrV4::new(Ipv4Addr::new(250, 249, 248, 7), 4321),
    ifindex: 1,
    from: [2, 0, 0, 0, 0, 0x11],
    mac: [2, 0, 0, 0, 0, 0x22],
};
const FORMATION: u64 = 0x0102_0304_0506_0708;
const SESSION: u64 = 0x1112_1314_1516_1718;
const NUMBER: u8 = 5;

const PASS: u32 = 2;
const DROP: u32 = 1;
const REDIRECT: u32 = 4;

fn keys() -> Keys {
    Keys::derive(&Key::new([9; 16]), 3)
}

fn program() -> Sequencer {
    let me = Identity {
        address: HERE,
        number: NUMBER,
        keys: keys(),
    };
    let program = Sequencer::load(&me, &CLIENTS, Mode::Authentic);
    let mut program = program.expect("the kernel takes the program");
    program.set_targets(&[TARGET]).expect("there is room");
    program
}

fn grant(session: u64, ahead_ns: u64, not_before: LogTime, last: &[u64; MAX_GROUPS]) -> Grant<'_> {
    Grant {
        formation: FORMATION,
        session,
        ahead_ns,
        not_before,
        last,
    }
}

/// What stands beside the program: the driver of a sequencer in Rust.
struct Reference {
    core: Core,
    guard: ReplayGuard,
}

impl Reference {
    fn new() -> Self {
        let mut config = GroupConfig::new(3);
        config.sequencers = 16;
        let mut core = Core::new(config, NUMBER, 1 << 32);
        let mut hear = |body| {
            let formation = FORMATION;
            let message = Message { formation, body };
            core.on_message(Time::ZERO, Peer::Replica(ReplicaId(0)), message);
            core.poll_effect()
        };
        // It is not the first, so it waits to be invited, and then asks.
        let asked = match hear(Body::Invite { session: 1 }) {
            Some(Effect::Send { msg, .. }) => msg.body,
            other => panic!("{other:?}"),
        };
        let Body::SessionRequest { nonce } = asked else {
            panic!("{asked:?}");
        };
        let _ = hear(Body::SessionGrant {
            session: SESSION,
            nonce,
            time: LogTime::ZERO,
            runs: true,
        });
        let guard = ReplayGuard::default();
        Self { core, guard }
    }

    /// What becomes of a frame whose packet was stamped at `time`, if it was; then as it
    /// reaches a replica.
    fn handle(&mut self, frame: &[u8], time: LogTime) -> (u32, Vec<u8>) {
        let Some((at, end)) = payload(frame) else {
            return (PASS, frame.to_vec());
        };
        let packet = &frame[at..];
        if packet.len() < 4 || oum::kind(packet) != Some(oum::Kind::Request) {
            return (PASS, frame.to_vec());
        }
        match end.and_then(|end| self.stamp(&frame[at..end], time)) {
            Some(stamped) => {
                let mut out = frame.to_vec();
                out[at..at + stamped.len()].copy_from_slice(&stamped);
                address(&mut out);
                (REDIRECT, out)
            }
            None => (DROP, frame.to_vec()),
        }
    }

    fn stamp(&mut self, packet: &[u8], time: LogTime) -> Option<Vec<u8>> {
        let ask = oum::open_request(&keys(), packet).ok()?;
        let sender = oum::sender_of(ask.client);
        let _ = CLIENTS.iter().find(|client| **client == sender)?;
        let life = oum::life_of(ask.client);
        if !self.guard.accept_from(sender, life, ask.counter) {
            return None;
        }
        // Log time began with zero at zero, so it is the node's clock.
        let now = Time::from_nanos(time.as_nanos());
        let stamp = self.core.stamp(now, time, &ask.groups)?;
        let mut packet = packet.to_vec();
        oum::stamp(&keys(), &stamp, &mut packet);
        Some(packet)
    }
}

/// A frame for the sequencer becomes one from it, to the target.
fn address(frame: &mut [u8]) {
    frame[..6].copy_from_slice(&TARGET.mac);
    frame[6..12].copy_from_slice(&TARGET.from);
    let (ip, udp) = frame[14..].split_at_mut(20);
    ip[8] = 64;
    ip.copy_within(16..20, 12);
    ip[16..20].copy_from_slice(&TARGET.address.ip().octets());
    ip[10..12].fill(0);
    let checksum = stateplane_wire::checksum::internet(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    udp.copy_within(2..4, 0);
    udp[2..4].copy_from_slice(&TARGET.address.port().to_be_bytes());
    udp[6..8].fill(0);
}

/// What the program makes of a frame, and its copy as it reaches the target.
fn run(program: &Sequencer, frame: &[u8]) -> (u32, Vec<u8>) {
    let stamped = program.try_frame(frame).unwrap();
    if stamped.action != REDIRECT {
        return (stamped.action, stamped.frame);
    }
    let copy = program.try_address(&stamped.frame).unwrap();
    assert_eq!(copy.action, PASS);
    (REDIRECT, copy.frame)
}

fn be16(frame: &[u8], at: usize) -> Option<usize> {
    let bytes: [u8; 2] = frame.get(at..at + 2)?.try_into().ok()?;
    Some(usize::from(u16::from_be_bytes(bytes)))
}

/// Where the UDP payload for the sequencer begins, and where it ends if the lengths agree.
fn payload(frame: &[u8]) -> Option<(usize, Option<usize>)> {
    let ip = 14;
    if be16(frame, 12)? != 0x0800 {
        return None; // a VLAN tag: for the kernel
    }
    let at = ip + 28;
    let header = frame.get(ip..at + 4)?;
    let here = header[0] == 0x45
        && header[9] == 17
        && header[16..20] == HERE.ip().octets()
        && header[22..24] == HERE.port().to_be_bytes()
        && be16(header, 6)? & 0x3fff == 0;
    let (total, length) = (be16(header, 2)?, be16(header, 24)?);
    let end = (length >= 8 && total == length + 20).then(|| ip + 20 + length);
    here.then(|| (at, end.filter(|end| *end <= frame.len())))
}

/// A frame around a packet.
fn frame(random: &mut Random, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0];
    let length = (packet.len() + 28) as u16;
    frame.extend([0x45, random.next() as u8]);
    frame.extend(length.to_be_bytes());
    frame.extend([random.next() as u8, 7, 0x40, 0, 3, 17, 0xab, 0xcd]);
    frame.extend([10, 1, 0, 7]);
    frame.extend(HERE.ip().octets());
    frame.extend(1234u16.to_be_bytes());
    frame.extend(HERE.port().to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([random.next() as u8, random.next() as u8]);
    frame.extend(packet);
    frame
}

/// A sealed request: of various clients, counters, groups and lengths.
fn request(random: &mut Random, counter: &mut u64) -> Vec<u8> {
    let sender = match random.below(8) {
        0 => 99,
        1..4 => CLIENTS[1],
        _ => CLIENTS[0],
    };
    let life = 1000 + (*counter >> 16) - u64::from(random.one_in(30));
    *counter += match random.below(12) {
        0 => random.below(3000),
        _ => 1,
    };
    let counter = match random.below(6) {
        0 => counter.saturating_sub(random.below(1500)),
        _ => *counter,
    };
    let mut groups = Groups::one(random.below(4) as u16);
    for _ in 0..random.below(4) {
        let limit = if random.one_in(20) { 40 } else { 16 };
        let _ = groups.push(random.below(limit) as u16);
    }
    let mut batch = Batch::default();
    for id in 0..random.below(4) {
        let operation = vec![random.next() as u8; random.below(200) as usize];
        assert!(batch.push(id, &operation));
    }
    let request = Request {
        client: oum::client_id(sender, Incarnation(life)),
        done_below: random.next(),
        reply_to: Address::default(),
        batch,
    };
    let mut packet = Vec::new();
    oum::seal_request(&keys(), counter, groups, &request, &mut packet);
    packet
}

/// A sealed request for nothing.
fn sealed(sender: u16, counter: u64, groups: Groups) -> Vec<u8> {
    let request = Request {
        client: oum::client_id(sender, Incarnation(1)),
        done_below: 0,
        reply_to: Address::default(),
        batch: Batch::default(),
    };
    let mut packet = Vec::new();
    oum::seal_request(&keys(), counter, groups, &request, &mut packet);
    packet
}

/// Damages a frame at times: anywhere in the headers, in its length, as a whole.
fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    if random.one_in(20) {
        frame.splice(12..12, [0x81, 0, 0, 42]); // a VLAN tag
    }
    match random.below(10) {
        0 => {
            let at = random.below(frame.len() as u64) as usize;
            frame[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(frame.len().min(180) as u64) as usize;
            frame[at] = random.next() as u8;
        }
        2 => frame.truncate(14 + random.below(frame.len() as u64 - 13) as usize),
        3 => frame.resize(frame.len() + random.below(30) as usize, 0xee),
        4 => {
            // What stands in place of stamps means nothing.
            let at = frame.len().min(60 + random.below(80) as usize);
            let end = frame.len().min(at + 8);
            frame[at..end].fill(random.next() as u8);
        }
        _ => {}
    }
}

/// The time that was stamped, if something was.
fn stamped_at(before: &[u8], after: &[u8]) -> LogTime {
    let time = payload(before)
        .and_then(|(at, _)| after.get(at + 32..at + 40))
        .and_then(|bytes| bytes.try_into().ok());
    LogTime::from_nanos(time.map_or(0, u64::from_be_bytes))
}

#[test]
fn the_program_stamps_as_the_core_does() {
    const FRAMES: u32 = 30_000;
    if !can_make_interfaces() {
        return;
    }
    let mut program = program();
    let offset = 1_700_000_000_000_000_000;
    let none = [0; MAX_GROUPS];
    let first = grant(SESSION, offset, LogTime::ZERO, &none);
    program.begin(&first).unwrap();
    let mut reference = Reference::new();
    let mut random = Random(11);
    let (mut counter, mut seen) = (5_000, [0u32; 5]);
    for number in 0..FRAMES {
        let packet = request(&mut random, &mut counter);
        let mut frame = frame(&mut random, &packet);
        damage(&mut random, &mut frame);
        let (action, found) = run(&program, &frame);
        let time = stamped_at(&frame, &found);
        if action == REDIRECT {
            assert!(
                time.as_nanos() > offset,
                "the clock is the kernel's plus the offset"
            );
        }
        let expected = reference.handle(&frame, time);
        assert_eq!((action, found), expected, "frame {number}: {frame:02x?}");
        seen[action as usize] += 1;
    }
    for action in [PASS, DROP, REDIRECT] {
        assert!(seen[action as usize] > FRAMES / 50, "{seen:?}");
    }
    for group in 0..MAX_GROUPS as u16 {
        let stamps = program.last(group).unwrap();
        assert!(group > 3 || stamps > 1_000, "{stamps} for group {group}");
    }
    let counters = program.counters().unwrap();
    assert_eq!(counters.stamped, u64::from(seen[REDIRECT as usize]));
    assert_eq!(counters.passed, u64::from(seen[PASS as usize]));
    let reasons = [
        counters.malformed,
        counters.unauthentic,
        counters.stranger,
        counters.replayed,
        counters.unstamped,
    ];
    assert_eq!(reasons.iter().sum::<u64>(), u64::from(seen[DROP as usize]));
    assert!(reasons.iter().all(|count| *count > 50), "{counters:?}");
}

#[test]
fn sessions_do_not_share_numbers_and_none_stamps_nothing() {
    if !can_make_interfaces() {
        return;
    }
    let mut program = program();
    let (mut random, mut counter) = (Random(5), 1);
    let mut stamp = |program: &Sequencer| {
        counter += 1;
        let packet = sealed(7, counter, Groups::one(2));
        let frame = frame(&mut random, &packet);
        let done = program.try_frame(&frame).unwrap();
        let (at, _) = payload(&frame).unwrap();
        (done.action == REDIRECT).then(|| {
            let (number, formation, m) = oum::open_ordered(&keys(), &done.frame[at..]).unwrap();
            let stamped_by = (number, formation, m.request.client);
            assert_eq!(stamped_by, (NUMBER, FORMATION, ClientId(1 << 16 | 7)));
            (m.session, m.stamps.sequence(2).unwrap(), m.time)
        })
    };
    assert_eq!(stamp(&program), None, "no session yet");
    let late = LogTime::from_nanos(u64::MAX / 2);
    let begin = |program: &mut Sequencer, session, last| {
        let last = [last; MAX_GROUPS];
        program.begin(&grant(session, 0, late, &last)).unwrap();
    };
    begin(&mut program, 10, 0);
    assert_eq!(stamp(&program), Some((10, 1, late)));
    assert_eq!(stamp(&program), Some((10, 2, late)));
    assert_eq!(program.last(2).unwrap(), 2);
    begin(&mut program, 11, 40);
    assert_eq!(program.last(2).unwrap(), 40);
    assert_eq!(stamp(&program), Some((11, 41, late)));
    program.end().unwrap();
    assert_eq!(stamp(&program), None);
    // The last number is never given.
    begin(&mut program, 12, LAST_NUMBER - 2);
    assert_eq!(stamp(&program), Some((12, LAST_NUMBER - 1, late)));
    assert_eq!(stamp(&program), None);
}

/// Requests for the same groups, stamped at once on several processors, in opposite order:
/// who has the lower number in one group has it in all.
#[test]
fn several_groups_are_numbered_in_one_step() {
    const EACH: u64 = 50_000;
    if !can_make_interfaces() {
        return;
    }
    let mut program = program();
    let none = [0; MAX_GROUPS];
    let first = grant(SESSION, 0, LogTime::ZERO, &none);
    program.begin(&first).unwrap();
    let program = &program;
    let stamp = |sender: u16, ids: [u16; 4]| {
        let mut groups = Groups::one(ids[0]);
        assert!(ids[1..].iter().all(|id| groups.push(*id)));
        let mut random = Random(sender.into());
        let packets = (1..=EACH).map(|counter| sealed(sender, counter, groups));
        let frames: Vec<_> = packets.map(|p| frame(&mut random, &p)).collect();
        // As close to each other as can be. A crowd is sent away, which is a loss like any.
        let done = frames.iter().map(|frame| program.try_frame(frame).unwrap());
        let stamped = done.filter(|done| done.action == REDIRECT);
        stamped.map(|done| done.frame).collect::<Vec<_>>()
    };
    let [one, two] = CLIENTS;
    let stamped = std::thread::scope(|scope| {
        let other = scope.spawn(move || stamp(two, [6, 5, 4, 3]));
        [stamp(one, [3, 4, 5, 6]), other.join().unwrap()].concat()
    });
    assert!(stamped.len() as u64 > EACH, "most are stamped");
    let mut seen = vec![false; stamped.len()];
    for frame in &stamped {
        let (_, _, message) = oum::open_ordered(&keys(), &frame[42..]).unwrap();
        let numbers = [3, 4, 5, 6].map(|group| message.stamps.sequence(group).unwrap());
        assert_eq!(numbers, [numbers[0]; 4]);
        let place = usize::try_from(numbers[0] - 1).unwrap();
        assert!(!std::mem::replace(&mut seen[place], true), "{numbers:?}");
    }
}

/// What decides whether copies can leave by an interface: on a veth, that its other end takes
/// them.
#[test]
fn the_kernel_says_whether_an_interface_sends_copies() {
    if !can_make_interfaces() {
        return;
    }
    let space = Namespace::create("copies").unwrap();
    let told = space.run(|| {
        let netlink = Netlink::open()?;
        netlink.add_veth("near", "far")?;
        netlink.set_up("near")?;
        netlink.set_up("far")?;
        let near = ifreq::index("near")?;
        ethtool::set_offload("far", Offload::Gro, false)?;
        let before = netdev::sends_redirected(near)?;
        ethtool::set_offload("far", Offload::Gro, true)?;
        Ok((before, netdev::sends_redirected(near)?))
    });
    match told.unwrap() {
        (None, None) => println!("skipped: this kernel does not tell (Linux 6.3 does)"),
        told => assert_eq!(told, (Some(false), Some(true))),
    }
}

/// A sequencer between a client and three replicas, two of which are behind one interface; and
/// the replicas' sockets.
fn wire(spaces: &[Namespace; 3]) -> (Sequencer, Vec<UdpSocket>) {
    let [asks, stamps, keeps] = spaces;
    let mac = |last| [2, 0, 0, 0, 1, last];
    let end = |namespace, name, last, address: [u8; 4]| End {
        namespace,
        name,
        mac: mac(last),
        address: Some(address.into()),
    };
    let lan = end(stamps, "lan0", 2, HERE.ip().octets());
    cable(&end(asks, "c0", 1, [10, 1, 0, 7]), &lan).unwrap();
    let near = [
        end(stamps, "d1", 3, [10, 1, 1, 1]),
        end(stamps, "d2", 5, [10, 1, 2, 1]),
    ];
    cable(&near[0], &end(keeps, "r1", 4, [10, 1, 1, 2])).unwrap();
    cable(&near[1], &end(keeps, "r2", 6, [10, 1, 2, 2])).unwrap();
    let replicas = [
        ([10, 1, 1, 2], "d1", 3),
        ([10, 1, 1, 3], "d1", 3),
        ([10, 1, 2, 2], "d2", 5),
    ];
    let filters = [
        "ipv4/conf/all/rp_filter",
        "ipv4/conf/r1/rp_filter",
        "ipv4/conf/r2/rp_filter",
    ];
    keeps.set_sysctls(&filters.map(|name| (name, "0"))).unwrap();
    let sockets = keeps.run(|| {
        let netlink = Netlink::open()?;
        netlink.add_address("r1", replicas[1].0.into(), 24)?;
        netlink.add_route(Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 1, 1, 1))?;
        let bind =
            |(address, ..): ([u8; 4], _, _)| UdpSocket::bind((Ipv4Addr::from(address), 7502));
        replicas
            .map(bind)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
    });
    let program = stamps.run(|| {
        let mut program = program();
        let target = |(address, near, last): ([u8; 4], &str, u8)| Target {
            address: SocketAddrV4::new(address.into(), 7502),
            ifindex: ifreq::index(near).expect("it is there"),
            from: mac(last),
            mac: mac(last + 1),
        };
        program
            .set_targets(&replicas.map(target))
            .map_err(io::Error::other)?;
        let none = [0; MAX_GROUPS];
        let first = grant(SESSION, 0, LogTime::ZERO, &none);
        program.begin(&first).map_err(io::Error::other)?;
        program.attach("lan0").map_err(io::Error::other)?;
        Ok(program)
    });
    (program.unwrap(), sockets.unwrap())
}

/// Real frames, through the device map.
#[test]
fn every_replica_gets_one_copy_of_each_message() {
    const MESSAGES: u64 = 20;
    if !can_make_interfaces() {
        return;
    }
    let spaces = ["asks", "stamps", "keeps"].map(|name| Namespace::create(name).unwrap());
    let (program, sockets) = wire(&spaces);
    let sent = spaces[0].run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        (1..=MESSAGES).try_for_each(|counter| {
            socket
                .send_to(&sealed(CLIENTS[0], counter, Groups::one(2)), HERE)
                .map(|_| ())
        })
    });
    sent.unwrap();
    for socket in sockets {
        let mut buffer = [0; 2048];
        let mut receive = |wait: Duration| {
            socket.set_read_timeout(Some(wait)).unwrap();
            let (len, from) = socket.recv_from(&mut buffer).ok()?;
            assert_eq!(from, HERE.into());
            let (_, _, message) = oum::open_ordered(&keys(), &buffer[..len]).unwrap();
            message.stamps.sequence(2)
        };
        for number in 1..=MESSAGES {
            assert_eq!(receive(Duration::from_secs(5)), Some(number));
        }
        assert_eq!(receive(Duration::from_millis(20)), None, "and no more");
    }
    assert_eq!(program.counters().unwrap().stamped, MESSAGES);
}
