//! The NAT with a fast path in front of it: all its tests once more, since whatever holds for
//! packets that the function sees must hold for those it does not; and what is offered when.

#[path = "nat.rs"]
mod without;

use std::time::Duration;

use stateplane_base::Reason;
use stateplane_functions::CommitMode;
use without::common::*;

fn hits(world: &World, node: usize) -> u64 {
    world.nodes[node].fast.hits
}

#[test]
fn the_second_packet_of_a_flow_passes_unseen() {
    let mut world = World::new(1, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""))).0;
    assert_eq!(hits(&world, 0), 0);
    world.pass(0, OUT, &udp((SERVER, 1), mapped, b""));
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    assert_eq!(hits(&world, 0), 2);
}

#[test]
fn nothing_is_offered_before_its_commit() {
    for mode in [
        CommitMode::Strict,
        CommitMode::ReplyBarrier,
        CommitMode::Async,
    ] {
        let mut world = World::new(1, mode);
        world.pass(0, IN, &udp((CLIENT, 9), (SERVER, 1), b"")); // a block of ports is there
        let before = world.nodes[0].fast.entries.len();
        world.store_up = false;
        world.send(0, IN, &tcp((CLIENT, 1), (SERVER, 1), "S", b""));
        world.send(0, IN, &tcp((CLIENT, 1), (SERVER, 1), "A", b"data"));
        assert_eq!(world.nodes[0].fast.entries.len(), before, "{mode:?}");
        world.store_up = true;
        world.settle();
        assert_eq!(world.nodes[0].fast.entries.len(), before + 2, "{mode:?}");
    }
}

#[test]
fn a_mapping_used_unseen_is_refreshed_and_an_idle_one_ends() {
    let mut world = World::new(1, CommitMode::Strict);
    let used = ends(&world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""))).0;
    let idle = ends(&world.pass(0, IN, &udp((CLIENT, 2), (SERVER, 1), b""))).0;
    for _ in 0..60 {
        world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
        world.advance(Duration::from_secs(8));
    }
    assert!(
        hits(&world, 0) >= 50,
        "{} of 60 passed unseen",
        hits(&world, 0)
    );
    assert_eq!(
        world.send(0, OUT, &udp((SERVER, 1), idle, b"")),
        [Out::Dropped(Reason::NoMapping)]
    );
    world.pass(0, OUT, &udp((SERVER, 1), used, b""));
}

#[test]
fn an_idle_mapping_comes_back_for_its_next_packet() {
    let mut world = World::new(1, CommitMode::Strict);
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.advance(Duration::from_secs(47)); // looked at: the first packet counts
    world.advance(Duration::from_secs(47)); // looked at again: idle
    assert!(
        world.nodes[0].fast.entries.is_empty(),
        "its next packet tells something"
    );
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    assert_eq!(hits(&world, 0), 0, "it was seen");
    world.advance(Duration::from_millis(1));
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    assert_eq!(hits(&world, 0), 1, "refreshed, and offered again");
}

#[test]
fn a_connection_that_closes_is_watched() {
    let mut world = World::new(1, CommitMode::Strict);
    let mapped = ends(&world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "S", b""))).0;
    world.pass(0, OUT, &tcp((SERVER, 1), mapped, "SA", b""));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b""));
    assert_eq!(hits(&world, 0), 1);
    world.pass(0, OUT, &tcp((SERVER, 1), mapped, "R", b""));
    world.advance(Duration::from_millis(1));
    assert!(world.nodes[0].fast.entries.is_empty());
    // It was forged: the connection goes on, and that is seen.
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"data"));
    world.advance(Duration::from_millis(1));
    world.pass(0, IN, &tcp((CLIENT, 3), (SERVER, 1), "A", b"more"));
    assert_eq!(hits(&world, 0), 2);
}

#[test]
fn everything_is_offered_again_when_the_fast_path_lost_it() {
    let mut world = World::new(1, CommitMode::Strict);
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.nodes[0].fast.entries.clear();
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    assert!(world.nodes[0].fast.entries.is_empty());
    world.nodes[0].runtime.offer_again();
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    world.pass(0, IN, &udp((CLIENT, 1), (SERVER, 1), b""));
    assert_eq!((hits(&world, 0), world.nodes[0].fast.entries.len()), (1, 1));
}
