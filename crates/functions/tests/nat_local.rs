//! Mappings found in the store's committed tables on this machine, and when not to believe them.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::{CLIENT, Out, POOL, SERVER, World, ends, tcp, udp};
use proptest::prelude::*;
use stateplane_base::Reason;
use stateplane_flow::PortId;
use stateplane_functions::local::{LocalRow, LocalTables};
use stateplane_functions::nat::procedures::read::{MAPPINGS, PORTS};
use stateplane_functions::{CommitMode, Driven};
use stateplane_state::settled::{Image, Position, Settled, TableName};

const IN: PortId = PortId::INSIDE;
const OUT: PortId = PortId::OUTSIDE;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Copies of the two tables, as a region would hold them.
#[derive(Clone, Default)]
struct Copy {
    tables: [Rows; 2],
    at: Position,
}

impl Image for Copy {
    fn begin(&mut self) {
        self.tables = Default::default();
    }
    fn put(&mut self, table: usize, key: &[u8], value: &[u8]) {
        self.tables[table].insert(key.to_vec(), value.to_vec());
    }
    fn remove(&mut self, table: usize, key: &[u8]) {
        self.tables[table].remove(key);
    }
    fn clear(&mut self, table: usize) {
        self.tables[table].clear();
    }
    fn show(&mut self, at: Position) {
        self.at = at;
    }
}

/// What an instance sees: a copy that is brought up to date when a test says so.
#[derive(Clone, Default)]
struct Local(Rc<RefCell<Copy>>);

impl LocalTables for Local {
    fn get(&self, table: TableName, key: &[u8], value: &mut [u8]) -> Option<LocalRow> {
        let copy = self.0.borrow();
        let place = [MAPPINGS, PORTS]
            .iter()
            .position(|name| TableName::of(name) == table)?;
        let row = copy.tables[place].get(key)?;
        value[..row.len()].copy_from_slice(row);
        Some(LocalRow {
            len: row.len(),
            at: copy.at.time,
        })
    }
}

/// A world whose last instance has a copy; and what keeps it, which is always up to date.
struct Watched {
    world: World,
    local: Local,
    settled: Settled,
    truth: Copy,
    slot: u64,
}

impl Watched {
    fn new(nodes: usize) -> Self {
        let mut world = World::new(nodes, CommitMode::Strict);
        world.store.share(&[MAPPINGS, PORTS]).unwrap();
        let local = Local::default();
        let last = world.nodes.last_mut().unwrap();
        last.runtime.set_local(Rc::new(local.clone()));
        Self {
            world,
            local,
            settled: Settled::default(),
            truth: Copy::default(),
            slot: 0,
        }
    }

    fn look(&mut self) {
        self.slot += 1;
        let at = Position {
            slot: self.slot,
            time: self.world.store.now(),
        };
        let (store, truth) = (&mut self.world.store, &mut self.truth);
        assert!(self.settled.turn(store, at, at.slot, usize::MAX, truth));
    }

    /// The copy is what the store has.
    fn update(&mut self) {
        self.look();
        *self.local.0.borrow_mut() = self.truth.clone();
    }

    fn tally(&self) -> (u64, u64) {
        let local = self
            .world
            .nodes
            .last()
            .unwrap()
            .runtime
            .function()
            .status()
            .local;
        (local.hits, local.misses)
    }
}

#[test]
fn a_fail_over_needs_no_round_trip() {
    for inside_first in [true, false] {
        let mut watched = Watched::new(2);
        let world = &mut watched.world;
        let mut flows = Vec::new();
        for port in 30000..30050 {
            let out = world.pass(0, IN, &tcp((CLIENT, port), (SERVER, 80), "S", b""));
            flows.push((port, ends(&out).0));
        }
        watched.update();
        // From here on the store does not answer any more.
        let world = &mut watched.world;
        world.store_up = false;
        for (port, mapped) in flows {
            let there = tcp((CLIENT, port), (SERVER, 80), "A", b"data");
            let back = tcp((SERVER, 80), mapped, "A", b"more");
            if inside_first {
                assert_eq!(ends(&world.pass(1, IN, &there)).0, mapped);
            } else {
                assert_eq!(ends(&world.pass(1, OUT, &back)).1, (CLIENT, port));
            }
            assert_eq!(ends(&world.pass(1, IN, &there)).0, mapped);
            assert_eq!(ends(&world.pass(1, OUT, &back)).1, (CLIENT, port));
        }
        assert!(world.nodes[1].submitted.is_empty(), "nothing was asked");
        assert_eq!(watched.tally(), (50, 0));
    }
}

/// A session begun by way of the local copy is refreshed like any other.
#[test]
fn what_was_found_locally_is_kept_alive() {
    let mut watched = Watched::new(2);
    let world = &mut watched.world;
    let out = world.pass(0, IN, &udp((CLIENT, 4000), (SERVER, 53), b"?"));
    let mapped = ends(&out).0;
    watched.update();
    let world = &mut watched.world;
    world.nodes.swap(0, 1);
    for _ in 0..60 {
        let out = world.pass(0, IN, &udp((CLIENT, 4000), (SERVER, 53), b"?"));
        assert_eq!(ends(&out).0, mapped, "the mapping ended");
        world.advance(Duration::from_secs(20));
    }
    let local = world.nodes[0].runtime.function().status().local;
    assert_eq!(local.hits, 1, "the refreshes went to the store");
}

#[test]
fn an_old_copy_is_not_believed() {
    let mut watched = Watched::new(2);
    let out = watched
        .world
        .pass(0, IN, &udp((CLIENT, 4000), (SERVER, 53), b"?"));
    watched.update();
    // The replica is cut off; the log goes on.
    watched.world.advance(Duration::from_secs(15));
    let back = udp((SERVER, 53), ends(&out).0, b"!");
    watched.world.pass(1, OUT, &back);
    assert_eq!(watched.tally(), (0, 1), "the store was asked");

    // The store is cut off as well: nobody knows any more how late it is there.
    let mut watched = Watched::new(2);
    let out = watched
        .world
        .pass(0, IN, &udp((CLIENT, 4000), (SERVER, 53), b"?"));
    watched.update();
    watched.world.store_up = false;
    watched.world.now = watched.world.now + Duration::from_secs(31);
    let back = udp((SERVER, 53), ends(&out).0, b"!");
    watched.world.send(1, OUT, &back);
    assert_eq!(watched.tally(), (0, 1));
}

/// Whoever is asked about soon gets an answer by the store, which prolongs what is asked for.
#[test]
fn a_mapping_that_is_about_to_end_is_left_to_the_store() {
    let mut watched = Watched::new(2);
    let opens = tcp((CLIENT, 5000), (SERVER, 80), "S", b"");
    watched.world.pass(0, IN, &opens);
    watched.world.advance(Duration::from_secs(235));
    watched.update();
    watched
        .world
        .pass(1, IN, &tcp((CLIENT, 5000), (SERVER, 80), "A", b"x"));
    assert_eq!(watched.tally(), (0, 1));
}

/// Two rows may be of two moments: the mapping itself must name the endpoint.
#[test]
fn rows_of_two_moments_make_no_mapping() {
    let mut watched = Watched::new(2);
    let first = watched
        .world
        .pass(0, IN, &udp((CLIENT, 1), (SERVER, 53), b"?"));
    let second = watched
        .world
        .pass(0, IN, &udp((CLIENT, 2), (SERVER, 53), b"?"));
    watched.update();
    {
        // The port of the first says that it serves the second.
        let mut copy = watched.local.0.borrow_mut();
        let mut key = POOL.octets().to_vec();
        let ports = [first, second].map(|out| {
            key.truncate(4);
            key.extend(ends(&out).0.1.to_be_bytes());
            key.push(17);
            key.clone()
        });
        let other = copy.tables[1][&ports[1]].clone();
        copy.tables[1].insert(ports[0].clone(), other);
    }
    let first = ports_of(&watched, 1);
    watched
        .world
        .pass(1, OUT, &udp((SERVER, 53), (POOL.octets(), first), b"!"));
    assert_eq!(watched.tally(), (0, 1));
}

/// The outside port that this inside port of the client has.
fn ports_of(watched: &Watched, inside: u16) -> u16 {
    let mut key = vec![17];
    key.extend(CLIENT);
    key.extend(inside.to_be_bytes());
    let row = &watched.truth.tables[0][&key];
    u16::from_be_bytes([row[4], row[5]])
}

#[derive(Clone, Debug)]
enum Step {
    Open(u16),
    Answer(usize),
    Pass(Duration),
    Update,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u16..6).prop_map(Step::Open),
        6 => (0usize..40).prop_map(Step::Answer),
        4 => (0u64..150).prop_map(|s| Step::Pass(Duration::from_secs(s))),
        2 => (0u64..3000).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        2 => Just(Step::Update),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However old the copy: a packet from outside reaches who has the endpoint, or had it last
    /// while it rests; never the next one.
    #[test]
    fn no_packet_reaches_a_stranger(steps in proptest::collection::vec(step(), 1..80)) {
        let mut watched = Watched::new(2);
        let mut lent: Vec<u16> = Vec::new();
        for step in steps {
            match step {
                Step::Open(port) => {
                    let out = watched.world.pass(0, IN, &udp((CLIENT, port), (SERVER, 53), b"?"));
                    let outside = ends(&out).0.1;
                    lent.retain(|known| *known != outside);
                    lent.push(outside);
                }
                Step::Answer(which) if !lent.is_empty() => {
                    let outside = lent[which % lent.len()];
                    let back = udp((SERVER, 53), (POOL.octets(), outside), b"!");
                    let out = watched.world.send(1, OUT, &back);
                    watched.look();
                    let mut key = POOL.octets().to_vec();
                    key.extend(outside.to_be_bytes());
                    key.push(17);
                    let row = watched.truth.tables[1].get(&key);
                    match out.as_slice() {
                        [Out::Sent(IN, frame)] => {
                            let to = ends(frame).1.1.to_be_bytes();
                            let row = row.expect("neither in use nor at rest");
                            prop_assert_eq!(&row[row.len() - 2..], &to[..]);
                        }
                        [Out::Dropped(Reason::NoMapping)] => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Answer(_) => {}
                Step::Pass(span) => watched.world.advance(span),
                Step::Update => watched.update(),
            }
        }
    }
}
