//! Everything at once: loss, delays, kills, cuts, moves, packets anywhere. The world itself checks with
//! each packet that passes that its instance owns the partition and that the allowance is kept.

use std::time::Duration;

use stateplane_flow::PortId;
use stateplane_lease::InstanceId;
use stateplane_lease::ops::Migrate;

use crate::world::*;

const SEEDS: u64 = 16;

/// A subscriber's packets, wherever routing brings them at the moment.
fn traffic(world: &mut World, gate: usize) {
    for subscriber in [FREE, LIMITED, [10, 0, 0, 77], [10, 0, 2, 1]] {
        if world.rng.u8(..4) > 0 {
            let port = [PortId::INSIDE, PortId::OUTSIDE][world.rng.usize(..2)];
            let bytes = world.rng.usize(60..1400);
            world.packet(gate, port, subscriber, bytes);
        }
    }
}

fn strike(world: &mut World, gate: &mut usize, kills: bool) {
    let gates = world.gates.len();
    match world.rng.u32(..3000) {
        0..3 => *gate = world.rng.usize(..gates),
        3 if kills => world.kill(*gate),
        4 | 5 => {
            if let Some(dead) = world.gates.iter().position(Option::is_none) {
                world.start(dead);
            }
        }
        6 if kills => world.cut = true,
        7..12 => world.cut = false,
        12 => {
            let partition = state_config().partition(FREE.into());
            if world.owner(FREE).is_some() {
                let heir = InstanceId(world.rng.u64(1..=gates as u64));
                let _ = world.ask(&Migrate { partition, heir });
            }
        }
        _ => {}
    }
}

fn run(seed: u64, kills: bool) -> World {
    let mut world = World::new(seed, 3);
    world.weather = Weather {
        lost: if seed.is_multiple_of(2) { 30 } else { 0 },
        slow: seed % 13,
    };
    let mut gate = 0;
    for _ in 0..20_000 {
        strike(&mut world, &mut gate, kills);
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
        world.weather = Weather::default();
        world.pass(Duration::from_secs(4));
        let mut lost = 0;
        for gate in world.gates.iter().flatten() {
            lost += gate.runtime.function().status().lost.packets[0];
        }
        let passed = world.passed.clone();
        for (subscriber, passed) in passed {
            let counted = world
                .account(subscriber.octets())
                .expect("an account")
                .passed;
            assert!(
                counted.packets[0] + lost >= passed.packets[0],
                "seed {seed}"
            );
            if seed % 2 == 1 {
                assert_eq!(counted, passed, "seed {seed}: {subscriber}");
            }
        }
    }
}
