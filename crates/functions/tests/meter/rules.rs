//! Directed tests.

use std::time::Duration;

use stateplane_base::Reason;
use stateplane_flow::PortId;
use stateplane_functions::meter::ops::Tally;
use stateplane_lease::InstanceId;
use stateplane_lease::OnExpiry;
use stateplane_lease::ops::Migrate;

use crate::faulty::*;
use crate::world::{World, packet};

const IN: PortId = PortId::INSIDE;
const OUT: PortId = PortId::OUTSIDE;

fn counted(world: &mut World, subscriber: [u8; 4]) -> Tally {
    let account = world.account(subscriber);
    account.map(|account| account.passed).unwrap_or_default()
}

/// Packets both ways, one of each a step, for so long.
fn traffic(world: &mut World, gate: usize, subscriber: [u8; 4], span: Duration) {
    for _ in 0..span.as_millis() {
        packet(world, gate, IN, subscriber, 100);
        packet(world, gate, OUT, subscriber, 900);
        world.step();
    }
}

#[test]
fn what_passes_is_counted_both_ways_within_an_interval() {
    let mut world = World::new(1, 1);
    traffic(&mut world, 0, FREE, Duration::from_secs(2));
    let all = world.tally(FREE);
    assert_eq!(all.packets, [2000, 2000]);
    assert_eq!(all.bytes, [200_000, 1_800_000]);
    let so_far = counted(&mut world, FREE);
    assert!(so_far.packets[0] >= 2000 - 101, "{so_far:?}");
    world.pass(2 * INTERVAL);
    assert_eq!(counted(&mut world, FREE), all);
    assert_eq!(world.account(FREE).unwrap().allowance, None);
}

#[test]
fn both_ways_of_a_fast_path_are_counted() {
    for seed in 0..8 {
        let mut world = World::new(seed, 1);
        traffic(&mut world, 0, LIMITED, Duration::from_millis(200));
        world.pass(2 * INTERVAL);
        assert_eq!(counted(&mut world, LIMITED), world.tally(LIMITED));
        let front = world.gates[0].as_ref().unwrap().front.hits;
        assert!(front == 0 || front > 150, "{front}");
    }
}

#[test]
fn an_allowance_is_used_to_the_last_packets_and_comes_back_with_the_next_period() {
    for seed in 0..8 {
        let mut world = World::new(seed, 1);
        // To the beginning of a period.
        let period = PERIOD.as_nanos() as u64;
        let rest = period - world.log % period;
        world.pass(Duration::from_nanos(rest));
        traffic(&mut world, 0, LIMITED, Duration::from_secs(2));
        let used = world.tally(LIMITED);
        let used = used.bytes[0] + used.bytes[1];
        assert!(
            used <= ALLOWED && used > ALLOWED * 19 / 20,
            "seed {seed}: {used}"
        );
        let dropped = &world.gates[0].as_ref().unwrap().dropped;
        assert!(dropped[&Reason::Allowance] > 1000, "{dropped:?}");
        world.pass(2 * INTERVAL);
        assert_eq!(counted(&mut world, LIMITED), world.tally(LIMITED));
        let left = world.account(LIMITED).unwrap().allowance.unwrap();
        assert_eq!((left.of, left.left), (ALLOWED, 0));
        // Others are not concerned.
        traffic(&mut world, 0, FREE, Duration::from_millis(100));
        assert_eq!(world.tally(FREE).packets, [100, 100]);
        world.pass(Duration::from_secs(5));
        traffic(&mut world, 0, LIMITED, Duration::from_millis(100));
        let again = world.tally(LIMITED);
        assert_eq!(
            again.bytes[0] + again.bytes[1],
            used + 100_000,
            "seed {seed}"
        );
    }
}

#[test]
fn packets_elsewhere_move_the_partition_and_nothing_is_lost() {
    for seed in 0..8 {
        let mut world = World::new(seed, 2);
        world.weather.slow = 2;
        for turn in 0..6 {
            traffic(&mut world, turn % 2, FREE, Duration::from_secs(2));
        }
        world.pass(Duration::from_millis(400));
        let all = world.tally(FREE);
        assert_eq!(
            all.packets,
            [12_000, 12_000],
            "seed {seed}: no packet was lost"
        );
        assert_eq!(counted(&mut world, FREE), all);
        assert_eq!(world.owner(FREE), Some(1));
    }
}

#[test]
fn an_operator_moves_a_partition_and_what_was_reserved_comes_back() {
    let mut world = World::new(3, 2);
    traffic(&mut world, 0, LIMITED, Duration::from_millis(50));
    let partition = state_config().partition(LIMITED.into());
    let heir = InstanceId(2);
    world
        .ask(&Migrate::wish(partition, heir))
        .expect("it was lent");
    world.pass(Duration::from_millis(500));
    assert_eq!(world.owner(LIMITED), Some(1));
    let used = world.tally(LIMITED);
    assert_eq!(counted(&mut world, LIMITED), used);
    let left = world.account(LIMITED).unwrap().allowance.unwrap().left;
    assert_eq!(
        left + used.bytes[0] + used.bytes[1],
        ALLOWED,
        "nothing is held back"
    );
}

/// Though its packets still come to the former owner, for as long as was ordered.
#[test]
fn a_partition_that_an_operator_moves_stays_there() {
    for seed in 0..4 {
        let mut world = World::new(seed, 2);
        traffic(&mut world, 0, FREE, Duration::from_millis(300));
        let order = Migrate {
            partition: state_config().partition(FREE.into()),
            heir: InstanceId(2),
            stays: Duration::from_secs(10),
        };
        world.ask(&order).expect("it was lent");
        traffic(&mut world, 0, FREE, Duration::from_millis(500));
        let passed = world.tally(FREE);
        for _ in 0..18 {
            traffic(&mut world, 0, FREE, Duration::from_millis(500));
            assert_eq!(world.owner(FREE), Some(1), "seed {seed}");
        }
        assert_eq!(world.tally(FREE), passed, "nothing passes elsewhere");
        // The packets follow, or after a while the partition does.
        let gate = (seed % 2) as usize;
        traffic(&mut world, gate, FREE, Duration::from_secs(3));
        assert_eq!(world.owner(FREE), Some(gate), "seed {seed}");
        assert_ne!(world.tally(FREE), passed);
    }
}

#[test]
fn a_killed_owner_is_followed_after_its_lease_with_the_counts_so_far() {
    for seed in 0..8 {
        let mut world = World::new(seed, 2);
        traffic(&mut world, 0, FREE, Duration::from_secs(3));
        let before = world.tally(FREE);
        world.kill(0);
        let mut silence = 0;
        while !packet(&mut world, 1, IN, FREE, 100) {
            world.step();
            silence += 1;
            // What waited passes as soon as it may.
            if world.tally(FREE) != before {
                break;
            }
        }
        let length = LENGTH.as_millis();
        assert!(
            (length - 200..length + 200).contains(&silence),
            "{silence} ms"
        );
        let kept = counted(&mut world, FREE);
        let missed = before.packets[0] - kept.packets[0];
        assert!(
            missed <= INTERVAL.as_millis() as u64 + 1,
            "{missed} packets"
        );
        world.pass(2 * INTERVAL);
        let after = world.tally(FREE).packets[0] - before.packets[0];
        assert_eq!(
            counted(&mut world, FREE).packets[0],
            kept.packets[0] + after
        );
    }
}

#[test]
fn cut_off_it_stops_with_the_lease_and_goes_on_where_it_was() {
    for seed in 0..8 {
        let mut world = World::new(seed, 1);
        traffic(&mut world, 0, FREE, Duration::from_secs(1));
        world.cut = true;
        traffic(&mut world, 0, FREE, Duration::from_secs(3));
        world.pass(Duration::from_millis(300));
        let stopped = world.tally(FREE).packets[0];
        assert!((1400..=2000).contains(&stopped), "{stopped}");
        world.cut = false;
        world.pass(Duration::from_secs(1));
        traffic(&mut world, 0, FREE, Duration::from_millis(300));
        world.pass(2 * INTERVAL);
        assert_eq!(world.tally(FREE).packets[0], stopped + 300);
        assert_eq!(
            counted(&mut world, FREE),
            world.tally(FREE),
            "nothing is lost"
        );
    }
}

#[test]
fn open_goes_on_without_the_store_but_not_beyond_the_allowance() {
    for seed in 0..8 {
        let mut world = World::new(seed, 1);
        world.on_expiry = OnExpiry::Open;
        world.start(0);
        traffic(&mut world, 0, FREE, Duration::from_secs(1));
        traffic(&mut world, 0, LIMITED, Duration::from_millis(50));
        world.cut = true;
        traffic(&mut world, 0, FREE, Duration::from_secs(3));
        traffic(&mut world, 0, LIMITED, Duration::from_millis(300));
        assert_eq!(world.tally(FREE).packets[0], 4000);
        let limited = world.tally(LIMITED);
        // What was reserved, no more.
        assert!(limited.bytes[0] + limited.bytes[1] < ALLOWED * 3 / 4);
        world.cut = false;
        world.pass(Duration::from_secs(1));
        assert_eq!(counted(&mut world, FREE), world.tally(FREE));
    }
}

#[test]
fn a_stopped_instance_gives_everything_back() {
    let mut world = World::new(5, 2);
    traffic(&mut world, 0, LIMITED, Duration::from_millis(130));
    world.stop(0);
    world.pass(Duration::from_millis(20));
    let stopped = world.gates[0].as_ref().unwrap();
    assert!(stopped.driven.function().meter.is_settled());
    assert_eq!(counted(&mut world, LIMITED), world.tally(LIMITED));
    assert_eq!(world.owner(LIMITED), None);
    assert!(!packet(&mut world, 1, IN, LIMITED, 100), "it waits");
    world.step();
    assert_eq!(world.owner(LIMITED), Some(1));
}
