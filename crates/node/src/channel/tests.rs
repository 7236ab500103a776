//! Datagrams between nodes: whose are heard, and who is told what.

use super::*;
use stateplane_base::LogTime;
use stateplane_wire::group::{Address, Batch};
use stateplane_wire::oum::{Stamp, Stamps};
use std::net::UdpSocket;

const HERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

fn identity(key: u8, sender: u16, life: u64) -> Identity {
    let key = envelope::Key::new([key; 16]);
    Identity::from_parts(key, cluster_id("test"), sender, Incarnation(life))
}

fn address(channel: &Channel) -> SocketAddrV4 {
    match channel.local_address().unwrap() {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("bound to IPv4"),
    }
}

fn say(channel: &mut Channel, to: SocketAddrV4, word: &[u8]) {
    channel.send(to, Kind::Heartbeat, word);
    channel.flush();
}

/// Everything heard until `until`.
fn hear(channel: &mut Channel, until: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut heard = Vec::new();
    for _ in 0..500 {
        channel
            .receive(8, |said| {
                if let Heard::Body(header, body) = said {
                    heard.push((header.sender, body.to_vec()));
                }
            })
            .unwrap();
        if heard.last().is_some_and(|(_, body)| body == until) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    heard
}

#[test]
fn good_datagrams_arrive_and_others_are_counted() {
    let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
    let to = address(&hears);
    let mut friend = Channel::bind(HERE, identity(1, 2, 1)).unwrap();
    let mut stranger = Channel::bind(HERE, identity(9, 3, 1)).unwrap();
    say(&mut stranger, to, b"let me in");
    UdpSocket::bind(HERE)
        .unwrap()
        .send_to(b"noise", to)
        .unwrap();
    say(&mut friend, to, b"hello");
    assert_eq!(hear(&mut hears, b"hello"), [(2, b"hello".to_vec())]);
    let counters = hears.counters();
    assert_eq!(
        (counters.unauthentic, counters.malformed, counters.received),
        (1, 1, 1)
    );
    assert_eq!(friend.counters().sent, 1);
}

#[test]
fn a_replayed_datagram_is_refused() {
    let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
    let to = address(&hears);
    let mut friend = Channel::bind(HERE, identity(1, 2, 1)).unwrap();
    let spy = UdpSocket::bind(HERE).unwrap();
    let mut heard = [0; 100];
    let both = [to.into(), spy.local_addr().unwrap()];
    friend.multicast(&both, Kind::Heartbeat, |out| out.extend_from_slice(b"once"));
    friend.flush();
    let len = spy.recv(&mut heard).unwrap();
    spy.send_to(&heard[..len], to).unwrap();
    say(&mut friend, to, b"end");
    assert_eq!(
        hear(&mut hears, b"end"),
        [(2, b"once".to_vec()), (2, b"end".to_vec())]
    );
    assert_eq!(hears.counters().replayed, 1);
}

#[test]
fn a_request_is_stamped_where_it_lies_and_once() {
    let mut sequencer = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
    let mut replica = Channel::bind(HERE, identity(1, 2, 1)).unwrap();
    let mut client = Channel::bind(HERE, identity(1, 3, 1)).unwrap();
    let mut batch = Batch::default();
    assert!(batch.push(9, b"work"));
    let request = Request {
        client: client_id(3, Incarnation(1)),
        done_below: 9,
        reply_to: Address::default(),
        batch,
    };
    let spy = UdpSocket::bind(HERE).unwrap();
    for to in [address(&sequencer).into(), spy.local_addr().unwrap()] {
        client.counter = 0;
        client.request(to, 0, &request);
    }
    client.flush();
    let mut copy = [0; 500];
    let len = spy.recv(&mut copy).unwrap();
    spy.send_to(&copy[..len], address(&sequencer)).unwrap();

    let stamp = Stamp {
        sequencer: 7,
        formation: 1,
        session: 2,
        time: LogTime::from_nanos(3),
        stamps: Stamps::one(0, 4),
    };
    let mut stamped = Vec::new();
    while sequencer.counters().received + sequencer.counters().replayed < 2 {
        sequencer
            .receive(8, |heard| match heard {
                Heard::Request(asked) => {
                    assert_eq!(asked.ask.client, request.client);
                    stamped.push(asked.stamp(&stamp).to_vec());
                }
                other => panic!("{other:?}"),
            })
            .unwrap();
    }
    assert_eq!((stamped.len(), sequencer.counters().replayed), (1, 1));

    sequencer.relay(&[address(&replica).into()], &stamped[0]);
    sequencer.flush();
    let mut read = None;
    while read.is_none() {
        replica
            .receive(8, |heard| match heard {
                Heard::Ordered(7, formation, ordered) => read = Some((formation, ordered)),
                other => panic!("{other:?}"),
            })
            .unwrap();
    }
    let (formation, ordered) = read.unwrap();
    assert_eq!((formation, ordered.session), (1, 2));
    assert_eq!((ordered.stamps, ordered.request), (stamp.stamps, request));
}

/// Both hear what waits for them, until `until` says so.
fn talk(one: &mut Channel, other: &mut Channel, mut until: impl FnMut(&Channel, &Channel) -> bool) {
    let (to_one, to_other) = (address(one), address(other));
    for _ in 0..500 {
        say(one, to_other, b"word");
        say(other, to_one, b"word");
        for channel in [&mut *one, &mut *other] {
            channel.receive(64, |_| ()).unwrap();
        }
        if until(one, other) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("{one:?} and {other:?} do not understand each other");
}

#[test]
fn a_node_whose_clock_went_back_is_told_and_heard_again() {
    let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
    let to = address(&hears);
    let mut before = Channel::bind(HERE, identity(1, 2, 7_000)).unwrap();
    say(&mut before, to, b"hello");
    assert_eq!(hear(&mut hears, b"hello").len(), 1);
    drop(before);
    let mut after = Channel::bind(HERE, identity(1, 2, 6)).unwrap();
    talk(&mut hears, &mut after, |hears, _| {
        hears.counters().received > 1
    });
    assert!(after.me.incarnation > Incarnation(7_000));
    assert_eq!(after.counters().outlived, 1);
    assert!(
        hears.counters().former >= 4,
        "not for what may only be late"
    );
}

#[test]
fn two_nodes_that_were_both_set_back_understand_each_other_again() {
    let mut one = Channel::bind(HERE, identity(1, 1, 6)).unwrap();
    let mut other = Channel::bind(HERE, identity(1, 2, 6)).unwrap();
    // Each knows a later life of the other.
    let mut old_one = Channel::bind(HERE, identity(1, 1, 9_000)).unwrap();
    let mut old_other = Channel::bind(HERE, identity(1, 2, 8_000)).unwrap();
    say(&mut old_one, address(&other), b"hello");
    say(&mut old_other, address(&one), b"hello");
    assert_eq!(hear(&mut one, b"hello").len(), 1);
    assert_eq!(hear(&mut other, b"hello").len(), 1);
    talk(&mut one, &mut other, |one, other| {
        one.counters().received > 1 && other.counters().received > 1
    });
    assert!(one.me.incarnation > Incarnation(9_000));
    assert!(other.me.incarnation > Incarnation(8_000));
}

#[test]
fn a_former_life_that_goes_on_beside_its_successor_is_told_nothing() {
    let mut hears = Channel::bind(HERE, identity(1, 1, 1)).unwrap();
    let to = address(&hears);
    let mut former = Channel::bind(HERE, identity(1, 2, 6)).unwrap();
    let mut present = Channel::bind(HERE, identity(1, 2, 7)).unwrap();
    for _ in 0..50 {
        say(&mut present, to, b"here");
        say(&mut former, to, b"I, too");
    }
    say(&mut present, to, b"end");
    assert_eq!(hear(&mut hears, b"end").len(), 51);
    former.receive(64, |_| ()).unwrap();
    assert_eq!((hears.counters().former, hears.counters().sent), (50, 0));
    assert_eq!(former.me.incarnation, Incarnation(6));
}

#[test]
fn a_refusal_is_believed_by_the_life_it_names_and_by_no_other() {
    let mut me = identity(1, 2, 6);
    let refusal = Refusal {
        refused: 6,
        known: 7_000,
        sender: 2,
    };
    assert!(me.is_meant(&refusal));
    assert!(!me.is_meant(&Refusal {
        sender: 3,
        ..refusal
    }));
    me.outlive(&refusal, 5);
    assert_eq!(me.incarnation, Incarnation(7_006));
    assert!(
        !me.is_meant(&refusal),
        "played again, it is about a former life"
    );
}

#[test]
fn a_refused_request_names_only_a_part_of_a_life() {
    let high = 6 << 48;
    let mut me = identity(1, 2, high | 100);
    let refusal = Refusal {
        refused: 100,
        known: 3_000,
        sender: 2,
    };
    assert!(me.is_meant(&refusal));
    me.outlive(&refusal, 0);
    assert_eq!(me.incarnation, Incarnation(high | 3_001));
    let last = Refusal {
        refused: 3_001,
        known: (1 << 48) - 1,
        sender: 2,
    };
    me.outlive(&last, 0);
    assert_eq!(
        me.incarnation,
        Incarnation(high | 3_001),
        "there is none above"
    );
}
