//! A meter and a NAT as one chain behind the program.

use stateplane_flow::fast::Metered;
use stateplane_functions::{Chain, Meter, Sight};

use super::super::super::service::Service;
use super::*;

fn chained() -> World<Chain<Service>> {
    World::of(64, Bench::chained)
}

/// A flow that has its entries: what left, and the answer to it.
fn flow(world: &mut World<Chain<Service>>) -> (Vec<u8>, Vec<u8>) {
    // It waits for lease and mapping, and then shows by which decisions packets pass, as the answer does.
    let first = sent(world.ask(4000, SERVER));
    let answer = udp((SERVER, 53), source(&first));
    sent(world.send(OUT, &answer));
    (first, answer)
}

#[test]
fn what_both_let_pass_passes_unseen_and_looks_the_same() {
    let mut world = chained();
    let (first, answer) = flow(&mut world);
    assert_eq!(first[22], 62, "a hop for each function");
    for _ in 0..10 {
        assert_eq!(unseen(world.ask(4000, SERVER)), first);
        let back = unseen(world.send(OUT, &answer));
        assert_eq!((mac(&back), back[22]), (HOST_MAC, 62));
    }
    let fast = world.bench.worker.fast.as_ref().expect("there is one");
    assert_eq!(
        fast.fill().expect("nobody writes").0.used,
        2,
        "one each way"
    );
    let bytes = 10 * first.len() as u64;
    let counted = Metered {
        packets: [10; 2],
        bytes: [bytes; 2],
    };
    assert_eq!(fast.metered(Meter(0)), Some(counted), "at the meter");
}

#[test]
fn a_changed_route_has_it_made_anew() {
    let mut world = chained();
    let (first, answer) = flow(&mut world);
    let new = Mac([2, 0, 0, 0, 5, 5]);
    world.hop(HOST, ready(Ipv4Addr::new(10, 0, 0, 8), new));
    let out = world.send(OUT, &answer);
    assert!(
        matches!(&out, Out::Sent(Punt::Lease, frame) if mac(frame) == new),
        "{out:?}"
    );
    assert_eq!(mac(&unseen(world.send(OUT, &answer))), new);
    assert!(matches!(world.ask(4000, SERVER), Out::Sent(Punt::Lease, _)));
    assert_eq!(unseen(world.ask(4000, SERVER)), first);
}

#[test]
fn without_the_meters_lease_nothing_passes_unseen() {
    let mut world = chained();
    let (_, answer) = flow(&mut world);
    unseen(world.send(OUT, &answer));
    let now = world.bench.now;
    world.bench.worker.runtime.stop(now);
    world.bench.turn();
    assert!(matches!(world.send(OUT, &answer), Out::Nothing(_)));
    assert!(matches!(world.ask(4000, SERVER), Out::Nothing(_)));
}
