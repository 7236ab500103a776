//! In steady state nothing is allocated for a message but what is kept or handed out.
//!
//! One round trip of real packets: a client's request is sealed, stamped in place, opened and
//! executed by three replicas, and their replies are counted. The allocations of each role, codecs
//! included, are counted apart. What may be allocated:
//! * a replica: the bytes of the log's entry, once; truncation frees as much
//! * the sequencer: nothing
//! * the client: the result that it hands out
//!
//! Where operations share a datagram, leader and client need a list of its results as well.

use std::collections::VecDeque;
use std::time::Duration;

use allocation_counter::measure;
use stateplane_base::{ClientId, Incarnation, LogTime, ReplicaId, Time};
use stateplane_group::{Client, Effect, GroupConfig, Message, Peer, Replica, Role, Sequencer};
use stateplane_state::builtin::kv::Put;
use stateplane_state::op::Operation;
use stateplane_state::{Limits, Registry, Store};
use stateplane_wire::envelope::{self, Header, Key, Kind, ReplayGuard};
use stateplane_wire::group::{Address, Body};
use stateplane_wire::oum::{self, Groups, Keys};

const REPLICAS: u8 = 3;
const CLIENT: ClientId = ClientId(1 << 16 | 77);
const ADDRESS: Address = Address {
    ip: [1; 16],
    port: 9,
};
const KEY: Key = Key::new([5; 16]);
const CLUSTER: u32 = 1;
/// Larger than any message here.
const BUFFER: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Client,
    Sequencer,
    Replica(u8),
}

impl Who {
    /// Its number in envelopes, and its place among the costs.
    const fn number(self) -> u16 {
        match self {
            Self::Replica(n) => n as u16,
            Self::Sequencer => REPLICAS as u16,
            Self::Client => REPLICAS as u16 + 1,
        }
    }
}

const ROLES: usize = REPLICAS as usize + 2;

/// What the measured code reads from and writes to: buffers that are there already.
struct Desk {
    keys: Keys,
    guards: Vec<ReplayGuard>,
    spare: Vec<Vec<u8>>,
    outgoing: Vec<(Who, Peer, Vec<u8>)>,
    counter: u64,
}

impl Desk {
    fn send(&mut self, from: Who, to: Peer, message: &Message) {
        let mut bytes = self.spare.pop().expect("more buffers than messages");
        bytes.clear();
        self.counter += 1;
        if let Body::Request(request) = &message.body {
            oum::seal_request(
                &self.keys,
                self.counter,
                Groups::one(0),
                request,
                &mut bytes,
            );
        } else {
            let header = Header {
                kind: Kind::Group,
                cluster: CLUSTER,
                sender: from.number(),
                incarnation: 1,
                counter: self.counter,
            };
            envelope::append(&KEY, header, &mut bytes, |out| message.encode(out));
        }
        self.outgoing.push((from, to, bytes));
    }

    /// What a datagram says to a replica or a client.
    fn open(&mut self, to: Who, bytes: &[u8]) -> (Peer, Message) {
        if oum::kind(bytes) == Some(oum::Kind::Ordered) {
            let (from, formation, mut m) =
                oum::open_ordered(&self.keys, bytes).expect("well stamped");
            m.request.reply_to = ADDRESS;
            let body = Body::Ordered(m);
            return (Peer::Sequencer(from), Message { formation, body });
        }
        let (header, body) = envelope::open(&KEY, CLUSTER, bytes).expect("well sealed");
        assert!(self.guards[usize::from(to.number())].accept(&header));
        let from = match u8::try_from(header.sender).expect("few take part") {
            REPLICAS => Peer::Sequencer(0),
            n if n < REPLICAS => Peer::Replica(ReplicaId(n)),
            _ => Peer::Client(CLIENT, ADDRESS),
        };
        (from, Message::decode(body).expect("as encoded"))
    }
}

struct Rig {
    now: Time,
    client: Client,
    sequencer: Sequencer,
    replicas: Vec<Replica<Store>>,
    desk: Desk,
    mail: VecDeque<(Who, Vec<u8>)>,
    /// Allocations by role, and those not freed.
    made: [u64; ROLES],
    kept: [i64; ROLES],
    done: u64,
    serial: u64,
}

impl Rig {
    fn new() -> Self {
        let mut config = GroupConfig::new(REPLICAS);
        config.limits.retain = 512;
        let store = || Store::new(Registry::builtin(), Limits::default());
        let replica = |n| Replica::new(config.clone(), ReplicaId(n), Incarnation(7), store());
        let mut rig = Self {
            now: Time::from_millis(1),
            client: Client::new(config.clone(), CLIENT, 5),
            sequencer: Sequencer::new(config.clone(), 0, 0xab0),
            replicas: (0..REPLICAS).map(replica).collect(),
            desk: Desk {
                keys: Keys::derive(&KEY, CLUSTER),
                guards: vec![ReplayGuard::default(); ROLES],
                spare: (0..256).map(|_| Vec::with_capacity(BUFFER)).collect(),
                outgoing: Vec::with_capacity(256),
                counter: 0,
            },
            mail: VecDeque::with_capacity(256),
            made: [0; ROLES],
            kept: [0; ROLES],
            done: 0,
            serial: 0,
        };
        while rig.sequencer.inspect().session == 0 {
            rig.turn(Duration::from_millis(1));
        }
        rig
    }

    /// Counts what `act` allocates.
    fn count(&mut self, who: Who, act: impl FnOnce(&mut Self)) {
        let cost = measure(|| act(self));
        let place = usize::from(who.number());
        self.made[place] += cost.count_total;
        self.kept[place] += cost.count_current;
    }

    fn turn(&mut self, span: Duration) {
        self.now = self.now + span;
        let now = self.now;
        for n in 0..REPLICAS {
            self.count(Who::Replica(n), |rig| {
                rig.replicas[usize::from(n)].on_timer(now);
                rig.flush_replica(n);
            });
        }
        self.count(Who::Sequencer, |rig| {
            rig.sequencer.on_timer(now);
            while let Some(Effect::Send { to, msg }) = rig.sequencer.poll_effect() {
                rig.desk.send(Who::Sequencer, to, &msg);
            }
        });
        self.count(Who::Client, |rig| {
            rig.client.on_timer(now);
            rig.flush_client();
        });
        self.post();
        while let Some((to, mut bytes)) = self.mail.pop_front() {
            self.count(to, |rig| rig.deliver(to, &mut bytes));
            self.desk.spare.push(bytes);
            self.post();
        }
    }

    fn flush_replica(&mut self, n: u8) {
        while let Some(effect) = self.replicas[usize::from(n)].poll_effect() {
            if let Effect::Send { to, msg } = effect {
                self.desk.send(Who::Replica(n), to, &msg);
            }
        }
    }

    fn flush_client(&mut self) {
        while let Some(effect) = self.client.poll_effect() {
            if let Effect::Send { to, msg } = effect {
                self.desk.send(Who::Client, to, &msg);
                self.client.take_back(msg);
            }
        }
    }

    fn deliver(&mut self, to: Who, bytes: &mut [u8]) {
        let now = self.now;
        match to {
            Who::Sequencer if oum::kind(bytes) == Some(oum::Kind::Request) => {
                let ask = oum::open_request(&self.desk.keys, bytes).expect("well sealed");
                let wall = LogTime::from_nanos(now.as_nanos());
                let Some(stamp) = self.sequencer.stamp(now, wall, &ask.groups) else {
                    return;
                };
                oum::stamp(&self.desk.keys, &stamp, bytes);
                let mut copy = self.desk.spare.pop().expect("a buffer");
                copy.clear();
                copy.extend_from_slice(bytes);
                self.desk.outgoing.push((to, Peer::Replicas, copy));
            }
            Who::Sequencer => {
                let (peer, message) = self.desk.open(to, bytes);
                self.sequencer.on_message(now, peer, message);
            }
            Who::Replica(n) => {
                let (peer, message) = self.desk.open(to, bytes);
                self.replicas[usize::from(n)].on_message(now, peer, message);
                self.flush_replica(n);
            }
            Who::Client => {
                let (peer, message) = self.desk.open(to, bytes);
                self.client.on_message(now, peer, message);
                while let Some((_, outcome)) = self.client.poll_done() {
                    assert_eq!(outcome.expect("an outcome").reply.first(), Some(&0));
                    self.done += 1;
                }
            }
        }
    }

    /// What was sent is on its way. Not counted: it is the network's.
    fn post(&mut self) {
        while let Some((from, to, bytes)) = self.desk.outgoing.pop() {
            let targets: &[Who] = match to {
                Peer::Client(..) => &[Who::Client],
                Peer::Sequencer(_) => &[Who::Sequencer],
                Peer::Replica(ReplicaId(n)) => &[Who::Replica(n)],
                Peer::Replicas => &[Who::Replica(0), Who::Replica(1), Who::Replica(2)],
            };
            for target in targets.iter().filter(|target| **target != from) {
                let mut copy = self.desk.spare.pop().expect("a buffer");
                copy.clear();
                copy.extend_from_slice(&bytes);
                self.mail.push_back((*target, copy));
            }
            self.desk.spare.push(bytes);
        }
    }

    /// Operations that share a datagram.
    fn operate(&mut self, together: u64) {
        let (now, wanted) = (self.now, self.done + together);
        for _ in 0..together {
            self.serial += 1;
            let (key, value) = (
                (self.serial % 1024).to_be_bytes(),
                self.serial.to_be_bytes(),
            );
            let put = Put {
                key: &key,
                value: &value,
                ttl: None,
            };
            let op = put.encode();
            self.count(Who::Client, |rig| {
                rig.client.submit(now, op).expect("there is room");
            });
        }
        self.turn(Duration::from_micros(20));
        assert_eq!(self.done, wanted, "one round trip");
    }
}

/// What `rounds` requests of `together` operations cost each role, once everything has its size.
fn cost(rounds: u64, together: u64) -> Rig {
    let mut rig = Rig::new();
    for _ in 0..10_000 {
        rig.operate(together);
    }
    (rig.made, rig.kept) = ([0; ROLES], [0; ROLES]);
    for _ in 0..rounds {
        rig.operate(together);
    }
    println!(
        "{rounds} x {together}: made {:?}, kept {:?}",
        rig.made, rig.kept
    );
    assert_eq!(rig.replicas[0].inspect().role, Role::Leader);
    rig
}

#[test]
fn an_operation_costs_its_log_entry() {
    let rounds = 4_000;
    let rig = cost(rounds, 1);
    // Heartbeats and what else goes by time.
    let some = rounds / 100;
    let [r0, r1, r2, sequencer, client] = rig.made;
    for replica in [r0, r1, r2] {
        assert!(replica <= rounds + some, "the entry's bytes: {replica}");
    }
    assert_eq!(sequencer, 0);
    assert!(client <= rounds + some, "the result: {client}");
    for kept in &rig.kept[..3] {
        assert!(kept.abs() < 600, "what is truncated is freed: {kept}");
    }
}

#[test]
fn operations_that_share_a_datagram_cost_one_entry_together() {
    let (rounds, together) = (500, 16);
    let rig = cost(rounds, together);
    let some = rounds / 20;
    let [leader, r1, r2, sequencer, client] = rig.made;
    assert!(leader <= 2 * rounds + some, "entry and results: {leader}");
    for follower in [r1, r2] {
        assert!(follower <= rounds + some, "the entry's bytes: {follower}");
    }
    assert_eq!(sequencer, 0);
    let handed_out = rounds * together;
    assert!(client <= handed_out + rounds + some, "results: {client}");
}
