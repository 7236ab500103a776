//! Everything at once: loss, delays, kills, cuts, moves, packets anywhere.

use stateplane_flow::PortId;

use crate::faulty::*;
use crate::world::{World, packet};

const SEEDS: u64 = 16;

/// A subscriber's packets, wherever routing brings them at the moment.
fn traffic(world: &mut World, gate: usize) {
    for subscriber in [FREE, LIMITED, [10, 0, 0, 77], [10, 0, 2, 1]] {
        if world.rng.u8(..4) > 0 {
            let port = [PortId::INSIDE, PortId::OUTSIDE][world.rng.usize(..2)];
            let bytes = world.rng.usize(60..1400);
            packet(world, gate, port, subscriber, bytes);
        }
    }
}

fn run(seed: u64, kills: bool) -> World {
    let mut world = World::new(seed, 3);
    world.weather = Weather::of(seed);
    let mut gate = 0;
    for _ in 0..20_000 {
        world.strike(&mut gate, kills);
        traffic(&mut world, gate);
        world.step();
    }
    world.check();
    world
}

#[test]
fn under_faults_no_allowance_is_exceeded_and_nothing_is_counted_twice() {
    let (mut passed, mut limited) = (0, 0);
    for seed in 0..SEEDS {
        let world = run(seed, true);
        passed += world
            .passed
            .values()
            .map(|tally| tally.packets[0])
            .sum::<u64>();
        limited += world.in_period.values().sum::<u64>();
    }
    // The faults leave something to be looked at.
    assert!(
        passed > SEEDS * 7_000 && limited > SEEDS * ALLOWED,
        "{passed} {limited}"
    );
}

#[test]
fn without_kills_and_cuts_every_packet_is_counted_in_the_end() {
    for seed in 0..SEEDS {
        let mut world = run(seed, false);
        world.heal();
        world.all_counted(seed % 2 == 1);
    }
}
