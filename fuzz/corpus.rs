//! Writes the seeds that fuzzing begins with, `corpus/TARGET/NAME`: what the product's own code
//! says and reads, small, and one of each kind. `scripts/fuzz --write-corpus` calls it.
#![forbid(unsafe_code)]

#[path = "parts.rs"]
#[allow(dead_code, reason = "targets split")]
mod parts;
#[path = "sums.rs"]
#[allow(dead_code, reason = "targets check")]
mod sums;

// Coverage is counted by the fuzzer's library, here for nobody.
use libfuzzer_sys as _;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stateplane_base::{Incarnation, LogTime, Time};
use stateplane_committed::{Publication, Shared};
use stateplane_functions::nat::ops;
use stateplane_region::sync::{At, Export, Import, Life, Timing};
use stateplane_region::{Counters, How, Map, Spec, Tally, Writer, outside};
use stateplane_sim::{Profile, Samples, samples};
use stateplane_state::builtin::redis::{Command, codec};
use stateplane_state::builtin::{counter, kv, pool, queue};
use stateplane_state::op::Operation;
use stateplane_state::settled::{Image, Position};
use stateplane_state::{Application, Limits, Registry, Store};
use stateplane_wire::heartbeat::{Beat, State};

/// Seeds are to be small: a fuzzer changes them everywhere.
const LONGEST: usize = 1_024;

struct Corpus(PathBuf);

impl Corpus {
    fn seed(&self, target: &str, name: &str, bytes: &[u8]) {
        assert!(
            bytes.len() <= 4 * LONGEST,
            "{target}/{name}: {} bytes",
            bytes.len()
        );
        let dir = self.0.join(target);
        std::fs::create_dir_all(&dir).expect("a directory for seeds");
        std::fs::write(dir.join(name), bytes).expect("a seed");
    }
}

fn main() {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: corpus DIRECTORY");
        std::process::exit(2);
    };
    let corpus = Corpus(Path::new(&dir).to_owned());
    group(&corpus);
    frames(&corpus);
    store(&corpus);
    leases(&corpus);
    files(&corpus);
    texts(&corpus);
    regions(&corpus);
}

/// A holder's course, and the arguments of each operation.
fn leases(corpus: &Corpus) {
    // Acquire, be answered, write twice, be answered, wait, renew, be answered, give up.
    let course = [1, 7, 3, 3, 7, 7, 5, 6, 7, 4, 2, 7].map(|opcode| [opcode, 50]);
    corpus.seed("lease", "course", course.as_flattened());
    let zeroes = [0; 56];
    for (n, len) in [24_u8, 24, 24, 36, 16, 10].into_iter().enumerate() {
        let opcode = 8 * u8::try_from(n).expect("few");
        let step = [&[opcode, len], &zeroes[..usize::from(len)]].concat();
        corpus.seed("lease", &format!("operation-{n}"), &step);
    }
}

/// What replicas, sequencers and clients say in simulated worlds, and what replicas write.
fn group(corpus: &Corpus) {
    let mut heard = Samples::default();
    for profile in [
        Profile::Gaps,
        Profile::Restart,
        Profile::Sequencer,
        Profile::Durable,
        Profile::Vr,
        Profile::Reconfigure,
    ] {
        for seed in 0..12 {
            samples(seed, profile, &mut heard);
        }
    }
    let mut all = Vec::new();
    for (name, messages) in &heard.messages {
        for (n, message) in messages.iter().enumerate() {
            corpus.seed("message", &format!("{name}-{n}"), message);
            // From each replica to another, with the group's own formation.
            let who = 16 | [0b0100, 0b1001, 0b0010][n % 3];
            all.push([&[who], message.as_slice()].concat());
        }
    }
    for (n, said) in all.chunks(8).enumerate() {
        corpus.seed("group", &format!("said-{n}"), &parts::join(said));
    }
    for (n, memory) in heard.memories.iter().enumerate() {
        let bytes = parts::join(memory);
        corpus.seed("journal", &format!("memory-{n}"), &bytes);
    }
    for (name, state) in [("serving", State::Serving), ("draining", State::Draining)] {
        let beat = Beat { instance: 3, state };
        corpus.seed("message", &format!("beat-{name}"), &beat.encode());
    }
    let counted: Vec<u8> = (0..120).collect();
    for (name, choice) in [("raw", 0), ("sealed", 1), ("one-byte-operations", 5)] {
        corpus.seed("oum", name, &[&[choice], counted.as_slice()].concat());
        corpus.seed("envelope", name, &[&[choice], counted.as_slice()].concat());
    }
}

/// What a region's broker, memory and copies consist of.
fn regions(corpus: &Corpus) {
    for (n, message) in outside::samples().iter().enumerate() {
        corpus.seed("broker", &format!("message-{n}"), message);
    }
    let spec = Spec::bytes(900).schema("seed");
    let mut writer = Writer::<[u8]>::create(&spec).expect("a region");
    let (map, counters) = (Map::<u16, u32>::new(0, 20), Counters::new(0, 6));
    for round in 0..3u8 {
        match round {
            0 => writer.bytes_mut(0, 900).fill(7),
            1 => {
                writer.bytes_mut(0, 900).fill(0);
                for key in 0..15 {
                    map.insert(&mut writer, &key, &7).expect("there is room");
                }
            }
            _ => {
                let mut tally = Tally::new(counters, &mut writer, 1);
                tally.set(&mut writer, [("a", "packets", How::Count, 7)]);
            }
        }
        writer.publish().expect("nobody else");
        let file = writer.fd().try_clone_to_owned().expect("its file");
        let (file, mut seed) = (File::from(file), vec![0; 1280 + 900]);
        let (head, image) = seed.split_at_mut(1280);
        file.read_exact_at(head, 0).expect("its head");
        let at = 4096 * (1 + u64::from(round % 2));
        file.read_exact_at(image, at).expect("its image");
        corpus.seed("object", &format!("published-{round}"), &seed);
    }
    // What both sides say, as a broken peer would repeat it, and turns between.
    let timing = Timing::default();
    let (mut export, mut import) = (
        Export::new(7, timing, 400),
        Import::new(7, 1_000, At::default(), timing),
    );
    let mut said: Vec<Vec<u8>> = vec![Vec::new(); 2];
    for version in 1..4 {
        let now = Time::from_millis(version * 5);
        export.update(now, &[version as u8; 1_000], At { epoch: 1, version }, 0);
        export.checked(now);
        if let Some(report) = import.poll(now) {
            export.on_message(now, 1, &report).expect("well formed");
            said.push(report);
        }
        export.on_time(now);
        // Every second piece is lost: the rest is asked for.
        while let Some(outgoing) = export.poll(now) {
            if said.len() % 2 == 0 {
                let step = import.on_message(now, Life::default(), &outgoing.body);
                step.expect("well formed");
            }
            said.push(outgoing.body);
        }
    }
    for (n, said) in said.chunks(4).enumerate() {
        let turns = said.iter().flat_map(|one| [one.as_slice(), &[]]);
        corpus.seed("copies", &format!("said-{n}"), &parts::join(turns));
    }
    corpus.seed("copies", "turns", &parts::join(vec![[]; 12]));
    committed(corpus);
}

/// Tables of a replica: one of each shape, some rows, one that found no room.
fn committed(corpus: &Corpus) {
    let table = |name, key_bytes, value_bytes| Shared {
        name,
        rows: 3,
        key_bytes,
        value_bytes,
    };
    let tables = [
        table("one", 7, 47),
        table("two", 31, 87),
        table("three", 63, 183),
    ];
    let spec = Publication::spec(&tables).expect("such tables can be shared");
    let region = Writer::<[u8]>::create(&spec).expect("a region");
    let mut replica = Publication::new(region, &tables).expect("its tables");
    for round in 0..3 {
        for table in 0..tables.len() {
            let key = format!("key-{round}");
            replica.put(table, key.as_bytes(), &[round; 40]);
            replica.put(table, b"a", b"short");
        }
        let time = LogTime::from_millis(round.into());
        replica.show(Position {
            slot: round.into(),
            time,
        });
        let bytes = replica.region().bytes();
        corpus.seed("committed", &format!("tables-{round}"), bytes);
    }
}

/// An Ethernet frame with an IPv4 packet whose sums are right.
fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, fragment: u16, segment: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let total = u16::try_from(20 + segment.len()).expect("short");
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&[0, 1]);
    frame.extend_from_slice(&fragment.to_be_bytes());
    frame.extend_from_slice(&[64, protocol, 0, 0]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(segment);
    sums::mend_header(&mut frame);
    sums::mend_transport(&mut frame);
    frame
}

/// Packets of each kind, at the parser, the switch and the NAT.
fn frames(corpus: &Corpus) {
    let (inside, outside) = (Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(203, 0, 113, 9));
    let ports = [0x9c, 0x40, 0, 80];
    let tcp = |flags| {
        let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        [&ports[..], &rest].concat()
    };
    let udp = [&ports[..], &[0, 12, 0, 0], b"ping"].concat();
    let echo = [&[8, 0, 0, 0, 0, 1, 0, 1][..], b"ping"].concat();
    let syn = ipv4(6, inside, outside, 0x4000, &tcp(2));
    let quote = [&[3, 4, 0, 0, 0, 0, 5, 0xdc][..], &syn[14..]].concat();
    let mut arp = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6];
    arp.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 7]);
    arp.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let tagged = [&syn[..12], &[0x81, 0, 0, 42], &syn[12..]].concat();
    let kinds = [
        ("syn", syn),
        ("fin", ipv4(6, inside, outside, 0x4000, &tcp(0x11))),
        ("udp", ipv4(17, inside, outside, 0, &udp)),
        ("echo", ipv4(1, inside, outside, 0, &echo)),
        ("too-big", ipv4(1, outside, inside, 0, &quote)),
        ("first-fragment", ipv4(17, inside, outside, 0x2000, &udp)),
        ("later-fragment", ipv4(17, inside, outside, 0x00b9, &udp)),
        ("tagged", tagged),
        ("arp", arp),
    ];
    let mut steps = vec![0];
    let mut capture = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    capture.extend_from_slice(&[0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    for (name, frame) in &kinds {
        corpus.seed("packet", name, frame);
        corpus.seed(
            "steering",
            name,
            &[&[0, 1, 2, 5], frame.as_slice()].concat(),
        );
        // Raw from the inside, the answer to it, a pause.
        let length = u8::try_from(frame.len()).expect("short");
        let raw = [&[0x28, length], frame.as_slice(), &[0xa3, 0, 6, 9]].concat();
        corpus.seed("nat", name, &[&[0], raw.as_slice()].concat());
        steps.extend_from_slice(&raw);
        let length = u32::try_from(frame.len()).expect("short").to_le_bytes();
        capture
            .extend_from_slice(&[&[1, 0, 0, 0, 2, 0, 0, 0], &length[..], &length, frame].concat());
    }
    fast_frames(corpus, &kinds);
    corpus.seed("nat", "all", &steps);
    corpus.seed("pcap", "frames", &capture);
    corpus.seed("pcap", "cut", &capture[..capture.len() - 7]);
    // Frames that the target makes: TCP and UDP out and back, an echo, an error about it.
    let made: Vec<u8> = [0x21, 0xa3, 0x22, 0xa4, 0x27]
        .repeat(3)
        .into_iter()
        .chain(0..90)
        .collect();
    for mode in 0..3 {
        let input = [&[mode], made.as_slice()].concat();
        corpus.seed("nat", &format!("made-{mode}"), &input);
    }
}

/// Frames for the fast path behind what is to happen to them, and some of IPv6.
fn fast_frames(corpus: &Corpus, kinds: &[(&str, Vec<u8>)]) {
    // Rewrites, mask of the key, flags of the port, time to live and events, what is written.
    let nat = [0b0000_0011, 0b1111, 1, 0x71, 203, 0, 113, 9];
    let routed = [0b0001_1100, 0b0011, 1, 1, 10, 0, 0, 7];
    let tunnelled = [0b0010_1111, 0b1100, 1, 2, 192, 0, 2, 1];
    let off = [0, 0b1111, 4, 0, 0, 0, 0, 0];
    let mut ipv6 = vec![
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 60, 64,
    ];
    ipv6.extend_from_slice(&[0xfd; 16]);
    ipv6.extend_from_slice(&[0x20; 16]);
    ipv6.extend_from_slice(&[
        17, 0, 1, 4, 0, 0, 0, 0, 0x9c, 0x40, 0, 80, 0, 12, 0x12, 0x34,
    ]);
    ipv6.extend_from_slice(b"ping");
    let ipv6 = ("ipv6", ipv6);
    for (name, frame) in kinds.iter().chain([&ipv6]) {
        for (choice, head) in [
            ("nat", nat),
            ("routed", routed),
            ("tunnelled", tunnelled),
            ("off", off),
        ] {
            corpus.seed(
                "fastpath",
                &format!("{name}-{choice}"),
                &[&head, frame.as_slice()].concat(),
            );
        }
    }
}

/// Operations of each kind, one after the other, and what a store that executed them has.
fn store(corpus: &Corpus) {
    let (key, value) = (&b"key"[..], &b"value"[..]);
    let ttl = Some(Duration::from_millis(300));
    let mut redis = Vec::new();
    codec::begin(0, &[], &mut redis);
    for (command, arguments) in [
        (Command::Set, vec![key, value]),
        (Command::Get, vec![key]),
        (Command::RPush, vec![b"list", b"a", b"b"]),
        (Command::HSet, vec![b"hash", b"field", value]),
        (Command::Expire, vec![key, b"5"]),
    ] {
        codec::push_command(command, arguments.into_iter(), &mut redis);
    }
    let operations = [
        ("get", kv::Get { key }.encode()),
        ("put", kv::Put { key, value, ttl }.encode()),
        ("delete", kv::Delete { key }.encode()),
        (
            "swap",
            kv::CompareAndSet {
                key,
                expected: Some(value),
                value: b"other",
                ttl: None,
            }
            .encode(),
        ),
        (
            "add",
            counter::Add {
                key,
                delta: 5,
                lowest: 0,
                highest: 9,
            }
            .encode(),
        ),
        ("push", queue::Push { key, item: value }.encode()),
        ("pop", queue::Pop { key }.encode()),
        (
            "create",
            pool::Create {
                key,
                first: 10,
                count: 4,
            }
            .encode(),
        ),
        ("take", pool::Take { key, holder: 7 }.encode()),
        (
            "give",
            pool::Give {
                key,
                number: 10,
                holder: 7,
            }
            .encode(),
        ),
        ("redis", redis),
    ];
    let mut store = Store::new(Registry::builtin(), Limits::default());
    // `0xff`: the whole operation follows, with the procedure it is for.
    let step = |op: &[u8]| {
        let length = u8::try_from(op.len()).expect("short");
        [&[0xff, 1, length], op].concat()
    };
    let mut all = vec![2];
    for (at, (name, op)) in (1..).zip(&operations) {
        let mut reply = Vec::new();
        store.execute(LogTime::from_millis(at), op, &mut reply);
        corpus.seed("replies", name, &reply);
        corpus.seed("store", name, &[&[2], step(op).as_slice()].concat());
        all.extend(step(op));
    }
    corpus.seed("store", "all", &all);
    // The same, and six bytes that say where its snapshot is damaged.
    let damaged = [&[1, 0, 40, 0, 0, 90, 1], &all[1..]].concat();
    corpus.seed("store", "damaged-snapshot", &damaged);
    let register = ops::Register {
        instance: ops::InstanceId::of("gw"),
        incarnation: Incarnation(1),
        fingerprint: 7,
    };
    let input = [&[2], step(&register.encode()).as_slice()].concat();
    corpus.seed("store", "register", &input);
}

/// What happens to the files of a write-ahead log.
fn files(corpus: &Corpus) {
    let parts = |hurt: &[u8]| {
        let steps: [&[u8]; 7] = [
            b"\x03first checkpoint",
            b"\x00one",
            b"\x00two",
            hurt,
            b"\x03another checkpoint",
            b"\x00three",
            b"\x04\x00\xff\xff",
        ];
        parts::join(steps)
    };
    corpus.seed("files", "cut", &parts(&[6, 0, 0, 90]));
    corpus.seed("files", "flip", &parts(&[4, 1, 0, 60]));
    corpus.seed("files", "replace", &parts(b"\x05\x00\x00\x00SPWAL\0"));
    let records = [7; 90];
    corpus.seed("wal", "raw", &[&[0, 0, 0, 0], &records[..]].concat());
    corpus.seed("wal", "cut", &[&[2, 0, 50, 0], &records[..]].concat());
    corpus.seed("wal", "flip", &[&[3, 0, 50, 8], &records[..]].concat());
}

/// What people and programs write as text.
fn texts(corpus: &Corpus) {
    for (name, text) in [
        ("edge", include_str!("../examples/edge.toml")),
        ("redis", include_str!("../examples/redis.toml")),
    ] {
        // What is a comment teaches a fuzzer nothing.
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        corpus.seed("config", name, text.as_bytes());
    }
    for (n, path) in [
        "/v1/status",
        "/v1/sessions?limit=5",
        "/v1/store",
        "/v1/group?out=r1&in=%7",
        "/v1/counters",
        "/v1/nodes",
    ]
    .iter()
    .enumerate()
    {
        for method in 0..2 {
            let input = [&[method], path.as_bytes()].concat();
            corpus.seed("admin", &format!("{n}-{method}"), &input);
        }
    }
    for (name, text) in [
        ("choices", "0.3:1+4-9/s:2/a0:3"),
        ("none", "none"),
        ("profile", "failover-storm"),
    ] {
        corpus.seed("arguments", name, text.as_bytes());
    }
    for (name, text) in [
        ("inline", "\x04PING\r\nset a 'b c'\r\n"),
        (
            "array",
            "\x03*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n",
        ),
        ("null", "\x02*-1\r\n*0\r\n*1\r\n$0\r\n\r\n"),
        ("too-large", "\x09*2\r\n$3\r\nSET\r\n$300\r\n"),
    ] {
        corpus.seed("resp", name, text.as_bytes());
    }
}
