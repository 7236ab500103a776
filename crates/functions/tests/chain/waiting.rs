//! Packets that wait at one function or the other, what the store refuses there, and addresses asked for.

use std::time::Duration;

use stateplane_base::{Incarnation, Reason};
use stateplane_functions::Driven;
use stateplane_lease::ops::Acquire;
use stateplane_lease::{InstanceId, Life};
use stateplane_wire::arp::{Arp, Operation};
use stateplane_wire::eth::Mac;

use crate::common::{IN, OUT, Out, POOL, SERVER, udp};
use crate::same::with_ttl;
use crate::world::{Chained, FREE, MAPPINGS, mapped, meter, meter_state, nat};

const METER: usize = 0;
const NAT: usize = 1;

fn chain() -> Chained {
    Chained::chained(true, vec![meter(), nat()])
}

fn first() -> Vec<u8> {
    udp((FREE, 5000), (SERVER, 53), b"hello")
}

#[test]
fn a_first_packet_waits_at_each_function_in_turn() {
    let mut line = chain();
    line.store_up = false;
    assert_eq!(line.send(IN, &first()), []);
    assert_eq!((line.parked(), line.asked.len()), (1, 1), "for the lease");
    line.answer(METER);
    assert_eq!(line.parked(), 1, "for a mapping");
    assert!(line.asked.keys().any(|asked| asked.0 == NAT));
    line.answer(NAT);
    let [Out::Sent(OUT, sent)] = &line.out[..] else {
        panic!("{:?}", line.out)
    };
    assert_eq!(
        (sent[22], line.parked()),
        (62, 0),
        "a hop for each function"
    );
    let counted = line.devices[0].driven.counted();
    assert_eq!((counted.parked, counted.released), (2, 2));
    assert_eq!((counted.forwarded, counted.park_high_water), ([0, 1], 1));
}

/// However many functions they wait at.
#[test]
fn as_many_packets_wait_as_may() {
    let mut line = chain();
    line.send(IN, &first());
    line.store_up = false;
    // Of one whose lease is there half of them wait for mappings.
    for n in 0..100u16 {
        let from = if n % 2 == 0 {
            FREE
        } else {
            [10, 0, 3, n as u8]
        };
        line.send(IN, &udp((from, 6000 + n), (SERVER, 53), b"hello"));
    }
    let counted = line.devices[0].driven.counted();
    assert_eq!((line.parked(), counted.park_now), (64, 64));
    assert!(line.dropped(Reason::ParkFull) >= 30);
    assert_eq!(counted.park_high_water, 64);
}

#[test]
fn what_the_store_does_not_grant_does_not_pass_either_function() {
    // Somebody else owns the subscriber's partition and is not heard of.
    let mut line = chain();
    let other = Life {
        instance: InstanceId(9),
        incarnation: Incarnation(1),
    };
    let partition = meter_state().partition(FREE.into());
    line.ask(&Acquire {
        life: other,
        partition,
    })
    .answer
    .expect("it is free");
    assert_eq!(line.send(IN, &first()), []);
    line.advance(Duration::from_millis(250));
    assert_eq!(line.out, [Out::Dropped(Reason::ParkTimeout)]);

    // The NAT has no more mappings for it.
    let mut line = chain();
    for port in 0..MAPPINGS as u16 {
        line.pass(IN, &udp((FREE, 7000 + port), (SERVER, 53), b"hello"));
    }
    let refused = line.send(IN, &first());
    assert_eq!(refused, [Out::Dropped(Reason::Quota)]);
    // The meter has let it pass.
    line.advance(Duration::from_millis(150));
    assert_eq!(line.counted(FREE), [u64::from(MAPPINGS) + 1, 0]);
}

#[test]
fn errors_of_one_function_go_through_the_others() {
    let mut line = chain();
    let outside = mapped(&line.pass(IN, &first()));
    // The meter's, about a packet from outside: nobody there hears of inside addresses.
    let dying = with_ttl(udp((SERVER, 53), outside, b"late"), 2);
    let out = line.send(OUT, &dying);
    let [Out::Sent(OUT, error)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(
        (&error[26..30], &error[30..34]),
        (&POOL.octets()[..], &SERVER[..])
    );
    assert_eq!(error[34], 11, "time exceeded");
    assert_eq!(&error[58..62], &POOL.octets(), "the packet as it came");
    // The NAT's, about a packet from inside.
    let dying = with_ttl(first(), 2);
    let out = line.send(IN, &dying);
    let [Out::Sent(IN, error)] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((&error[30..34], error[34]), (&FREE[..], 11));
    assert_eq!(&error[54..58], &FREE);
}

#[test]
fn an_address_is_answered_for_whichever_function_has_it() {
    for functions in [vec![meter(), nat()], vec![nat(), meter()]] {
        let mut line = Chained::chained(true, functions);
        let request = |target| {
            let arp = Arp {
                operation: Operation::Request,
                sender_mac: Mac([2, 0, 0, 0, 0, 9]),
                sender: SERVER.into(),
                target_mac: Mac([0; 6]),
                target,
            };
            let mut frame = vec![0; 64];
            let len = arp.write(&mut frame).expect("there is room");
            frame.truncate(len);
            frame
        };
        let out = line.send(OUT, &request(POOL));
        let [Out::Sent(OUT, answer)] = &out[..] else {
            panic!("{out:?}")
        };
        assert_eq!(Arp::parse(answer).expect("ARP").sender, POOL);
        let other = line.send(OUT, &request([198, 51, 100, 77].into()));
        assert_eq!(other, [Out::Dropped(Reason::NotOurs)]);
        let inside = line.send(IN, &request(POOL));
        assert_eq!(inside, [Out::Dropped(Reason::NotOurs)]);
    }
}
